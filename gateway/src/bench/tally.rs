//! What came of the requests, counted while they run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::latency::Latencies;

/// So many purchases are remembered for those who read them.
const RECENT: usize = 4_096;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The purchase is complete, or what was read is there.
    Completed,
    /// The payment was declined, as asked for.
    Declined,
    /// The purchase ended otherwise.
    Failed,
    /// 202: it was accepted and did not end in time.
    Unfinished,
    /// 429.
    Refused,
    /// 503.
    Unavailable,
    /// Any other answer.
    Error,
    /// No answer.
    Broken,
}

/// How many requests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the number of an outcome")]
pub struct Outcomes {
    pub completed: u64,
    pub declined: u64,
    pub failed: u64,
    pub unfinished: u64,
    pub refused: u64,
    pub unavailable: u64,
    pub errors: u64,
    pub broken: u64,
    /// Of an open loop: due, and not sent, because too many waited.
    pub turned_away: u64,
}

impl Outcomes {
    /// One more.
    pub fn add(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Declined => &mut self.declined,
            Outcome::Failed => &mut self.failed,
            Outcome::Unfinished => &mut self.unfinished,
            Outcome::Refused => &mut self.refused,
            Outcome::Unavailable => &mut self.unavailable,
            Outcome::Error => &mut self.errors,
            Outcome::Broken => &mut self.broken,
        };
        *count += 1;
    }

    /// Purchases that ended, well or declined as asked for.
    pub fn ended(&self) -> u64 {
        self.completed + self.declined
    }

    /// Requests that were answered, whatever the answer was.
    pub fn answered(&self) -> u64 {
        let Self { failed, unfinished, refused, unavailable, errors, .. } = *self;
        self.ended() + failed + unfinished + refused + unavailable + errors
    }

    /// The sum of both.
    pub fn add_all(&mut self, other: &Self) {
        let Self {
            completed,
            declined,
            failed,
            unfinished,
            refused,
            unavailable,
            errors,
            broken,
            turned_away,
        } = self;
        *completed += other.completed;
        *declined += other.declined;
        *failed += other.failed;
        *unfinished += other.unfinished;
        *refused += other.refused;
        *unavailable += other.unavailable;
        *errors += other.errors;
        *broken += other.broken;
        *turned_away += other.turned_away;
    }

    /// What went wrong, in words; empty where nothing did.
    pub fn trouble(&self) -> String {
        let Self {
            completed: _,
            declined: _,
            failed,
            unfinished,
            refused,
            unavailable,
            errors,
            broken,
            turned_away,
        } = *self;
        let counts = [
            (failed, "failed"),
            (unfinished, "not finished in time"),
            (refused, "answered 429"),
            (unavailable, "answered 503"),
            (errors, "answered with an error"),
            (broken, "without an answer"),
            (turned_away, "turned away"),
        ];
        let words = counts.iter().filter(|(count, _)| *count > 0);
        words.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }
}

/// The time in which what ends counts for the rate.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// After the warm-up.
    pub from: Instant,
    /// Nothing is sent from then on.
    pub until: Instant,
}

/// Counts the requests of one kind.
#[derive(Debug)]
pub struct Tally {
    window: Window,
    counted: Mutex<Counted>,
    /// Whatever came of them; for the progress bar.
    seen: AtomicU64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Of all, within the window or not.
    pub outcomes: Outcomes,
    /// Completed within the window.
    pub within: u64,
    /// Of those that ended well and began within the window.
    pub latencies: Latencies,
    /// Of those that were answered "not now", from when they were sent.
    pub refusals: Latencies,
    /// The newest purchases.
    pub recent: Vec<Uuid>,
    /// When the first one began.
    pub first: Option<Instant>,
    /// When the last one ended.
    pub last: Option<Instant>,
}

impl Counted {
    /// From when the first one began until the last one ended.
    pub fn span(&self) -> Duration {
        self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(window: Window) -> Self {
        Self { window, counted: Mutex::default(), seen: AtomicU64::new(0) }
    }

    /// Counts a request that was meant to begin at `began` and has just ended.
    pub fn note(&self, outcome: Outcome, began: Instant) {
        let now = Instant::now();
        let Window { from, until } = self.window;
        let mut counted = self.lock();
        counted.outcomes.add(outcome);
        counted.first = Some(counted.first.map_or(began, |first| first.min(began)));
        counted.last = Some(now);
        if matches!(outcome, Outcome::Completed | Outcome::Declined) && began >= from {
            counted.latencies.record(now - began);
        }
        if outcome == Outcome::Completed && (from..until).contains(&now) {
            counted.within += 1;
        }
        drop(counted);
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered "not now" so long after it was sent.
    pub fn note_refusal(&self, took: Duration) {
        self.lock().refusals.record(took);
    }

    /// One that was due and not sent.
    pub fn turn_away(&self) {
        self.lock().outcomes.turned_away += 1;
    }

    /// Requests that never came back.
    pub fn lose(&self, count: u64) {
        self.lock().outcomes.broken += count;
    }

    /// Remembers a purchase for those who read.
    pub fn remember(&self, purchase: Uuid) {
        let mut counted = self.lock();
        let place = (counted.outcomes.completed as usize) % RECENT;
        match counted.recent.get_mut(place) {
            Some(old) => *old = purchase,
            None => counted.recent.push(purchase),
        }
    }

    /// A purchase that was remembered.
    pub fn recall(&self, number: usize) -> Option<Uuid> {
        let counted = self.lock();
        let count = counted.recent.len();
        (count > 0).then(|| counted.recent[number % count])
    }

    /// How many have ended.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// How long the window is.
    pub fn seconds(&self) -> f64 {
        (self.window.until - self.window.from).as_secs_f64()
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on, for so long, the first part of it not counted.
pub fn window(warm_up: Duration, seconds: Duration) -> Window {
    let from = Instant::now() + warm_up;
    Window { from, until: from + seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_what_ends_within_the_window_and_the_sum_counts_all() {
        let now = Instant::now();
        let past = |seconds| now - Duration::from_secs(seconds);
        // The window is over: what ends now is counted, but not for the rate.
        let tally = Tally::new(Window { from: past(3), until: past(1) });
        tally.note(Outcome::Completed, past(2));
        let counted = tally.counted();
        assert_eq!((counted.outcomes.completed, counted.within, counted.latencies.count()), (1, 0, 1));
        // It is open: the latency of what began before it is not counted.
        let tally = Tally::new(Window { from: past(3), until: now + Duration::from_secs(600) });
        tally.note(Outcome::Completed, past(4));
        tally.note(Outcome::Declined, past(1));
        tally.note(Outcome::Error, past(1));
        let counted = tally.counted();
        assert_eq!((counted.within, counted.latencies.count(), counted.outcomes.ended()), (1, 1, 2));
        assert_eq!(counted.outcomes.trouble(), "1 answered with an error");
    }
}
