//! How many purchases may be under way: as many as end in half the time that a purchase has.
//!
//! By Little's law what is accepted then ends well before its deadline, however fast or slow this machine, its
//! databases and its provider happen to be. A fixed number would be too small for the one and would let every
//! accepted purchase of the other run into its deadline.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So long is counted before the limit is judged anew.
const WINDOW: Duration = Duration::from_millis(500);
/// So many are always taken: a sudden crowd says nothing about how fast it can be served. Where less than a
/// hundred end in a second, some of a crowd will not end in time.
const FLOOR: usize = 1_000;

/// A limit that follows what is done.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    max: usize,
    /// How long an accepted purchase may take while the node is full.
    wait: Duration,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    /// How many had ended when it begun.
    ended: u64,
    limit: usize,
}

impl ConcurrencyLimit {
    /// A limit that never exceeds `max`. `wait`: how long what is accepted may take.
    pub fn new(max: usize, wait: Duration, now: Instant) -> Self {
        Self { max, wait, window: Mutex::new(Window { begun: now, ended: 0, limit: FLOOR.min(max) }) }
    }

    /// How many may be under way, where `ended` have ended since the node was opened.
    pub fn get(&self, now: Instant, ended: u64) -> usize {
        // No code that can panic runs under the lock.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.duration_since(window.begun);
        if elapsed >= WINDOW {
            let per_second = ended.saturating_sub(window.ended) as f64 / elapsed.as_secs_f64();
            let limit = ((per_second * self.wait.as_secs_f64()) as usize).max(FLOOR).min(self.max);
            *window = Window { begun: now, ended, limit };
        }
        window.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_ends_in_time_but_never_less_than_a_crowd_nor_more_than_the_bound() {
        let begun = Instant::now();
        let wait = Duration::from_secs(2);
        let limit = ConcurrencyLimit::new(10_000, wait, begun);
        let after = |windows: u32| begun + WINDOW * windows;
        assert_eq!(limit.get(begun, 0), 1_000);
        assert_eq!(limit.get(after(1), 2_000), 8_000, "4,000 a second");
        assert_eq!(limit.get(after(1) + WINDOW / 2, 9_000), 8_000, "the window is not over");
        assert_eq!(limit.get(after(2), 2_100), 1_000, "200 a second");
        assert_eq!(limit.get(after(3), 9_100), 10_000, "14,000 a second");
        assert_eq!(limit.get(after(30), 9_100), 1_000, "nothing for a long time");
        assert_eq!(ConcurrencyLimit::new(5, wait, begun).get(begun, 0), 5);
    }
}
