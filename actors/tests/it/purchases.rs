//! Whole purchases over journals in memory and a provider that does as it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use souk_actors::account::Account;
use souk_actors::category::Category;
use souk_actors::order::{self, Item, Order, Place, Status};
use souk_actors::payment;
use souk_actors::product::{self, Facts, Product};
use souk_actors::{Clock, Id, Journals, Pace, Shop, Slot, Timestamp};
use souk_persistence::journal::Journal;
use souk_persistence::memory::{Fault, MemoryJournal};
use souk_persistence::provider::{
    ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest,
};
use tokio::time::Instant;
use uuid::Uuid;

const STOCK: i64 = 1_000;
const ASK: Duration = Duration::from_secs(20);

/// A provider whose answers get lost, before or after it has done what it was asked.
#[derive(Debug)]
struct Flaky {
    random: Mutex<StdRng>,
    books: Mutex<HashMap<Uuid, (i64, i64)>>,
}

impl Flaky {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { random: Mutex::new(StdRng::seed_from_u64(seed)), books: Mutex::default() })
    }

    fn draw(&self) -> u32 {
        self.random.lock().expect("no panic").random_range(0..10)
    }

    fn lost<T>() -> Result<T, ProviderUnknown> {
        Err(ProviderUnknown("lost".to_owned()))
    }
}

impl PaymentProvider for Flaky {
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
        let fate = self.draw();
        let mut books = self.books.lock().expect("no panic");
        let answer = if books.contains_key(&request.key) || fate > 2 {
            books.entry(request.key).or_insert((request.amount, 0));
            match fate {
                3 | 4 => Self::lost(),
                _ => Ok(Charged::Captured { reference: "r".to_owned() }),
            }
        } else {
            match fate {
                0 => Ok(Charged::Declined { reason: "no".to_owned() }),
                _ => Self::lost(),
            }
        };
        async move { answer }.boxed()
    }

    fn find(&self, key: Uuid) -> BoxFuture<'_, Result<Option<Found>, ProviderUnknown>> {
        let books = self.books.lock().expect("no panic");
        let found = books.get(&key).map(|(amount, _)| Found { amount: *amount, reference: "r".to_owned() });
        let answer = if self.draw() < 3 { Self::lost() } else { Ok(found) };
        async move { answer }.boxed()
    }

    fn refund(&self, request: RefundRequest) -> BoxFuture<'_, Result<(), ProviderUnknown>> {
        let fate = self.draw();
        if fate > 2
            && let Some((_, refunded)) = self.books.lock().expect("no panic").get_mut(&request.key)
        {
            *refunded = request.amount;
        }
        let answer = if fate < 5 { Self::lost() } else { Ok(()) };
        async move { answer }.boxed()
    }
}

/// Journals and a provider that outlive the shop over them.
pub struct World {
    journals: [Arc<MemoryJournal>; 4],
    provider: Arc<Flaky>,
    clock: Clock,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let journals = ["account", "product", "order", "payment"].map(MemoryJournal::open);
        let origin = Timestamp::from_micros(1_700_000_000_000_000);
        let clock = Clock::Tokio { origin, started: Instant::now() };
        Self { journals, provider: Flaky::new(seed), clock }
    }

    pub fn provider(&self) -> Arc<dyn PaymentProvider> {
        self.provider.clone()
    }

    pub async fn open(&self) -> Shop {
        let [account, product, order, payment] = self.journals.clone();
        let journals = Journals { account, product, order, payment };
        let pace = Pace { sweep_every: Duration::from_secs(1), ..Pace::default() };
        Shop::start(journals, self.provider.clone(), self.clock, pace).await.expect("opens")
    }

    fn views<T: serde::de::DeserializeOwned>(&self, rows: &[souk_persistence::journal::ViewRow]) -> Vec<T> {
        rows.iter().map(|row| serde_json::from_str(&row.view).expect("a view")).collect()
    }
}

async fn product(shop: &Shop, clock: Clock) -> Id<Product> {
    let id = Id::fresh(clock.now(), Slot::random());
    let facts = Facts {
        seller: Id::<Account>::from(Uuid::from_u128(1)),
        category: Id::<Category>::from(Uuid::from_u128(2)),
        name: "n".to_owned(),
        description: "d".to_owned(),
        brand: "b".to_owned(),
        price: 7,
        currency: "VND".parse().expect("in ISO 4217"),
        fingerprint: None,
    };
    let command = product::Command::Create { facts, inventory: STOCK };
    shop.directory().create(id, command, ASK).await.expect("created");
    id
}

fn place(items: Vec<Item>) -> order::Command {
    order::Command::Place(Place {
        customer: Id::from(Uuid::from_u128(1)),
        items,
        currency: "VND".parse().expect("in ISO 4217"),
        token: None,
        fingerprint: Some("f".to_owned()),
        patience: Duration::from_secs(10),
        impossible: false,
    })
}

/// Twenty-five purchases of three products under lost commits, lost answers of the provider, cancels, and
/// a shop that is stopped dead in the middle and opened again.
async fn run(seed: u64) {
    let world = World::new(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let shop = world.open().await;
    let products = [
        product(&shop, world.clock).await,
        product(&shop, world.clock).await,
        product(&shop, world.clock).await,
    ];
    for journal in &world.journals[1..] {
        let faults = (0..12).map(|_| if random.random() { Fault::LoseAnswer } else { Fault::LoseRequest });
        journal.fail_next(faults.collect::<Vec<_>>());
    }
    let orders: Vec<(Id<Order>, Vec<Item>, bool)> = (0..25)
        .map(|_| {
            let first = random.random_range(0..3);
            let item = |index: usize, quantity| Item { product: products[index % 3], quantity };
            let items =
                vec![item(first, random.random_range(1..60)), item(first + 1, random.random_range(1..60))];
            (Id::fresh(world.clock.now(), Slot::random()), items, random.random_range(0..5) == 0)
        })
        .collect();
    let buy = |shop: &Shop| {
        let directory = shop.directory().clone();
        let asks = orders.clone().into_iter().map(move |(id, items, is_cancelled)| {
            let directory = directory.clone();
            async move {
                let placed = directory.ask(id, place(items), ASK).await;
                if is_cancelled {
                    let by = Id::from(Uuid::from_u128(1));
                    // Too late, or not: the laws must hold either way.
                    let _ = directory.ask(id, order::Command::Cancel { by, reason: None }, ASK).await;
                }
                placed.is_ok()
            }
        });
        join_all(asks)
    };
    let dying = buy(&shop);
    let lifetime = Duration::from_micros(random.random_range(1..60_000));
    let _ = tokio::time::timeout(lifetime, dying).await;
    // Dead in the middle: nothing is drained.
    shop.stop(Duration::ZERO).await;
    let shop = world.open().await;
    let placed = buy(&shop).await;
    assert!(placed.iter().all(|placed| *placed), "seed {seed}: {placed:?}");
    settled(&world, seed).await;
    laws(&world, seed, &orders, &products).await;
    nobody_stays(&shop, seed).await;
    shop.stop(Duration::from_secs(1)).await;
}

async fn settled(world: &World, seed: u64) {
    let end = Timestamp::from_micros(i64::MAX / 2);
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        let mut owed = 0;
        for journal in &world.journals {
            owed += journal.owed(0..=4095, end, None, 1_000).await.expect("reads").len();
        }
        if owed == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "seed {seed}: {owed} still owe something");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What is at rest leaves memory, whatever was under way when it came to rest.
async fn nobody_stays(shop: &Shop, seed: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while shop.in_flight() != (0, 0) {
        assert!(Instant::now() < deadline, "seed {seed}: {:?} stay in memory", shop.in_flight());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn laws(
    world: &World,
    seed: u64,
    orders: &[(Id<Order>, Vec<Item>, bool)],
    products: &[Id<Product>; 3],
) {
    let [_, product_db, order_db, payment_db] = &world.journals;
    let ids: Vec<_> = orders.iter().map(|(id, ..)| id.uuid()).collect();
    let rows = order_db.views(6, ids.clone()).await.expect("views");
    assert_eq!(rows.len(), orders.len(), "seed {seed}");
    let mut sold: HashMap<Id<Product>, i64> = HashMap::new();
    let payments: HashMap<Uuid, payment::View> = {
        let rows = payment_db.views(7, ids).await.expect("views");
        rows.iter().map(|row| row.stream).zip(world.views(&rows)).collect()
    };
    for (row, view) in rows.iter().zip(world.views::<order::View>(&rows)) {
        assert!(view.at_rest && view.attention.is_none(), "seed {seed}: {view:?}");
        let payment = payments.get(&row.stream);
        let books = world.provider.books.lock().expect("no panic").get(&row.stream).copied();
        let (captured, refunded) = books.unwrap_or((0, 0));
        match view.status {
            Status::Completed => {
                view.lines
                    .iter()
                    .for_each(|line| *sold.entry(line.product).or_default() += i64::from(line.quantity));
                let payment = payment.expect("a completed order is paid");
                assert_eq!(payment.status, payment::Status::Captured, "seed {seed}");
                assert_eq!((Some(captured), refunded), (view.amount, 0), "seed {seed}");
            }
            Status::Failed | Status::Cancelled => {
                assert_eq!(captured, refunded, "seed {seed}: money is kept for {view:?}");
                assert!(
                    payment.is_none_or(|payment| payment.status == payment::Status::Voided),
                    "seed {seed}"
                );
            }
            Status::Pending => panic!("seed {seed}: {view:?}"),
        }
    }
    let rows = product_db.views(5, products.map(|id| id.uuid()).to_vec()).await.expect("views");
    for (row, view) in rows.iter().zip(world.views::<product::View>(&rows)) {
        let sold = sold.get(&Id::from(row.stream)).copied().unwrap_or(0);
        assert_eq!((view.inventory, view.held), (STOCK - sold, 0), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_every_purchase_ends_and_stock_and_money_are_conserved() {
    for seed in 0..40 {
        run(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_five_minutes_leaves_nothing_undone_and_nobody_needed() {
    let world = World::new(7);
    let shop = world.open().await;
    let one = product(&shop, world.clock).await;
    let id = Id::<Order>::fresh(world.clock.now(), Slot::random());
    let items = vec![Item { product: one, quantity: 3 }];
    shop.directory().ask(id, place(items), ASK).await.expect("accepted");
    for journal in &world.journals {
        journal.pause(true);
        journal.away(true);
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    for journal in &world.journals {
        journal.pause(false);
        journal.away(false);
    }
    settled(&world, 7).await;
    let rows = world.journals[2].views(6, vec![id.uuid()]).await.expect("views");
    let view: order::View = serde_json::from_str(&rows[0].view).expect("a view");
    assert!(view.at_rest && view.attention.is_none() && view.status != Status::Pending, "{view:?}");
    let rows = world.journals[1].views(5, vec![one.uuid()]).await.expect("views");
    let stock: product::View = serde_json::from_str(&rows[0].view).expect("a view");
    let sold = if view.status == Status::Completed { 3 } else { 0 };
    assert_eq!((stock.inventory, stock.held), (STOCK - sold, 0));
}
