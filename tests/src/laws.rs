//! The laws: what must hold once nothing is under way any more, whatever was killed on the way.
//!
//! Read from the databases themselves and from the provider's own books, not through the API, so that no
//! mistake of a reader hides a mistake of a writer.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use souk_persistence::sandbox;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use crate::process::Data;

/// What there was to check.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Purchases by status.
    pub completed: usize,
    /// Refused or not answered in time.
    pub failed: usize,
    /// By the customer.
    pub cancelled: usize,
}

type Views = HashMap<Uuid, Value>;

/// Waits until nothing is owed any more, then checks every law. `stocked`: what each product had at first.
pub async fn hold(data: &Data, stocked: &HashMap<Uuid, i64>, patience: Duration) -> Result<Checked> {
    let mut orders = PgConnection::connect(&data.database("order_db")?).await?;
    let mut products = PgConnection::connect(&data.database("product_db")?).await?;
    let mut payments = PgConnection::connect(&data.database("payment_db")?).await?;
    let deadline = Instant::now() + patience;
    loop {
        let owed = owed(&mut orders).await? + owed(&mut payments).await?;
        if owed == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "{owed} entities still owe something after {patience:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for connection in [&mut orders, &mut products, &mut payments] {
        streams_have_no_gaps(connection).await?;
    }
    let (orders, products, payments) =
        (views(&mut orders, 6).await?, views(&mut products, 5).await?, views(&mut payments, 7).await?);
    let checked = every_purchase_ends(&orders)?;
    stock_is_conserved(&orders, &products, stocked)?;
    orders_and_payments_tell_one_story(&orders, &payments)?;
    money_is_conserved(&payments, data.path())?;
    Ok(checked)
}

/// As [`hold`], once the database that was killed is back.
pub async fn hold_when_back(
    data: &Data,
    stocked: &HashMap<Uuid, i64>,
    patience: Duration,
) -> Result<Checked> {
    let deadline = Instant::now() + patience;
    while PgConnection::connect(&data.database("order_db")?).await.is_err() {
        ensure!(Instant::now() < deadline, "the database is not back after {patience:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    hold(data, stocked, patience).await
}

async fn owed(connection: &mut PgConnection) -> Result<i64> {
    // What a payment owes later is a second look at a mark, long after its purchase has ended.
    let row = sqlx::query("select count(*) from entity where owed is not null and owed <= now()")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

async fn views(connection: &mut PgConnection, kind: i16) -> Result<Views> {
    let rows = sqlx::query("select stream, view::text from entity where kind = $1")
        .bind(kind)
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|row| {
            let view: String = row.try_get(1)?;
            Ok((row.try_get(0)?, serde_json::from_str(&view)?))
        })
        .collect()
}

async fn streams_have_no_gaps(connection: &mut PgConnection) -> Result<()> {
    let broken = sqlx::query(
        "select e.stream from entity e left join journal j using (stream)
         where e.kind in (4, 5, 6, 7)
         group by e.stream, e.version
         having count(j.version) <> e.version or max(j.version) <> e.version",
    )
    .fetch_all(connection)
    .await?;
    ensure!(broken.is_empty(), "{} streams have gaps or rows beyond their version", broken.len());
    Ok(())
}

fn every_purchase_ends(orders: &Views) -> Result<Checked> {
    let mut checked = Checked::default();
    for (id, order) in orders {
        ensure!(order["at_rest"] == true, "order {id} is not at rest: {order}");
        ensure!(order["attention"].is_null(), "order {id} needs a person: {order}");
        match order["status"].as_str() {
            Some("completed") => checked.completed += 1,
            Some("failed") => checked.failed += 1,
            Some("cancelled") => checked.cancelled += 1,
            status => anyhow::bail!("order {id} has the status {status:?}"),
        }
    }
    Ok(checked)
}

fn stock_is_conserved(orders: &Views, products: &Views, stocked: &HashMap<Uuid, i64>) -> Result<()> {
    let mut sold: HashMap<Uuid, i64> = HashMap::new();
    for order in orders.values().filter(|order| order["status"] == "completed") {
        for line in order["lines"].as_array().context("a completed order has lines")? {
            let product: Uuid = line["product"].as_str().context("a line has a product")?.parse()?;
            *sold.entry(product).or_default() += line["quantity"].as_i64().context("a quantity")?;
        }
    }
    for (id, stocked) in stocked {
        let product = products.get(id).with_context(|| format!("product {id} exists"))?;
        let (inventory, held) = (product["inventory"].as_i64(), product["held"].as_i64());
        let sold = sold.get(id).copied().unwrap_or(0);
        ensure!(held == Some(0), "product {id} still holds {held:?}");
        ensure!(
            inventory == Some(stocked - sold),
            "of {stocked} of {id} {sold} are sold, {inventory:?} left"
        );
    }
    Ok(())
}

fn orders_and_payments_tell_one_story(orders: &Views, payments: &Views) -> Result<()> {
    for (id, order) in orders {
        let status = payments.get(id).map(|payment| payment["status"].as_str().unwrap_or_default());
        let fits = match order["status"].as_str() {
            Some("completed") => status == Some("captured"),
            _ => matches!(status, None | Some("voided")),
        };
        ensure!(fits, "order {id} is {} and its payment {status:?}", order["status"]);
        if let (Some(payment), true) = (payments.get(id), order["status"] == "completed") {
            ensure!(payment["amount"] == order["amount"], "order {id} is charged {}", payment["amount"]);
            let total: i64 = order["lines"]
                .as_array()
                .context("lines")?
                .iter()
                .map(|line| Some(line["price"].as_i64()? * line["quantity"].as_i64()?))
                .sum::<Option<i64>>()
                .context("prices and quantities")?;
            ensure!(order["amount"].as_i64() == Some(total), "order {id} does not add up");
        }
    }
    let strays = payments.keys().filter(|id| !orders.contains_key(id)).count();
    ensure!(strays == 0, "{strays} payments have no order");
    Ok(())
}

fn money_is_conserved(payments: &Views, data: &Path) -> Result<()> {
    let mut theirs = HashMap::new();
    for entry in sandbox::read_ledger(&data.join("sandbox"))? {
        theirs.insert(entry.key, (entry.captured, entry.refunded));
    }
    for (id, payment) in payments {
        let ours = (payment["captured_amount"].as_i64(), payment["refunded_amount"].as_i64());
        let (captured, refunded) = theirs.remove(id).unwrap_or((0, 0));
        ensure!(
            ours == (Some(captured), Some(refunded)),
            "{id}: ours {ours:?}, theirs {captured} {refunded}"
        );
        if payment["status"] == "voided" {
            ensure!(captured == refunded, "{id} is voided, and {captured} is kept but for {refunded}");
        }
    }
    let kept: Vec<_> = theirs.iter().filter(|(_, (captured, refunded))| captured != refunded).collect();
    ensure!(kept.is_empty(), "the provider keeps money that we know nothing of: {kept:?}");
    Ok(())
}
