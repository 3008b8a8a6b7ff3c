//! The shop's machinery over the journal in memory: entities, hosts, supervision, the sweep, and whole
//! purchases under faults.

mod entities;
mod errand;
mod purchases;
mod tally;
