//! Group commit: all rows that queue while one statement runs are the next one. What queues is
//! [`queue::Queue`]; here is the task that sends it.
//!
//! One task per journal, one statement under way. A commit is three-valued, and an unknown one is sent
//! again, the same batch under the same id, until the store answers: rows that are ours are returned,
//! whichever attempt wrote them. So whoever gave a row is told what became of it, and is told once.

mod queue;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::journal::{Committed, Done, Reschedule, Row};
use crate::statement::CommitError;

pub(crate) use self::queue::Batch;
use self::queue::{Asker, Queue};

const AGAIN_FIRST: Duration = Duration::from_millis(20);
const AGAIN_LAST: Duration = Duration::from_secs(1);

/// Where batches go.
pub(crate) trait Store: Send + 'static {
    /// Commits a batch: the streams whose rows are ours.
    fn commit(&mut self, batch: &Batch) -> impl Future<Output = Result<Vec<Uuid>, CommitError>> + Send;

    /// The commit is unknown: what is left of the way it took must not be used again.
    fn reset(&mut self);
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

    fn measure(&self) {
        let backlog = self.lock().backlog();
        metrics::gauge!("souk_journal_backlog", "db" => self.name.clone()).set(backlog as f64);
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
        self.shared.lock().reschedule(change);
        self.shared.wake.notify_one();
    }

    /// Resolves when no row of `stream` is held.
    pub(crate) async fn passed(&self, stream: Uuid) {
        let waiting = self.shared.lock().passed(stream);
        if let Some(waiting) = waiting {
            // The writer ends only when nobody waits any more.
            let _ = waiting.await;
        }
    }

    /// Resolves when every row given so far is answered.
    pub(crate) async fn flushed(&self) {
        let waiting = self.shared.lock().flushed();
        if let Some(waiting) = waiting {
            let _ = waiting.await;
        }
    }

    pub(crate) fn backlog(&self) -> usize {
        self.shared.lock().backlog()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().close();
        self.shared.wake.notify_one();
    }
}

async fn run(shared: Arc<Shared>, mut store: impl Store) {
    loop {
        let (batch, is_closed) = {
            let mut queue = shared.lock();
            (queue.take(), queue.is_closed())
        };
        match batch {
            Some((batch, askers)) => {
                shared.measure();
                commit(&shared, &mut store, batch, askers).await;
                shared.measure();
            }
            None if is_closed => return,
            None => shared.wake.notified().await,
        }
    }
}

/// Commits a batch and tells everybody. A batch that the store refuses is taken apart: its rows are sent
/// one by one under the same id, and only the one that is refused by itself is dropped.
async fn commit(shared: &Shared, store: &mut impl Store, batch: Batch, askers: Vec<Asker>) {
    let started = Instant::now();
    match send_until_answered(shared, store, &batch).await {
        Ok(ours) => {
            let db = shared.name.clone();
            metrics::counter!("souk_journal_commits_total", "db" => db.clone()).increment(1);
            metrics::counter!("souk_journal_rows_total", "db" => db.clone()).increment(ours.len() as u64);
            metrics::histogram!("souk_journal_commit_seconds", "db" => db)
                .record(started.elapsed().as_secs_f64());
            tell(shared, batch.rows, askers, |row| match ours.contains(&row.stream) {
                true => Committed::Taken,
                false => Committed::NotOurs,
            });
        }
        // Alone, a row is only to blame if no change of what is owed went with it.
        Err(cause) if batch.rows.len() > 1 || (!batch.reschedules.is_empty() && !batch.rows.is_empty()) => {
            tracing::error!(db = shared.name, rows = batch.rows.len(), %cause, "batch is taken apart");
            for (row, asker) in batch.rows.into_iter().zip(askers) {
                let single = Batch { id: batch.id, rows: vec![row], reschedules: Vec::new() };
                Box::pin(commit(shared, store, single, vec![asker])).await;
            }
        }
        Err(cause) => {
            tracing::error!(db = shared.name, %cause, "row is refused");
            tell(shared, batch.rows, askers, |_| Committed::Poisoned(Arc::clone(&cause)));
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
                // While nothing is answered, this is what grows.
                shared.measure();
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_LAST);
            }
        }
    }
}

fn tell(shared: &Shared, rows: Vec<Row>, askers: Vec<Asker>, what: impl Fn(&Row) -> Committed) {
    // Before anybody is told: who hears that a row is lost loads at once, and must not wait for itself.
    let free = shared.lock().settle(rows.iter().zip(&askers).map(|(row, asker)| (row.stream, asker.ticket)));
    for (row, Asker { done, .. }) in rows.into_iter().zip(askers) {
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
