//! What a load costs: time of the processor in client, node and database, commits, rows, bytes of log.
//!
//! Three readings: before the load, when it ends, and when nothing is under way any more. The client is
//! charged up to the second, the others up to the third: a purchase is settled a second after it is
//! complete, and that belongs to its price.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::counters::Counters;
use super::database::{self, Server};
use super::processes::{self, Machine};
use super::request;
use super::target::Target;

/// How long what is under way may take to end.
const SETTLED_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Reads what can be seen of those who work.
#[derive(Debug)]
pub struct Meter {
    /// The processes that answer, if they run on this machine and are ours.
    pub nodes: Vec<i32>,
    /// The server of the database, likewise, and a connection to it.
    pub postgres: Option<(Server, PgConnection)>,
    /// Nodes that say what they count and whether something is under way: host and port.
    pub souks: Vec<String>,
}

/// A reading of the processor's time, in seconds of a core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    client: f64,
    node: Option<f64>,
    postgres: Option<f64>,
    machine: Machine,
}

/// A reading of what was written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    counters: Counters,
    log_bytes: Option<i64>,
}

/// What one request costs. What cannot be seen is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// So many requests the sums were divided by.
    pub requests: u64,
    /// Microseconds of a core in the load client. It does the same for every purchase, so it tells how
    /// fast the machine was: two runs are to be compared with it in mind.
    pub client_us: f64,
    /// Microseconds of a core in the process that answers.
    pub node_us: Option<f64>,
    /// Microseconds of a core in all processes of the database's server.
    pub postgres_us: Option<f64>,
    /// Commits of the journals.
    pub commits: Option<f64>,
    /// Rows of the journals; each is one in `entity` too.
    pub rows: Option<f64>,
    /// Commits of each journal.
    pub commits_by_database: BTreeMap<String, f64>,
    /// Rows of each journal.
    pub rows_by_database: BTreeMap<String, f64>,
    /// Bytes of the write-ahead log.
    pub log_bytes: Option<f64>,
    /// Messages between actors, if the node counts them.
    pub messages: Option<f64>,
    /// Asks that crossed to another node.
    #[serde(default)]
    pub hops: Option<f64>,
    /// Frames between nodes, in both directions.
    #[serde(default)]
    pub frames: Option<f64>,
    /// Records that Kafka was told, if there is one.
    #[serde(default)]
    pub records: Option<f64>,
    /// Allocations, if the node counts them.
    pub allocations: Option<f64>,
    /// Bytes of memory that the process that answers holds at the end.
    pub node_bytes: Option<u64>,
    /// The part of the machine that worked during the load, 0 to 1.
    pub busy: f64,
    /// The part of the machine that worked for nobody of these.
    pub others: f64,
}

impl Meter {
    /// The processor's time until now.
    pub fn spent(&self) -> Spent {
        Spent {
            client: processes::of_us(),
            node: over(&self.nodes, processes::of),
            postgres: self.postgres.as_ref().and_then(|(server, _)| processes::of_family(server.pid)),
            machine: processes::machine(),
        }
    }

    /// What was written until now.
    pub async fn written(&mut self) -> Result<Written> {
        let counters = self.counters().await?;
        let log_bytes = match &mut self.postgres {
            Some((_, connection)) => Some(database::log_bytes(connection).await?),
            None => None,
        };
        Ok(Written { counters, log_bytes })
    }

    async fn counters(&self) -> Result<Counters> {
        let mut counted = Vec::new();
        for souk in &self.souks {
            counted.extend(look(souk, "//metrics").await?);
            counted.push(b'\n');
        }
        Ok(Counters::parse(&String::from_utf8_lossy(&counted)))
    }

    /// How far what Kafka is told is behind, in seconds. `None`: nobody tells.
    pub async fn relay_lag_s(&self) -> Result<Option<f64>> {
        Ok(self.counters().await?.greatest("souk_relay_lag_seconds"))
    }

    /// Waits until no purchase is under way, every completed one is settled, and Kafka told of all of it, if anybody is.
    pub async fn settled(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_MAX;
        loop {
            let (mut purchases, mut unsettled) = (0, 0);
            for souk in &self.souks {
                let ready: Value = serde_json::from_slice(&look(souk, "//readyz").await?)?;
                let count = |name: &str| ready[name].as_u64().context("read what is under way");
                purchases += count("purchases")?;
                unsettled += count("unsettled")?;
            }
            if purchases == 0 && unsettled == 0 && is_all_told(&self.counters().await?) {
                return Ok(());
            }
            let is_over = Instant::now() >= deadline;
            anyhow::ensure!(
                !is_over,
                "after {SETTLED_MAX:?} {purchases} purchases are under way and {unsettled} not settled, or Kafka is not \
                 told of all"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Divides what was spent and written by the requests that it was for.
    pub fn cost(&self, requests: u64, spent: [Spent; 3], written: [&Written; 2]) -> Cost {
        let [before, ended, settled] = spent;
        let [earlier, later] = written;
        let each = |sum: f64| sum / requests.max(1) as f64;
        let micros = |from: Option<f64>, to: Option<f64>| Some(each(to? - from?) * 1e6);
        let counted = |name| later.counters.growth(&earlier.counters, name).map(each);
        let by_database = |name| {
            let grown = later.counters.growth_by_database(&earlier.counters, name);
            grown.into_iter().map(|(database, sum)| (database, each(sum))).collect()
        };
        let (all, busy) = (ended.machine.all - before.machine.all, ended.machine.busy - before.machine.busy);
        let ours = [
            Some(ended.client - before.client),
            ended.node.zip(before.node).map(|(to, from)| to - from),
            ended.postgres.zip(before.postgres).map(|(to, from)| to - from),
        ];
        let ours: f64 = ours.into_iter().flatten().sum();
        let part = |seconds: f64| if all > 0.0 { (seconds / all).clamp(0.0, 1.0) } else { 0.0 };
        Cost {
            requests,
            client_us: each(ended.client - before.client) * 1e6,
            node_us: micros(before.node, settled.node),
            postgres_us: micros(before.postgres, settled.postgres),
            commits: counted("souk_journal_commits_total"),
            rows: counted("souk_journal_rows_total"),
            commits_by_database: by_database("souk_journal_commits_total"),
            rows_by_database: by_database("souk_journal_rows_total"),
            log_bytes: later.log_bytes.zip(earlier.log_bytes).map(|(to, from)| each((to - from) as f64)),
            messages: counted("souk_messages_total"),
            allocations: counted("souk_allocations_total"),
            hops: counted("souk_cluster_hops_total"),
            frames: counted("souk_cluster_frames_total"),
            records: counted("souk_relay_messages_total"),
            node_bytes: over(&self.nodes, processes::resident_bytes),
            busy: part(busy),
            others: part(busy - ours),
        }
    }
}

/// Of the databases that Kafka is told of, if it is, every row that was written.
fn is_all_told(counters: &Counters) -> bool {
    let in_all = |name| counters.growth_by_database(&Counters::default(), name);
    let written = in_all("souk_journal_rows_total");
    let told = in_all("souk_relay_rows_total");
    told.iter().all(|(database, told)| written.get(database).is_none_or(|written| written <= told))
}

/// The sum over all processes. `None`: there are none, or one cannot be seen.
fn over<T: std::iter::Sum>(processes: &[i32], of: fn(i32) -> Option<T>) -> Option<T> {
    if processes.is_empty() { None } else { processes.iter().map(|process| of(*process)).sum() }
}

/// Reads a page of the node, on a connection of its own: the node closes those that nobody uses, and also
/// one whose request comes late because the machine is busy. So it is asked twice.
async fn look(souk: &str, path: &str) -> Result<Vec<u8>> {
    let target = Target::empty(vec![souk.to_owned()]);
    let request = request::get(&target, path);
    let mut again = true;
    loop {
        let answer = target.connect().await?.exchange(&request).await.map(|answer| answer.body.to_vec());
        match answer {
            Err(_) if again => again = false,
            answer => return answer.with_context(|| format!("read {path}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settling_is_charged_to_those_who_settle_and_not_to_the_client() {
        let meter = Meter { nodes: Vec::new(), postgres: None, souks: Vec::new() };
        let spent = |client, node, postgres, busy, all| Spent {
            client,
            node: Some(node),
            postgres,
            machine: Machine { busy, all },
        };
        let readings = [
            spent(1.0, 10.0, Some(20.0), 100.0, 200.0),
            spent(1.2, 11.0, Some(22.0), 104.0, 208.0),
            spent(1.5, 11.5, Some(23.0), 105.0, 216.0),
        ];
        let written = |rows, log_bytes| Written {
            counters: Counters::parse(&format!("souk_journal_rows_total{{db=\"order_db\"}} {rows}\n")),
            log_bytes,
        };
        let cost = meter.cost(10_000, readings, [&written(5, Some(7)), &written(30_005, Some(50_000_007))]);
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        close(cost.client_us, 20.0);
        close(cost.node_us.expect("seen"), 150.0);
        close(cost.postgres_us.expect("seen"), 300.0);
        close(cost.rows.expect("counted"), 3.0);
        close(cost.rows_by_database["order_db"], 3.0);
        close(cost.log_bytes.expect("seen"), 5_000.0);
        close(cost.busy, 0.5);
        close(cost.others, 0.1);
        assert_eq!((cost.commits, cost.messages), (None, None));
    }
}
