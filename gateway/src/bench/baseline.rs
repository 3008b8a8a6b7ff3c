//! What the same machine does with hand-written SQL: one stored function per purchase, over HTTP and
//! without.
//!
//! The server is a program of its own, built in the `tests` crate; it makes the database `baseline` on the
//! server of the Souk under test. Its products have ids that everybody can work out.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use souk_actors::Clock;
use tokio::process::Command;
use uuid::Uuid;

use super::database::Server;
use super::meter::{Meter, Spent};
use super::program::{Program, beside};
use super::report::SqlRun;
use super::request::QUANTITIES;
use super::scenario::{Load, Scenario, Spread};
use super::target::{Target, UNIFORM};
use crate::tokens::{Access, Tokens};

/// Where the server is: a URL that holds the password.
pub const DATABASE: &str = "SOUK_BASELINE_DATABASE";
/// What tokens are sealed with: 64 hexadecimal digits.
pub const KEY: &str = "SOUK_BASELINE_KEY";
/// How many products there are.
pub const PRODUCTS: usize = UNIFORM + 2;
const PROGRAM: &str = "souk-baseline";
/// The server takes a hundred connections; Souk may have 40, the baseline has 24. More would not be faster
/// on a few cores.
const PGBENCH_CONNECTIONS_MAX: usize = 24;
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
const PGBENCH_MAX: Duration = Duration::from_secs(120);

/// The id of a product, from 1 on.
pub fn product(number: usize) -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0000 | number as u128)
}

/// The server of hand-written SQL. It has nothing to finish, so it is killed when this is dropped.
#[derive(Debug)]
pub struct Baseline {
    program: Program,
    /// Where to buy.
    pub target: Target,
}

impl Baseline {
    /// Starts it. Its log goes to `folder`.
    pub async fn start(server: &Server, folder: &Path) -> Result<Self> {
        let key: [u8; 32] = rand::random();
        let mut command = Command::new(beside(PROGRAM)?);
        command.env(DATABASE, server.url("baseline"));
        command.env(KEY, key.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let program = Program::start(command, &folder.join("baseline.log")).await?;
        let access = Access { account: Uuid::from_u128(rand::random()), session: Uuid::nil() };
        let target = Target {
            doors: [program.authority.clone()].into(),
            turn: Arc::default(),
            token: Tokens::new(&[key])?.seal_access(access, Clock::System.now(), TOKEN_TTL),
            uniform: (1..=UNIFORM).map(product).collect(),
            hot: (UNIFORM + 1..=PRODUCTS).map(product).collect(),
        };
        Ok(Self { program, target })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.program.pid()
    }
}

/// Calls the function with pgbench, as often as it can be called.
pub async fn pgbench(
    server: &Server,
    scenario: &Scenario,
    seconds: Duration,
    folder: &Path,
) -> Result<SqlRun> {
    let connections = scenario.connections().min(PGBENCH_CONNECTIONS_MAX);
    let script = folder.join("pgbench.sql");
    std::fs::write(&script, script_of(scenario.spread)).context("write pgbench's script")?;
    let program = server.installed("pgbench").unwrap_or_else(|| "pgbench".into());
    let mut command = Command::new(program);
    command
        .args(["-n", "-M", "prepared", "-j", "1", "-h", "127.0.0.1", "-U", "souk"])
        .args(["-p", &server.port.to_string(), "-c", &connections.to_string()])
        .arg("-f")
        .arg(&script);
    let transactions = scenario.connections() / connections;
    match scenario.load {
        Load::AtOnce { .. } => command.args(["-t", &transactions.to_string()]),
        Load::Closed { .. } | Load::Open { .. } => {
            command.args(["-T", &seconds.as_secs().max(1).to_string()])
        }
    };
    command.arg("baseline").env("PGPASSWORD", server.password()).env("LC_ALL", "C");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let meter = Meter {
        nodes: Vec::new(),
        postgres: Some((server.clone(), server.connect("baseline").await?)),
        souks: Vec::new(),
    };
    let before = meter.spent();
    let output = tokio::time::timeout(PGBENCH_MAX, command.output()).await.context("pgbench does not end")?;
    let output = output.context("run pgbench")?;
    let after = meter.spent();
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr).trim());
    let said = said(&text).with_context(|| format!("understand what pgbench says: {text}"))?;
    Ok(SqlRun {
        connections,
        per_second: said.per_second,
        mean_ms: said.mean_ms,
        postgres_us: postgres_us(&meter, said.transactions, before, after),
    })
}

fn postgres_us(meter: &Meter, transactions: u64, before: Spent, after: Spent) -> Option<f64> {
    meter.cost(transactions, [before, after, after], [&Default::default(), &Default::default()]).postgres_us
}

fn script_of(spread: Spread) -> String {
    let [one, two] = QUANTITIES;
    let (hot, last) = (UNIFORM + 1, UNIFORM - 2);
    let pick = match spread {
        Spread::Hot => format!("\\set one {hot}\n\\set two {hot} + 1\n"),
        Spread::Uniform => {
            format!("\\set one random(1, {UNIFORM})\n\\set two 1 + (:one + random(0, {last})) % {UNIFORM}\n")
        }
    };
    let customer = Uuid::nil();
    format!(
        "{pick}select buy(fresh_id(), '{customer}', array[product_id(:one::int), product_id(:two::int)], \
         array[{one}, {two}]);\n"
    )
}

/// What pgbench says at its end.
#[derive(Debug, PartialEq)]
struct Said {
    transactions: u64,
    per_second: f64,
    mean_ms: f64,
}

fn said(text: &str) -> Option<Said> {
    let after = |what: &str| text.lines().find_map(|line| line.strip_prefix(what));
    let first = |rest: &str| rest.split([' ', '/']).next().map(str::to_owned);
    Some(Said {
        transactions: first(after("number of transactions actually processed: ")?)?.parse().ok()?,
        per_second: first(after("tps = ")?)?.parse().ok()?,
        mean_ms: first(after("latency average = ")?)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let text = "pgbench (15.18 (Debian 15.18-0+deb12u1))\ntransaction type: /tmp/s\nscaling factor: 1\n\
                    number of transactions actually processed: 2756/2756\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 0.363 ms\ninitial connection time = 3.1 ms\n\
                    tps = 2755.9 (without initial connection time)\n";
        let expected = Said { transactions: 2_756, per_second: 2_755.9, mean_ms: 0.363 };
        assert_eq!(said(text), Some(expected));
        assert_eq!(said("pgbench: error"), None);
    }

    #[test]
    fn products_are_numbered_and_pgbench_buys_two_different_ones() {
        assert_eq!(product(1_000).to_string(), "00000000-0000-7000-8000-0000000003e8");
        // Modulo a thousand, from 1 to 999 behind the first one.
        assert!(script_of(Spread::Uniform).contains("\\set two 1 + (:one + random(0, 998)) % 1000\n"));
        assert!(script_of(Spread::Hot).contains("\\set one 1001\n\\set two 1001 + 1\n"));
    }
}
