//! The laws over a shop in a data folder, once nothing that it owes is due any more. What they are:
//! [`souk_actors::laws`].

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use souk_actors::aggregate::Kind;
use souk_actors::laws::{Booked, Books, Moment, check};
use souk_actors::order::{self, Status};
use souk_actors::{Clock, Journals, product};
use souk_persistence::databases::{DatabaseUrls, ReadOnly};
use souk_persistence::journal::{Journal, SLOTS, Scanned};
use souk_persistence::sandbox::BooksAt;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use crate::process::Data;

const PAGE: usize = 1_000;

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

/// Waits until nothing that is owed is due, then checks every law, and that of what each product had at
/// first (`stocked`) is left what was not sold.
pub async fn hold(data: &Data, stocked: &HashMap<Uuid, i64>, patience: Duration) -> Result<Checked> {
    let urls = DatabaseUrls { server: Some(data.database("postgres")?), ..DatabaseUrls::default() };
    hold_at(&urls, data, stocked, patience).await
}

/// As [`hold`], of databases that are not all on the server in the data folder.
pub async fn hold_at(
    urls: &DatabaseUrls,
    data: &Data,
    stocked: &HashMap<Uuid, i64>,
    patience: Duration,
) -> Result<Checked> {
    let databases = ReadOnly::open(urls).await?.context("there are databases")?;
    let journals = Journals {
        account: databases.account.clone(),
        product: databases.product.clone(),
        order: databases.order.clone(),
        payment: databases.payment.clone(),
    };
    let now = at_rest(&journals, patience).await?;
    let folder = BooksAt::Folder(data.path().join("sandbox")).read().await?;
    let booked = match folder {
        Some(booked) => booked,
        // Nodes that share no folder keep them in a database.
        None => BooksAt::server(urls.server.as_deref())?.read().await?.unwrap_or_default(),
    };
    let books: Books = booked
        .into_iter()
        .map(|entry| (entry.key, Booked { captured: entry.captured, refunded: entry.refunded }))
        .collect();
    let report = check(&journals, Some(&books), now).await?;
    ensure!(report.holds(), "{report}");
    ensure!(report.verdicts.iter().all(|verdict| verdict.rows > 0), "{report}");
    stock_is_what_was_not_sold(&journals, stocked).await?;
    let purchases = report.purchases;
    Ok(Checked {
        completed: purchases.completed.try_into()?,
        failed: purchases.failed.try_into()?,
        cancelled: purchases.cancelled.try_into()?,
    })
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

async fn at_rest(journals: &Journals, patience: Duration) -> Result<Moment> {
    let deadline = Instant::now() + patience;
    loop {
        let now = Clock::System.now();
        // What a payment owes later is a second look at a mark, long after its purchase has ended.
        let orders = journals.order.owed(0..=SLOTS - 1, now, None, 1_000).await?.len();
        let payments = journals.payment.owed(0..=SLOTS - 1, now, None, 1_000).await?.len();
        if (orders, payments) == (0, 0) {
            return Ok(Moment::AtRest(now));
        }
        ensure!(
            Instant::now() < deadline,
            "{orders} orders and {payments} payments still owe something after {patience:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stock_is_what_was_not_sold(journals: &Journals, stocked: &HashMap<Uuid, i64>) -> Result<()> {
    let mut left = stocked.clone();
    for order in entities(journals.order.as_ref()).await? {
        let order: order::View = serde_json::from_str(&order.view)?;
        for line in order.lines.iter().filter(|_| order.status == Status::Completed) {
            let left = left.get_mut(&line.product.uuid()).context("sold is what was stocked")?;
            *left -= i64::from(line.quantity);
        }
    }
    let products = entities(journals.product.as_ref()).await?;
    for product in products.iter().filter(|entity| entity.kind == Kind::Product.number()) {
        let Some(left) = left.remove(&product.stream) else { continue };
        let view: product::View = serde_json::from_str(&product.view)?;
        ensure!(
            (view.inventory, view.held) == (left, 0),
            "of {} {left} should be left: {view:?}",
            product.stream
        );
    }
    ensure!(left.is_empty(), "products are gone: {left:?}");
    Ok(())
}

async fn entities(journal: &dyn Journal) -> Result<Vec<Scanned>> {
    let mut entities: Vec<Scanned> = Vec::new();
    loop {
        let behind = entities.last().map(|entity| entity.stream);
        let page = journal.scan(behind, PAGE as i64).await?;
        let is_last = page.len() < PAGE;
        entities.extend(page);
        if is_last {
            return Ok(entities);
        }
    }
}
