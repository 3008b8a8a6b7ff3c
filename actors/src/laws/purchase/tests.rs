use serde_json::json;

use super::*;
use crate::laws::Report;
use crate::laws::stock::Shelf;
use crate::product::{Claim, Event as ProductEvent, Hold};

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

fn id() -> Uuid {
    Uuid::from_u128(9)
}

fn product() -> Uuid {
    Uuid::from_u128(5)
}

fn order(status: &str) -> OrderTold {
    let line = json!({"product": product(), "quantity": 4, "price": 7, "category": Uuid::nil(), "name": "",
        "brand": ""});
    let view = json!({"status": status, "currency_code": "VND", "items": [{"product": product(), "quantity": 4}], "lines": [line], "amount": 28, "steps": [],
        "at_rest": status != "pending"});
    let ended = u32::from(status != "pending");
    OrderTold {
        view: serde_json::from_value(view).expect("a view"),
        owner: Some(Uuid::from_u128(1)),
        owed: None,
        outcomes: Outcomes {
            events: 2 + ended,
            accepted: 1,
            is_accepted_first: true,
            reserve_by: Some(NOW),
            outcomes: ended,
            is_completed: status == "completed",
            after_completion: 0,
            outside: Outside::default(),
        },
    }
}

fn payment(status: &str, captured: i64, refunded: i64) -> PaymentTold {
    let view = json!({"customer_id": Uuid::from_u128(1), "amount": 28, "currency_code": "VND",
        "status": status, "captured_amount": captured, "refunded_amount": refunded});
    PaymentTold { view: serde_json::from_value(view).expect("a view"), owed: None }
}

/// A product that has given so many at this price, which became of it.
fn gave(quantity: u32, price: i64, fate: Fate) -> Stock {
    let mut shelf = Shelf::default();
    let purchase = crate::ids::Id::from(id());
    let claim = Claim { purchase, reserve_by: NOW };
    shelf.note(&ProductEvent::Reserved { purchase, hold: Hold { quantity, price } });
    match fate {
        Fate::Held => {}
        Fate::Settled => shelf.note(&ProductEvent::Settled(vec![claim])),
        Fate::Released => shelf.note(&ProductEvent::Released(claim)),
    }
    let mut stock = Stock::default();
    stock.add(product(), shelf);
    stock
}

struct Case {
    order: Side<OrderTold>,
    payment: Side<PaymentTold>,
    stock: Stock,
    booked: Option<Option<Booked>>,
}

impl Case {
    fn completed() -> Self {
        Self {
            order: Side::Known(order("completed")),
            payment: Side::Known(payment("captured", 28, 0)),
            stock: gave(4, 7, Fate::Settled),
            booked: Some(Some(Booked { captured: 28, refunded: 0 })),
        }
    }

    fn failed() -> Self {
        Self {
            order: Side::Known(order("failed")),
            payment: Side::Known(payment("voided", 28, 28)),
            stock: gave(4, 7, Fate::Released),
            booked: Some(Some(Booked { captured: 28, refunded: 28 })),
        }
    }

    fn pending() -> Self {
        Self {
            order: Side::Known(order("pending")),
            payment: Side::Absent,
            stock: gave(4, 7, Fate::Held),
            booked: Some(Some(Booked { captured: 28, refunded: 0 })),
        }
    }

    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn order(&mut self) -> &mut OrderTold {
        match &mut self.order {
            Side::Known(order) => order,
            Side::Absent | Side::Unreadable => panic!("an order"),
        }
    }

    fn payment(&mut self) -> &mut PaymentTold {
        match &mut self.payment {
            Side::Known(payment) => payment,
            Side::Absent | Side::Unreadable => panic!("a payment"),
        }
    }

    fn look(self, moment: Moment) -> Report {
        let Self { order, payment, stock, booked } = self;
        let mut found = Findings::new(moment);
        Purchase { id: id(), order, payment, taken: stock.taken(), booked }.judge(&stock, &mut found);
        found.report(true)
    }

    fn broken(self) -> Vec<Law> {
        self.look(Moment::AtRest(NOW)).broken()
    }

    fn broken_live(self) -> Vec<Law> {
        self.look(Moment::Live(NOW)).broken()
    }
}

#[test]
fn a_purchase_that_went_well_or_was_undone_keeps_every_law() {
    assert_eq!(Case::completed().broken(), []);
    assert_eq!(Case::failed().broken(), []);
    let untouched = |case: &mut Case| {
        case.payment = Side::Absent;
        case.stock = Stock::default();
        case.booked = Some(None);
    };
    assert_eq!(Case::failed().but(untouched).broken(), []);
    assert_eq!(Case::pending().broken_live(), []);
    assert_eq!(Case::pending().look(Moment::Stopped).broken(), []);
}

#[test]
fn what_does_not_end_is_seen() {
    let cases: [fn(&mut Case); 4] = [
        |case| case.order().view.at_rest = false,
        |case| case.order().owed = Some(NOW),
        |case| case.payment().owed = Some(NOW),
        |case| {
            let attention = json!({"step": "CREATE_PAYMENT", "since": NOW, "detail": "no"});
            case.order().view.attention = serde_json::from_value(attention).expect("an attention");
        },
    ];
    for (number, change) in cases.into_iter().enumerate() {
        assert_eq!(Case::failed().but(change).broken(), [Law::EveryPurchaseEnds], "{number}");
    }
    assert!(Case::pending().broken().contains(&Law::EveryPurchaseEnds));
    // A second look that lies in the future is not due.
    let later = Some(NOW + Duration::from_secs(1));
    assert_eq!(Case::failed().but(|case| case.payment().owed = later).broken(), []);
}

#[test]
fn other_than_one_outcome_is_seen() {
    let cases: [fn(&mut Outcomes); 5] = [
        |outcomes| outcomes.outcomes = 2,
        |outcomes| outcomes.outcomes = 0,
        |outcomes| outcomes.accepted = 2,
        |outcomes| outcomes.is_accepted_first = false,
        |outcomes| outcomes.is_completed = true,
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let broken = Case::failed().but(|case| change(&mut case.order().outcomes)).broken();
        assert_eq!(broken, [Law::OneOutcome], "{number}");
    }
}

#[test]
fn outcomes_are_counted_from_what_happened() {
    let unwinding = Event::Unwinding { step: 0, cause: order::Cause::DeadlineExceeded };
    let outcomes = |events: &[Event]| {
        let mut outcomes = Outcomes::default();
        events.iter().for_each(|event| outcomes.note(event));
        outcomes
    };
    let accepted = json!({"Accepted": {"definition": 1, "customer": id(), "items": [], "currency": "VND",
        "at": NOW, "reserve_by": NOW}});
    let accepted: Event = serde_json::from_value(accepted).expect("an event");
    let good = outcomes(&[accepted.clone(), Event::Completed]);
    assert_eq!((good.one(Status::Completed), good.reserve_by), (Ok(()), Some(NOW)));
    assert!(good.one(Status::Failed).is_err());
    for bad in [
        vec![accepted.clone(), Event::Completed, unwinding.clone()],
        vec![accepted.clone(), accepted.clone(), Event::Completed],
        vec![unwinding.clone(), accepted.clone()],
        vec![accepted, unwinding.clone(), unwinding],
    ] {
        let outcomes = outcomes(&bad);
        assert!(outcomes.one(Status::Completed).is_err() && outcomes.one(Status::Failed).is_err(), "{bad:?}");
    }
}

#[test]
fn stock_that_is_lost_doubled_or_kept_is_seen() {
    for (quantity, fate) in [(3, Fate::Settled), (4, Fate::Held), (4, Fate::Released)] {
        let broken = Case::completed().but(|case| case.stock = gave(quantity, 7, fate)).broken();
        assert_eq!(broken, [Law::StockConserved], "{quantity} {fate:?}");
    }
    assert_eq!(Case::completed().but(|case| case.stock = Stock::default()).broken(), [Law::StockConserved]);
    for fate in [Fate::Settled, Fate::Held] {
        let broken = Case::failed().but(|case| case.stock = gave(4, 7, fate)).broken();
        assert_eq!(broken, [Law::StockConserved], "{fate:?}");
    }
    let nobodys = |case: &mut Case| {
        case.order = Side::Absent;
        case.payment = Side::Absent;
        case.booked = Some(None);
    };
    assert_eq!(Case::failed().but(nobodys).broken(), [Law::StockConserved]);
    // Until it is settled it is held.
    let unsettled = |case: &mut Case| {
        case.stock = gave(4, 7, Fate::Held);
        case.order().owed = Some(NOW);
    };
    assert_eq!(Case::completed().but(unsettled).broken_live(), []);
}

#[test]
fn money_that_is_lost_doubled_or_kept_is_seen() {
    let cases: [fn(&mut Case); 5] = [
        |case| case.booked = Some(Some(Booked { captured: 56, refunded: 0 })),
        |case| case.booked = Some(None),
        |case| case.order().view.amount = Some(27),
        |case| case.order().view.lines[0].quantity = 3,
        |case| case.payment().view.captured_amount = 27,
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let broken = Case::completed().but(change).broken();
        assert!(broken.contains(&Law::MoneyConserved), "{number}: {broken:?}");
    }
    let kept = |case: &mut Case| {
        case.payment = Side::Known(payment("voided", 28, 0));
        case.booked = Some(Some(Booked { captured: 28, refunded: 0 }));
    };
    assert_eq!(Case::failed().but(kept).broken(), [Law::MoneyConserved]);
    let unknown_to_us = |case: &mut Case| {
        case.payment = Side::Absent;
        case.booked = Some(Some(Booked { captured: 28, refunded: 0 }));
    };
    assert_eq!(Case::failed().but(unknown_to_us).broken(), [Law::MoneyConserved]);
    // While it is being undone its refund may be on its way.
    let unwinding = |case: &mut Case| {
        unknown_to_us(case);
        case.order().view.at_rest = false;
    };
    assert_eq!(Case::failed().but(unwinding).broken_live(), []);
    assert_eq!(Case::failed().but(kept).but(|case| case.payment().owed = Some(NOW)).broken_live(), []);
}

#[test]
fn an_order_and_a_payment_and_stock_that_tell_different_stories_are_seen() {
    let cases: [fn(&mut Case); 5] = [
        |case| case.payment = Side::Absent,
        |case| case.payment().view.status = payment::Status::Declined,
        |case| case.payment().view.currency_code = "EUR".parse().expect("in ISO 4217"),
        |case| case.payment().view.customer_id = crate::ids::Id::from(id()),
        |case| case.stock = gave(4, 8, Fate::Settled),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let without_books = |case: &mut Case| case.booked = None;
        let broken = Case::completed().but(change).but(without_books).broken();
        assert_eq!(broken, [Law::OneStory], "{number}");
    }
    let paid = |case: &mut Case| {
        case.payment = Side::Known(payment("captured", 28, 0));
        case.booked = Some(Some(Booked { captured: 28, refunded: 0 }));
    };
    assert_eq!(Case::failed().but(paid).broken(), [Law::OneStory]);
    let nobodys = |case: &mut Case| {
        case.order = Side::Absent;
        case.stock = Stock::default();
    };
    assert_eq!(Case::completed().but(nobodys).broken(), [Law::OneStory]);
}

#[test]
fn what_cannot_be_read_is_not_taken_for_what_is_not_there() {
    let unreadable = |case: &mut Case| case.order = Side::Unreadable;
    assert_eq!(Case::completed().but(unreadable).broken(), []);
    let unreadable = |case: &mut Case| case.payment = Side::Unreadable;
    assert_eq!(Case::completed().but(unreadable).broken(), []);
}
