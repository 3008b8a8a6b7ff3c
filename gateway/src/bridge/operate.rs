//! `souk dlq` and `souk relay`: what could not be processed, and how far Kafka has been told. They speak with Kafka and with
//! the databases, so they work whichever nodes are up. Tables on a terminal, JSON otherwise.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use souk_config::Settings;
use souk_persistence::databases::{DatabaseUrls, places};
use souk_persistence::relay::{Outbox, Standing};

use super::dead_letters::listing::{DeadLetter, ListedLetter, ShownLetter, Wanted, Which};
use super::dead_letters::replay::Answers;
use super::dead_letters::{LetterId, letter_id};
use super::queue::{NotReplayed, Queue};
use super::{CONSUMER, SERVICES};
use crate::bench::text::columns;
use crate::operate::show;

/// So many letters are listed, unless more are asked for.
const LISTED: u32 = 1_000;
/// So many are put back by one command.
const ALL: usize = 100_000;
/// So many letters are put back at once.
const AT_ONCE: usize = 1_000;

/// What is asked of the dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLetters {
    /// Records that could not be processed, and why.
    List {
        /// Those that were put back too
        #[arg(long)]
        all: bool,
        /// Only those with this code
        #[arg(long)]
        code: Option<String>,
        /// At most so many, the oldest
        #[arg(long, default_value_t = LISTED, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
    },
    /// One of them, with its headers and its body.
    Show {
        /// Its id, PARTITION/OFFSET
        #[arg(value_parser = named)]
        id: LetterId,
    },
    /// Puts records back on their topic.
    Replay(Replay),
}

/// Which, and how.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// Their ids, PARTITION/OFFSET
    #[arg(value_parser = named, required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<LetterId>,
    /// Every one that was not put back yet and whose writer was believed
    #[arg(long)]
    pub all: bool,
    /// Of all, only those with this code, believed or not: you answer for them, they are signed again
    #[arg(long, requires = "all")]
    pub code: Option<String>,
    /// With what is in this file instead of its body; signed again if its source's key is known
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub body: Option<PathBuf>,
}

/// What is asked of the relays.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Relays {
    /// How far each database has been told.
    Status,
    /// Has everything told again, from the first row on: records have the ids that they had.
    Reset,
    /// Nothing is told any more, once no node has brokers: until then what was not told is never forgotten.
    End,
}

fn named(id: &str) -> Result<LetterId, String> {
    letter_id(id).ok_or_else(|| "PARTITION/OFFSET, as `souk dlq list` shows it".to_owned())
}

/// Does it.
pub async fn dead_letters(settings: &Settings, verb: DeadLetters) -> Result<()> {
    let queue = Queue::new(&settings.kafka).context("no brokers are named: set SOUK__KAFKA__BROKERS")?;
    match verb {
        DeadLetters::List { all, code, limit } => {
            let which = code.map_or(Which::Any, Which::Code);
            let wanted = Wanted { with_replayed: all, which, after: None, limit: limit as usize };
            let listing = queue.list(wanted).await?;
            if listing.has_more {
                eprintln!("These are the oldest {limit}; there are more: --limit, --code");
            }
            show(listing.letters().as_slice(), table)
        }
        DeadLetters::Show { id } => {
            let letter = queue.find(id).await?;
            show(&letter.with_context(|| format!("there is no dead letter {}/{}", id.0, id.1))?, whole)
        }
        DeadLetters::Replay(replay) => put_back(&queue, replay).await,
    }
}

async fn put_back(queue: &Queue, Replay { ids, all, code, body }: Replay) -> Result<()> {
    let body = body.map(|path| std::fs::read(&path).with_context(|| format!("read {}", path.display())));
    let body = body.transpose()?;
    ensure!(body.is_none() || ids.len() == 1, "--body is for one record");
    let answers = if all && code.is_none() { Answers::Source } else { Answers::Operator };
    let (mut wanted, mut left_out, mut has_more) = (BTreeSet::from_iter(ids), 0, false);
    if all {
        let which = code.map_or(Which::Playable, Which::Code);
        let listing = queue.list(Wanted { with_replayed: false, which, after: None, limit: ALL }).await?;
        (left_out, has_more) = (listing.left_out, listing.has_more);
        // Of what was cut a part cannot be put back without somebody who completes it.
        let whole = listing.letters().into_iter().map(|listed| listed.letter);
        wanted =
            whole.filter(|letter| letter.cut.is_none()).filter_map(|letter| letter_id(&letter.id)).collect();
    }
    let ids: Vec<_> = wanted.into_iter().collect();
    for (part, some) in ids.chunks(AT_ONCE).enumerate() {
        if let Err(NotReplayed { id: (partition, offset), why }) =
            queue.replay(some, body.as_deref(), answers).await?
        {
            bail!("{partition}/{offset} is not put back: {why}; {} were put back", part * AT_ONCE);
        }
    }
    println!("{} put back, {left_out} left out", ids.len());
    if has_more {
        println!("There are more: say it again.");
    }
    Ok(())
}

fn table(letters: &[ListedLetter]) -> String {
    rows(letters.iter().map(|listed| (&listed.letter, listed.replayed_at.as_ref())))
}

fn rows<'a>(letters: impl Iterator<Item = (&'a DeadLetter, Option<&'a String>)>) -> String {
    let mut rows =
        vec![["id", "code", "topic", "source", "record", "since", "why"].map(str::to_owned).to_vec()];
    rows.extend(letters.map(|(letter, replayed_at)| {
        let since = replayed_at.map(|at| format!("put back {at}"));
        vec![
            letter.id.clone(),
            plain(&letter.code),
            plain(&letter.topic),
            plain(letter.source.as_deref().unwrap_or_default()),
            plain(letter.record_id.as_deref().unwrap_or_default()),
            plain(since.as_ref().unwrap_or(&letter.at)),
            plain(&letter.detail),
        ]
    }));
    columns(&rows)
}

/// What strangers wrote does nothing to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn whole(ShownLetter { letter, headers, body }: &ShownLetter) -> String {
    let mut text = rows([(letter, None)].into_iter());
    if let Some(cut) = &letter.cut {
        text.push_str(&format!("\nit was too large: only a part is kept of {cut}\n"));
    }
    text.push('\n');
    for (name, value) in headers {
        text.push_str(&format!("{}: {}\n", plain(name), plain(value)));
    }
    text.push('\n');
    body.lines().for_each(|line| text.push_str(&format!("{}\n", plain(line))));
    text
}

/// How far a database has been told.
#[derive(Debug, Serialize)]
struct RelayStatus {
    database: String,
    /// Something was told of it, or is to be.
    has_begun: bool,
    /// Seconds since the oldest row that was not told; 0: all were.
    lag_seconds: f64,
    /// Seconds since the oldest row that waits for a running transaction.
    held_seconds: f64,
    /// The cursor is ahead of the server, as after loading a dump of another one: the relay has stopped.
    ahead: bool,
}

/// Does it, over the databases at these URLs.
pub async fn relays(urls: &DatabaseUrls, verb: Relays) -> Result<()> {
    let mut all = Vec::new();
    for service in SERVICES {
        all.extend(places(urls, service)?);
    }
    let mut statuses = Vec::new();
    for place in &all {
        let mut outbox = Outbox::open(place, CONSUMER);
        match verb {
            Relays::Status => {}
            Relays::Reset => {
                outbox.reset().await.with_context(|| format!("reset the cursor of {}", place.name))?;
            }
            Relays::End => {
                outbox.end().await.with_context(|| format!("end the cursor of {}", place.name))?;
            }
        }
        let standing = outbox.standing().await.with_context(|| format!("read {}", place.name))?;
        let Standing { lag, held, is_ahead } = standing.unwrap_or_default();
        statuses.push(RelayStatus {
            database: place.name.clone(),
            has_begun: standing.is_some(),
            lag_seconds: lag.as_secs_f64(),
            held_seconds: held.as_secs_f64(),
            ahead: is_ahead,
        });
    }
    show(statuses.as_slice(), |statuses| {
        let mut rows = vec![["database", "behind", "held", ""].map(str::to_owned).to_vec()];
        rows.extend(statuses.iter().map(|status| {
            vec![
                status.database.clone(),
                format!("{:.1} s", status.lag_seconds),
                format!("{:.1} s", status.held_seconds),
                match (status.has_begun, status.ahead) {
                    (false, _) => "no cursor: nothing is told",
                    (true, true) => "stopped: souk relay reset",
                    (true, false) => "",
                }
                .to_owned(),
            ]
        }));
        columns(&rows)
    })
}
