//! Under steady load on three nodes: what befalls a node, one fault after the other, and after each the judgement.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use souk_tests::cluster::{Cluster, LEASE, counted};
use souk_tests::process::Data;
use souk_tests::relay::Relay;
use souk_tests::shopper::Shopper;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::crowd::Crowd;

/// A killed node's shards serve again within the lease and this.
const TAKEOVER_MAX: Duration = Duration::from_secs(3);

/// The slots of a node, as ranges.
fn slots_of(status: &Value, name: &str) -> Vec<(i64, i64)> {
    let shards = status["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
    let its = shards.iter().filter(|shard| shard["owner"] == name);
    its.filter_map(|shard| Some((shard["first_slot"].as_i64()?, shard["last_slot"].as_i64()?))).collect()
}

#[tokio::test]
async fn a_node_that_is_killed_stopped_joined_or_restarted_costs_nobody_anything() -> Result<()> {
    let data = Data::new("upheaval")?;
    let mut cluster = Cluster::start(&data, 3, &[]).await?;
    let mut crowd = Crowd::gather(&cluster.url()).await?;

    // kill -9.
    let theirs = slots_of(&cluster.status().await?, "node-2");
    let somebody = crowd.somebody_in(&cluster, &theirs).await?;
    let rush = crowd.rush();
    rush.more(100).await?;
    let killed = Instant::now();
    cluster.take("node-2")?.process.kill().await?;
    let took = crowd.first_success(&somebody, killed).await?;
    println!("kill -9: the killed node's shards serve again after {took:.1?}; the lease is {LEASE:?}");
    ensure!(took <= LEASE + TAKEOVER_MAX, "{took:?}");
    rush.more(100).await?;
    crowd.judge("kill -9", rush, &data).await?;

    // A node joins.
    let rush = crowd.rush();
    rush.more(50).await?;
    cluster.join("node-4", &[]).await?;
    cluster.settled(3).await?;
    rush.more(100).await?;
    crowd.judge("join", rush, &data).await?;

    // A node is stopped in order.
    let rush = crowd.rush();
    rush.more(50).await?;
    let theirs = slots_of(&cluster.status().await?, "node-4");
    let somebody = crowd.somebody_in(&cluster, &theirs).await?;
    let node = cluster.take("node-4")?;
    let stopped = Instant::now();
    assert_eq!(node.process.stop().await?, 0);
    let gone = stopped.elapsed();
    let took = crowd.first_success(&somebody, Instant::now()).await?;
    println!("stop: gone after {gone:.1?}, and then a purchase in its shards took {took:.1?}");
    ensure!(took < LEASE, "its shards were not handed over: {took:?}");
    rush.more(100).await?;
    crowd.judge("stop", rush, &data).await?;

    // Every node is restarted, one after the other.
    cluster.join("node-2", &[]).await?;
    cluster.settled(3).await?;
    let rush = crowd.rush();
    rush.more(50).await?;
    for name in ["node-1", "node-2", "node-3"] {
        assert_eq!(cluster.take(name)?.process.stop().await?, 0);
        rush.more(30).await?;
        cluster.join(name, &[]).await?;
        cluster.settled(3).await?;
        rush.more(30).await?;
    }
    crowd.judge("rolling restart", rush, &data).await?;
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_paused_finds_that_the_database_refuses_it() -> Result<()> {
    let data = Data::new("paused")?;
    let cluster = Cluster::start(&data, 3, &[]).await?;
    let mut crowd = Crowd::gather(&cluster.url()).await?;
    let rush = crowd.rush();
    rush.more(100).await?;
    let mut refused = 0.0;
    // How far they had come at that very moment is chance.
    for _ in 0..5 {
        let node = cluster.node("node-3")?;
        // Orders that were accepted a moment ago cannot go on: their next rows wait in the node when it falls silent.
        let storm = crowd.storm(node.url());
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut orders = PgConnection::connect(&data.database("order_db")?).await?;
        let mut held = orders.begin().await?;
        sqlx::query("lock table entity in exclusive mode").execute(&mut *held).await?;
        tokio::time::sleep(Duration::from_millis(600)).await;
        node.process.signal(Signal::SIGSTOP)?;
        held.rollback().await?;
        // Whoever is balanced onto it gets no answer, and asks again elsewhere.
        tokio::time::sleep(LEASE * 3).await;
        node.process.signal(Signal::SIGCONT)?;
        cluster.settled(3).await?;
        rush.more(100).await?;
        refused = counted(node.url(), "souk_journal_refused_total").await?;
        for begun in storm {
            begun.await?;
        }
        if refused > 0.0 {
            break;
        }
    }
    println!("pause of three leases: the database refused {refused} late rows of the paused node");
    ensure!(refused > 0.0, "no late row was refused");
    crowd.judge("pause", rush, &data).await?;
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn two_nodes_that_are_cut_off_from_each_other_and_a_database_that_restarts_do_no_harm() -> Result<()> {
    let data = Data::new("cut")?;
    let mut cluster = Cluster::start(&data, 1, &[]).await?;
    // Who started earlier dials: so only the first node passes this relay, and only to the second.
    let relay = Relay::to(Vec::new()).await?;
    let advertised = relay.address.to_string();
    cluster.join("node-2", &[("SOUK__CLUSTER__ADVERTISE", &advertised)]).await?;
    relay.aim(vec![cluster.node("node-2")?.link]);
    cluster.join("node-3", &[]).await?;
    cluster.settled(3).await?;
    let mut crowd = Crowd::gather(&cluster.url()).await?;

    let rush = crowd.rush();
    rush.more(100).await?;
    relay.cut(true);
    // Longer than an idle link is kept.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let unreachable = Shopper::stranger(cluster.node("node-1")?.url())?.get("//readyz").await?.body;
    ensure!(unreachable["cluster"]["unreachable"][0] == "node-2", "they are not cut off: {unreachable}");
    rush.more(20).await?;
    relay.cut(false);
    cluster.settled(3).await?;
    rush.more(100).await?;
    crowd.judge("cut", rush, &data).await?;

    let rush = crowd.rush();
    rush.more(100).await?;
    cluster.shut_database_down().context("shut the database down")?;
    rush.more(100).await?;
    cluster.settled(3).await?;
    rush.more(50).await?;
    crowd.judge("database restart", rush, &data).await?;
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}
