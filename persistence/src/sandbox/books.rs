//! The sandbox's books: a file of lines that several processes append to, and what this one has read of it.
//!
//! Whoever decides holds the lock: it first reads on, then writes what it decided. So a torn line at the
//! end, of a writer that was killed within it, is met under the lock, and nothing was answered for it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

const BOOKS: &str = "payments.log";
const LOCK: &str = "payments.lock";

/// A line of the books.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Line {
    /// A charge was asked for and nothing came of it yet.
    Asked {
        key: Uuid,
        at: Timestamp,
    },
    Captured {
        key: Uuid,
        at: Timestamp,
        amount: i64,
        currency: String,
        token: String,
    },
    Declined {
        key: Uuid,
        at: Timestamp,
        amount: i64,
        reason: String,
    },
    Refunded {
        key: Uuid,
        at: Timestamp,
        refund_key: String,
        amount: i64,
    },
}

/// What the books say of a key. Kept in memory for ever, so what is rare is kept apart.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub captured: Option<Captured>,
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
pub(super) struct Captured {
    pub amount: i64,
    pub currency: Currency,
}

/// The three letters of ISO 4217.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Currency([u8; 3]);

impl Currency {
    /// `None`: no currency.
    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }
}

/// What few payments have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The buyer's token, where it matters for an answer that is repeated.
    pub token: Option<String>,
    pub asked: Option<Timestamp>,
    /// (amount, reason)
    pub declined: Option<(i64, String)>,
    pub refunds: HashMap<String, i64>,
}

/// Tokens whose repeated charge is answered otherwise than with what was captured.
const REMEMBERED: [&str; 2] = ["tok_captured_but_declined", "tok_unknown_for_a_while"];

impl Known {
    /// What few payments have; `None`: this one has nothing of it.
    pub fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// What was given back, in minor units.
    pub fn refunded(&self) -> i64 {
        self.rare().map_or(0, |rare| rare.refunds.values().sum())
    }

    fn rarely(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// The books, and what this process has read of them.
#[derive(Debug)]
pub(super) struct Books {
    file: File,
    lock: File,
    read: u64,
    known: HashMap<Uuid, Known>,
}

impl Books {
    /// Opens the books in the folder, or begins them.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(folder.join(BOOKS))?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK))?;
        Ok(Self { file, lock, read: 0, known: HashMap::new() })
    }

    pub fn of(&self, key: Uuid) -> Option<&Known> {
        self.known.get(&key)
    }

    /// Decides under the lock of the books: what `decide` notes is written when this returns.
    pub fn locked<T>(&mut self, decide: impl FnOnce(&mut Page<'_>) -> T) -> io::Result<T> {
        self.lock.lock()?;
        let decided = self.decide(decide);
        if decided.is_err() {
            // What is in memory was perhaps never written: the file alone says what happened.
            self.known.clear();
            self.read = 0;
        }
        self.lock.unlock()?;
        decided
    }

    fn decide<T>(&mut self, decide: impl FnOnce(&mut Page<'_>) -> T) -> io::Result<T> {
        self.read_on()?;
        if self.file.metadata()?.len() > self.read {
            // What is appended to a torn line would be lost with it.
            tracing::warn!(
                "a line of the sandbox's books was torn and is cut off: nobody was answered for it"
            );
            self.file.set_len(self.read)?;
        }
        let mut page = Page { books: self, lines: Vec::new() };
        let decided = decide(&mut page);
        let lines = page.lines;
        self.file.write_all(&lines)?;
        self.read += lines.len() as u64;
        Ok(decided)
    }

    /// Reads what others have written since, up to the last line that is whole.
    fn read_on(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.read {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut text = Vec::new();
        while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
            self.read += text.len() as u64;
            match serde_json::from_slice(&text) {
                Ok(line) => self.learn(line),
                Err(error) => tracing::error!(%error, "a line of the sandbox's books cannot be read"),
            }
            text.clear();
        }
        Ok(())
    }

    fn learn(&mut self, line: Line) {
        match line {
            Line::Asked { key, at } => {
                self.known.entry(key).or_default().rarely().asked.get_or_insert(at);
            }
            Line::Captured { key, at, amount, currency, token } => {
                let Some(currency) = Currency::parse(&currency) else {
                    tracing::error!(%key, currency, "a line of the sandbox's books has no currency");
                    return;
                };
                let known = self.known.entry(key).or_default();
                if known.captured.is_none() && REMEMBERED.contains(&token.as_str()) {
                    let rare = known.rarely();
                    rare.asked.get_or_insert(at);
                    rare.token = Some(token);
                }
                known.captured.get_or_insert(Captured { amount, currency });
            }
            Line::Declined { key, at: _, amount, reason } => {
                self.known.entry(key).or_default().rarely().declined.get_or_insert((amount, reason));
            }
            Line::Refunded { key, at: _, refund_key, amount } => {
                self.known.entry(key).or_default().rarely().refunds.insert(refund_key, amount);
            }
        }
    }
}

/// What was moved under each key, in minor units: (captured, refunded). Reads without the lock, and so
/// disturbs nobody: lines are only appended, and one that is not whole yet was not answered for.
pub(super) fn moved(folder: &Path) -> io::Result<HashMap<Uuid, (i64, i64)>> {
    let file = match File::open(folder.join(BOOKS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        opened => opened?,
    };
    let mut reader = BufReader::new(file);
    let (mut moved, mut refunds) = (HashMap::<Uuid, (i64, i64)>::new(), HashSet::new());
    let mut text = Vec::new();
    while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
        match serde_json::from_slice(&text) {
            // Of two lines of one name the first counts, as for whoever decides.
            Ok(Line::Captured { key, amount, .. }) => {
                let (captured, _) = moved.entry(key).or_default();
                *captured = if *captured == 0 { amount } else { *captured };
            }
            Ok(Line::Refunded { key, refund_key, amount, .. }) => {
                if refunds.insert((key, refund_key)) {
                    moved.entry(key).or_default().1 += amount;
                }
            }
            Ok(Line::Asked { key, .. } | Line::Declined { key, .. }) => {
                moved.entry(key).or_default();
            }
            Err(error) => tracing::error!(%error, "a line of the sandbox's books cannot be read"),
        }
        text.clear();
    }
    Ok(moved)
}

/// What is decided under one lock.
#[derive(Debug)]
pub(super) struct Page<'a> {
    books: &'a mut Books,
    lines: Vec<u8>,
}

impl Page<'_> {
    /// What the books say of a key, with what this page has noted.
    pub fn of(&self, key: Uuid) -> Option<&Known> {
        self.books.of(key)
    }

    pub fn note(&mut self, line: Line) {
        serde_json::to_writer(&mut self.lines, &line).expect("a line has string keys and no failing parts");
        self.lines.push(b'\n');
        self.books.learn(line);
    }
}
