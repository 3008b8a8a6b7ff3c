//! The sweep: wakes whatever a row says is owed and nobody here sees to. Start, take-over, lost messages
//! and an old owner's late rows need nothing else.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use souk_persistence::Timestamp;
use souk_persistence::journal::{Journal, JournalError, Owed};
use souk_persistence::mutant::{self, Mutant};
use uuid::Uuid;

use crate::aggregate::Kind;
use crate::directory::Directory;
use crate::ids::Id;
use crate::order::Order;
use crate::payment::Payment;
use crate::settling::Collector;
use crate::territory::SlotSet;

/// How many rows are read at once.
const PAGE: i64 = 1_000;
/// The most entities that one round wakes, of each database.
const WOKEN_MAX: usize = 2_000;

/// Sweeps the databases whose entities can owe something, for the slots of this node.
#[derive(Debug, Default)]
pub struct Sweep {
    begun: Mutex<Begun>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    /// Slots of which all that was owed when they came here is awake.
    slots: SlotSet,
    /// How often slots have left.
    left: u64,
}

impl Sweep {
    /// One round. Of slots that have just come here it wakes all that is owed; of the others what has been owed
    /// for `patience`, because what came due just now is being seen to.
    pub async fn round(&self, directory: &Directory, collector: &Collector, patience: Duration) {
        if mutant::is(Mutant::SweepOff) {
            return;
        }
        let begun = self.begun().slots;
        let before = directory.hosts().order.clock().now() - patience;
        wake_owed(directory, collector, &begun, before).await;
        self.adopt(directory, collector).await;
    }

    /// Wakes all that slots owe that have just come here, up to a bound. `true`: that was all.
    pub async fn adopt(&self, directory: &Directory, collector: &Collector) -> bool {
        let Begun { slots, left } = *self.begun();
        let fresh = directory.places().territory().slots().without(&slots);
        if fresh.is_empty() || mutant::is(Mutant::SweepOff) {
            return true;
        }
        let is_complete =
            wake_owed(directory, collector, &fresh, directory.hosts().order.clock().now()).await;
        let mut begun = self.begun();
        // What has left meanwhile, and perhaps come back, comes anew.
        let stayed = begun.left == left;
        if is_complete && stayed {
            begun.slots = begun.slots.with(&fresh);
        }
        is_complete && stayed
    }

    /// These slots are here no more; should they come again, they come anew.
    pub fn forget(&self, slots: &SlotSet) {
        let mut begun = self.begun();
        begun.slots = begun.slots.without(slots);
        begun.left += 1;
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes what slots have owed since before `before`. `true`: all of it is awake.
async fn wake_owed(directory: &Directory, collector: &Collector, slots: &SlotSet, before: Timestamp) -> bool {
    let mut is_complete = true;
    for journal in [directory.journal::<Order>(), directory.journal::<Payment>()] {
        let mut woken = 0;
        for range in slots.ranges() {
            match wake_range(directory, collector, journal, range, before, WOKEN_MAX - woken).await {
                Ok(more) => woken += more,
                Err(JournalError::Unavailable(cause) | JournalError::Corrupt(cause)) => {
                    tracing::warn!(%cause, "what is owed cannot be read");
                    is_complete = false;
                    break;
                }
            }
            if woken >= WOKEN_MAX {
                is_complete = false;
                break;
            }
        }
        metrics::counter!("souk_swept_total").increment(woken as u64);
    }
    is_complete
}

/// How many it woke: `max`, or a few more, where that is not all.
async fn wake_range(
    directory: &Directory,
    collector: &Collector,
    journal: &Arc<dyn Journal>,
    slots: RangeInclusive<i16>,
    before: Timestamp,
    max: usize,
) -> Result<usize, JournalError> {
    let mut after = None;
    let mut woken = 0;
    while woken < max {
        let page = journal.owed(slots.clone(), before, after, PAGE).await?;
        woken += page.iter().filter(|owed| wake(directory, collector, owed)).count();
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(place(last)),
            Some(_) | None => break,
        }
    }
    Ok(woken)
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
