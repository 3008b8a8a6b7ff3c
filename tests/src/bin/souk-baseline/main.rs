//! `souk-baseline`: the purchase as one would write it by hand, behind the same HTTP. `souk bench` starts it
//! and compares Souk with it, in the same run and on the same database server.
//!
//! One stored function per purchase (`schema.sql`), the same bearer check, the same bodies. What it is not:
//! a shop: no idempotency keys, no payment that can be declined, nothing that survives being cut into services.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use souk_actors::Clock;
use souk_gateway::bench::baseline::{DATABASE, KEY, PRODUCTS};
use souk_gateway::tokens::Tokens;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row as _};
use tokio::net::TcpListener;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCHEMA: &str = include_str!("schema.sql");
/// Tried on two cores: 8 and 16 are slower, 40 are not faster.
const CONNECTIONS: u32 = 24;
const WAIT_MAX: Duration = Duration::from_secs(30);

struct Shop {
    pool: PgPool,
    tokens: Tokens,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Buy {
    order_items: Vec<Item>,
    payment: Payment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    product_id: Uuid,
    quantity: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payment {
    currency_code: String,
}

fn main() -> Result<()> {
    // As Souk: half of the cores, the rest is PostgreSQL's.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<()> {
    let variable =
        |name| std::env::var(name).with_context(|| format!("{name} is not set: souk bench starts this"));
    let options: PgConnectOptions = variable(DATABASE)?.parse()?;
    let options = options.disable_statement_logging();
    let key = key(&variable(KEY)?).context("the key is 64 hexadecimal digits")?;
    make(&options).await.context("make the database")?;
    let pool = PgPoolOptions::new()
        .min_connections(CONNECTIONS)
        .max_connections(CONNECTIONS)
        .acquire_timeout(WAIT_MAX)
        // A round trip before each purchase.
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    let shop = Arc::new(Shop { pool, tokens: Tokens::new(&[key])? });
    let router = Router::new()
        .route("/api/v1/purchases", post(buy))
        .route("/livez", get(async || "ok\n"))
        .with_state(shop);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // It would only be slower.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

/// Makes the database anew.
async fn make(options: &PgConnectOptions) -> Result<()> {
    let name = options.get_database().context("the URL names no database")?;
    let mut server = PgConnection::connect_with(&options.clone().database("postgres")).await?;
    // The name comes from whoever starts this; it is quoted, as it cannot be bound.
    for statement in ["drop database if exists", "create database"] {
        server.execute(AssertSqlSafe(format!("{statement} \"{name}\""))).await?;
    }
    let mut database = PgConnection::connect_with(options).await?;
    database.execute(AssertSqlSafe(SCHEMA.replace(":products", &PRODUCTS.to_string()))).await?;
    Ok(())
}

async fn buy(State(shop): State<Arc<Shop>>, headers: HeaderMap, body: Bytes) -> Response {
    match bought(&shop, &headers, &body).await {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, "application/json")], text).into_response(),
        Err((status, detail)) => (status, Json(json!({"detail": detail}))).into_response(),
    }
}

async fn bought(shop: &Shop, headers: &HeaderMap, body: &[u8]) -> Result<String, (StatusCode, String)> {
    let stranger = || (StatusCode::UNAUTHORIZED, "no valid access token".to_owned());
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let access = shop.tokens.open_access(bearer.ok_or_else(stranger)?, Clock::System.now());
    let customer = access.map_err(|_| stranger())?.account;
    let Buy { order_items, payment } =
        serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if payment.currency_code != "VND" {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, "everything is priced in VND".to_owned()));
    }
    let (products, quantities): (Vec<_>, Vec<_>) =
        order_items.into_iter().map(|item| (item.product_id, item.quantity)).unzip();
    let row = sqlx::query("select buy($1, $2, $3, $4)")
        .bind(Uuid::now_v7())
        .bind(customer)
        .bind(products)
        .bind(quantities)
        .fetch_one(&shop.pool)
        .await;
    row.and_then(|row| row.try_get(0)).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (text.len() == 64).then_some(key)
}
