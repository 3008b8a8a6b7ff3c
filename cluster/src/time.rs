//! The time of `cluster_db`, as this node knows it: deadlines travel in it, so that no node's own clock counts.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use souk_actors::{Clock, Timestamp};

use crate::map::CLOCK_OFF_MAX_US;

/// An answer that took longer says little of a clock.
const SLOW: Duration = Duration::from_secs(1);

/// A clock that is set by what the database says.
#[derive(Debug, Default)]
pub struct ClusterTime {
    /// How far this node's clock is ahead, in microseconds.
    ahead: AtomicI64,
}

impl ClusterTime {
    /// The database said `theirs` some time between `sent` and `answered` by this node's clock.
    pub fn set(&self, sent: Timestamp, theirs: i64, answered: Timestamp) {
        // A slow answer says little: it must not make a wrong clock look right.
        if sent.until(answered) > SLOW && !self.is_right() {
            return;
        }
        self.ahead.store(ahead(sent.micros(), theirs, answered.micros()), Ordering::Relaxed);
    }

    /// How far this node's clock is ahead, in microseconds.
    pub fn ahead_us(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// This node's clock is right enough to have shards.
    pub fn is_right(&self) -> bool {
        self.ahead_us().abs() <= CLOCK_OFF_MAX_US
    }

    /// The time now, in microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        Clock::System.now().micros() - self.ahead_us()
    }
}

/// No further than is certain: the answer may have been slow on either way.
fn ahead(sent: i64, theirs: i64, answered: i64) -> i64 {
    if theirs < sent {
        sent - theirs
    } else if theirs > answered {
        answered - theirs
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_is_certain() {
        assert_eq!(ahead(100, 150, 200), 0);
        assert_eq!(ahead(100, 40, 200), 60);
        assert_eq!(ahead(100, 260, 200), -60);
    }

    #[test]
    fn a_clock_that_is_off_by_more_than_seconds_is_wrong() {
        let time = ClusterTime::default();
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        time.set(at(100), 97_000_000, at(100));
        assert!(time.is_right());
        time.set(at(100), 3_700_000_000, at(100));
        assert!(!time.is_right() && time.ahead_us() < 0);
        time.set(at(100), 103_000_000, at(102));
        assert!(!time.is_right(), "the answer was slow");
        time.set(at(100), 100_000_000, at(100));
        assert!(time.is_right());
    }
}
