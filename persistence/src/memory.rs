//! The journal in memory: the same contract and the same writer, for tests and simulation. Loses what it
//! is told to lose. Several nodes may have it, each with a handle and a writer of its own.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::ops::{Bound, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::journal::{
    Done, Journal, JournalError, ListQuery, Loaded, Owed, Reschedule, Row, Scanned, ScannedRow, StoredRow,
    ViewRow,
};
use crate::statement::CommitError;
use crate::writer::{Batch, Store, Writer};
use crate::{Timestamp, chance};

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not reach the store, and nobody is told so.
    LoseRequest,
    /// It is stored, and nobody is told so.
    LoseAnswer,
    /// None: it is stored, and everybody hears of it.
    Heard,
}

/// A node's handle of a journal that lives as long as somebody has one.
pub struct MemoryJournal {
    writer: Writer,
    stored: Arc<Mutex<Stored>>,
    way: Arc<Way>,
}

/// The way from one node to the journal.
struct Way {
    is_paused: watch::Sender<bool>,
    is_away: AtomicBool,
    /// The longest that a commit takes; how long each takes is drawn.
    latency: Mutex<Duration>,
}

#[derive(Default)]
struct Stored {
    entities: BTreeMap<Uuid, Entity>,
    journal: BTreeMap<(Uuid, i32), (i16, StoredRow)>,
    /// The journal's rows in the order in which they were taken.
    taken: Vec<(Uuid, i32)>,
    faults: VecDeque<Fault>,
    poisoned: HashSet<Uuid>,
    sent: usize,
}

struct Entity {
    row: Row,
    batch: Uuid,
    created_at: Timestamp,
}

impl fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJournal").finish_non_exhaustive()
    }
}

impl MemoryJournal {
    /// An empty journal.
    pub fn open(name: &str) -> Arc<Self> {
        Self::over(name, Arc::default())
    }

    /// The same journal as another node has it: what is paused, away or slow here is not so there.
    pub fn beside(&self, name: &str) -> Arc<Self> {
        Self::over(name, Arc::clone(&self.stored))
    }

    fn over(name: &str, stored: Arc<Mutex<Stored>>) -> Arc<Self> {
        let (is_paused, paused) = watch::channel(false);
        let way = Way { is_paused, is_away: AtomicBool::new(false), latency: Mutex::default() };
        let way = Arc::new(way);
        let store = MemoryStore { stored: Arc::clone(&stored), way: Arc::clone(&way), paused };
        Arc::new(Self { writer: Writer::start(name, store), stored, way })
    }

    /// These happen to the next commits, one each.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// How many of them have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.lock().faults.len()
    }

    /// Every row of this stream is refused from now on.
    pub fn poison(&self, stream: Uuid) {
        self.lock().poisoned.insert(stream);
    }

    /// Holds commits back, or lets them go on.
    pub fn pause(&self, is_paused: bool) {
        self.way.is_paused.send_replace(is_paused);
    }

    /// Reading fails, or works again.
    pub fn away(&self, is_away: bool) {
        self.way.is_away.store(is_away, Ordering::Release);
    }

    /// A commit takes up to so long.
    pub fn slow(&self, latency: Duration) {
        *self.way.latency() = latency;
    }

    /// Every row that is stored, in the order in which they were taken.
    pub fn chronicle(&self) -> Vec<(Uuid, StoredRow)> {
        let stored = self.lock();
        let rows = stored.taken.iter().filter_map(|key| Some((key.0, stored.journal.get(key)?.1.clone())));
        rows.collect()
    }

    /// How many commits have been sent, repeated ones counted.
    pub fn sent(&self) -> usize {
        self.lock().sent
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce(&Stored) -> Result<T, JournalError>) -> Result<T, JournalError> {
        match self.way.is_away.load(Ordering::Acquire) {
            true => Err(JournalError::Unavailable("the journal is away".into())),
            false => read(&self.lock()),
        }
    }
}

impl Way {
    fn latency(&self) -> MutexGuard<'_, Duration> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemoryStore {
    stored: Arc<Mutex<Stored>>,
    way: Arc<Way>,
    paused: watch::Receiver<bool>,
}

impl Store for MemoryStore {
    async fn commit(&mut self, batch: &Batch) -> Result<Vec<Uuid>, CommitError> {
        let going_on = self.paused.wait_for(|is_paused| !is_paused).await;
        going_on.expect("the store holds the way, and with it the sender");
        let latency = *self.way.latency();
        match latency.is_zero() {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(latency.mul_f64(chance::draw())).await,
        }
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.sent += 1;
        match stored.faults.pop_front() {
            None | Some(Fault::Heard) => stored.commit(batch),
            Some(Fault::LoseRequest) => Err(CommitError::Unknown("the request was lost".into())),
            Some(Fault::LoseAnswer) => {
                stored.commit(batch)?;
                Err(CommitError::Unknown("the answer was lost".into()))
            }
        }
    }

    fn reset(&mut self) {}
}

impl Stored {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<Uuid>, CommitError> {
        let is_json = |text: &str| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
        let is_refused = batch.rows.iter().any(|row| {
            let texts = [Some(row.events.as_str()), Some(&row.view), row.snapshot.as_deref()];
            self.poisoned.contains(&row.stream) || !texts.into_iter().flatten().all(is_json)
        });
        if is_refused {
            return Err(CommitError::Refused("a row is poisoned".into()));
        }
        for Reschedule { stream, version, owed } in &batch.reschedules {
            if let Some(entity) = self.entities.get_mut(stream)
                && entity.row.version == *version
            {
                entity.row.owed = *owed;
            }
        }
        Ok(batch.rows.iter().filter_map(|row| self.take(row, batch.id)).collect())
    }

    fn take(&mut self, row: &Row, batch: Uuid) -> Option<Uuid> {
        let before = self.entities.get(&row.stream);
        let stands_at = before.map_or(0, |entity| entity.row.version);
        let is_repeated = before.is_some_and(|entity| entity.batch == batch) && stands_at == row.version;
        if !is_repeated {
            if stands_at != row.version - 1 {
                return None;
            }
            let mut row = row.clone();
            let created_at = before.map_or(row.at, |entity| entity.created_at);
            if let Some(before) = before {
                row.owner = before.row.owner;
                row.snapshot = row.snapshot.or_else(|| before.row.snapshot.clone());
            }
            let stored = StoredRow { version: row.version, at: row.at, events: row.events.clone() };
            self.taken.push((row.stream, row.version));
            self.journal.insert((row.stream, row.version), (row.kind, stored));
            self.entities.insert(row.stream, Entity { row, batch, created_at });
        }
        Some(row.stream)
    }

    fn snapshot_version(&self, stream: Uuid) -> Result<i32, JournalError> {
        let snapshot = self.entities.get(&stream).and_then(|entity| entity.row.snapshot.as_ref());
        let Some(snapshot) = snapshot else { return Ok(0) };
        let snapshot: Value = serde_json::from_str(snapshot)
            .map_err(|error| JournalError::Corrupt(error.to_string().into()))?;
        let version = snapshot["version"].as_i64().and_then(|version| i32::try_from(version).ok());
        version.ok_or_else(|| JournalError::Corrupt("a snapshot has no version".into()))
    }

    fn load(&self, stream: Uuid) -> Result<Option<Loaded>, JournalError> {
        let Some(entity) = self.entities.get(&stream) else { return Ok(None) };
        let behind = self.snapshot_version(stream)?;
        let tail = self.journal.range((stream, behind + 1)..=(stream, i32::MAX));
        Ok(Some(Loaded {
            kind: entity.row.kind,
            version: entity.row.version,
            owed: entity.row.owed,
            created_at: entity.created_at,
            updated_at: entity.row.updated_at,
            snapshot: entity.row.snapshot.clone(),
            tail: tail.map(|(_, (_, row))| row.clone()).collect(),
        }))
    }

    fn list(&self, query: &ListQuery) -> Vec<ViewRow> {
        let mut rows: Vec<_> = self
            .entities
            .values()
            .filter(|entity| entity.row.kind == query.kind && fits(&entity.row, query))
            .map(Entity::view)
            .filter(|row| query.after.is_none_or(|after| (row.created_at, row.stream) < after))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.stream)));
        rows.truncate(at_most(query.limit));
        rows
    }
}

fn fits(row: &Row, query: &ListQuery) -> bool {
    let view: Value = serde_json::from_str(&row.view).unwrap_or(Value::Null);
    view["gone"] != Value::Bool(true)
        && query.owner.is_none_or(|owner| row.owner == Some(owner))
        && query.equal.iter().all(|(name, value)| view[name].as_str() == Some(value))
}

impl Entity {
    fn view(&self) -> ViewRow {
        ViewRow {
            stream: self.row.stream,
            version: self.row.version,
            owner: self.row.owner,
            created_at: self.created_at,
            updated_at: self.row.updated_at,
            view: Arc::clone(&self.row.view),
        }
    }

    fn scanned(&self) -> Scanned {
        Scanned {
            stream: self.row.stream,
            kind: self.row.kind,
            version: self.row.version,
            slot: self.row.slot,
            owed: self.row.owed,
            owner: self.row.owner,
            created_at: self.created_at,
            updated_at: self.row.updated_at,
            view: Arc::clone(&self.row.view),
            snapshot: self.row.snapshot.clone(),
        }
    }
}

fn at_most(limit: i64) -> usize {
    usize::try_from(limit).unwrap_or(0)
}

impl Journal for MemoryJournal {
    fn commit(&self, row: Row, done: Done) {
        self.writer.commit(row, done);
    }

    fn load(&self, stream: Uuid) -> BoxFuture<'_, Result<Option<Loaded>, JournalError>> {
        async move {
            self.writer.passed(stream).await;
            self.read(|stored| stored.load(stream))
        }
        .boxed()
    }

    fn owed(
        &self,
        slots: RangeInclusive<i16>,
        before: Timestamp,
        after: Option<(Timestamp, Uuid)>,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<Owed>, JournalError>> {
        let owed = self.read(|stored| {
            let mut owed: Vec<_> = stored
                .entities
                .values()
                .filter(|entity| slots.contains(&entity.row.slot))
                .filter_map(|Entity { row, .. }| {
                    Some(Owed { stream: row.stream, kind: row.kind, since: row.owed? })
                })
                .filter(|owed| owed.since <= before && after.is_none_or(|a| (owed.since, owed.stream) > a))
                .collect();
            owed.sort_by_key(|owed| (owed.since, owed.stream));
            owed.truncate(at_most(limit));
            Ok(owed)
        });
        async move { owed }.boxed()
    }

    fn reschedule(&self, change: Reschedule) {
        self.writer.reschedule(change);
    }

    fn views(&self, kind: i16, streams: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        let views = self.read(|stored| {
            let known = streams.iter().filter_map(|stream| stored.entities.get(stream));
            Ok(known.filter(|entity| entity.row.kind == kind).map(Entity::view).collect())
        });
        async move { views }.boxed()
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>> {
        let rows = self.read(|stored| Ok(stored.list(&query)));
        async move { rows }.boxed()
    }

    fn scan(&self, after: Option<Uuid>, limit: i64) -> BoxFuture<'_, Result<Vec<Scanned>, JournalError>> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let page = self.read(|stored| {
            let entities = stored.entities.range(behind).take(at_most(limit));
            Ok(entities.map(|(_, entity)| entity.scanned()).collect())
        });
        async move { page }.boxed()
    }

    fn scan_rows(
        &self,
        after: Option<(Uuid, i32)>,
        until: Uuid,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<ScannedRow>, JournalError>> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let page = self.read(|stored| {
            let rows = stored.journal.range(behind).take_while(|((stream, _), _)| *stream <= until);
            let row = |(key, (kind, row)): (&(Uuid, i32), &(i16, StoredRow))| ScannedRow {
                stream: key.0,
                kind: *kind,
                row: row.clone(),
            };
            Ok(rows.take(at_most(limit)).map(row).collect())
        });
        async move { page }.boxed()
    }

    fn forget(&self, kinds: Vec<i16>, limit: i64) -> BoxFuture<'_, Result<u64, JournalError>> {
        if let Err(error) = self.read(|_| Ok(())) {
            return async { Err(error) }.boxed();
        }
        let mut stored = self.lock();
        let past: Vec<_> = stored
            .journal
            .iter()
            .filter(|((stream, version), (kind, _))| {
                kinds.contains(kind) && stored.snapshot_version(*stream).is_ok_and(|covers| *version < covers)
            })
            .map(|(key, _)| *key)
            .take(at_most(limit))
            .collect();
        for key in &past {
            stored.journal.remove(key);
        }
        async move { Ok(past.len() as u64) }.boxed()
    }

    fn backlog(&self) -> usize {
        self.writer.backlog()
    }

    fn flushed(&self) -> BoxFuture<'_, ()> {
        self.writer.flushed().boxed()
    }
}
