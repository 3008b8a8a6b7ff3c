//! A product: its facts, what of it can be bought, and what is held for purchases that are under way.
//!
//! Stock moves three ways. `Reserve` takes it out of what can be bought and holds it under the purchase's
//! id, at the price of that moment. `Release` puts it back, `Settle` lets it go for good. Release and
//! Settle succeed even if no hold was ever made, and leave a mark that refuses a Reserve that arrives
//! late. A mark goes with the first row past its `reserve_by`: from then on the late one is expired,
//! because time never goes back within a stream.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::mutant::{self, Mutant};
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::category::Category;
use crate::ids::Id;
use crate::money::Currency;
use crate::order::Order;

/// A product and its inventory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Product {
    facts: Option<Facts>,
    withdrawn: bool,
    /// How often the facts were changed: what `If-Match` compares.
    revision: u32,
    /// What can be bought: on hand less held.
    available: i64,
    holds: BTreeMap<Id<Order>, Hold>,
    marks: BTreeSet<(Timestamp, Id<Order>)>,
    /// The time of the newest event.
    at: Timestamp,
}

/// What is said about a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Who sells it.
    pub seller: Id<Account>,
    /// Where it stands.
    pub category: Id<Category>,
    /// What it is called.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Who makes it.
    pub brand: String,
    /// Of one, in minor units, 0 to 9·10¹⁰.
    pub price: i64,
    /// ISO 4217; never changes.
    pub currency: Currency,
    /// Hash of the request that made it, where an idempotency key names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Stock that a purchase holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// How many.
    pub quantity: u32,
    /// At which price.
    pub price: i64,
}

/// Names a purchase's hold: its id and its deadline, which every command of the saga carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose.
    pub purchase: Id<Order>,
    /// Past this it is not reserved any more.
    pub reserve_by: Timestamp,
}

/// What a seller changes; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Id<Category>>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// Of one, in minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<i64>,
    /// What can be bought from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<i64>,
}

/// The representation that a change was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The revision it showed.
    pub revision: u32,
    /// The inventory it showed.
    pub inventory: i64,
}

/// What a product can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Offer it.
    Create {
        /// What it is.
        facts: Facts,
        /// How many there are.
        inventory: i64,
    },
    /// Change it.
    Change {
        /// Who says so.
        by: Id<Account>,
        /// What.
        patch: Patch,
        /// From what the seller saw.
        seen: Option<Seen>,
    },
    /// Sell it no more. What is held is still served.
    Withdraw {
        /// Who says so.
        by: Id<Account>,
        /// From what the seller saw.
        seen: Option<Seen>,
    },
    /// Hold stock for a purchase.
    Reserve {
        /// Whose, until when.
        claim: Claim,
        /// How many.
        quantity: u32,
        /// In which currency the buyer pays.
        currency: Currency,
    },
    /// Put a purchase's stock back.
    Release(Claim),
    /// These purchases are complete: their stock is gone.
    Settle(Vec<Claim>),
}

/// What a product says to a command that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It exists, now or before, and stands like this.
    Product {
        /// As readers see it.
        view: Box<View>,
        /// It was made before.
        replayed: bool,
    },
    /// It is sold no more.
    Withdrawn,
    /// The stock is held.
    Reserved(Offer),
    /// The stock is back, or was never taken and will not be.
    Released,
    /// The stock is gone.
    Settled,
}

/// The facts in force for a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Of one, in minor units, as held.
    pub price: i64,
    /// Its category.
    pub category: Id<Category>,
    /// Its name.
    pub name: String,
    /// Its brand.
    pub brand: String,
}

/// Why a product does not take a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// Unknown or withdrawn.
    NotFound,
    /// Priced in another currency.
    CurrencyMismatch,
    /// Less is left than asked for.
    InsufficientStock,
    /// The purchase was undone or settled: its late Reserve is refused.
    Over,
    /// The purchase holds another quantity.
    OtherQuantity,
    /// Not the seller.
    NotTheSeller,
    /// The product has changed since it was seen.
    Changed,
    /// The idempotency key names a product of another body.
    KeyReused,
}

/// What happened to a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It is offered.
    Created {
        /// What it is.
        facts: Facts,
        /// How many there are.
        inventory: i64,
    },
    /// It changed.
    Changed(Patch),
    /// It is sold no more.
    Withdrawn,
    /// Stock is held.
    Reserved {
        /// For whom.
        purchase: Id<Order>,
        /// How many, at which price.
        hold: Hold,
    },
    /// A purchase's stock is back; without a hold, only the mark.
    Released(Claim),
    /// Stock is gone; without a hold, only the mark.
    Settled(Vec<Claim>),
    /// Nothing but time passed: a row that proves it.
    TimePassed,
}

/// What readers see of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Where it stands.
    pub category_id: Id<Category>,
    /// Who sells it.
    pub id_account: Id<Account>,
    /// What it is called.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Who makes it.
    pub brand_name: String,
    /// Of one, in minor units.
    pub price: i64,
    /// ISO 4217.
    pub currency: Currency,
    /// What can be bought.
    pub inventory: i64,
    /// Units held for purchases under way.
    pub held: i64,
    /// How often the facts were changed.
    pub revision: u32,
    /// Withdrawn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl Product {
    /// The facts, if it is there and for sale.
    fn offered(&self) -> Result<&Facts, Rejection> {
        self.facts.as_ref().filter(|_| !self.withdrawn).ok_or(Rejection::NotFound)
    }

    fn create(&self, facts: &Facts, inventory: i64) -> Decision<Self> {
        let Some(made) = &self.facts else {
            let event = Event::Created { facts: facts.clone(), inventory };
            let mut created = Self::default();
            created.apply(Timestamp::default(), &event);
            return Decision::event(event, created.shown(false));
        };
        if made.fingerprint != facts.fingerprint || made.seller != facts.seller {
            return Decision::reject(Rejection::KeyReused);
        }
        Decision::answer(self.shown(true))
    }

    fn shown(&self, replayed: bool) -> Answer {
        let view = self.view().expect("a product that was made has a view");
        Answer::Product { view: Box::new(view), replayed }
    }

    fn sellers(&self, by: Id<Account>, seen: Option<Seen>) -> Result<(), Rejection> {
        if self.offered()?.seller != by {
            return Err(Rejection::NotTheSeller);
        }
        match seen {
            Some(seen) if seen.revision != self.revision => Err(Rejection::Changed),
            Some(_) | None => Ok(()),
        }
    }

    fn change(&self, patch: &Patch, seen: Option<Seen>) -> Decision<Self> {
        let mut patch = patch.clone();
        if seen.is_some_and(|seen| patch.inventory == Some(seen.inventory)) {
            // Read, edited, sent back whole: stock sold in between must not come back.
            patch.inventory = None;
        }
        if patch == Patch::default() {
            return Decision::answer(self.shown(false));
        }
        let mut changed = self.clone();
        let event = Event::Changed(patch);
        changed.apply(self.at, &event);
        Decision::event(event, changed.shown(false))
    }

    fn reserve(&self, at: Timestamp, claim: Claim, quantity: u32, currency: Currency) -> Decision<Self> {
        if mutant::is(Mutant::LateRepeatRefused) && at >= claim.reserve_by {
            return Decision::reject(Rejection::InsufficientStock);
        }
        // What is already so is answered whatever has passed since.
        if self.marks.contains(&(claim.reserve_by, claim.purchase)) {
            return Decision::reject(Rejection::Over);
        }
        if let (Some(hold), Some(facts)) = (self.holds.get(&claim.purchase), &self.facts) {
            if hold.quantity != quantity {
                return Decision::reject(Rejection::OtherQuantity);
            }
            return Decision::answer(Answer::Reserved(facts.offer(hold.price)));
        }
        if at >= claim.reserve_by {
            return Decision::Unknown;
        }
        let facts = match self.offered() {
            Ok(facts) => facts,
            Err(rejection) => return Decision::reject(rejection),
        };
        if facts.currency != currency {
            return Decision::reject(Rejection::CurrencyMismatch);
        }
        if self.available < i64::from(quantity) {
            return Decision::reject(Rejection::InsufficientStock);
        }
        let hold = Hold { quantity, price: facts.price };
        Decision::event(
            Event::Reserved { purchase: claim.purchase, hold },
            Answer::Reserved(facts.offer(facts.price)),
        )
    }

    /// Whether a row must still say that this purchase is over: it holds stock, or neither a mark nor a
    /// later time in the stream refuses its late Reserve yet.
    fn is_open(&self, claim: &Claim) -> bool {
        let is_over = self.marks.contains(&(claim.reserve_by, claim.purchase)) || self.at >= claim.reserve_by;
        self.holds.contains_key(&claim.purchase) || !is_over && !mutant::is(Mutant::NoMark)
    }

    fn finish(&self, at: Timestamp, open: Vec<Claim>, event: Event, answer: Answer) -> Decision<Self> {
        let only_time =
            open.iter().all(|claim| at >= claim.reserve_by && !self.holds.contains_key(&claim.purchase));
        match (open.is_empty(), only_time) {
            (true, _) => Decision::answer(answer),
            (false, true) => Decision::event(Event::TimePassed, answer),
            (false, false) => Decision::event(event, answer),
        }
    }

    fn close(&mut self, at: Timestamp, claim: &Claim) -> Option<Hold> {
        if at < claim.reserve_by {
            self.marks.insert((claim.reserve_by, claim.purchase));
        }
        self.holds.remove(&claim.purchase)
    }
}

impl Facts {
    fn offer(&self, price: i64) -> Offer {
        Offer { price, category: self.category, name: self.name.clone(), brand: self.brand.clone() }
    }

    fn change(&mut self, patch: &Patch) {
        let Patch { category, name, description, brand, price, inventory: _ } = patch.clone();
        self.category = category.unwrap_or(self.category);
        self.price = price.unwrap_or(self.price);
        for (field, value) in
            [(&mut self.name, name), (&mut self.description, description), (&mut self.brand, brand)]
        {
            if let Some(value) = value {
                *field = value;
            }
        }
    }
}

impl Aggregate for Product {
    const KIND: Kind = Kind::Product;
    const SNAPSHOT_EVERY: u32 = 64;
    const RESIDENCE: Residence = Residence::WhileUsed;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Rejection;
    type Event = Event;
    type Effect = std::convert::Infallible;
    type View = Option<View>;

    fn decide(&self, at: Timestamp, command: &Command) -> Decision<Self> {
        match command {
            Command::Create { facts, inventory } => self.create(facts, *inventory),
            Command::Change { by, patch, seen } => match self.sellers(*by, *seen) {
                Ok(()) => self.change(patch, *seen),
                Err(rejection) => Decision::reject(rejection),
            },
            Command::Withdraw { by, seen } => match self.sellers(*by, *seen) {
                Ok(()) => Decision::event(Event::Withdrawn, Answer::Withdrawn),
                Err(rejection) => Decision::reject(rejection),
            },
            Command::Reserve { claim, quantity, currency } => self.reserve(at, *claim, *quantity, *currency),
            Command::Release(claim) => {
                let open = if self.is_open(claim) { vec![*claim] } else { Vec::new() };
                self.finish(at, open, Event::Released(*claim), Answer::Released)
            }
            Command::Settle(claims) => {
                let open: Vec<_> = claims.iter().filter(|claim| self.is_open(claim)).copied().collect();
                self.finish(at, open.clone(), Event::Settled(open), Answer::Settled)
            }
        }
    }

    fn may_repeat(command: &Command) -> bool {
        match command {
            // The second time it is not what was seen, or gone, or somebody else has changed it or bought of it.
            Command::Change { .. } | Command::Withdraw { .. } => false,
            Command::Create { .. } | Command::Reserve { .. } | Command::Release(_) | Command::Settle(_) => {
                true
            }
        }
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        self.at = at;
        while self.marks.first().is_some_and(|(reserve_by, _)| *reserve_by <= at) {
            self.marks.pop_first();
        }
        match event {
            Event::Created { facts, inventory } => {
                self.facts = Some(facts.clone());
                self.available = *inventory;
            }
            Event::Changed(patch) => {
                self.revision = self.revision.saturating_add(1);
                self.available = patch.inventory.unwrap_or(self.available);
                if let Some(facts) = &mut self.facts {
                    facts.change(patch);
                }
            }
            Event::Withdrawn => {
                self.revision = self.revision.saturating_add(1);
                self.withdrawn = true;
            }
            Event::Reserved { purchase, hold } => {
                self.available -= i64::from(hold.quantity);
                self.holds.insert(*purchase, *hold);
            }
            Event::Released(claim) => {
                if let Some(hold) = self.close(at, claim) {
                    self.available = self.available.saturating_add(i64::from(hold.quantity));
                }
            }
            Event::Settled(claims) => {
                for claim in claims {
                    self.close(at, claim);
                }
            }
            Event::TimePassed => {}
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Self::Effect)> {
        Vec::new()
    }

    fn effect_name(effect: &Self::Effect) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> Option<View> {
        let facts = self.facts.as_ref()?;
        Some(View {
            category_id: facts.category,
            id_account: facts.seller,
            name: facts.name.clone(),
            description: facts.description.clone(),
            brand_name: facts.brand.clone(),
            price: facts.price,
            currency: facts.currency,
            inventory: self.available,
            held: self.holds.values().map(|hold| i64::from(hold.quantity)).sum(),
            revision: self.revision,
            gone: self.withdrawn,
        })
    }

    fn owner(&self) -> Option<Uuid> {
        self.facts.as_ref().map(|facts| facts.seller.uuid())
    }
}

#[cfg(test)]
mod tests;
