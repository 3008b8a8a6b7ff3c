//! What the concurrent core synchronises by, over loom. Locks and atomics are loom's. Of tokio's two loom has
//! none: [`Notify`] and [`oneshot`] are models that keep what tokio's documentation promises to the one who
//! waits, and whose every step is an operation on a lock of loom's, so that schedules part there too.
//!
//! A `Notify` that is modelled, rather than an `AtomicWaker` of which loom has its own, because production
//! then stays as it is: which of "put in, ring" and "look, wait" comes first is Souk's own code either way.

pub mod oneshot;
mod task;

use std::future::poll_fn;
use std::sync::PoisonError;
use std::task::{Poll, Waker};

pub use loom::sync::atomic::{AtomicUsize, Ordering};
pub use loom::sync::{Mutex, MutexGuard};
/// The standard library's: loom's cannot be a method's receiver, and nothing here rests on its count.
pub use std::sync::Arc;
pub use task::block_on;

/// tokio's `Notify`, as it behaves towards one waiter: a ring wakes who waits, and one that nobody waited
/// for is remembered, but never more than one.
#[derive(Debug, Default)]
pub struct Notify {
    state: Mutex<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    has_rung: bool,
    waiter: Option<Waker>,
}

impl Notify {
    /// Rings.
    pub fn notify_one(&self) {
        let waiter = {
            let mut bell = self.lock();
            bell.has_rung = true;
            bell.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Resolves when it has rung since this last resolved.
    pub async fn notified(&self) {
        poll_fn(|context| {
            let mut bell = self.lock();
            if std::mem::take(&mut bell.has_rung) {
                return Poll::Ready(());
            }
            bell.waiter = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Bell> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
