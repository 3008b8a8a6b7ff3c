//! What a product's history says of its stock, counted by other means than the product does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use uuid::Uuid;

use crate::ids::Id;
use crate::order::Order;
use crate::product::{Event, Hold, View};

/// What became of stock that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Held,
    Settled,
    Released,
}

/// What a purchase took of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub purchase: Uuid,
    /// Its number in [`Stock`].
    pub product: u32,
    pub quantity: u32,
    pub price: i64,
    pub fate: Fate,
}

/// What purchases took of all products, in order of the purchase once it is sorted.
#[derive(Debug, Default)]
pub(super) struct Stock {
    products: Vec<Uuid>,
    taken: Vec<Taken>,
}

impl Stock {
    pub fn add(&mut self, product: Uuid, shelf: Shelf) {
        let number = u32::try_from(self.products.len()).expect("there are fewer than 2³² products");
        self.products.push(product);
        let taken = shelf.taken.into_iter().map(|(purchase, (hold, fate))| {
            let Hold { quantity, price } = hold;
            Taken { purchase: purchase.uuid(), product: number, quantity, price, fate }
        });
        self.taken.extend(taken);
    }

    pub fn sort(&mut self) {
        self.taken.sort_unstable_by_key(|taken| (taken.purchase, taken.product));
    }

    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    pub fn product(&self, taken: &Taken) -> Uuid {
        self.products[taken.product as usize]
    }
}

/// A product's stock, counted from its events. Wide, so that no history makes it overflow.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    put_in: i128,
    available: i128,
    settled: i128,
    taken: HashMap<Id<Order>, (Hold, Fate)>,
    /// The first thing that cannot be.
    oddity: Option<String>,
}

impl Shelf {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Created { inventory, .. } => self.put(*inventory),
            Event::Changed(patch) => patch.inventory.into_iter().for_each(|inventory| self.put(inventory)),
            Event::Reserved { purchase, hold } => self.hold(*purchase, *hold),
            Event::Released(claim) => self.close(claim.purchase, Fate::Released),
            Event::Settled(claims) => {
                claims.iter().for_each(|claim| self.close(claim.purchase, Fate::Settled));
            }
            Event::Withdrawn | Event::TimePassed => {}
        }
        if self.available < 0 {
            self.oddity.get_or_insert_with(|| format!("had {} to sell", self.available));
        }
    }

    /// From now on so much can be bought, whatever there was.
    fn put(&mut self, inventory: i64) {
        self.put_in += i128::from(inventory) - self.available;
        self.available = i128::from(inventory);
    }

    fn hold(&mut self, purchase: Id<Order>, hold: Hold) {
        self.available -= i128::from(hold.quantity);
        match self.taken.entry(purchase) {
            Entry::Vacant(vacant) => drop(vacant.insert((hold, Fate::Held))),
            Entry::Occupied(occupied) => {
                let (_, fate) = occupied.get();
                self.oddity.get_or_insert_with(|| format!("held {purchase} again, which was {fate:?}"));
            }
        }
    }

    fn close(&mut self, purchase: Id<Order>, fate: Fate) {
        // Without a hold it is only a mark.
        let Some((hold, now @ Fate::Held)) = self.taken.get_mut(&purchase) else { return };
        *now = fate;
        match fate {
            Fate::Settled => self.settled += i128::from(hold.quantity),
            Fate::Released | Fate::Held => self.available += i128::from(hold.quantity),
        }
    }

    fn held(&self) -> i128 {
        let held = self.taken.values().filter(|(_, fate)| *fate == Fate::Held);
        held.map(|(hold, _)| i128::from(hold.quantity)).sum()
    }
}

/// What a product tells.
#[derive(Debug)]
pub(super) struct ProductTold {
    pub shelf: Shelf,
    pub view: View,
}

impl ProductTold {
    /// Whether what was put in is what was sold, is left, and is held.
    pub fn conserved(&self) -> Result<(), String> {
        let Self { shelf, view } = self;
        if let Some(oddity) = &shelf.oddity {
            return Err(oddity.clone());
        }
        let (inventory, held) = (i128::from(view.inventory), i128::from(view.held));
        let Shelf { put_in, settled, .. } = shelf;
        if shelf.held() != held {
            return Err(format!("says that {held} are held, and its history that {} are", shelf.held()));
        }
        match put_in - settled == inventory + held {
            true => Ok(()),
            false => Err(format!("got {put_in} and sold {settled}, but has {inventory} and holds {held}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::{Claim, Patch};
    use souk_persistence::Timestamp;

    fn created(inventory: i64) -> Event {
        let event = serde_json::json!({"Created": {"inventory": inventory, "facts": {
            "seller": Uuid::nil(), "category": Uuid::nil(), "name": "", "description": "", "brand": "",
            "price": 7, "currency": "VND"}}});
        serde_json::from_value(event).expect("an event")
    }

    fn order(number: u128) -> Id<Order> {
        Id::from(Uuid::from_u128(number))
    }

    fn claim(number: u128) -> Claim {
        Claim { purchase: order(number), reserve_by: Timestamp::default() }
    }

    fn reserved(number: u128, quantity: u32) -> Event {
        Event::Reserved { purchase: order(number), hold: Hold { quantity, price: 7 } }
    }

    fn changed(inventory: i64) -> Event {
        Event::Changed(Patch { inventory: Some(inventory), ..Patch::default() })
    }

    /// As the product itself would show it after these events, but for what the test says.
    fn told(events: &[Event], inventory: i64, held: i64) -> Result<(), String> {
        let mut shelf = Shelf::default();
        events.iter().for_each(|event| shelf.note(event));
        let view = serde_json::json!({"category_id": Uuid::nil(), "id_account": Uuid::nil(), "name": "",
            "description": "", "brand_name": "", "price": 7, "currency": "VND", "inventory": inventory,
            "held": held, "revision": 0});
        ProductTold { shelf, view: serde_json::from_value(view).expect("a view") }.conserved()
    }

    #[test]
    fn what_was_put_in_is_sold_left_or_held() {
        let history = [
            created(10),
            reserved(1, 4),
            reserved(2, 3),
            reserved(3, 2),
            Event::Released(claim(2)),
            Event::Settled(vec![claim(1), claim(9)]),
            changed(100),
            Event::Released(claim(1)),
        ];
        assert_eq!(told(&history, 100, 2), Ok(()));
        for (inventory, held) in [(101, 2), (99, 2), (100, 3), (102, 0)] {
            assert!(told(&history, inventory, held).is_err(), "{inventory} {held}");
        }
    }

    #[test]
    fn more_than_there_is_cannot_be_held_and_no_purchase_holds_twice() {
        assert!(told(&[created(3), reserved(1, 4)], -1, 4).is_err());
        let after_its_undo = [created(9), reserved(1, 4), Event::Released(claim(1)), reserved(1, 4)];
        assert!(told(&after_its_undo, 5, 4).is_err());
        assert!(told(&[created(9), reserved(1, 4), reserved(1, 4)], 1, 8).is_err());
    }

    #[test]
    fn what_was_taken_comes_in_order_of_the_purchase() {
        let mut stock = Stock::default();
        for (product, purchases) in [(1, [5, 2]), (2, [2, 9])] {
            let mut shelf = Shelf::default();
            shelf.note(&created(100));
            purchases.into_iter().for_each(|purchase| shelf.note(&reserved(purchase, 1)));
            stock.add(Uuid::from_u128(product), shelf);
        }
        stock.sort();
        let taken: Vec<_> = stock
            .taken()
            .iter()
            .map(|taken| (taken.purchase.as_u128(), stock.product(taken).as_u128()))
            .collect();
        assert_eq!(taken, [(2, 1), (2, 2), (5, 1), (9, 2)]);
    }
}
