//! Plays one case of the matrix.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use souk_actors::Id;
use souk_actors::aggregate::Kind;
use souk_actors::directory::AskError;
use souk_actors::fate::{Fate, Moment};
use souk_actors::order::{self, Item, Order};
use souk_actors::payment::{self, Bill};
use souk_actors::product::{self, Claim, Product};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Case, Fault, Place, Scenario, Span};
use crate::bank::{CAPTURED_BUT_DECLINED, DECLINED};
use crate::plot::{self, Action, Plot};
use crate::stage::{ASK, Counts, Node, PRICE, Stage, buyer, cancel, certain, place};
use crate::truth::{Cast, End, Promise, ends};

const STOCK: i64 = 100;
const QUANTITY: u32 = 3;
/// Longer than an ask and a call of the bank may take, and within the deadline of a purchase.
const LATE: Duration = Duration::from_secs(6);
/// Longer than any back-off, undo and second look.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// The plot of a case.
struct Told {
    case: Case,
    node: Arc<Node>,
    began: Cell<Option<Instant>>,
    /// Strikes this entity at its next message of this name.
    aim: Cell<Option<(Kind, Uuid, &'static str, Moment)>>,
    answers_aim: Cell<bool>,
    cancel_is_due: Rc<Notify>,
    /// The fault has befallen; in its place another node takes over.
    has_befallen: Arc<Notify>,
    counts: RefCell<Counts>,
}

impl Told {
    /// Whether this attempt is one that the fault befalls.
    fn is_hit(&self) -> bool {
        match (self.began.get(), self.case.span) {
            (None, Span::Once | Span::For(_)) => {
                self.began.set(Some(Instant::now()));
                true
            }
            (Some(_), Span::Once) => false,
            (Some(began), Span::For(span)) => began.elapsed() < span,
        }
    }

    fn take_over(&self) {
        match self.case.place {
            Place::Same => {}
            Place::Elsewhere => self.node.kill(),
            Place::Both => {}
        }
        self.has_befallen.notify_one();
    }

    /// Dies in the middle: of a node, all of it; else the entity at its next message of this name.
    fn crash(&self, kind: Kind, id: Uuid, message: &'static str, moment: Moment) {
        self.aim.set(Some((kind, id, message, moment)));
    }

    fn fate(&self, action: Action, to: Uuid) -> Fate {
        match self.case.fault {
            Fault::Refused => refusal(action),
            Fault::RequestLost => Fate::RequestLost,
            Fault::AnswerLost => Fate::AnswerLost,
            Fault::Unknown => Fate::Unknown,
            Fault::DoneUnknown => Fate::DoneUnknown,
            Fault::ParticipantCrashesBefore | Fault::ParticipantCrashesAfter => {
                let kind = action.participant().expect("the bank does not crash with us");
                let moment = match self.case.fault {
                    Fault::ParticipantCrashesBefore => Moment::Before,
                    _ => Moment::After,
                };
                self.crash(kind, to, "ask", moment);
                Fate::Delivered
            }
            Fault::AskerCrashesBefore | Fault::AskerCrashesAfter | Fault::AnsweredTwice => {
                self.answers_aim.set(true);
                Fate::Delivered
            }
            Fault::AskedTwice => Fate::Twice,
            Fault::RequestLate => Fate::RequestLate(LATE),
            Fault::AnswerLate => Fate::AnswerLate(LATE),
        }
    }
}

/// In the words of whoever is asked.
fn refusal(action: Action) -> Fate {
    match action {
        Action::Reserve => Fate::Refused(Box::new(product::Rejection::InsufficientStock)),
        Action::Release | Action::Settle => Fate::Refused(Box::new(product::Rejection::NotFound)),
        Action::Charge => Fate::Refused(Box::new(payment::Rejection::Declined { reason: "no".to_owned() })),
        Action::Void => Fate::Refused(Box::new(payment::Rejection::OtherBill)),
        Action::BankCharge => Fate::Refused(Box::new(())),
        Action::Place | Action::Cancel | Action::Look | Action::Refund | Action::Other => Fate::Unknown,
    }
}

impl Plot for Told {
    fn befalls(&self, action: Action, to: Uuid) -> Fate {
        if self.case.scenario.cancels_at() == Some(action) {
            self.cancel_is_due.notify_one();
        }
        if action != self.case.action || !self.is_hit() {
            return Fate::Delivered;
        }
        self.counts.borrow_mut().add(self.case.fault.class());
        let fate = self.fate(action, to);
        if self.aim.get().is_none() && !self.answers_aim.get() {
            self.take_over();
        }
        fate
    }

    fn answers(&self, kind: Kind, to: Uuid, effect: &'static str) -> Fate {
        if self.case.action.effect() != Some((kind, effect)) || !self.answers_aim.take() {
            return Fate::Delivered;
        }
        match self.case.fault {
            Fault::AskerCrashesBefore => self.crash(kind, to, "answered", Moment::Before),
            Fault::AskerCrashesAfter => self.crash(kind, to, "answered", Moment::After),
            _ => {
                self.take_over();
                return Fate::Twice;
            }
        }
        Fate::Delivered
    }

    fn strikes(&self, kind: Kind, id: Uuid, message: &'static str, moment: Moment) -> bool {
        let is_struck = self.aim.get() == Some((kind, id, message, moment));
        if is_struck {
            self.aim.set(None);
            self.take_over();
        }
        is_struck
    }
}

/// The nodes that are open; the newest last.
type Open = Arc<Mutex<Vec<Arc<Node>>>>;

/// Asks at the newest door, again and again, until there is an answer.
pub async fn ask_until_answered(
    open: &Open,
    id: Id<Order>,
    command: order::Command,
) -> Result<order::Answer, order::Rejection> {
    loop {
        let node = open.lock().expect("no panic").last().cloned().expect("a node is open");
        match node.shop.directory().ask(id, command.clone(), Duration::from_secs(3)).await {
            Ok(answer) => return Ok(answer),
            Err(AskError::Rejected(rejection)) => return Err(rejection),
            Err(AskError::Unknown) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Buys, and cancels when it is time; what the buyer was told.
pub async fn buy(
    open: &Open,
    (id, items, token): (Id<Order>, Vec<Item>, Option<&str>),
    cancel_is_due: Option<&Notify>,
) -> Vec<(Id<Order>, Promise)> {
    let mut promises = Vec::new();
    let placing = async { ask_until_answered(open, id, place(items, token)).await.is_ok() };
    let cancelling = async {
        cancel_is_due?.notified().await;
        match ask_until_answered(open, id, cancel()).await {
            Ok(_) => Some((id, Promise::Cancelled)),
            Err(order::Rejection::TooLate) => Some((id, Promise::TooLate)),
            Err(
                order::Rejection::NotFound
                | order::Rejection::KeyReused
                | order::Rejection::Impossible
                | order::Rejection::Disbelieved { .. },
            ) => None,
        }
    };
    let within = Duration::from_secs(60);
    let (placed, cancelled) =
        tokio::join!(tokio::time::timeout(within, placing), tokio::time::timeout(within, cancelling));
    if placed == Ok(true) {
        promises.push((id, Promise::Placed));
    }
    promises.extend(cancelled.ok().flatten());
    promises
}

/// Plays a case: what befell and how many rows each law was judged by, or what is broken.
pub async fn run(case: Case) -> Result<(Counts, Counts), String> {
    let stage = Stage::set();
    let node = stage.open().await;
    let stock = if case.scenario == Scenario::OutOfStock { i64::from(QUANTITY) - 1 } else { STOCK };
    let products = [(stage.offer(&node, STOCK).await, STOCK), (stage.offer(&node, stock).await, stock)];
    let open: Open = Arc::new(Mutex::new(vec![Arc::clone(&node)]));

    let told = Rc::new(Told {
        case,
        node: Arc::clone(&node),
        began: Cell::new(None),
        aim: Cell::new(None),
        answers_aim: Cell::new(false),
        cancel_is_due: Rc::default(),
        has_befallen: Arc::default(),
        counts: RefCell::default(),
    });
    plot::follow(Some(told.clone()));
    let id = stage.order_id();
    let items: Vec<_> = products.map(|(product, _)| Item { product, quantity: QUANTITY }).into();
    let token = match case.scenario {
        Scenario::Declined => Some(DECLINED),
        Scenario::CapturedButDeclined => Some(CAPTURED_BUT_DECLINED),
        Scenario::Plain
        | Scenario::OutOfStock
        | Scenario::CancelledAtReserve
        | Scenario::CancelledAtCharge => None,
    };
    let is_cancelled = matches!(case.scenario, Scenario::CancelledAtReserve | Scenario::CancelledAtCharge);
    let taking_over = async {
        told.has_befallen.notified().await;
        if case.place != Place::Same {
            let another = stage.open().await;
            open.lock().expect("no panic").push(another);
        }
    };
    let cancel_is_due = is_cancelled.then_some(&*told.cancel_is_due);
    let playing = async {
        let promises = buy(&open, (id, items.clone(), token), cancel_is_due).await;
        // Settled is what it is before the fault, too, where that is still to come.
        tokio::time::sleep(Duration::from_secs(20)).await;
        stage.settled(ENDS_WITHIN).await.map(|()| promises)
    };
    let (promises, befell) =
        tokio::join!(playing, tokio::time::timeout(Duration::from_secs(60), taking_over));
    let promises = promises?;
    plot::follow(None);
    if befell.is_err() {
        return Err("the fault never befell".to_owned());
    }
    let has_forged = case.fault == Fault::Refused;
    let cast = Cast { products: products.into(), orders: vec![id], promises, has_forged };
    let judged = ends(&stage, &cast).await?;
    let end = judged[&id].clone();
    expected(case, &cast, &end)?;
    let newest = open.lock().expect("no panic").last().cloned().expect("a node is open");
    if end != End::NeedsPerson {
        aftermath(&stage, &newest, (id, &items), &end).await?;
        if ends(&stage, &cast).await?[&id] != end {
            return Err("a repeated undo or a late action changed what had ended".to_owned());
        }
    }
    for node in open.lock().expect("no panic").iter() {
        let quarantined = node.shop.quarantined();
        if !quarantined.is_empty() {
            return Err(format!("{quarantined:?}"));
        }
    }
    stage.nobody_stays(&newest).await?;
    Ok((told.counts.take(), judged.rows))
}

/// Whether it may end like this.
fn expected(case: Case, cast: &Cast, end: &End) -> Result<(), String> {
    let undone = |code: &str| End::Undone(code.to_owned());
    let is_forward = matches!(case.action, Action::Reserve | Action::Charge | Action::BankCharge);
    let mut fine = match case.scenario {
        Scenario::Plain => vec![End::Completed],
        Scenario::Declined | Scenario::CapturedButDeclined => vec![undone("payment_declined")],
        Scenario::OutOfStock => vec![undone("insufficient_stock")],
        Scenario::CancelledAtReserve | Scenario::CancelledAtCharge => {
            let is_promised = cast.promises.iter().any(|(_, promise)| *promise == Promise::Cancelled);
            // Too late is possible where the cancel itself met the fault.
            if is_promised { vec![undone("cancelled")] } else { vec![End::Completed] }
        }
    };
    if case.fault == Fault::Refused {
        match case.action {
            Action::Reserve => fine.push(undone("insufficient_stock")),
            Action::Charge | Action::BankCharge => fine.push(undone("payment_declined")),
            // Whoever hears it must be alive.
            Action::Release | Action::Void if case.place == Place::Elsewhere => fine.push(End::NeedsPerson),
            Action::Release | Action::Void => fine = vec![End::NeedsPerson],
            Action::Settle => {}
            Action::Place | Action::Cancel | Action::Look | Action::Refund | Action::Other => {
                return Err("there is no such refusal".to_owned());
            }
        }
        if is_forward && case.scenario == Scenario::Plain && case.place != Place::Elsewhere {
            fine.remove(0);
        }
    }
    if is_forward && case.span != Span::Once {
        match (case.scenario, case.fault) {
            // The deadline passes while nobody answers.
            (Scenario::Plain, _) => fine = vec![undone("deadline_exceeded")],
            _ => fine.push(undone("deadline_exceeded")),
        }
    }
    match fine.contains(end) {
        true => Ok(()),
        false => Err(format!("it ended as {end:?}; expected {fine:?}; told {:?}", cast.promises)),
    }
}

/// Repeats each undo twice, and each action late: undone stays undone, and late is refused.
async fn aftermath(
    stage: &Stage,
    node: &Node,
    (id, items): (Id<Order>, &[Item]),
    end: &End,
) -> Result<(), String> {
    let Some(view) = stage.order(id).await else { return Err("the order is gone".to_owned()) };
    let accepted = view.steps.first().map(|entry| entry.created_at).expect("an order has steps");
    let reserve_by = accepted + crate::stage::PATIENCE;
    let claim = Claim { purchase: id, reserve_by };
    let currency = view.currency_code;
    for item in items {
        for _ in 0..2 {
            let command = match end {
                End::Completed => product::Command::Settle(vec![claim]),
                End::Never | End::Undone(_) | End::NeedsPerson => product::Command::Release(claim),
            };
            let answer = certain(node, item.product, command).await;
            if answer.is_err() {
                return Err(format!("a repeated undo was answered {answer:?}"));
            }
        }
        let command = product::Command::Reserve { claim, quantity: item.quantity, currency };
        // Past its deadline nobody knows; before, it is refused.
        let late = node.shop.directory().ask::<Product>(item.product, command, ASK).await;
        if late.is_ok() {
            return Err(format!("a late Reserve was answered {late:?}"));
        }
    }
    let amount = view.amount.unwrap_or(PRICE);
    let bill = Bill { customer: buyer(), amount, currency, reserve_by };
    if view.amount.is_some() && *end != End::Completed {
        for _ in 0..2 {
            let settles_within = Duration::from_secs(30);
            let command = payment::Command::Void { bill: bill.clone(), settles_within };
            let answer = certain(node, id.same::<payment::Payment>(), command).await;
            if answer != Ok(payment::Answer::Voided) {
                return Err(format!("a repeated void was answered {answer:?}"));
            }
        }
        let command = payment::Command::Charge { bill, token: None };
        let late = certain(node, id.same::<payment::Payment>(), command).await;
        if late != Err(payment::Rejection::Voided) {
            return Err(format!("a late charge was answered {late:?}"));
        }
    }
    stage.settled(ENDS_WITHIN).await
}
