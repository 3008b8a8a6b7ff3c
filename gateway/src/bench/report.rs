//! What was measured, for machines: the file that `--json` writes and `--against` reads.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::audit::Audit;
use super::latency::Percentiles;
use super::meter::Cost;
use super::scenario::Scenario;
use super::tally::Outcomes;

/// Of this file. A report of another number cannot be compared with.
const FORMAT: u32 = 1;

/// Everything that one `souk bench` has measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of this file.
    pub format: u32,
    /// On what, with what.
    pub conditions: Conditions,
    /// Purchases that were completed before anything was measured.
    pub warmed_up: u64,
    /// In the order in which they were asked for.
    pub scenarios: Vec<Measured>,
    /// From an empty shop to a full one, if it was asked for.
    pub growth: Option<Growth>,
    /// In a storm and after it, if it was asked for.
    pub overload: Option<Overload>,
    /// Whether stock, orders and money add up afterwards; none: the databases cannot be seen.
    pub audit: Option<Audit>,
    /// The same of the Souk that tells Kafka.
    #[serde(default)]
    pub audit_with_kafka: Option<Audit>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// On what was measured, and with what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Conditions {
    pub at: String,
    pub souk: String,
    /// As the environment names it in `SOUK_COMMIT`.
    pub commit: Option<String>,
    pub is_optimised: bool,
    pub cores: usize,
    pub processor: Option<String>,
    pub memory_bytes: Option<u64>,
    pub kernel: Option<String>,
    pub postgres: Option<String>,
    pub file_system: Option<String>,
    /// Variables that change Souk's settings.
    pub settings: Vec<String>,
    pub seconds: f64,
    pub warm_up_seconds: f64,
    pub runs: usize,
}

/// One scenario: each list has an entry for each run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// As it is asked for.
    pub name: String,
    /// In words.
    pub title: String,
    /// The Souk under test.
    pub souk: Vec<Run>,
    /// The same that tells Kafka; empty where that was not asked for.
    #[serde(default)]
    pub with_kafka: Vec<Run>,
    /// Hand-written SQL over HTTP; empty where it was not measured.
    pub sql_over_http: Vec<Run>,
    /// The same without HTTP.
    pub pgbench: Vec<SqlRun>,
}

/// One load on one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What the rate counts; of a burst, until the last one ended.
    pub seconds: f64,
    /// Completed purchases.
    pub per_second: f64,
    /// Of all, those of the warm-up too.
    pub outcomes: Outcomes,
    /// Of those that ended well.
    pub latency: Percentiles,
    /// Of those that were answered "not now", from when they were sent.
    pub refusals: Percentiles,
    /// Beside it.
    pub reads: Vec<Reads>,
    /// When the load ended, how old the oldest row was that Kafka had not been told of; none: there is no relay.
    #[serde(default)]
    pub relay_lag_s: Option<f64>,
    /// Of one purchase; where there were reads, of one request.
    pub cost: Cost,
}

/// Reads of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    /// The route.
    pub what: String,
    /// Answered 200.
    pub per_second: f64,
    /// All of them.
    pub outcomes: Outcomes,
    /// Of those that were answered 200.
    pub latency: Percentiles,
}

/// A run of pgbench.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SqlRun {
    /// Fewer than the load's, where the server takes no more.
    pub connections: usize,
    /// Transactions, each a purchase.
    pub per_second: f64,
    /// The mean.
    pub mean_ms: f64,
    /// Microseconds of a core in all processes of the server.
    pub postgres_us: Option<f64>,
}

/// What a purchase costs in an empty shop, and in one with many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// On disk at the end.
    pub purchases: u64,
    /// A second, while they were made.
    pub filled_per_second: f64,
    /// Without keys and with, before.
    pub empty: [Run; 2],
    /// Without keys and with, afterwards.
    pub full: [Run; 2],
    /// On disk with indexes, of one purchase without and with a key.
    pub bytes_per_purchase: [f64; 2],
}

/// Ten times more than can be done, and what goes before and after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overload {
    /// In the storm; fewer are sent where the client cannot do more.
    pub asked_per_second: u32,
    /// 256 that wait for the end of each purchase.
    pub before: Run,
    /// Nobody waits: purchases are accepted or refused.
    pub during: Run,
    /// As before.
    pub after: Run,
}

impl Measured {
    /// Not run yet.
    pub fn begin(scenario: &Scenario) -> Self {
        let (name, title) = (scenario.name.clone(), scenario.title());
        Self {
            name,
            title,
            souk: Vec::new(),
            with_kafka: Vec::new(),
            sql_over_http: Vec::new(),
            pgbench: Vec::new(),
        }
    }
}

impl Report {
    /// Nothing measured yet.
    pub fn new(conditions: Conditions) -> Self {
        Self {
            format: FORMAT,
            conditions,
            warmed_up: 0,
            scenarios: Vec::new(),
            growth: None,
            overload: None,
            audit: None,
            audit_with_kafka: None,
            left_out: Vec::new(),
        }
    }

    /// Reads a report that was written earlier.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let report = Self::parse(&text).with_context(|| format!("understand {}", path.display()))?;
        Ok(report)
    }

    /// Writes it whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// The scenario of a name.
    pub fn scenario(&self, name: &str) -> Option<&Measured> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // First, lest a field of another format is the error that is told.
        let Format { format } = serde_json::from_str(text)?;
        anyhow::ensure!(format == FORMAT, "it has format {format}, and this is format {FORMAT}");
        Ok(serde_json::from_str(text)?)
    }
}

/// The middle one of several runs, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// `None`: there is no run, or none that has seen it.
pub fn spread<T>(runs: &[T], value: impl Fn(&T) -> Option<f64>) -> Option<Spread> {
    let mut values: Vec<_> = runs.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    Some(Spread { median, least, most })
}

/// The middle one of several runs.
pub fn median<T>(runs: &[T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    spread(runs, value).map(|spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written_and_one_of_another_format_is_not() {
        let cost = Cost { requests: 7, client_us: 12.5, node_us: Some(53.25), ..Cost::default() };
        let run = Run { seconds: 2.0, per_second: 8_412.5, cost, ..Run::default() };
        let mut report = Report::new(Conditions { cores: 2, ..Conditions::default() });
        report.scenarios.push(Measured {
            name: "burst".to_owned(),
            title: "1000 at once".to_owned(),
            souk: vec![run.clone(), run],
            with_kafka: Vec::new(),
            sql_over_http: Vec::new(),
            pgbench: vec![SqlRun { connections: 48, per_second: 6_553.0, mean_ms: 7.3, postgres_us: None }],
        });
        report.left_out.push("nothing".to_owned());
        let text = serde_json::to_string_pretty(&report).expect("plain values");
        assert_eq!(Report::parse(&text).expect("reads"), report);
        assert_eq!(report.scenario("burst").map(|scenario| scenario.souk.len()), Some(2));
        let other = text.replace("\"format\": 1", "\"format\": 9");
        assert!(Report::parse(&other).expect_err("another format").to_string().contains("format 9"));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let of = |values: &[f64]| spread(values, |value| Some(*value));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(median(&[1.0, 4.0, 2.0, 9.0], |value| Some(*value)), Some(3.0));
        assert_eq!(median(&[1.0], |_| None), None);
    }
}
