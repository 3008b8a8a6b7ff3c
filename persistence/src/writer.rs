//! Group commit: all rows that queue while one statement runs are the next one.
//!
//! One task per journal, one statement under way. A commit is three-valued, and an unknown one is sent
//! again, the same batch under the same id, until the store answers: rows that are ours are returned,
//! whichever attempt wrote them. So whoever gave a row is told what became of it, and is told once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::journal::{Committed, Done, Reschedule, Row};
use crate::statement::CommitError;

/// The most rows of a batch.
const ROWS_MAX: usize = 2_000;
/// A batch is closed by the row that passes this, in bytes of JSON.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most changes of what is owed that ride in one batch: in bulk they stall the writer.
const RESCHEDULES_MAX: usize = 100;
/// The most that wait; what comes then is dropped, and the sweep repeats it.
const RESCHEDULES_WAITING_MAX: usize = 200_000;
const AGAIN_FIRST: Duration = Duration::from_millis(20);
const AGAIN_LAST: Duration = Duration::from_secs(1);

/// Where batches go.
pub(crate) trait Store: Send + 'static {
    /// Commits a batch: the streams whose rows are ours.
    fn commit(&mut self, batch: &Batch) -> impl Future<Output = Result<Vec<Uuid>, CommitError>> + Send;

    /// The commit is unknown: what is left of the way it took must not be used again.
    fn reset(&mut self);
}

/// A row and whoever wants to know what became of it.
struct Queued {
    row: Row,
    done: Done,
}

/// What one statement commits.
pub(crate) struct Batch {
    /// Names it, however often it is sent.
    pub id: Uuid,
    /// Sorted by stream, one row of each.
    pub rows: Vec<Row>,
    /// Changes of streams that have no row in the batch.
    pub reschedules: Vec<Reschedule>,
}

/// What waits to be committed. Pure: it knows no task and no store.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Queued>,
    /// How many rows of a stream wait or are under way.
    held: HashMap<Uuid, usize>,
    reschedules: VecDeque<Reschedule>,
    loads: Vec<(Uuid, oneshot::Sender<()>)>,
    flushes: Vec<oneshot::Sender<()>>,
    is_closed: bool,
}

impl Queue {
    fn push(&mut self, row: Row, done: Done) {
        *self.held.entry(row.stream).or_default() += 1;
        self.waiting.push_back(Queued { row, done });
    }

    /// The next batch. A second row of a stream waits for the one after, and so do all behind it.
    fn take(&mut self) -> Option<(Batch, Vec<Done>)> {
        let (mut rows, mut later, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        let mut streams = HashSet::new();
        while rows.len() < ROWS_MAX && bytes < BYTES_MAX {
            let Some(queued) = self.waiting.pop_front() else { break };
            if streams.insert(queued.row.stream) {
                bytes += queued.row.events.len() + queued.row.view.len();
                rows.push(queued);
            } else {
                later.push_back(queued);
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
        rows.sort_by_key(|queued| queued.row.stream);

        let count = self.reschedules.len().min(RESCHEDULES_MAX);
        // A stream that has a row here is at another version by then anyway.
        let mut reschedules: Vec<_> =
            self.reschedules.drain(..count).filter(|change| !streams.contains(&change.stream)).collect();
        reschedules.sort_by_key(|change| change.stream);
        reschedules.dedup_by_key(|change| change.stream);
        let is_empty = rows.is_empty() && reschedules.is_empty();
        let (rows, dones) = rows.into_iter().map(|Queued { row, done }| (row, done)).unzip();
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        (!is_empty).then_some((Batch { id, rows, reschedules }, dones))
    }

    /// These rows are answered: whoever may load now, and whoever waited for silence.
    fn settle(&mut self, streams: impl Iterator<Item = Uuid>) -> Vec<oneshot::Sender<()>> {
        for stream in streams {
            if let Some(count) = self.held.get_mut(&stream) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(&stream);
                }
            }
        }
        let (free, wait): (Vec<_>, Vec<_>) =
            self.loads.drain(..).partition(|(stream, _)| !self.held.contains_key(stream));
        self.loads = wait;
        let mut free: Vec<_> = free.into_iter().map(|(_, sender)| sender).collect();
        if self.held.is_empty() {
            free.append(&mut self.flushes);
        }
        free
    }
}

/// The giving end of a writer. When it is dropped the writer answers what it holds and ends.
pub(crate) struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    name: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts a writer into `store`.
    pub(crate) fn start(name: &str, store: impl Store) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Notify::new(), name: name.to_owned() });
        tokio::spawn(run(Arc::clone(&shared), store));
        Self { shared }
    }

    pub(crate) fn commit(&self, row: Row, done: Done) {
        self.shared.lock().push(row, done);
        self.shared.wake.notify_one();
    }

    pub(crate) fn reschedule(&self, change: Reschedule) {
        let mut queue = self.shared.lock();
        if queue.reschedules.len() < RESCHEDULES_WAITING_MAX {
            queue.reschedules.push_back(change);
        }
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Resolves when no row of `stream` is held.
    pub(crate) async fn passed(&self, stream: Uuid) {
        let waiting = {
            let mut queue = self.shared.lock();
            queue.held.contains_key(&stream).then(|| {
                let (sender, receiver) = oneshot::channel();
                queue.loads.push((stream, sender));
                receiver
            })
        };
        if let Some(waiting) = waiting {
            // The writer ends only when nobody waits any more.
            let _ = waiting.await;
        }
    }

    /// Resolves when no row is held.
    pub(crate) async fn flushed(&self) {
        let waiting = {
            let mut queue = self.shared.lock();
            (!queue.held.is_empty()).then(|| {
                let (sender, receiver) = oneshot::channel();
                queue.flushes.push(sender);
                receiver
            })
        };
        if let Some(waiting) = waiting {
            let _ = waiting.await;
        }
    }

    pub(crate) fn backlog(&self) -> usize {
        let queue = self.shared.lock();
        queue.held.values().sum::<usize>() + queue.reschedules.len()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }
}

async fn run(shared: Arc<Shared>, mut store: impl Store) {
    loop {
        let (batch, is_closed) = {
            let mut queue = shared.lock();
            (queue.take(), queue.is_closed)
        };
        match batch {
            Some((batch, dones)) => commit(&shared, &mut store, batch, dones).await,
            None if is_closed => return,
            None => shared.wake.notified().await,
        }
    }
}

/// Commits a batch and tells everybody. A batch that the store refuses is taken apart: its rows are sent
/// one by one under the same id, and only the one that is refused by itself is dropped.
async fn commit(shared: &Shared, store: &mut impl Store, batch: Batch, dones: Vec<Done>) {
    let started = Instant::now();
    match send_until_answered(shared, store, &batch).await {
        Ok(ours) => {
            let db = shared.name.clone();
            metrics::counter!("souk_journal_commits_total", "db" => db.clone()).increment(1);
            metrics::counter!("souk_journal_rows_total", "db" => db.clone()).increment(ours.len() as u64);
            metrics::histogram!("souk_journal_commit_seconds", "db" => db)
                .record(started.elapsed().as_secs_f64());
            tell(shared, batch.rows, dones, |row| match ours.contains(&row.stream) {
                true => Committed::Taken,
                false => Committed::NotOurs,
            });
        }
        Err(cause) if batch.rows.len() > 1 || !batch.reschedules.is_empty() && !batch.rows.is_empty() => {
            tracing::error!(db = shared.name, rows = batch.rows.len(), %cause, "batch is taken apart");
            for (row, done) in batch.rows.into_iter().zip(dones) {
                let single = Batch { id: batch.id, rows: vec![row], reschedules: Vec::new() };
                Box::pin(commit(shared, store, single, vec![done])).await;
            }
        }
        Err(cause) => {
            tracing::error!(db = shared.name, %cause, "row is refused");
            tell(shared, batch.rows, dones, |_| Committed::Poisoned(Arc::clone(&cause)));
        }
    }
}

async fn send_until_answered(
    shared: &Shared,
    store: &mut impl Store,
    batch: &Batch,
) -> Result<HashSet<Uuid>, Arc<str>> {
    let mut wait = AGAIN_FIRST;
    loop {
        match store.commit(batch).await {
            Ok(ours) => return Ok(ours.into_iter().collect()),
            Err(CommitError::Refused(cause)) => return Err(cause.to_string().into()),
            Err(CommitError::Unknown(cause)) => {
                let db = shared.name.clone();
                tracing::warn!(db, batch = %batch.id, %cause, "commit is unknown and is sent again");
                metrics::counter!("souk_journal_resends_total", "db" => db).increment(1);
                store.reset();
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_LAST);
            }
        }
    }
}

fn tell(shared: &Shared, rows: Vec<Row>, dones: Vec<Done>, what: impl Fn(&Row) -> Committed) {
    // Before anybody is told: who hears that a row is lost loads at once, and must not wait for itself.
    let free = shared.lock().settle(rows.iter().map(|row| row.stream));
    for (row, done) in rows.into_iter().zip(dones) {
        let committed = what(&row);
        if catch_unwind(AssertUnwindSafe(|| done(committed))).is_err() {
            tracing::error!(stream = %row.stream, "whoever gave the row panicked when it was told");
        }
    }
    for sender in free {
        // Whoever waited may have gone.
        let _ = sender.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn row(stream: u128, version: i32) -> Row {
        Row {
            stream: Uuid::from_u128(stream),
            version,
            kind: 5,
            slot: 0,
            at: Timestamp::default(),
            updated_at: Timestamp::default(),
            events: "[]".to_owned(),
            owner: None,
            owed: None,
            view: "{}".into(),
            snapshot: None,
        }
    }

    fn names((batch, dones): (Batch, Vec<Done>)) -> Vec<(u128, i32)> {
        assert_eq!(batch.rows.len(), dones.len());
        batch.rows.iter().map(|row| (row.stream.as_u128(), row.version)).collect()
    }

    fn queue(rows: &[(u128, i32)]) -> Queue {
        let mut queue = Queue::default();
        for (stream, version) in rows {
            queue.push(row(*stream, *version), Box::new(|_| {}));
        }
        queue
    }

    #[test]
    fn a_batch_is_sorted_and_has_one_row_of_each_stream() {
        let mut queue = queue(&[(3, 1), (1, 1), (3, 2), (2, 1), (3, 3)]);
        assert_eq!(names(queue.take().expect("rows wait")), vec![(1, 1), (2, 1), (3, 1)]);
        assert_eq!(names(queue.take().expect("rows wait")), vec![(3, 2)]);
        assert_eq!(names(queue.take().expect("rows wait")), vec![(3, 3)]);
        assert!(queue.take().is_none());
    }

    #[test]
    fn a_load_waits_for_every_row_of_its_stream_and_for_no_other() {
        let mut queue = queue(&[(1, 1), (1, 2), (2, 1)]);
        let (sender, mut receiver) = oneshot::channel();
        queue.loads.push((Uuid::from_u128(1), sender));
        let settle = |queue: &mut Queue, stream| {
            for sender in queue.settle(std::iter::once(Uuid::from_u128(stream))) {
                sender.send(()).expect("somebody waits");
            }
        };
        settle(&mut queue, 2);
        settle(&mut queue, 1);
        assert!(receiver.try_recv().is_err());
        settle(&mut queue, 1);
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn what_is_owed_is_never_moved_beside_a_row_of_the_same_stream() {
        let mut queue = queue(&[(1, 4)]);
        for stream in [1, 2] {
            let stream = Uuid::from_u128(stream);
            queue.reschedules.push_back(Reschedule { stream, version: 3, owed: None });
        }
        let (batch, _) = queue.take().expect("a row waits");
        let moved: Vec<_> = batch.reschedules.iter().map(|change| change.stream.as_u128()).collect();
        assert_eq!(moved, vec![2]);
    }
}
