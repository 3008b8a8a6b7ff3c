//! What the end-to-end suite stands on: a Souk as a process of its own, a shopper that talks to it over
//! HTTP, and the laws that must hold whatever happened.

pub mod cluster;
pub mod kafka;
pub mod laws;
pub mod process;
pub mod relay;
pub mod shopper;
pub mod souk;
