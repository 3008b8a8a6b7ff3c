-- A node may find that it cannot serve: rows that are not durable, or databases that it cannot read. It says so with
-- its renewal, and no longer when it can.

alter table node add column is_stuck boolean not null default false;

create or replace function overview() returns json language sql stable as $$
  select json_build_object(
    'id', c.id, 'shards', c.shards, 'version', c.version, 'holdings', c.holdings,
    'is_held', c.held_until > clock_timestamp(),
    'now_us', (extract(epoch from clock_timestamp()) * 1000000)::bigint,
    'nodes', coalesce((
      select json_agg(json_build_object(
        'incarnation', incarnation, 'name', name, 'address', address, 'http', http, 'role', role,
        'version', version, 'is_draining', is_draining, 'is_stuck', is_stuck, 'ahead_us', ahead_us, 'seen', seen,
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

create function renew(who uuid, lease interval, its_ahead_us bigint, its_seen bigint, it_is_stuck boolean)
returns json language plpgsql as $$
declare was_stuck boolean;
begin
  select is_stuck into was_stuck from node where incarnation = who;
  update node set lease_until = clock_timestamp() + lease, ahead_us = its_ahead_us, seen = its_seen,
                  is_stuck = it_is_stuck
    where incarnation = who and not is_buried and lease_until > clock_timestamp();
  if not found then
    return null;
  end if;
  if was_stuck <> it_is_stuck then
    -- Others are to see it now, whatever the version.
    perform pg_notify('souk_cluster', '');
  end if;
  return overview();
end $$;

-- A node is there, or there again after it was buried: with no shard. Executed late, when the node has joined by
-- another call, it changes nothing.
create or replace function join_as(who uuid, its_name text, its_address text, its_http text, its_role text,
                                   its_version text, lease interval) returns void language plpgsql as $$
begin
  perform from cluster for update;
  if exists (select from node where incarnation = who and not is_buried and lease_until > clock_timestamp()) then
    return;
  end if;
  update shard set owner = null, epoch = epoch + 1 where owner = who;
  insert into node (incarnation, name, address, http, role, version, lease_until)
    values (who, its_name, its_address, its_http, its_role, its_version, clock_timestamp() + lease)
    on conflict (incarnation) do update
      set lease_until = excluded.lease_until, is_buried = false, is_stuck = false, seen = 0;
  -- Long forgotten.
  delete from node where is_buried and lease_until < clock_timestamp() - interval '1 hour';
  perform change();
end $$;

-- Whether a give that was not answered has happened by now or never will: it would come too late. One that is under
-- way has the lock until it is committed.
create function settle(before_us bigint) returns boolean language plpgsql as $$
begin
  perform from cluster for update;
  return extract(epoch from clock_timestamp()) * 1000000 > before_us;
end $$;
