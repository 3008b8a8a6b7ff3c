//! Buyers who buy all the time, through every node, and remember what they were told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::json;
use souk_persistence::databases::DatabaseUrls;
use souk_tests::cluster::Cluster;
use souk_tests::laws;
use souk_tests::process::Data;
use souk_tests::shopper::{Answer, Shopper, send};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

const BUYERS: usize = 12;
const PRODUCTS: usize = 12;
/// Purchases that are begun at once.
const STORM: usize = 300;
const STOCK: i64 = 1_000_000;
/// What goes on when the last fault is over ends within this.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// What buyers were told.
#[derive(Debug, Default)]
pub struct Told {
    /// The purchase of every key that was accepted.
    accepted: HashMap<String, String>,
    /// Keys that were tried, accepted or not.
    tried: usize,
    /// 503 or 429 with `Retry-After`.
    refused: usize,
    /// No answer: the node was gone, or paused for too long.
    unanswered: usize,
    /// Anything else.
    wrong: Vec<String>,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.tried += other.tried;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.wrong.extend(other.wrong);
    }
}

/// Buyers and what they buy.
pub struct Crowd {
    buyers: Vec<Shopper>,
    products: Arc<Vec<String>>,
    keys: usize,
    told: Told,
    /// The databases of orders, where there are several.
    pub orders: Vec<String>,
    /// Between two purchases of a buyer.
    pub pause: Duration,
    /// Purchases that were tried beside those of rushes.
    beside: Arc<AtomicUsize>,
}

/// Buyers at work.
pub struct Rush {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    buying: Vec<JoinHandle<Told>>,
}

impl Crowd {
    /// Buyers with accounts, and products with stock.
    pub async fn gather(url: &str) -> Result<Self> {
        let seller = Shopper::register(url).await?;
        let category = seller.category().await?;
        let mut products = Vec::new();
        for _ in 0..PRODUCTS {
            products.push(seller.product(&category, u64::try_from(STOCK)?).await?);
        }
        let mut buyers = Vec::new();
        for _ in 0..BUYERS {
            buyers.push(Shopper::register(url).await?);
        }
        Ok(Self {
            buyers,
            products: Arc::new(products),
            keys: 0,
            told: Told::default(),
            orders: Vec::new(),
            pause: Duration::ZERO,
            beside: Arc::default(),
        })
    }

    /// Somebody new whose account, and so whose purchases, lie in one of these slots.
    pub async fn somebody_in(&self, cluster: &Cluster, slots: &[(i64, i64)]) -> Result<Shopper> {
        for _ in 0..200 {
            let shopper = Shopper::register(&cluster.url()).await?;
            let slot = i64::try_from(shopper.account.parse::<Uuid>()?.as_u64_pair().0 & 0x0fff)?;
            if slots.iter().any(|(first, last)| (*first..=*last).contains(&slot)) {
                return Ok(shopper);
            }
        }
        bail!("nobody's slot lies in {slots:?}")
    }

    /// Has somebody buy until it succeeds: how long after `since` that was.
    pub async fn first_success(&self, shopper: &Shopper, since: Instant) -> Result<Duration> {
        loop {
            self.beside.fetch_add(1, Ordering::AcqRel);
            if let Ok(answer) = shopper.buy(&[(&self.products[0], 1)], None).await
                && answer.body["status"] == "completed"
            {
                return Ok(since.elapsed());
            }
            ensure!(since.elapsed() < Duration::from_secs(60), "nothing can be bought for a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has hundreds of purchases begun at one node, all at once; nobody waits for their answers.
    pub fn storm(&self, url: &str) -> Vec<JoinHandle<()>> {
        let begin = |number: usize| {
            let buyer = self.buyers[number % BUYERS].at(url);
            let body = Shopper::order(&[(&self.products[number % PRODUCTS], 1)], None);
            self.beside.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(async move {
                let request = buyer.request(Method::POST, "/purchases").timeout(Duration::from_secs(2));
                // The node is about to fall silent.
                drop(send(request.json(&body)).await);
            })
        };
        (0..STORM).map(begin).collect()
    }

    /// Everybody buys until it is over.
    pub fn rush(&mut self) -> Rush {
        let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        self.keys += 1;
        let buying = self
            .buyers
            .iter()
            .enumerate()
            .map(|(number, buyer)| {
                let (buyer, products) = (buyer.clone(), Arc::clone(&self.products));
                let (is_over, done, name) =
                    (Arc::clone(&is_over), Arc::clone(&done), format!("{}-{number}", self.keys));
                let pause = self.pause;
                tokio::spawn(async move { buy_until(&buyer, &products, &name, pause, &is_over, &done).await })
            })
            .collect();
        Rush { is_over, done, buying }
    }

    /// Ends a rush: nobody was answered wrongly.
    pub async fn end(&mut self, what: &str, rush: Rush) -> Result<()> {
        rush.is_over.store(true, Ordering::Release);
        let mut told = Told::default();
        for buyer in rush.buying {
            told.add(buyer.await?);
        }
        ensure!(told.wrong.is_empty(), "{what}: answered wrongly: {:?}", told.wrong);
        ensure!(!told.accepted.is_empty(), "{what}: nothing was accepted");
        println!(
            "{what}: {} accepted, {} refused with Retry-After, {} unanswered, none wrong",
            told.accepted.len(),
            told.refused,
            told.unanswered
        );
        self.told.add(told);
        Ok(())
    }

    /// Ends a rush, waits until all that it left is done, and judges: every accepted purchase terminal, every law
    /// silent, nothing doubled, nobody answered wrongly.
    pub async fn judge(&mut self, what: &str, rush: Rush, data: &Data) -> Result<()> {
        self.end(what, rush).await?;
        let stocked: Result<HashMap<Uuid, i64>> =
            self.products.iter().map(|product| Ok((product.parse()?, STOCK))).collect();
        let urls = DatabaseUrls {
            server: Some(data.database("postgres")?),
            order: self.orders.clone(),
            ..DatabaseUrls::default()
        };
        let checked = laws::hold_at(&urls, data, &stocked?, SETTLE_MAX).await;
        let checked = checked.with_context(|| what.to_owned())?;
        let made = checked.completed + checked.failed + checked.cancelled;
        let (accepted, tried) = (self.told.accepted.len(), self.told.tried);
        let tried = tried + self.beside.load(Ordering::Acquire);
        ensure!(
            (accepted..=tried).contains(&made),
            "{what}: {accepted} accepted, {made} made, {tried} tried"
        );
        self.same_purchases(what).await
    }

    /// Asking again under a key names the purchase that it named before, and that has ended.
    async fn same_purchases(&self, what: &str) -> Result<()> {
        let sample: Vec<_> = self.told.accepted.iter().step_by(1 + self.told.accepted.len() / 200).collect();
        let again = stream::iter(sample)
            .map(|(key, purchase)| async move {
                let answer = self.again(key).await?;
                ensure!(answer.body["purchase_id"] == **purchase, "{what}: {key} is doubled: {answer:?}");
                ensure!(answer.body["status"] != "pending", "{what}: {key} has not ended: {answer:?}");
                Ok(())
            })
            .buffer_unordered(8);
        again.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn again(&self, key: &str) -> Result<Answer> {
        let buyer = key.split(['-', '/']).nth(1).and_then(|number| number.parse::<usize>().ok());
        let buyer = buyer.and_then(|number| self.buyers.get(number)).context("a key names its buyer")?;
        place(buyer, &self.products, key).await
    }
}

impl Rush {
    /// Waits until so many more were accepted.
    pub async fn more(&self, count: usize) -> Result<()> {
        let goal = self.done.load(Ordering::Acquire) + count;
        let enough = async {
            while self.done.load(Ordering::Acquire) < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(90), enough)
            .await
            .with_context(|| format!("{count} more purchases are not accepted in 90 s"))
    }
}

async fn buy_until(
    buyer: &Shopper,
    products: &[String],
    name: &str,
    pause: Duration,
    is_over: &AtomicBool,
    done: &AtomicUsize,
) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        if is_over.load(Ordering::Acquire) {
            break;
        }
        let key = format!("{name}/{number}");
        told.tried += 1;
        // One who gets no answer asks again, as a good client does, a few times.
        for _ in 0..20 {
            match place(buyer, products, &key).await {
                Ok(answer) if answer.status == 202 || answer.status == 200 => {
                    let purchase = answer.body["purchase_id"].as_str().unwrap_or_default().to_owned();
                    told.accepted.insert(key.clone(), purchase);
                    done.fetch_add(1, Ordering::AcqRel);
                    break;
                }
                Ok(answer) if is_refusal(&answer) => told.refused += 1,
                Ok(answer) => {
                    told.wrong.push(format!("{key}: {answer:?}"));
                    break;
                }
                Err(_) => told.unanswered += 1,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(pause).await;
    }
    told
}

fn is_refusal(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 503 | 429) && answer.headers.contains_key("retry-after")
}

/// Buys under a key: what is bought follows from it. A tenth is declined, a tenth cancelled, some wait for the end.
async fn place(buyer: &Shopper, products: &[String], key: &str) -> Result<Answer> {
    let number: usize = key.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let (one, two) = (&products[number % products.len()], &products[(number + 1) % products.len()]);
    let token = match number % 10 {
        3 => Some("tok_declined"),
        5 => Some("tok_timeout_then_success"),
        _ => None,
    };
    let request = buyer
        .request(Method::POST, "/purchases")
        .timeout(Duration::from_secs(6))
        .header("idempotency-key", key)
        .json(&Shopper::order(&[(one, 1), (two, 2)], token));
    let request = if number % 4 == 1 { request.header("prefer", "wait=3") } else { request };
    let placed = send(request).await?;
    if number % 10 == 7
        && let Some(id) = placed.body["purchase_id"].as_str()
    {
        // Whether it comes in time, the laws do not mind.
        drop(buyer.post(&format!("/purchases/{id}/cancel"), &json!({})).await);
    }
    Ok(placed)
}
