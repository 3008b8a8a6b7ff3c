//! The journal of one service database: what its entities decided, and what readers see of them.
//!
//! Two implementations keep one contract: [`crate::postgres::PostgresJournal`] and
//! [`crate::memory::MemoryJournal`]. The suite that says what the contract is: `tests/journal.rs`.
//!
//! A stream is the history of one entity. Its version is the number of its rows, dense from 1. A row is
//! taken only if the stream stands at the version before it; so of two writers of one stream one loses,
//! whatever clocks and leases say. A row that was lost is not repaired: its entity dies and is loaded.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::Timestamp;

/// The number of slots that ids are spread over; an id carries its slot in the 12 bits after the version
/// nibble.
pub const SLOTS: i16 = 4096;

/// One row: everything that one entity decided since its row before, and how it stands after it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The entity's id.
    pub stream: Uuid,
    /// The number of this row in its stream, from 1.
    pub version: i32,
    /// Which aggregate wrote it.
    pub kind: i16,
    /// The entity's slot, 0 to 4095.
    pub slot: i16,
    /// When its first event was decided. Never earlier than the row before.
    pub at: Timestamp,
    /// When its last event was decided.
    pub updated_at: Timestamp,
    /// The events, a JSON array. Never empty of meaning, though a row may carry only its time.
    pub events: String,
    /// Whose it is: the account that lists show it to. Written with the first row and never changed.
    pub owner: Option<Uuid>,
    /// From when the entity must be awake; `None` at rest.
    pub owed: Option<Timestamp>,
    /// What readers see, a JSON document. Holds no secret.
    pub view: Arc<str>,
    /// The state after this row, a JSON object whose number `version` is this row's version. `None` keeps
    /// the one before.
    pub snapshot: Option<String>,
}

/// What became of a row. There is no third answer: until the database has said which, nobody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Durable, and ours.
    Taken,
    /// Another incarnation wrote this version, or the one before is missing. Nothing of it is stored.
    NotOurs,
    /// The database refuses this very row, whoever sends it: a bug. Nothing of it is stored.
    Poisoned(Arc<str>),
}

/// Called once with what became of a row, on the writer's task: it must be quick and must not block.
pub type Done = Box<dyn FnOnce(Committed) + Send>;

/// A row of a stream's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its number in the stream.
    pub version: i32,
    /// When its first event was decided.
    pub at: Timestamp,
    /// The JSON array that was committed.
    pub events: String,
}

/// What there is of an entity: its newest snapshot and the rows after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Which aggregate wrote it.
    pub kind: i16,
    /// The version the stream stands at.
    pub version: i32,
    /// As in the newest row, or as rescheduled since.
    pub owed: Option<Timestamp>,
    /// When the first row was decided.
    pub created_at: Timestamp,
    /// The newest row's `updated_at`.
    pub updated_at: Timestamp,
    /// The snapshot as it was given.
    pub snapshot: Option<String>,
    /// The rows behind the snapshot, or all, in order.
    pub tail: Vec<StoredRow>,
}

/// One entity as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRow {
    /// The entity's id.
    pub stream: Uuid,
    /// The version that this view shows.
    pub version: i32,
    /// Whose it is.
    pub owner: Option<Uuid>,
    /// When the first row was decided.
    pub created_at: Timestamp,
    /// When the newest row was decided.
    pub updated_at: Timestamp,
    /// The JSON document.
    pub view: Arc<str>,
}

/// One entity as it is stored: the guard of its stream, with all that its newest row said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The entity's id.
    pub stream: Uuid,
    /// Which aggregate wrote it.
    pub kind: i16,
    /// The version the stream stands at.
    pub version: i32,
    /// The entity's slot.
    pub slot: i16,
    /// As in the newest row, or as rescheduled since.
    pub owed: Option<Timestamp>,
    /// Whose it is.
    pub owner: Option<Uuid>,
    /// When the first row was decided.
    pub created_at: Timestamp,
    /// When the newest row was decided.
    pub updated_at: Timestamp,
    /// What readers see.
    pub view: Arc<str>,
    /// The newest snapshot, as it was given.
    pub snapshot: Option<String>,
}

/// One row of any stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRow {
    /// Whose history it is of.
    pub stream: Uuid,
    /// Which aggregate wrote it.
    pub kind: i16,
    /// The row.
    pub row: StoredRow,
}

/// An entity that must be awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The entity's id.
    pub stream: Uuid,
    /// Which aggregate it is.
    pub kind: i16,
    /// From when.
    pub since: Timestamp,
}

/// Moves or clears what an entity owes, without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reschedule {
    /// The entity's id.
    pub stream: Uuid,
    /// Applied only while the stream stands at this version.
    pub version: i32,
    /// The new time; `None`: nothing is owed any more.
    pub owed: Option<Timestamp>,
}

/// Which entities a list shows: newest first, by `(created_at, stream)`.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// The aggregate.
    pub kind: i16,
    /// Only this owner's.
    pub owner: Option<Uuid>,
    /// Only views whose top-level string members equal these: (name, value). At most eight.
    pub equal: Vec<(String, String)>,
    /// Behind this entry: the last one of the page before.
    pub after: Option<(Timestamp, Uuid)>,
    /// At most so many, 1 to 100.
    pub limit: i64,
}

/// Why a journal could not be read. Writing has no error: it goes on until it is answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The database is away, busy or restarting; the same may be asked again.
    #[error("journal is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// What is stored cannot be read. Asking again will not help.
    #[error("stored data cannot be read: {0}")]
    Corrupt(Arc<str>),
}

/// The journal of one service database.
pub trait Journal: Send + Sync + fmt::Debug + 'static {
    /// Queues a row; `done` is told what became of it, however long that takes. Two rows of one stream
    /// are committed in the order in which they were given.
    fn commit(&self, row: Row, done: Done);

    /// Everything of one entity, after this node's writer has been told about all rows of it that it
    /// holds. `None`: the stream has no row.
    fn load(&self, stream: Uuid) -> BoxFuture<'_, Result<Option<Loaded>, JournalError>>;

    /// What is owed since before `before`, oldest first, behind `after`, at most `limit` entries.
    fn owed(
        &self,
        slots: std::ops::RangeInclusive<i16>,
        before: Timestamp,
        after: Option<(Timestamp, Uuid)>,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<Owed>, JournalError>>;

    /// Queues a change of what is owed. It rides with a later batch, is not answered, and may be lost
    /// with the process: the sweep finds what was.
    fn reschedule(&self, change: Reschedule);

    /// The views of the named entities of a kind, in any order; unknown ones are missing. At most 100.
    fn views(&self, kind: i16, streams: Vec<Uuid>) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>>;

    /// A page of views. A view with the member `"gone": true` is left out.
    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<Vec<ViewRow>, JournalError>>;

    /// A page of all entities, in order of stream, behind `after`: for whoever checks a whole database.
    /// Bounded work, whatever the kinds in it and however long their histories.
    fn scan(&self, after: Option<Uuid>, limit: i64) -> BoxFuture<'_, Result<Vec<Scanned>, JournalError>>;

    /// A page of all rows, in order of stream and version: behind `after`, up to and with the stream
    /// `until`. Rows may be newer than the guards that an earlier scan has read.
    fn scan_rows(
        &self,
        after: Option<(Uuid, i32)>,
        until: Uuid,
        limit: i64,
    ) -> BoxFuture<'_, Result<Vec<ScannedRow>, JournalError>>;

    /// Removes rows of these kinds that a later snapshot covers, at most `limit`; answers how many went.
    /// For streams whose past must not stay: accounts, sessions, addresses.
    fn forget(&self, kinds: Vec<i16>, limit: i64) -> BoxFuture<'_, Result<u64, JournalError>>;

    /// Rows and reschedules that are queued or under way.
    fn backlog(&self) -> usize;

    /// Resolves when everything queued so far has been answered.
    fn flushed(&self) -> BoxFuture<'_, ()>;
}
