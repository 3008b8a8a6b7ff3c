//! Of several nodes each reads a part of what the shop is told. They are killed in the midst of it, and every record is one
//! purchase nevertheless.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use souk_tests::cluster::{Cluster, counted};
use souk_tests::kafka::Kafka;
use souk_tests::process::{Data, Process};
use souk_tests::shopper::Shopper;

use super::odd::write_in_a_transaction;
use super::outsider::{KEY, Outsider, orders};
use super::until;

const PREFIX: &str = "readers.";
const TOPIC: &str = "readers.purchase";
/// An order lives where its customer does: some on each node.
const CUSTOMERS: usize = 8;
const STOCK: u64 = 1_000_000;
const AT_ONCE: usize = 50;
/// Records that come when they have been killed.
const AFTERWARDS: usize = 1_000;
/// What each node has worked upon by then.
const BEFORE: f64 = 200.0;
/// Seconds.
const WAITED: f64 = 2.0;
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Records of the topic up to which the group has not come, by what it has committed.
async fn uncommitted(kafka: &Kafka) -> Result<i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.addresses).set("group.id", format!("{PREFIX}souk-purchase"));
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create()?;
        let metadata = consumer.fetch_metadata(Some(TOPIC), ANSWER_MAX)?;
        let partitions = metadata.topics().first().context("the topic")?.partitions();
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition(TOPIC, partition.id());
        }
        let mut behind = 0;
        for element in consumer.committed_offsets(wanted, ANSWER_MAX)?.elements() {
            let (_, end) = consumer.fetch_watermarks(TOPIC, element.partition(), ANSWER_MAX)?;
            let committed = if let Offset::Offset(committed) = element.offset() { committed } else { 0 };
            ensure!(committed <= end, "it has committed what is not there: {element:?}, {end}");
            behind += end - committed;
        }
        Ok(behind)
    })
    .await?
}

#[tokio::test]
async fn nodes_that_read_and_are_killed_leave_no_record_without_its_purchase() -> Result<()> {
    let Some(kafka) = Kafka::shared("nodes that read are killed").await? else { return Ok(()) };
    let data = Data::new("readers")?;
    let settings = [
        ("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()),
        ("SOUK__KAFKA__PREFIX", PREFIX),
        ("SOUK__KAFKA__PURCHASE_SIGNERS__FRONT", KEY),
        // None is to fail because its node was killed.
        ("SOUK__ACTORS__RESERVE_MS", "60000"),
    ];
    let mut cluster = Cluster::start(&data, 2, &settings).await?;
    let shopper = Shopper::register(&cluster.url()).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, STOCK).await?;
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        customers.push(Shopper::register(&cluster.url()).await?.account);
    }
    let front = Outsider::new(kafka, PREFIX, "front", "purchase");
    let record = |number: usize| {
        let body = json!({"customer_id": customers[number % CUSTOMERS],
            "order_items": [{"product_id": product, "quantity": 1}], "payment": {"currency_code": "VND"}});
        let id = format!("order-{number}");
        front.record(&id, &id, body.to_string().into_bytes())
    };

    let is_killed = AtomicBool::new(false);
    let writing = async {
        let (mut written, mut last) = (0, usize::MAX);
        while written < last {
            front.write((written..written + AT_ONCE).map(record).collect()).await?;
            written += AT_ONCE;
            if last == usize::MAX && is_killed.load(Ordering::Acquire) {
                last = written + AFTERWARDS;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(written)
    };
    let done = format!(r#"souk_kafka_records_total{{topic="{TOPIC}",outcome="done"}}"#);
    let oldest = format!(r#"souk_kafka_oldest_in_flight_seconds{{topic="{TOPIC}"}}"#);
    let urls: Vec<_> = cluster.nodes.iter().map(|node| node.url().to_owned()).collect();
    let killing = async {
        until("each node reads a part", async || {
            for url in &urls {
                if counted(url, &done).await? < BEFORE {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
        // Some of what the second reads is for the first, which does not answer: it is under way for longer than the group
        // takes to commit. When both are killed nobody has it any more, so that a commit that is too early would be seen.
        let first = cluster.take("node-1")?.process;
        first.signal(Signal::SIGSTOP)?;
        until("some of it waits", async || Ok(counted(&urls[1], &oldest).await? > WAITED)).await?;
        cluster.take("node-2")?.process.kill().await?;
        first.kill().await?;
        cluster.join("node-3", &[]).await?;
        is_killed.store(true, Ordering::Release);
        Ok(())
    };
    let (written, ()) = futures::future::try_join(writing, killing).await?;
    let took = until("the group has come to the end", async || Ok(uncommitted(kafka).await? == 0)).await?;
    println!("{written} records, and both readers killed: all are committed after {took:.1?} more");

    let count = i64::try_from(written)?;
    until("every purchase has ended", async || Ok(orders(&data, "completed").await? == count)).await?;
    for status in ["pending", "failed", "cancelled"] {
        assert_eq!(orders(&data, status).await?, 0, "{status}");
    }
    assert_eq!(shopper.inventory(&product).await?, i64::try_from(STOCK)? - count);
    let failed = format!(r#"souk_kafka_records_total{{topic="{TOPIC}",outcome="dead"}}"#);
    assert_eq!(cluster.counted(&failed).await?, 0.0);
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}

/// The shortest silence that is allowed, and librdkafka says every 5 s how far it is.
const TOLD_TWICE: Duration = Duration::from_secs(17);

#[tokio::test]
async fn a_transactions_mark_is_nothing_that_is_waited_for() -> Result<()> {
    const PREFIX: &str = "transactions.";
    let Some(kafka) = Kafka::shared("a transaction's mark").await? else { return Ok(()) };
    let data = Data::new("transactions")?;
    let settings = [
        ("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()),
        ("SOUK__KAFKA__PREFIX", PREFIX),
        ("SOUK__KAFKA__CONSUMER_SILENCE_MS", "10000"),
    ];
    let node = Process::serve(&data, &settings).await?;
    let dead = format!(r#"souk_kafka_records_total{{topic="{PREFIX}purchase",outcome="dead"}}"#);
    until("the topic is there", async || {
        Ok(write_in_a_transaction(kafka, &format!("{PREFIX}purchase")).await.is_ok())
    })
    .await?;
    until("what it says is heard", async || Ok(counted(&node.url, &dead).await? > 0.0)).await?;
    let lag = format!(r#"souk_kafka_consumer_lag{{topic="{PREFIX}purchase"}}"#);
    until("the mark is behind it", async || Ok(counted(&node.url, &lag).await? > 0.0)).await?;
    tokio::time::sleep(TOLD_TWICE).await;
    assert_eq!(counted(&node.url, "souk_kafka_consumer_restarts_total").await?, 0.0);
    assert_eq!(node.stop().await?, 0);
    Ok(())
}
