//! Whom the load is for: a shop with products, and a buyer's token.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use uuid::Uuid;

use super::request;
use super::wire::Connection;

/// What a uniform load chooses from.
pub const UNIFORM: usize = 1_000;
/// Of each product: more than any load buys.
const STOCK: i64 = 1_000_000_000_000;
/// Of one, in VND.
pub const PRICE: i64 = 125;
/// Fewer than Souk has readers: each product's category is read.
const MAKERS: usize = 8;
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: u32 = 10;

/// Where to buy, and what.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port, of each node that is open to buyers.
    pub doors: Arc<[String]>,
    /// Whose turn it is to be connected to.
    pub turn: Arc<AtomicUsize>,
    /// Of the buyer; empty before there is one.
    pub token: String,
    /// The products of a uniform load; none if there is no such load.
    pub uniform: Arc<[Uuid]>,
    /// The two of a hot one.
    pub hot: Arc<[Uuid]>,
}

impl Target {
    /// A shop in which nobody is known and nothing sold yet.
    pub fn empty(doors: Vec<String>) -> Self {
        Self {
            doors: doors.into(),
            turn: Arc::default(),
            token: String::new(),
            uniform: [].into(),
            hot: [].into(),
        }
    }

    /// Registers a buyer and puts products up for sale: two, and a thousand if they are needed.
    pub async fn furnish(&mut self, needs_uniform: bool) -> Result<()> {
        let mut connection = self.connect().await?;
        let email = format!("bench-{:032x}@example.com", rand::random::<u128>());
        let password = format!("{:032x}", rand::random::<u128>());
        let buyer = json!({"email": email, "password": password});
        let session = send(&mut connection, &request::post(self, "/account/register", &buyer)).await?;
        self.token = session["access_token"].as_str().context("read the access token")?.to_owned();
        let category = json!({"name": "Bench", "description": "Made by souk bench"});
        let category = send(&mut connection, &request::post(self, "/categories", &category)).await?;
        let category = category["category"]["id"].as_str().context("read the category's id")?;
        self.hot = self.make(category, 2).await?.into();
        self.uniform = self.make(category, if needs_uniform { UNIFORM } else { 0 }).await?.into();
        Ok(())
    }

    async fn make(&self, category: &str, count: usize) -> Result<Vec<Uuid>> {
        let body = &json!({"category_id": category, "name": "Iphone 13", "description": "A phone",
            "brand_name": "Apple", "price": PRICE, "currency": "VND", "inventory": STOCK});
        // A connection for each maker: they take turns.
        let made = stream::iter(0..MAKERS).map(async |maker| {
            let mut connection = self.connect().await?;
            let mut made = Vec::new();
            for _ in (maker..count).step_by(MAKERS) {
                let request = request::post_once(self, "/products", body);
                let product = insist(&mut connection, &request).await.context("make a product")?;
                made.push(product["product"]["id"].as_str().context("read the product's id")?.parse()?);
            }
            anyhow::Ok(made)
        });
        let made: Vec<Vec<Uuid>> = made.buffer_unordered(MAKERS).try_collect().await?;
        Ok(made.concat())
    }

    /// A connection to it: to the next door, where there are several.
    pub async fn connect(&self) -> Result<Connection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let authority = &self.doors[turn % self.doors.len()];
        Connection::open(authority).await.with_context(|| format!("connect to {authority}"))
    }
}

/// Sends a request that has a key until it succeeds: a busy machine may have to be asked twice.
async fn insist(connection: &mut Connection, request: &[u8]) -> Result<Value> {
    let mut again = 0;
    loop {
        match send(connection, request).await {
            Err(_) if again < AGAIN_MAX => again += 1,
            answer => return answer,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Sends a request that must succeed.
pub async fn send(connection: &mut Connection, request: &[u8]) -> Result<Value> {
    let answer = connection.exchange(request).await?;
    if !matches!(answer.status, 200..300) {
        bail!("answered {}: {}", answer.status, String::from_utf8_lossy(answer.body));
    }
    serde_json::from_slice(answer.body).context("read the answer")
}
