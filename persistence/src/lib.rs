//! Everything that talks to a store: the journal and its group commit, the embedded server, the payment
//! provider.
//!
//! Start at [`journal`]: the contract that the rest of Souk stands on. Nothing here knows what an order is.

mod causes;
pub mod chance;
pub mod databases;
pub mod embedded;
pub mod journal;
pub mod kafka;
pub mod memory;
pub mod migrate;
pub mod move_slots;
pub mod mutant;
pub mod partitioned;
pub mod postgres;
pub mod provider;
pub mod relay;
pub mod sandbox;
pub mod slots;
mod statement;
mod sync;
mod timestamp;
mod writer;

pub use causes::causes;
pub use timestamp::Timestamp;
