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
pub mod kafka;
pub mod report;
pub mod table;
pub mod text;

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use souk_actors::Clock;
use tokio::signal::unix::{SignalKind, signal};

use self::options::{GROWTH, OVERLOAD, Options};
use self::progress::note;
use self::report::{Conditions, Measured, Report};
use self::scenario::{DEFAULT, Scenario, Spread, named};
use self::shop::{Bridge, Shape, Shop};
use self::stage::Stage;

/// For a thousand connections and then some.
const FILES: u64 = 16_384;

/// Measures what the options ask for and prints it. An error also if something does not add up.
pub async fn run(options: Options) -> Result<()> {
    let plan = Plan::of(&options)?;
    let older = options.against.as_deref().map(Report::read).transpose()?;
    allow_files()?;
    let shops = open(&options).await?;
    let report = measure(shops, &plan, &options).await?;
    print!("{}", table::show(&report));
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    if let Some(older) = older {
        print!("\n{}", comparison::show(&older, &report));
    }
    let audits = report.audit.iter().chain(&report.audit_with_kafka);
    let violations: usize = audits.map(|audit| audit.violations.len()).sum();
    ensure!(violations == 0, "{violations} things do not add up");
    Ok(())
}

/// Who is measured.
struct Shops {
    shop: Shop,
    /// Another one, that tells everything to Kafka, where that is to be compared.
    with_kafka: Option<Shop>,
}

async fn open(options: &Options) -> Result<Shops> {
    if let Some(authority) = &options.url {
        return Ok(Shops { shop: Shop::at(authority), with_kafka: None });
    }
    note("starting a Souk");
    let (data, shape) = (options.data.as_deref(), Shape::of(options));
    let Some(brokers) = &options.kafka else {
        return Ok(Shops { shop: Shop::start(data, shape, Bridge::AsSet).await?, with_kafka: None });
    };
    let shop = Shop::start(data, shape, Bridge::None).await?;
    note("starting another that tells Kafka");
    let data = data.map(|data| data.join("with-kafka"));
    let with_kafka = match Shop::start(data.as_deref(), shape, Bridge::To(brokers)).await {
        Ok(with_kafka) => with_kafka,
        Err(error) => {
            let _ = shop.close().await;
            return Err(error);
        }
    };
    Ok(Shops { shop, with_kafka: Some(with_kafka) })
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
            ensure!(asked == [GROWTH] && options.kafka.is_none(), "growth is measured by itself");
            return Ok(Self::Growth);
        }
        if asked.contains(&OVERLOAD) {
            ensure!(asked == [OVERLOAD] && options.kafka.is_none(), "overload is measured by itself");
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

/// Measures, and closes the shops however that ends.
async fn measure(mut shops: Shops, plan: &Plan, options: &Options) -> Result<Report> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let measured = tokio::select! {
        report = act(&mut shops, plan, options) => report,
        _ = interrupts.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminations.recv() => Err(anyhow::anyhow!("terminated")),
    };
    note("stopping");
    let mut closed = shops.shop.close().await;
    if let Some(with_kafka) = shops.with_kafka {
        closed = closed.and(with_kafka.close().await);
    }
    note("");
    let report = measured?;
    closed.context("stop the Souk that was started")?;
    Ok(report)
}

async fn act(shops: &mut Shops, plan: &Plan, options: &Options) -> Result<Report> {
    let mut report = Report::new(conditions(&shops.shop, options).await?);
    let mut stage = Stage::set(&mut shops.shop, plan.needs_uniform(), options).await?;
    report.warmed_up = stage.told.completed;
    let mut with_kafka = match &mut shops.with_kafka {
        Some(shop) => Some(Stage::set(shop, plan.needs_uniform(), options).await?),
        None => None,
    };
    match plan {
        Plan::Growth => report.growth = Some(growth::grow(&mut stage, options.fill).await?),
        Plan::Overload => report.overload = Some(overload::storm(&mut stage).await?),
        Plan::Scenarios(scenarios) => {
            run_all(&mut stage, with_kafka.as_mut(), scenarios, options, &mut report).await?;
        }
    }
    note("auditing");
    report.audit = stage.audit().await?;
    if let Some(with_kafka) = &with_kafka {
        report.audit_with_kafka = with_kafka.audit().await?;
    }
    Ok(report)
}

async fn run_all(
    stage: &mut Stage<'_>,
    mut with_kafka: Option<&mut Stage<'_>>,
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
            if let Some(with_kafka) = &mut with_kafka {
                measured.with_kafka.push(with_kafka.souk(scenario).await?);
            }
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
            kafka: None,
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
