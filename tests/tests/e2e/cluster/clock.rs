//! A node whose clock is wrong.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use souk_tests::cluster::{Cluster, LEASE, counted};
use souk_tests::process::Data;
use souk_tests::shopper::Shopper;
use tokio::time::Instant;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn state_of(status: &Value, name: &str) -> (String, u64) {
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = nodes.iter().find(|node| node["name"] == name);
    node.map_or_else(Default::default, |node| {
        (node["state"].as_str().unwrap_or_default().to_owned(), node["shards"].as_u64().unwrap_or(0))
    })
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_takes_no_shard_even_if_it_is_alone() -> Result<()> {
    if !std::path::Path::new(LIBRARY).exists() {
        // Past the capture of the test's output: the summary counts it.
        writeln!(std::io::stderr(), "skipped: a node whose clock is wrong: {LIBRARY} is not installed")?;
        return Ok(());
    }
    let data = Data::new("clock")?;
    let mut cluster = Cluster::start(&data, 1, &[]).await?;
    let shopper = Shopper::register(&cluster.url()).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 100).await?;
    let wrong = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME", "+1h"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    cluster.join("wrong", &wrong).await?;
    // As soon as it is seen, and from then on.
    let until = Instant::now() + LEASE * 2;
    while Instant::now() < until {
        let (state, shards) = state_of(&cluster.status().await?, "wrong");
        ensure!(state == "clock_off" && shards == 0, "{state}, {shards} shards");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at = shopper.at(cluster.node("node-1")?.url());
    ensure!(at.buy(&[(&product, 1)], None).await?.body["status"] == "completed");

    // Also when nobody else is left.
    cluster.take("node-1")?.process.kill().await?;
    tokio::time::sleep(LEASE * 2).await;
    let (state, shards) = state_of(&cluster.status().await?, "wrong");
    assert_eq!((state.as_str(), shards), ("clock_off", 0));
    ensure!(counted(cluster.node("wrong")?.url(), "souk_cluster_shards ").await? == 0.0);

    // One with the right time takes up everything, and nothing is an hour late.
    cluster.join("node-3", &[]).await?;
    let at = shopper.at(cluster.node("node-3")?.url());
    let deadline = Instant::now() + Duration::from_secs(30);
    while state_of(&cluster.status().await?, "node-3") != ("live".to_owned(), 64) {
        ensure!(Instant::now() < deadline, "{}", cluster.status().await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(at.buy(&[(&product, 1)], None).await?.body["status"] == "completed");
    Ok(())
}
