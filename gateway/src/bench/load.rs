//! Puts a load on a target and counts what comes of it.
//!
//! Connections are opened before the clock starts; a closed loop ends by the clock, and what is under way
//! then is waited for and counted, but not for the rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::request::{self, Buyer};
use super::scenario::{Load, Scenario};
use super::schedule::{Schedule, Turn};
use super::tally::{Counted, Outcome, Tally, Window, window};
use super::target::Target;
use super::wire::Connection;

/// What is under way when the clock has run out is waited for so long: longer than `Prefer: wait=30`.
const PATIENCE: Duration = Duration::from_secs(45);
/// After an answer that says "not now", or none.
const PAUSE: Duration = Duration::from_millis(100);
/// Opening a thousand connections at once would overflow the other side's queue.
const OPENING: usize = 64;
/// Of an open loop: so many seconds' arrivals may be due and not sent.
const WAITING_S: u64 = 10;

/// What came of a load.
#[derive(Debug)]
pub struct Loaded {
    /// Purchases.
    pub bought: Counted,
    /// Reads of a product, where there were any.
    pub products: Option<Counted>,
    /// Reads of a purchase.
    pub purchases: Option<Counted>,
    /// What the rate counts; of a burst, until the last one ended.
    pub seconds: f64,
}

/// How a load is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What is counted for the rate.
    pub seconds: Duration,
    /// What goes before it.
    pub warm_up: Duration,
    /// Different seeds buy different things.
    pub seed: u64,
}

/// Connections that are open, before the clock starts.
#[derive(Debug)]
pub struct Crowd {
    buyers: Vec<Connection>,
    readers: Vec<Connection>,
}

impl Crowd {
    /// Opens the connections of a scenario. Each has been answered, a moment ago: Souk closes those that
    /// nobody uses.
    pub async fn gather(target: &Target, scenario: &Scenario) -> Result<Self> {
        let count = scenario.connections() + 2 * scenario.readers;
        let opening = stream::iter(0..count).map(|_| target.connect());
        let mut buyers: Vec<_> = opening.buffer_unordered(OPENING).try_collect().await?;
        let hello = &request::get(target, "//livez");
        let greeting = stream::iter(&mut buyers).map(async |connection| {
            // One that was closed meanwhile is opened anew by the second.
            if connection.exchange(hello).await.is_err() {
                connection.exchange(hello).await.context("greet")?;
            }
            anyhow::Ok(())
        });
        greeting.buffer_unordered(OPENING).try_collect::<()>().await?;
        let readers = buyers.split_off(scenario.connections());
        Ok(Self { buyers, readers })
    }

    /// Runs the scenario to its end.
    pub async fn run(self, target: &Target, scenario: &Scenario, pace: Pace) -> Loaded {
        let Pace { seconds, warm_up, seed } = pace;
        let buyers = self.buyers.into_iter().zip(seed << 16..).map(|(connection, seed)| Shopper {
            connection,
            buyer: Buyer::new(target, scenario, seed),
            remembers: scenario.readers > 0,
        });
        let warm_up = match scenario.load {
            Load::AtOnce { .. } => Duration::ZERO,
            Load::Closed { .. } | Load::Open { .. } => warm_up,
        };
        let window = window(warm_up, seconds);
        let tally = Arc::new(Tally::new(window));
        let progress = Progress::start(&scenario.name, Arc::clone(&tally), window);
        let mut tasks = JoinSet::new();
        match scenario.load {
            Load::AtOnce { connections } => {
                let gate = Arc::new(Barrier::new(connections));
                buyers.for_each(|shopper| {
                    tasks.spawn(shopper.once(Arc::clone(&tally), Arc::clone(&gate)));
                });
            }
            Load::Closed { .. } => buyers.for_each(|shopper| {
                tasks.spawn(shopper.again_and_again(Arc::clone(&tally), window));
            }),
            Load::Open { rate, .. } => {
                let waiting_max = u64::from(rate) * WAITING_S;
                let schedule = Arc::new(Schedule::new(rate, warm_up + seconds, waiting_max));
                let start = window.from - warm_up;
                buyers.for_each(|shopper| {
                    tasks.spawn(shopper.on_schedule(Arc::clone(&tally), Arc::clone(&schedule), start));
                });
            }
        }
        let (products, purchases) = read(target, self.readers, &tally, window, seed, &mut tasks);
        finish(tasks, window, &tally).await;
        progress.end().await;
        let bought = tally.counted();
        let seconds = match scenario.load {
            Load::AtOnce { .. } => bought.span().as_secs_f64(),
            Load::Closed { .. } | Load::Open { .. } => tally.seconds(),
        };
        let counted = |tally: Option<Arc<Tally>>| tally.map(|tally| tally.counted());
        Loaded { bought, products: counted(products), purchases: counted(purchases), seconds }
    }
}

/// Waits for all tasks; those that do not come back are counted as lost.
async fn finish(mut tasks: JoinSet<()>, window: Window, tally: &Tally) {
    let deadline = tokio::time::Instant::from_std(window.until + PATIENCE);
    while !tasks.is_empty() {
        match tokio::time::timeout_at(deadline, tasks.join_next()).await {
            Ok(_ended) => {}
            Err(_elapsed) => {
                tally.lose(tasks.len() as u64);
                return;
            }
        }
    }
}

/// A connection that buys.
struct Shopper {
    connection: Connection,
    buyer: Buyer,
    remembers: bool,
}

impl Shopper {
    async fn buy(&mut self, tally: &Tally, began: Instant) -> Outcome {
        let sent = Instant::now();
        let outcome = match self.connection.exchange(self.buyer.build()).await {
            Ok(answer) => {
                let outcome = request::outcome(&answer);
                let id = Some(answer.body).filter(|_| self.remembers && outcome == Outcome::Completed);
                if let Some(id) = id.and_then(request::purchase_id) {
                    tally.remember(id);
                }
                outcome
            }
            Err(_) => Outcome::Broken,
        };
        tally.note(outcome, began);
        if matches!(outcome, Outcome::Refused | Outcome::Unavailable) {
            tally.note_refusal(sent.elapsed());
        }
        outcome
    }

    async fn once(mut self, tally: Arc<Tally>, gate: Arc<Barrier>) {
        gate.wait().await;
        self.buy(&tally, Instant::now()).await;
    }

    async fn again_and_again(mut self, tally: Arc<Tally>, window: Window) {
        loop {
            let began = Instant::now();
            if began >= window.until {
                return;
            }
            let outcome = self.buy(&tally, began).await;
            rest_after(outcome).await;
        }
    }

    async fn on_schedule(mut self, tally: Arc<Tally>, schedule: Arc<Schedule>, start: Instant) {
        loop {
            match schedule.next(start.elapsed()) {
                Turn::At(at) => {
                    tokio::time::sleep_until((start + at).into()).await;
                    self.buy(&tally, start + at).await;
                }
                Turn::TurnedAway => tally.turn_away(),
                Turn::Over => return,
            }
        }
    }
}

/// Who is told "not now" does not ask again at once.
async fn rest_after(outcome: Outcome) {
    match outcome {
        Outcome::Completed | Outcome::Declined | Outcome::Failed | Outcome::Unfinished => {}
        Outcome::Refused | Outcome::Unavailable | Outcome::Error | Outcome::Broken => {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Has one half of the readers read products, the other the purchases that were just made.
fn read(
    target: &Target,
    mut readers: Vec<Connection>,
    bought: &Arc<Tally>,
    window: Window,
    seed: u64,
    tasks: &mut JoinSet<()>,
) -> (Option<Arc<Tally>>, Option<Arc<Tally>>) {
    if readers.is_empty() {
        return (None, None);
    }
    let (products, purchases) = (Arc::new(Tally::new(window)), Arc::new(Tally::new(window)));
    let half = readers.split_off(readers.len() / 2);
    for (number, connection) in (seed as usize..).zip(readers) {
        let (target, tally) = (target.clone(), Arc::clone(&products));
        let ids = Arc::clone(&target.uniform);
        let next = move |turn: usize| Some(ids[turn % ids.len()]);
        tasks.spawn(look(connection, target, "/products", number * 61, tally, window, next));
    }
    for (number, connection) in (seed as usize..).zip(half) {
        let (target, tally, bought) = (target.clone(), Arc::clone(&purchases), Arc::clone(bought));
        let next = move |turn: usize| bought.recall(turn);
        tasks.spawn(look(connection, target, "/purchases", number * 61, tally, window, next));
    }
    (Some(products), Some(purchases))
}

async fn look(
    mut connection: Connection,
    target: Target,
    path: &'static str,
    first: usize,
    tally: Arc<Tally>,
    window: Window,
    next: impl Fn(usize) -> Option<uuid::Uuid>,
) {
    // 7,919 is prime to the number of products.
    for turn in (first..).step_by(7_919) {
        let Some(id) = next(turn) else {
            // Nothing is bought yet.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let began = Instant::now();
        if began >= window.until {
            return;
        }
        let outcome = match connection.exchange(&request::get(&target, &format!("{path}/{id}"))).await {
            Ok(answer) if answer.status == 200 => Outcome::Completed,
            Ok(answer) => request::outcome(&answer),
            Err(_) => Outcome::Broken,
        };
        tally.note(outcome, began);
        rest_after(outcome).await;
    }
}
