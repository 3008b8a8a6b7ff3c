//! `souk cluster`: who is in the cluster and who has what; and what an operator does about it. It speaks with the
//! register, so it works whichever nodes are up. Tables on a terminal, JSON otherwise.

use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use souk_cluster::register::Register;
use souk_config::Settings;
use souk_persistence::journal::SLOTS;
use souk_persistence::migrate::Service;
use souk_persistence::move_slots::{self, Followed, Move, Moved};
use uuid::Uuid;

use crate::bench::text::columns;
use crate::membership::register;
use crate::node::urls;
use crate::operators::{ClusterStatus, HOLD_MAX, NodeStatus};

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Nodes that are alive look every second.
const FOLLOW_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What is asked of a cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Nodes: what they do, how they stand, how many shards they have.
    Status,
    /// Shards: their slots, and who has them.
    Shards,
    /// Has a node give its shards away and take none; waits until it has none.
    Drain {
        /// Its name or its incarnation
        node: String,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Has a node take shards again.
    Undrain {
        /// Its name or its incarnation
        node: String,
    },
    /// Has shards stay where they are, as for a rolling restart: none is moved for balance.
    Hold {
        /// For how long
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 600)]
        seconds: u64,
    },
    /// Ends a hold.
    Resume,
    /// Moves slots of a service to another of its databases while the shop runs.
    ///
    /// The service's URL is a list, and every node was started with it; a database that is new in it holds nothing
    /// yet. The slots are copied while writes go on, then paused for as long as the rest takes. Cut off, it is run
    /// again.
    MoveSlots(MoveSlots),
}

/// Which slots go where.
#[derive(Clone, Debug, Args)]
pub struct MoveSlots {
    /// Whose: account, product, order or payment
    #[arg(long, value_parser = service)]
    pub service: Service,
    /// The first and the last slot, of 0 to 4095
    #[arg(long, value_name = "FIRST-LAST", value_parser = slots)]
    pub slots: (i16, i16),
    /// The place of the database that has them, in the list of URLs, from 0
    #[arg(long, value_name = "PLACE")]
    pub from: usize,
    /// The place of the one that shall have them
    #[arg(long, value_name = "PLACE")]
    pub to: usize,
    /// The longest that they may be paused; if that does not suffice, nothing is moved
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=30))]
    pub pause_max: u64,
}

fn service(name: &str) -> Result<Service, String> {
    let known = Service::ALL.into_iter().find(|service| service.database() == format!("{name}_db"));
    known.ok_or_else(|| "account, product, order or payment".to_owned())
}

fn slots(range: &str) -> Result<(i16, i16), String> {
    let parsed =
        range.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if 0 <= first && first <= last && last < SLOTS => Ok((first, last)),
        Some(_) | None => Err(format!("FIRST-LAST, of 0 to {}", SLOTS - 1)),
    }
}

/// Does it.
pub async fn operate(settings: &Settings, verb: Verb) -> Result<()> {
    if settings.database.is_embedded() {
        bail!("no cluster is named: set SOUK__DATABASE__URL, or SOUK__DATABASE__CLUSTER_URL, to its server");
    }
    let options = register(&urls(settings, None)).await?;
    let mut register = Register::new(options, ANSWER_MAX);
    match verb {
        Verb::Status => show(&status(&mut register).await?, nodes),
        Verb::Shards => show(&status(&mut register).await?, shards),
        Verb::Drain { node, no_wait } => {
            known(register.drain(&node, true).await?, &node)?;
            let status = match no_wait {
                true => status(&mut register).await?,
                false => drained(&mut register, &node).await?,
            };
            show(&status, nodes)
        }
        Verb::Undrain { node } => {
            known(register.drain(&node, false).await?, &node)?;
            show(&status(&mut register).await?, nodes)
        }
        Verb::Hold { seconds } => {
            let how_long = Duration::from_secs(seconds);
            if how_long > HOLD_MAX {
                bail!("shards are held at most {} seconds at once", HOLD_MAX.as_secs());
            }
            register.hold(how_long).await?;
            show(&status(&mut register).await?, nodes)
        }
        Verb::MoveSlots(order) => move_slots(settings, order, &register).await,
        Verb::Resume => {
            register.hold(Duration::ZERO).await?;
            show(&status(&mut register).await?, nodes)
        }
    }
}

async fn move_slots(settings: &Settings, order: MoveSlots, register: &Register) -> Result<()> {
    let MoveSlots { service, slots: (first, last), from, to, pause_max } = order;
    let order = Move { service, from, to, slots: first..=last, pause_max: Duration::from_secs(pause_max) };
    let move_id = Uuid::from_u128(rand::random());
    let freeze = async |slots: RangeInclusive<i16>| -> Followed {
        let mut register = register.again();
        let version = register.freeze(move_id, *slots.start(), *slots.end()).await?;
        follow(&mut register, version).await
    };
    // Nobody serves them before everybody has read again who holds them; served they are in any case.
    let unfreeze = async |_: RangeInclusive<i16>| -> Followed {
        let mut register = register.again();
        let read = match register.announce().await {
            Ok(version) => follow(&mut register, version).await,
            Err(error) => Err(error.into()),
        };
        let version = register.thaw(move_id).await?;
        read.and(follow(&mut register, version).await)
    };
    let moved = move_slots::move_slots(&urls(settings, None), &order, freeze, unfreeze).await?;
    let Moved { entities, rows, at_last, frozen, removed } = moved;
    println!(
        "{entities} entities and {rows} rows were copied, {at_last} of the entities within a pause of {frozen:.2?}; \
         {removed} were removed where they had been."
    );
    Ok(())
}

async fn follow(register: &mut Register, version: i64) -> Followed {
    match register.followed(version, FOLLOW_MAX).await? {
        true => Ok(()),
        false => Err(format!("a node does not act upon the map within {FOLLOW_MAX:?}").into()),
    }
}

fn known(count: i64, node: &str) -> Result<()> {
    ensure!(count > 0, "there is no node {node}: `souk cluster status` names them");
    Ok(())
}

async fn status(register: &mut Register) -> Result<ClusterStatus> {
    let map = register.overview().await?.context("there is no cluster yet: no node has ever joined")?;
    Ok(ClusterStatus::of(&map))
}

/// Waits until the node has no shards, or is gone or silent.
async fn drained(register: &mut Register, node: &str) -> Result<ClusterStatus> {
    loop {
        let status = status(register).await?;
        let its = |one: &&NodeStatus| one.name == node || one.incarnation.to_string() == node;
        if status.nodes.iter().filter(its).all(|node| node.shards == 0 || node.state == "silent") {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// As a table on a terminal, as JSON otherwise.
pub(crate) fn show<T: Serialize + ?Sized>(status: &T, table: impl Fn(&T) -> String) -> Result<()> {
    let mut out = std::io::stdout();
    let written = match out.is_terminal() {
        true => write!(out, "{}", table(status)),
        false => writeln!(out, "{}", serde_json::to_string_pretty(status)?),
    };
    match written {
        // Whoever reads has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn nodes(status: &ClusterStatus) -> String {
    let mut rows = vec![
        ["node", "state", "role", "shards", "lease", "clock", "version", "clients"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(status.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.to_owned(),
            node.role.to_owned(),
            node.shards.to_string(),
            format!("{:.1} s", node.lease_ms as f64 / 1_000.0),
            format!("{:+} ms", node.clock_ahead_ms),
            node.version.clone(),
            node.http.clone(),
        ]
    }));
    let mut text = columns(&rows);
    let count = status.shards.len();
    text +=
        &format!("\n{count} shards, {} of them nobody's; map version {}.\n", status.unowned, status.version);
    if status.held {
        text += "Shards are not moved for balance: a node drains, or somebody holds them.\n";
    }
    for (first, last) in &status.frozen {
        text +=
            &format!("Slots {first} to {last} are being moved to another database: nobody serves them.\n");
    }
    text
}

fn shards(status: &ClusterStatus) -> String {
    let mut rows = vec![["shard", "slots", "owner", "epoch"].map(str::to_owned).to_vec()];
    rows.extend(status.shards.iter().map(|shard| {
        vec![
            shard.shard.to_string(),
            format!("{}-{}", shard.first_slot, shard.last_slot),
            shard.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
            shard.epoch.to_string(),
        ]
    }));
    columns(&rows)
}
