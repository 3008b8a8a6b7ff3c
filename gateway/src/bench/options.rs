//! What `souk bench` can be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::scenario::{UnknownScenario, named};

/// The flags of `souk bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Scenarios:
  table           those that have a target: uniform-1, -32, -256, hot-256, burst-uniform, burst
  burst           1,000 purchases of 4 and 10 units of two products, all at once over 1,000 connections
  burst-uniform   the same of a thousand products
  uniform-N       N connections, each one purchase after the other, of a thousand products; hot-N: of two
  declined        uniform-256, of 100 payments 5 declined
  keyed           uniform-256, each purchase with an Idempotency-Key of its own
  reads           uniform-32, and 32 connections that read products and purchases beside
  open            arrivals at a fixed --rate; latency is counted from when each was meant to begin
  overload        ten times more than uniform-256 has just shown that can be done, and uniform-256 after it
  growth          uniform-256 in an empty shop, without keys and with; the same once --fill are on disk

Examples:
  souk bench                                          about two minutes: the table, and what has no target
  souk bench --scenario burst --runs 5
  souk bench --scenario open --rate 5000 --seconds 30
  souk bench --scenario table --runs 3 --json new.json --against old.json
  souk bench --scenario uniform-64 --url http://127.0.0.1:8080
  souk bench --scenario uniform-256 --nodes 3         a cluster of three nodes on this machine
  souk bench --scenario uniform-256 --runs 3 --kafka 127.0.0.1:9092
                                                      what telling Kafka costs (make services starts one)

Without --url it starts a Souk of its own, with a database of its own, over a temporary folder. Souk's
settings come from the environment (SOUK__SECTION__KEY), except where its database is.")]
pub struct Options {
    /// What to measure; may be repeated [default: table uniform-1000 declined keyed reads]
    #[arg(long = "scenario", value_name = "NAME", value_parser = known)]
    pub scenarios: Vec<String>,
    /// How long each load is measured, after a warm-up of a fifth of it
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    pub seconds: f64,
    /// How often each scenario runs; shown are medians, and the least and most
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub runs: u16,
    /// Arrivals a second in `open`
    #[arg(long, value_name = "COUNT", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Purchases that `growth` puts on disk
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub fill: u64,
    /// A Souk that runs already: its processor and databases are then not seen, and nothing is audited
    #[arg(long, value_name = "URL", value_parser = authority)]
    pub url: Option<String>,
    /// Where the bench's own Souk keeps its data, which then stays [default: a temporary folder]
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    pub data: Option<PathBuf>,
    /// A cluster of so many nodes, instead of one node that is alone; buyers connect to each in turn
    #[arg(long, value_name = "COUNT", conflicts_with = "url", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub nodes: Option<u16>,
    /// So many nodes without shards before them: buyers connect to these alone, and every purchase crosses
    #[arg(long, value_name = "COUNT", requires = "nodes", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=16))]
    pub gateways: u16,
    /// Brokers: each load also runs, in turn, on a second Souk that tells them everything. Its topics have a prefix of
    /// their own, and stay
    #[arg(long, value_name = "HOST:PORT,…", conflicts_with = "url")]
    pub kafka: Option<String>,
    /// Leaves out what hand-written SQL does
    #[arg(long)]
    pub no_baselines: bool,
    /// Writes the report there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Shows the differences to an earlier report
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
}

/// Scenarios that are measured by themselves.
pub const GROWTH: &str = "growth";
/// Likewise.
pub const OVERLOAD: &str = "overload";
/// The least that a load is measured.
const SECONDS_MIN: f64 = 0.5;
const SECONDS_MAX: f64 = 3_600.0;
/// The most that goes before.
const WARM_UP_MAX: Duration = Duration::from_secs(5);

impl Options {
    /// How long each load is measured.
    pub fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(SECONDS_MIN, SECONDS_MAX))
    }

    /// What goes before it.
    pub fn warm_up(&self) -> Duration {
        (self.seconds() / 5).min(WARM_UP_MAX)
    }
}

fn known(name: &str) -> Result<String, UnknownScenario> {
    if ![GROWTH, OVERLOAD].contains(&name) {
        named(name, 1)?;
    }
    Ok(name.to_owned())
}

/// Host and port of a URL.
fn authority(url: &str) -> Result<String, &'static str> {
    let rest = url.strip_prefix("http://").ok_or("it does not begin with http://")?;
    let host = rest.trim_end_matches('/');
    if host.is_empty() || host.contains('/') {
        return Err("it is not the URL of a server, like http://127.0.0.1:8080");
    }
    Ok(if host.contains(':') { host.to_owned() } else { format!("{host}:80") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        assert_eq!(authority("http://127.0.0.1:8080").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(authority("http://souk.example/").as_deref(), Ok("souk.example:80"));
        for url in ["https://127.0.0.1:1", "127.0.0.1:1", "http://", "http://souk.example/api"] {
            assert!(authority(url).is_err(), "{url}");
        }
    }
}
