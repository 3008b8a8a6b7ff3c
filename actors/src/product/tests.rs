use super::*;
use crate::aggregate::given::{given, micros, then, when};

const DEADLINE: i64 = 100;

fn seller() -> Id<Account> {
    Id::from(Uuid::from_u128(1))
}

fn currency(code: &str) -> Currency {
    code.parse().expect("in ISO 4217")
}

fn facts() -> Facts {
    Facts {
        seller: seller(),
        category: Id::from(Uuid::from_u128(2)),
        name: "Phone".to_owned(),
        description: "A phone".to_owned(),
        brand: "Brand".to_owned(),
        price: 125,
        currency: currency("VND"),
        fingerprint: Some("a".to_owned()),
    }
}

fn created() -> (i64, Event) {
    (1, Event::Created { facts: facts(), inventory: 10 })
}

fn claim(purchase: u128) -> Claim {
    Claim { purchase: Id::from(Uuid::from_u128(purchase)), reserve_by: micros(DEADLINE) }
}

fn reserve(purchase: u128, quantity: u32) -> Command {
    Command::Reserve { claim: claim(purchase), quantity, currency: currency("VND") }
}

fn reserved(purchase: u128, quantity: u32) -> (i64, Event) {
    let hold = Hold { quantity, price: 125 };
    (2, Event::Reserved { purchase: claim(purchase).purchase, hold })
}

fn offer(price: i64) -> Result<Answer, Rejection> {
    Ok(Answer::Reserved(facts().offer(price)))
}

fn change(patch: Patch, seen: Option<Seen>) -> Command {
    Command::Change { by: seller(), patch, seen }
}

fn stock(product: &Product) -> (i64, i64) {
    let view = product.view().expect("created");
    (view.inventory, view.held)
}

#[test]
fn what_meets_a_move_is_not_changed_twice() {
    // Somebody may have bought of it, changed it or withdrawn it in between.
    let patch = Patch { name: Some("Phone".to_owned()), ..Patch::default() };
    assert!(!Product::may_repeat(&Command::Change { by: seller(), patch, seen: None }));
    assert!(!Product::may_repeat(&Command::Withdraw { by: seller(), seen: None }));
}

#[test]
fn stock_that_is_held_cannot_be_bought_and_its_price_is_kept() {
    let mut product: Product = given(&[created()]);
    assert_eq!(then(&mut product, 2, reserve(7, 4)), offer(125));
    assert_eq!(stock(&product), (6, 4));
    let dearer = Patch { price: Some(200), ..Patch::default() };
    then(&mut product, 3, change(dearer, None)).expect("changed");
    assert_eq!(when(&product, 4, reserve(7, 4)), (vec![], offer(125)));
    assert_eq!(then(&mut product, 4, reserve(8, 1)), offer(200));
}

#[test]
fn what_is_not_there_is_refused_and_nothing_is_written() {
    let product: Product = given(&[created()]);
    assert_eq!(when(&product, 2, reserve(7, 11)), (vec![], Err(Rejection::InsufficientStock)));
    let euros = Command::Reserve { claim: claim(7), quantity: 1, currency: currency("EUR") };
    assert_eq!(when(&product, 2, euros), (vec![], Err(Rejection::CurrencyMismatch)));
    assert_eq!(when(&Product::default(), 2, reserve(7, 1)), (vec![], Err(Rejection::NotFound)));
    let held: Product = given(&[created(), reserved(7, 4)]);
    assert_eq!(when(&held, 2, reserve(7, 5)), (vec![], Err(Rejection::OtherQuantity)));
}

#[test]
fn a_release_puts_the_stock_back_once() {
    let mut product: Product = given(&[created(), reserved(7, 4)]);
    assert_eq!(then(&mut product, 3, Command::Release(claim(7))), Ok(Answer::Released));
    assert_eq!(stock(&product), (10, 0));
    assert_eq!(when(&product, 4, Command::Release(claim(7))), (vec![], Ok(Answer::Released)));
}

#[test]
fn a_release_before_its_reserve_leaves_a_mark_that_refuses_it() {
    let mut product: Product = given(&[created()]);
    let (events, answer) = when(&product, 3, Command::Release(claim(7)));
    assert_eq!((events, answer), (vec![Event::Released(claim(7))], Ok(Answer::Released)));
    then(&mut product, 3, Command::Release(claim(7))).expect("released");
    assert_eq!(when(&product, 4, reserve(7, 4)), (vec![], Err(Rejection::Over)));
    assert_eq!(stock(&product), (10, 0));
}

#[test]
fn a_mark_goes_with_the_first_row_past_its_deadline_and_the_late_reserve_is_expired_from_then_on() {
    let mut product: Product = given(&[created(), (3, Event::Released(claim(7)))]);
    assert_eq!(product.marks.len(), 1);
    let text = Patch { description: Some("New".to_owned()), ..Patch::default() };
    then(&mut product, DEADLINE, change(text, None)).expect("changed");
    assert!(product.marks.is_empty());
    // Decided at the host's time, which never goes back behind the stream's.
    assert!(matches!(product.decide(micros(DEADLINE), &reserve(7, 4)), Decision::Unknown));
}

#[test]
fn past_the_deadline_nothing_new_is_held_and_what_is_held_is_still_answered() {
    let product: Product = given(&[created(), reserved(7, 4)]);
    assert!(matches!(product.decide(micros(DEADLINE), &reserve(8, 1)), Decision::Unknown));
    assert_eq!(when(&product, DEADLINE, reserve(7, 4)), (vec![], offer(125)));
}

#[test]
fn an_unknown_hold_released_past_its_deadline_leaves_a_row_that_only_carries_its_time() {
    let mut product: Product = given(&[created()]);
    let (events, _) = when(&product, DEADLINE, Command::Release(claim(7)));
    assert_eq!(events, vec![Event::TimePassed]);
    then(&mut product, DEADLINE, Command::Release(claim(7))).expect("released");
    assert_eq!(when(&product, DEADLINE + 1, Command::Release(claim(7))).0, vec![]);
}

#[test]
fn settled_stock_is_gone_and_settling_again_takes_no_more() {
    let mut product: Product = given(&[created(), reserved(7, 4), reserved(8, 1)]);
    assert_eq!(then(&mut product, 3, Command::Settle(vec![claim(7), claim(8)])), Ok(Answer::Settled));
    assert_eq!(stock(&product), (5, 0));
    assert_eq!(when(&product, 4, Command::Settle(vec![claim(7)])).0, vec![]);
    assert_eq!(when(&product, 4, Command::Release(claim(7))).0, vec![]);
    assert_eq!(when(&product, 4, reserve(7, 4)), (vec![], Err(Rejection::Over)));
}

#[test]
fn settling_past_the_deadline_needs_no_mark_and_repeats_harmlessly() {
    let mut product: Product = given(&[created(), reserved(7, 4)]);
    then(&mut product, DEADLINE + 5, Command::Settle(vec![claim(7)])).expect("settled");
    assert_eq!((stock(&product), product.marks.len()), ((6, 0), 0));
    assert_eq!(when(&product, DEADLINE + 6, Command::Settle(vec![claim(7)])).0, vec![]);
}

#[test]
fn a_withdrawn_product_refuses_new_holds_and_serves_the_ones_it_has() {
    let mut product: Product = given(&[created(), reserved(7, 4)]);
    then(&mut product, 3, Command::Withdraw { by: seller(), seen: None }).expect("withdrawn");
    assert_eq!(when(&product, 4, reserve(8, 1)), (vec![], Err(Rejection::NotFound)));
    assert_eq!(when(&product, 4, reserve(7, 4)), (vec![], offer(125)));
    assert_eq!(then(&mut product, 4, Command::Release(claim(7))), Ok(Answer::Released));
    assert_eq!(stock(&product), (10, 0));
}

#[test]
fn only_its_seller_changes_it_and_only_from_what_it_is() {
    let product: Product = given(&[created()]);
    let by = Id::from(Uuid::from_u128(9));
    let patch = || Patch { price: Some(1), ..Patch::default() };
    let stranger = Command::Change { by, patch: patch(), seen: None };
    assert_eq!(when(&product, 2, stranger), (vec![], Err(Rejection::NotTheSeller)));
    let withdraw = Command::Withdraw { by, seen: None };
    assert_eq!(when(&product, 2, withdraw), (vec![], Err(Rejection::NotTheSeller)));
    let stale = Seen { revision: 3, inventory: 10 };
    assert_eq!(when(&product, 2, change(patch(), Some(stale))), (vec![], Err(Rejection::Changed)));
}

#[test]
fn an_inventory_sent_back_as_it_was_seen_invents_no_stock() {
    let mut product: Product = given(&[created(), reserved(7, 4)]);
    let seen = Seen { revision: 0, inventory: 10 };
    let whole = |inventory| Patch {
        name: Some("Phone 2".to_owned()),
        inventory: Some(inventory),
        ..Patch::default()
    };
    then(&mut product, 3, change(whole(10), Some(seen))).expect("changed");
    assert_eq!(stock(&product), (6, 4));
    then(&mut product, 4, change(whole(20), Some(Seen { revision: 1, inventory: 6 }))).expect("changed");
    assert_eq!(stock(&product), (20, 4));
}

#[test]
fn a_snapshot_is_the_product() {
    let product: Product = given(&[created(), reserved(7, 4), (3, Event::Released(claim(8)))]);
    let text = serde_json::to_string(&product).expect("serializes");
    let mut back: Product = serde_json::from_str(&text).expect("reads back");
    assert_eq!(back.view(), product.view());
    assert_eq!(when(&back, 4, reserve(8, 1)), (vec![], Err(Rejection::Over)));
    assert_eq!(then(&mut back, 4, Command::Release(claim(7))), Ok(Answer::Released));
    assert_eq!(stock(&back), (10, 0));
}

#[test]
fn events_read_back_as_they_were_written() {
    let events = [
        created().1,
        Event::Changed(Patch { price: Some(3), inventory: Some(9), ..Patch::default() }),
        Event::Withdrawn,
        reserved(7, 4).1,
        Event::Released(claim(7)),
        Event::Settled(vec![claim(7), claim(8)]),
        Event::TimePassed,
    ];
    for event in events {
        let text = serde_json::to_string(&event).expect("serializes");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("reads back"), event, "{text}");
    }
}
