//! The stage of a simulation: journals and a bank that outlive the nodes over them, in a time of its own.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use souk_actors::account::Account;
use souk_actors::aggregate::Kind;
use souk_actors::category::Category;
use souk_actors::directory::{AskError, Housed};
use souk_actors::order::{self, Item, Order, Place};
use souk_actors::product::{self, Facts, Product};
use souk_actors::{Clock, Id, Journals, Pace, Places, Shop, Slot, Timestamp};
use souk_persistence::chance;
use souk_persistence::journal::Journal;
use souk_persistence::memory::MemoryJournal;
use tokio::time::Instant;
use uuid::Uuid;

use crate::bank::Bank;
use crate::plot;

/// How long a client waits for one answer.
pub const ASK: Duration = Duration::from_secs(20);
/// Of one of each product.
pub const PRICE: i64 = 7;
/// How long a purchase may take to be reserved and charged.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// No play takes so long in its own time.
const PLAY_MAX: Duration = Duration::from_secs(2 * 3_600);

const NAMES: [&str; 4] = ["account", "product", "order", "payment"];

/// Plays in a runtime and a time of its own, in which all that is drawn follows from `seed`.
pub fn play<T>(seed: u64, play: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    chance::seed(Some(seed));
    let played = runtime.block_on(async { tokio::time::timeout(PLAY_MAX, play).await });
    drop(runtime);
    plot::follow(None);
    chance::seed(None);
    played.expect("the play ends")
}

/// Journals and a bank.
pub struct Stage {
    /// The audience's handles: they are never paused.
    pub journals: [Arc<MemoryJournal>; 4],
    pub bank: Arc<Bank>,
    pub clock: Clock,
    pub pace: Pace,
}

/// A shop over handles of its own.
pub struct Node {
    pub shop: Shop,
    pub journals: [Arc<MemoryJournal>; 4],
}

impl Node {
    /// Its machine loses power: what its writers hold is never sent.
    pub fn kill(&self) {
        self.freeze(true);
        self.shop.kill();
    }

    /// The network between it and the databases is gone, or back.
    pub fn freeze(&self, is_frozen: bool) {
        for journal in &self.journals {
            journal.pause(is_frozen);
            journal.away(is_frozen);
        }
    }

    /// A commit takes up to so long.
    pub fn slow(&self, latency: Duration) {
        self.journals.iter().for_each(|journal| journal.slow(latency));
    }
}

impl Stage {
    pub fn set() -> Self {
        let origin = Timestamp::from_micros(1_700_000_000_000_000);
        let clock = Clock::Tokio { origin, started: Instant::now() };
        Self {
            journals: NAMES.map(MemoryJournal::open),
            bank: Bank::open(clock),
            clock,
            pace: Pace::default(),
        }
    }

    /// Opens a shop on a node of its own.
    pub async fn open(&self) -> Arc<Node> {
        self.open_in(Places::alone()).await
    }

    /// Opens a shop that has some of the slots.
    pub async fn open_in(&self, places: Places) -> Arc<Node> {
        let journals = self.journals.each_ref().map(|journal| journal.beside("of a node"));
        let [account, product, order, payment] = journals.clone();
        let all = Journals { account, product, order, payment };
        let shop = Shop::start(all, self.bank.clone(), self.clock, self.pace, places).await.expect("opens");
        Arc::new(Node { shop, journals })
    }

    /// The journals as the laws read them.
    pub fn read(&self) -> Journals {
        let [account, product, order, payment] = self.journals.clone();
        Journals { account, product, order, payment }
    }

    /// What readers see of an entity.
    pub async fn view<V: DeserializeOwned>(&self, kind: Kind, id: Uuid) -> Option<V> {
        let journal = match kind {
            Kind::Account | Kind::Session | Kind::Email => &self.journals[0],
            Kind::Category | Kind::Product => &self.journals[1],
            Kind::Order => &self.journals[2],
            Kind::Payment => &self.journals[3],
        };
        let row = journal.views(kind.number(), vec![id]).await.expect("views").pop()?;
        Some(serde_json::from_str(&row.view).expect("a view"))
    }

    pub async fn order(&self, id: Id<Order>) -> Option<order::View> {
        self.view::<Option<order::View>>(Kind::Order, id.uuid()).await.flatten()
    }

    pub async fn product(&self, id: Id<Product>) -> Option<product::View> {
        self.view::<Option<product::View>>(Kind::Product, id.uuid()).await.flatten()
    }

    /// Waits until nobody owes anything any more. An error: somebody still does after so long.
    pub async fn settled(&self, within: Duration) -> Result<(), String> {
        let end = Timestamp::from_micros(i64::MAX / 2);
        let deadline = Instant::now() + within;
        loop {
            let mut owed = Vec::new();
            for journal in &self.journals {
                owed.extend(journal.owed(0..=4095, end, None, 1_000).await.expect("reads"));
            }
            if owed.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("still owed after {within:?}: {owed:?}"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until what is at rest has left memory.
    pub async fn nobody_stays(&self, node: &Node) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while node.shop.in_flight() != (0, 0) {
            if Instant::now() >= deadline {
                return Err(format!("{:?} stay in memory", node.shop.in_flight()));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// Offers a product.
    pub async fn offer(&self, node: &Node, stock: i64) -> Id<Product> {
        let id = Id::fresh(self.clock.now(), Slot::random());
        let facts = Facts {
            seller: seller(),
            category: Id::<Category>::from(Uuid::from_u128(2)),
            name: "n".to_owned(),
            description: "d".to_owned(),
            brand: "b".to_owned(),
            price: PRICE,
            currency: "VND".parse().expect("in ISO 4217"),
            fingerprint: None,
        };
        let command = product::Command::Create { facts, inventory: stock };
        node.shop.directory().create(id, command, ASK).await.expect("created");
        id
    }

    pub fn order_id(&self) -> Id<Order> {
        Id::fresh(self.clock.now(), Slot::random())
    }

    /// Names everything that was stored, in the order in which it was, and everything in the bank's books.
    pub fn trace(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for journal in &self.journals {
            for (stream, row) in journal.chronicle() {
                (stream, row.version, row.at.micros(), row.events).hash(&mut hash);
            }
        }
        for (key, account) in self.bank.books() {
            (key, account.captures, account.refunds).hash(&mut hash);
        }
        hash.finish()
    }
}

pub fn seller() -> Id<Account> {
    Id::from(Uuid::from_u128(1))
}

pub fn buyer() -> Id<Account> {
    Id::from(Uuid::from_u128(3))
}

pub fn place(items: Vec<Item>, token: Option<&str>) -> order::Command {
    order::Command::Place(Place {
        customer: buyer(),
        items,
        currency: "VND".parse().expect("in ISO 4217"),
        token: token.map(str::to_owned),
        fingerprint: Some("f".to_owned()),
        patience: PATIENCE,
        impossible: false,
        outside: order::Outside::default(),
        trace: None,
    })
}

pub fn cancel() -> order::Command {
    order::Command::Cancel { by: buyer(), reason: None }
}

/// Asks an entity until somebody knows.
pub async fn certain<A: Housed>(
    node: &Node,
    id: Id<A>,
    command: A::Command,
) -> Result<A::Answer, A::Rejection> {
    loop {
        match node.shop.directory().ask(id, command.clone(), ASK).await {
            Ok(answer) => return Ok(answer),
            Err(AskError::Rejected(rejection)) => return Err(rejection),
            Err(AskError::Unknown) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// How often something happened, by what it is called.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&all.join(", "))
    }
}
