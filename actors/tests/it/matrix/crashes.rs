//! Every point at which something can die: each message that any entity handles in a purchase, before it is
//! looked at and after it is decided, there the entity panics, or the whole node loses power, or another
//! node takes over and this one does not know.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use souk_actors::aggregate::Kind;
use souk_actors::fate::{Fate, Moment};
use souk_actors::order::Item;
use tokio::sync::Notify;
use uuid::Uuid;

use super::run::buy;
use super::{Place, Scenario};
use crate::bank::{CAPTURED_BUT_DECLINED, DECLINED};
use crate::plot::{self, Action, Plot};
use crate::stage::{Counts, Node, Stage, play};
use crate::truth::{Cast, End, ends};

const STOCK: i64 = 100;

/// What can happen to every purchase, by the number of the message that it happens at.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub scenario: Scenario,
    /// Of all messages that all entities handle, loading counted.
    pub number: usize,
    pub place: Place,
}

struct Struck {
    scenario: Scenario,
    number: Option<usize>,
    place: Place,
    node: Arc<Node>,
    handled: Cell<usize>,
    struck: Cell<Option<&'static str>>,
    cancel_is_due: Notify,
    has_befallen: Notify,
}

impl Plot for Struck {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        if self.scenario.cancels_at() == Some(action) {
            self.cancel_is_due.notify_one();
        }
        Fate::Delivered
    }

    fn strikes(&self, kind: Kind, _id: Uuid, message: &'static str, moment: Moment) -> bool {
        let number = self.handled.get();
        self.handled.set(number + 1);
        let is_struck = self.number == Some(number);
        if is_struck {
            self.struck.set(Some(named(kind, message, moment)));
            if self.place == Place::Elsewhere {
                self.node.kill();
            }
            self.has_befallen.notify_one();
        }
        is_struck
    }
}

/// Whom it strikes.
fn named(kind: Kind, message: &'static str, moment: Moment) -> &'static str {
    match (kind, message, moment) {
        (_, "load", _) => "loading",
        (Kind::Order, _, Moment::Before) => "order before a message",
        (Kind::Order, _, Moment::After) => "order after a message",
        (Kind::Payment, _, Moment::Before) => "payment before a message",
        (Kind::Payment, _, Moment::After) => "payment after a message",
        (Kind::Product, _, Moment::Before) => "product before a message",
        (Kind::Product, _, Moment::After) => "product after a message",
        (Kind::Account | Kind::Session | Kind::Email | Kind::Category, _, _) => "another",
    }
}

/// How many messages are handled in a scenario that nothing befalls.
pub fn points_of(scenario: Scenario) -> usize {
    play(0, run(Point { scenario, number: usize::MAX, place: Place::Same })).expect("nothing befalls it").0
}

/// Every point of every scenario.
pub fn points() -> Vec<Point> {
    let mut points = Vec::new();
    for scenario in Scenario::ALL {
        for number in 0..points_of(scenario) {
            points.extend(Place::ALL.map(|place| Point { scenario, number, place }));
        }
    }
    points
}

/// Plays a point: how many messages were handled, and where it struck.
pub fn try_point(point: Point) -> Result<Option<&'static str>, String> {
    let (_, struck) = play(0, run(point)).map_err(|broken| format!("{point:?}: {broken}"))?;
    Ok(struck)
}

#[test]
fn wherever_an_entity_panics_or_its_node_dies_the_purchase_ends() {
    let started = Instant::now();
    let points = points();
    let mut struck = Counts::default();
    for point in &points {
        match try_point(*point) {
            Ok(Some(name)) => struck.add(name),
            Ok(None) => {}
            Err(broken) => panic!("{broken}"),
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "crash points: {} cases, {} faults ({struck}), {:.1} s",
        points.len(),
        struck.total(),
        started.elapsed().as_secs_f64(),
    );
}

async fn run(point: Point) -> Result<(usize, Option<&'static str>), String> {
    let Point { scenario, number, place } = point;
    let stage = Stage::set();
    let node = stage.open().await;
    let stock = if scenario == Scenario::OutOfStock { 2 } else { STOCK };
    let products = [(stage.offer(&node, STOCK).await, STOCK), (stage.offer(&node, stock).await, stock)];
    let open = Arc::new(Mutex::new(vec![Arc::clone(&node)]));
    let struck = Rc::new(Struck {
        scenario,
        number: (number != usize::MAX).then_some(number),
        place,
        node: Arc::clone(&node),
        handled: Cell::new(0),
        struck: Cell::new(None),
        cancel_is_due: Notify::new(),
        has_befallen: Notify::new(),
    });
    plot::follow(Some(struck.clone()));
    let id = stage.order_id();
    let items: Vec<_> = products.map(|(product, _)| Item { product, quantity: 3 }).into();
    let token = match scenario {
        Scenario::Declined => Some(DECLINED),
        Scenario::CapturedButDeclined => Some(CAPTURED_BUT_DECLINED),
        Scenario::Plain
        | Scenario::OutOfStock
        | Scenario::CancelledAtReserve
        | Scenario::CancelledAtCharge => None,
    };
    let is_cancelled = matches!(scenario, Scenario::CancelledAtReserve | Scenario::CancelledAtCharge);
    let taking_over = async {
        struck.has_befallen.notified().await;
        if place != Place::Same {
            let another = stage.open().await;
            open.lock().expect("no panic").push(another);
        }
    };
    let playing = async {
        let cancel_is_due = is_cancelled.then_some(&struck.cancel_is_due);
        let promises = buy(&open, (id, items, token), cancel_is_due).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        stage.settled(Duration::from_secs(300)).await.map(|()| promises)
    };
    let (promises, _) = tokio::join!(playing, tokio::time::timeout(Duration::from_secs(60), taking_over));
    let at = struck.struck.take();
    let told = |broken: String| format!("struck at {at:?}: {broken}");
    let cast = Cast {
        products: products.into(),
        orders: vec![id],
        promises: promises.map_err(told)?,
        has_forged: false,
    };
    let end = ends(&stage, &cast).await.map_err(told)?[&id].clone();
    let is_fine = match scenario {
        Scenario::Plain => end == End::Completed,
        Scenario::Declined | Scenario::CapturedButDeclined => {
            end == End::Undone("payment_declined".to_owned())
        }
        Scenario::OutOfStock => end == End::Undone("insufficient_stock".to_owned()),
        // Told by the promise.
        Scenario::CancelledAtReserve | Scenario::CancelledAtCharge => end != End::Never,
    };
    if !is_fine {
        return Err(told(format!("it ended as {end:?}")));
    }
    let newest = open.lock().expect("no panic").last().cloned().expect("a node is open");
    stage.nobody_stays(&newest).await.map_err(told)?;
    plot::follow(None);
    Ok((struck.handled.get(), at))
}
