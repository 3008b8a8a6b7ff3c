//! How brokers are spoken with, and that nobody who buys notices when they cannot be.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use souk_tests::cluster::{counted, free_address};
use souk_tests::kafka::{Kafka, Secure};
use souk_tests::process::{Data, Process, binary};
use souk_tests::shopper::Shopper;
use tokio::process::Command;
use tokio::time::Instant;

use super::{Heard, heard, told, until};

/// A node that cannot reach Kafka stops within this.
const STOP_MAX: Duration = Duration::from_secs(5);
const PREFIX: &str = "secure.";

/// Somebody registers and buys something, and the node says that it is ready.
async fn serves(node: &Process) -> Result<()> {
    let shopper = Shopper::register(&node.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 10).await?;
    let bought = shopper.buy(&[(&product, 1)], None).await?;
    ensure!(bought.body["status"] == "completed", "{bought:?}");
    let ready = shopper.get("//readyz").await?;
    ensure!(ready.status == 200, "{ready:?}");
    Ok(())
}

async fn stops_in_time(node: Process) -> Result<Duration> {
    let begun = Instant::now();
    assert_eq!(node.stop().await?, 0);
    ensure!(begun.elapsed() < STOP_MAX, "it took {:?}", begun.elapsed());
    Ok(begun.elapsed())
}

#[tokio::test]
async fn a_node_whose_kafka_never_answers_serves_and_stops_as_always() -> Result<()> {
    let data = Data::new("unheard")?;
    let nowhere = free_address()?.to_string();
    let node = Process::serve(&data, &[("SOUK__KAFKA__BROKERS", nowhere.as_str())]).await?;
    serves(&node).await?;
    let lag = r#"souk_relay_lag_seconds{db="order_db"}"#;
    until("what is not told is seen to grow", async || Ok(counted(&node.url, lag).await? > 2.0)).await?;
    let took = stops_in_time(node).await?;
    println!("a node whose Kafka never answers stops in {took:.1?}");

    // What was not told is kept, until somebody says that nobody will be told.
    let begun = async |verb: &str| {
        let mut relay = Command::new(binary()?);
        let output = relay.args(["relay", verb, "--data"]).arg(data.path()).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let relays: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        ensure!(relays.iter().all(|relay| relay["ahead"] == false), "{relays:?}");
        Ok(relays.iter().map(|relay| relay["has_begun"] == true).collect::<Vec<_>>())
    };
    assert_eq!(begun("status").await?, [true, true]);
    assert_eq!(begun("end").await?, [false, false]);
    assert_eq!(begun("status").await?, [false, false]);
    Ok(())
}

#[tokio::test]
async fn over_tls_whoever_knows_the_password_is_heard_and_nobody_else() -> Result<()> {
    let Some(kafka) = Kafka::shared("Kafka over TLS").await? else { return Ok(()) };
    let Secure { addresses, password, authority } = kafka.secure()?;
    let data = Data::new("secure")?;
    let authority = authority.to_string_lossy();
    let serve = async |password: &str, mechanism: &str| {
        let settings = [
            ("SOUK__KAFKA__BROKERS", addresses.as_str()),
            ("SOUK__KAFKA__PREFIX", PREFIX),
            ("SOUK__KAFKA__SECURITY", "sasl_tls"),
            ("SOUK__KAFKA__SASL_MECHANISM", mechanism),
            ("SOUK__KAFKA__USERNAME", "souk"),
            ("SOUK__KAFKA__PASSWORD", password),
            ("SOUK__KAFKA__TLS_AUTHORITY", authority.as_ref()),
        ];
        Process::serve(&data, &settings).await
    };
    let log = || std::fs::read_to_string(data.path().join("souk.log"));
    let topic = vec![format!("{PREFIX}purchase-result")];

    let wrong = "canary-0123456789";
    let node = serve(wrong, "SCRAM-SHA-512").await?;
    serves(&node).await?;
    until("it is said why", async || Ok(log()?.to_lowercase().contains("authentication"))).await?;
    stops_in_time(node).await?;
    ensure!(!log()?.contains(wrong), "the password is in the log");
    ensure!(kafka.read(topic.clone()).await.is_err(), "who has made the topic?");

    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let node = serve(&password, mechanism).await?;
        serves(&node).await?;
        told(&data).await?;
        let Heard { records, repeated } = heard(&data, kafka, PREFIX).await?;
        println!("{mechanism} over TLS: {records} records are told, {repeated} of them again");
        stops_in_time(node).await?;
    }
    ensure!(!log()?.contains(&password), "the password is in the log");
    Ok(())
}
