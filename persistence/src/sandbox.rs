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

mod books;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Timestamp;
use crate::provider::{ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest};
use books::{Books, Line, Page};

/// A request that was sent is executed within this time or never.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// Books are kept for ever; a day is what providers promise.
const REMEMBERS_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most requests that wait for the books.
const WAITING_MAX: usize = 10_000;
/// The most requests that are decided under one lock of the books.
const AT_ONCE_MAX: usize = 500;
/// When several came at once, so long is waited for the next ones: one turn then serves many.
const LINGER: Duration = Duration::from_micros(500);

/// How long things take there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long an answer is on its way. What was asked is done by then.
    pub latency: Duration,
    /// For how long `tok_unknown_for_a_while` is not known.
    pub unknown_for: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { latency: Duration::ZERO, unknown_for: Duration::from_secs(3) }
    }
}

/// The sandbox.
#[derive(Debug)]
pub struct SandboxProvider {
    latency: Duration,
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

#[derive(Debug)]
enum Request {
    Charge(ChargeRequest, Timestamp, oneshot::Sender<Result<Charged, ProviderUnknown>>),
    Find(Uuid, oneshot::Sender<Result<Option<Found>, ProviderUnknown>>),
    Refund(RefundRequest, oneshot::Sender<Result<(), ProviderUnknown>>),
}

impl SandboxProvider {
    /// Opens the sandbox over the books in `folder`.
    pub fn open(folder: &Path) -> io::Result<Arc<Self>> {
        Self::open_with(folder, Pace::default())
    }

    /// Opens it at another pace.
    pub fn open_with(folder: &Path, pace: Pace) -> io::Result<Arc<Self>> {
        let Pace { latency, unknown_for } = pace;
        std::fs::create_dir_all(folder)?;
        let mut desk = Desk { books: Books::open(folder)?, unknown_for };
        let (requests, waiting) = mpsc::sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || desk.serve(&waiting))?;
        Ok(Arc::new(Self { latency, requests }))
    }

    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, ProviderUnknown>>) -> Request,
    ) -> BoxFuture<'static, Result<T, ProviderUnknown>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.try_send(request(answer));
        let latency = self.latency;
        async move {
            sent.map_err(|_| ProviderUnknown("the sandbox is overloaded".to_owned()))?;
            let answer = answered.await;
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            answer.unwrap_or_else(|_| Err(ProviderUnknown("the sandbox's books fail".to_owned())))
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

/// What the books in `folder` say of every key. No books: nothing was ever told. Whoever writes them is not
/// disturbed.
pub fn read_ledger(folder: &Path) -> io::Result<Vec<LedgerEntry>> {
    let moved = books::moved(folder)?.into_iter();
    Ok(moved.map(|(key, (captured, refunded))| LedgerEntry { key, captured, refunded }).collect())
}

/// Where requests are decided: a thread, because files block.
#[derive(Debug)]
struct Desk {
    books: Books,
    unknown_for: Duration,
}

/// Gives an answer to whoever waits for it.
type Tell = Box<dyn FnOnce()>;

impl Desk {
    fn serve(&mut self, waiting: &mpsc::Receiver<Request>) {
        let Self { books, unknown_for } = self;
        while let Ok(first) = waiting.recv() {
            let requests = std::iter::once(first).chain(waiting.try_iter().take(AT_ONCE_MAX - 1));
            let now = now();
            let decided = books.locked(|page| {
                requests.map(|request| decide(page, now, *unknown_for, request)).collect::<Vec<Tell>>()
            });
            match decided {
                // All lines are written before the first answer is given.
                Ok(answers) => {
                    let is_busy = answers.len() > 1;
                    answers.into_iter().for_each(|tell| tell());
                    if is_busy {
                        std::thread::sleep(LINGER);
                    }
                }
                // Whoever asked learns that nobody knows.
                Err(error) => tracing::error!(%error, "the sandbox's books fail"),
            }
        }
    }
}

fn decide(page: &mut Page<'_>, now: Timestamp, unknown_for: Duration, request: Request) -> Tell {
    // Whoever has stopped waiting does not hear the answer.
    match request {
        Request::Charge(request, expires, to) => {
            let (line, answer) = charge(page, now, unknown_for, request, expires);
            line.into_iter().for_each(|line| page.note(line));
            Box::new(move || drop(to.send(answer)))
        }
        Request::Find(key, to) => {
            let answer = Ok(find(page, key));
            Box::new(move || drop(to.send(answer)))
        }
        Request::Refund(request, to) => {
            let (line, answer) = refund(page, now, request);
            line.into_iter().for_each(|line| page.note(line));
            Box::new(move || drop(to.send(answer)))
        }
    }
}

fn charge(
    page: &Page<'_>,
    now: Timestamp,
    unknown_for: Duration,
    request: ChargeRequest,
    expires: Timestamp,
) -> (Option<Line>, Result<Charged, ProviderUnknown>) {
    let ChargeRequest { key, amount, currency, token } = request;
    let unknown = |why: &str| Err(ProviderUnknown(why.to_owned()));
    let captured_answer = || Ok(Charged::Captured { reference: format!("sandbox-{key}") });
    let declined_answer = |reason: &str| Ok(Charged::Declined { reason: reason.to_owned() });
    let known = page.of(key);
    let Some(currency_code) = books::Currency::parse(&currency) else {
        return (None, unknown("there is no such currency"));
    };
    let rare = known.and_then(books::Known::rare);
    let was_asked = rare.and_then(|rare| rare.asked);
    if let Some(captured) = known.and_then(|known| known.captured.as_ref()) {
        let asked = was_asked.unwrap_or(now);
        let paid_with = rare.and_then(|rare| rare.token.as_deref()).unwrap_or_default();
        let answer = match paid_with {
            _ if (captured.amount, captured.currency) != (amount, currency_code) => {
                unknown("the key was used for another amount")
            }
            "tok_captured_but_declined" => declined_answer("card_declined"),
            "tok_unknown_for_a_while" if now < asked + unknown_for => unknown("not known yet"),
            _ => captured_answer(),
        };
        return (None, answer);
    }
    if let Some((declined, reason)) = rare.and_then(|rare| rare.declined.as_ref()) {
        let answer = match *declined == amount {
            true => declined_answer(reason),
            false => unknown("the key was used for another amount"),
        };
        return (None, answer);
    }
    if now > expires {
        return (None, unknown("the request came too late"));
    }
    if amount < 0 {
        return (None, unknown("an amount is not negative"));
    }
    let decline = |reason: &str| {
        (Some(Line::Declined { key, at: now, amount, reason: reason.to_owned() }), declined_answer(reason))
    };
    let capture =
        |answer| (Some(Line::Captured { key, at: now, amount, currency, token: token.clone() }), answer);
    match token.as_str() {
        "tok_declined" => decline("card_declined"),
        "tok_insufficient_funds" => decline("insufficient_funds"),
        "tok_timeout_then_success" if was_asked.is_none() => {
            (Some(Line::Asked { key, at: now }), unknown("timed out"))
        }
        "tok_unknown_for_a_while" => capture(unknown("not known yet")),
        "tok_captured_but_declined" => capture(declined_answer("card_declined")),
        _ => capture(captured_answer()),
    }
}

fn find(page: &Page<'_>, key: Uuid) -> Option<Found> {
    let captured = page.of(key)?.captured.as_ref()?;
    Some(Found { amount: captured.amount, reference: format!("sandbox-{key}") })
}

fn refund(
    page: &Page<'_>,
    now: Timestamp,
    request: RefundRequest,
) -> (Option<Line>, Result<(), ProviderUnknown>) {
    let RefundRequest { key, refund_key, amount, currency } = request;
    let unknown = |why: &str| (None, Err(ProviderUnknown(why.to_owned())));
    let Some(known) = page.of(key) else { return unknown("nothing was charged") };
    let Some(captured) = &known.captured else { return unknown("nothing was captured") };
    if let Some(refunded) = known.rare().and_then(|rare| rare.refunds.get(&refund_key)) {
        return match *refunded == amount {
            true => (None, Ok(())),
            false => unknown("the refund's key was used for another amount"),
        };
    }
    if books::Currency::parse(&currency) != Some(captured.currency) {
        return unknown("another currency was captured");
    }
    // A negative one would make room for more than was captured.
    if amount < 0 {
        return unknown("an amount is not negative");
    }
    match known.refunded().checked_add(amount) {
        Some(sum) if sum <= captured.amount => {
            (Some(Line::Refunded { key, at: now, refund_key, amount }), Ok(()))
        }
        Some(_) | None => unknown("more than was captured"),
    }
}

#[expect(clippy::disallowed_methods, reason = "it stands for a system with a clock of its own")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Timestamp::default() + since.unwrap_or_default()
}
