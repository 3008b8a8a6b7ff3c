//! The journal on PostgreSQL: a connection of its own for the writer, a few for readers.

mod readers;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use self::readers::Readers;
use crate::Timestamp;
use crate::journal::{
    Done, Journal, JournalError, ListQuery, Loaded, Owed, Reschedule, Row, Scanned, ScannedRow, StoredRow,
    ViewRow,
};
use crate::statement::{self, CommitError};
use crate::writer::{Batch, Store, Writer};

/// The writer waits so long for a new connection before it tries again.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A connection that is silent for so long is given up: a network that drops everything says nothing, and
/// an unknown commit is safely sent again.
const ANSWER_MAX: Duration = Duration::from_secs(10);

const LOAD: &str = "
select e.version, e.owed, e.created_at, e.updated_at, e.snapshot::text, j.version, j.at, j.events::text,
       e.kind, (e.snapshot ->> 'version')::int
from entity e
left join journal j on j.stream = e.stream and j.version > coalesce((e.snapshot ->> 'version')::int, 0)
where e.stream = $1
order by j.version";

const OWED: &str = "
select stream, kind, owed from entity
where slot between $1 and $2 and owed is not null and owed <= $3 and (owed, stream) > ($4, $5)
order by owed, stream limit $6";

const VIEWS: &str = "
select stream, version, owner, created_at, updated_at, view::text from entity
where kind = $1 and stream = any($2)";

/// One text for each index: a condition that is sometimes absent would spoil both plans.
const LIST: &str = "
select stream, version, owner, created_at, updated_at, view::text from entity e
where kind = $1 and (created_at, stream) < ($2, $3) and (view ->> 'gone') is distinct from 'true'
  and not exists (select from unnest($4::text[], $5::text[]) as f(name, value)
                  where (e.view ->> f.name) is distinct from f.value)
order by created_at desc, stream desc limit $6";

const LIST_OWNED: &str = "
select stream, version, owner, created_at, updated_at, view::text from entity e
where kind = $1 and (created_at, stream) < ($2, $3) and (view ->> 'gone') is distinct from 'true'
  and not exists (select from unnest($4::text[], $5::text[]) as f(name, value)
                  where (e.view ->> f.name) is distinct from f.value)
  and owner = $7
order by created_at desc, stream desc limit $6";

/// Both walk a primary key; the session they run in leaves the planner nothing else to choose.
const SCAN: &str = "
select stream, kind, version, slot, owed, owner, created_at, updated_at, view::text, snapshot::text
from entity where stream > $2 order by stream limit $1";

const SCAN_FIRST: &str = "
select stream, kind, version, slot, owed, owner, created_at, updated_at, view::text, snapshot::text
from entity order by stream limit $1";

const HISTORY: &str = "
select stream, kind, version, at, events::text from journal
where (stream, version) > ($1, $2) and stream <= $3 order by stream, version limit $4";

/// A plan that is made while a table is empty reads all of it, and stays.
const BY_KEY: [(&str, &str); 3] =
    [("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("enable_sort", "off")];
/// A scan is one reader, who asks for page after page.
const SCANNERS: u32 = 2;

const FORGET: &str = "
with gone as (
  delete from journal j using (
    select j.stream, j.version from journal j join entity e using (stream)
    where j.kind = any($1) and j.version < (e.snapshot ->> 'version')::int
      and j.xid < coalesce((select min(xid) from cursor), 9223372036854775807)
    limit $2) past
  where j.stream = past.stream and j.version = past.version
  returning j.stream)
select count(*) from gone";

/// The journal of one service on PostgreSQL.
pub struct PostgresJournal {
    readers: Readers,
    scanners: Readers,
    writer: Writer,
    name: String,
}

impl fmt::Debug for PostgresJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresJournal").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PostgresJournal {
    /// Opens the journal in a migrated database. `pool_size`: the most connections of readers. Connects
    /// when it is first used.
    pub fn open(name: &str, options: PgConnectOptions, pool_size: u32) -> Arc<Self> {
        let options = options.application_name(&format!("souk {name}")).disable_statement_logging();
        let readers = Readers::new(options.clone(), pool_size);
        let scanners = Readers::new(options.clone().options(BY_KEY), SCANNERS);
        // A plan per batch size would cost a millisecond each; a held lock must not hold the writer.
        let session = [("plan_cache_mode", "force_generic_plan"), ("jit", "off"), ("lock_timeout", "2s")];
        let store = PostgresStore { options: options.options(session), connection: None };
        Arc::new(Self { readers, scanners, writer: Writer::start(name, store), name: name.to_owned() })
    }

    /// Opens the journal to be read alone: the server refuses every change.
    pub fn open_read_only(name: &str, options: PgConnectOptions) -> Arc<Self> {
        Self::open(name, options.options([("default_transaction_read_only", "on")]), SCANNERS)
    }

    async fn load_passed(&self, stream: Uuid) -> Result<Option<Loaded>, JournalError> {
        self.writer.passed(stream).await;
        let rows = self.read(|| sqlx::query(LOAD).bind(stream)).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut tail = Vec::new();
        for row in &rows {
            if let Some(version) = row.try_get(5).map_err(corrupt)? {
                let events = row.try_get(7).map_err(corrupt)?;
                tail.push(StoredRow { version, at: moment(row, 6)?, events });
            }
        }
        let owed: Option<OffsetDateTime> = first.try_get(1).map_err(corrupt)?;
        let version = first.try_get(0).map_err(corrupt)?;
        let snapshot: Option<String> = first.try_get(4).map_err(corrupt)?;
        let covered = match (&snapshot, first.try_get::<Option<i32>, _>(9).map_err(corrupt)?) {
            (None, _) => 0,
            (Some(_), Some(covered)) => covered,
            (Some(_), None) => {
                let what = format!("the snapshot of {stream} has no version");
                return Err(JournalError::Corrupt(what.into()));
            }
        };
        // A history with a hole, as of a half restored dump, would be a state that never was.
        if !tail.iter().map(|row| row.version).eq(covered + 1..=version) {
            let what = format!("the rows of {stream} do not lead from {covered} to {version}");
            return Err(JournalError::Corrupt(what.into()));
        }
        Ok(Some(Loaded {
            kind: first.try_get(8).map_err(corrupt)?,
            version,
            owed: owed.map(Timestamp::from_offset),
            created_at: moment(first, 2)?,
            updated_at: moment(first, 3)?,
            snapshot,
            tail,
        }))
    }

    async fn read<'q>(
        &self,
        query: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, JournalError> {
        self.readers.read(query).await.map_err(unreadable)
    }
}

impl Journal for PostgresJournal {
    fn commit(&self, row: Row, done: Done) {
        self.writer.commit(row, done);
    }

    fn load(&self, stream: Uuid) -> BoxFuture<'_, Result<Option<Loaded>, JournalError>> {
        self.load_passed(stream).boxed()
    }

    fn owed(
        &self,
        slots: RangeInclusive<i16>,
        before: Timestamp,
        after: Option<(Timestamp, Uuid)>,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<Owed>, JournalError>> {
        let (after, behind) = after.unwrap_or((Timestamp::default(), Uuid::nil()));
        async move {
            let query = || {
                sqlx::query(OWED)
                    .bind(*slots.start())
                    .bind(*slots.end())
                    .bind(before.to_offset())
                    .bind(after.to_offset())
                    .bind(behind)
                    .bind(limit)
            };
            let rows = self.read(query).await?;
            let owed = |row: &PgRow| {
                let (stream, kind) = (row.try_get(0).map_err(corrupt)?, row.try_get(1).map_err(corrupt)?);
                Ok(Owed { stream, kind, since: moment(row, 2)? })
            };
            rows.iter().map(owed).collect()
        }
        .boxed()
    }

    fn reschedule(&self, change: Reschedule) {
        self.writer.reschedule(change);
    }

    fn views(&self, kind: i16, streams: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        async move {
            let query = || sqlx::query(VIEWS).bind(kind).bind(&streams);
            self.read(query).await?.iter().map(view).collect()
        }
        .boxed()
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        let ListQuery { kind, owner, equal, after, limit } = query;
        // Behind nothing is before the end of time.
        let end = Timestamp::parse("9999-12-31T23:59:59Z").unwrap_or_default();
        let (after, behind) = after.unwrap_or((end, Uuid::max()));
        let (names, values): (Vec<_>, Vec<_>) = equal.into_iter().unzip();
        async move {
            let query = || {
                let query = sqlx::query(if owner.is_some() { LIST_OWNED } else { LIST })
                    .bind(kind)
                    .bind(after.to_offset())
                    .bind(behind)
                    .bind(&names)
                    .bind(&values)
                    .bind(limit);
                match owner {
                    Some(owner) => query.bind(owner),
                    None => query,
                }
            };
            self.read(query).await?.iter().map(view).collect()
        }
        .boxed()
    }

    fn scan(&self, after: Option<Uuid>, limit: i64) -> BoxFuture<'_, Result<Vec<Scanned>, JournalError>> {
        async move {
            let query = || match after {
                Some(after) => sqlx::query(SCAN).bind(limit).bind(after),
                None => sqlx::query(SCAN_FIRST).bind(limit),
            };
            self.scanners.read(query).await.map_err(unreadable)?.iter().map(scanned).collect()
        }
        .boxed()
    }

    fn scan_rows(
        &self,
        after: Option<(Uuid, i32)>,
        until: Uuid,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<ScannedRow>, JournalError>> {
        let (stream, version) = after.unwrap_or((Uuid::nil(), 0));
        async move {
            let query = || sqlx::query(HISTORY).bind(stream).bind(version).bind(until).bind(limit);
            self.scanners.read(query).await.map_err(unreadable)?.iter().map(scanned_row).collect()
        }
        .boxed()
    }

    fn forget(&self, kinds: Vec<i16>, limit: i64) -> BoxFuture<'_, Result<u64, JournalError>> {
        async move {
            let rows = self.read(|| sqlx::query(FORGET).bind(&kinds).bind(limit)).await?;
            let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(corrupt)?;
            Ok(count.unsigned_abs())
        }
        .boxed()
    }

    fn backlog(&self) -> usize {
        self.writer.backlog()
    }

    fn flushed(&self) -> BoxFuture<'_, ()> {
        self.writer.flushed().boxed()
    }
}

fn moment(row: &PgRow, column: usize) -> Result<Timestamp, JournalError> {
    row.try_get::<OffsetDateTime, _>(column).map(Timestamp::from_offset).map_err(corrupt)
}

fn view(row: &PgRow) -> Result<ViewRow, JournalError> {
    Ok(ViewRow {
        stream: row.try_get(0).map_err(corrupt)?,
        version: row.try_get(1).map_err(corrupt)?,
        owner: row.try_get(2).map_err(corrupt)?,
        created_at: moment(row, 3)?,
        updated_at: moment(row, 4)?,
        view: row.try_get::<&str, _>(5).map_err(corrupt)?.into(),
    })
}

fn scanned(row: &PgRow) -> Result<Scanned, JournalError> {
    let owed: Option<OffsetDateTime> = row.try_get(4).map_err(corrupt)?;
    Ok(Scanned {
        stream: row.try_get(0).map_err(corrupt)?,
        kind: row.try_get(1).map_err(corrupt)?,
        version: row.try_get(2).map_err(corrupt)?,
        slot: row.try_get(3).map_err(corrupt)?,
        owed: owed.map(Timestamp::from_offset),
        owner: row.try_get(5).map_err(corrupt)?,
        created_at: moment(row, 6)?,
        updated_at: moment(row, 7)?,
        view: row.try_get::<&str, _>(8).map_err(corrupt)?.into(),
        snapshot: row.try_get(9).map_err(corrupt)?,
    })
}

fn scanned_row(row: &PgRow) -> Result<ScannedRow, JournalError> {
    let (version, events) = (row.try_get(2).map_err(corrupt)?, row.try_get(4).map_err(corrupt)?);
    Ok(ScannedRow {
        stream: row.try_get(0).map_err(corrupt)?,
        kind: row.try_get(1).map_err(corrupt)?,
        row: StoredRow { version, at: moment(row, 3)?, events },
    })
}

/// Class 22: what is stored is not what the query makes of it, and will not be when asked again.
fn unreadable(error: sqlx::Error) -> JournalError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.is_some_and(|code| code.starts_with("22")) {
        true => corrupt(error),
        false => JournalError::Unavailable(error.to_string().into()),
    }
}

fn corrupt(error: sqlx::Error) -> JournalError {
    JournalError::Corrupt(error.to_string().into())
}

struct PostgresStore {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Store for PostgresStore {
    async fn commit(&mut self, batch: &Batch) -> Result<Vec<Uuid>, CommitError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connecting = tokio::time::timeout(CONNECT_MAX, PgConnection::connect_with(&self.options));
                let connection = match connecting.await {
                    Ok(connection) => connection.map_err(|error| CommitError::Unknown(error.into()))?,
                    Err(elapsed) => return Err(CommitError::Unknown(elapsed.into())),
                };
                self.connection.insert(connection)
            }
        };
        match tokio::time::timeout(ANSWER_MAX, statement::commit(connection, batch)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(CommitError::Unknown(elapsed.into())),
        }
    }

    fn reset(&mut self) {
        self.connection = None;
    }
}
