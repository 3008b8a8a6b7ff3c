//! `souk dlq` and `souk relay`: what could not be processed, and how far Kafka has been told. They speak with Kafka and with
//! the databases, so they work whichever nodes are up. Tables on a terminal, JSON otherwise.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use souk_config::Settings;
use souk_persistence::databases::{DatabaseUrls, places};
use souk_persistence::relay::{Outbox, Standing};

use super::dead_letters::listing::{DeadLetter, ListedLetter, ShownLetter};
use super::dead_letters::replay::{Answers, is_believed};
use super::dead_letters::{LetterId, letter_id};
use super::queue::{NotReplayed, Queue};
use super::{CONSUMER, SERVICES};
use crate::bench::text::columns;
use crate::operate::show;

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
        DeadLetters::List { all } => show(queue.list(all).await?.as_slice(), table),
        DeadLetters::Show { id } => {
            let letter = queue.find(id).await?;
            show(&letter.with_context(|| format!("there is no dead letter {}/{}", id.0, id.1))?, whole)
        }
        DeadLetters::Replay(replay) => put_back(&queue, replay).await,
    }
}

async fn put_back(queue: &Queue, Replay { mut ids, all, code, body }: Replay) -> Result<()> {
    let body = body.map(|path| std::fs::read(&path).with_context(|| format!("read {}", path.display())));
    let body = body.transpose()?;
    ensure!(body.is_none() || ids.len() == 1, "--body is for one record");
    let answers = if all && code.is_none() { Answers::Source } else { Answers::Operator };
    let mut left_out = 0;
    if all {
        // A part of one cannot be put back without somebody who completes it.
        let is_wanted = |letter: &DeadLetter| {
            letter.cut.is_none()
                && code.as_ref().map_or_else(|| is_believed(&letter.code), |code| *code == letter.code)
        };
        let letters = queue.list(false).await?;
        let wanted = letters.iter().filter(|listed| is_wanted(&listed.letter));
        ids = wanted.filter_map(|listed| letter_id(&listed.letter.id)).collect();
        left_out = letters.len() - ids.len();
    }
    for (part, some) in ids.chunks(AT_ONCE).enumerate() {
        if let Err(NotReplayed { id: (partition, offset), why }) =
            queue.replay(some, body.as_deref(), answers).await?
        {
            bail!("{partition}/{offset} is not put back: {why}; {} were put back", part * AT_ONCE);
        }
    }
    println!("{} put back, {left_out} left out", ids.len());
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
            letter.code.clone(),
            letter.topic.clone(),
            letter.source.clone().unwrap_or_default(),
            letter.record_id.clone().unwrap_or_default(),
            since.unwrap_or_else(|| letter.at.clone()),
            letter.detail.clone(),
        ]
    }));
    columns(&rows)
}

fn whole(ShownLetter { letter, headers, body }: &ShownLetter) -> String {
    let mut text = rows([(letter, None)].into_iter());
    if let Some(cut) = &letter.cut {
        text.push_str(&format!("\nit was too large: only a part is kept of {cut}\n"));
    }
    text.push('\n');
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push_str(&format!("\n{body}\n"));
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
                    (false, _) => "nothing was ever told",
                    (true, true) => "stopped: souk relay reset",
                    (true, false) => "",
                }
                .to_owned(),
            ]
        }));
        columns(&rows)
    })
}
