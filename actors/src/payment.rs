//! A payment: what the provider did for an order, and what must be given back.
//!
//! It has the order's id, which is also the provider's key. The order's row is the durable intent, so a
//! charge needs no row of its own before it: the provider is asked first, and its word is the first row.
//! A void succeeds in every state. What must be given back the payment then owes: it looks at the provider
//! (which may refuse and still charge, or execute late) and refunds what it finds, whenever it finds it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::mutant::{self, Mutant};
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::ids::Id;
use crate::money::Currency;

/// A payment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Payment {
    bill: Option<Bill>,
    charge: Option<Charge>,
    void: Option<Void>,
}

/// What is to be paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// By whom.
    pub customer: Id<Account>,
    /// In minor units. 0 where an order takes back what it may have asked and never wrote down.
    pub amount: i64,
    /// ISO 4217.
    pub currency: Currency,
    /// Not charged past this.
    pub reserve_by: Timestamp,
}

/// What the provider said to the charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charge {
    /// The money is ours.
    Captured {
        /// The provider's name of the charge.
        reference: String,
    },
    /// Refused.
    Declined {
        /// In the provider's words.
        reason: String,
    },
}

/// The payment is taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Void {
    at: Timestamp,
    /// When the provider was last looked at, with nothing found.
    looked: Option<Timestamp>,
    /// Until when a request that was under way may still be executed.
    in_doubt_until: Timestamp,
    /// What had been captured, in minor units.
    captured: Option<i64>,
    refunded: bool,
}

/// What a payment can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Charge the customer.
    Charge {
        /// What.
        bill: Bill,
        /// With what.
        token: Option<String>,
    },
    /// Take it back, whatever became of it.
    Void {
        /// What was to be paid.
        bill: Bill,
        /// For how long a request to the provider may be under way.
        settles_within: Duration,
    },
    /// The provider answered the charge.
    Answered {
        /// Of this.
        bill: Bill,
        /// What.
        charge: Option<Charge>,
    },
    /// The provider was looked at.
    Looked {
        /// The answer came.
        answered: bool,
        /// What was captured, in minor units.
        captured: Option<i64>,
    },
    /// The provider was asked to give the money back.
    Refunded {
        /// It did.
        done: bool,
    },
}

/// What a payment says to a command that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The money is ours.
    Captured,
    /// The payment is taken back: what was captured is or will be refunded.
    Voided,
    /// Noted, or it no longer fits.
    Noted,
}

/// Why a payment does not take a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// By the provider.
    Declined {
        /// In its words.
        reason: String,
    },
    /// It was taken back before.
    Voided,
    /// Another amount or currency than the one that was charged.
    OtherBill,
}

/// What happened to a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The provider captured it.
    Captured {
        /// What.
        bill: Bill,
        /// The provider's name of the charge.
        reference: String,
    },
    /// The provider declined it.
    Declined {
        /// What.
        bill: Bill,
        /// In the provider's words.
        reason: String,
    },
    /// It is taken back.
    Voided {
        /// What was to be paid.
        bill: Bill,
        /// Until when a request that was under way may still be executed.
        in_doubt_until: Timestamp,
    },
    /// The provider was looked at and knows of no capture.
    NothingFound,
    /// The provider captured it after all.
    Found {
        /// In minor units.
        amount: i64,
    },
    /// What was captured is given back.
    Refunded,
}

/// What a payment can owe the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Charge the customer.
    Charge {
        /// What.
        bill: Bill,
        /// With what.
        token: Option<String>,
    },
    /// Look what was captured.
    Look,
    /// Give back what was captured.
    Refund {
        /// In minor units.
        amount: i64,
        /// ISO 4217.
        currency: Currency,
    },
}

/// What is told of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The money is ours.
    Captured,
    /// Refused by the provider.
    Declined,
    /// Taken back.
    Voided,
}

/// What readers see of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Who pays.
    pub customer_id: Id<Account>,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency_code: Currency,
    /// As it stands.
    pub status: Status,
    /// What was captured, in minor units; stays when it is given back.
    pub captured_amount: i64,
    /// What was given back, in minor units.
    pub refunded_amount: i64,
}

impl Payment {
    fn charge(&self, at: Timestamp, bill: &Bill, token: Option<&String>) -> Decision<Self> {
        if self.void.is_some() {
            return Decision::reject(Rejection::Voided);
        }
        let (Some(charge), Some(charged)) = (&self.charge, &self.bill) else {
            return match at >= bill.reserve_by {
                true => Decision::Unknown,
                false => Decision::AskFirst(Effect::Charge { bill: bill.clone(), token: token.cloned() }),
            };
        };
        if (charged.amount, charged.currency) != (bill.amount, bill.currency) {
            return Decision::reject(Rejection::OtherBill);
        }
        match charge {
            Charge::Captured { .. } => Decision::answer(Answer::Captured),
            Charge::Declined { reason } => Decision::reject(Rejection::Declined { reason: reason.clone() }),
        }
    }

    fn answered(&self, bill: &Bill, charge: Option<&Charge>) -> Vec<Event> {
        match (&self.void, &self.charge, charge) {
            (None, None, Some(Charge::Captured { reference })) => {
                vec![Event::Captured { bill: bill.clone(), reference: reference.clone() }]
            }
            (None, None, Some(Charge::Declined { reason })) => {
                vec![Event::Declined { bill: bill.clone(), reason: reason.clone() }]
            }
            (Some(void), _, Some(Charge::Captured { .. })) if void.captured.is_none() => {
                vec![Event::Found { amount: bill.amount }]
            }
            (None | Some(_), None | Some(_), None | Some(_)) => Vec::new(),
        }
    }

    fn looked(&self, answered: bool, captured: Option<i64>) -> Vec<Event> {
        match &self.void {
            Some(void) if answered && void.captured.is_none() => match captured {
                Some(amount) => vec![Event::Found { amount }],
                None => vec![Event::NothingFound],
            },
            Some(_) | None => Vec::new(),
        }
    }

    fn refunded(&self, done: bool) -> Vec<Event> {
        match &self.void {
            Some(void) if done && void.captured.is_some() && !void.refunded => vec![Event::Refunded],
            Some(_) | None => Vec::new(),
        }
    }
}

impl Aggregate for Payment {
    const KIND: Kind = Kind::Payment;
    const SNAPSHOT_EVERY: u32 = 0;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Rejection;
    type Event = Event;
    type Effect = Effect;
    type View = Option<View>;

    fn decide(&self, at: Timestamp, command: &Command) -> Decision<Self> {
        let events = match command {
            Command::Charge { bill, token } => return self.charge(at, bill, token.as_ref()),
            Command::Void { .. } if self.void.is_some() => return Decision::answer(Answer::Voided),
            Command::Void { .. } if mutant::is(Mutant::NoMark) && self.charge.is_none() => {
                return Decision::answer(Answer::Voided);
            }
            Command::Void { bill, settles_within } => {
                let in_doubt_until = bill.reserve_by.max(at) + *settles_within;
                let event = Event::Voided { bill: bill.clone(), in_doubt_until };
                return Decision::event(event, Answer::Voided);
            }
            Command::Answered { bill, charge } => self.answered(bill, charge.as_ref()),
            Command::Looked { answered, captured } => self.looked(*answered, *captured),
            Command::Refunded { done } => self.refunded(*done),
        };
        Decision::Done { events, answer: Ok(Answer::Noted) }
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Captured { bill, reference } => {
                self.bill = Some(bill.clone());
                self.charge = Some(Charge::Captured { reference: reference.clone() });
            }
            Event::Declined { bill, reason } => {
                self.bill = Some(bill.clone());
                self.charge = Some(Charge::Declined { reason: reason.clone() });
            }
            Event::Voided { bill, in_doubt_until } => {
                let bill = self.bill.get_or_insert_with(|| bill.clone());
                let captured = match &self.charge {
                    Some(Charge::Captured { .. }) => Some(bill.amount),
                    Some(Charge::Declined { .. }) | None => None,
                };
                let in_doubt_until = *in_doubt_until;
                self.void = Some(Void { at, looked: None, in_doubt_until, captured, refunded: false });
            }
            Event::NothingFound => {
                if let Some(void) = &mut self.void {
                    void.looked = Some(at);
                }
            }
            Event::Found { amount } => {
                if let (Some(void), Some(bill)) = (&mut self.void, &mut self.bill) {
                    void.captured = Some(*amount);
                    // Of an order that never wrote down what it asked, this is how it is known.
                    bill.amount = if bill.amount == 0 { *amount } else { bill.amount };
                }
            }
            Event::Refunded => {
                if let Some(void) = &mut self.void {
                    void.refunded = true;
                }
            }
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Effect)> {
        let (Some(void), Some(bill)) = (&self.void, &self.bill) else { return Vec::new() };
        match void {
            Void { refunded: true, .. } => Vec::new(),
            Void { captured: Some(amount), .. } => {
                vec![(void.at, Effect::Refund { amount: *amount, currency: bill.currency })]
            }
            Void { looked: None, .. } => vec![(void.at, Effect::Look)],
            // A request that was under way when the mark was made may be executed after the first look.
            Void { looked: Some(looked), .. }
                if *looked < void.in_doubt_until && !mutant::is(Mutant::LooksOnce) =>
            {
                vec![(void.in_doubt_until, Effect::Look)]
            }
            Void { looked: Some(_), .. } => Vec::new(),
        }
    }

    fn effect_name(effect: &Effect) -> &'static str {
        match effect {
            Effect::Charge { .. } => "charge",
            Effect::Look => "look",
            Effect::Refund { .. } => "refund",
        }
    }

    fn view(&self) -> Option<View> {
        let bill = self.bill.as_ref()?;
        let is_captured = matches!(self.charge, Some(Charge::Captured { .. }));
        let (status, captured, refunded) = match &self.void {
            Some(void) => {
                let captured = void.captured.unwrap_or(0);
                (Status::Voided, captured, if void.refunded { captured } else { 0 })
            }
            None if is_captured => (Status::Captured, bill.amount, 0),
            None => (Status::Declined, 0, 0),
        };
        Some(View {
            customer_id: bill.customer,
            amount: bill.amount,
            currency_code: bill.currency,
            status,
            captured_amount: captured,
            refunded_amount: refunded,
        })
    }

    fn owner(&self) -> Option<Uuid> {
        self.bill.as_ref().map(|bill| bill.customer.uuid())
    }
}

#[cfg(test)]
mod tests;
