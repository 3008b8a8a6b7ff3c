//! After the load: whether the laws hold in the databases, and whether what the client was told is so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use souk_actors::laws::{Law, Purchases};
use souk_persistence::databases::DatabaseUrls;
use souk_persistence::sandbox::BooksAt;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::database::Server;
use super::tally::Outcomes;
use crate::verify;

/// How long what is under way may take to end.
const OWED_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// An entity that owes something later is at rest until then: a second look at a mark, say.
const OWED: &str = "select count(*) from entity where owed is not null and owed <= now()";
const ORDERS: &str = "
select count(*) filter (where view ->> 'status' = 'completed'),
       count(*) filter (where view ->> 'status' <> 'completed')
from entity where kind = 6";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Orders that are completed.
    pub completed: u64,
    /// Orders that ended otherwise.
    pub not_completed: u64,
    /// Each law, and by how many rows it was judged.
    pub laws: Vec<(Law, u64)>,
    /// What does not hold; empty if everything does.
    pub violations: Vec<String>,
}

/// Orders that are there before the load: completed ones, and others.
pub async fn before(server: &Server) -> Result<[u64; 2]> {
    let row = sqlx::query(ORDERS).fetch_one(&mut server.connect("order_db").await?).await?;
    Ok([row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get::<i64, _>(1)?.unsigned_abs()])
}

/// Waits until nothing is owed, then looks. `data`: where the provider's books are. `told`: what the client
/// was answered since there were the orders `before`.
pub async fn audit(server: &Server, data: &Path, before: [u64; 2], told: &Outcomes) -> Result<Audit> {
    let mut databases = [server.connect("order_db").await?, server.connect("payment_db").await?];
    let deadline = Instant::now() + OWED_MAX;
    loop {
        let mut owed = 0;
        for connection in &mut databases {
            owed += number(connection).await?;
        }
        if owed == 0 {
            break;
        }
        if Instant::now() >= deadline {
            bail!("{owed} entities still owe something after {OWED_MAX:?}");
        }
        tokio::time::sleep(POLL).await;
    }
    let urls = DatabaseUrls { server: Some(server.url("postgres")), ..DatabaseUrls::default() };
    let books = BooksAt::Folder(data.join("sandbox"));
    let verified = verify::over(&urls, &books).await?.context("there are databases")?;
    let Purchases { completed, failed, cancelled, pending } = verified.report.purchases;
    let not_completed = failed + cancelled + pending;
    let verdicts = &verified.report.verdicts;
    let mut violations: Vec<_> = verdicts
        .iter()
        .flat_map(|verdict| verdict.examples.iter().map(|found| (verdict.law.name(), found)))
        .map(|(law, found)| format!("{law}: {} {}", found.stream, found.what))
        .collect();
    violations.extend(disagreement(told, completed - before[0], not_completed - before[1]));
    let laws = verdicts.iter().map(|verdict| (verdict.law, verdict.rows)).collect();
    Ok(Audit { completed, not_completed, laws, violations })
}

/// What was answered is so, what was accepted has ended, and only what was not answered may be more.
fn disagreement(told: &Outcomes, completed: u64, not_completed: u64) -> Vec<String> {
    let silent = told.unavailable + told.errors + told.broken;
    let ended = told.completed + told.declined + told.failed;
    let unknown = told.unfinished + silent;
    let ends = [
        ("completed", completed, told.completed, unknown),
        ("not completed", not_completed, told.declined + told.failed, unknown),
        ("there", completed + not_completed, ended + told.unfinished, silent),
    ];
    let wrong = ends.into_iter().filter(|(_, found, told, more)| !(*told..=told + more).contains(found));
    wrong
        .map(|(end, found, told, _)| format!("{found} orders are {end}, the client was told of {told}"))
        .collect()
}

async fn number(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query(OWED).fetch_one(connection).await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_so_and_only_silence_leaves_room() {
        let told = Outcomes { completed: 10, declined: 2, ..Outcomes::default() };
        assert_eq!(disagreement(&told, 10, 2), Vec::<String>::new());
        assert_eq!(disagreement(&told, 9, 2).len(), 2);
        assert_eq!(disagreement(&told, 11, 3).len(), 3);
        let accepted = Outcomes { unfinished: 3, ..told };
        assert_eq!(disagreement(&accepted, 12, 3), Vec::<String>::new());
        assert_eq!(disagreement(&accepted, 12, 2).len(), 1);
        let silent = Outcomes { broken: 1, ..told };
        assert_eq!(disagreement(&silent, 11, 2), Vec::<String>::new());
        assert_eq!(disagreement(&silent, 9, 2).len(), 2);
    }
}
