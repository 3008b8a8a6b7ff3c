//! Three nodes are one shop: the suites of one node pass on them, and whatever befalls a node, nothing is lost,
//! doubled, stuck or answered wrongly.

mod clock;
pub mod crowd;
mod faults;
mod servers;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use souk_tests::cluster::{Cluster, TOKEN};
use souk_tests::process::{Data, binary};
use souk_tests::shopper::{Shopper, send};
use souk_tests::souk::NODES;

/// What a shop does is in these; the others are about processes.
const SUITES: [&str; 5] = ["accounts::", "catalogue::", "purchases::", "door::", "hostile::"];

#[test]
fn the_suites_of_one_node_pass_on_three() -> Result<()> {
    // One at a time: each has a server and three nodes of its own.
    let output = Command::new(std::env::current_exe()?)
        .args(SUITES)
        .arg("--test-threads=1")
        .env(NODES, "3")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = text.lines().find_map(|line| line.strip_prefix("test result: ok. "));
    let passed: usize = passed.and_then(|rest| rest.split(' ').next()).context("a result")?.parse()?;
    println!("{passed} tests of one node passed on three");
    ensure!(passed >= 22, "only {passed} were run");
    Ok(())
}

#[tokio::test]
async fn a_purchase_is_watched_from_any_node_and_hops_are_few() -> Result<()> {
    let data = Data::new("watched")?;
    let cluster = Cluster::start(&data, 3, &[]).await?;
    let shopper = Shopper::register(&cluster.url()).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 1_000).await?;
    let hops = cluster.counted("souk_cluster_hops_total").await?;
    let count = 60;
    for number in 0..count {
        let body = Shopper::order(&[(&product, 1)], None);
        let place = shopper.at(cluster.nodes[number % 3].url());
        let placed = send(place.request(Method::POST, "/purchases").json(&body)).await?;
        ensure!(placed.status == 202, "{placed:?}");
        let id = placed.body["purchase_id"].as_str().context("an id")?;
        for node in &cluster.nodes {
            let request = shopper.at(node.url()).request(Method::GET, &format!("/purchases/{id}/events"));
            let events = request.send().await?.text().await?;
            ensure!(
                events.contains("SUCCESS") && events.contains("CREATE_PAYMENT"),
                "{}: {events}",
                node.name
            );
        }
    }
    let hops = cluster.counted("souk_cluster_hops_total").await? - hops;
    println!("{:.2} remote hops a purchase, {count} purchases over three nodes", hops / count as f64);
    ensure!(hops < 3.0 * count as f64, "{hops} hops for {count} purchases");
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn operators_see_and_steer_and_nobody_else_does() -> Result<()> {
    let data = Data::new("operators")?;
    let cluster = Cluster::start(&data, 2, &[]).await?;
    let url = cluster.nodes[0].url();
    let stranger = Shopper::stranger(url)?;
    assert_eq!(stranger.get("/admin/cluster").await?.status, 401);
    assert_eq!(stranger.with_token("wrong", "").get("/admin/cluster").await?.status, 401);
    let operator = stranger.with_token(TOKEN, "");
    let status = operator.get("/admin/cluster").await?.body;
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(64), "{status}");
    let nobody = operator.post("/admin/cluster/drain", &json!({"node": "nobody"})).await?;
    assert_eq!((nobody.status.as_u16(), nobody.code()), (404, "not_found"));
    let long = operator.post("/admin/cluster/hold", &json!({"seconds": 100_000})).await?;
    assert_eq!((long.status.as_u16(), long.code()), (400, "invalid_body"));

    // The command line says the same, as JSON where it is piped.
    let souk = |arguments: &[&str]| -> Result<Value> {
        let output = Command::new(binary()?)
            .args(["cluster"])
            .args(arguments)
            .env("SOUK__DATABASE__URL", cluster.server())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let drained = souk(&["drain", "node-2"])?;
    let two =
        drained["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == "node-2"));
    let two = two.context("node-2")?;
    assert_eq!((&two["state"], &two["shards"]), (&json!("draining"), &json!(0)), "{drained}");
    let shards = souk(&["shards"])?;
    let owners = shards["shards"].as_array().context("shards")?;
    assert!(owners.iter().all(|shard| shard["owner"] == "node-1"), "{shards}");
    assert_eq!(souk(&["status"])?["held"], true);
    // It still takes requests, and leads them where they belong.
    Shopper::register(cluster.nodes[1].url()).await?;
    souk(&["undrain", "node-2"])?;
    cluster.settled(2).await?;

    let output = Command::new(binary()?).args(["cluster", "status"]).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SOUK__DATABASE__URL"));
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_lone_souk_and_a_cluster_never_share_and_shards_are_for_ever() -> Result<()> {
    let data = Data::new("apart")?;
    let mut cluster = Cluster::start(&data, 1, &[]).await?;
    let serve = |variables: &[(&str, &str)]| -> Result<(Option<i32>, String)> {
        let folder = Data::new("intruder")?;
        let output = Command::new(binary()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path())
            .env("SOUK__DATABASE__URL", cluster.server())
            .envs(variables.iter().copied())
            .output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, text) = serve(&[])?;
    assert!(code == Some(1) && text.contains("cluster"), "{code:?} {text}");
    let cookie = "a cookie of more than thirty-two bytes";
    let (code, text) = serve(&[
        ("SOUK__CLUSTER__LISTEN", "127.0.0.1:0"),
        ("SOUK__CLUSTER__COOKIE", cookie),
        ("SOUK__CLUSTER__SHARDS", "32"),
    ])?;
    assert!(code == Some(1) && text.contains("64 shards"), "{code:?} {text}");
    // One with another cookie is seen in the register, and never linked with.
    cluster.join("stranger", &[("SOUK__CLUSTER__COOKIE", "another cookie, of more than 32 bytes")]).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let ready = Shopper::stranger(cluster.nodes[0].url())?.get("//readyz").await?;
    assert_eq!(ready.body["cluster"]["unreachable"], json!(["stranger"]), "{ready:?}");
    cluster.take("stranger")?.process.signal(Signal::SIGKILL)?;
    assert_eq!(cluster.stop().await?, 0);
    Ok(())
}
