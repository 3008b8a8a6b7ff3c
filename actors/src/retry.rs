//! How long to wait before the same is asked again. Pure; the randomness comes in.

use std::time::Duration;

/// Exponential back-off with full jitter: a random part of `base · 2^attempt`, at most of `cap`, so that
/// many who failed together do not come back together.
/// Source: AWS Architecture Blog, "Exponential Backoff And Jitter", 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub base: Duration,
    /// The longest wait at all.
    pub cap: Duration,
}

impl Backoff {
    /// A step forward: somebody waits for it, and its deadline is near.
    pub const FORWARD: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(2) };
    /// An undo, a refund, settling: for ever, so rarely. Below a minute, so that what is owed need not move.
    pub const FOR_EVER: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(30) };
    /// An entity that failed is loaded again.
    pub const RESTART: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

    /// How long to wait after `attempt` (from 0) failed; `random` lies in 0..1.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let longest = self.base.saturating_mul(1 << attempt.min(20)).min(self.cap);
        // Never nothing: a failure that comes at once must not spin.
        self.base / 10 + longest.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_vanish() {
        let backoff = Backoff::FORWARD;
        assert_eq!(backoff.delay(0, 1.0), Duration::from_millis(110));
        assert_eq!(backoff.delay(3, 1.0), Duration::from_millis(810));
        assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_millis(2_010));
        assert_eq!(backoff.delay(9, 0.0), Duration::from_millis(10));
    }
}
