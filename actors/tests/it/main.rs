//! The shop's machinery over the journal in memory: entities, hosts, supervision, the sweep, and whole
//! purchases under every fault.

mod bank;
mod entities;
mod errand;
mod hazards;
mod laws;
mod matrix;
mod mutants;
mod neighbours;
mod outside;
mod plot;
mod seeds;

mod stage;
mod tally;
mod truth;
