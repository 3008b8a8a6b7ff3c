//! Links over real sockets, and the register on a real PostgreSQL.

mod links;
mod register;
