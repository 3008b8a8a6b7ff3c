-- The journal is the outbox: how far each consumer has read it. Behind a cursor is what its consumer has not been told.
create table cursor (
  consumer  text         primary key,
  xid       bigint       not null,
  stream    uuid         not null,
  version   int          not null,
  moved_at  timestamptz  not null default clock_timestamp()
);

-- Has a consumer told everything again, from the first row on. Rows that came from another server, in a dump, have
-- numbers that mean nothing here: then all are numbered by their time, which is in the order of every stream, and
-- below every number that this server gives.
create function reset_cursor(whose text) returns void language plpgsql as $$
declare
  next_xid bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
begin
  if exists (select from journal where xid > next_xid) or exists (select from cursor where xid > next_xid) then
    lock table journal in share row exclusive mode;
    update journal set xid = (extract(epoch from at) * 1000000)::bigint - 4611686018427387904;
    update cursor set xid = -9223372036854775807 where consumer <> whose;
  end if;
  update cursor set xid = -9223372036854775807, stream = '00000000-0000-0000-0000-000000000000', version = 0,
                    moved_at = clock_timestamp()
    where consumer = whose;
end $$;
