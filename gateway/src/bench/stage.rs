//! Runs loads on the Souk under test and on what it is compared with, each with its cost.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::audit::{self, Audit};
use super::baseline::{self, Baseline};
use super::database;
use super::load::{Crowd, Pace};
use super::meter::Meter;
use super::options::Options;
use super::progress::note;
use super::report::{Reads, Run, SqlRun};
use super::scenario::{Scenario, named};
use super::shop::Shop;
use super::tally::{Counted, Outcomes};
use super::target::Target;

/// How long a shop is warmed up before anything is measured.
const FIRST: Duration = Duration::from_millis(500);
/// Longer runs of the baselines say no more.
const BASELINE_MAX: Duration = Duration::from_secs(3);

/// Everybody who is measured.
#[derive(Debug)]
pub struct Stage<'a> {
    shop: &'a Shop,
    meter: Meter,
    baseline: Option<Beside>,
    seconds: Duration,
    warm_up: Duration,
    seed: u64,
    /// Orders before the first load: completed ones, and others.
    before: [u64; 2],
    /// What Souk has answered so far, to all loads.
    pub told: Outcomes,
}

/// Hand-written SQL.
#[derive(Debug)]
struct Beside {
    baseline: Baseline,
    folder: PathBuf,
    has_pgbench: bool,
}

impl<'a> Stage<'a> {
    /// Furnishes a shop and warms it up.
    pub async fn set(shop: &'a mut Shop, needs_uniform: bool, options: &Options) -> Result<Self> {
        note("furnishing the shop");
        shop.target.furnish(needs_uniform).await.context("furnish the shop")?;
        let before = match shop.server() {
            Some(server) => audit::before(server).await?,
            None => [0, 0],
        };
        let (seconds, warm_up) = (options.seconds(), options.warm_up());
        let (meter, told) = (shop.meter().await?, Outcomes::default());
        let mut stage = Self { shop, meter, baseline: None, seconds, warm_up, seed: 0, before, told };
        // The first purchases open connections and prepare statements.
        stage.souk_for(&named("hot-32", options.rate)?.remove(0), FIRST).await?;
        Ok(stage)
    }

    /// Whether everything adds up. `None`: the databases cannot be seen.
    pub async fn audit(&self) -> Result<Option<Audit>> {
        let (Some(server), Some(data)) = (self.shop.server(), self.shop.folder()) else { return Ok(None) };
        audit::audit(server, data, self.before, &self.told).await.map(Some)
    }

    /// Starts the baseline. Why there is none, if there is none.
    pub async fn set_beside(&mut self) -> Result<(), String> {
        let (Some(server), Some(folder)) = (self.shop.server(), self.shop.folder()) else {
            return Err(
                "hand-written SQL: needs the database server of a Souk that the bench starts".to_owned()
            );
        };
        let folder = folder.to_owned();
        let baseline = Baseline::start(server, &folder).await;
        let baseline = baseline.map_err(|error| {
            format!("hand-written SQL: {error:#} (cargo build --release -p souk-tests --bin souk-baseline)")
        })?;
        self.baseline = Some(Beside { baseline, folder, has_pgbench: true });
        Ok(())
    }

    /// Puts a load on Souk.
    pub async fn souk(&mut self, scenario: &Scenario) -> Result<Run> {
        self.souk_for(scenario, self.seconds).await
    }

    /// The same for another time.
    pub async fn souk_for(&mut self, scenario: &Scenario, seconds: Duration) -> Result<Run> {
        self.seed += 1;
        let pace = Pace { seconds, warm_up: self.warm_up, seed: self.seed };
        let run = measure(&self.shop.target, &mut self.meter, scenario, pace).await?;
        self.told.add_all(&run.outcomes);
        Ok(run)
    }

    /// The same load on hand-written SQL over HTTP, if there is one to be compared with.
    pub async fn sql_over_http(&mut self, scenario: &Scenario) -> Result<Option<Run>> {
        let Some(Beside { baseline, .. }) = &self.baseline else { return Ok(None) };
        let Some(server) = self.shop.server().filter(|_| scenario.has_baseline()) else { return Ok(None) };
        self.seed += 1;
        let seconds = self.seconds.min(BASELINE_MAX);
        let pace = Pace { seconds, warm_up: self.warm_up, seed: self.seed };
        let postgres = Some((server.clone(), server.connect("baseline").await?));
        let mut meter = Meter { nodes: vec![baseline.pid()], postgres, souks: Vec::new() };
        measure(&baseline.target, &mut meter, scenario, pace).await.map(Some)
    }

    /// The same without HTTP. An error is told once and is no reason to stop.
    pub async fn pgbench(&mut self, scenario: &Scenario) -> Result<Option<SqlRun>, String> {
        let (Some(server), Some(beside)) = (self.shop.server(), &mut self.baseline) else { return Ok(None) };
        if !scenario.has_baseline() || !beside.has_pgbench {
            return Ok(None);
        }
        let seconds = self.seconds.min(BASELINE_MAX);
        let run = baseline::pgbench(server, scenario, seconds, &beside.folder).await;
        run.map(Some).map_err(|error| {
            beside.has_pgbench = false;
            format!("pgbench: {error:#}")
        })
    }

    /// How large its databases are, if they can be seen.
    pub async fn bytes(&mut self) -> Result<Option<i64>> {
        match &mut self.meter.postgres {
            Some((_, connection)) => database::bytes(connection).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn measure(target: &Target, meter: &mut Meter, scenario: &Scenario, pace: Pace) -> Result<Run> {
    let crowd = Crowd::gather(target, scenario).await.with_context(|| format!("begin {}", scenario.name))?;
    let earlier = meter.written().await?;
    let before = meter.spent();
    let loaded = crowd.run(target, scenario, pace).await;
    let ended = meter.spent();
    let relay_lag_s = meter.relay_lag_s().await?;
    meter.settled().await?;
    let settled = meter.spent();
    let later = meter.written().await?;
    let reads: Vec<_> = [("GET /products/{id}", loaded.products), ("GET /purchases/{id}", loaded.purchases)]
        .into_iter()
        .filter_map(|(what, counted)| Some(reads(what, &counted?, loaded.seconds)))
        .collect();
    let bought = loaded.bought;
    let answered = |outcomes: &Outcomes| outcomes.answered();
    let requests =
        answered(&bought.outcomes) + reads.iter().map(|reads| answered(&reads.outcomes)).sum::<u64>();
    Ok(Run {
        seconds: loaded.seconds,
        per_second: bought.within as f64 / loaded.seconds.max(1e-9),
        outcomes: bought.outcomes,
        latency: bought.latencies.percentiles(),
        refusals: bought.refusals.percentiles(),
        reads,
        relay_lag_s,
        cost: meter.cost(requests, [before, ended, settled], [&earlier, &later]),
    })
}

fn reads(what: &str, counted: &Counted, seconds: f64) -> Reads {
    Reads {
        what: what.to_owned(),
        per_second: counted.within as f64 / seconds,
        outcomes: counted.outcomes,
        latency: counted.latencies.percentiles(),
    }
}
