//! Where rows change hands, between those who give them and the one task that sends them: a lock, and a
//! wake-up. It is all of the writer that is concurrent, and `tests/loom` tries every schedule of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use uuid::Uuid;

use super::queue::{Asker, Batch, Queue};
use crate::journal::{Committed, Done, Reschedule, Row};
use crate::sync::{Mutex, MutexGuard, Notify};

/// What is given and not yet answered. Many give, one task takes.
#[derive(Default)]
pub struct Handover {
    queue: Mutex<Queue>,
    /// Rung after something was put into the queue; it remembers one ring that nobody waited for.
    wake: Notify,
}

impl Handover {
    /// Gives a row; `done` is told what became of it.
    pub fn commit(&self, row: Row, done: Done) {
        self.lock().push(row, done);
        self.wake.notify_one();
    }

    /// Gives a change of what is owed.
    pub fn reschedule(&self, change: Reschedule) {
        self.lock().reschedule(change);
        self.wake.notify_one();
    }

    /// Resolves when no row of `stream` is held.
    pub async fn passed(&self, stream: Uuid) {
        let waiting = self.lock().passed(stream);
        if let Some(waiting) = waiting {
            // The writer ends only when nobody waits any more.
            let _ = waiting.await;
        }
    }

    /// Resolves when every row given so far is answered.
    pub async fn flushed(&self) {
        let waiting = self.lock().flushed();
        if let Some(waiting) = waiting {
            let _ = waiting.await;
        }
    }

    /// Rows and changes that wait or are under way.
    pub fn backlog(&self) -> usize {
        self.lock().backlog()
    }

    /// Nothing more will be given.
    pub fn close(&self) {
        self.lock().close();
        self.wake.notify_one();
    }

    /// The next batch, as soon as there is one; `None`: the handover is closed and everything was taken.
    pub async fn next(&self) -> Option<(Batch, Vec<Asker>)> {
        loop {
            let (taken, is_closed) = {
                let mut queue = self.lock();
                (queue.take(), queue.is_closed())
            };
            match taken {
                Some(taken) => return Some(taken),
                None if is_closed => return None,
                None => self.wake.notified().await,
            }
        }
    }

    /// Tells everybody what became of these rows.
    pub fn tell(&self, rows: Vec<Row>, askers: Vec<Asker>, what: impl Fn(&Row) -> Committed) {
        // Before anybody is told: who hears that a row is lost loads at once, and must not wait for itself.
        let free = self.lock().settle(rows.iter().map(|row| row.stream));
        let tickets: Vec<_> = askers.iter().map(|asker| asker.ticket).collect();
        for (row, Asker { done, .. }) in rows.into_iter().zip(askers) {
            let committed = what(&row);
            if catch_unwind(AssertUnwindSafe(|| done(committed))).is_err() {
                tracing::error!(stream = %row.stream, "whoever gave the row panicked when it was told");
            }
        }
        let silent = self.lock().answered(tickets);
        for sender in free.into_iter().chain(silent) {
            // Whoever waited may have gone.
            let _ = sender.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
