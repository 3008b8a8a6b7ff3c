//! `souk bench`: an honest load generator.
//!
//! It counts only what is complete, counts an open loop's latency from when each request was meant to
//! begin, says what a purchase costs and how fast the machine was, does the same with hand-written SQL in the same
//! run, and afterwards makes sure that stock, orders and money add up. It has one thread, because the node
//! and the database need the cores.
//!
//! Start reading at [`stage`]: how one load is measured. What loads there are: [`scenario`]. How they are
//! put on: [`load`].

pub mod options;
pub mod scenario;

pub mod load;
pub mod progress;
pub mod request;
pub mod schedule;
pub mod target;
pub mod wire;

pub mod latency;
pub mod tally;

pub mod counters;
pub mod database;
pub mod meter;
pub mod processes;

pub mod baseline;
pub mod program;
pub mod shop;
pub mod stage;

pub mod audit;
pub mod growth;
pub mod overload;

pub mod comparison;
pub mod report;
pub mod table;
pub mod text;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use souk_actors::Clock;
use tokio::signal::unix::{SignalKind, signal};

use self::options::{GROWTH, OVERLOAD, Options};
use self::progress::note;
use self::report::{Conditions, Measured, Report};
use self::scenario::{DEFAULT, Scenario, Spread, named};
use self::shop::{Shape, Shop};
use self::stage::Stage;

/// How long the shop is warmed up before anything is measured.
const FIRST: Duration = Duration::from_millis(500);
/// For a thousand connections and then some.
const FILES: u64 = 16_384;

/// Measures what the options ask for and prints it. An error also if something does not add up.
pub async fn run(options: Options) -> Result<()> {
    let plan = Plan::of(&options)?;
    let older = options.against.as_deref().map(Report::read).transpose()?;
    allow_files()?;
    let shop = match &options.url {
        Some(authority) => Shop::at(authority),
        None => {
            note("starting a Souk");
            Shop::start(options.data.as_deref(), Shape::of(&options)).await?
        }
    };
    let report = measure(shop, &plan, &options).await?;
    print!("{}", table::show(&report));
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    if let Some(older) = older {
        print!("\n{}", comparison::show(&older, &report));
    }
    let violations = report.audit.map_or(0, |audit| audit.violations.len());
    ensure!(violations == 0, "{violations} things do not add up");
    Ok(())
}

/// What is to be measured.
#[derive(Debug)]
enum Plan {
    Scenarios(Vec<Scenario>),
    /// By itself: others would be measured in a shop that is full, or it in one that is not empty.
    Growth,
    /// By itself: others would be measured beside what it leaves to be done.
    Overload,
}

impl Plan {
    fn of(options: &Options) -> Result<Self> {
        let asked: Vec<_> = options.scenarios.iter().map(String::as_str).collect();
        if asked.contains(&GROWTH) {
            ensure!(asked == [GROWTH], "growth is measured by itself");
            return Ok(Self::Growth);
        }
        if asked.contains(&OVERLOAD) {
            ensure!(asked == [OVERLOAD], "overload is measured by itself");
            return Ok(Self::Overload);
        }
        let mut scenarios = Vec::new();
        for name in if asked.is_empty() { &DEFAULT[..] } else { &asked } {
            scenarios.extend(named(name, options.rate)?);
        }
        let mut seen = HashSet::new();
        scenarios.retain(|scenario: &Scenario| seen.insert(scenario.name.clone()));
        Ok(Self::Scenarios(scenarios))
    }

    /// Making a thousand products takes a while.
    fn needs_uniform(&self) -> bool {
        match self {
            Self::Scenarios(all) => all.iter().any(|scenario| scenario.spread == Spread::Uniform),
            Self::Growth | Self::Overload => true,
        }
    }
}

/// Measures, and closes the shop however that ends.
async fn measure(mut shop: Shop, plan: &Plan, options: &Options) -> Result<Report> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let measured = tokio::select! {
        report = act(&mut shop, plan, options) => report,
        _ = interrupts.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminations.recv() => Err(anyhow::anyhow!("terminated")),
    };
    note("stopping");
    let closed = shop.close().await;
    note("");
    let report = measured?;
    closed.context("stop the Souk that was started")?;
    Ok(report)
}

async fn act(shop: &mut Shop, plan: &Plan, options: &Options) -> Result<Report> {
    note("furnishing the shop");
    shop.target.furnish(plan.needs_uniform()).await.context("furnish the shop")?;
    let mut report = Report::new(conditions(shop, options).await?);
    let before = match shop.server() {
        Some(server) => audit::before(server).await?,
        None => [0, 0],
    };
    let mut stage = Stage::set(shop, options.seconds(), options.warm_up()).await?;
    // The first purchases open connections and prepare statements.
    let first = stage.souk_for(&named("hot-32", options.rate)?.remove(0), FIRST).await?;
    report.warmed_up = first.outcomes.completed;
    match plan {
        Plan::Growth => report.growth = Some(growth::grow(&mut stage, options.fill).await?),
        Plan::Overload => report.overload = Some(overload::storm(&mut stage).await?),
        Plan::Scenarios(scenarios) => run_all(&mut stage, scenarios, options, &mut report).await?,
    }
    if let (Some(server), Some(data)) = (shop.server(), shop.folder()) {
        note("auditing");
        report.audit = Some(audit::audit(server, data, before, &stage.told).await?);
    }
    Ok(report)
}

async fn run_all(
    stage: &mut Stage<'_>,
    scenarios: &[Scenario],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    if !options.no_baselines
        && scenarios.iter().any(Scenario::has_baseline)
        && let Err(reason) = stage.set_beside().await
    {
        report.left_out.push(reason);
    }
    report.scenarios = scenarios.iter().map(Measured::begin).collect();
    // Turn by turn, so that a slow minute of the machine is everybody's.
    for _ in 0..options.runs {
        for (scenario, measured) in scenarios.iter().zip(&mut report.scenarios) {
            measured.souk.push(stage.souk(scenario).await?);
            measured.sql_over_http.extend(stage.sql_over_http(scenario).await?);
            match stage.pgbench(scenario).await {
                Ok(run) => measured.pgbench.extend(run),
                Err(reason) => report.left_out.push(reason),
            }
            note("");
            eprintln!("{}", table::line(measured));
        }
    }
    Ok(())
}

async fn conditions(shop: &Shop, options: &Options) -> Result<Conditions> {
    let postgres = match shop.server() {
        Some(server) => Some(database::version(&mut server.connect("order_db").await?).await?),
        None => None,
    };
    Ok(Conditions {
        at: Clock::System.now().to_string(),
        souk: env!("CARGO_PKG_VERSION").to_owned(),
        commit: std::env::var("SOUK_COMMIT").ok().filter(|commit| !commit.is_empty()),
        is_optimised: !cfg!(debug_assertions),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        processor: processes::processor(),
        memory_bytes: processes::memory_bytes(),
        kernel: processes::kernel(),
        postgres,
        file_system: shop.folder().and_then(processes::file_system),
        settings: shop::settings(),
        seconds: options.seconds().as_secs_f64(),
        warm_up_seconds: options.warm_up().as_secs_f64(),
        runs: usize::from(options.runs),
    })
}

/// As many open files as the system lets us have: each connection is one, on either side.
fn allow_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask how many files may be open")?;
    let wanted = FILES.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).context("allow more open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_is_measured_once_and_growth_by_itself() {
        let options = |names: &[&str]| Options {
            nodes: None,
            gateways: 0,
            scenarios: names.iter().map(|name| (*name).to_owned()).collect(),
            seconds: 1.0,
            runs: 1,
            rate: 10,
            fill: 10,
            url: None,
            data: None,
            no_baselines: true,
            json: None,
            against: None,
        };
        let names = |names: &[&str]| match Plan::of(&options(names)) {
            Ok(Plan::Scenarios(all)) => all.into_iter().map(|scenario| scenario.name).collect(),
            Ok(Plan::Growth) => vec![GROWTH.to_owned()],
            Ok(Plan::Overload) => vec![OVERLOAD.to_owned()],
            Err(_) => Vec::new(),
        };
        let table = ["burst", "uniform-1", "uniform-32", "uniform-256", "hot-256", "burst-uniform"];
        assert_eq!(names(&["burst", "table"]), table);
        assert!(names(&[]).len() > table.len());
        assert_eq!([names(&["growth"]), names(&["overload"])], [["growth"], ["overload"]]);
        assert!(names(&["growth", "burst"]).is_empty() && names(&["burts"]).is_empty());
    }
}
