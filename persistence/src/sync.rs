//! What the writer's concurrent core synchronises by. It is named in this one place because `tests/loom`
//! compiles the same files over loom's types of these names, and there tries every schedule.

pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) use tokio::sync::{Notify, oneshot};
