//! What an order owes the world, derived from where it stands.

use souk_persistence::Timestamp;

use super::{CHARGE, Item, Order, RESERVE, STEPS};
use crate::account::Account;
use crate::ids::Id;
use crate::money::Currency;
use crate::saga::{Direction, Progress};

/// What an order can owe the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask every product for its part.
    Reserve {
        /// What.
        items: Vec<Item>,
        /// Priced in.
        currency: Currency,
        /// Not past this.
        reserve_by: Timestamp,
    },
    /// Take every product's part back.
    Release {
        /// From these.
        items: Vec<Item>,
        /// Names the hold, with the order's id.
        reserve_by: Timestamp,
    },
    /// Charge the customer.
    Charge(Terms),
    /// Take the charge back.
    Void(Terms),
    /// Ask somebody outside.
    AskOutside {
        /// For which step.
        step: usize,
        /// Which way.
        direction: Direction,
        /// How often it was asked.
        attempt: u32,
        /// When first; none: never.
        since: Option<Timestamp>,
    },
    /// Tell every product that its hold is sold.
    Settle {
        /// These.
        items: Vec<Item>,
        /// Names the hold, with the order's id.
        reserve_by: Timestamp,
    },
}

/// What is to be paid.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// By whom.
    pub customer: Id<Account>,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: Currency,
    /// With what.
    pub token: Option<String>,
    /// Not past this.
    pub reserve_by: Timestamp,
}

pub(super) fn reserve_stock(order: &Order) -> Effect {
    let accepted = order.known();
    Effect::Reserve {
        items: accepted.items.clone(),
        currency: accepted.currency,
        reserve_by: accepted.reserve_by,
    }
}

pub(super) fn release_stock(order: &Order) -> Effect {
    let accepted = order.known();
    Effect::Release { items: accepted.items.clone(), reserve_by: accepted.reserve_by }
}

pub(super) fn charge(order: &Order) -> Effect {
    Effect::Charge(order.terms())
}

pub(super) fn void(order: &Order) -> Effect {
    Effect::Void(order.terms())
}

impl Order {
    /// What it owes the world: one thing at a time.
    pub fn owed_effect(&self) -> Option<Effect> {
        let (Some(accepted), Some(progress), None) = (&self.accepted, &self.progress, &self.attention) else {
            return None;
        };
        match progress {
            Progress::Forward { step } => Some(self.effect_of(*step, Direction::Forward)),
            Progress::Unwinding { step, .. } => Some(self.effect_of(*step, Direction::Undo)),
            // Whoever has it outside knows what it gave.
            Progress::Completed if accepted.outside.inventory => None,
            Progress::Completed => {
                Some(Effect::Settle { items: accepted.items.clone(), reserve_by: accepted.reserve_by })
            }
            Progress::Unwound { .. } => None,
        }
    }

    /// When that is owed. What is done here, from the first row on: a row that moves it costs an index entry, and a
    /// node that takes over must carry on at once. Whoever is outside is asked again, later and later.
    pub(super) fn owed_from(&self, effect: &Effect) -> Timestamp {
        let accepted = self.known().at;
        match effect {
            Effect::AskOutside { step, direction, .. } => accepted.max(self.ask_at(*step, *direction)),
            Effect::Reserve { .. }
            | Effect::Release { .. }
            | Effect::Charge(_)
            | Effect::Void(_)
            | Effect::Settle { .. } => accepted,
        }
    }

    fn effect_of(&self, step: usize, direction: Direction) -> Effect {
        if self.is_outside(step) {
            let asked = self.asked(step, direction);
            let (attempt, since) = (asked.map_or(0, |asked| asked.attempt), asked.map(|asked| asked.since));
            return Effect::AskOutside { step, direction, attempt, since };
        }
        self.command_of(step, direction)
    }

    /// What a step asks of whoever does it, here or outside.
    pub fn command_of(&self, step: usize, direction: Direction) -> Effect {
        match direction {
            Direction::Forward => (STEPS[step].ask)(self),
            Direction::Undo => (STEPS[step].undo)(self),
        }
    }

    fn terms(&self) -> Terms {
        let accepted = self.known();
        Terms {
            customer: accepted.customer,
            // Unknown where a loaded order takes back a charge that may have been asked without a row.
            amount: self.amount.unwrap_or(0),
            currency: accepted.currency,
            token: accepted.token.clone(),
            reserve_by: accepted.reserve_by,
        }
    }
}

/// The effect that asks (`step`, `direction`), for whoever reports its answer.
pub fn step_of(effect: &Effect) -> Option<(usize, Direction)> {
    match effect {
        Effect::Reserve { .. } => Some((RESERVE, Direction::Forward)),
        Effect::Release { .. } => Some((RESERVE, Direction::Undo)),
        Effect::Charge(_) => Some((CHARGE, Direction::Forward)),
        Effect::Void(_) => Some((CHARGE, Direction::Undo)),
        Effect::AskOutside { step, direction, .. } => Some((*step, *direction)),
        Effect::Settle { .. } => None,
    }
}
