//! Trying again for as long as nobody knows: with pauses that grow, and not in silence.

use std::time::Duration;

use souk_persistence::kafka::Incoming;

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// Before it, after 3 s, nothing is said: a node that was killed is behind many records for a moment.
const SAID_FROM: u32 = 6;

/// What was tried with a record in vain.
#[derive(Debug)]
pub struct Attempts {
    count: u32,
    pause: Duration,
}

impl Attempts {
    /// None yet.
    pub fn none() -> Self {
        Self { count: 0, pause: PAUSE_FIRST }
    }

    /// One more was in vain: waits until it is time for the next.
    pub async fn in_vain(&mut self, record: &Incoming, cause: &str) {
        self.count += 1;
        if self.is_said() {
            let Incoming { topic, partition, offset, .. } = record;
            let attempts = self.count;
            tracing::warn!(topic, partition, offset, attempts, cause, "a record waits to have its effect");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
    }

    /// Twice as seldom each time: hundreds of records may wait for the same.
    fn is_said(&self) -> bool {
        self.count.is_multiple_of(SAID_FROM) && (self.count / SAID_FROM).is_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_what_is_said_becomes_rare() {
        let (begun, record) = (Instant::now(), Incoming::default());
        let (mut attempts, mut said) = (Attempts::none(), Vec::new());
        for _ in 0..100 {
            attempts.in_vain(&record, "nobody knows").await;
            if attempts.is_said() {
                said.push(attempts.count);
            }
        }
        assert_eq!(said, [6, 12, 24, 48, 96]);
        assert!(begun.elapsed() > PAUSE_LAST * 90);
    }
}
