//! The shop: what it sells, to whom, and how a purchase comes to an end. Knows nothing of HTTP, of SQL, or
//! that there is more than one node.
//!
//! Start at [`order`], the saga. Then [`product`] and [`payment`], its participants; [`entity`], the one
//! actor that hosts them all; and [`world`], which performs what they owe.

pub mod order;
pub mod saga;

pub mod product;

pub mod payment;

pub mod account;
pub mod category;
pub mod email;
pub mod session;

pub mod aggregate;
pub mod ids;
pub mod money;

pub mod entity;

pub mod laws;

pub mod records;

pub mod barrier;

pub mod admission;
pub mod clock;
pub mod concurrency;
pub mod directory;
pub mod fate;
pub mod followers;
pub mod host;
pub mod retry;
pub mod route;
pub mod settling;
pub mod shop;
pub mod supervisor;
pub mod sweep;
mod sync;
pub mod tenant;
pub mod territory;
pub mod world;

pub use clock::Clock;
pub use directory::{AskError, Directory};
pub use ids::{Id, Slot};
pub use route::Places;
pub use shop::{Journals, Pace, Shop};
pub use souk_persistence::Timestamp;
