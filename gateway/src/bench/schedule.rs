//! When the requests of an open loop are meant to begin.
//!
//! Latency is counted from then, not from when a request could be sent: a server that stalls is charged
//! for everybody who would have come meanwhile. Whoever falls behind too far is turned away, so that what
//! waits is bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Hands out the moments of arrival, in order.
#[derive(Debug)]
pub struct Schedule {
    rate: u32,
    last: u64,
    waiting_max: u64,
    next: AtomicU64,
}

/// A request whose turn has come, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Meant to begin so long after the start.
    At(Duration),
    /// Too many wait already: it is not sent.
    TurnedAway,
    /// There are no more.
    Over,
}

impl Schedule {
    /// `rate` arrivals a second, evenly, for so long; at most `waiting_max` may be due and not sent.
    pub fn new(rate: u32, within: Duration, waiting_max: u64) -> Self {
        let last = (within.as_secs_f64() * f64::from(rate)) as u64;
        Self { rate, last, waiting_max, next: AtomicU64::new(0) }
    }

    /// The next one, `now` after the start.
    pub fn next(&self, now: Duration) -> Turn {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.last {
            return Turn::Over;
        }
        let at = self.moment(number);
        match now > self.moment(number.saturating_add(self.waiting_max)) {
            true => Turn::TurnedAway,
            false => Turn::At(at),
        }
    }

    fn moment(&self, number: u64) -> Duration {
        let rate = u64::from(self.rate);
        Duration::from_secs(number / rate) + Duration::from_nanos(number % rate * 1_000_000_000 / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_even_and_end() {
        let schedule = Schedule::new(4, Duration::from_secs(2), 100);
        for number in 0..8 {
            assert_eq!(schedule.next(Duration::ZERO), Turn::At(Duration::from_millis(number * 250)));
        }
        assert_eq!(schedule.next(Duration::ZERO), Turn::Over);
        assert_eq!(schedule.next(Duration::from_secs(9)), Turn::Over);
    }

    #[test]
    fn after_a_stall_who_waited_is_still_meant_to_have_begun_in_time() {
        let schedule = Schedule::new(1_000, Duration::from_secs(10), 10_000);
        assert_eq!(schedule.next(Duration::ZERO), Turn::At(Duration::ZERO));
        // A second in which nothing was sent: the next one is late by nearly all of it.
        assert_eq!(schedule.next(Duration::from_secs(1)), Turn::At(Duration::from_millis(1)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let schedule = Schedule::new(1_000, Duration::from_secs(10), 500);
        let stall = Duration::from_secs(2);
        let turns: Vec<_> = (0..2_000).map(|_| schedule.next(stall)).collect();
        let away = turns.iter().filter(|turn| **turn == Turn::TurnedAway).count();
        assert_eq!(away, 1_500);
        assert_eq!(turns.last(), Some(&Turn::At(Duration::from_millis(1_999))));
    }
}
