//! After the load: whether stock, orders and money add up, read from the databases themselves.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::database::Server;
use super::tally::Outcomes;

/// How long what is under way may take to end.
const OWED_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// An entity that owes something later is at rest until then: a second look at a mark, say.
const OWED: &str = "select count(*) from entity where owed is not null and owed <= now()";
const ORDERS: &str = "
select count(*) filter (where view ->> 'status' = 'completed'),
       count(*) filter (where view ->> 'status' <> 'completed'),
       count(*) filter (where not coalesce((view ->> 'at_rest')::boolean, false)),
       coalesce(sum((view ->> 'amount')::bigint) filter (where view ->> 'status' = 'completed'), 0)::bigint
from entity where kind = 6";
const ORDERED: &str = "
select (line ->> 'product')::uuid, sum((line ->> 'quantity')::bigint)::bigint
from entity, json_array_elements(view -> 'lines') line
where kind = 6 and view ->> 'status' = 'completed' group by 1";
const PAYMENTS: &str = "
select count(*) filter (where view ->> 'status' = 'captured'),
       coalesce(sum((view ->> 'captured_amount')::bigint - (view ->> 'refunded_amount')::bigint), 0)::bigint
from entity where kind = 7";
const STOCK: &str =
    "select stream, (view ->> 'inventory')::bigint, (view ->> 'held')::bigint from entity where kind = 5";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Orders that are completed.
    pub completed: i64,
    /// Orders that ended otherwise.
    pub not_completed: i64,
    /// Payments that are captured.
    pub captured: i64,
    /// Units in completed orders.
    pub units: i64,
    /// Money in completed orders, in minor units.
    pub amount: i64,
    /// What does not add up; empty if everything does.
    pub violations: Vec<String>,
}

/// Orders that are there before the load: completed ones, and others.
pub async fn before(server: &Server) -> Result<[i64; 2]> {
    let row = sqlx::query(ORDERS).fetch_one(&mut server.connect("order_db").await?).await?;
    Ok([row.try_get(0)?, row.try_get(1)?])
}

/// Waits until nothing is owed, then adds up. `stocked`: what each product had at first. `told`: what the
/// client was answered since there were the orders `before`.
pub async fn audit(
    server: &Server,
    stocked: &HashMap<Uuid, i64>,
    before: [i64; 2],
    told: &Outcomes,
) -> Result<Audit> {
    let mut orders = server.connect("order_db").await?;
    let mut payments = server.connect("payment_db").await?;
    let mut products = server.connect("product_db").await?;
    let deadline = Instant::now() + OWED_MAX;
    loop {
        let owed = number(&mut orders, OWED).await? + number(&mut payments, OWED).await?;
        if owed == 0 {
            break;
        }
        if Instant::now() >= deadline {
            bail!("{owed} entities still owe something after {OWED_MAX:?}");
        }
        tokio::time::sleep(POLL).await;
    }
    let order = sqlx::query(ORDERS).fetch_one(&mut orders).await.context("add up orders")?;
    let payment = sqlx::query(PAYMENTS).fetch_one(&mut payments).await.context("add up payments")?;
    let (completed, not_completed, unrested, amount): (i64, i64, i64, i64) =
        (order.try_get(0)?, order.try_get(1)?, order.try_get(2)?, order.try_get(3)?);
    let (captured, kept): (i64, i64) = (payment.try_get(0)?, payment.try_get(1)?);
    let mut ordered = HashMap::new();
    for row in sqlx::query(ORDERED).fetch_all(&mut orders).await.context("add up lines")? {
        ordered.insert(row.try_get::<Uuid, _>(0)?, row.try_get::<i64, _>(1)?);
    }
    let mut left = HashMap::new();
    for row in sqlx::query(STOCK).fetch_all(&mut products).await.context("read stock")? {
        left.insert(row.try_get::<Uuid, _>(0)?, (row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?));
    }
    let mut violations = Vec::new();
    let mut expect = |found: i64, expected: i64, what: &str| {
        if found != expected {
            violations.push(format!("{what}: {found}, not {expected}"));
        }
    };
    expect(unrested, 0, "orders that are not at rest");
    expect(captured, completed, "payments captured for completed orders");
    expect(kept, amount, "money kept for completed orders");
    for (product, stocked) in stocked {
        let (inventory, held) = left.get(product).copied().unwrap_or_default();
        let sold = ordered.get(product).copied().unwrap_or_default();
        expect(held, 0, &format!("held of {product}"));
        expect(inventory, stocked - sold, &format!("left of {product}"));
    }
    violations.extend(disagreement(told, completed - before[0], not_completed - before[1]));
    Ok(Audit { completed, not_completed, captured, units: ordered.values().sum(), amount, violations })
}

/// What was answered is so; and only what was not answered may be more.
fn disagreement(told: &Outcomes, completed: i64, not_completed: i64) -> Vec<String> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let unknown = count(told.unfinished + told.unavailable + told.errors + told.broken);
    let ends = [
        ("completed", completed, count(told.completed)),
        ("not completed", not_completed, count(told.declined + told.failed)),
    ];
    let wrong = ends.into_iter().filter(|(_, found, told)| !(0..=unknown).contains(&(found - told)));
    wrong
        .map(|(end, found, told)| format!("{found} orders are {end}, the client was told of {told}"))
        .collect()
}

async fn number(connection: &mut PgConnection, query: &'static str) -> Result<i64> {
    Ok(sqlx::query(query).fetch_one(connection).await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_so_and_only_silence_leaves_room() {
        let told = Outcomes { completed: 10, declined: 2, ..Outcomes::default() };
        assert_eq!(disagreement(&told, 10, 2), Vec::<String>::new());
        assert_eq!(disagreement(&told, 9, 2).len(), 1);
        assert_eq!(disagreement(&told, 11, 3).len(), 2);
        let silent = Outcomes { broken: 1, ..told };
        assert_eq!(disagreement(&silent, 11, 2), Vec::<String>::new());
        assert_eq!(disagreement(&silent, 9, 2).len(), 1);
    }
}
