//! Copies entities and their histories from one database to another, as often as is needed.
//!
//! An entity is read before its history and written after it. So where two databases have the same guard,
//! the copy has every row that led to it, wherever an earlier run was cut off.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use super::MoveError;
use crate::databases::{Place, connect};
use crate::statement::Json;

/// Streams that are copied at once.
const STREAMS: usize = 200;
/// Streams that are looked for at once.
const PAGE: i64 = 2_000;
/// Rows of histories that are copied at once.
const ROWS: i64 = 2_000;
/// A server that says nothing for so long is away. A page may be far between in a large table.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// The fence of the new database lets pass what a session like this writes.
const SESSION: [(&str, &str); 2] = [("souk.moving", "on"), ("lock_timeout", "10s")];

/// The oldest transaction that is under way: what is committed later is of none that is older.
const MARK: &str = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint";

const STREAMS_OF: &str = "
select stream from entity where slot between $1 and $2 and stream > $3 order by stream limit $4";

/// Row versions that are not of before the mark. They hold the lower half of a transaction's number, which is
/// compared as the server does; and one more that is compared with its copy does no harm.
const CHANGED: &str = "
select stream from entity
where slot between $1 and $2
  and mod(xmin::text::bigint - mod($3, 4294967296) + 4294967296, 4294967296) < 2147483648
order by stream";

const GUARDS: &str = "select stream, version, owed, batch from entity where stream = any($1)";

const ENTITIES: &str = "
select stream, version, owed, batch, kind, slot, owner, created_at, updated_at, view::text, snapshot::text
from entity where stream = any($1)";

/// By the end of each history, however long it is.
const NEWEST: &str = "
select stream, coalesce((select max(version) from journal j where j.stream = asked.stream), 0)
from unnest($1::uuid[]) as asked(stream)";

/// Each history from where it is copied, in order, and no further than is asked: a limit over all of them, sorted,
/// would read each of them to its end for every page.
const HISTORY: &str = "
select j.stream, j.version, j.kind, j.slot, j.at, j.events::text
from unnest($1::uuid[], $2::int4[], $3::int4[]) as asked(stream, copied, version)
cross join lateral (
  select * from journal
  where journal.stream = asked.stream and journal.version > asked.copied and journal.version <= asked.version
  order by journal.version limit $4) j
limit $4";

const WRITE_HISTORY: &str = "
insert into journal (stream, version, kind, slot, at, events)
select * from unnest($1::uuid[], $2::int4[], $3::int2[], $4::int2[], $5::timestamptz[], $6::json[])
on conflict (stream, version) do nothing";

const WRITE_ENTITIES: &str = "
insert into entity as x
  (stream, version, owed, batch, kind, slot, owner, created_at, updated_at, view, snapshot)
select * from unnest($1::uuid[], $2::int4[], $3::timestamptz[], $4::uuid[], $5::int2[], $6::int2[], $7::uuid[],
                     $8::timestamptz[], $9::timestamptz[], $10::json[], $11::json[])
on conflict (stream) do update set
  version = excluded.version, owed = excluded.owed, batch = excluded.batch,
  updated_at = excluded.updated_at, view = excluded.view, snapshot = excluded.snapshot
where x.version <= excluded.version";

/// Whatever is thought, what is held here is not removed. Guard and history go together: with the one left and the
/// other gone, whoever copies this database's rows back would take them for complete.
const REMOVE: &str = "
with gone as (
  delete from entity where stream = any($1) and not exists (
    select from holding where given_to is null and slot between first_slot and last_slot)
  returning stream),
past as (delete from journal using gone where journal.stream = gone.stream)
select count(*) from gone";

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    pub entities: u64,
    pub rows: u64,
}

/// Two databases, and the slots that go from one to the other.
pub(super) struct Copier {
    pub source: PgConnection,
    target: PgConnection,
    slots: RangeInclusive<i16>,
}

impl Copier {
    pub async fn connect(from: &Place, to: &Place, slots: RangeInclusive<i16>) -> Result<Self, MoveError> {
        let open = async |place: &Place| {
            let options = place.options.clone().options(SESSION);
            connect(&options).await.map_err(|source| place.unreachable(source))
        };
        Ok(Self { source: open(from).await?, target: open(to).await?, slots })
    }

    /// What is committed from now on is found by it.
    pub async fn mark(&mut self) -> Result<i64, sqlx::Error> {
        answered(sqlx::query(MARK).fetch_one(&mut self.source)).await?.try_get(0)
    }

    /// Copies everything that is not there yet as it is here.
    pub async fn all(&mut self) -> Result<Copied, sqlx::Error> {
        let (mut copied, mut after) = (Copied::default(), Uuid::nil());
        loop {
            let streams = self.page(after).await?;
            let Some(last) = streams.last() else { return Ok(copied) };
            after = *last;
            copied.add(self.streams(&streams).await?);
        }
    }

    /// Copies what was changed since the mark.
    pub async fn since(&mut self, mark: i64) -> Result<Copied, sqlx::Error> {
        let query = sqlx::query(CHANGED).bind(*self.slots.start()).bind(*self.slots.end()).bind(mark);
        let streams = answered(query.fetch_all(&mut self.source)).await?;
        let streams: Vec<Uuid> = streams.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        self.streams(&streams).await
    }

    /// The old database takes no row of the slots until the time that this answers.
    pub async fn pause(&mut self, lasts: Duration) -> Result<OffsetDateTime, sqlx::Error> {
        let query = sqlx::query("select pause($1, $2, make_interval(secs => $3))")
            .bind(*self.slots.start())
            .bind(*self.slots.end())
            .bind(lasts.as_secs_f64());
        answered(query.fetch_one(&mut self.source)).await?.try_get(0)
    }

    /// Removes what the old database has of the slots, which it does not hold any more.
    pub async fn remove(&mut self) -> Result<u64, sqlx::Error> {
        let (mut removed, mut after) = (0, Uuid::nil());
        loop {
            let streams = self.page(after).await?;
            let Some(last) = streams.last() else { return Ok(removed) };
            after = *last;
            let gone = sqlx::query(REMOVE).bind(&streams).fetch_one(&mut self.source);
            removed += answered(gone).await?.try_get::<i64, _>(0)?.unsigned_abs();
        }
    }

    async fn page(&mut self, after: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
        let query =
            sqlx::query(STREAMS_OF).bind(*self.slots.start()).bind(*self.slots.end()).bind(after).bind(PAGE);
        let rows = answered(query.fetch_all(&mut self.source)).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    async fn streams(&mut self, streams: &[Uuid]) -> Result<Copied, sqlx::Error> {
        let mut copied = Copied::default();
        for some in streams.chunks(STREAMS) {
            let guards = sqlx::query(GUARDS).bind(some).fetch_all(&mut self.target);
            let there = answered(guards).await?.iter().map(guard).collect::<Result<HashMap<_, _>, _>>()?;
            let here = answered(sqlx::query(ENTITIES).bind(some).fetch_all(&mut self.source)).await?;
            let mut differing = Vec::new();
            for row in here {
                let (stream, guard) = guard(&row)?;
                if there.get(&stream) != Some(&guard) {
                    differing.push((stream, row));
                }
            }
            let guards = differing.iter().map(|(stream, row)| Ok((*stream, row.try_get(1)?)));
            copied.rows += self.histories(guards.collect::<Result<Vec<_>, sqlx::Error>>()?).await?;
            copied.entities += self.entities(differing.into_iter().map(|(_, row)| row).collect()).await?;
        }
        Ok(copied)
    }

    /// Copies histories up to these versions. Rows are appended in order, so the newest that is there says which
    /// are missing. Bounded by the versions, so that it ends while more is written.
    async fn histories(&mut self, guards: Vec<(Uuid, i32)>) -> Result<u64, sqlx::Error> {
        let (streams, versions): (Vec<_>, Vec<_>) = guards.into_iter().unzip();
        let mut copied = 0;
        loop {
            let newest = sqlx::query(NEWEST).bind(&streams).fetch_all(&mut self.target);
            let rows = answered(newest).await?;
            let newest = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            let newest = newest.collect::<Result<HashMap<Uuid, i32>, sqlx::Error>>()?;
            let there: Vec<_> =
                streams.iter().map(|stream| newest.get(stream).copied().unwrap_or_default()).collect();
            let missing = sqlx::query(HISTORY).bind(&streams).bind(&there).bind(&versions).bind(ROWS);
            let rows = answered(missing.fetch_all(&mut self.source)).await?;
            if rows.is_empty() {
                return Ok(copied);
            }
            let query = sqlx::query(WRITE_HISTORY)
                .bind(column::<Uuid>(&rows, 0)?)
                .bind(column::<i32>(&rows, 1)?)
                .bind(column::<i16>(&rows, 2)?)
                .bind(column::<i16>(&rows, 3)?)
                .bind(column::<OffsetDateTime>(&rows, 4)?)
                .bind(column::<&str>(&rows, 5)?.into_iter().map(Json).collect::<Vec<_>>());
            copied += answered(query.execute(&mut self.target)).await?.rows_affected();
        }
    }

    async fn entities(&mut self, rows: Vec<PgRow>) -> Result<u64, sqlx::Error> {
        if rows.is_empty() {
            return Ok(0);
        }
        let snapshots = column::<Option<&str>>(&rows, 10)?.into_iter().map(|text| text.map(Json));
        let query = sqlx::query(WRITE_ENTITIES)
            .bind(column::<Uuid>(&rows, 0)?)
            .bind(column::<i32>(&rows, 1)?)
            .bind(column::<Option<OffsetDateTime>>(&rows, 2)?)
            .bind(column::<Uuid>(&rows, 3)?)
            .bind(column::<i16>(&rows, 4)?)
            .bind(column::<i16>(&rows, 5)?)
            .bind(column::<Option<Uuid>>(&rows, 6)?)
            .bind(column::<OffsetDateTime>(&rows, 7)?)
            .bind(column::<OffsetDateTime>(&rows, 8)?)
            .bind(column::<&str>(&rows, 9)?.into_iter().map(Json).collect::<Vec<_>>())
            .bind(snapshots.collect::<Vec<_>>());
        Ok(answered(query.execute(&mut self.target)).await?.rows_affected())
    }
}

impl Copied {
    fn add(&mut self, more: Self) {
        self.entities += more.entities;
        self.rows += more.rows;
    }
}

/// What tells two states of an entity apart: its version, who wrote it, and what it owes, which may change
/// without a row.
type Guard = (i32, Option<OffsetDateTime>, Uuid);

fn guard(row: &PgRow) -> Result<(Uuid, Guard), sqlx::Error> {
    Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))
}

fn column<'r, T>(rows: &'r [PgRow], index: usize) -> Result<Vec<T>, sqlx::Error>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    rows.iter().map(|row| row.try_get(index)).collect()
}

async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let elapsed = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(ANSWER_MAX, answer).await.map_err(elapsed)?
}
