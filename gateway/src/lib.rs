//! The door: HTTP in front of the shop, and the command line.
//!
//! Start at [`app::router`]: every route. A handler decodes, asks an entity or reads a view, and encodes;
//! it decides nothing. What every request passes: [`layers`]. What is served how: [`server`]. What all of
//! it costs: [`mod@bench`].

pub mod app;

pub mod accounts;
pub mod categories;
pub mod health;
pub mod operators;
pub mod orders;
pub mod payments;
pub mod pings;
pub mod products;
pub mod purchases;

pub mod body;
pub mod params;
pub mod problem;

pub mod passwords;
pub mod tokens;

pub mod bench;

pub mod bridge;

pub mod docs;
pub mod layers;
pub mod membership;
pub mod node;
pub mod operate;
pub mod server;
pub mod telemetry;
pub mod trace;
pub mod verify;
