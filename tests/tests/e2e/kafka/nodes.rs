//! Of several nodes one tells; another goes on where it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use souk_tests::cluster::{Cluster, counted};
use souk_tests::kafka::Kafka;
use souk_tests::process::Data;

use super::{Heard, heard, hold_cursor, lag, published_and_not_noted, told, until};
use crate::cluster::crowd::Crowd;

const PREFIX: &str = "nodes.";

/// Who tells: the owner of the lowest slot.
async fn teller(cluster: &Cluster) -> Result<String> {
    let status = cluster.status().await?;
    let shards = status["shards"].as_array().context("shards")?;
    let lowest = shards.iter().find(|shard| shard["first_slot"] == 0).context("a first shard")?;
    Ok(lowest["owner"].as_str().context("an owner")?.to_owned())
}

/// Who tells instead of a node, once that one is up to date.
async fn other_teller(cluster: &Cluster, name: &str) -> Result<Option<String>> {
    let teller = teller(cluster).await?;
    if teller == name {
        return Ok(None);
    }
    let url = cluster.node(&teller)?.url();
    let told = counted(url, r#"souk_relay_rows_total{db="order_db"}"#).await?;
    Ok((told > 0.0 && lag(url).await? < 1.0).then_some(teller))
}

#[tokio::test]
async fn a_node_that_tells_and_is_paused_killed_or_stopped_leaves_nothing_untold() -> Result<()> {
    let Some(kafka) = Kafka::shared("a node that tells is killed").await? else { return Ok(()) };
    let data = Data::new("tellers")?;
    let settings = [("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()), ("SOUK__KAFKA__PREFIX", PREFIX)];
    let mut cluster = Cluster::start(&data, 3, &settings).await?;
    let mut crowd = Crowd::gather(&cluster.url()).await?;
    // Everything is read back.
    crowd.pause = Duration::from_millis(100);
    let rush = crowd.rush();
    rush.more(100).await?;

    // Paused until others have its shards: what it had read it may yet publish, and its cursor is refused. Meanwhile
    // somebody else tells, until it gets its shards back.
    let paused = teller(&cluster).await?;
    let process = &cluster.node(&paused)?.process;
    process.signal(Signal::SIGSTOP)?;
    let took = until("another tells", async || Ok(other_teller(&cluster, &paused).await?.is_some())).await?;
    println!("{paused} paused: another tells, and is up to date, after {took:.1?}");
    let meanwhile = teller(&cluster).await?;
    hold_cursor(&data, true).await?;
    published_and_not_noted(cluster.node(&meanwhile)?.url(), kafka, PREFIX).await?;
    process.signal(Signal::SIGCONT)?;
    cluster.settled(3).await?;

    // Killed when a page is published and its cursor not moved. Whoever told before says no more that it is behind.
    let killed = teller(&cluster).await?;
    published_and_not_noted(cluster.node(&killed)?.url(), kafka, PREFIX).await?;
    for node in cluster.nodes.iter().filter(|node| node.name != killed) {
        until("who does not tell is not behind", async || Ok(lag(node.url()).await? == 0.0)).await?;
    }
    cluster.take(&killed)?.process.kill().await?;
    hold_cursor(&data, false).await?;
    cluster.settled(2).await?;
    rush.more(100).await?;

    // Stopped in order.
    let stopped = teller(&cluster).await?;
    ensure!(stopped != killed, "{killed} is dead");
    assert_eq!(cluster.take(&stopped)?.process.stop().await?, 0);
    rush.more(100).await?;

    crowd.end("nodes that tell", rush).await?;
    let took = told(&data).await?;
    let Heard { records, repeated } = heard(&data, kafka, PREFIX).await?;
    println!("{killed} killed, {stopped} stopped; all is told after {took:.1?}");
    println!("nodes that tell: {records} records are told, {repeated} of them again");
    ensure!(repeated > 0, "the page that was published before the kill was not published again");
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}
