//! `souk`: the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use souk_config::{Overrides, Settings};
use souk_gateway::bridge::operate::{DeadLetters, Relays};
use souk_gateway::node::Node;
use souk_gateway::{bridge, operate, telemetry, verify};
use souk_persistence::embedded::{Embedded, EmbeddedSettings};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: telemetry::Allocator = telemetry::ALLOCATOR;

/// A shop in which every aggregate is a supervised actor and every purchase is a saga that survives crashes.
#[derive(Debug, Parser)]
#[command(
    name = "souk",
    version,
    after_help = "\
Examples:
  souk serve                                  a shop of its own on http://127.0.0.1:8080, data in ./data
  souk serve --listen 127.0.0.1:0             on a free port
  SOUK__DATABASE__URL=postgres://… souk serve on a PostgreSQL server that runs already
  souk verify                                 whether every law holds in what is stored
  souk config                                 every setting, as it is in force
  souk cluster status                         nodes and shards of the cluster on that server
  souk dlq list                               records of Kafka that could not be processed, and why
  souk bench                                  how fast it is here, beside hand-written SQL

Settings: default < souk.toml or --config FILE < environment (SOUK__SECTION__KEY, or
SOUK__SECTION__KEY_FILE, a file that holds the value) < flag.
Exit codes: 0 ended as asked, 1 failed or a law is broken, 2 wrong usage or settings."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Opens the shop and serves until SIGTERM or Ctrl-C.
    ///
    /// Without a database URL it starts a PostgreSQL server of its own under the data folder. On SIGTERM it
    /// drains: /readyz turns false, no new purchases are taken, those under way end or are left, durable,
    /// to the next start. A second signal ends it at once; nothing is lost by that either.
    Serve {
        /// Where to listen [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Checks every law over every row of the databases: stock and money conserved, every purchase ends,
    /// and so on.
    ///
    /// It only reads, and may run beside an open shop: a violation counts if it is there a few seconds later
    /// too. An embedded database that does not run is started for the time of it. Prints for each law by how
    /// many rows it was judged, and the violations. Exit code 1 if there is one.
    Verify {
        /// Print the report as JSON; null if no shop was ever opened there
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Shows a cluster and its shards, drains nodes, holds shards where they are.
    ///
    /// It speaks with the register of the cluster on the database server that the settings name, so it works
    /// whichever nodes are up. Prints tables on a terminal, JSON otherwise.
    Cluster {
        #[command(subcommand)]
        verb: operate::Verb,
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Shows records of Kafka that could not be processed, and puts them back.
    ///
    /// It speaks with the brokers that the settings name, so it works whichever nodes are up.
    Dlq {
        #[command(subcommand)]
        verb: DeadLetters,
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Shows how far Kafka has been told what happened, and has it told again.
    ///
    /// It speaks with the databases, so it works whether nodes are up or not.
    Relay {
        #[command(subcommand)]
        verb: Relays,
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Runs the PostgreSQL server that `souk serve` would start for itself, for several nodes to share.
    ///
    /// Prints its URL, and stops it on SIGTERM or Ctrl-C.
    Postgres {
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Prints the settings in force as TOML, secrets masked.
    Config {
        #[command(flatten)]
        settings: SettingsFlags,
    },
    /// Measures how fast a shop is here, what a purchase costs, and what hand-written SQL does beside.
    ///
    /// A load generator in a process of its own, with one thread. It counts completed purchases only, and
    /// afterwards makes sure that stock, orders and money add up; if not, it ends with 1.
    Bench(souk_gateway::bench::options::Options),
    /// Prints the version.
    Version,
}

#[derive(Debug, Args)]
struct SettingsFlags {
    /// The folder of what is Souk's own [default: data]
    #[arg(long, value_name = "FOLDER", global = true)]
    data: Option<PathBuf>,
    /// A file of settings [default: souk.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl SettingsFlags {
    fn load(self, listen: Option<SocketAddr>) -> Result<Settings, souk_config::SettingsError> {
        // A variable that is not Unicode is none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Settings::load(self.config.as_deref(), environment, Overrides { listen, data: self.data })
    }
}

/// What is done with the settings.
enum Task {
    Serve,
    Verify { json: bool },
    Cluster(operate::Verb),
    DeadLetters(DeadLetters),
    Relay(Relays),
    Postgres,
    ShowSettings,
}

fn main() -> ExitCode {
    let (settings, task) = match Cli::parse().command {
        Command::Version => {
            println!("souk {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Bench(options) => return ended(bench(options).map(|()| ExitCode::SUCCESS)),
        Command::Config { settings } => (settings.load(None), Task::ShowSettings),
        Command::Verify { json, settings } => (settings.load(None), Task::Verify { json }),
        Command::Cluster { verb, settings } => (settings.load(None), Task::Cluster(verb)),
        Command::Dlq { verb, settings } => (settings.load(None), Task::DeadLetters(verb)),
        Command::Relay { verb, settings } => (settings.load(None), Task::Relay(verb)),
        Command::Postgres { settings } => (settings.load(None), Task::Postgres),
        Command::Serve { listen, settings } => (settings.load(listen), Task::Serve),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("souk: {error}");
            return ExitCode::from(2);
        }
    };
    ended(match task {
        Task::ShowSettings => {
            print!("{}", settings.masked_toml());
            Ok(ExitCode::SUCCESS)
        }
        Task::Serve => serve(settings).map(|()| ExitCode::SUCCESS),
        Task::Verify { json } => check(&settings, json),
        Task::Cluster(verb) => {
            until_interrupted(&settings, async |settings| operate::operate(settings, verb).await)
        }
        Task::DeadLetters(verb) => {
            until_interrupted(&settings, async |settings| bridge::operate::dead_letters(settings, verb).await)
        }
        Task::Relay(verb) => relay(&settings, verb),
        Task::Postgres => postgres(&settings),
    })
}

fn ended(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("souk: {error:#}");
        ExitCode::FAILURE
    })
}

/// One thread: the cores are for those that are measured.
fn bench(options: souk_gateway::bench::options::Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(souk_gateway::bench::run(options))
}

/// At the end of a process calls that nobody waits for are waited for so long.
const LINGER: Duration = Duration::from_millis(500);

/// Runs a task, with logs, TLS and threads.
fn run<T>(settings: &Settings, task: impl Future<Output = Result<T>>) -> Result<T> {
    telemetry::log(&settings.log.filter, settings.log.format)?;
    // Two providers in a graph make rustls panic at first use; there is one, and it is named all the same.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed twice"))?;
    let threads = match settings.runtime.worker_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
        threads => threads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let done = runtime.block_on(task);
    // A call of the Kafka client waits for brokers that are away, and nobody waits for it any more.
    runtime.shutdown_timeout(LINGER);
    done
}

/// Resolves, each time it is asked, with the next signal to end.
fn signals() -> Result<impl AsyncFnMut()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    Ok(async move || {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
    })
}

fn check(settings: &Settings, json: bool) -> Result<ExitCode> {
    run(settings, async {
        let mut next = signals()?;
        let verified = verify::verify(settings, next()).await?;
        match &verified {
            _ if json => println!("{}", serde_json::to_string_pretty(&verified)?),
            Some(verified) => print!("{verified}"),
            None => println!("There is nothing to verify: no shop was ever opened there."),
        }
        Ok(match verified.is_none_or(|verified| verified.holds) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    })
}

fn until_interrupted(
    settings: &Settings,
    task: impl AsyncFnOnce(&Settings) -> Result<()>,
) -> Result<ExitCode> {
    run(settings, async {
        let mut next = signals()?;
        tokio::select! {
            done = task(settings) => done.map(|()| ExitCode::SUCCESS),
            () = next() => anyhow::bail!("interrupted"),
        }
    })
}

fn relay(settings: &Settings, verb: Relays) -> Result<ExitCode> {
    run(settings, async {
        let mut next = signals()?;
        let done = verify::visit(settings, next(), async |urls| bridge::operate::relays(&urls, verb).await);
        if done.await?.is_none() {
            println!("There is nothing to tell: no shop was ever opened there.");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn postgres(settings: &Settings) -> Result<ExitCode> {
    run(settings, async {
        let mut next = signals()?;
        let embedded =
            EmbeddedSettings { data: settings.data.clone(), binaries: settings.database.binaries.clone() };
        let server = Embedded::start(&embedded).await.context("start the database server")?;
        println!("{}", server.url());
        next().await;
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn serve(settings: Settings) -> Result<()> {
    let metrics = telemetry::record()?;
    run(&settings.clone(), async {
        let mut next = signals()?;
        let data = settings.data.clone();
        let node = tokio::select! {
            node = Node::open(settings, metrics) => node?,
            () = next() => return Ok(()),
        };
        welcome(&node, &data)?;
        let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
        let running = node.run(async move {
            // An error: the other end waits no more, which is a reason to stop too.
            let _ = stopping.await;
        });
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            () = next() => drop(stop),
        }
        tokio::select! {
            ended = &mut running => Ok(ended?),
            () = next() => anyhow::bail!("ended by a second signal; what was under way is taken up by the next start"),
        }
    })
}

fn welcome(node: &Node, data: &std::path::Path) -> Result<()> {
    let address = node.address().context("ask for the address")?;
    println!("Souk is open at http://{address}");
    println!();
    println!("  API               http://{address}/api/v1");
    println!("  browse the API    http://{address}/docs");
    println!("  health, metrics   http://{address}/readyz  http://{address}/metrics");
    match node.database_port() {
        Some(port) => println!("  data              {} (PostgreSQL on port {port})", data.display()),
        None => println!("  data              {}", data.display()),
    }
    println!("  first steps       README.md, \"A first purchase\", or `make demo` in another terminal");
    println!();
    println!("Ctrl-C stops it; what is under way is finished or taken up by the next start.");
    Ok(())
}
