//! What the concurrent core synchronises by. It is named in this one place because `tests/loom` compiles
//! the same files over loom's types of these names, and there tries every schedule.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use tokio::sync::oneshot;
