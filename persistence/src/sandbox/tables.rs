//! The sandbox's books for nodes that share nothing but a database server.
//!
//! What comes in one turn is decided as if nothing were known of its keys, which is so of nearly all, and
//! written by one statement; only what was known already is loaded and decided by what is known. Nobody holds
//! a lock from one statement to the next: of two nodes with one key the primary key takes one, and whoever
//! changes a row says what it was before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Connection, Row as _};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::rules::{self, Decided, Known, Line};
use super::{AT_ONCE_MAX, BooksError, Request, now};
use crate::Timestamp;
use crate::databases::{DatabasesError, connect, is_missing, prepared, within};
use crate::migrate::migrate_by;
use crate::provider::{ChargeRequest, Charged, ProviderUnknown};

/// Somebody else was quicker, so often, with one key.
const ATTEMPTS_MAX: usize = 20;

/// Sorted by key: two nodes that insert the same keys in different orders would wait for each other.
const WRITE: &str = "
insert into charge (key, at, asked, captured, currency, token, declined, reason)
select * from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::int8[], $5::text[], $6::text[],
                     $7::int8[], $8::text[])
on conflict (key) do nothing
returning key";

/// What was asked for and nothing came of.
const DECIDE: &str = "
update charge set at = $2, captured = $3, currency = $4, token = $5, declined = $6, reason = $7
where key = $1 and captured is null and declined is null
returning key";

const REFUND: &str = "
with given as (
  update charge set refunded = refunded + $4 where key = $1 and refunded = $5 returning key)
insert into refund (key, name, at, amount) select key, $2, $3, $4 from given
on conflict (key, name) do nothing
returning key";

const LOAD: &str = "
select key, c.at, c.asked, c.captured, c.currency, c.token, c.declined, c.reason, r.name, r.amount, r.at
from charge c left join refund r using (key)
where key = any($1)";

const LEDGER: &str = "select key, coalesce(captured, 0), refunded from charge";

/// It stands for another system, whose server survives what kills Souk. And a plan that is made while a
/// table is empty reads all of it, and stays.
const SESSION: [(&str, &str); 2] = [("synchronous_commit", "off"), ("enable_seqscan", "off")];

/// The books in their database.
pub(super) struct Tables {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Tables {
    /// Makes the database if it is missing, and its tables.
    pub async fn open(options: PgConnectOptions) -> Result<Self, BooksError> {
        let database = options.get_database().unwrap_or_default().to_owned();
        prepared(&database, &options).await?;
        migrate_by(sqlx::migrate!("./migrations/sandbox"), &options)
            .await
            .map_err(|source| DatabasesError::Migrate { database, source })?;
        Ok(Self { options: options.options(SESSION), connection: None })
    }
}

/// Decides what comes, until nobody is left who could ask.
pub(super) async fn serve(mut tables: Tables, unknown_for: Duration, mut waiting: mpsc::Receiver<Request>) {
    let mut requests = Vec::new();
    while waiting.recv_many(&mut requests, AT_ONCE_MAX).await > 0 {
        let connection = match tables.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&tables.options).await,
        };
        let turn = async {
            Turn { connection: connection?, now: now(), unknown_for }.take(requests.drain(..)).await
        };
        match turn.await {
            Ok(connection) => tables.connection = Some(connection),
            // Whoever asked learns that nobody knows; what was written is found when it is asked again.
            Err(error) => tracing::warn!(%error, "the sandbox's books fail"),
        }
        requests.clear();
    }
}

/// A connection to the books, as they are. `None`: there are none.
pub(super) async fn reached(options: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = match connect(options).await {
        Err(error) if is_missing(&error) => return Ok(None),
        connected => connected?,
    };
    let has: bool =
        sqlx::query_scalar("select to_regclass('charge') is not null").fetch_one(&mut connection).await?;
    if !has {
        return Ok(None);
    }
    Ok(Some(connection))
}

/// What was moved under each key: (captured, refunded). `None`: there are no books.
pub(super) async fn moved(
    options: &PgConnectOptions,
) -> Result<Option<HashMap<Uuid, (i64, i64)>>, sqlx::Error> {
    let Some(mut connection) = reached(options).await? else { return Ok(None) };
    let mut moved = HashMap::new();
    let mut rows = sqlx::query(LEDGER).fetch(&mut connection);
    while let Some(row) = rows.try_next().await? {
        moved.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    drop(rows);
    connection.close().await?;
    Ok(Some(moved))
}

type Answer<T> = oneshot::Sender<Result<T, ProviderUnknown>>;

/// A charge that was decided as if nothing were known of its key.
struct Presumed {
    line: Line,
    answer: Result<Charged, ProviderUnknown>,
    request: (ChargeRequest, Timestamp, Answer<Charged>),
}

/// What is decided at once.
struct Turn {
    connection: PgConnection,
    now: Timestamp,
    unknown_for: Duration,
}

impl Turn {
    /// Decides and answers. The connection is given back if it can be used again.
    async fn take(mut self, requests: impl Iterator<Item = Request>) -> Result<PgConnection, sqlx::Error> {
        let (presumed, mut rest) = self.presume(requests);
        if !presumed.is_empty() {
            let lines: Vec<_> = presumed.values().map(|presumed| &presumed.line).collect();
            let written = self.write(&lines).await?;
            for (key, Presumed { answer, request: (request, expires, to), .. }) in presumed {
                match written.contains(&key) {
                    // Whoever has stopped waiting does not hear the answer.
                    true => drop(to.send(answer)),
                    false => rest.push(Request::Charge(request, expires, to)),
                }
            }
        }
        if !rest.is_empty() {
            self.decide(rest).await?;
        }
        Ok(self.connection)
    }

    /// The first charge of each key, if something is to be written of it; and what is left.
    fn presume(&self, requests: impl Iterator<Item = Request>) -> (BTreeMap<Uuid, Presumed>, Vec<Request>) {
        let (mut presumed, mut rest) = (BTreeMap::new(), Vec::new());
        for request in requests {
            match request {
                Request::Charge(request, expires, to) if !presumed.contains_key(&request.key) => {
                    match rules::charge(None, self.now, self.unknown_for, &request, expires) {
                        (Some(line), answer) => {
                            let key = request.key;
                            presumed.insert(key, Presumed { line, answer, request: (request, expires, to) });
                        }
                        (None, _) => rest.push(Request::Charge(request, expires, to)),
                    }
                }
                Request::Charge(..) | Request::Find(..) | Request::Refund(..) => rest.push(request),
            }
        }
        (presumed, rest)
    }

    /// By what is known of each key.
    async fn decide(&mut self, requests: Vec<Request>) -> Result<(), sqlx::Error> {
        let keys = requests.iter().map(|request| match request {
            Request::Charge(request, ..) => request.key,
            Request::Find(key, _) => *key,
            Request::Refund(request, _) => request.key,
        });
        let keys: Vec<_> = keys.collect();
        let mut known = self.load(&keys).await?;
        let (now, unknown_for) = (self.now, self.unknown_for);
        for request in requests {
            match request {
                Request::Charge(request, expires, to) => {
                    let decide =
                        |known: Option<&Known>| rules::charge(known, now, unknown_for, &request, expires);
                    let answer = self.by_key(&mut known, request.key, decide).await?;
                    drop(to.send(answer));
                }
                Request::Find(key, to) => {
                    let answer = self.by_key(&mut known, key, |known| rules::find(known, key)).await?;
                    drop(to.send(answer));
                }
                Request::Refund(request, to) => {
                    let decide = |known: Option<&Known>| rules::refund(known, now, &request);
                    let answer = self.by_key(&mut known, request.key, decide).await?;
                    drop(to.send(answer));
                }
            }
        }
        Ok(())
    }

    /// Decides until what was decided is written, or nothing is to be.
    async fn by_key<T>(
        &mut self,
        known: &mut HashMap<Uuid, Known>,
        key: Uuid,
        decide: impl Fn(Option<&Known>) -> Decided<T>,
    ) -> Result<Result<T, ProviderUnknown>, sqlx::Error> {
        for _ in 0..ATTEMPTS_MAX {
            let (line, answer) = decide(known.get(&key));
            let Some(line) = line else { return Ok(answer) };
            if self.change(&line, known.get(&key)).await? {
                known.entry(key).or_default().learn(line);
                return Ok(answer);
            }
            // Another node was quicker.
            known.extend(self.load(&[key]).await?);
        }
        Ok(Err(ProviderUnknown("too many ask about this key".to_owned())))
    }

    /// Writes a line if the row of its key still is what is known of it; says whether it did.
    async fn change(&mut self, line: &Line, known: Option<&Known>) -> Result<bool, sqlx::Error> {
        let query = match (line, known) {
            (Line::Refunded { key, at, refund_key, amount }, Some(known)) => sqlx::query(REFUND)
                .bind(*key)
                .bind(refund_key)
                .bind(at.to_offset())
                .bind(*amount)
                .bind(known.refunded()),
            // Of what was never charged nothing is given back.
            (Line::Refunded { .. }, None) => return Ok(false),
            (Line::Asked { .. } | Line::Captured { .. } | Line::Declined { .. }, None) => {
                return Ok(!self.write(&[line]).await?.is_empty());
            }
            (Line::Asked { .. } | Line::Captured { .. } | Line::Declined { .. }, Some(_)) => {
                let row = ChargeRow::from(line);
                sqlx::query(DECIDE)
                    .bind(row.key)
                    .bind(row.at)
                    .bind(row.captured)
                    .bind(row.currency)
                    .bind(row.token)
                    .bind(row.declined)
                    .bind(row.reason)
            }
        };
        Ok(within(query.fetch_optional(&mut self.connection)).await?.is_some())
    }

    /// Writes what is decided of keys of which nothing is known: of which keys that was so.
    async fn write(&mut self, lines: &[&Line]) -> Result<HashSet<Uuid>, sqlx::Error> {
        let rows: Vec<_> = lines.iter().map(|line| ChargeRow::from(*line)).collect();
        let query = sqlx::query(WRITE)
            .bind(rows.iter().map(|row| row.key).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.asked).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.captured).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.currency.clone()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.token.clone()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.declined).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.reason.clone()).collect::<Vec<_>>());
        let written = within(query.fetch_all(&mut self.connection)).await?;
        written.iter().map(|row| row.try_get(0)).collect()
    }

    async fn load(&mut self, keys: &[Uuid]) -> Result<HashMap<Uuid, Known>, sqlx::Error> {
        let query = sqlx::query(LOAD).bind(keys);
        let mut known: HashMap<Uuid, Known> = HashMap::new();
        for row in within(query.fetch_all(&mut self.connection)).await? {
            let of_key = known.entry(row.try_get(0)?).or_default();
            lines(&row)?.into_iter().for_each(|line| of_key.learn(line));
        }
        Ok(known)
    }
}

/// What a row of the books says, as lines.
fn lines(row: &PgRow) -> Result<Vec<Line>, sqlx::Error> {
    let (key, at) = (row.try_get(0)?, moment(row, 1)?.unwrap_or_default());
    let mut lines = Vec::new();
    lines.extend(moment(row, 2)?.map(|asked| Line::Asked { key, at: asked }));
    if let Some(amount) = row.try_get(3)? {
        let (currency, token) = (row.try_get(4)?, row.try_get(5)?);
        lines.push(Line::Captured { key, at, amount, currency, token });
    }
    if let Some(amount) = row.try_get(6)? {
        lines.push(Line::Declined { key, at, amount, reason: row.try_get(7)? });
    }
    if let Some(refund_key) = row.try_get(8)? {
        let at = moment(row, 10)?.unwrap_or_default();
        lines.push(Line::Refunded { key, at, refund_key, amount: row.try_get(9)? });
    }
    Ok(lines)
}

fn moment(row: &PgRow, column: usize) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Timestamp::from_offset))
}

/// A line as the table of charges has it.
#[derive(Default)]
struct ChargeRow {
    key: Uuid,
    at: Option<OffsetDateTime>,
    asked: Option<OffsetDateTime>,
    captured: Option<i64>,
    currency: Option<String>,
    token: Option<String>,
    declined: Option<i64>,
    reason: Option<String>,
}

impl From<&Line> for ChargeRow {
    fn from(line: &Line) -> Self {
        let row = |at: &Timestamp| Self { key: line.key(), at: Some(at.to_offset()), ..Self::default() };
        match line {
            Line::Asked { key: _, at } => Self { asked: Some(at.to_offset()), ..row(at) },
            Line::Captured { key: _, at, amount, currency, token } => Self {
                captured: Some(*amount),
                currency: Some(currency.clone()),
                // A text cannot hold it, and one that did would fail the whole turn.
                token: Some(token.replace('\0', "")),
                ..row(at)
            },
            Line::Declined { key: _, at, amount, reason } => {
                Self { declined: Some(*amount), reason: Some(reason.clone()), ..row(at) }
            }
            // Not a row of this table: a refund is noted beside the charge, never in its place.
            Line::Refunded { key: _, at, .. } => row(at),
        }
    }
}
