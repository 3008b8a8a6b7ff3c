-- A service may have several databases, each with ranges of the slots that ids carry. Every database says
-- what it holds; nobody else does.

-- Which database this is: so that a URL of another service, or one that is listed twice, is noticed.
create table identity (
  one         boolean   primary key default true check (one),
  id          uuid      not null default gen_random_uuid(),
  service     text      not null,
  -- The attempt to divide the slots among the first databases of the service, and the share that was meant
  -- for this one. It counts once any database of the same attempt is founded: by then all have their share.
  founding    uuid      not null,
  first_slot  smallint,
  last_slot   smallint,
  founded     boolean   not null default false
);

create table holding (
  first_slot  smallint  not null check (first_slot between 0 and 4095),
  last_slot   smallint  not null check (last_slot between first_slot and 4095),
  -- Of two databases that name a slot, the higher has it.
  generation  bigint    not null,
  -- A deed: the database of this identity has them now, and has everything of them.
  given_to    uuid,
  primary key (first_slot, last_slot, generation)
);

-- What has rows already had no other beside it.
insert into holding select 0, 4095, 1 where exists (select from entity);

-- A row that meets it is left out, as if another incarnation had been quicker.
create function not_held() returns trigger language plpgsql as $$
begin
  return null;
end $$;

-- From now on only rows of slots that are held here are taken, whoever sends them and however late; but for
-- whoever brings slots here. There is none while a service has one database.
create function fence() returns void language plpgsql as $$
declare
  held text;
begin
  -- In the order of all others, and before it is read: what is given away meanwhile must stay so.
  lock table entity in share row exclusive mode;
  lock table holding in exclusive mode;
  select string_agg(format('new.slot between %s and %s', first_slot, last_slot), ' or ') into held
  from holding where given_to is null;
  execute format(
    'create or replace trigger fence before insert on entity for each row
     when (not (%s) and current_setting(''souk.moving'', true) is distinct from ''on'')
     execute function not_held()', coalesce(held, 'false'));
end $$;

-- For so long no row of these slots is taken. It ends by itself, should whoever asked for it be gone. Every
-- row that was taken before can be seen when this returns: making the trigger waits for whoever writes.
create function pause(from_slot smallint, to_slot smallint, lasts interval) returns timestamptz
language plpgsql as $$
declare
  ends timestamptz := clock_timestamp() + lasts;
begin
  execute format(
    'create or replace trigger pause before insert on entity for each row
     when (new.slot between %s and %s and clock_timestamp() < %L::timestamptz)
     execute function not_held()', from_slot, to_slot, ends);
  return ends;
end $$;

create function go_on() returns void language plpgsql as $$
begin
  create or replace trigger pause before insert on entity for each row when (false)
  execute function not_held();
end $$;

-- Gives slots away, if the pause has lasted: then no row was taken since it began.
create function give(from_slot smallint, to_slot smallint, as_generation bigint, receiver uuid, pause_ends timestamptz)
returns boolean language plpgsql as $$
begin
  lock table entity in share row exclusive mode;
  lock table holding in exclusive mode;
  if clock_timestamp() >= pause_ends then
    return false;
  end if;
  with cut as (
    delete from holding where given_to is null and first_slot <= to_slot and last_slot >= from_slot
    returning first_slot, last_slot, generation)
  insert into holding (first_slot, last_slot, generation, given_to)
  select first_slot, from_slot - 1, generation, null::uuid from cut where first_slot < from_slot
  union all select to_slot + 1, last_slot, generation, null::uuid from cut where last_slot > to_slot
  union all select from_slot, to_slot, as_generation, receiver;
  perform fence();
  perform go_on();
  return true;
end $$;

-- Takes slots that were given to this database. Done already, or no longer so: nothing happens.
create function take(from_slot smallint, to_slot smallint, as_generation bigint) returns void
language plpgsql as $$
begin
  lock table entity in share row exclusive mode;
  lock table holding in exclusive mode;
  if not exists (select from holding where first_slot <= to_slot and last_slot >= from_slot
                                       and generation >= as_generation) then
    insert into holding (first_slot, last_slot, generation) values (from_slot, to_slot, as_generation);
    perform fence();
  end if;
end $$;
