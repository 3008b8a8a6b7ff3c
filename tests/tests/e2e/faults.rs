use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use souk_tests::laws;
use souk_tests::process::Data;
use souk_tests::shopper::{Shopper, send};
use souk_tests::souk::Souk;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

const AT_ONCE: usize = 64;
const PRODUCTS: usize = 8;
const STOCK: i64 = 100_000;

struct Crowd {
    shopper: Shopper,
    products: Vec<String>,
    /// How many purchases were accepted.
    accepted: watch::Sender<usize>,
}

impl Crowd {
    async fn gather(souk: &Souk) -> Result<Self> {
        let shopper = Shopper::register(&souk.url).await?;
        let category = shopper.category().await?;
        let mut products = Vec::new();
        for _ in 0..PRODUCTS {
            products.push(shopper.product(&category, u64::try_from(STOCK)?).await?);
        }
        Ok(Self { shopper, products, accepted: watch::Sender::new(0) })
    }

    fn stocked(&self) -> Result<HashMap<Uuid, i64>> {
        self.products.iter().map(|product| Ok((product.parse()?, STOCK))).collect()
    }

    /// Buys under keys, a tenth of it declined, a tenth cancelled: the keys whose purchase was accepted.
    /// What is cut off is no error; whether it was accepted is what the laws are about.
    fn rush(&self, souk: &Souk, name: &str, count: usize) -> JoinHandle<Vec<String>> {
        let (shopper, products, name) = (self.shopper.at(&souk.url), self.products.clone(), name.to_owned());
        let accepted = self.accepted.clone();
        tokio::spawn(async move {
            stream::iter(0..count)
                .map(|number| {
                    let (shopper, products, key) =
                        (shopper.clone(), products.clone(), format!("{name} {number}"));
                    async move { buy(&shopper, &products, number, &key).await.ok().flatten() }
                })
                .buffer_unordered(AT_ONCE)
                .filter_map(async |key| key)
                .inspect(|_| accepted.send_modify(|accepted| *accepted += 1))
                .collect()
                .await
        })
    }

    /// Waits until so many more are accepted: in the middle of a rush, however fast the machine is.
    async fn more(&self, count: usize) -> Result<()> {
        let goal = *self.accepted.borrow() + count;
        let mut accepted = self.accepted.subscribe();
        tokio::time::timeout(Duration::from_secs(60), accepted.wait_for(|accepted| *accepted >= goal))
            .await??;
        Ok(())
    }
}

async fn buy(shopper: &Shopper, products: &[String], number: usize, key: &str) -> Result<Option<String>> {
    let (one, two) = (&products[number % PRODUCTS], &products[(number + 1) % PRODUCTS]);
    let token = match number % 10 {
        3 => Some("tok_declined"),
        5 => Some("tok_timeout_then_success"),
        _ => None,
    };
    let body = Shopper::order(&[(one, 4), (two, 5)], token);
    let request = shopper.request(Method::POST, "/purchases").header("idempotency-key", key).json(&body);
    let placed = send(request).await?;
    if placed.status != 202 {
        return Ok(None);
    }
    if number % 10 == 7 {
        let id = placed.body["purchase_id"].as_str().unwrap_or_default();
        shopper.post(&format!("/purchases/{id}/cancel"), &serde_json::json!({})).await?;
    }
    Ok(Some(key.to_owned()))
}

#[tokio::test]
async fn a_souk_that_is_killed_amid_hundreds_of_purchases_loses_and_doubles_nothing() -> Result<()> {
    let data: Arc<Data> = Data::new("killed")?;
    let mut souk = Souk::start(&data, &[]).await?;
    let crowd = Crowd::gather(&souk).await?;
    let mut accepted = Vec::new();
    for (round, count) in [1, 60, 150].into_iter().enumerate() {
        let rush = crowd.rush(&souk, &format!("round {round}"), 600);
        crowd.more(count).await?;
        souk.kill().await?;
        accepted.extend(rush.await?);
        souk = Souk::start(&data, &[]).await?;
    }
    let checked = laws::hold(&data, &crowd.stocked()?, Duration::from_secs(90)).await?;
    let made = checked.completed + checked.failed + checked.cancelled;
    ensure!(accepted.len() > 100, "only {} were accepted", accepted.len());
    ensure!(made >= accepted.len(), "{} accepted, {made} made", accepted.len());
    ensure!(checked.completed > 0 && checked.failed > 0, "{checked:?}");

    // Every accepted one is there under its key, and asking again makes no other.
    let shopper = crowd.shopper.at(&souk.url);
    let again: Vec<_> = stream::iter(&accepted)
        .map(|key| {
            let number = key.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            let (shopper, products) = (shopper.clone(), crowd.products.clone());
            async move { buy(&shopper, &products, number, key).await }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for answer in again {
        ensure!(answer?.is_some(), "an accepted purchase is gone");
    }
    let after = laws::hold(&data, &crowd.stocked()?, Duration::from_secs(30)).await?;
    assert_eq!(after.completed + after.failed + after.cancelled, made);
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_killed_amid_purchases_loses_and_doubles_nothing() -> Result<()> {
    let souk = crate::open("database").await?;
    let crowd = Crowd::gather(&souk).await?;
    let rush = crowd.rush(&souk, "rush", 400);
    crowd.more(100).await?;
    let pid_file = std::fs::read_to_string(souk.data.path().join("postgres/postmaster.pid"))?;
    let pid = pid_file.lines().next().unwrap_or_default().parse()?;
    kill(Pid::from_raw(pid), Signal::SIGQUIT)?;
    let accepted = rush.await?;
    let checked = laws::hold_when_back(&souk.data, &crowd.stocked()?, Duration::from_secs(90)).await?;
    let made = checked.completed + checked.failed + checked.cancelled;
    ensure!(made >= accepted.len(), "{} accepted, {made} made", accepted.len());
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_souk_that_is_told_to_stop_finishes_or_leaves_what_is_under_way() -> Result<()> {
    let data: Arc<Data> = Data::new("drained")?;
    let souk = Souk::start(&data, &[]).await?;
    let crowd = Crowd::gather(&souk).await?;
    let rush = crowd.rush(&souk, "rush", 400);
    crowd.more(60).await?;
    assert_eq!(souk.stop().await?, 0);
    let accepted = rush.await?;
    ensure!(!accepted.is_empty(), "nothing was accepted");
    let souk = Souk::start(&data, &[]).await?;
    let checked = laws::hold(&data, &crowd.stocked()?, Duration::from_secs(60)).await?;
    ensure!(checked.completed + checked.failed + checked.cancelled >= accepted.len());
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}
