//! What becomes of a message between two entities on its way: it arrives. A simulation may say otherwise,
//! for its own thread; elsewhere nothing of that is compiled.

use tokio::sync::oneshot;

use crate::aggregate::Aggregate;

#[cfg(not(feature = "simulation"))]
mod plain;
#[cfg(feature = "simulation")]
mod simulated;

#[cfg(not(feature = "simulation"))]
pub(crate) use plain::{carry, deliver, strike};
#[cfg(feature = "simulation")]
pub use simulated::{Director, Fate, Sent, What, direct};
#[cfg(feature = "simulation")]
pub(crate) use simulated::{carry, deliver, strike};

/// When a simulation may strike an entity down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A message has reached it and is not looked at yet.
    Before,
    /// The message is handled; what was decided is on its way to the journal.
    After,
}

/// Where an answer comes out.
pub(crate) type Answer<A> = oneshot::Receiver<Result<<A as Aggregate>::Answer, <A as Aggregate>::Rejection>>;
