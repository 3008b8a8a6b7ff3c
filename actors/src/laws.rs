//! The laws: what must hold in the databases whatever was killed, lost, repeated or late on the way. The
//! one place that says so; tests, the benchmark and `souk verify` all ask here.
//!
//! They are judged from what is stored, row by row, and from the provider's own record, not through the
//! shop, so that no mistake of a reader hides a mistake of a writer. Each entity's history is folded anew
//! ([`replay`]); what the histories say is then compared across streams: [`stock`] and [`purchase`] decide,
//! pure, and only [`check`] reads. Databases are walked in order of stream and in step, so a million
//! purchases take the memory of what became of their stock, and no more.

mod findings;
mod histories;
mod purchase;
mod replay;
mod stock;
mod walk;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::journal::{Journal, JournalError};
use uuid::Uuid;

use crate::aggregate::Kind;
use crate::shop::Journals;
use findings::Findings;
use histories::{Histories, Told};
use purchase::{Purchase, Side};
use stock::{Stock, Taken};

pub use findings::{Purchases, Report, Verdict, Violation};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// The rows of every stream are numbered without a gap, from 1 (or from what a snapshot covers, where
    /// the past is forgotten) to the version that its guard stands at; their times never go back.
    StreamsWithoutGaps,
    /// What readers see, what is owed, whose it is and every snapshot are what the stream's history leads
    /// to.
    StateIsItsHistory,
    /// Every purchase that was accepted comes to an end by itself: at rest nothing is pending, being undone,
    /// or owed and due; at work none is pending a minute past its deadline; nowhere is a person needed.
    EveryPurchaseEnds,
    /// A purchase is accepted once and has one outcome, which never changes. A key names its stream, so
    /// that is one outcome for each key.
    OneOutcome,
    /// Of each product, what was put in less what was sold is what is left and held, never negative; what
    /// completed purchases bought is held for them or sold, once; others leave nothing held and nothing
    /// sold.
    StockConserved,
    /// What was charged is what was bought; what was taken back is refunded in full; and the provider's
    /// record says the same.
    MoneyConserved,
    /// An order, its payment and its stock tell one story: the same customer, currency and prices, paid if
    /// completed, taken back if not.
    OneStory,
}

impl Law {
    /// Every law, in the order of a report.
    pub const ALL: [Self; 7] = [
        Self::StreamsWithoutGaps,
        Self::StateIsItsHistory,
        Self::EveryPurchaseEnds,
        Self::OneOutcome,
        Self::StockConserved,
        Self::MoneyConserved,
        Self::OneStory,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::StreamsWithoutGaps => "streams without gaps",
            Self::StateIsItsHistory => "state is its history",
            Self::EveryPurchaseEnds => "every purchase ends",
            Self::OneOutcome => "one outcome",
            Self::StockConserved => "stock conserved",
            Self::MoneyConserved => "money conserved",
            Self::OneStory => "one story",
        }
    }
}

/// When the databases are looked at, with the time by the shop's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing that is owed is due, and nobody writes.
    AtRest(Timestamp),
    /// Something is owed, and nobody is at work: the next start takes it up.
    Stopped,
    /// Purchases are under way. The databases are read one after the other, so what moves meanwhile may
    /// look like a violation: a look that finds one says nothing until [`check_again`] has found it too.
    Live(Timestamp),
}

/// The provider's own record: what it did under each payment's key.
pub type Books = HashMap<Uuid, Booked>;

/// What the provider did under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Booked {
    /// In minor units.
    pub captured: i64,
    /// In minor units.
    pub refunded: i64,
}

/// Looks at every row of every database once. `books`: the provider's record, read before; `None` if it
/// cannot be had: then money is only compared among our own rows.
pub async fn check(
    journals: &Journals,
    books: Option<&Books>,
    moment: Moment,
) -> Result<Report, JournalError> {
    look(journals, books, Findings::new(moment)).await
}

/// Looks again, a few seconds after a look at a shop that was at work, and reports only what both have
/// found: the same law, broken in the same stream. By then what was under way has moved on.
pub async fn check_again(
    journals: &Journals,
    books: Option<&Books>,
    moment: Moment,
    first: &Report,
) -> Result<Report, JournalError> {
    look(journals, books, Findings::among(first, moment)).await
}

async fn look(
    journals: &Journals,
    books: Option<&Books>,
    mut found: Findings,
) -> Result<Report, JournalError> {
    accounts(journals.account.as_ref(), &mut found).await?;
    // Before the orders: an order is durable before its stock is held.
    let stock = products(journals.product.as_ref(), &mut found).await?;
    purchases(journals, &stock, books, &mut found).await?;
    Ok(found.report(books.is_some()))
}

async fn accounts(journal: &dyn Journal, found: &mut Findings) -> Result<(), JournalError> {
    let mut histories = Histories::over(journal, &[Kind::Account, Kind::Session, Kind::Email]);
    while histories.next(found).await?.is_some() {}
    Ok(())
}

async fn products(journal: &dyn Journal, found: &mut Findings) -> Result<Stock, JournalError> {
    let mut histories = Histories::over(journal, &[Kind::Category, Kind::Product]);
    let mut stock = Stock::default();
    while let Some((id, told)) = histories.next(found).await? {
        match told {
            Told::Product(product) => {
                found.saw(Law::StockConserved, 1);
                found.judge(Law::StockConserved, id, product.conserved());
                stock.add(id, product.shelf);
            }
            Told::Order(_) | Told::Payment(_) | Told::Other | Told::Unreadable => {}
        }
    }
    stock.sort();
    Ok(stock)
}

/// Orders, payments, what became of their stock and what the provider says, all in order of the purchase.
async fn purchases(
    journals: &Journals,
    stock: &Stock,
    books: Option<&Books>,
    found: &mut Findings,
) -> Result<(), JournalError> {
    let mut orders = Histories::over(journals.order.as_ref(), &[Kind::Order]);
    let mut payments = Histories::over(journals.payment.as_ref(), &[Kind::Payment]);
    let mut keys: Vec<Uuid> = books.map_or_else(Vec::new, |books| books.keys().copied().collect());
    keys.sort_unstable();
    let mut keys = keys.into_iter().peekable();
    let mut taken = stock.taken();
    let mut order = orders.next(found).await?;
    let mut payment = payments.next(found).await?;
    loop {
        let heads = [
            order.as_ref().map(|(id, _)| *id),
            payment.as_ref().map(|(id, _)| *id),
            taken.first().map(|taken| taken.purchase),
            keys.peek().copied(),
        ];
        let Some(id) = heads.into_iter().flatten().min() else { return Ok(()) };
        let purchase = Purchase {
            id,
            order: match order.take_if(|(of, _)| *of == id) {
                None => Side::Absent,
                Some((_, Told::Order(order))) => Side::Known(order),
                Some((_, Told::Payment(_) | Told::Product(_) | Told::Other | Told::Unreadable)) => {
                    Side::Unreadable
                }
            },
            payment: match payment.take_if(|(of, _)| *of == id) {
                None => Side::Absent,
                Some((_, Told::Payment(payment))) => Side::Known(payment),
                Some((_, Told::Order(_) | Told::Product(_) | Told::Other | Told::Unreadable)) => {
                    Side::Unreadable
                }
            },
            taken: of_purchase(&mut taken, id),
            booked: books.map(|books| books.get(&id).copied()),
        };
        keys.next_if_eq(&id);
        purchase.judge(stock, found);
        if order.is_none() {
            order = orders.next(found).await?;
        }
        if payment.is_none() {
            payment = payments.next(found).await?;
        }
    }
}

/// Cuts off what a purchase took.
fn of_purchase<'a>(taken: &mut &'a [Taken], id: Uuid) -> &'a [Taken] {
    let count = taken.iter().take_while(|taken| taken.purchase == id).count();
    let (its, rest) = taken.split_at(count);
    *taken = rest;
    its
}
