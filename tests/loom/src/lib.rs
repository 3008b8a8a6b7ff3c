//! The concurrent core of Souk, compiled over [loom]: these are the very files of `souk-actors` and
//! `souk-persistence`. They synchronise by nothing but `crate::sync`, and here that is loom's, which runs a
//! test once for every schedule that its threads could have. `tests/schedules` says what must hold in each.
//!
//! A crate of its own rather than loom's usual `--cfg loom`, which would compile tokio and all else anew.

// The files bring tests of their own, which stand on the types of their own crates.
#![cfg(not(test))]

pub mod sync;

#[path = "../../../actors/src/admission.rs"]
pub mod admission;
#[path = "../../../actors/src/barrier.rs"]
pub mod barrier;
#[path = "../../../actors/src/entity/reply.rs"]
pub mod reply;

#[path = "../../../persistence/src/writer/handover.rs"]
pub mod handover;
#[path = "../../../persistence/src/writer/queue.rs"]
pub mod queue;

pub use souk_persistence::{chance, journal};
