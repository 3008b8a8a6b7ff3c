use super::*;
use crate::aggregate::given::{given, micros, then, when};

const DEADLINE: i64 = 10_000_000;
const IN_DOUBT: i64 = DEADLINE + 30_000_000;

fn bill(amount: i64) -> Bill {
    Bill {
        customer: Id::from(Uuid::from_u128(1)),
        amount,
        currency: "VND".parse().expect("in ISO 4217"),
        reserve_by: micros(DEADLINE),
    }
}

fn charge(amount: i64) -> Command {
    Command::Charge { bill: bill(amount), token: None }
}

fn void() -> Command {
    Command::Void { bill: bill(500), settles_within: Duration::from_secs(30) }
}

fn captured() -> (i64, Event) {
    (1, Event::Captured { bill: bill(500), reference: "r".to_owned() })
}

fn declined() -> (i64, Event) {
    (1, Event::Declined { bill: bill(500), reason: "card_declined".to_owned() })
}

fn voided() -> (i64, Event) {
    (2, Event::Voided { bill: bill(500), in_doubt_until: micros(IN_DOUBT) })
}

fn answered(charge: Option<Charge>) -> Command {
    Command::Answered { bill: bill(500), charge }
}

fn captured_answer() -> Option<Charge> {
    Some(Charge::Captured { reference: "r".to_owned() })
}

fn declined_answer() -> Option<Charge> {
    Some(Charge::Declined { reason: "card_declined".to_owned() })
}

fn looked(captured: Option<i64>) -> Command {
    Command::Looked { answered: true, captured }
}

fn refund() -> Vec<(Timestamp, Effect)> {
    vec![(micros(2), Effect::Refund { amount: 500, currency: bill(500).currency })]
}

#[test]
fn a_charge_asks_the_provider_first_and_its_word_is_the_first_row() {
    let payment = Payment::default();
    let Decision::AskFirst(effect) = payment.decide(micros(1), &charge(500)) else {
        panic!("the provider is asked")
    };
    assert_eq!(effect, Effect::Charge { bill: bill(500), token: None });
    assert_eq!(when(&payment, 1, answered(captured_answer())).0, vec![captured().1]);
    assert_eq!(when(&payment, 1, answered(declined_answer())).0, vec![declined().1]);
    assert_eq!(when(&payment, 1, answered(None)).0, vec![]);
}

#[test]
fn a_charge_that_repeats_is_answered_from_the_row_however_late() {
    let payment: Payment = given(&[captured()]);
    assert_eq!(when(&payment, DEADLINE * 9, charge(500)), (vec![], Ok(Answer::Captured)));
    let payment: Payment = given(&[declined()]);
    let reason = "card_declined".to_owned();
    assert_eq!(when(&payment, DEADLINE * 9, charge(500)), (vec![], Err(Rejection::Declined { reason })));
}

#[test]
fn another_amount_is_never_charged() {
    let payment: Payment = given(&[captured()]);
    assert_eq!(when(&payment, 2, charge(501)), (vec![], Err(Rejection::OtherBill)));
}

#[test]
fn past_its_deadline_a_new_charge_is_not_asked() {
    assert!(matches!(Payment::default().decide(micros(DEADLINE), &charge(500)), Decision::Unknown));
}

#[test]
fn a_void_of_a_captured_payment_owes_its_refund_in_full() {
    let mut payment: Payment = given(&[captured()]);
    assert_eq!(then(&mut payment, 2, void()), Ok(Answer::Voided));
    assert_eq!(payment.effects(), refund());
    assert_eq!(when(&payment, 3, Command::Refunded { done: false }).0, vec![]);
    then(&mut payment, 3, Command::Refunded { done: true }).expect("noted");
    assert_eq!(payment.effects(), vec![]);
    let view = payment.view().expect("a view");
    assert_eq!((view.status, view.captured_amount, view.refunded_amount), (Status::Voided, 500, 500));
    assert_eq!(when(&payment, 4, Command::Refunded { done: true }).0, vec![]);
}

#[test]
fn a_void_of_nothing_looks_at_once_and_again_when_no_request_can_be_under_way_any_more() {
    let mut payment = Payment::default();
    then(&mut payment, 2, void()).expect("voided");
    assert_eq!(payment.effects(), vec![(micros(2), Effect::Look)]);
    then(&mut payment, 3, looked(None)).expect("noted");
    assert_eq!(payment.effects(), vec![(micros(IN_DOUBT), Effect::Look)]);
    then(&mut payment, IN_DOUBT, looked(None)).expect("noted");
    assert_eq!(payment.effects(), vec![]);
    let view = payment.view().expect("a view");
    assert_eq!((view.status, view.refunded_amount), (Status::Voided, 0));
}

#[test]
fn a_provider_that_declined_and_still_charged_is_found_out_and_refunded() {
    let mut payment: Payment = given(&[declined(), voided()]);
    assert_eq!(payment.effects(), vec![(micros(2), Effect::Look)]);
    let nobody_answered = Command::Looked { answered: false, captured: None };
    assert_eq!(when(&payment, 3, nobody_answered).0, vec![]);
    assert_eq!(when(&payment, 3, looked(Some(500))).0, vec![Event::Found { amount: 500 }]);
    then(&mut payment, 3, looked(Some(500))).expect("noted");
    assert_eq!(payment.effects(), refund());
}

#[test]
fn a_capture_that_is_answered_after_the_void_is_refunded_once() {
    let mut payment: Payment = given(&[voided()]);
    assert_eq!(when(&payment, 3, answered(declined_answer())).0, vec![]);
    then(&mut payment, 3, answered(captured_answer())).expect("noted");
    assert_eq!(payment.effects(), refund());
    then(&mut payment, 4, Command::Refunded { done: true }).expect("noted");
    assert_eq!(when(&payment, 5, answered(captured_answer())).0, vec![]);
    assert_eq!(when(&payment, 5, looked(Some(500))).0, vec![]);
}

#[test]
fn a_capture_found_after_the_second_look_is_still_refunded() {
    let mut payment: Payment = given(&[voided(), (3, Event::NothingFound), (IN_DOUBT, Event::NothingFound)]);
    then(&mut payment, IN_DOUBT + 1, answered(captured_answer())).expect("noted");
    assert_eq!(payment.effects(), refund());
}

#[test]
fn a_voided_payment_refuses_the_charge_that_comes_late_and_answers_every_void() {
    for events in [vec![voided()], vec![captured(), voided()], vec![declined(), voided()]] {
        let payment: Payment = given(&events);
        assert_eq!(when(&payment, 3, charge(500)), (vec![], Err(Rejection::Voided)));
        assert_eq!(when(&payment, 3, void()), (vec![], Ok(Answer::Voided)));
    }
}

#[test]
fn nothing_is_shown_before_the_provider_has_answered() {
    assert_eq!(Payment::default().view(), None);
    let payment: Payment = given(&[captured()]);
    let view = payment.view().expect("a view");
    assert_eq!((view.status, view.amount, view.captured_amount), (Status::Captured, 500, 500));
}

#[test]
fn events_read_back_as_they_were_written() {
    let events = [
        captured().1,
        declined().1,
        voided().1,
        Event::NothingFound,
        Event::Found { amount: 3 },
        Event::Refunded,
    ];
    for event in events {
        let text = serde_json::to_string(&event).expect("serializes");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("reads back"), event, "{text}");
    }
}
