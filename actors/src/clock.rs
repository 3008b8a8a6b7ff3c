//! The one place that reads the time, so that a simulation can say what time it is.

use std::time::SystemTime;

use souk_persistence::Timestamp;
use tokio::time::Instant;

/// Where the shop has the time from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's.
    System,
    /// Tokio's, counted from a given moment: stands still where a test has paused it.
    Tokio {
        /// What it showed when it was made.
        origin: Timestamp,
        /// When it was made.
        started: Instant,
    },
}

impl Clock {
    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time comes in")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Timestamp::default() + since
            }
            Self::Tokio { origin, started } => *origin + started.elapsed(),
        }
    }
}
