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
//! machine; nodes on several machines share a database of their own instead, `sandbox_db`. What it was told
//! is written before the answer is given, so it outlives any kill of a process; it is not synced to the
//! disk, because it stands for somebody else's system.

mod books;
mod ledger;
mod rules;
mod tables;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::Timestamp;
use crate::provider::{ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest};
use books::Books;
pub use ledger::{BooksAt, BooksError, LedgerEntry};

/// A request that was sent is executed within this time or never.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// Books are kept for ever; a day is what providers promise.
const REMEMBERS_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most requests that wait for the books.
const WAITING_MAX: usize = 10_000;
/// The most requests that are decided in one turn.
const AT_ONCE_MAX: usize = 500;

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
    requests: mpsc::Sender<Request>,
}

/// What is asked, and who waits for the answer.
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
        let books = Books::open(folder)?;
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("sandbox".to_owned());
        thread.spawn(move || books::serve(books, unknown_for, waiting))?;
        Ok(Arc::new(Self { latency, requests }))
    }

    /// Opens the sandbox over books in a database, which several machines share; it is made if it is missing.
    pub async fn open_shared(options: PgConnectOptions, pace: Pace) -> Result<Arc<Self>, BooksError> {
        let Pace { latency, unknown_for } = pace;
        let books = tables::Tables::open(options).await?;
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(tables::serve(books, unknown_for, waiting));
        Ok(Arc::new(Self { latency, requests }))
    }

    /// Opens the sandbox over its books, wherever they are.
    pub async fn open_at(books: &BooksAt, pace: Pace) -> Result<Arc<Self>, BooksError> {
        match books {
            BooksAt::Folder(folder) => Self::open_with(folder, pace)
                .map_err(|source| BooksError::Folder { folder: folder.clone(), source }),
            BooksAt::Database(options) => Self::open_shared(options.as_ref().clone(), pace).await,
        }
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

#[expect(clippy::disallowed_methods, reason = "it stands for a system with a clock of its own")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Timestamp::default() + since.unwrap_or_default()
}
