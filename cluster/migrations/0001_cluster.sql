-- Who is in the cluster, and who has which shard. Judged by this database's clock alone.
--
-- Whatever changes this is one function below. Those that change who has what first lock the only row of
-- `cluster`: they happen one after another, and every node learns of each by its version.

create table cluster (
  is_only     boolean     primary key default true check (is_only),
  id          uuid        not null default gen_random_uuid(),
  -- Ranges of the 4096 slots, of equal size; never changed.
  shards      smallint    not null check (shards between 1 and 4096),
  -- Grows with every change that nodes must act upon.
  version     bigint      not null default 1,
  -- Until then shards are not moved for balance: a rolling restart is under way.
  held_until  timestamptz not null default '-infinity',
  -- Grows when databases of a service hold other slots than before.
  holdings    bigint      not null default 1,
  created_at  timestamptz not null default clock_timestamp()
);

create table node (
  -- Of one start of one node: never used again.
  incarnation  uuid        primary key,
  -- Of the node, through all its starts: it decides which shards fall to it.
  name         text        not null,
  -- Where other nodes reach it, and where clients do.
  address      text        not null,
  http         text        not null,
  -- Has shards, or only takes requests, or both.
  role         text        not null check (role in ('gateway', 'worker', 'both')),
  version      text        not null,
  started_at   timestamptz not null default clock_timestamp(),
  -- What it has is its own until then, if it has not been buried before.
  lease_until  timestamptz not null,
  -- Its lease has ended and what it had was given away: it must join anew.
  is_buried    boolean     not null default false,
  -- It gives its shards away and takes none.
  is_draining  boolean     not null default false,
  -- How far its clock is ahead of this one.
  ahead_us     bigint      not null default 0,
  -- The version of `cluster` that it acts upon.
  seen         bigint      not null default 0
);

create table shard (
  number  smallint  primary key,
  owner   uuid      references node on delete set null,
  -- Grows whenever it changes hands.
  epoch   bigint    not null default 0
);

-- Slots that no node may serve for now, because their rows are being moved. For a minute: whoever froze them may be
-- gone, and the databases see to it that nobody writes what is elsewhere.
create table frozen (
  -- Of one move.
  id          uuid        primary key,
  first_slot  smallint    not null,
  last_slot   smallint    not null check (last_slot >= first_slot),
  since       timestamptz not null default clock_timestamp()
);

-- Makes a change known.
create function change() returns void language sql as $$
  update cluster set version = version + 1;
  select pg_notify('souk_cluster', '');
$$;

-- What everybody must know, as of one moment.
create function overview() returns json language sql stable as $$
  select json_build_object(
    'id', c.id, 'shards', c.shards, 'version', c.version, 'holdings', c.holdings,
    'is_held', c.held_until > clock_timestamp(),
    'now_us', (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    'nodes', coalesce((
      select json_agg(json_build_object(
        'incarnation', incarnation, 'name', name, 'address', address, 'http', http, 'role', role,
        'version', version, 'is_draining', is_draining, 'ahead_us', ahead_us, 'seen', seen,
        'started_us', (extract(epoch from started_at) * 1000000)::bigint,
        'remaining_us', (extract(epoch from lease_until - clock_timestamp()) * 1000000)::bigint)
        order by name, started_at)
      from node where not is_buried), '[]'),
    'owners', (
      select json_agg(json_build_object('owner', owner, 'epoch', epoch) order by number) from shard),
    'frozen', coalesce((
      select json_agg(json_build_object('first', first_slot, 'last', last_slot) order by first_slot)
      from frozen where since > clock_timestamp() - interval '1 minute'), '[]'))
  from cluster c
$$;

-- Makes the cluster if there is none; its number of shards.
create function found(wanted smallint) returns smallint language plpgsql as $$
begin
  insert into cluster (shards) values (wanted) on conflict do nothing;
  insert into shard (number)
    select n from generate_series(0, (select shards - 1 from cluster)) as n on conflict do nothing;
  return (select shards from cluster);
end $$;

-- A node is there, or there again after it was buried: with no shard.
create function join_as(who uuid, its_name text, its_address text, its_http text, its_role text,
                        its_version text, lease interval) returns void language plpgsql as $$
begin
  perform from cluster for update;
  update shard set owner = null, epoch = epoch + 1 where owner = who;
  insert into node (incarnation, name, address, http, role, version, lease_until)
    values (who, its_name, its_address, its_http, its_role, its_version, clock_timestamp() + lease)
    on conflict (incarnation) do update set lease_until = excluded.lease_until, is_buried = false, seen = 0;
  -- Long forgotten.
  delete from node where is_buried and lease_until < clock_timestamp() - interval '1 hour';
  perform change();
end $$;

-- Renews a lease, and tells everything. Null: it has ended before, and what the node had is not its own.
create function renew(who uuid, lease interval, its_ahead_us bigint, its_seen bigint)
returns json language plpgsql as $$
begin
  update node set lease_until = clock_timestamp() + lease, ahead_us = its_ahead_us, seen = its_seen
    where incarnation = who and not is_buried and lease_until > clock_timestamp();
  return case when found then overview() end;
end $$;

-- Buries whoever's lease has ended. A renewal that is under way holds the row: it comes before or not at all.
create function bury() returns void language plpgsql as $$
begin
  update node set is_buried = true where not is_buried and lease_until <= clock_timestamp();
  if found then
    update shard set owner = null, epoch = epoch + 1
      where owner in (select incarnation from node where is_buried);
    perform change();
  end if;
end $$;

-- Takes shards that nobody has; how many.
create function take(who uuid, numbers smallint[]) returns bigint language plpgsql as $$
declare taken bigint;
begin
  perform from cluster for update;
  perform bury();
  update shard set owner = who, epoch = epoch + 1
    where number = any(numbers) and owner is null
      and exists (select from node where incarnation = who and not is_buried);
  get diagnostics taken = row_count;
  if taken > 0 then
    perform change();
  end if;
  return taken;
end $$;

-- Gives shards to another node, or to nobody, unless that comes too late.
create function give(who uuid, numbers smallint[], receiver uuid, before_us bigint)
returns bigint language plpgsql as $$
declare given bigint;
begin
  perform from cluster for update;
  -- Whoever asked has given up by then, and may serve them again.
  if extract(epoch from clock_timestamp()) * 1000000 > before_us then
    return 0;
  end if;
  update shard set epoch = epoch + 1, owner = (
      select incarnation from node
      where incarnation = receiver and not is_buried and not is_draining and lease_until > clock_timestamp())
    where number = any(numbers) and owner = who;
  get diagnostics given = row_count;
  if given > 0 then
    perform change();
  end if;
  return given;
end $$;

-- A node goes away in order.
create function leave(who uuid) returns void language plpgsql as $$
begin
  perform from cluster for update;
  update shard set owner = null, epoch = epoch + 1 where owner = who;
  delete from node where incarnation = who;
  perform change();
end $$;

-- A node gives its shards away, or takes shards again; how many nodes of that name there were.
create function drain(whose text, is_so boolean) returns bigint language plpgsql as $$
declare affected bigint;
begin
  perform from cluster for update;
  update node set is_draining = is_so where (name = whose or incarnation::text = whose) and not is_buried;
  get diagnostics affected = row_count;
  perform change();
  return affected;
end $$;

-- Moves for balance stop for so long; zero: they go on.
create function hold(how_long interval) returns void language plpgsql as $$
begin
  perform from cluster for update;
  update cluster set held_until = clock_timestamp() + how_long;
  perform change();
end $$;

-- Nobody serves these slots until they are thawed; the version in which that is so.
create function freeze(move uuid, first_one smallint, last_one smallint) returns bigint language plpgsql as $$
begin
  perform from cluster for update;
  delete from frozen where since < clock_timestamp() - interval '1 minute';
  insert into frozen (id, first_slot, last_slot) values (move, first_one, last_one);
  perform change();
  return (select version from cluster);
end $$;

-- Databases hold other slots than before: every node is to read again which; the version that tells it.
create function announce() returns bigint language plpgsql as $$
begin
  perform from cluster for update;
  update cluster set holdings = holdings + 1;
  perform change();
  return (select version from cluster);
end $$;

-- They are served again; the version in which that is so.
create function thaw(move uuid) returns bigint language plpgsql as $$
begin
  perform from cluster for update;
  delete from frozen where id = move;
  perform change();
  return (select version from cluster);
end $$;
