//! What must be true when a play is over: the laws, and that whatever anybody was told is so.

use std::collections::BTreeMap;
use std::ops::Index;

use souk_actors::Id;
use souk_actors::laws::{self, Booked, Books, Law, Moment};
use souk_actors::order::{self, Order, Status};
use souk_actors::product::Product;

use crate::bank::Account;
use crate::stage::{Counts, Stage};

/// What a client was told of a purchase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It is accepted.
    Placed,
    /// It will be undone.
    Cancelled,
    /// Its end was decided otherwise.
    TooLate,
}

/// Who was in the play.
#[derive(Clone, Debug, Default)]
pub struct Cast {
    /// What there was of each product.
    pub products: Vec<(Id<Product>, i64)>,
    /// Every purchase that somebody asked for, accepted or not.
    pub orders: Vec<Id<Order>>,
    pub promises: Vec<(Id<Order>, Promise)>,
    /// The plot itself refused something: what was refused need not be found in anybody's books, and what
    /// cannot be refused needs a person.
    pub has_forged: bool,
}

/// How a purchase ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was never accepted.
    Never,
    Completed,
    /// With its stable code; a cancelled one too.
    Undone(String),
    /// Something could not be undone.
    NeedsPerson,
}

/// How each purchase ended.
#[derive(Clone, Debug)]
pub struct Ends {
    pub of: BTreeMap<Id<Order>, End>,
    /// How many rows each law was judged by.
    pub rows: Counts,
}

impl Index<&Id<Order>> for Ends {
    type Output = End;

    fn index(&self, id: &Id<Order>) -> &End {
        &self.of[id]
    }
}

/// How each purchase ended, if everything is as it must be.
pub async fn ends(stage: &Stage, cast: &Cast) -> Result<Ends, String> {
    let books = stage.bank.books();
    let mut ends = BTreeMap::new();
    for id in &cast.orders {
        let view = stage.order(*id).await;
        let account = books.get(&id.uuid()).cloned().unwrap_or_default();
        let end = end(view.as_ref(), &account, cast.has_forged)
            .map_err(|broken| format!("{broken}: order {id} {view:?} {account:?}"))?;
        ends.insert(*id, end);
    }
    let rows = lawful(stage, ends.values().any(|end| *end == End::NeedsPerson)).await?;
    conserved(stage, cast, &ends).await?;
    for (id, promise) in &cast.promises {
        let end = &ends[id];
        if !promise.is_kept(end) {
            return Err(format!("{promise:?} was promised of {id}, which ended as {end:?}"));
        }
    }
    Ok(Ends { of: ends, rows })
}

async fn lawful(stage: &Stage, needs_person: bool) -> Result<Counts, String> {
    let booked = |account: &Account| Booked { captured: account.captured(), refunded: account.refunded() };
    let books: Books = stage.bank.books().iter().map(|(key, account)| (*key, booked(account))).collect();
    let moment = Moment::AtRest(stage.clock.now());
    let report = laws::check(&stage.read(), Some(&books), moment).await.map_err(|error| error.to_string())?;
    // What waits for a person has not ended, is held, and not given back.
    let waits = |law: &Law| match law {
        Law::EveryPurchaseEnds | Law::StockConserved | Law::MoneyConserved | Law::OneStory => needs_person,
        Law::StreamsWithoutGaps | Law::StateIsItsHistory | Law::OneOutcome => false,
    };
    if !report.broken().iter().all(waits) {
        return Err(report.to_string());
    }
    Ok(Counts(report.verdicts.iter().map(|verdict| (verdict.law.name(), verdict.rows)).collect()))
}

/// Of each product there is what there was, less what was sold: the laws know only what the journal says
/// that there was.
async fn conserved(stage: &Stage, cast: &Cast, ends: &BTreeMap<Id<Order>, End>) -> Result<(), String> {
    let mut sold: BTreeMap<Id<Product>, i64> = BTreeMap::new();
    for (id, _) in ends.iter().filter(|(_, end)| **end == End::Completed) {
        let view = stage.order(*id).await.ok_or("a completed order is gone")?;
        for line in &view.lines {
            *sold.entry(line.product).or_default() += i64::from(line.quantity);
        }
    }
    for (id, stock) in &cast.products {
        let view = stage.product(*id).await.ok_or("a product is gone")?;
        let sold = sold.get(id).copied().unwrap_or(0);
        if view.inventory + view.held != stock - sold {
            return Err(format!("of product {id} there were {stock}, {sold} were sold: {view:?}"));
        }
    }
    Ok(())
}

impl Promise {
    fn is_kept(self, end: &End) -> bool {
        match (self, end) {
            (_, End::NeedsPerson) => true,
            (Self::Placed, End::Completed | End::Undone(_)) => true,
            (Self::Cancelled, End::Undone(code)) => code == "cancelled",
            (Self::TooLate, End::Undone(code)) => code != "cancelled",
            (Self::TooLate, End::Completed) => true,
            (Self::Placed | Self::TooLate, End::Never) | (Self::Cancelled, End::Never | End::Completed) => {
                false
            }
        }
    }
}

fn end(view: Option<&order::View>, account: &Account, has_forged: bool) -> Result<End, &'static str> {
    if account.captures.len() > 1 {
        return Err("money was taken twice");
    }
    if account.refunds.len() > 1 {
        return Err("money was given back twice");
    }
    let Some(view) = view else {
        return match *account == Account::default() {
            true => Ok(End::Never),
            false => Err("the bank knows what nobody accepted"),
        };
    };
    if view.attention.is_some() {
        return if has_forged { Ok(End::NeedsPerson) } else { Err("a person is needed") };
    }
    match view.status {
        Status::Pending => Err("a purchase has not ended"),
        Status::Completed => Ok(End::Completed),
        Status::Failed | Status::Cancelled => {
            let code = view.failure.as_ref().map(|failure| failure.code.clone()).unwrap_or_default();
            match code.as_str() {
                "payment_declined" if !account.has_declined && !has_forged => {
                    Err("the bank never declined what is said to be declined")
                }
                "refused" if !has_forged => Err("a refusal that nobody gave"),
                _ => Ok(End::Undone(code)),
            }
        }
    }
}
