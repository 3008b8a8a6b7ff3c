//! A payment provider to play with, in process, and its books.
//!
//! What it does is decided by the token that the buyer pays with:
//!
//! | token | what happens |
//! |---|---|
//! | `tok_declined` | declined: `card_declined` |
//! | `tok_insufficient_funds` | declined: `insufficient_funds` |
//! | `tok_timeout_then_success` | the first request is lost; a repeated one is captured |
//! | `tok_unknown_for_a_while` | captured at once, but for 3 s it only says that it does not know |
//! | `tok_never_answers` | never answers and captures nothing |
//! | `tok_captured_but_declined` | says that it declined, and has captured |
//! | any other, or none | captured |
//!
//! Its books are a file of their own, `payments.log` (JSON lines, append only), shared by all nodes of a
//! machine. A line is written before the answer is given, so what it was told outlives any kill of a
//! process; it is not synced to the disk, because it stands for somebody else's system.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Timestamp;
use crate::provider::{ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest};

const BOOKS: &str = "payments.log";
const LOCK: &str = "payments.lock";
/// A request that was sent is executed within this time or never.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// Books are kept for ever; a day is what providers promise.
const REMEMBERS_FOR: Duration = Duration::from_secs(24 * 3600);
const UNKNOWN_FOR: Duration = Duration::from_secs(3);
/// The most requests that wait for the books.
const WAITING_MAX: usize = 10_000;
/// The most requests that are decided under one lock of the books.
const AT_ONCE_MAX: usize = 500;

/// The sandbox.
#[derive(Debug)]
pub struct SandboxProvider {
    requests: mpsc::SyncSender<Request>,
}

/// What the provider did under a key, as its books say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The payment's id.
    pub key: Uuid,
    /// In minor units.
    pub captured: i64,
    /// In minor units.
    pub refunded: i64,
}

/// A line of the books.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Line {
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

#[derive(Debug)]
enum Request {
    Charge(ChargeRequest, Timestamp, oneshot::Sender<Result<Charged, ProviderUnknown>>),
    Find(Uuid, oneshot::Sender<Result<Option<Found>, ProviderUnknown>>),
    Refund(RefundRequest, oneshot::Sender<Result<(), ProviderUnknown>>),
}

impl SandboxProvider {
    /// Opens the sandbox over the books in `folder`.
    pub fn open(folder: &Path) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(folder)?;
        let mut books = Books::open(folder)?;
        let (requests, waiting) = mpsc::sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || books.serve(&waiting))?;
        Ok(Arc::new(Self { requests }))
    }

    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, ProviderUnknown>>) -> Request,
    ) -> BoxFuture<'static, Result<T, ProviderUnknown>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.try_send(request(answer));
        async move {
            sent.map_err(|_| ProviderUnknown("the sandbox is overloaded".to_owned()))?;
            answered.await.unwrap_or_else(|_| Err(ProviderUnknown("the sandbox has ended".to_owned())))
        }
        .boxed()
    }
}

impl PaymentProvider for SandboxProvider {
    fn settles_within(&self) -> Duration {
        SETTLES_WITHIN
    }

    fn remembers_for(&self) -> Duration {
        REMEMBERS_FOR
    }

    fn charge(
        &self,
        request: ChargeRequest,
        expires: Timestamp,
    ) -> BoxFuture<'_, Result<Charged, ProviderUnknown>> {
        if request.token == "tok_never_answers" {
            return futures::future::pending().boxed();
        }
        self.ask(|answer| Request::Charge(request, expires, answer))
    }

    fn find(&self, key: Uuid) -> BoxFuture<'_, Result<Option<Found>, ProviderUnknown>> {
        self.ask(|answer| Request::Find(key, answer))
    }

    fn refund(&self, request: RefundRequest) -> BoxFuture<'_, Result<(), ProviderUnknown>> {
        self.ask(|answer| Request::Refund(request, answer))
    }
}

/// What the books in `folder` say of every key. No books: nothing was ever told.
pub fn read_ledger(folder: &Path) -> io::Result<Vec<LedgerEntry>> {
    if !folder.join(BOOKS).exists() {
        return Ok(Vec::new());
    }
    let mut books = Books::open(folder)?;
    books.lock.lock_shared()?;
    books.read_on()?;
    let entry = |(key, known): (Uuid, Known)| {
        let captured = known.captured.as_ref().map_or(0, |captured| captured.amount);
        LedgerEntry { key, captured, refunded: known.refunds.values().sum() }
    };
    Ok(std::mem::take(&mut books.known).into_iter().map(entry).collect())
}

/// The books, and what this process has read of them.
#[derive(Debug)]
struct Books {
    file: File,
    lock: File,
    read: u64,
    known: HashMap<Uuid, Known>,
    folder: PathBuf,
}

#[derive(Debug, Default)]
struct Known {
    asked: Option<Timestamp>,
    captured: Option<Captured>,
    /// (amount, reason)
    declined: Option<(i64, String)>,
    refunds: HashMap<String, i64>,
}

#[derive(Debug)]
struct Captured {
    amount: i64,
    token: String,
}

impl Books {
    fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(folder.join(BOOKS))?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK))?;
        Ok(Self { file, lock, read: 0, known: HashMap::new(), folder: folder.to_owned() })
    }

    fn serve(&mut self, waiting: &mpsc::Receiver<Request>) {
        while let Ok(first) = waiting.recv() {
            let requests: Vec<_> =
                std::iter::once(first).chain(waiting.try_iter().take(AT_ONCE_MAX - 1)).collect();
            if let Err(error) = self.decide(requests) {
                // Whoever asked learns that nobody knows.
                tracing::error!(folder = %self.folder.display(), %error, "the sandbox's books fail");
            }
        }
    }

    /// Decides requests under one lock: all lines are written before the first answer is given.
    fn decide(&mut self, requests: Vec<Request>) -> io::Result<()> {
        self.lock.lock()?;
        let answers = self.decide_locked(requests);
        self.lock.unlock()?;
        for answer in answers? {
            answer();
        }
        Ok(())
    }

    fn decide_locked(&mut self, requests: Vec<Request>) -> io::Result<Vec<Box<dyn FnOnce()>>> {
        self.read_on()?;
        let now = now();
        let mut lines = Vec::new();
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::new();
        for request in requests {
            // Whoever has stopped waiting does not hear the answer.
            match request {
                Request::Charge(charge, expires, to) => {
                    let (line, answer) = self.charge(now, &charge, expires);
                    self.note(line, &mut lines);
                    answers.push(Box::new(move || drop(to.send(answer))));
                }
                Request::Find(key, to) => {
                    let answer = Ok(self.find(key));
                    answers.push(Box::new(move || drop(to.send(answer))));
                }
                Request::Refund(refund, to) => {
                    let (line, answer) = self.refund(now, &refund);
                    self.note(line, &mut lines);
                    answers.push(Box::new(move || drop(to.send(answer))));
                }
            }
        }
        self.file.write_all(&lines)?;
        self.read += lines.len() as u64;
        Ok(answers)
    }

    fn note(&mut self, line: Option<Line>, lines: &mut Vec<u8>) {
        if let Some(line) = line {
            serde_json::to_writer(&mut *lines, &line).expect("a line has string keys and no failing parts");
            lines.push(b'\n');
            self.learn(line);
        }
    }

    fn charge(
        &self,
        now: Timestamp,
        request: &ChargeRequest,
        expires: Timestamp,
    ) -> (Option<Line>, Result<Charged, ProviderUnknown>) {
        let ChargeRequest { key, amount, currency, token } = request.clone();
        let unknown = |why: &str| Err(ProviderUnknown(why.to_owned()));
        let captured_answer = || Ok(Charged::Captured { reference: format!("sandbox-{key}") });
        let declined_answer = |reason: &str| Ok(Charged::Declined { reason: reason.to_owned() });
        let known = self.known.get(&key);
        if let Some(captured) = known.and_then(|known| known.captured.as_ref()) {
            let asked = known.and_then(|known| known.asked).unwrap_or(now);
            return match captured.token.as_str() {
                _ if captured.amount != amount => (None, unknown("the key was used for another amount")),
                "tok_captured_but_declined" => (None, declined_answer("card_declined")),
                "tok_unknown_for_a_while" if now < asked + UNKNOWN_FOR => (None, unknown("not known yet")),
                _ => (None, captured_answer()),
            };
        }
        if let Some((_, reason)) = known.and_then(|known| known.declined.as_ref()) {
            return (None, declined_answer(reason));
        }
        if now > expires {
            return (None, unknown("the request came too late"));
        }
        let was_asked = known.is_some_and(|known| known.asked.is_some());
        let capture = Line::Captured { key, at: now, amount, currency, token: token.clone() };
        let decline = |reason: &str| {
            (
                Some(Line::Declined { key, at: now, amount, reason: reason.to_owned() }),
                declined_answer(reason),
            )
        };
        match token.as_str() {
            "tok_declined" => decline("card_declined"),
            "tok_insufficient_funds" => decline("insufficient_funds"),
            "tok_timeout_then_success" if !was_asked => {
                (Some(Line::Asked { key, at: now }), unknown("timed out"))
            }
            "tok_unknown_for_a_while" => (Some(capture), unknown("not known yet")),
            "tok_captured_but_declined" => (Some(capture), declined_answer("card_declined")),
            _ => (Some(capture), captured_answer()),
        }
    }

    fn find(&self, key: Uuid) -> Option<Found> {
        let captured = self.known.get(&key)?.captured.as_ref()?;
        Some(Found { amount: captured.amount, reference: format!("sandbox-{key}") })
    }

    fn refund(&self, now: Timestamp, request: &RefundRequest) -> (Option<Line>, Result<(), ProviderUnknown>) {
        let RefundRequest { key, refund_key, amount, currency: _ } = request.clone();
        let unknown = |why: &str| (None, Err(ProviderUnknown(why.to_owned())));
        let Some(known) = self.known.get(&key) else { return unknown("nothing was charged") };
        let Some(captured) = &known.captured else { return unknown("nothing was captured") };
        if let Some(refunded) = known.refunds.get(&refund_key) {
            return match *refunded == amount {
                true => (None, Ok(())),
                false => unknown("the refund's key was used for another amount"),
            };
        }
        match known.refunds.values().sum::<i64>().checked_add(amount) {
            Some(sum) if sum <= captured.amount => {
                (Some(Line::Refunded { key, at: now, refund_key, amount }), Ok(()))
            }
            Some(_) | None => unknown("more than was captured"),
        }
    }

    /// Reads what others have written since. Called under the lock, so every line is whole.
    fn read_on(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.read {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut text = String::new();
        while reader.read_line(&mut text)? > 0 {
            self.read += text.len() as u64;
            match serde_json::from_str(&text) {
                Ok(line) => self.learn(line),
                // Its writer was killed within it: nothing was answered for it.
                Err(error) => tracing::warn!(%error, "a line of the sandbox's books is not whole"),
            }
            text.clear();
        }
        Ok(())
    }

    fn learn(&mut self, line: Line) {
        match line {
            Line::Asked { key, at } => {
                self.known.entry(key).or_default().asked.get_or_insert(at);
            }
            Line::Captured { key, at, amount, currency: _, token } => {
                let known = self.known.entry(key).or_default();
                known.asked.get_or_insert(at);
                known.captured.get_or_insert(Captured { amount, token });
            }
            Line::Declined { key, at: _, amount, reason } => {
                self.known.entry(key).or_default().declined.get_or_insert((amount, reason));
            }
            Line::Refunded { key, at: _, refund_key, amount } => {
                self.known.entry(key).or_default().refunds.insert(refund_key, amount);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it stands for a system with a clock of its own")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Timestamp::default() + since.unwrap_or_default()
}
