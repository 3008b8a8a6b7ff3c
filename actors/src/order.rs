//! The purchase: a saga that is an aggregate. Start reading here.
//!
//! A purchase is accepted, its stock is reserved, it is paid, and it is complete; or it turns round and
//! what was done is undone. Every race (cancel, deadline, refusal, completion) is decided in this stream
//! and nowhere else: the pivot is its own event [`Event::Completed`]. What the purchase owes the world is
//! derived from where it stands ([`Order::effects`]), so a purchase that is loaded after a crash simply
//! carries on; there is no other recovery.
//!
//! Who carries effects out: [`crate::world`]. Who hosts this: [`crate::entity`].

mod cause;
mod outside;
mod owed;
mod view;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::mutant::{self, Mutant};
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::category::Category;
use crate::ids::Id;
use crate::money::{self, Currency};
use crate::product::Product;
use crate::saga::{Answered, Direction, Progress, Step, Turn};

use owed::{charge, release_stock, reserve_stock, void};

pub use cause::Cause;
pub use outside::{Asked, Outside, Reply};
pub use owed::{Effect, Terms, step_of};
pub use view::{Attention, Failure, Status, StepName, StepStatus, TrailEntry, View};

/// The definition that new orders begin with. An old one stays in the code while orders run on it.
pub const DEFINITION: u16 = 1;

const RESERVE: usize = 0;
const CHARGE: usize = 1;

/// The saga. `CREATE_ORDER`, the third step that clients know, is this stream itself.
const STEPS: [Step<Order, StepName, Effect>; 2] = [
    Step::new(StepName::UpdateProductInventory, reserve_stock).undo(release_stock),
    Step::new(StepName::CreatePayment, charge).undo(void),
    // Pivot: Completed. Afterwards the order owes Settle, which cannot be refused and nobody waits for.
];

/// A purchase and the order that it makes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Order {
    accepted: Option<Accepted>,
    lines: Vec<Line>,
    amount: Option<i64>,
    progress: Option<Progress<Cause>>,
    attention: Option<Attention>,
    trail: Vec<TrailEntry>,
    /// What was asked of participants outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    asked: Vec<Asked>,
    /// Loaded: the incarnation that accepted it may have charged without a row (see [`Order::may_wait`]).
    #[serde(skip)]
    is_reloaded: bool,
}

/// What was ordered, by whom, until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The saga definition that it began with.
    pub definition: u16,
    /// Whose order it is.
    pub customer: Id<Account>,
    /// One per product.
    pub items: Vec<Item>,
    /// In which the products must be priced.
    pub currency: Currency,
    /// What the buyer pays with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Hash of the request, where an idempotency key names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When it was accepted.
    pub at: Timestamp,
    /// Past this, stock is not reserved and money not charged any more.
    pub reserve_by: Timestamp,
    /// Who of its participants is outside: whatever the settings say later.
    #[serde(default, skip_serializing_if = "Outside::is_nobody")]
    pub outside: Outside,
    /// The W3C `traceparent` of the request, for whoever is told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// So many of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What.
    pub product: Id<Product>,
    /// How many, 1 to 1,000,000.
    pub quantity: u32,
}

/// A line as it was when its stock was reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What.
    pub product: Id<Product>,
    /// How many.
    pub quantity: u32,
    /// Of one, in minor units: what is charged.
    pub price: i64,
    /// Its category then.
    pub category: Id<Category>,
    /// Its name then.
    pub name: String,
    /// Its brand then.
    pub brand: String,
}

/// What an order can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Buy.
    Place(Place),
    /// The customer does not want it any more.
    Cancel {
        /// Who says so.
        by: Id<Account>,
        /// Why.
        reason: Option<String>,
    },
    /// A step, or an undo, was answered.
    StepAnswered {
        /// Which.
        step: usize,
        /// Which way it was asked.
        direction: Direction,
        /// What was said.
        outcome: Outcome,
    },
    /// It is time to ask somebody outside, who was asked so often before.
    Ask {
        /// For which step.
        step: usize,
        /// Which way.
        direction: Direction,
        /// How often it was asked.
        attempt: u32,
    },
    /// Somebody outside has answered.
    Replied {
        /// For which step.
        step: StepName,
        /// What was said.
        reply: Reply,
    },
}

/// A request to buy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Who buys.
    pub customer: Id<Account>,
    /// What: one per product, 1 to 100.
    pub items: Vec<Item>,
    /// In which currency.
    pub currency: Currency,
    /// What is paid with.
    pub token: Option<String>,
    /// Hash of the request, where an idempotency key names it.
    pub fingerprint: Option<String>,
    /// How long stock may take to be reserved and money to be charged.
    pub patience: Duration,
    /// The door knows that this cannot be bought. It is refused only if the order does not exist: what
    /// was sold out or withdrawn since must not hide a purchase that was made.
    pub impossible: bool,
    /// Who of its participants is outside.
    #[serde(default)]
    pub outside: Outside,
    /// The W3C `traceparent` of the request.
    #[serde(default)]
    pub trace: Option<String>,
}

/// What a step was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All stock is held, at these prices.
    Reserved(Vec<Line>),
    /// The money is ours.
    Charged,
    /// The undo is done.
    Undone,
    /// It did not happen and will not.
    Refused(Cause),
    /// Nobody knows.
    Unknown,
}

/// What an order says to a command that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is accepted, now or before.
    Placed {
        /// As it stands.
        status: Status,
        /// When it was accepted.
        at: Timestamp,
        /// It was accepted before.
        replayed: bool,
    },
    /// It will be undone.
    Cancelled,
    /// The answer of the step is noted, or no longer fits.
    Noted,
}

/// Why an order does not take a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// No such order, or somebody else's.
    NotFound,
    /// Its end is decided otherwise.
    TooLate,
    /// The idempotency key names an order of another body.
    KeyReused,
    /// What the door knew, and no order exists.
    Impossible,
    /// What was answered cannot be.
    Disbelieved {
        /// Why.
        detail: String,
    },
}

/// What happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Accepted(Accepted),
    /// Step one is done.
    StockReserved {
        /// At these prices.
        lines: Vec<Line>,
        /// Their total, in minor units.
        amount: i64,
    },
    /// Step two is done; the purchase is complete.
    Completed,
    /// It turns round, beginning with `step`.
    Unwinding {
        /// The step in doubt.
        step: usize,
        /// Why.
        cause: Cause,
    },
    /// Somebody outside is asked.
    Asked {
        /// For which step.
        step: usize,
        /// Which way.
        direction: Direction,
        /// For the how manieth time, from 1.
        attempt: u32,
    },
    /// The step is taken back.
    Undone {
        /// Which.
        step: usize,
    },
    /// A person must look.
    AttentionNeeded {
        /// The step whose undo was refused.
        step: usize,
        /// What was said.
        detail: String,
    },
}

impl Order {
    /// What was accepted; `None`: nothing was.
    pub fn accepted(&self) -> Option<&Accepted> {
        self.accepted.as_ref()
    }

    /// What was reserved; empty before.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The total, once it is known.
    pub fn amount(&self) -> Option<i64> {
        self.amount
    }

    /// What happened to each step, in order.
    pub fn trail(&self) -> &[TrailEntry] {
        &self.trail
    }

    /// Why it turned round; `None`: it did not.
    pub fn cause(&self) -> Option<&Cause> {
        match &self.progress {
            Some(Progress::Unwinding { cause, .. } | Progress::Unwound { cause }) => Some(cause),
            None | Some(Progress::Forward { .. } | Progress::Completed) => None,
        }
    }

    fn known(&self) -> &Accepted {
        self.accepted.as_ref().expect("an order has steps only once it is accepted")
    }

    fn status(&self) -> Status {
        match &self.progress {
            None | Some(Progress::Forward { .. }) => Status::Pending,
            Some(Progress::Completed) => Status::Completed,
            Some(Progress::Unwinding { cause, .. } | Progress::Unwound { cause }) => match cause {
                Cause::Cancelled { .. } => Status::Cancelled,
                Cause::InsufficientStock { .. }
                | Cause::ProductNotFound { .. }
                | Cause::CurrencyMismatch { .. }
                | Cause::PaymentDeclined { .. }
                | Cause::DeadlineExceeded
                | Cause::Refused { .. } => Status::Failed,
            },
        }
    }

    fn place(&self, at: Timestamp, place: &Place) -> Decision<Self> {
        let Some(accepted) = &self.accepted else {
            if place.impossible {
                return Decision::reject(Rejection::Impossible);
            }
            let accepted = Accepted {
                definition: DEFINITION,
                customer: place.customer,
                items: place.items.clone(),
                currency: place.currency,
                token: place.token.clone(),
                fingerprint: place.fingerprint.clone(),
                at,
                reserve_by: at + place.patience,
                outside: place.outside,
                trace: place.trace.clone(),
            };
            let answer = Answer::Placed { status: Status::Pending, at, replayed: false };
            return Decision::event(Event::Accepted(accepted), answer);
        };
        if accepted.fingerprint != place.fingerprint || accepted.customer != place.customer {
            return Decision::reject(Rejection::KeyReused);
        }
        Decision::answer(Answer::Placed { status: self.status(), at: accepted.at, replayed: true })
    }

    fn cancel(&self, by: Id<Account>, reason: Option<&String>) -> Decision<Self> {
        let Some(progress) = self.progress.as_ref().filter(|_| self.known().customer == by) else {
            return Decision::reject(Rejection::NotFound);
        };
        match progress {
            Progress::Forward { step } => {
                let cause = Cause::Cancelled { reason: reason.cloned() };
                Decision::event(self.unwinding(*step, cause), Answer::Cancelled)
            }
            Progress::Unwinding { cause, .. } | Progress::Unwound { cause } => match cause {
                Cause::Cancelled { .. } => Decision::answer(Answer::Cancelled),
                Cause::InsufficientStock { .. }
                | Cause::ProductNotFound { .. }
                | Cause::CurrencyMismatch { .. }
                | Cause::PaymentDeclined { .. }
                | Cause::DeadlineExceeded
                | Cause::Refused { .. } => Decision::reject(Rejection::TooLate),
            },
            Progress::Completed => Decision::reject(Rejection::TooLate),
        }
    }

    fn step_answered(
        &self,
        at: Timestamp,
        step: usize,
        direction: Direction,
        outcome: &Outcome,
    ) -> Vec<Event> {
        let Some(progress) = &self.progress else { return Vec::new() };
        let answered = match outcome {
            Outcome::Reserved(_) | Outcome::Charged | Outcome::Undone => Answered::Yes,
            Outcome::Refused(cause) => Answered::No(cause.clone()),
            Outcome::Unknown if mutant::is(Mutant::SilenceIsRefusal) => {
                Answered::No(Cause::Refused { detail: "silence".to_owned() })
            }
            Outcome::Unknown => Answered::Unknown,
        };
        let expired = (at >= self.known().reserve_by).then_some(Cause::DeadlineExceeded);
        match progress.turn(step, direction, answered, expired) {
            Turn::Advance => match outcome {
                Outcome::Reserved(lines) => self.reserved(lines),
                Outcome::Charged => vec![Event::Completed],
                Outcome::Undone | Outcome::Refused(_) | Outcome::Unknown => Vec::new(),
            },
            Turn::TurnRound { step, cause } => vec![self.unwinding(step, cause)],
            Turn::Undone => vec![Event::Undone { step }],
            Turn::NeedsPerson(_) if self.attention.is_some() => Vec::new(),
            Turn::NeedsPerson(cause) => vec![Event::AttentionNeeded { step, detail: cause.detail() }],
            Turn::Nothing => Vec::new(),
        }
    }

    fn reserved(&self, lines: &[Line]) -> Vec<Event> {
        match money::total(lines.iter().map(|line| (line.price, line.quantity))) {
            Some(amount) => vec![Event::StockReserved { lines: lines.to_vec(), amount }],
            None => {
                let cause = Cause::Refused { detail: "the total exceeds every bound".to_owned() };
                vec![self.unwinding(RESERVE, cause)]
            }
        }
    }

    /// Turns round at `step`. A loaded order undoes every step, whatever is written: the incarnation that
    /// accepted it may have gone further, or may yet, and only the mark of an undo stops it.
    fn unwinding(&self, step: usize, cause: Cause) -> Event {
        let undoes_all = self.is_reloaded && !mutant::is(Mutant::ReloadedUndoesLess);
        let first = if undoes_all { self.furthest(step) } else { step };
        let skipped = usize::from(mutant::is(Mutant::UndoTooEarly));
        Event::Unwinding { step: first.saturating_sub(skipped), cause }
    }

    fn note(&mut self, at: Timestamp, step: StepName, status: StepStatus, detail: Option<String>) {
        self.trail.push(TrailEntry { step, status, created_at: at, detail });
    }
}

impl Aggregate for Order {
    const KIND: Kind = Kind::Order;
    const SNAPSHOT_EVERY: u32 = 0;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Rejection;
    type Event = Event;
    type Effect = Effect;
    type View = Option<View>;

    fn decide(&self, at: Timestamp, command: &Command) -> Decision<Self> {
        match command {
            Command::Place(place) => self.place(at, place),
            Command::Cancel { by, reason } => self.cancel(*by, reason.as_ref()),
            Command::StepAnswered { step, direction, outcome } => {
                let events = self.step_answered(at, *step, *direction, outcome);
                Decision::Done { events, answer: Ok(Answer::Noted) }
            }
            Command::Ask { step, direction, attempt } => {
                let events = self.ask(at, *step, *direction, *attempt);
                Decision::Done { events, answer: Ok(Answer::Noted) }
            }
            Command::Replied { step, reply } => match self.replied(at, *step, reply) {
                Ok(events) => Decision::Done { events, answer: Ok(Answer::Noted) },
                Err(rejection) => Decision::reject(rejection),
            },
        }
    }

    fn begins(command: &Command) -> bool {
        match command {
            Command::Place(_) => true,
            Command::Cancel { .. }
            | Command::StepAnswered { .. }
            | Command::Ask { .. }
            | Command::Replied { .. } => false,
        }
    }

    fn apply(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Accepted(accepted) => {
                self.accepted = Some(accepted.clone());
                self.progress = Some(Progress::Forward { step: RESERVE });
                self.note(at, STEPS[RESERVE].name, StepStatus::Execute, None);
            }
            Event::StockReserved { lines, amount } => {
                self.lines.clone_from(lines);
                self.amount = Some(*amount);
                self.progress = Some(Progress::Forward { step: CHARGE });
                self.note(at, STEPS[RESERVE].name, StepStatus::Success, None);
                self.note(at, StepName::CreateOrder, StepStatus::Success, None);
                self.note(at, STEPS[CHARGE].name, StepStatus::Execute, None);
            }
            Event::Completed => {
                self.progress = Some(Progress::Completed);
                self.note(at, STEPS[CHARGE].name, StepStatus::Success, None);
            }
            Event::Unwinding { step, cause } => {
                let stood_at = match self.progress {
                    Some(Progress::Forward { step }) => step,
                    None
                    | Some(Progress::Unwinding { .. } | Progress::Completed | Progress::Unwound { .. }) => {
                        *step
                    }
                };
                self.progress = Some(Progress::Unwinding { step: *step, cause: cause.clone() });
                let detail = Some(cause.code().to_owned());
                self.note(at, STEPS[stood_at].name, StepStatus::Failed, detail);
            }
            Event::Asked { step, direction, attempt } => self.asks(at, *step, *direction, *attempt),
            Event::Undone { step } => {
                self.attention = None;
                self.note(at, STEPS[*step].name, StepStatus::Rollback, None);
                let Some(Progress::Unwinding { cause, .. }) = self.progress.take() else { return };
                self.progress = Some(match step.checked_sub(1) {
                    Some(step) => {
                        self.note(at, StepName::CreateOrder, StepStatus::Rollback, None);
                        Progress::Unwinding { step, cause }
                    }
                    None => Progress::Unwound { cause },
                });
            }
            Event::AttentionNeeded { step, detail } => {
                let name = STEPS[*step].name;
                self.note(at, name, StepStatus::RollbackFailed, Some(detail.clone()));
                self.attention = Some(Attention { step: name, since: at, detail: detail.clone() });
            }
        }
    }

    /// The holds keep their prices, so a loaded order that asks again is told the same; and whatever it was
    /// not told, its unwinding takes back.
    fn may_wait(event: &Event) -> bool {
        match event {
            Event::StockReserved { .. } => true,
            Event::Accepted(_)
            | Event::Completed
            | Event::Unwinding { .. }
            | Event::Asked { .. }
            | Event::Undone { .. }
            | Event::AttentionNeeded { .. } => false,
        }
    }

    fn reloaded(&mut self) {
        self.is_reloaded = true;
    }

    fn effects(&self) -> Vec<(Timestamp, Effect)> {
        self.owed_effect().map(|effect| (self.owed_from(&effect), effect)).into_iter().collect()
    }

    fn effect_name(effect: &Effect) -> &'static str {
        match effect {
            Effect::Reserve { .. } => "reserve",
            Effect::Release { .. } => "release",
            Effect::Charge(_) => "charge",
            Effect::Void(_) => "void",
            Effect::AskOutside { step: RESERVE, direction: Direction::Forward, .. } => "ask_reserve",
            Effect::AskOutside { step: RESERVE, direction: Direction::Undo, .. } => "ask_release",
            Effect::AskOutside { direction: Direction::Forward, .. } => "ask_charge",
            Effect::AskOutside { direction: Direction::Undo, .. } => "ask_void",
            Effect::Settle { .. } => "settle",
        }
    }

    fn view(&self) -> Option<View> {
        let accepted = self.accepted.as_ref()?;
        let failure =
            self.cause().map(|cause| Failure { code: cause.code().to_owned(), detail: cause.detail() });
        Some(View {
            status: self.status(),
            currency_code: accepted.currency,
            items: if self.lines.is_empty() { accepted.items.clone() } else { Vec::new() },
            lines: self.lines.clone(),
            amount: self.amount,
            steps: self.trail.clone(),
            failure,
            attention: self.attention.clone(),
            at_rest: matches!(self.progress, Some(Progress::Completed | Progress::Unwound { .. })),
        })
    }

    fn owner(&self) -> Option<Uuid> {
        self.accepted.as_ref().map(|accepted| accepted.customer.uuid())
    }
}

#[cfg(test)]
pub(crate) mod tests;
