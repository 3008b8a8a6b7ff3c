//! The laws over a shop that has sold: they hold, and a violation of each is seen as that law's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use souk_actors::account::{self, Account, Personal};
use souk_actors::aggregate::Aggregate;
use souk_actors::laws::{Booked, Books, Law, Moment, Report, check, check_again};
use souk_actors::order::{self, Accepted, Item, Order, Place};
use souk_actors::payment::{self, Payment};
use souk_actors::product::{self, Facts, Hold, Product};
use souk_actors::saga::Direction;
use souk_actors::{Clock, Id, Journals, Pace, Places, Shop, Slot, Timestamp};
use souk_persistence::journal::{Committed, Journal, Row, Scanned};
use souk_persistence::memory::MemoryJournal;
use souk_persistence::provider::{
    ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest,
};
use tokio::time::Instant;
use uuid::Uuid;

const ASK: Duration = Duration::from_secs(20);
const DECLINED: &str = "declined";
/// Says that it declined, and has captured.
const LIES: &str = "lies";

/// A provider that does at once as the token says.
#[derive(Debug, Default)]
struct Bank {
    books: Mutex<Books>,
}

impl PaymentProvider for Bank {
    fn settles_within(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn remembers_for(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn charge(
        &self,
        request: ChargeRequest,
        _expires: Timestamp,
    ) -> BoxFuture<'_, Result<Charged, ProviderUnknown>> {
        if request.token != DECLINED {
            let booked = Booked { captured: request.amount, refunded: 0 };
            self.books.lock().expect("no panic").entry(request.key).or_insert(booked);
        }
        let charged = match request.token.as_str() {
            DECLINED | LIES => Charged::Declined { reason: "no".to_owned() },
            _ => Charged::Captured { reference: "r".to_owned() },
        };
        async move { Ok(charged) }.boxed()
    }

    fn find(&self, key: Uuid) -> BoxFuture<'_, Result<Option<Found>, ProviderUnknown>> {
        let found = self.books.lock().expect("no panic").get(&key).copied();
        let found =
            found.map(|Booked { captured, .. }| Found { amount: captured, reference: "r".to_owned() });
        async move { Ok(found) }.boxed()
    }

    fn refund(&self, request: RefundRequest) -> BoxFuture<'_, Result<(), ProviderUnknown>> {
        if let Some(booked) = self.books.lock().expect("no panic").get_mut(&request.key) {
            booked.refunded = request.amount;
        }
        async { Ok(()) }.boxed()
    }
}

/// A shop that has sold, closed.
struct Sold {
    account: Arc<MemoryJournal>,
    product: Arc<MemoryJournal>,
    order: Arc<MemoryJournal>,
    payment: Arc<MemoryJournal>,
    bank: Arc<Bank>,
    clock: Clock,
    shoes: Id<Product>,
    completed: Id<Order>,
    failed: Id<Order>,
}

fn customer() -> Id<Account> {
    Id::from(Uuid::from_u128(1))
}

async fn offer(shop: &Shop, clock: Clock) -> Id<Product> {
    let id = Id::fresh(clock.now(), Slot::random());
    let facts = Facts {
        seller: customer(),
        category: Id::from(Uuid::from_u128(2)),
        name: "n".to_owned(),
        description: "d".to_owned(),
        brand: "b".to_owned(),
        price: 7,
        currency: "VND".parse().expect("in ISO 4217"),
        fingerprint: None,
    };
    let command = product::Command::Create { facts, inventory: 1_000 };
    shop.directory().create(id, command, ASK).await.expect("created");
    id
}

impl Sold {
    /// Of two products something is bought, declined, cancelled, and captured though it was declined; of
    /// one the price changes until it has a snapshot, and an account's past is forgotten.
    async fn open() -> Self {
        let origin = Timestamp::from_micros(1_700_000_000_000_000);
        let clock = Clock::Tokio { origin, started: Instant::now() };
        let [account, product, order, payment] =
            ["account", "product", "order", "payment"].map(MemoryJournal::open);
        let bank = Arc::new(Bank::default());
        let journals = Journals {
            account: account.clone(),
            product: product.clone(),
            order: order.clone(),
            payment: payment.clone(),
        };
        let shop = Shop::start(journals, bank.clone(), clock, Pace::default(), Places::alone())
            .await
            .expect("opens");
        let (shoes, hats) = (offer(&shop, clock).await, offer(&shop, clock).await);
        let buy = async |token: &str| {
            let id = Id::<Order>::fresh(clock.now(), Slot::random());
            let place = order::Command::Place(Place {
                customer: customer(),
                items: vec![Item { product: shoes, quantity: 4 }, Item { product: hats, quantity: 5 }],
                currency: "VND".parse().expect("in ISO 4217"),
                token: Some(token.to_owned()),
                fingerprint: None,
                patience: Duration::from_secs(10),
                impossible: false,
                outside: order::Outside::default(),
                trace: None,
            });
            shop.directory().create(id, place, ASK).await.expect("accepted");
            id
        };
        let (completed, failed, _) = (buy("token").await, buy(DECLINED).await, buy(LIES).await);
        // Held up, so that the cancel comes before the end.
        product.pause(true);
        let cancelled = buy("token").await;
        let cancel = order::Command::Cancel { by: customer(), reason: None };
        shop.directory().ask(cancelled, cancel, ASK).await.expect("cancelled");
        product.pause(false);
        for price in 8..80 {
            let patch = product::Patch { price: Some(price), ..product::Patch::default() };
            let change = product::Command::Change { by: customer(), patch, seen: None };
            shop.directory().ask(hats, change, ASK).await.expect("changed");
        }
        register(&shop, clock).await;
        account.forget(vec![1], 100).await.expect("forgets");
        let sold = Self { account, product, order, payment, bank, clock, shoes, completed, failed };
        sold.settled().await;
        shop.stop(Duration::from_secs(1)).await;
        sold
    }

    fn journals(&self) -> Journals {
        Journals {
            account: self.account.clone(),
            product: self.product.clone(),
            order: self.order.clone(),
            payment: self.payment.clone(),
        }
    }

    async fn settled(&self) {
        let end = Timestamp::from_micros(i64::MAX / 2);
        let owes = async |journal: &Arc<MemoryJournal>| {
            !journal.owed(0..=4095, end, None, 1).await.expect("reads").is_empty()
        };
        while owes(&self.order).await || owes(&self.payment).await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn look(&self, moment: Moment) -> Report {
        let books = self.bank.books.lock().expect("no panic").clone();
        check(&self.journals(), Some(&books), moment).await.expect("reads")
    }

    async fn at_rest(&self) -> Report {
        self.look(Moment::AtRest(self.clock.now())).await
    }

    /// Sees exactly this law broken, once, in this stream.
    async fn breaks(&self, law: Law, stream: Uuid) {
        let report = self.at_rest().await;
        assert_eq!(report.broken(), vec![law], "{report}");
        let verdict = report.verdicts.iter().find(|verdict| verdict.law == law).expect("a verdict");
        assert_eq!((verdict.count, verdict.examples[0].stream), (1, stream), "{report}");
    }
}

async fn register(shop: &Shop, clock: Clock) {
    let id = Id::<Account>::fresh(clock.now(), Slot::random());
    let personal = Personal::default();
    let (email, password_hash) = ("a@b".to_owned(), "h".to_owned());
    let open = account::Command::Open { email, password_hash, personal };
    shop.directory().create(id, open, ASK).await.expect("opened");
    for name in ["An", "Binh"] {
        let patch = account::Patch { first_name: Some(name.to_owned()), ..account::Patch::default() };
        let change = account::Command::ChangePersonal(patch);
        shop.directory().ask(id, change, ASK).await.expect("changed");
    }
}

/// A row that goes on where the stream stands, as its entity would write it.
async fn row<A: Aggregate>(journal: &MemoryJournal, stream: Uuid, events: Vec<A::Event>) -> Row {
    let entity: Option<Scanned> =
        journal.scan(None, 1_000).await.expect("reads").into_iter().find(|entity| entity.stream == stream);
    let mut state = A::default();
    let rows = journal.scan_rows(None, Uuid::max(), 10_000).await.expect("reads");
    for row in rows.iter().filter(|row| row.stream == stream) {
        let events: Vec<(i64, A::Event)> = serde_json::from_str(&row.row.events).expect("events");
        for (offset, event) in events {
            state.apply(Timestamp::from_micros(row.row.at.micros() + offset), &event);
        }
    }
    let before = entity.as_ref().map_or(Timestamp::from_micros(1_700_000_000_000_000), |e| e.updated_at);
    let at = if events.is_empty() { before } else { before + Duration::from_secs(1) };
    events.iter().for_each(|event| state.apply(at, event));
    let version = entity.map_or(0, |entity| entity.version) + 1;
    let snapshot = serde_json::json!({"version": version, "at": at, "state": state});
    let events: Vec<_> = events.into_iter().map(|event| (0, event)).collect();
    Row {
        stream,
        version,
        kind: A::KIND.number(),
        slot: Id::<A>::from(stream).slot().number(),
        at,
        updated_at: at,
        events: serde_json::to_string(&events).expect("serializes"),
        owner: state.owner(),
        owed: None,
        view: serde_json::to_string(&state.view()).expect("serializes").into(),
        snapshot: Some(snapshot.to_string()),
    }
}

async fn commit(journal: &MemoryJournal, row: Row) {
    let (told, hears) = tokio::sync::oneshot::channel();
    journal.commit(row, Box::new(move |committed| drop(told.send(committed))));
    assert_eq!(hears.await, Ok(Committed::Taken));
}

async fn plant<A: Aggregate>(journal: &MemoryJournal, stream: Uuid, events: Vec<A::Event>) {
    let row = row::<A>(journal, stream, events).await;
    commit(journal, row).await;
}

#[tokio::test(start_paused = true)]
async fn a_healthy_shop_keeps_every_law() {
    let sold = Sold::open().await;
    for moment in [Moment::AtRest(sold.clock.now()), Moment::Live(sold.clock.now())] {
        let report = sold.look(moment).await;
        assert!(report.holds(), "{report}");
        assert!(report.verdicts.iter().all(|verdict| verdict.rows > 0), "{report}");
        let purchases = report.purchases;
        assert_eq!((purchases.completed, purchases.failed, purchases.cancelled), (1, 2, 1));
    }
    let [account, product, order, payment] = ["a", "b", "c", "d"].map(MemoryJournal::open);
    let empty = Journals { account, product, order, payment };
    let report = check(&empty, None, Moment::AtRest(sold.clock.now())).await.expect("reads");
    assert!(report.holds() && report.is_empty(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_a_stream_is_seen() {
    let sold = Sold::open().await;
    let id = sold.failed.uuid();
    // With a snapshot of its own, so that the rows before it can go.
    plant::<Order>(&sold.order, id, vec![]).await;
    sold.order.forget(vec![6], 100).await.expect("forgets");
    sold.breaks(Law::StreamsWithoutGaps, id).await;
}

#[tokio::test(start_paused = true)]
async fn a_view_that_its_history_does_not_lead_to_is_seen() {
    let sold = Sold::open().await;
    let id = sold.completed.uuid();
    let row = row::<Payment>(&sold.payment, id, vec![]).await;
    let view = row.view.replace("captured\"", "voided\"").into();
    commit(&sold.payment, Row { view, ..row }).await;
    sold.breaks(Law::StateIsItsHistory, id).await;
}

fn accepted(sold: &Sold, at: Timestamp, outside: order::Outside) -> Accepted {
    Accepted {
        definition: order::DEFINITION,
        customer: customer(),
        items: vec![Item { product: sold.shoes, quantity: 1 }],
        currency: "VND".parse().expect("in ISO 4217"),
        token: None,
        fingerprint: None,
        at,
        reserve_by: at + Duration::from_secs(10),
        outside,
        trace: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_purchase_that_does_not_end_is_seen() {
    let sold = Sold::open().await;
    let id = Id::<Order>::fresh(sold.clock.now(), Slot::random());
    let at = sold.clock.now();
    let accepted = accepted(&sold, at, order::Outside::default());
    let row = row::<Order>(&sold.order, id.uuid(), vec![order::Event::Accepted(accepted)]).await;
    commit(&sold.order, Row { owed: Some(at), ..row }).await;
    sold.breaks(Law::EveryPurchaseEnds, id.uuid()).await;

    // At work it is under way until a minute past its deadline.
    let report = sold.look(Moment::Live(at + Duration::from_secs(70))).await;
    assert!(report.holds() && report.purchases.pending == 1, "{report}");
    let report = sold.look(Moment::Live(at + Duration::from_secs(71))).await;
    assert_eq!(report.broken(), vec![Law::EveryPurchaseEnds], "{report}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_outside_may_be_waited_for_until_they_are_to_be_asked_again() {
    let sold = Sold::open().await;
    let id = Id::<Order>::fresh(sold.clock.now(), Slot::random());
    // Before the row: it was accepted, and then asked.
    let at = Timestamp::from_micros(1_700_000_000_000_000);
    let accepted = accepted(&sold, at, order::Outside { inventory: true, payment: false });
    let asked = order::Event::Asked { step: 0, direction: Direction::Forward, attempt: 1 };
    let row = row::<Order>(&sold.order, id.uuid(), vec![order::Event::Accepted(accepted), asked]).await;
    let owed = row.at + Duration::from_secs(2);
    commit(&sold.order, Row { owed: Some(owed), ..row }).await;
    let report = sold.look(Moment::AtRest(owed - Duration::from_secs(1))).await;
    assert!(report.holds() && report.purchases.pending == 1, "{report}");
    let report = sold.look(Moment::AtRest(owed)).await;
    assert_eq!(report.broken(), vec![Law::EveryPurchaseEnds], "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_second_outcome_is_seen() {
    let sold = Sold::open().await;
    plant::<Order>(&sold.order, sold.completed.uuid(), vec![order::Event::Completed]).await;
    sold.breaks(Law::OneOutcome, sold.completed.uuid()).await;
}

#[tokio::test(start_paused = true)]
async fn stock_that_is_held_for_no_order_is_seen() {
    let sold = Sold::open().await;
    let hold = Hold { quantity: 4, price: 7 };
    let purchase = Id::<Order>::fresh(sold.clock.now(), Slot::random());
    let reserved = product::Event::Reserved { purchase, hold };
    plant::<Product>(&sold.product, sold.shoes.uuid(), vec![reserved]).await;
    sold.breaks(Law::StockConserved, purchase.uuid()).await;
}

#[tokio::test(start_paused = true)]
async fn money_that_only_the_provider_knows_of_is_seen() {
    let sold = Sold::open().await;
    sold.bank.books.lock().expect("no panic").entry(sold.failed.uuid()).or_default().captured += 1;
    sold.breaks(Law::MoneyConserved, sold.failed.uuid()).await;
    let unknown = check(&sold.journals(), None, Moment::AtRest(sold.clock.now())).await.expect("reads");
    assert!(unknown.holds() && !unknown.has_books, "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn a_completed_purchase_whose_payment_was_taken_back_is_seen() {
    let sold = Sold::open().await;
    let id = sold.completed.uuid();
    let bill = sold.bill(id).await;
    let taken_back =
        vec![payment::Event::Voided { bill, in_doubt_until: sold.clock.now() }, payment::Event::Refunded];
    plant::<Payment>(&sold.payment, id, taken_back).await;
    let give_back = |booked: &mut Booked| booked.refunded = booked.captured;
    sold.bank.books.lock().expect("no panic").entry(id).and_modify(give_back);
    sold.breaks(Law::OneStory, id).await;
}

impl Sold {
    async fn bill(&self, id: Uuid) -> payment::Bill {
        let rows = self.payment.scan_rows(None, Uuid::max(), 1_000).await.expect("reads");
        let row = rows.into_iter().find(|row| row.stream == id).expect("a row");
        let events: Vec<(i64, payment::Event)> = serde_json::from_str(&row.row.events).expect("events");
        match events.into_iter().next() {
            Some((_, payment::Event::Captured { bill, .. })) => bill,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_second_look_does_not_find_in_the_same_stream_is_not_reported() {
    let sold = Sold::open().await;
    let books: Books = HashMap::from([(sold.failed.uuid(), Booked { captured: 9, refunded: 0 })]);
    let moment = Moment::Live(sold.clock.now());
    let first = check(&sold.journals(), Some(&books), moment).await.expect("reads");
    assert_eq!(first.broken(), vec![Law::MoneyConserved]);
    let right = sold.bank.books.lock().expect("no panic").clone();
    let second = check_again(&sold.journals(), Some(&right), moment, &first).await.expect("reads");
    assert!(second.holds(), "{second}");
    let second = check_again(&sold.journals(), Some(&books), moment, &first).await.expect("reads");
    assert_eq!(second.broken(), vec![Law::MoneyConserved]);
}
