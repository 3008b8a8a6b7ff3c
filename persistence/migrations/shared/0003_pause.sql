-- A pause is written down, so that whoever gives slots away late finds that it was called off.

create table pausing (
  one   boolean      primary key default true check (one),
  ends  timestamptz  not null
);

-- All three lock the entities first: what comes first counts.
create or replace function pause(from_slot smallint, to_slot smallint, lasts interval) returns timestamptz
language plpgsql as $$
declare
  its_end timestamptz;
begin
  lock table entity in share row exclusive mode;
  its_end := clock_timestamp() + lasts;
  insert into pausing (ends) values (its_end) on conflict (one) do update set ends = excluded.ends;
  execute format(
    'create or replace trigger pause before insert on entity for each row
     when (new.slot between %s and %s and clock_timestamp() < %L::timestamptz)
     execute function not_held()', from_slot, to_slot, its_end);
  return its_end;
end $$;

create or replace function go_on() returns void language plpgsql as $$
begin
  lock table entity in share row exclusive mode;
  delete from pausing;
  create or replace trigger pause before insert on entity for each row when (false)
  execute function not_held();
end $$;

-- Gives slots away, if the pause has lasted and was not called off: then no row was taken since it began.
create or replace function give(from_slot smallint, to_slot smallint, as_generation bigint, receiver uuid,
                                pause_ends timestamptz)
returns boolean language plpgsql as $$
begin
  lock table entity in share row exclusive mode;
  lock table holding in exclusive mode;
  if clock_timestamp() >= pause_ends or not exists (select from pausing where ends = pause_ends) then
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
