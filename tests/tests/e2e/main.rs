//! The shop as its users meet it: over HTTP, on a real PostgreSQL, with processes that are killed.

mod accounts;
mod bench;
mod catalogue;
mod cluster;
mod door;
mod faults;
mod hostile;
mod kafka;
mod node;
mod purchases;
mod readme;
mod verify;

use std::sync::Arc;

use anyhow::Result;
use souk_tests::process::Data;
use souk_tests::souk::Souk;

/// A Souk of a test's own.
async fn open(name: &str) -> Result<Souk> {
    open_with(name, &[]).await
}

/// A Souk of a test's own, with settings.
async fn open_with(name: &str, settings: &[(&str, &str)]) -> Result<Souk> {
    let data: Arc<Data> = Data::new(name)?;
    Souk::start(&data, settings).await
}
