//! Several shops over the same journals, each with slots of its own that move from one to another all the time, as
//! the nodes of a cluster have them; between them a way on which requests and answers get lost.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use souk_actors::aggregate::Kind;
use souk_actors::directory::AskError;
use souk_actors::order::{self, Item, Order, Status};
use souk_actors::route::{Call, Route, Said, Views};
use souk_actors::tenant::Tenant;
use souk_actors::territory::{SlotSet, Territory};
use souk_actors::{Id, Places, Slot};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::stage::{ASK, Node, Stage, cancel, place, play};
use crate::truth::{Cast, End, Promise, ends};

const NODES: usize = 3;
const SEEDS: u64 = 150;
const PURCHASES: usize = 25;
const STOCK: i64 = 300;
/// For so long slots move.
const UNREST: Duration = Duration::from_secs(15);
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// Who has which slot, and the way to everybody.
#[derive(Debug)]
struct Town {
    owners: Mutex<Vec<usize>>,
    tenants: [OnceLock<Tenant>; NODES],
    random: Mutex<StdRng>,
    until: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// What befalls a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lot {
    Arrives,
    RequestLost,
    AnswerLost,
}

impl Town {
    fn owner(&self, slot: Slot) -> usize {
        self.owners.lock().expect("no panic")[usize::from(slot.number().unsigned_abs())]
    }

    fn draw(&self, below: usize) -> usize {
        self.random.lock().expect("no panic").random_range(0..below)
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().expect("no panic").entry(what).or_default() += 1;
    }

    fn lot(&self) -> Lot {
        match self.draw(100) {
            0..4 if Instant::now() < self.until => Lot::RequestLost,
            4..8 if Instant::now() < self.until => Lot::AnswerLost,
            _calm => Lot::Arrives,
        }
    }

    fn tenant(&self, owner: usize) -> &Tenant {
        self.tenants[owner].get().expect("every shop is open")
    }

    /// Moves some slots to somebody else, in order or as if the one who had them had been given up.
    async fn move_some(&self) {
        let (first, count, to) = (self.draw(4096), 1 + self.draw(1024), self.draw(NODES));
        let moving = |slot: &Slot| {
            let number = usize::from(slot.number().unsigned_abs());
            (first..first + count).contains(&number) && self.owner(*slot) != to
        };
        let slots: Vec<Slot> = Slot::all().filter(moving).collect();
        let set: SlotSet = slots.iter().copied().collect();
        let is_in_order = self.draw(3) > 0;
        if is_in_order {
            for tenant in &self.tenants {
                tenant.get().expect("every shop is open").lose(&set);
            }
            join_all((0..NODES).map(|owner| self.tenant(owner).flushed())).await;
            self.count("moves in order");
        } else {
            self.count("moves by force");
        }
        for slot in slots {
            self.owners.lock().expect("no panic")[usize::from(slot.number().unsigned_abs())] = to;
        }
        self.tenant(to).gain(&set);
        let taker = self.tenant(to).clone();
        tokio::spawn(async move { taker.adopt().await });
        if !is_in_order {
            // The one before learns of it late: both are at it for a while.
            tokio::time::sleep(Duration::from_millis(self.draw(400) as u64)).await;
            let losers = (0..NODES).filter(|owner| *owner != to);
            losers.for_each(|owner| self.tenant(owner).lose(&set));
        }
    }
}

/// The way of one shop to the others.
#[derive(Debug)]
struct Lane {
    me: usize,
    town: Arc<Town>,
}

impl Route for Lane {
    fn ask(&self, mut call: Call, within: Duration) -> BoxFuture<'_, Said> {
        async move {
            let deadline = Instant::now() + within;
            loop {
                let owner = self.town.owner(Id::<()>::from(call.id).slot());
                tokio::time::sleep(Duration::from_millis(1)).await;
                if owner == self.me {
                    return Said::NotHere;
                }
                let lot = self.town.lot();
                if lot != Lot::RequestLost {
                    self.town.count("hops");
                    let left = deadline.saturating_duration_since(Instant::now());
                    let said = self.town.tenant(owner).serve(call.clone(), left).await;
                    match said {
                        Said::NotHere => continue,
                        _ if lot == Lot::AnswerLost => {}
                        Said::Moved if call.may_repeat => {}
                        said => return said,
                    }
                }
                self.town.count("lost or moved");
                if !call.may_repeat || Instant::now() >= deadline {
                    return Said::Unknown;
                }
                call.is_new = false;
            }
        }
        .boxed()
    }

    fn follow(&self, kind: Kind, id: Uuid) -> Views {
        let owner = self.town.owner(Id::<()>::from(id).slot());
        let (sender, receiver) = mpsc::channel(16);
        if owner != self.me {
            let mut views = self.town.tenant(owner).follow(kind, id);
            tokio::spawn(async move {
                while let Some(row) = views.next().await {
                    if sender.send(row).await.is_err() {
                        return;
                    }
                }
            });
        }
        Box::pin(stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        ))
    }
}

async fn open(stage: &Stage, seed: u64) -> (Arc<Town>, Vec<Arc<Node>>) {
    let town = Arc::new(Town {
        owners: Mutex::new((0..4096).map(|slot| slot * NODES / 4096).collect()),
        tenants: [const { OnceLock::new() }; NODES],
        random: Mutex::new(StdRng::seed_from_u64(seed)),
        until: Instant::now() + UNREST,
        counts: Mutex::default(),
    });
    let mut nodes = Vec::new();
    for me in 0..NODES {
        let territory = Arc::new(Territory::nothing());
        territory.rely_until(Duration::MAX);
        let lane = Arc::new(Lane { me, town: Arc::clone(&town) });
        let node = stage.open_in(Places::shared(territory, lane)).await;
        let slots: SlotSet = Slot::all().filter(|slot| town.owner(*slot) == me).collect();
        node.shop.tenant().gain(&slots);
        town.tenants[me].set(node.shop.tenant().clone()).expect("is opened once");
        nodes.push(node);
    }
    (town, nodes)
}

/// Somebody buys at one node, and asks on at others until somebody knows; what was told.
async fn buy(town: &Town, nodes: &[Arc<Node>], id: Id<Order>, items: Vec<Item>) -> Vec<(Id<Order>, Promise)> {
    tokio::time::sleep(Duration::from_millis(town.draw(10_000) as u64)).await;
    let mut told = Vec::new();
    let at = || nodes[town.draw(NODES)].shop.directory();
    loop {
        match at().ask(id, place(items.clone(), None), ASK).await {
            Ok(_) => break told.push((id, Promise::Placed)),
            Err(AskError::Rejected(_)) => return told,
            Err(AskError::Unknown) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    let following = at().follow(id);
    if town.draw(5) == 0 {
        match at().ask(id, cancel(), ASK).await {
            Ok(_) => told.push((id, Promise::Cancelled)),
            Err(AskError::Rejected(order::Rejection::TooLate)) => told.push((id, Promise::TooLate)),
            Err(AskError::Rejected(_) | AskError::Unknown) => {}
        }
    }
    // Whoever follows is told of the end, wherever it comes about.
    let end = tokio::time::timeout(ENDS_WITHIN, outcome(following)).await.expect("the end is told");
    assert_ne!(end, Status::Pending);
    told
}

async fn outcome(mut following: souk_actors::followers::Following<Order>) -> Status {
    loop {
        let standing = following.next().await.expect("journals in memory are read");
        let status = standing.as_ref().and_then(|standing| standing.view.as_ref()).map(|view| view.status);
        match status {
            Some(status) if status != Status::Pending => return status,
            Some(_) | None => {}
        }
    }
}

async fn unrest(seed: u64) -> Result<(BTreeMap<&'static str, u64>, u64), String> {
    let stage = Stage::set();
    let (town, nodes) = open(&stage, seed).await;
    let mut cast = Cast::default();
    for number in 0..3 {
        cast.products.push((stage.offer(&nodes[number % NODES], STOCK).await, STOCK));
    }
    let moving = tokio::spawn({
        let town = Arc::clone(&town);
        async move {
            while Instant::now() < town.until {
                town.move_some().await;
                tokio::time::sleep(Duration::from_millis(5 + town.draw(300) as u64)).await;
            }
        }
    });
    let buying = (0..PURCHASES).map(|number| {
        let id = stage.order_id();
        cast.orders.push(id);
        let item = |number: usize| Item { product: cast.products[number % 3].0, quantity: 1 };
        buy(&town, &nodes, id, vec![item(number), item(number + 1)])
    });
    let buying: Vec<_> = buying.collect();
    cast.promises = join_all(buying).await.concat();
    moving.await.map_err(|error| error.to_string())?;
    stage.settled(ENDS_WITHIN).await?;
    let ends = ends(&stage, &cast).await?;
    let completed = ends.of.values().filter(|end| **end == End::Completed).count() as u64;
    let counts = town.counts.lock().expect("no panic").clone();
    Ok((counts, completed))
}

#[test]
fn slots_that_move_all_the_time_lose_and_double_nothing() {
    let (mut all, mut completed) = (BTreeMap::<&str, u64>::new(), 0);
    for seed in 0..SEEDS {
        let (counts, of_this) =
            play(seed, unrest(seed)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        counts.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
        completed += of_this;
    }
    let _ = writeln!(
        std::io::stderr(),
        "neighbours: {SEEDS} seeds, {} purchases ({completed} completed), {all:?}; no law is broken",
        SEEDS * PURCHASES as u64
    );
    assert!(["hops", "lost or moved", "moves in order", "moves by force"].iter().all(|what| all[what] > 100));
    assert!(completed > SEEDS * PURCHASES as u64 / 2, "{completed} completed");
}
