//! Participants outside, in a storm: commands that are lost, late or twice, answers that are, and that lie; nodes that die.
//! Whoever is outside keeps books of their own, and in the end everybody tells one story.

mod ledger;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{LocalBoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use souk_actors::Id;
use souk_actors::aggregate::Kind;
use souk_actors::directory::AskError;
use souk_actors::laws::{Booked, Books, Moment, check};
use souk_actors::order::{self, Item, Line, Order, Outside, Reply, Status, StepName};
use souk_actors::product::Product;
use souk_actors::records::{Record, records};
use souk_persistence::journal::StoredRow;
use souk_proto::shop::{CreatePayment, RollbackPayment, RollbackProductInventory, UpdateProductInventory};
use souk_proto::topic::Topic;
use tokio::time::Instant;
use uuid::Uuid;

use self::ledger::{Hold, Ledger, lie};
use crate::bank::DECLINED;
use crate::plot;
use crate::seeds::storm::Weather;
use crate::stage::{Counts, Node, PRICE, Stage, cancel, certain, place, play};

const SEEDS: u64 = 400;
const PURCHASES: usize = 15;
/// Of each product, wherever its stock is.
const STOCK: i64 = 150;
const STORM: Duration = Duration::from_secs(20);
/// An undo is asked again after ten minutes at most.
const ENDS_WITHIN: Duration = Duration::from_secs(3_600);

fn read<T: DeserializeOwned>(record: &Record) -> T {
    serde_json::from_str(&record.body).expect("a command is as the contract says")
}

type Open = Rc<RefCell<Vec<Arc<Node>>>>;

/// Everybody outside, and the way there and back.
struct Abroad {
    stage: Rc<Stage>,
    open: Open,
    ledger: RefCell<Ledger>,
    random: RefCell<StdRng>,
    until: Instant,
    counts: RefCell<Counts>,
    is_over: Cell<bool>,
}

impl Abroad {
    fn draw(&self, below: u64) -> u64 {
        self.random.borrow_mut().random_range(0..below)
    }

    fn is_calm(&self) -> bool {
        Instant::now() >= self.until
    }

    fn befalls(&self, what: &'static str, one_in: u64) -> bool {
        let befalls = !self.is_calm() && self.draw(one_in) == 0;
        if befalls {
            self.counts.borrow_mut().add(what);
        }
        befalls
    }

    async fn dawdle(&self) {
        let longest = [20, 200, 3_000, 15_000][self.draw(4) as usize];
        tokio::time::sleep(Duration::from_millis(self.draw(longest))).await;
    }

    /// Reads what the journal of orders says, as the relay puts it, and sees to what is asked.
    async fn work(&self) {
        let mut streams: HashMap<Uuid, Vec<StoredRow>> = HashMap::new();
        let mut seen = 0;
        let mut errands: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
        while !self.is_over.get() {
            for (stream, row) in self.stage.journals[2].chronicle().into_iter().skip(seen) {
                seen += 1;
                let rows = streams.entry(stream).or_default();
                rows.push(row);
                let after = rows.len() as i32 - 1;
                for record in records(Kind::Order, stream, rows, after).expect("rows are read") {
                    let times = if self.befalls("asked twice", 10) { 2 } else { 1 };
                    (0..times).for_each(|_| errands.push(Box::pin(self.see_to(record.clone()))));
                }
            }
            tokio::select! {
                // Not by chance: a seed is one play.
                biased;
                _ = errands.next(), if !errands.is_empty() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    async fn see_to(&self, record: Record) {
        let Some((step, attempt)) = asked(&record) else { return };
        // It only tells: whoever does it is here.
        if attempt == 0 || self.befalls("command lost", 6) {
            return;
        }
        if self.befalls("command late", 6) {
            self.dawdle().await;
        }
        let reply = {
            let (mut ledger, now) = (self.ledger.borrow_mut(), self.stage.clock.now());
            match record.topic {
                Topic::UpdateProductInventory => ledger.reserve(now, &read(&record)),
                Topic::CreatePayment => ledger.charge(now, &read(&record)),
                Topic::RollbackProductInventory => Some(ledger.release(record.key)),
                _void => Some(ledger.void(record.key)),
            }
        };
        let Some(reply) = reply else { return };
        if self.befalls("answer late", 6) {
            self.dawdle().await;
        }
        let lie = self.befalls("lied", 12).then(|| lie(&reply, &mut self.random.borrow_mut())).flatten();
        if let Some(lie) = lie {
            let answer = self.say(record.key, step, lie).await;
            assert!(answer.is_err(), "a lie is believed: {answer:?}");
        }
        if self.befalls("answer lost", 6) {
            return;
        }
        for _ in 0..if self.befalls("answered twice", 6) { 2 } else { 1 } {
            let answer = self.say(record.key, step, reply.clone()).await;
            assert_eq!(answer, Ok(order::Answer::Noted), "the truth is not believed");
        }
    }

    /// Says it until somebody has heard it, as the bridge does.
    async fn say(
        &self,
        purchase: Uuid,
        step: StepName,
        reply: Reply,
    ) -> Result<order::Answer, order::Rejection> {
        loop {
            let node = self.open.borrow().first().cloned();
            if let Some(node) = node {
                let command = order::Command::Replied { step, reply: reply.clone() };
                let asked =
                    node.shop.directory().ask(Id::<Order>::from(purchase), command, Duration::from_secs(2));
                match asked.await {
                    Ok(answer) => return Ok(answer),
                    Err(AskError::Rejected(rejection)) => return Err(rejection),
                    Err(AskError::Unknown) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Which step a record asks for, and for the how manieth time.
fn asked(record: &Record) -> Option<(StepName, u32)> {
    match record.topic {
        Topic::UpdateProductInventory => {
            Some((StepName::UpdateProductInventory, read::<UpdateProductInventory>(record).attempt))
        }
        Topic::RollbackProductInventory => {
            Some((StepName::UpdateProductInventory, read::<RollbackProductInventory>(record).attempt))
        }
        Topic::CreatePayment => Some((StepName::CreatePayment, read::<CreatePayment>(record).attempt)),
        Topic::RollbackPayment => Some((StepName::CreatePayment, read::<RollbackPayment>(record).attempt)),
        Topic::Purchase
        | Topic::PurchaseResult
        | Topic::CreateOrder
        | Topic::RollbackOrder
        | Topic::Reply
        | Topic::SendRegisterEmail
        | Topic::DeadLetterQueue => None,
    }
}

fn moment(random: &mut StdRng) -> Duration {
    let longest = [20, 200, 2_000, 15_000][random.random_range(0..4)];
    Duration::from_millis(random.random_range(0..longest))
}

async fn buy(
    stage: &Stage,
    open: &Open,
    random: &mut StdRng,
    items: Vec<Item>,
    outside: Outside,
) -> Id<Order> {
    let id = stage.order_id();
    let token = (random.random_range(0..8) == 0).then_some(DECLINED);
    let (begins, cancels) = (moment(random), (random.random_range(0..5) == 0).then(|| moment(random)));
    let order::Command::Place(placed) = place(items, token) else { unreachable!("it places") };
    let command = order::Command::Place(order::Place { outside, ..placed });
    tokio::time::sleep(begins).await;
    let ask = async |command: order::Command| {
        for _ in 0..100 {
            let node = open.borrow().first().cloned();
            if let Some(node) = node
                && let Ok(_) | Err(AskError::Rejected(_)) =
                    node.shop.directory().ask(id, command.clone(), Duration::from_secs(5)).await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    ask(command).await;
    if let Some(after) = cancels {
        tokio::time::sleep(after).await;
        ask(cancel()).await;
    }
    id
}

/// Plays a seed: how purchases ended and what befell, or what is broken.
async fn storm(seed: u64) -> Result<(Counts, Counts), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let outside = [(true, false), (false, true), (true, true)][(seed % 3) as usize];
    let outside = Outside { inventory: outside.0, payment: outside.1 };
    let stage = Rc::new(Stage::set());
    let node = stage.open().await;
    let products = [stage.offer(&node, STOCK).await, stage.offer(&node, STOCK).await];
    let open: Open = Rc::new(RefCell::new(vec![node]));
    let until = Instant::now() + STORM;
    let weather = Weather::brew(&mut random, until);
    let abroad = Abroad {
        stage: Rc::clone(&stage),
        open: Rc::clone(&open),
        ledger: RefCell::new(Ledger {
            stock: products.map(|product| (product, STOCK)).into(),
            ..Ledger::default()
        }),
        random: RefCell::new(StdRng::seed_from_u64(random.random())),
        until,
        counts: RefCell::default(),
        is_over: Cell::new(false),
    };
    plot::follow(Some(weather));
    let buyers = (0..PURCHASES).map(|_| {
        let first = random.random_range(0..2);
        let item = |index: usize, quantity| Item { product: products[(first + index) % 2], quantity };
        let items =
            (0..random.random_range(1..3)).map(|index| item(index, random.random_range(1..30))).collect();
        let (stage, open, mut random) = (&stage, &open, StdRng::seed_from_u64(random.random()));
        async move { buy(stage, open, &mut random, items, outside).await }
    });
    let buyers: Vec<_> = buyers.collect();
    let kills: Vec<_> = (0..random.random_range(0..3)).map(|_| moment(&mut random)).collect();
    // One after the other: what is refused rests on no row, and of two nodes one may not know better.
    let kill = async {
        for after in kills {
            tokio::time::sleep(after).await;
            let killed = open.borrow_mut().pop();
            killed.iter().for_each(|node| node.kill());
            tokio::time::sleep(Duration::from_millis(500)).await;
            let another = stage.open().await;
            open.borrow_mut().push(another);
            abroad.counts.borrow_mut().add("node killed");
        }
    };
    let play = async {
        let (orders, _) = tokio::join!(join_all(buyers), kill);
        tokio::time::sleep_until(until).await;
        plot::follow(None);
        let settled = stage.settled(ENDS_WITHIN).await;
        // What was late is on its way no more.
        tokio::time::sleep(Duration::from_secs(30)).await;
        abroad.is_over.set(true);
        settled.map(|()| orders)
    };
    let (orders, ()) = tokio::join!(play, abroad.work());
    let ends = judge(&stage, &abroad, &orders?, &products, outside).await?;
    let nodes = open.take();
    for node in &nodes {
        stage.nobody_stays(node).await?;
        assert_eq!(node.shop.quarantined().len(), 0);
    }
    Ok((ends, abroad.counts.take()))
}

/// The laws hold, and the books outside say what the orders say.
async fn judge(
    stage: &Stage,
    abroad: &Abroad,
    orders: &[Id<Order>],
    products: &[Id<Product>],
    outside: Outside,
) -> Result<Counts, String> {
    let booked = |account: &crate::bank::Account| Booked {
        captured: account.captured(),
        refunded: account.refunded(),
    };
    let books: Books = stage.bank.books().iter().map(|(key, account)| (*key, booked(account))).collect();
    let report = check(&stage.read(), Some(&books), Moment::AtRest(stage.clock.now())).await;
    let report = report.map_err(|error| error.to_string())?;
    if !report.holds() {
        return Err(report.to_string());
    }
    let ledger = abroad.ledger.take();
    let mut sold: HashMap<Id<Product>, i64> = HashMap::new();
    let mut counts = Counts::default();
    for id in orders {
        let Some(view) = stage.order(*id).await else {
            counts.add("never accepted");
            continue;
        };
        let (hold, paid) =
            (ledger.holds.get(&id.uuid()), ledger.payments.get(&id.uuid()).copied().unwrap_or_default());
        let is_held = matches!(hold, Some(Hold::Held(_)));
        let is_right = match view.status {
            Status::Completed => {
                counts.add("completed");
                for line in &view.lines {
                    *sold.entry(line.product).or_default() += i64::from(line.quantity);
                }
                let is_paid = (Some(paid.captured), paid.refunded) == (view.amount, 0);
                (is_held || !outside.inventory) && (is_paid || !outside.payment)
            }
            Status::Failed | Status::Cancelled => {
                counts.add(if view.status == Status::Failed { "failed" } else { "cancelled" });
                !is_held && paid.captured == paid.refunded
            }
            Status::Pending => false,
        };
        if !is_right {
            return Err(format!("{id} is {view:?}, and outside {paid:?}, held: {is_held}"));
        }
    }
    if outside.inventory {
        for product in products {
            let left = ledger.stock[product];
            if left + sold.get(product).unwrap_or(&0) != STOCK {
                return Err(format!("of {product} {left} are left, and {sold:?} were sold"));
            }
        }
    }
    Ok(counts)
}

#[test]
fn whatever_befalls_whoever_is_outside_everybody_tells_one_story() {
    let seeds = match std::env::var("SOUK_OUTSIDE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let (mut ends, mut faults) = (Counts::default(), Counts::default());
    for seed in seeds {
        let (ended, befell) = play(seed, storm(seed))
            .unwrap_or_else(|broken| panic!("{broken}\nplay it again: SOUK_OUTSIDE_SEED={seed}"));
        ends.merge(&ended);
        faults.merge(&befell);
    }
    let _ = writeln!(
        std::io::stderr(),
        "outside: {SEEDS} seeds ({ends}), {} faults ({faults}); no law is broken, and the books outside agree",
        faults.total()
    );
    assert!(ends.0["completed"] > SEEDS * PURCHASES as u64 / 5, "{ends}");
}

/// A step that is done elsewhere must not wait for the last asking of the step before it.
#[test]
fn the_next_step_is_asked_as_soon_as_the_one_before_is_answered() {
    play(7, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let order::Command::Place(placed) = place(vec![Item { product, quantity: 1 }], None) else {
            unreachable!("it places")
        };
        let outside = Outside { inventory: true, payment: true };
        let id = stage.order_id();
        certain(&node, id, order::Command::Place(order::Place { outside, ..placed })).await.expect("placed");
        let rows = async |count: usize| {
            while stage.journals[2].chronicle().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stage.clock.now()
        };
        rows(2).await;
        // It has been asked once, and will be again two seconds later.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let line = Line {
            product,
            quantity: 1,
            price: PRICE,
            category: Uuid::from_u128(2).into(),
            name: "n".to_owned(),
            brand: "b".to_owned(),
        };
        let answered = stage.clock.now();
        let reply = order::Command::Replied {
            step: StepName::UpdateProductInventory,
            reply: Reply::Reserved(vec![line]),
        };
        certain(&node, id, reply).await.expect("noted");
        let asked = rows(4).await;
        assert!(answered.until(asked) < Duration::from_millis(100), "{:?}", answered.until(asked));

        // Nobody answers: it turns round at its deadline, and while it asks for the undo later and later, it leaves.
        tokio::time::sleep(Duration::from_secs(40)).await;
        let view = stage.order(id).await.expect("is there");
        assert_eq!(view.status, Status::Failed, "{view:?}");
        assert_eq!(node.shop.in_flight().0, 0, "whoever waits for long waits elsewhere");
        let before = stage.journals[2].chronicle().len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(stage.journals[2].chronicle().len() > before, "and is woken to ask again");
        for step in [StepName::CreatePayment, StepName::UpdateProductInventory] {
            let reply = order::Command::Replied { step, reply: Reply::RolledBack };
            while certain(&node, id, reply.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        stage.settled(Duration::from_secs(10)).await.expect("nothing is owed");
    });
}
