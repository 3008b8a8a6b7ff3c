//! The books of whoever is outside, and what a liar among them says.

use std::collections::{BTreeMap, HashMap};

use rand::Rng;
use rand::rngs::StdRng;
use souk_actors::Id;
use souk_actors::order::{Cause, Line, Reply};
use souk_actors::product::Product;
use souk_persistence::Timestamp;
use souk_proto::shop::{CreatePayment, UpdateProductInventory};
use uuid::Uuid;

use crate::bank::DECLINED;
use crate::stage::PRICE;

/// What somebody outside has written down: decided once, whatever is asked how often in which order.
#[derive(Default)]
pub struct Ledger {
    pub stock: HashMap<Id<Product>, i64>,
    pub holds: HashMap<Uuid, Hold>,
    pub payments: BTreeMap<Uuid, Paid>,
}

#[derive(Clone)]
pub enum Hold {
    Held(Vec<Line>),
    Refused(Cause),
    Released,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Paid {
    pub captured: i64,
    pub refunded: i64,
    pub is_void: bool,
    pub is_declined: bool,
}

impl Ledger {
    /// Past its deadline something new is neither done nor refused.
    pub fn reserve(&mut self, now: Timestamp, asked: &UpdateProductInventory) -> Option<Reply> {
        let known = self.holds.get(&uuid(&asked.purchase_id)).cloned();
        let hold = match known {
            Some(hold) => hold,
            None if is_past(now, asked.reserve_by) => return None,
            None => {
                let items = asked.order_items.iter().map(|item| {
                    (Id::<Product>::from(uuid(&item.product_id)), u32::try_from(item.quantity).expect("few"))
                });
                let items: Vec<_> = items.collect();
                let lacking = items.iter().find(|(product, count)| self.stock[product] < i64::from(*count));
                let hold = match lacking {
                    Some((product, _)) => Hold::Refused(Cause::InsufficientStock { product: *product }),
                    None => Hold::Held(
                        items.into_iter().map(|(product, count)| self.take(product, count)).collect(),
                    ),
                };
                self.holds.insert(uuid(&asked.purchase_id), hold.clone());
                hold
            }
        };
        Some(match hold {
            Hold::Held(lines) => Reply::Reserved(lines),
            Hold::Refused(cause) => Reply::Refused(cause),
            Hold::Released => Reply::Refused(Cause::Refused { detail: "it was released before".to_owned() }),
        })
    }

    fn take(&mut self, product: Id<Product>, quantity: u32) -> Line {
        *self.stock.get_mut(&product).expect("is known") -= i64::from(quantity);
        let (name, brand) = ("n".to_owned(), "b".to_owned());
        Line { product, quantity, price: PRICE, category: Uuid::from_u128(2).into(), name, brand }
    }

    pub fn release(&mut self, purchase: Uuid) -> Reply {
        if let Some(Hold::Held(lines)) = self.holds.insert(purchase, Hold::Released) {
            for line in lines {
                *self.stock.get_mut(&line.product).expect("is known") += i64::from(line.quantity);
            }
        }
        Reply::RolledBack
    }

    pub fn charge(&mut self, now: Timestamp, asked: &CreatePayment) -> Option<Reply> {
        let purchase = uuid(&asked.purchase_id);
        if !self.payments.contains_key(&purchase) && is_past(now, asked.reserve_by) {
            return None;
        }
        let is_declined = asked.token.as_deref() == Some(DECLINED);
        let captured = if is_declined { 0 } else { asked.amount };
        let fresh = Paid { captured, is_declined, ..Paid::default() };
        let paid = *self.payments.entry(purchase).or_insert(fresh);
        let currency = asked.currency_code.parse().expect("in ISO 4217");
        Some(match (paid.is_void, paid.is_declined) {
            (false, false) => Reply::Captured { amount: paid.captured, currency },
            (_, true) => Reply::Refused(Cause::PaymentDeclined { reason: "declined".to_owned() }),
            (true, false) => Reply::Refused(Cause::PaymentDeclined { reason: "taken back".to_owned() }),
        })
    }

    pub fn void(&mut self, purchase: Uuid) -> Reply {
        let paid = self.payments.entry(purchase).or_default();
        (paid.is_void, paid.refunded) = (true, paid.captured);
        Reply::RolledBack
    }
}

fn uuid(text: &str) -> Uuid {
    text.parse().expect("a UUID")
}

fn is_past(now: Timestamp, deadline: Option<souk_proto::Timestamp>) -> bool {
    let deadline = deadline.expect("a deadline");
    now.micros() >= deadline.seconds * 1_000_000 + i64::from(deadline.nanos) / 1_000
}

/// What a liar says before the truth.
pub fn lie(reply: &Reply, random: &mut StdRng) -> Option<Reply> {
    match reply {
        Reply::Reserved(lines) => {
            let mut lines = lines.clone();
            match random.random_range(0..3) {
                0 => lines[0].quantity += 1,
                1 => lines[0].price = -1,
                _ => lines[0].name = "\0".to_owned(),
            }
            Some(Reply::Reserved(lines))
        }
        Reply::Captured { amount, currency } => {
            Some(Reply::Captured { amount: amount + 1, currency: *currency })
        }
        Reply::RolledBack | Reply::Refused(_) | Reply::RollbackRefused(_) => None,
    }
}
