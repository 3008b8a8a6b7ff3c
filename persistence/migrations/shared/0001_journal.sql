-- Every service database has the same two tables. Together they are its whole truth: no other table of any
-- service is written by a command.

-- One row per entity: the guard of its stream, what readers see, and from when it must be awake.
create table entity (
  stream      uuid        primary key,
  -- A row is taken only if this is the version before it. So two live copies of an entity are harmless.
  version     int         not null check (version > 0),
  -- Who wrote this version: a batch that is sent again finds its own rows by it.
  batch       uuid        not null,
  kind        smallint    not null,
  slot        smallint    not null check (slot between 0 and 4095),
  -- From when the entity must be awake; null at rest.
  owed        timestamptz,
  owner       uuid,
  created_at  timestamptz not null,
  updated_at  timestamptz not null,
  -- json, not jsonb: nothing is parsed and written anew on the way in, and no text can fail the batch.
  view        json        not null,
  snapshot    json
);

-- Lists of one person, newest first. Never updated_at as a key: every update would touch the index.
create index entity_owner on entity (owner, kind, created_at, stream);
-- What must be awake. Never owed itself as a key, for the same reason.
create index entity_owed on entity (slot) where owed is not null;

-- What happened, append only. A version is a row, dense from 1; the name of an event is (stream, version,
-- index). events: an array of [microseconds after at, event].
create table journal (
  stream   uuid        not null,
  version  int         not null,
  kind     smallint    not null,
  slot     smallint    not null,
  -- Orders rows for whoever reads the journal as an outbox: rows of a transaction that is older than every
  -- running one cannot be followed by older ones.
  xid      bigint      not null default (pg_current_xact_id()::text::bigint),
  at       timestamptz not null,
  events   json        not null,
  primary key (stream, version)
);
