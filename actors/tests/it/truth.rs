//! What must be true when a play is over.

use std::collections::{BTreeMap, HashMap};

use souk_actors::Id;
use souk_actors::order::{self, Order, Status};
use souk_actors::payment;
use souk_actors::product::Product;
use uuid::Uuid;

use crate::bank::Account;
use crate::stage::Stage;

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
    /// The plot itself refused something: what was refused need not be found in anybody's books.
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

/// How each purchase ended, if everything is as it must be.
pub async fn ends(stage: &Stage, cast: &Cast) -> Result<BTreeMap<Id<Order>, End>, String> {
    let books = stage.bank.books();
    dense(stage)?;
    let mut ends = BTreeMap::new();
    let mut taken: HashMap<Id<Product>, i64> = HashMap::new();
    let mut kept: HashMap<Id<Product>, i64> = HashMap::new();
    for id in &cast.orders {
        let view = stage.order(*id).await;
        let account = books.get(&id.uuid()).cloned().unwrap_or_default();
        let end = match &view {
            None if account == Account::default() => End::Never,
            None => return Err(format!("the bank knows {id}, which nobody accepted: {account:?}")),
            Some(view) => {
                let payment = stage.payment(*id).await;
                let end = end(view, payment.as_ref(), &account, cast.has_forged).map_err(|broken| {
                    format!("{broken}: order {id} {view:#?}\npayment {payment:?}\nbank {account:?}")
                })?;
                match end {
                    End::Completed => {
                        for line in &view.lines {
                            *taken.entry(line.product).or_default() += i64::from(line.quantity);
                        }
                    }
                    End::NeedsPerson => {
                        let items = view.items.iter().map(|item| (item.product, item.quantity));
                        let lines = view.lines.iter().map(|line| (line.product, line.quantity));
                        for (product, quantity) in items.chain(lines) {
                            *kept.entry(product).or_default() += i64::from(quantity);
                        }
                    }
                    End::Never | End::Undone(_) => {}
                }
                end
            }
        };
        ends.insert(*id, end);
    }
    for key in books.keys() {
        if !cast.orders.iter().any(|id| id.uuid() == *key) {
            return Err(format!("the bank knows {key}, which nobody asked for"));
        }
    }
    for (id, stock) in &cast.products {
        let view = stage.product(*id).await.ok_or("a product is gone")?;
        let (sold, held) = (taken.get(id).copied().unwrap_or(0), kept.get(id).copied().unwrap_or(0));
        // What waits for a person may be held, or released, and is never lost.
        let is_held = (0..=held).contains(&view.held);
        if view.inventory + view.held != stock - sold || !is_held {
            return Err(format!("of product {id} there were {stock}, {sold} were sold: {view:?}"));
        }
    }
    for (id, promise) in &cast.promises {
        let is_kept = match (promise, &ends[id]) {
            (Promise::Placed, End::Never) => false,
            (Promise::Placed, End::Completed | End::Undone(_) | End::NeedsPerson) => true,
            (Promise::Cancelled, End::Undone(code)) => code == "cancelled",
            (Promise::TooLate, End::Undone(code)) => code != "cancelled",
            (Promise::TooLate, End::Completed) => true,
            (_, End::NeedsPerson) => true,
            (Promise::Cancelled, End::Never | End::Completed) | (Promise::TooLate, End::Never) => false,
        };
        if !is_kept {
            return Err(format!("{promise:?} was promised of {id}, which ended as {:?}", ends[id]));
        }
    }
    Ok(ends)
}

/// The versions of each stream are dense from 1.
fn dense(stage: &Stage) -> Result<(), String> {
    for journal in &stage.journals {
        let mut versions: HashMap<Uuid, i32> = HashMap::new();
        for (stream, row) in journal.history() {
            let version = versions.entry(stream).or_default();
            *version += 1;
            if *version != row.version {
                return Err(format!("stream {stream} goes to {} where {version} is next", row.version));
            }
        }
    }
    Ok(())
}

fn end(
    view: &order::View,
    payment: Option<&payment::View>,
    account: &Account,
    has_forged: bool,
) -> Result<End, &'static str> {
    if account.captures.len() > 1 {
        return Err("money was taken twice");
    }
    if account.refunds.len() > 1 {
        return Err("money was given back twice");
    }
    if view.attention.is_some() {
        return Ok(End::NeedsPerson);
    }
    if !view.at_rest {
        return Err("a purchase has not ended");
    }
    let total: i64 = view.lines.iter().map(|line| line.price * i64::from(line.quantity)).sum();
    if view.amount.is_some_and(|amount| amount != total) {
        return Err("the amount is not that of its lines");
    }
    match view.status {
        Status::Pending => Err("a purchase is at rest and pending"),
        Status::Completed => {
            if payment.map(|payment| payment.status) != Some(payment::Status::Captured) {
                return Err("a completed purchase is not paid");
            }
            if Some(account.captured()) != view.amount || account.refunded() != 0 {
                return Err("a completed purchase was not charged its amount");
            }
            Ok(End::Completed)
        }
        Status::Failed | Status::Cancelled => {
            if account.captured() != account.refunded() {
                return Err("money is kept for what was undone");
            }
            if payment.is_some_and(|payment| payment.status != payment::Status::Voided) {
                return Err("a purchase was undone, and its payment was not");
            }
            if payment.is_some_and(|payment| {
                (payment.captured_amount, payment.refunded_amount) != (account.captured(), account.refunded())
            }) {
                return Err("the payment tells another story than the bank");
            }
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
