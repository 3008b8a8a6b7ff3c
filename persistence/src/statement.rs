//! The one statement that commits a batch, and what its errors mean.
//!
//! It runs outside a transaction block, prepared once per connection. The guard is `entity.version`: a
//! journal key alone would be no fence, because once old rows are trimmed a stale version could be inserted
//! again, and a gap would pass. A row that was ours already is returned again, so the same batch may be
//! sent until the database answers.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgHasArrayType, PgTypeInfo, Postgres};
use sqlx::{Encode, Row as _, Type};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Timestamp;
use crate::writer::Batch;

/// Arrays are sorted by stream: two writers that lock the same rows in different orders deadlock, and do
/// so again when they send again. One row per stream: the second would not see the first.
///
/// Whether a stream is known is asked by a scalar subquery on purpose. `exists` may be planned as a hash of
/// the whole table, and is, while the table is empty: the plan is made once per connection, so a new shop
/// would read every entity for every batch until its tables are analysed.
macro_rules! commit {
    ($owed:literal) => {
        concat!(
            "
with r as materialized (
  select * from unnest($2::uuid[], $3::int4[], $4::int2[], $5::int2[], $6::timestamptz[], $7::timestamptz[],
                       $8::json[], $9::uuid[], $10::timestamptz[], $11::json[], $12::json[])
    as r(stream, version, kind, slot, at, updated_at, events, owner, owed, view, snapshot)),
e as (
  insert into entity as x
    (stream, version, batch, kind, slot, owed, owner, created_at, updated_at, view, snapshot)
  select stream, version, $1::uuid, kind, slot, owed, owner, at, updated_at, view, snapshot from r
  where version = 1 or (select true from entity known where known.stream = r.stream)
  on conflict (stream) do update set
    version = excluded.version, batch = excluded.batch, owed = excluded.owed,
    updated_at = excluded.updated_at, view = excluded.view,
    snapshot = coalesce(excluded.snapshot, x.snapshot)
  where x.version = excluded.version - 1
     or (x.version = excluded.version and x.batch = excluded.batch)
  returning x.stream),
j as (
  insert into journal (stream, version, kind, slot, at, events)
  select r.stream, version, kind, slot, at, events from r join e using (stream)
  on conflict (stream, version) do nothing)",
            $owed,
            "\nselect stream from e"
        )
    };
}

const COMMIT: &str = commit!("");
/// With changes of what is owed. Most batches have none, and what is not in a statement costs nothing.
const COMMIT_AND_RESCHEDULE: &str = commit!(
    ",
o as (
  update entity x set owed = c.owed
  from unnest($13::uuid[], $14::int4[], $15::timestamptz[]) as c(stream, version, owed)
  where x.stream = any($13) and x.stream = c.stream and x.version = c.version)"
);

/// Why a batch has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Nobody knows whether it was committed: to be sent again, as it is.
    #[error("no answer from the database")]
    Unknown(#[source] BoxDynError),
    /// The database refuses it, and would again.
    #[error("the database refuses the batch")]
    Refused(#[source] BoxDynError),
}

/// Sends a batch and reads the answer to its end: the streams whose rows are ours. The server sends them
/// before it commits; only the end of the answer says that it has.
pub(crate) async fn commit(connection: &mut PgConnection, batch: &Batch) -> Result<Vec<Uuid>, CommitError> {
    let rows = &batch.rows;
    let changes = &batch.reschedules;
    let moment = |at: Timestamp| at.to_offset();
    let query = sqlx::query(if changes.is_empty() { COMMIT } else { COMMIT_AND_RESCHEDULE })
        .bind(batch.id)
        .bind(rows.iter().map(|row| row.stream).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.kind).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.slot).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| moment(row.at)).collect::<Vec<OffsetDateTime>>())
        .bind(rows.iter().map(|row| moment(row.updated_at)).collect::<Vec<OffsetDateTime>>())
        .bind(rows.iter().map(|row| Json(&row.events)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.owner).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.owed.map(moment)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| Json(&row.view)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.snapshot.as_deref().map(Json)).collect::<Vec<_>>());
    let query = match changes.is_empty() {
        true => query,
        false => query
            .bind(changes.iter().map(|change| change.stream).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.version).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.owed.map(moment)).collect::<Vec<_>>()),
    };
    query
        .fetch_all(connection)
        .await
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(classify)
}

/// Whether an error says that the batch was refused, or nothing at all.
fn classify(error: sqlx::Error) -> CommitError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code {
        Some(code) if is_refusal(&code) => CommitError::Refused(error.into()),
        Some(_) | None => CommitError::Unknown(error.into()),
    }
}

/// Connections (08), resources (53), intervention (57) and the system (58) come and go; so do
/// serialisation failures, deadlocks, lock time-outs and a server that is read-only for now.
fn is_refusal(code: &str) -> bool {
    let comes_and_goes = ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || ["40001", "40P01", "55P03", "25006"].contains(&code);
    !comes_and_goes
}

/// JSON text, sent as `json`: as `text` it would be cast, as `jsonb` parsed and written anew.
pub(crate) struct Json<'a>(pub &'a str);

impl Type<Postgres> for Json<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(114))
    }
}

impl PgHasArrayType for Json<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(199))
    }
}

impl Encode<'_, Postgres> for Json<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_sent_again_and_a_bug_is_not() {
        for again in ["08006", "53300", "57P01", "58030", "40001", "40P01", "55P03", "25006"] {
            assert!(!is_refusal(again), "{again}");
        }
        for bug in ["22P02", "21000", "42P01", "23505", "22P05"] {
            assert!(is_refusal(bug), "{bug}");
        }
    }
}
