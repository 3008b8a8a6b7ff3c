//! `souk verify`: whether the laws hold in the databases, of a shop that is open or of one that is not. Only
//! reads. What the laws are: [`souk_actors::laws`].

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use souk_actors::laws::{self, Booked, Books, Moment, Report};
use souk_actors::{Clock, Journals};
use souk_config::Settings;
use souk_persistence::databases::{DatabaseUrls, ReadOnly};
use souk_persistence::embedded::{EmbeddedSettings, Visit};
use souk_persistence::journal::SLOTS;
use souk_persistence::sandbox::{BooksAt, BooksError, LedgerEntry};

use crate::node::{sandbox_books, urls};

/// What was under way at the first look has moved on by the second.
const AGAIN: Duration = Duration::from_secs(3);

/// What was found, and when it was looked at.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Every law holds.
    pub holds: bool,
    /// How the shop was met.
    pub shop: Shop,
    /// Law by law.
    #[serde(flatten)]
    pub report: Report,
}

/// How a shop is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shop {
    /// Nothing that is owed is due.
    AtRest,
    /// Purchases are under way.
    AtWork,
    /// Purchases are left to the next start.
    Stopped,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holds, shop, report } = self;
        f.write_str(match shop {
            Shop::AtRest => "The shop is at rest: nothing that it owes is due.",
            Shop::AtWork => "The shop is at work: what is under way is not judged yet.",
            Shop::Stopped => "The shop is closed: what is under way is left to its next start.",
        })?;
        f.write_str(match report.has_books {
            true => "\n",
            false => " The provider's books are not there to compare with.\n",
        })?;
        let laws::Purchases { completed, failed, cancelled, pending } = report.purchases;
        writeln!(
            f,
            "Purchases: {completed} completed, {failed} failed, {cancelled} cancelled, {pending} pending"
        )?;
        writeln!(f, "\n{report}")?;
        match (report.is_empty(), holds, report.broken().len()) {
            (true, _, _) => writeln!(f, "The databases are empty."),
            (false, true, _) => writeln!(f, "Every law holds."),
            (false, false, 1) => writeln!(f, "A law is broken."),
            (false, false, broken) => writeln!(f, "{broken} laws are broken."),
        }
    }
}

/// Looks at the shop that the settings name, until `interrupted` resolves. `None`: no shop was ever opened there.
pub async fn verify(settings: &Settings, interrupted: impl Future<Output = ()>) -> Result<Option<Verified>> {
    let look = async |urls: DatabaseUrls| over(&urls, &books(settings, &urls).await?).await;
    Ok(visit(settings, interrupted, look).await?.flatten())
}

/// Does something with the databases that the settings name, until `interrupted` resolves. An embedded server that does
/// not run is started for the time of it. `None`: there is none to start.
pub async fn visit<T>(
    settings: &Settings,
    interrupted: impl Future<Output = ()>,
    look: impl AsyncFnOnce(DatabaseUrls) -> Result<T>,
) -> Result<Option<T>> {
    let visit = match settings.database.is_embedded() {
        true => {
            let binaries = settings.database.binaries.clone();
            let embedded = EmbeddedSettings { data: settings.data.clone(), binaries };
            match Visit::begin(&embedded).await.context("visit the embedded database")? {
                Some(visit) => Some(visit),
                None => return Ok(None),
            }
        }
        false => None,
    };
    let urls = urls(settings, visit.as_ref().map(Visit::url));
    let looked = tokio::select! {
        looked = look(urls) => looked,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    if let Some(visit) = visit {
        visit.end().await;
    }
    looked.map(Some)
}

/// The provider's books: of a lone Souk, or of a cluster on the same server. Who looks need not know which.
async fn books(settings: &Settings, urls: &DatabaseUrls) -> Result<BooksAt> {
    let found = async {
        if !settings.database.is_embedded() {
            let shared = sandbox_books(settings, true, urls.server.as_deref())?;
            if settings.cluster.listen.is_some() || shared.exist().await? {
                return Ok(shared);
            }
        }
        Ok::<_, BooksError>(sandbox_books(settings, false, urls.server.as_deref())?)
    };
    found.await.context("find the sandbox's books")
}

/// Looks at the databases at these URLs, and at the provider's books. `None`: there are no databases.
pub async fn over(urls: &DatabaseUrls, books: &BooksAt) -> Result<Option<Verified>> {
    match ReadOnly::open(urls).await.context("open the databases")? {
        Some(databases) => Place::new(databases, books).look().await.map(Some),
        None => Ok(None),
    }
}

/// What is looked at.
struct Place {
    journals: Journals,
    databases: ReadOnly,
    books: BooksAt,
}

impl Place {
    fn new(databases: ReadOnly, books: &BooksAt) -> Self {
        let journals = Journals {
            account: databases.account.clone(),
            product: databases.product.clone(),
            order: databases.order.clone(),
            payment: databases.payment.clone(),
        };
        Self { journals, databases, books: books.clone() }
    }

    /// A violation counts if nobody writes, or if it is there a few seconds later too.
    async fn look(&self) -> Result<Verified> {
        let (moment, books) = (self.moment().await?, self.books().await?);
        let report = laws::check(&self.journals, books.as_ref(), moment).await?;
        if report.holds() || !self.databases.is_held().await? {
            return Ok(verified(moment, report));
        }
        tokio::time::sleep(AGAIN).await;
        let (moment, books) = (self.moment().await?, self.books().await?);
        let report = laws::check_again(&self.journals, books.as_ref(), moment, &report).await?;
        Ok(verified(moment, report))
    }

    async fn moment(&self) -> Result<Moment> {
        let now = Clock::System.now();
        for journal in [&self.journals.order, &self.journals.payment] {
            if !journal.owed(0..=SLOTS - 1, now, None, 1).await?.is_empty() {
                return Ok(match self.databases.is_held().await? {
                    true => Moment::Live(now),
                    false => Moment::Stopped,
                });
            }
        }
        Ok(Moment::AtRest(now))
    }

    /// What the sandbox says of every payment; `None`: there is no sandbox here.
    async fn books(&self) -> Result<Option<Books>> {
        let ledger = self.books.read().await.context("read the payment provider's books")?;
        let booked =
            |entry: LedgerEntry| (entry.key, Booked { captured: entry.captured, refunded: entry.refunded });
        Ok(ledger.map(|ledger| ledger.into_iter().map(booked).collect()))
    }
}

fn verified(moment: Moment, report: Report) -> Verified {
    let shop = match moment {
        Moment::AtRest(_) => Shop::AtRest,
        Moment::Live(_) => Shop::AtWork,
        Moment::Stopped => Shop::Stopped,
    };
    Verified { holds: report.holds(), shop, report }
}
