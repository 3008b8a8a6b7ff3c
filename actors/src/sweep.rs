//! The sweep: wakes whatever a row says is owed and nobody here sees to. Start, take-over, lost messages
//! and an old owner's late rows need nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use souk_persistence::Timestamp;
use souk_persistence::journal::{JournalError, Owed, SLOTS};
use souk_persistence::mutant::{self, Mutant};
use uuid::Uuid;

use crate::aggregate::Kind;
use crate::directory::Directory;
use crate::ids::Id;
use crate::order::Order;
use crate::payment::Payment;
use crate::settling::Collector;

/// How many rows are read at once.
const PAGE: i64 = 1_000;
/// The most entities that one round wakes, of each database.
const WOKEN_MAX: usize = 2_000;

/// Sweeps the databases whose entities can owe something.
#[derive(Debug, Default)]
pub struct Sweep {
    has_begun: AtomicBool,
}

impl Sweep {
    /// One round. The first wakes all that is owed; later ones what has been owed for `patience`, because
    /// what came due just now is being seen to.
    pub async fn round(&self, directory: &Directory, collector: &Collector, patience: Duration) {
        if mutant::is(Mutant::SweepOff) {
            return;
        }
        let hosts = directory.hosts();
        let is_first = !self.has_begun.load(Ordering::Acquire);
        let now = hosts.order.clock().now();
        let before = if is_first { now } else { now - patience };
        let mut is_complete = true;
        for journal in [directory.journal::<Order>(), directory.journal::<Payment>()] {
            let mut after = None;
            let mut woken = 0;
            while woken < WOKEN_MAX {
                let page = match journal.owed(0..=SLOTS - 1, before, after, PAGE).await {
                    Ok(page) => page,
                    Err(JournalError::Unavailable(cause) | JournalError::Corrupt(cause)) => {
                        tracing::warn!(%cause, "what is owed cannot be read");
                        is_complete = false;
                        break;
                    }
                };
                woken += page.iter().filter(|owed| wake(directory, collector, owed)).count();
                match page.last() {
                    Some(last) if page.len() == PAGE as usize => after = Some(place(last)),
                    Some(_) | None => break,
                }
            }
            is_complete &= woken < WOKEN_MAX;
            metrics::counter!("souk_swept_total").increment(woken as u64);
        }
        if is_complete {
            self.has_begun.store(true, Ordering::Release);
        }
    }
}

fn place(owed: &Owed) -> (Timestamp, Uuid) {
    (owed.since, owed.stream)
}

fn wake(directory: &Directory, collector: &Collector, owed: &Owed) -> bool {
    let Some(kind) = Kind::from_number(owed.kind) else {
        tracing::error!(stream = %owed.stream, kind = owed.kind, "a row of an unknown kind owes something");
        return false;
    };
    let is_collected = kind == Kind::Order && collector.has(Id::from(owed.stream));
    if is_collected || directory.hosts().of(kind).is_known(owed.stream) {
        return false;
    }
    directory.wake(kind, owed.stream);
    true
}
