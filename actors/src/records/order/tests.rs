use serde_json::{Value, json};
use souk_persistence::Timestamp;
use souk_persistence::journal::StoredRow;
use uuid::Uuid;

use super::super::{Record, records};
use crate::aggregate::Kind;
use crate::ids::Id;
use crate::order::{Accepted, Cause, Event, Item, Line};
use crate::saga::Direction;

const ORDER: Uuid = Uuid::from_u128(7);

fn product() -> Id<crate::product::Product> {
    Id::from(Uuid::from_u128(10))
}

fn accepted() -> Event {
    Event::Accepted(Accepted {
        definition: 1,
        customer: Id::from(Uuid::from_u128(1)),
        items: vec![Item { product: product(), quantity: 4 }],
        currency: "VND".parse().expect("in ISO 4217"),
        token: Some("secret".to_owned()),
        fingerprint: None,
        at: Timestamp::default(),
        reserve_by: Timestamp::from_micros(10_000_000),
        outside: crate::order::Outside::default(),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    })
}

fn reserved() -> Event {
    let line = Line {
        product: product(),
        quantity: 4,
        price: 125,
        category: Id::from(Uuid::from_u128(20)),
        name: "Phone".to_owned(),
        brand: "Brand".to_owned(),
    };
    Event::StockReserved { lines: vec![line], amount: 500 }
}

fn row(version: i32, events: &[Event]) -> StoredRow {
    let events: Vec<_> = (0..).zip(events).collect::<Vec<(i64, _)>>();
    let events = serde_json::to_string(&events).expect("writes");
    StoredRow { version, at: Timestamp::from_micros(i64::from(version) * 1_000_000), events }
}

/// (topic, id within the stream) of everything that is told of these rows.
fn told(rows: &[StoredRow], after: i32) -> Vec<(&'static str, String)> {
    let told = records(Kind::Order, ORDER, rows, after).expect("reads");
    let prefix = format!("{ORDER}/");
    told.into_iter()
        .map(|record| (record.topic.name(), record.id.strip_prefix(&prefix).expect("its own").to_owned()))
        .collect()
}

fn only(rows: &[StoredRow], after: i32, topic: &str) -> (Record, Value) {
    let all = records(Kind::Order, ORDER, rows, after).expect("reads");
    let record = all.into_iter().find(|record| record.topic.name() == topic).expect("told");
    let body = serde_json::from_str(&record.body).expect("JSON");
    (record, body)
}

#[test]
fn a_good_purchase_is_told_step_by_step() {
    let rows = [row(1, &[accepted()]), row(2, &[reserved(), Event::Completed])];
    let expected = [
        ("purchase-result", "1/0/UPDATE_PRODUCT_INVENTORY/EXECUTE"),
        ("update-product-inventory", "1/0/update-product-inventory"),
        ("purchase-result", "2/0/UPDATE_PRODUCT_INVENTORY/SUCCESS"),
        ("purchase-result", "2/0/CREATE_ORDER/SUCCESS"),
        ("purchase-result", "2/0/CREATE_PAYMENT/EXECUTE"),
        ("create-order", "2/0/create-order"),
        ("create-payment", "2/0/create-payment"),
        ("purchase-result", "2/1/CREATE_PAYMENT/SUCCESS"),
    ];
    assert_eq!(told(&rows, 0), expected.map(|(topic, id)| (topic, id.to_owned())));
}

#[test]
fn rows_that_were_told_are_read_and_not_told_again() {
    let rows = [row(1, &[accepted()]), row(2, &[reserved(), Event::Completed])];
    let all = records(Kind::Order, ORDER, &rows, 0).expect("reads");
    let later = records(Kind::Order, ORDER, &rows, 1).expect("reads");
    assert_eq!(later, all[2..], "the same, whichever rows are told together");
    assert_eq!(records(Kind::Order, ORDER, &rows, 2).expect("reads"), []);
}

#[test]
fn an_unwinding_is_told_from_its_refusal_to_the_last_undo() {
    let declined = Cause::PaymentDeclined { reason: "card_declined".to_owned() };
    let rows = [
        row(1, &[accepted()]),
        row(2, &[reserved()]),
        row(3, &[Event::Unwinding { step: 1, cause: declined }]),
        row(4, &[Event::Undone { step: 1 }]),
        row(5, &[Event::Undone { step: 0 }]),
    ];
    let expected = [
        ("purchase-result", "3/0/CREATE_PAYMENT/FAILED"),
        ("rollback-payment", "3/0/rollback-payment"),
        ("purchase-result", "4/0/CREATE_PAYMENT/ROLLBACK"),
        ("purchase-result", "4/0/CREATE_ORDER/ROLLBACK"),
        ("rollback-order", "4/0/rollback-order"),
        ("rollback-product-inventory", "4/0/rollback-product-inventory"),
        ("purchase-result", "5/0/UPDATE_PRODUCT_INVENTORY/ROLLBACK"),
    ];
    assert_eq!(told(&rows, 2), expected.map(|(topic, id)| (topic, id.to_owned())));
    let (_, body) = only(&rows, 2, "rollback-order");
    assert_eq!(body["cause"], "payment_declined");
    let (_, body) = only(&rows, 2, "purchase-result");
    assert_eq!(body["detail"], "payment_declined");
}

#[test]
fn whoever_is_outside_is_told_each_time_they_are_asked_and_what_is_paid_with() {
    let Event::Accepted(accepted) = accepted() else { panic!("it is accepted") };
    let outside = crate::order::Outside { inventory: false, payment: true };
    let asked = |direction, attempt| Event::Asked { step: 1, direction, attempt };
    let rows = [
        row(1, &[Event::Accepted(Accepted { outside, ..accepted })]),
        row(2, &[reserved(), asked(Direction::Forward, 1)]),
        row(3, &[asked(Direction::Forward, 2)]),
        row(4, &[Event::Unwinding { step: 1, cause: Cause::DeadlineExceeded }, asked(Direction::Undo, 1)]),
    ];
    let commands = |after| {
        let all = records(Kind::Order, ORDER, &rows, after).expect("reads");
        let to_them = all.into_iter().filter(|record| record.topic.name().ends_with("-payment"));
        to_them
            .map(|record| (record.id, serde_json::from_str::<Value>(&record.body).expect("JSON")))
            .collect::<Vec<_>>()
    };
    let told = commands(0);
    let ids: Vec<_> =
        told.iter().map(|(id, _)| id.strip_prefix(&format!("{ORDER}/")).expect("its own")).collect();
    assert_eq!(ids, ["2/1/create-payment", "3/0/create-payment", "4/1/rollback-payment"]);
    assert_eq!(told[0].1["token"], "secret");
    assert_eq!((&told[1].1["attempt"], &told[2].1["attempt"]), (&json!(2), &json!(1)));
    assert_eq!(commands(2), told[1..], "the same, whichever rows are told together");
}

#[test]
fn who_must_look_is_told() {
    let cause = Cause::Cancelled { reason: None };
    let rows = [
        row(1, &[accepted()]),
        row(2, &[Event::Unwinding { step: 0, cause }]),
        row(3, &[Event::AttentionNeeded { step: 0, detail: "never".to_owned() }]),
    ];
    assert_eq!(
        told(&rows, 2),
        [("purchase-result", "3/0/UPDATE_PRODUCT_INVENTORY/ROLLBACK_FAILED".to_owned())]
    );
}

#[test]
fn a_record_says_what_its_message_says_and_no_secret() {
    let rows = [row(1, &[accepted()]), row(2, &[reserved(), Event::Completed])];
    let (record, body) = only(&rows, 0, "create-payment");
    assert_eq!((record.key, record.at.micros()), (ORDER, 2_000_000));
    assert!(record.trace.is_some_and(|trace| trace.contains("4bf92f3577b34da6a3ce929d0e0e4736")));
    let expected = json!({
        "purchase_id": ORDER.to_string(), "customer_id": Uuid::from_u128(1).to_string(), "amount": "500",
        "currency_code": "VND", "reserve_by": "1970-01-01T00:00:10Z", "attempt": 0,
    });
    assert_eq!(body, expected);
    let all = records(Kind::Order, ORDER, &rows, 0).expect("reads");
    assert!(!all.iter().any(|record| record.body.contains("secret")), "{all:?}");
}

#[test]
fn a_row_that_cannot_be_read_is_an_error_and_tells_which() {
    let broken = StoredRow { version: 1, at: Timestamp::default(), events: "[[0,\"Unheard\"]]".to_owned() };
    let error = records(Kind::Order, ORDER, &[broken], 0).expect_err("unheard of");
    assert_eq!((error.stream, error.version), (ORDER, 1));
}
