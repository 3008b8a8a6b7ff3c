//! One seed: buyers, sellers, nodes that die and come back, and weather on every way between them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use souk_actors::aggregate::Kind;
use souk_actors::directory::AskError;
use souk_actors::fate::{Fate, Moment};
use souk_actors::order::{self, Item, Order};
use souk_actors::product::{self, Patch, Product};
use souk_actors::{Directory, Id};
use souk_persistence::memory::Fault;
use tokio::time::Instant;
use uuid::Uuid;

use super::Played;
use crate::bank::{CAPTURED_BUT_DECLINED, DECLINED};
use crate::plot::{self, Action, Plot};
use crate::stage::{Counts, Node, Stage, cancel, place, seller};
use crate::truth::{Cast, End, Promise, ends};

const PURCHASES: usize = 25;
/// Of each product.
const STOCK: i64 = 300;
/// For so long things befall.
const STORM: Duration = Duration::from_secs(20);
/// An entity that fails five times without writing a row is left to a person: fewer fail in a storm.
const PANICS_MAX: u32 = 4;
/// Longer than every back-off and second look.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// What befalls messages.
pub struct Weather {
    random: RefCell<StdRng>,
    until: Instant,
    /// Of a thousand messages so many meet a fate.
    roughness: u32,
    panics: Cell<u32>,
    counts: RefCell<Counts>,
}

impl Weather {
    /// All that is drawn follows from `random`.
    pub fn brew(random: &mut StdRng, until: Instant) -> Rc<Self> {
        Rc::new(Self {
            random: RefCell::new(StdRng::seed_from_u64(random.random())),
            until,
            roughness: random.random_range(10..120),
            panics: Cell::new(0),
            counts: RefCell::default(),
        })
    }

    fn draw(&self, below: u32) -> u32 {
        self.random.borrow_mut().random_range(0..below)
    }

    fn count(&self, what: &'static str) {
        self.counts.borrow_mut().add(what);
    }

    fn is_calm(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Mostly short, sometimes long.
    fn late(&self) -> Duration {
        let longest = [5, 50, 500, 5_000, 12_000][self.draw(5) as usize];
        Duration::from_millis(u64::from(self.draw(longest)))
    }
}

impl Plot for Weather {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        if self.is_calm() || self.draw(1_000) >= self.roughness {
            return Fate::Delivered;
        }
        let is_banks = action.participant().is_none();
        let (what, fate) = match self.draw(8) {
            0 => ("request lost", Fate::RequestLost),
            1 => ("answer lost", Fate::AnswerLost),
            2 => ("unknown", Fate::Unknown),
            3 => ("done and unknown", Fate::DoneUnknown),
            4 => ("asked twice", Fate::Twice),
            5 | 6 => ("request late", Fate::RequestLate(self.late())),
            _ => ("answer late", Fate::AnswerLate(self.late())),
        };
        self.count(if is_banks { "bank call" } else { what });
        fate
    }

    fn answers(&self, _kind: Kind, _to: Uuid, _effect: &'static str) -> Fate {
        if self.is_calm() || self.draw(1_000) >= self.roughness {
            return Fate::Delivered;
        }
        self.count("answered twice or late");
        match self.draw(2) {
            0 => Fate::Twice,
            _ => Fate::AnswerLate(self.late()),
        }
    }

    fn strikes(&self, _kind: Kind, _id: Uuid, _message: &'static str, _moment: Moment) -> bool {
        let is_struck = !self.is_calm() && self.panics.get() < PANICS_MAX && self.draw(400) == 0;
        if is_struck {
            self.panics.set(self.panics.get() + 1);
            self.count("panic");
        }
        is_struck
    }
}

/// The nodes that are open.
type Open = Rc<RefCell<Vec<Arc<Node>>>>;

/// A moment of the storm, mostly early: that is when things happen.
fn moment(random: &mut StdRng) -> Duration {
    let longest = [20, 200, 2_000, 15_000][random.random_range(0..4)];
    Duration::from_millis(random.random_range(0..longest))
}

struct Purchase {
    id: Id<Order>,
    items: Vec<Item>,
    token: Option<&'static str>,
    begins: Duration,
    /// The buyer asks so often for an answer, and then gives up.
    patience: u32,
    cancelled_after: Option<Duration>,
    doors: StdRng,
}

fn purchases(stage: &Stage, random: &mut StdRng, products: &[Id<Product>; 3]) -> Vec<Purchase> {
    let purchase = |random: &mut StdRng| {
        let first = random.random_range(0..3);
        let count = random.random_range(1..3);
        let item = |index: usize, quantity| Item { product: products[(first + index) % 3], quantity };
        Purchase {
            id: stage.order_id(),
            items: (0..count).map(|index| item(index, random.random_range(1..40))).collect(),
            token: match random.random_range(0..12) {
                0 => Some(DECLINED),
                1 => Some(CAPTURED_BUT_DECLINED),
                _ => None,
            },
            begins: moment(random),
            patience: if random.random_range(0..4) == 0 { 1 } else { 100 },
            cancelled_after: (random.random_range(0..4) == 0).then(|| moment(random)),
            doors: StdRng::seed_from_u64(random.random()),
        }
    };
    (0..PURCHASES).map(|_| purchase(random)).collect()
}

fn door(open: &Open, random: &mut StdRng) -> Option<Directory> {
    let open = open.borrow();
    let node = open.get(random.random_range(0..open.len().max(1)))?;
    Some(node.shop.directory().clone())
}

/// Asks at one door after the other.
async fn ask(
    open: &Open,
    purchase: &mut Purchase,
    command: order::Command,
) -> Option<Result<order::Answer, order::Rejection>> {
    for _ in 0..purchase.patience {
        if let Some(directory) = door(open, &mut purchase.doors) {
            match directory.ask(purchase.id, command.clone(), Duration::from_secs(5)).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(AskError::Rejected(rejection)) => return Some(Err(rejection)),
                Err(AskError::Unknown) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

async fn buyer(open: Open, mut purchase: Purchase) -> Vec<(Id<Order>, Promise)> {
    let mut promises = Vec::new();
    tokio::time::sleep(purchase.begins).await;
    let command = place(purchase.items.clone(), purchase.token);
    if let Some(Ok(_)) = ask(&open, &mut purchase, command).await {
        promises.push((purchase.id, Promise::Placed));
    }
    if let Some(after) = purchase.cancelled_after {
        tokio::time::sleep(after).await;
        match ask(&open, &mut purchase, cancel()).await {
            Some(Ok(_)) => promises.push((purchase.id, Promise::Cancelled)),
            Some(Err(order::Rejection::TooLate)) => promises.push((purchase.id, Promise::TooLate)),
            Some(Err(
                order::Rejection::NotFound
                | order::Rejection::KeyReused
                | order::Rejection::Impossible
                | order::Rejection::Disbelieved { .. },
            ))
            | None => {}
        }
    }
    promises
}

/// Everything that is planned to happen to nodes and products, besides the weather.
fn events(
    stage: &Rc<Stage>,
    open: &Open,
    random: &mut StdRng,
    products: &[Id<Product>; 3],
    counts: &Rc<RefCell<Counts>>,
) -> Vec<LocalBoxFuture<'static, ()>> {
    let mut events: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
    let mut at = |random: &mut StdRng, event: LocalBoxFuture<'static, ()>| {
        let moment = moment(random);
        events.push(tokio::time::sleep(moment).then(|()| event).boxed_local());
    };
    for journal in stage.journals.iter().skip(1) {
        for _ in 0..2 {
            let faults: Vec<_> = (0..random.random_range(1..6))
                .map(|_| if random.random() { Fault::LoseAnswer } else { Fault::LoseRequest })
                .collect();
            let (journal, counts) = (Arc::clone(journal), Rc::clone(counts));
            let event = async move {
                faults.iter().for_each(|_| counts.borrow_mut().add("commit lost"));
                journal.fail_next(faults);
            };
            at(random, event.boxed_local());
        }
    }
    for _ in 0..random.random_range(0..3) {
        let (product, price) = (products[random.random_range(0..3)], random.random_range(1..20));
        let (open, counts) = (Rc::clone(open), Rc::clone(counts));
        let mut doors = StdRng::seed_from_u64(random.random());
        let event = async move {
            counts.borrow_mut().add("price changed");
            let patch = Patch { price: Some(price), ..Patch::default() };
            let command = product::Command::Change { by: seller(), patch, seen: None };
            if let Some(directory) = door(&open, &mut doors) {
                // Unknown is as good: it is not asked again.
                let _ = directory.ask(product, command, Duration::from_secs(5)).await;
            }
        };
        at(random, event.boxed_local());
    }
    if random.random_range(0..4) == 0 {
        let product = products[random.random_range(0..3)];
        let (open, counts) = (Rc::clone(open), Rc::clone(counts));
        let mut doors = StdRng::seed_from_u64(random.random());
        let event = async move {
            counts.borrow_mut().add("product withdrawn");
            if let Some(directory) = door(&open, &mut doors) {
                let command = product::Command::Withdraw { by: seller(), seen: None };
                let _ = directory.ask(product, command, Duration::from_secs(5)).await;
            }
        };
        at(random, event.boxed_local());
    }
    for _ in 0..random.random_range(0..5) {
        let (stage, open, counts) = (Rc::clone(stage), Rc::clone(open), Rc::clone(counts));
        let happening = random.random_range(0..4);
        let latency = Duration::from_millis(random.random_range(0..8));
        let lasts = moment(random);
        let event = async move {
            match happening {
                0 | 1 => {
                    counts.borrow_mut().add("node killed");
                    let node = open.borrow_mut().pop();
                    node.iter().for_each(|node| node.kill());
                    tokio::time::sleep(lasts.min(Duration::from_secs(3))).await;
                    let another = stage.open().await;
                    another.slow(latency);
                    open.borrow_mut().push(another);
                }
                2 => {
                    counts.borrow_mut().add("second node");
                    let another = stage.open().await;
                    another.slow(latency);
                    open.borrow_mut().push(another);
                }
                _ => {
                    counts.borrow_mut().add("node frozen");
                    let node = open.borrow().first().cloned();
                    node.iter().for_each(|node| node.freeze(true));
                    tokio::time::sleep(lasts).await;
                    let is_open = |node: &Arc<Node>| open.borrow().iter().any(|one| Arc::ptr_eq(one, node));
                    // One that was killed meanwhile stays dead.
                    node.iter().filter(|node| is_open(node)).for_each(|node| node.freeze(false));
                }
            }
        };
        at(random, event.boxed_local());
    }
    events
}

/// Plays one seed: what came of it and its trace, or what is broken.
pub async fn storm(seed: u64) -> Result<(Played, u64), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Rc::new(Stage::set());
    let node = stage.open().await;
    node.slow(Duration::from_millis(random.random_range(0..8)));
    let products =
        [stage.offer(&node, STOCK).await, stage.offer(&node, STOCK).await, stage.offer(&node, STOCK).await];
    let open: Open = Rc::new(RefCell::new(vec![node]));
    let weather = Weather::brew(&mut random, Instant::now() + STORM);
    let purchases = purchases(&stage, &mut random, &products);
    let mut cast = Cast {
        products: products.map(|product| (product, STOCK)).into(),
        orders: purchases.iter().map(|purchase| purchase.id).collect(),
        promises: Vec::new(),
        has_forged: false,
    };
    let counts = Rc::default();
    let events = events(&stage, &open, &mut random, &products, &counts);
    plot::follow(Some(weather.clone()));
    let buyers = purchases.into_iter().map(|purchase| buyer(Rc::clone(&open), purchase));
    let (promises, _) = tokio::join!(join_all(buyers), join_all(events));
    cast.promises = promises.into_iter().flatten().collect();
    tokio::time::sleep_until(weather.until).await;
    plot::follow(None);

    let settled = stage.settled(ENDS_WITHIN).await;
    // Late messages of the storm may still be on their way.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let settled = settled.and(stage.settled(ENDS_WITHIN).await);
    let mut played = Played { seeds: 1, purchases: PURCHASES as u64, ..Played::default() };
    played.faults.merge(&weather.counts.borrow());
    played.faults.merge(&counts.borrow());
    let unspent: usize = stage.journals.iter().map(|journal| journal.faults_left()).sum();
    *played.faults.0.entry("commit lost").or_default() -= unspent as u64;
    let told = |broken: String| format!("{broken}\nafter {}", played.faults);
    settled.map_err(told)?;
    let judged = ends(&stage, &cast).await.map_err(told)?;
    played.rows = judged.rows;
    for end in judged.of.values() {
        match end {
            End::Never => played.ends.add("never accepted"),
            End::Completed => played.ends.add("completed"),
            End::Undone(code) if code == "cancelled" => played.ends.add("cancelled"),
            End::Undone(code) if code == "deadline_exceeded" => played.ends.add("too late"),
            End::Undone(_) => played.ends.add("refused"),
            End::NeedsPerson => return Err(told("a person is needed".to_owned())),
        }
    }
    let nodes = open.take();
    for node in &nodes {
        stage.nobody_stays(node).await.map_err(told)?;
        let quarantined = node.shop.quarantined();
        if !quarantined.is_empty() {
            return Err(told(format!("{quarantined:?}")));
        }
    }
    Ok((played, stage.trace()))
}
