use super::*;
use crate::aggregate::given::{given, micros, then, when};

pub(super) const DEADLINE: i64 = 10_000_000;

pub(super) fn customer() -> Id<Account> {
    Id::from(Uuid::from_u128(1))
}

fn product(number: u128) -> Id<Product> {
    Id::from(Uuid::from_u128(number))
}

pub(super) fn dong() -> Currency {
    "VND".parse().expect("in ISO 4217")
}

pub(super) fn place(fingerprint: Option<&str>) -> Place {
    Place {
        customer: customer(),
        items: vec![Item { product: product(10), quantity: 4 }, Item { product: product(11), quantity: 5 }],
        currency: dong(),
        token: None,
        fingerprint: fingerprint.map(str::to_owned),
        patience: Duration::from_secs(10),
        impossible: false,
        outside: Outside::default(),
        trace: None,
    }
}

pub(super) fn lines() -> Vec<Line> {
    let line = |number, quantity, price| Line {
        product: product(number),
        quantity,
        price,
        category: Id::from(Uuid::from_u128(20)),
        name: "Phone".to_owned(),
        brand: "Brand".to_owned(),
    };
    vec![line(10, 4, 125), line(11, 5, 150)]
}

pub(super) fn accepted() -> (i64, Event) {
    let (events, _) = when(&Order::default(), 0, Command::Place(place(Some("a"))));
    (0, events.into_iter().next().expect("accepted"))
}

pub(super) fn reserved() -> (i64, Event) {
    (1, Event::StockReserved { lines: lines(), amount: 1_250 })
}

pub(super) fn unwinding(step: usize, cause: Cause) -> (i64, Event) {
    (2, Event::Unwinding { step, cause })
}

fn undone(step: usize) -> (i64, Event) {
    (3, Event::Undone { step })
}

fn declined() -> Cause {
    Cause::PaymentDeclined { reason: "card_declined".to_owned() }
}

pub(super) fn short() -> Cause {
    Cause::InsufficientStock { product: product(11) }
}

fn cancelled() -> Cause {
    Cause::Cancelled { reason: None }
}

fn forward(step: usize, outcome: Outcome) -> Command {
    Command::StepAnswered { step, direction: Direction::Forward, outcome }
}

fn undo(step: usize, outcome: Outcome) -> Command {
    Command::StepAnswered { step, direction: Direction::Undo, outcome }
}

fn cancel() -> Command {
    Command::Cancel { by: customer(), reason: None }
}

fn owed(order: &Order) -> Vec<&'static str> {
    order.effects().iter().map(|(_, effect)| Order::effect_name(effect)).collect()
}

fn status(order: &Order) -> Status {
    order.view().expect("accepted").status
}

#[test]
fn a_purchase_is_accepted_reserved_charged_and_complete() {
    let mut order = Order::default();
    let answer = then(&mut order, 0, Command::Place(place(None)));
    let placed = Answer::Placed { status: Status::Pending, at: micros(0), replayed: false };
    assert_eq!((answer, owed(&order)), (Ok(placed), vec!["reserve"]));

    let (events, _) = when(&order, 1, forward(RESERVE, Outcome::Reserved(lines())));
    assert_eq!(events, vec![reserved().1]);
    order.apply(micros(1), &events[0]);
    let effects = order.effects();
    let [(_, Effect::Charge(terms))] = effects.as_slice() else { panic!("the charge is owed: {effects:?}") };
    assert_eq!((terms.amount, terms.reserve_by), (1_250, micros(DEADLINE)));

    then(&mut order, 2, forward(CHARGE, Outcome::Charged)).expect("noted");
    assert_eq!((status(&order), owed(&order)), (Status::Completed, vec!["settle"]));
    let steps: Vec<_> =
        order.view().expect("a view").steps.iter().map(|entry| (entry.step, entry.status)).collect();
    let expected = [
        (StepName::UpdateProductInventory, StepStatus::Execute),
        (StepName::UpdateProductInventory, StepStatus::Success),
        (StepName::CreateOrder, StepStatus::Success),
        (StepName::CreatePayment, StepStatus::Execute),
        (StepName::CreatePayment, StepStatus::Success),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn what_is_owed_is_owed_since_acceptance_in_every_row() {
    let rows: [&[(i64, Event)]; 5] = [
        &[accepted()],
        &[accepted(), reserved()],
        &[accepted(), reserved(), (2, Event::Completed)],
        &[accepted(), unwinding(RESERVE, short())],
        &[accepted(), reserved(), unwinding(CHARGE, declined()), undone(CHARGE)],
    ];
    for events in rows {
        let order: Order = given(events);
        assert_eq!(order.effects().iter().map(|(due, _)| *due).collect::<Vec<_>>(), vec![micros(0)]);
    }
}

#[test]
fn short_stock_unwinds_beginning_with_the_reservation_itself() {
    let mut order: Order = given(&[accepted()]);
    let (events, _) = when(&order, 2, forward(RESERVE, Outcome::Refused(short())));
    assert_eq!(events, vec![unwinding(RESERVE, short()).1]);
    order.apply(micros(2), &events[0]);
    assert_eq!((status(&order), owed(&order)), (Status::Failed, vec!["release"]));
    then(&mut order, 3, undo(RESERVE, Outcome::Undone)).expect("noted");
    assert_eq!((status(&order), owed(&order)), (Status::Failed, vec![]));
    let view = order.view().expect("a view");
    assert!(view.at_rest && view.failure.is_some_and(|failure| failure.code == "insufficient_stock"));
}

#[test]
fn a_declined_payment_is_voided_and_then_the_stock_is_released() {
    let mut order: Order = given(&[accepted(), reserved()]);
    then(&mut order, 2, forward(CHARGE, Outcome::Refused(declined()))).expect("noted");
    assert_eq!(owed(&order), vec!["void"]);
    then(&mut order, 3, undo(CHARGE, Outcome::Undone)).expect("noted");
    assert_eq!(owed(&order), vec!["release"]);
    then(&mut order, 4, undo(RESERVE, Outcome::Undone)).expect("noted");
    assert_eq!((status(&order), owed(&order)), (Status::Failed, vec![]));
}

#[test]
fn a_deadline_unwinds_only_when_the_step_was_asked_and_nobody_knew() {
    for (step, order) in
        [(RESERVE, given::<Order>(&[accepted()])), (CHARGE, given::<Order>(&[accepted(), reserved()]))]
    {
        assert_eq!(when(&order, DEADLINE - 1, forward(step, Outcome::Unknown)).0, vec![]);
        let late = Event::Unwinding { step, cause: Cause::DeadlineExceeded };
        assert_eq!(when(&order, DEADLINE, forward(step, Outcome::Unknown)).0, vec![late]);
    }
    // What is already so counts, however late.
    let order: Order = given(&[accepted(), reserved()]);
    assert_eq!(when(&order, DEADLINE * 9, forward(CHARGE, Outcome::Charged)).0, vec![Event::Completed]);
}

#[test]
fn an_undo_that_nobody_answers_is_owed_for_ever() {
    let order: Order = given(&[accepted(), unwinding(RESERVE, short())]);
    assert_eq!(when(&order, DEADLINE * 100, undo(RESERVE, Outcome::Unknown)).0, vec![]);
    assert_eq!(owed(&order), vec!["release"]);
}

#[test]
fn an_undo_that_is_refused_needs_a_person_and_nothing_more_is_asked_meanwhile() {
    let mut order: Order = given(&[accepted(), unwinding(RESERVE, short())]);
    let refused = || Outcome::Refused(Cause::Refused { detail: "never".to_owned() });
    then(&mut order, 3, undo(RESERVE, refused())).expect("noted");
    let attention = order.view().expect("a view").attention.expect("needs a person");
    assert_eq!((attention.since, attention.detail.as_str()), (micros(3), "never"));
    assert_eq!(owed(&order), Vec::<&str>::new());
    assert_eq!(when(&order, 4, undo(RESERVE, refused())).0, vec![]);
    // A late yes of the same undo is still a yes.
    then(&mut order, 5, undo(RESERVE, Outcome::Undone)).expect("noted");
    assert_eq!(order.view().expect("a view").attention, None);
}

#[test]
fn a_cancel_turns_it_round_wherever_it_stands_before_completion() {
    for (step, events) in [(RESERVE, vec![accepted()]), (CHARGE, vec![accepted(), reserved()])] {
        let mut order: Order = given(&events);
        let (events, answer) = when(&order, 2, cancel());
        assert_eq!((events.clone(), answer), (vec![unwinding(step, cancelled()).1], Ok(Answer::Cancelled)));
        order.apply(micros(2), &events[0]);
        assert_eq!(status(&order), Status::Cancelled);
        // Again and again, and after everything is undone.
        assert_eq!(when(&order, 3, cancel()), (vec![], Ok(Answer::Cancelled)));
        for step in (0..=step).rev() {
            order.apply(micros(4), &undone(step).1);
        }
        assert_eq!(when(&order, 5, cancel()), (vec![], Ok(Answer::Cancelled)));
    }
}

#[test]
fn a_cancel_is_too_late_once_the_end_is_decided_otherwise() {
    let completed: Order = given(&[accepted(), reserved(), (2, Event::Completed)]);
    let failing: Order = given(&[accepted(), unwinding(RESERVE, short())]);
    let failed: Order = given(&[accepted(), unwinding(RESERVE, short()), undone(RESERVE)]);
    for order in [completed, failing, failed] {
        assert_eq!(when(&order, 5, cancel()), (vec![], Err(Rejection::TooLate)));
    }
}

#[test]
fn a_stranger_cannot_cancel_and_does_not_learn_that_it_exists() {
    let order: Order = given(&[accepted()]);
    let stranger = Command::Cancel { by: Id::from(Uuid::from_u128(9)), reason: None };
    assert_eq!(when(&order, 1, stranger), (vec![], Err(Rejection::NotFound)));
    assert_eq!(when(&Order::default(), 1, cancel()), (vec![], Err(Rejection::NotFound)));
}

#[test]
fn an_answer_that_comes_after_the_cancel_no_longer_fits() {
    let order: Order = given(&[accepted(), unwinding(RESERVE, cancelled())]);
    assert_eq!(when(&order, 3, forward(RESERVE, Outcome::Reserved(lines()))).0, vec![]);
    let order: Order = given(&[accepted(), reserved(), unwinding(CHARGE, cancelled())]);
    assert_eq!(when(&order, 3, forward(CHARGE, Outcome::Charged)).0, vec![]);
    let order: Order = given(&[accepted(), reserved(), (2, Event::Completed)]);
    assert_eq!(when(&order, 3, forward(CHARGE, Outcome::Refused(declined()))).0, vec![]);
    assert_eq!(when(&order, 3, undo(CHARGE, Outcome::Undone)).0, vec![]);
}

#[test]
fn the_same_key_and_body_is_the_same_purchase_and_another_body_is_refused() {
    let order: Order = given(&[accepted(), reserved(), (2, Event::Completed)]);
    let again = Answer::Placed { status: Status::Completed, at: micros(0), replayed: true };
    assert_eq!(when(&order, 9, Command::Place(place(Some("a")))), (vec![], Ok(again)));
    let other = Command::Place(place(Some("b")));
    assert_eq!(when(&order, 9, other), (vec![], Err(Rejection::KeyReused)));
}

#[test]
fn what_has_become_impossible_does_not_hide_a_purchase_that_was_made() {
    let impossible = || Command::Place(Place { impossible: true, ..place(Some("a")) });
    assert_eq!(when(&Order::default(), 0, impossible()), (vec![], Err(Rejection::Impossible)));
    let order: Order = given(&[accepted()]);
    let again = Answer::Placed { status: Status::Pending, at: micros(0), replayed: true };
    assert_eq!(when(&order, 1, impossible()), (vec![], Ok(again)));
}

#[test]
fn events_read_back_as_they_were_written() {
    let events = [
        accepted().1,
        reserved().1,
        Event::Completed,
        unwinding(CHARGE, declined()).1,
        unwinding(RESERVE, cancelled()).1,
        undone(RESERVE).1,
        Event::AttentionNeeded { step: 0, detail: "never".to_owned() },
    ];
    for event in events {
        let text = serde_json::to_string(&event).expect("serializes");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("reads back"), event, "{text}");
    }
}

#[test]
fn a_loaded_order_takes_back_a_charge_that_an_earlier_life_may_have_asked_without_a_row() {
    let cases = [
        (forward(RESERVE, Outcome::Refused(short())), 2, short()),
        (forward(RESERVE, Outcome::Unknown), DEADLINE, Cause::DeadlineExceeded),
        (cancel(), 2, cancelled()),
    ];
    for (command, at, cause) in cases {
        let mut order: Order = given(&[accepted()]);
        order.reloaded();
        let (events, _) = when(&order, at, command);
        assert_eq!(events, vec![unwinding(CHARGE, cause).1]);
        order.apply(micros(at), &events[0]);
        let effects = order.effects();
        let [(_, Effect::Void(terms))] = effects.as_slice() else { panic!("a void is owed: {effects:?}") };
        assert_eq!(terms.amount, 0, "it was never priced");
        let last = order.view().expect("a view").steps.pop().expect("an entry");
        assert_eq!((last.step, last.status), (StepName::UpdateProductInventory, StepStatus::Failed));
        order.apply(micros(at), &undone(CHARGE).1);
        assert_eq!(owed(&order), vec!["release"]);
    }
}

#[test]
fn only_a_reservation_may_wait_for_the_row_that_follows_it() {
    let events =
        [accepted().1, reserved().1, Event::Completed, unwinding(CHARGE, declined()).1, undone(CHARGE).1];
    assert_eq!(events.each_ref().map(Order::may_wait), [false, true, false, false, false]);
}
