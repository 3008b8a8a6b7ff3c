//! What arrives where there is no room.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use souk_actors::aggregate::Kind;
use souk_actors::fate::Fate;
use souk_actors::host::Host;
use souk_actors::order::{Item, Order};
use souk_actors::{Id, account};
use uuid::Uuid;

use crate::plot::{self, Plot};
use crate::stage::{ASK, Stage, place, play};
use crate::truth::{Cast, End, ends};

const STOCK: i64 = 100;
const ROOM: usize = 4;

/// Crowds an order's mailbox whenever an answer is about to reach it.
struct Crowd {
    host: Arc<Host<Order>>,
    stranger: Id<account::Account>,
    crowded: RefCell<u32>,
}

impl Plot for Crowd {
    fn answers(&self, kind: Kind, to: Uuid, _effect: &'static str) -> Fate {
        if kind == Kind::Order {
            *self.crowded.borrow_mut() += 1;
            for _ in 0..2 * ROOM {
                let cancel = souk_actors::order::Command::Cancel { by: self.stranger, reason: None };
                let answer = self.host.ask(Id::from(to), cancel, false);
                tokio::spawn(async move { drop(answer.await) });
            }
        }
        Fate::Delivered
    }
}

#[test]
pub fn an_answer_that_comes_to_a_full_mailbox_is_not_lost() {
    play(41, async {
        let mut stage = Stage::set();
        stage.pace.limits.mailbox_max = ROOM;
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let host = Arc::clone(&node.shop.directory().hosts().order);
        let crowd =
            Rc::new(Crowd { host, stranger: Id::from(Uuid::from_u128(99)), crowded: RefCell::default() });
        plot::follow(Some(crowd.clone()));
        let id = stage.order_id();
        let items = vec![Item { product, quantity: 3 }];
        node.shop.directory().ask(id, place(items, None), ASK).await.expect("accepted");
        stage.settled(Duration::from_secs(300)).await.expect("it ends");
        assert!(*crowd.crowded.borrow() >= 2, "nobody came between");
        let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
        assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], End::Completed);
    });
}
