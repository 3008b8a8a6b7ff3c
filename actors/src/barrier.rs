//! The barrier: nothing leaves an entity before the newest row that it was decided from is durable.
//!
//! Shared between the entity, which holds answers back, and the journal's writer, which says that a row is
//! durable and releases them at once, without a message to the entity first. If a row is lost everything
//! held is dropped, and whoever waited learns that the outcome is unknown.

use std::collections::VecDeque;
use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

/// Answers of type `H`, held back by the version of the row that they rest on.
#[derive(Debug)]
pub struct Barrier<H> {
    inner: Mutex<Inner<H>>,
}

#[derive(Debug)]
struct Inner<H> {
    durable: i32,
    broken: bool,
    held: VecDeque<(i32, H)>,
}

/// What became of an answer that was to be held.
#[derive(Debug, PartialEq, Eq)]
pub enum Hold<H> {
    /// It waits for its row.
    Held,
    /// Its row is durable: it may leave now.
    Free(H),
    /// A row before it was lost: it must never leave.
    Broken(H),
}

impl<H> Barrier<H> {
    /// A barrier of a stream that stands at `durable`.
    pub fn new(durable: i32) -> Self {
        Self { inner: Mutex::new(Inner { durable, broken: false, held: VecDeque::new() }) }
    }

    /// Holds `answer` until the row `version` is durable. Versions never decrease from call to call.
    pub fn hold(&self, version: i32, answer: H) -> Hold<H> {
        let mut inner = self.lock();
        if inner.broken {
            return Hold::Broken(answer);
        }
        if version <= inner.durable {
            return Hold::Free(answer);
        }
        inner.held.push_back((version, answer));
        Hold::Held
    }

    /// The row `version` is durable: what may leave now, in the order in which it was decided.
    pub fn settle(&self, version: i32) -> Vec<H> {
        let mut inner = self.lock();
        if inner.broken {
            return Vec::new();
        }
        inner.durable = inner.durable.max(version);
        let free = inner.held.iter().take_while(|(needs, _)| *needs <= version).count();
        inner.held.drain(..free).map(|(_, answer)| answer).collect()
    }

    /// A row was lost: what was held, to be dropped by the caller outside the lock.
    pub fn break_open(&self) -> Vec<H> {
        let mut inner = self.lock();
        inner.broken = true;
        inner.held.drain(..).map(|(_, answer)| answer).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<H>> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_leaves_with_the_row_it_rests_on_and_not_before() {
        let barrier = Barrier::new(3);
        assert_eq!(barrier.hold(3, "read"), Hold::Free("read"));
        assert_eq!(barrier.hold(4, "first"), Hold::Held);
        assert_eq!(barrier.hold(5, "second"), Hold::Held);
        assert_eq!(barrier.hold(5, "third"), Hold::Held);
        assert_eq!(barrier.settle(4), vec!["first"]);
        assert_eq!(barrier.hold(4, "again"), Hold::Free("again"));
        assert_eq!(barrier.settle(5), vec!["second", "third"]);
    }

    #[test]
    fn what_rests_on_a_lost_row_never_leaves() {
        let barrier = Barrier::new(0);
        assert_eq!(barrier.hold(1, "held"), Hold::Held);
        assert_eq!(barrier.break_open(), vec!["held"]);
        assert_eq!(barrier.hold(1, "late"), Hold::Broken("late"));
        assert_eq!(barrier.hold(0, "read"), Hold::Broken("read"));
        assert_eq!(barrier.settle(1), Vec::<&str>::new());
    }
}
