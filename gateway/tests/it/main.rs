//! The door on a real socket, in front of a shop that sells nothing.

mod answers;
mod bodies;
mod bounds;
mod docs;
mod door;
mod shutdown;
