//! Everything of persistence that needs a socket, a process or a clock.

mod embedded;
mod folder;
mod hold;
mod journal;
mod kafka;
mod move_slots;
mod partitioned;
mod postgres;
mod proxy;
mod relay;
mod sandbox;
mod server;
