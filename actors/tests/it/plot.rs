//! Who says what befalls messages, calls of the bank and entities in one test: a plot, told in the words of
//! the saga.

use std::cell::RefCell;
use std::rc::Rc;

use souk_actors::aggregate::Kind;
use souk_actors::fate::{self, Director, Fate, Moment, Sent, What};
use souk_actors::{order, payment, product};
use uuid::Uuid;

/// What can be asked of somebody in the course of a purchase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Place,
    Cancel,
    Reserve,
    Release,
    Settle,
    Charge,
    Void,
    BankCharge,
    Look,
    Refund,
    /// Nothing that belongs to a purchase.
    Other,
}

impl Action {
    fn of(sent: &Sent<'_>) -> Self {
        let What::Ask(command) = sent.what else { return Self::Other };
        if let Some(command) = command.downcast_ref::<order::Command>() {
            return match command {
                order::Command::Place(_) => Self::Place,
                order::Command::Cancel { .. } => Self::Cancel,
                order::Command::StepAnswered { .. }
                | order::Command::Ask { .. }
                | order::Command::Replied { .. } => Self::Other,
            };
        }
        if let Some(command) = command.downcast_ref::<product::Command>() {
            return match command {
                product::Command::Reserve { .. } => Self::Reserve,
                product::Command::Release(_) => Self::Release,
                product::Command::Settle(_) => Self::Settle,
                product::Command::Create { .. }
                | product::Command::Change { .. }
                | product::Command::Withdraw { .. } => Self::Other,
            };
        }
        match command.downcast_ref::<payment::Command>() {
            Some(payment::Command::Charge { .. }) => Self::Charge,
            Some(payment::Command::Void { .. }) => Self::Void,
            Some(
                payment::Command::Answered { .. }
                | payment::Command::Looked { .. }
                | payment::Command::Refunded { .. },
            )
            | None => Self::Other,
        }
    }

    /// As an effect's answer is named by the order or the payment that hears it.
    pub fn effect(self) -> Option<(Kind, &'static str)> {
        match self {
            Self::Reserve => Some((Kind::Order, "reserve")),
            Self::Release => Some((Kind::Order, "release")),
            Self::Charge => Some((Kind::Order, "charge")),
            Self::Void => Some((Kind::Order, "void")),
            Self::BankCharge => Some((Kind::Payment, "charge")),
            Self::Look => Some((Kind::Payment, "look")),
            Self::Refund => Some((Kind::Payment, "refund")),
            Self::Settle | Self::Place | Self::Cancel | Self::Other => None,
        }
    }

    /// The kind of the entity that is asked; `None`: the bank.
    pub fn participant(self) -> Option<Kind> {
        match self {
            Self::Reserve | Self::Release | Self::Settle | Self::Other => Some(Kind::Product),
            Self::Charge | Self::Void => Some(Kind::Payment),
            Self::Place | Self::Cancel => Some(Kind::Order),
            Self::BankCharge | Self::Look | Self::Refund => None,
        }
    }
}

/// Says what befalls.
pub trait Plot {
    /// A request, of an entity or of the bank.
    fn befalls(&self, _action: Action, _to: Uuid) -> Fate {
        Fate::Delivered
    }

    /// The answer to an effect.
    fn answers(&self, _kind: Kind, _to: Uuid, _effect: &'static str) -> Fate {
        Fate::Delivered
    }

    /// An entity that handles a message.
    fn strikes(&self, _kind: Kind, _id: Uuid, _message: &'static str, _moment: Moment) -> bool {
        false
    }
}

struct Directed(Rc<dyn Plot>);

impl Director for Directed {
    fn fate(&self, sent: Sent<'_>) -> Fate {
        match sent.what {
            What::Ask(_) => self.0.befalls(Action::of(&sent), sent.to),
            What::Answer(effect, _) => self.0.answers(sent.kind, sent.to, effect),
        }
    }

    fn strikes(&self, kind: Kind, id: Uuid, message: &'static str, moment: Moment) -> bool {
        self.0.strikes(kind, id, message, moment)
    }
}

thread_local! {
    static PLOT: RefCell<Option<Rc<dyn Plot>>> = const { RefCell::new(None) };
}

/// The plot of this thread from now on; `None`: nothing befalls anybody.
pub fn follow(plot: Option<Rc<dyn Plot>>) {
    fate::direct(plot.clone().map(|plot| Rc::new(Directed(plot)) as Rc<dyn Director>));
    PLOT.set(plot);
}

/// What befalls a call of the bank.
pub fn befalls(action: Action, to: Uuid) -> Fate {
    let plot = PLOT.with_borrow(Clone::clone);
    plot.map_or(Fate::Delivered, |plot| plot.befalls(action, to))
}
