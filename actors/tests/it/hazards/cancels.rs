//! Cancel against completion.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use souk_actors::Id;
use souk_actors::aggregate::Kind;
use souk_actors::fate::Moment;
use souk_actors::host::Host;
use souk_actors::order::{self, Item, Order};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::plot::{self, Plot};
use crate::stage::{ASK, Counts, Stage, cancel, place, play};
use crate::truth::{Cast, End, Promise, ends};

const STOCK: i64 = 100;

type Answer = oneshot::Receiver<Result<order::Answer, order::Rejection>>;

/// Puts a cancel into the order's mailbox at the moment of one message among all that are handled.
struct Interrupts {
    at: usize,
    handled: Cell<usize>,
    host: Arc<Host<Order>>,
    id: Id<Order>,
    answer: RefCell<Option<Answer>>,
}

impl Plot for Interrupts {
    fn strikes(&self, _kind: Kind, _id: Uuid, _message: &'static str, _moment: Moment) -> bool {
        let number = self.handled.get();
        self.handled.set(number + 1);
        if number == self.at {
            self.answer.replace(Some(self.host.ask(self.id, cancel(), false)));
        }
        false
    }
}

#[test]
fn cancel_meets_completion_in_every_order() {
    let (orders, told) = cancel_everywhere();
    let _ = writeln!(std::io::stderr(), "cancel against completion: {orders} orders of events ({told})");
}

/// Cancels at every message: how many there are, and what was answered.
pub fn cancel_everywhere() -> (usize, Counts) {
    let mut told = Counts::default();
    let mut at = 0;
    loop {
        let (was_cancelled, word) = play(21, async {
            let stage = Stage::set();
            let node = stage.open().await;
            let product = stage.offer(&node, STOCK).await;
            let id = stage.order_id();
            let host = Arc::clone(&node.shop.directory().hosts().order);
            let plot =
                Rc::new(Interrupts { at, handled: Cell::new(0), host, id, answer: RefCell::default() });
            plot::follow(Some(plot.clone()));
            let items = vec![Item { product, quantity: 3 }];
            node.shop.directory().ask(id, place(items, None), ASK).await.expect("accepted");
            tokio::time::sleep(Duration::from_secs(5)).await;
            stage.settled(Duration::from_secs(300)).await.expect("it ends");
            let Some(answer) = plot.answer.take() else { return (false, "not cancelled") };
            let (promise, word) = match answer.await.expect("is answered") {
                Ok(_) => (Some(Promise::Cancelled), "cancelled"),
                Err(order::Rejection::TooLate) => (Some(Promise::TooLate), "too late"),
                Err(order::Rejection::NotFound) => (None, "not there yet"),
                Err(other) => panic!("{other:?}"),
            };
            let promises = promise.map(|promise| (id, promise)).into_iter().collect();
            let products = vec![(product, STOCK)];
            let cast = Cast { products, orders: vec![id], promises, has_forged: false };
            let end = ends(&stage, &cast).await.expect("all is well")[&id].clone();
            let expected = match promise {
                Some(Promise::Cancelled) => End::Undone("cancelled".to_owned()),
                Some(Promise::TooLate | Promise::Placed) | None => End::Completed,
            };
            assert_eq!(end, expected, "cancelled at message {at}");
            (true, word)
        });
        told.add(word);
        if !was_cancelled {
            break;
        }
        at += 1;
    }
    assert!(["cancelled", "too late"].iter().all(|word| told.0.contains_key(word)), "{told}");
    (at, told)
}
