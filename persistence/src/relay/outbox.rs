//! The journal of one database, read in the order of its commits behind a consumer's cursor.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Row as _};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use crate::Timestamp;
use crate::databases::Place;
use crate::journal::StoredRow;

/// One answer of the database takes no longer, or it is asked again on another connection.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The plan walks the index, whatever the planner thought of an empty table. The cursor is not worth waiting for a disk:
/// should it be lost, a little is told twice.
const SESSION: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("synchronous_commit", "off"),
    ("lock_timeout", "2s"),
];

const BEGIN: &str = "
insert into cursor (consumer, xid, stream, version)
values ($1, -9223372036854775807, '00000000-0000-0000-0000-000000000000', 0)
on conflict do nothing";

/// What is older than every running transaction, behind the cursor; and how things stand. Events only of the kinds that
/// are told: the others are passed over.
const READ: &str = "
with c as (select xid, stream, version from cursor where consumer = $1),
s as (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest,
             pg_snapshot_xmax(pg_current_snapshot())::text::bigint as newest)
select c.xid, c.stream, c.version,
       greatest(c.xid, (select xid from journal order by xid desc limit 1)) > s.newest,
       (select at from journal where xid >= s.oldest order by xid limit 1),
       clock_timestamp(), j.xid, j.stream, j.version, j.kind, j.at, j.events
from c cross join s left join lateral (
  select xid, stream, version, kind, at, case when kind = any($3) then events::text end as events from journal
  where xid >= c.xid and xid < s.oldest and (xid, stream, version) > (c.xid, c.stream, c.version)
  order by xid, stream, version limit $2) j on true
order by j.xid, j.stream, j.version";

const BEFORE: &str = "
select j.stream, j.version, j.at, j.events::text
from unnest($1::uuid[], $2::int4[]) as asked(stream, version)
join journal j on j.stream = asked.stream and j.version < asked.version";

/// Nothing, where another connection of this name reads: it would begin anew.
const END: &str = "
with others as (
  select from pg_stat_activity
  where datname = current_database() and application_name = current_setting('application_name')
    and pid <> pg_backend_pid()),
gone as (delete from cursor where consumer = $1 and not exists (select from others) returning 1)
select exists (select from others), exists (select from gone)";

const ADVANCE: &str = "
update cursor set xid = $5, stream = $6, version = $7, moved_at = clock_timestamp()
where consumer = $1 and xid = $2 and stream = $3 and version = $4";

/// A place in the order of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Of the transaction.
    pub xid: i64,
    /// Within it.
    pub stream: Uuid,
    /// Within the stream.
    pub version: i32,
}

/// A row that was read.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Where it is.
    pub position: Position,
    /// Which aggregate wrote it.
    pub kind: i16,
    /// When its first event was decided.
    pub at: Timestamp,
    /// `None`: of a kind that is not told.
    pub events: Option<String>,
}

/// How a consumer stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// How old the oldest row is that it has not been told.
    pub lag: Duration,
    /// How old the oldest row is that must wait for a running transaction, anywhere on the server.
    pub held: Duration,
    /// Its cursor, or a row, is where this server has never been.
    pub is_ahead: bool,
}

/// What was read at once.
#[derive(Clone, Debug)]
pub struct Page {
    /// Behind this.
    pub cursor: Position,
    /// In order.
    pub rows: Vec<OutboxRow>,
    /// How the consumer stands.
    pub standing: Standing,
}

/// The outbox cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The database does not answer, or refuses.
    #[error("the database does not answer")]
    Unavailable(#[from] sqlx::Error),
    /// A relay reads it now, and would begin anew.
    #[error("a relay reads it: stop every node that has brokers first")]
    InUse,
    /// Nothing is heard of it.
    #[error("the database has said nothing for {ANSWER_MAX:?}")]
    Silent,
}

/// The journal of one database as one consumer reads it.
pub struct Outbox {
    consumer: &'static str,
    name: String,
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Outbox {
    /// Over a migrated database. Connects when it is first asked.
    pub fn open(place: &Place, consumer: &'static str) -> Self {
        let options = place.options.clone().application_name(&format!("souk relay {}", place.name));
        let options = options.options(SESSION).disable_statement_logging();
        Self { consumer, name: place.name.clone(), options, connection: None }
    }

    /// What the database is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets go of the connection: another node reads.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// What comes next, at most `limit` rows. A consumer that is new begins with the first row.
    pub async fn read(&mut self, kinds: &[i16], limit: i64) -> Result<Page, OutboxError> {
        if let Some(page) = self.page(kinds, limit).await? {
            return Ok(page);
        }
        let begin = sqlx::query(BEGIN).bind(self.consumer);
        let connection = self.connection().await?;
        let begun = answered(begin.execute(connection)).await;
        self.kept(begun)?;
        self.page(kinds, limit).await?.ok_or(OutboxError::Unavailable(sqlx::Error::RowNotFound))
    }

    /// How the consumer stands. `None`: it has never begun.
    pub async fn standing(&mut self) -> Result<Option<Standing>, OutboxError> {
        Ok(self.page(&[], 1).await?.map(|page| page.standing))
    }

    async fn page(&mut self, kinds: &[i16], limit: i64) -> Result<Option<Page>, OutboxError> {
        let query = sqlx::query(READ).bind(self.consumer).bind(limit).bind(kinds);
        let connection = self.connection().await?;
        let read = answered(query.fetch_all(connection)).await.and_then(|rows| page(&rows));
        self.kept(read)
    }

    /// Every row of these streams before a version.
    pub async fn before(&mut self, streams: &[(Uuid, i32)]) -> Result<Vec<(Uuid, StoredRow)>, OutboxError> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, versions): (Vec<_>, Vec<_>) = streams.iter().copied().unzip();
        let query = sqlx::query(BEFORE).bind(ids).bind(versions);
        let connection = self.connection().await?;
        let read = answered(query.fetch_all(connection)).await.and_then(|rows| {
            let row = |row: &PgRow| {
                let (version, events) = (row.try_get(1)?, row.try_get(3)?);
                Ok((row.try_get(0)?, StoredRow { version, at: moment(row, 2)?, events }))
            };
            rows.iter().map(row).collect()
        });
        self.kept(read)
    }

    /// Moves the cursor. `false`: somebody else has moved it.
    pub async fn advance(&mut self, from: Position, to: Position) -> Result<bool, OutboxError> {
        let query = sqlx::query(ADVANCE)
            .bind(self.consumer)
            .bind(from.xid)
            .bind(from.stream)
            .bind(from.version)
            .bind(to.xid)
            .bind(to.stream)
            .bind(to.version);
        let connection = self.connection().await?;
        let moved = answered(query.execute(connection)).await;
        Ok(self.kept(moved)?.rows_affected() == 1)
    }

    /// Has everything told again, from the first row on.
    pub async fn reset(&mut self) -> Result<(), OutboxError> {
        let query = sqlx::query("select reset_cursor($1)").bind(self.consumer);
        // It may number every row anew.
        let reset = query.execute(self.connection().await?).await;
        self.kept(reset.map_err(OutboxError::from))?;
        Ok(())
    }

    /// The consumer is no more: nothing is kept for it. `false`: there was none.
    pub async fn end(&mut self) -> Result<bool, OutboxError> {
        let query = sqlx::query(END).bind(self.consumer);
        let connection = self.connection().await?;
        let ended = answered(query.fetch_one(connection)).await;
        let row = self.kept(ended)?;
        if row.try_get(0)? {
            return Err(OutboxError::InUse);
        }
        Ok(row.try_get(1)?)
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, OutboxError> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => {
                let connection = answered(self.options.connect()).await?;
                Ok(empty.insert(connection))
            }
        }
    }

    /// After an error the next call has a new connection.
    fn kept<T>(&mut self, answer: Result<T, OutboxError>) -> Result<T, OutboxError> {
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }
}

async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, OutboxError> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(OutboxError::Silent),
    }
}

fn moment(row: &PgRow, column: usize) -> Result<Timestamp, sqlx::Error> {
    row.try_get::<OffsetDateTime, _>(column).map(Timestamp::from_offset)
}

/// `None`: there is no cursor.
fn page(rows: &[PgRow]) -> Result<Option<Page>, OutboxError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let cursor = Position { xid: first.try_get(0)?, stream: first.try_get(1)?, version: first.try_get(2)? };
    let mut read = Vec::new();
    for row in rows {
        if let Some(xid) = row.try_get(6)? {
            let position = Position { xid, stream: row.try_get(7)?, version: row.try_get(8)? };
            let (kind, events) = (row.try_get(9)?, row.try_get(11)?);
            read.push(OutboxRow { position, kind, at: moment(row, 10)?, events });
        }
    }
    let now = moment(first, 5)?;
    let held: Option<OffsetDateTime> = first.try_get(4)?;
    let standing = Standing {
        lag: read.first().map_or(Duration::ZERO, |row| row.at.until(now)),
        held: held.map_or(Duration::ZERO, |at| Timestamp::from_offset(at).until(now)),
        is_ahead: first.try_get(3)?,
    };
    Ok(Some(Page { cursor, rows: read, standing }))
}
