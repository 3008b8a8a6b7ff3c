//! Everything of persistence that needs a socket, a process or a clock.

mod embedded;
mod folder;
mod journal;
mod proxy;
mod sandbox;
