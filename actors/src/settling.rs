//! The collector: tells products which purchases are complete, many at once.
//!
//! A completed order hands its settling over and leaves memory. Once a second, or less often where answers take
//! their time, each product is told all of its settled holds in one command; not all products at the same
//! moment, because their rows would stall the writer. When every product of an order has answered, what the
//! order owes is cleared without a row. Nothing here is durable and nothing needs to be: what is dropped, or
//! fails, is still owed, and the sweep finds it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use souk_persistence::journal::Reschedule;

use crate::directory::Directory;
use crate::ids::Id;
use crate::order::Order;
use crate::product::{self, Claim, Product};
use crate::territory::SlotSet;

/// The most holds that a product is told of in one command.
const CLAIMS_MAX: usize = 1_000;
/// The most products that are being told at once.
const PRODUCTS_AT_ONCE: usize = 64;

/// So many rounds go over all products.
pub const PARTS: usize = 20;

/// What is to be settled on this node.
#[derive(Debug)]
pub struct Collector {
    pending: Mutex<Pending>,
    orders_max: usize,
}

#[derive(Debug, Default)]
struct Pending {
    orders: HashMap<Id<Order>, Unsettled>,
    /// By part, in the order in which they are told, which a simulation must be able to repeat.
    products: [BTreeMap<Id<Product>, Vec<Claim>>; PARTS],
    /// The part of the next round.
    next: usize,
}

#[derive(Debug)]
struct Unsettled {
    version: i32,
    products: HashSet<Id<Product>>,
}

impl Collector {
    /// A collector for at most so many orders.
    pub fn new(orders_max: usize) -> Self {
        Self { pending: Mutex::default(), orders_max }
    }

    /// Takes over an order's settling. Full, or here already: does nothing, the sweep repeats it.
    pub fn take(&self, claim: Claim, version: i32, products: impl Iterator<Item = Id<Product>>) {
        let mut pending = self.lock();
        if pending.orders.len() >= self.orders_max || pending.orders.contains_key(&claim.purchase) {
            return;
        }
        let products: HashSet<_> = products.collect();
        for product in &products {
            pending.products[part(*product)].entry(*product).or_default().push(claim);
        }
        pending.orders.insert(claim.purchase, Unsettled { version, products });
    }

    /// Whether an order's settling is under way here.
    pub fn has(&self, order: Id<Order>) -> bool {
        self.lock().orders.contains_key(&order)
    }

    /// Orders of these slots are another node's to settle.
    pub fn forget(&self, slots: &SlotSet) {
        // Their products may still be told: that a purchase is complete is true whoever says it.
        self.lock().orders.retain(|order, _| !slots.has(order.slot()));
    }

    /// How many orders are to be settled.
    pub fn len(&self) -> usize {
        self.lock().orders.len()
    }

    /// Nothing is to be settled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the products of the next part what has been collected, and clears what their orders owe.
    pub async fn settle(&self, directory: &Directory, within: Duration) {
        let collected = self.lock().take_part();
        let _forget =
            ForgetIfItPanics { collector: self, claims: collected.values().flatten().copied().collect() };
        let batches = collected.into_iter().flat_map(|(product, claims)| {
            let batches: Vec<_> =
                claims.chunks(CLAIMS_MAX).map(|claims| (product, claims.to_vec())).collect();
            batches
        });
        stream::iter(batches)
            .for_each_concurrent(PRODUCTS_AT_ONCE, |(product, claims)| async move {
                let command = product::Command::Settle(claims.clone());
                let is_settled = directory.ask(product, command, within).await.is_ok();
                for change in self.settled(product, &claims, is_settled) {
                    directory.journal::<Order>().reschedule(change);
                }
            })
            .await;
        metrics::gauge!("souk_orders_to_settle").set(self.len() as f64);
    }

    /// What the orders of `claims` owe no more, now that `product` has answered.
    fn settled(&self, product: Id<Product>, claims: &[Claim], is_settled: bool) -> Vec<Reschedule> {
        let mut pending = self.lock();
        let mut cleared = Vec::new();
        for Claim { purchase, .. } in claims {
            let Some(unsettled) = pending.orders.get_mut(purchase) else { continue };
            unsettled.products.remove(&product);
            if is_settled && !unsettled.products.is_empty() {
                continue;
            }
            if is_settled {
                let version = unsettled.version;
                cleared.push(Reschedule { stream: purchase.uuid(), version, owed: None });
            }
            // Unanswered: forgotten here, still owed there.
            pending.orders.remove(purchase);
        }
        cleared
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round that panics has answered nobody: what it took is still owed, and the sweep must see that.
struct ForgetIfItPanics<'a> {
    collector: &'a Collector,
    claims: Vec<Claim>,
}

impl Drop for ForgetIfItPanics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut pending = self.collector.lock();
            for Claim { purchase, .. } in &self.claims {
                pending.orders.remove(purchase);
            }
        }
    }
}

impl Pending {
    fn take_part(&mut self) -> BTreeMap<Id<Product>, Vec<Claim>> {
        let part = self.next;
        self.next = (part + 1) % PARTS;
        std::mem::take(&mut self.products[part])
    }
}

fn part(product: Id<Product>) -> usize {
    (product.uuid().as_u128() % PARTS as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use souk_persistence::Timestamp;
    use uuid::Uuid;

    fn claim(number: u128) -> Claim {
        Claim { purchase: Id::from(Uuid::from_u128(number)), reserve_by: Timestamp::default() }
    }

    fn product(number: u128) -> Id<Product> {
        Id::from(Uuid::from_u128(number))
    }

    #[test]
    fn an_order_is_cleared_when_its_last_product_has_answered() {
        let collector = Collector::new(10);
        collector.take(claim(1), 3, [product(1), product(2)].into_iter());
        assert_eq!(collector.settled(product(1), &[claim(1)], true), vec![]);
        let cleared = Reschedule { stream: Uuid::from_u128(1), version: 3, owed: None };
        assert_eq!(collector.settled(product(2), &[claim(1)], true), vec![cleared]);
        assert!(collector.is_empty());
    }

    #[test]
    fn an_order_whose_product_does_not_answer_is_left_to_the_sweep() {
        let collector = Collector::new(10);
        collector.take(claim(1), 3, [product(1), product(2)].into_iter());
        assert_eq!(collector.settled(product(1), &[claim(1)], false), vec![]);
        assert_eq!(collector.settled(product(2), &[claim(1)], true), vec![]);
        assert!(!collector.has(claim(1).purchase));
    }

    #[test]
    fn each_product_is_told_in_one_round_of_many() {
        let collector = Collector::new(10);
        collector.take(claim(1), 3, [product(1), product(2)].into_iter());
        let told = |_round| collector.lock().take_part().into_keys().collect::<Vec<_>>();
        let rounds: Vec<_> = (0..PARTS).map(told).collect();
        assert_eq!(rounds.iter().filter(|told| !told.is_empty()).count(), 2);
        assert_eq!(rounds.concat(), [product(1), product(2)]);
    }

    #[test]
    fn orders_that_have_moved_away_are_not_settled_here() {
        let collector = Collector::new(10);
        collector.take(claim(1), 3, [product(1)].into_iter());
        collector.forget(&SlotSet::EVERYTHING);
        assert!(collector.is_empty());
        assert_eq!(collector.settled(product(1), &[claim(1)], true), vec![]);
    }

    #[test]
    fn a_full_collector_drops_what_comes() {
        let collector = Collector::new(1);
        collector.take(claim(1), 3, [product(1)].into_iter());
        collector.take(claim(2), 3, [product(1)].into_iter());
        assert_eq!((collector.len(), collector.has(claim(2).purchase)), (1, false));
    }
}
