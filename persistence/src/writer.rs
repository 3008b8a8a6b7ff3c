//! Group commit: all rows that queue while one statement runs are the next one. What queues is
//! [`queue::Queue`], givers and writer meet at [`handover::Handover`]; here is the task that sends.
//!
//! One task per journal, one statement under way. A commit is three-valued, and an unknown one is sent
//! again, the same batch under the same id, until the store answers: rows that are ours are returned,
//! whichever attempt wrote them. So whoever gave a row is told what became of it, and is told once.

mod handover;
mod queue;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::journal::{Committed, Done, Reschedule, Row};
use crate::mutant::{self, Mutant};
use crate::statement::CommitError;

use self::handover::Handover;
use self::queue::Asker;
pub(crate) use self::queue::Batch;

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
    handover: Handover,
    name: String,
}

impl Shared {
    fn measure(&self) {
        let backlog = self.handover.backlog();
        metrics::gauge!("souk_journal_backlog", "db" => self.name.clone()).set(backlog as f64);
    }
}

impl Writer {
    /// Starts a writer into `store`.
    pub(crate) fn start(name: &str, store: impl Store) -> Self {
        let shared = Arc::new(Shared { handover: Handover::default(), name: name.to_owned() });
        // Shown from the start: a counter that is missing is no zero.
        metrics::counter!("souk_journal_commits_total", "db" => name.to_owned()).increment(0);
        metrics::counter!("souk_journal_rows_total", "db" => name.to_owned()).increment(0);
        tokio::spawn(run(Arc::clone(&shared), store));
        Self { shared }
    }

    pub(crate) fn commit(&self, row: Row, done: Done) {
        self.shared.handover.commit(row, done);
    }

    pub(crate) fn reschedule(&self, change: Reschedule) {
        self.shared.handover.reschedule(change);
    }

    /// Resolves when no row of `stream` is held.
    pub(crate) async fn passed(&self, stream: Uuid) {
        self.shared.handover.passed(stream).await;
    }

    /// Resolves when every row given so far is answered.
    pub(crate) async fn flushed(&self) {
        self.shared.handover.flushed().await;
    }

    pub(crate) fn backlog(&self) -> usize {
        self.shared.handover.backlog()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.handover.close();
    }
}

async fn run(shared: Arc<Shared>, mut store: impl Store) {
    while let Some((batch, askers)) = shared.handover.next().await {
        shared.measure();
        commit(&shared, &mut store, batch, askers).await;
        shared.measure();
    }
}

/// Commits a batch and tells everybody. A batch that the store refuses is taken apart: its rows are sent
/// one by one under the same id, and only the one that is refused by itself is dropped.
async fn commit(shared: &Shared, store: &mut impl Store, mut batch: Batch, askers: Vec<Asker>) {
    let started = Instant::now();
    match send_until_answered(shared, store, &mut batch).await {
        Ok(ours) => {
            let db = shared.name.clone();
            metrics::counter!("souk_journal_commits_total", "db" => db.clone()).increment(1);
            metrics::counter!("souk_journal_rows_total", "db" => db.clone()).increment(ours.len() as u64);
            // Somebody else has written since, whoever may still hear of it here.
            let refused = batch.rows.len().saturating_sub(ours.len());
            metrics::counter!("souk_journal_refused_total", "db" => db.clone()).increment(refused as u64);
            metrics::histogram!("souk_journal_commit_seconds", "db" => db)
                .record(started.elapsed().as_secs_f64());
            shared.handover.tell(batch.rows, askers, |row| match ours.contains(&row.stream) {
                true => Committed::Taken,
                false if mutant::is(Mutant::ConflictIgnored) => Committed::Taken,
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
            shared.handover.tell(batch.rows, askers, |_| Committed::Poisoned(Arc::clone(&cause)));
        }
    }
}

async fn send_until_answered(
    shared: &Shared,
    store: &mut impl Store,
    batch: &mut Batch,
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
                if mutant::is(Mutant::ResentUnderNewId) {
                    batch.id = queue::new_id();
                }
                // While nothing is answered, this is what grows.
                shared.measure();
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_LAST);
            }
        }
    }
}
