//! How fast a relay may be: so many rows in a second, and no burst after a pause.

use std::time::Duration;

use tokio::time::Instant;

/// Says how long to wait after so many rows.
pub(super) struct Pace {
    rows_per_second: u32,
    /// When the rows so far would have been told at that rate.
    due: Instant,
}

impl Pace {
    pub fn new(rows_per_second: u32, now: Instant) -> Self {
        Self { rows_per_second: rows_per_second.max(1), due: now }
    }

    /// How long to wait before more rows are told.
    pub fn pause(&mut self, rows: usize, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(rows as f64 / f64::from(self.rows_per_second));
        // What was not used is not saved up, but for the time that this page itself took.
        self.due = self.due.max(now.checked_sub(takes).unwrap_or(now)) + takes;
        self.due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_no_faster_than_they_may_be() {
        let begun = Instant::now();
        let mut pace = Pace::new(1_000, begun);
        // Each page of 100 may take 100 ms, and took 10.
        let mut now = begun;
        for _ in 0..10 {
            now += Duration::from_millis(10);
            now += pace.pause(100, now);
        }
        let off = (now - begun).abs_diff(Duration::from_secs(1));
        assert!(off <= Duration::from_millis(100), "{:?}", now - begun);
    }

    #[test]
    fn whoever_was_idle_has_no_more_than_others() {
        let begun = Instant::now();
        let mut pace = Pace::new(1_000, begun);
        let later = begun + Duration::from_secs(60);
        assert_eq!(pace.pause(10, later), Duration::ZERO);
        assert_eq!(pace.pause(1_000, later), Duration::from_secs(1));
    }
}
