//! Panics outside of every handler: of whoever performs an effect.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic;
use std::rc::Rc;
use std::time::Duration;

use souk_actors::fate::Fate;
use souk_actors::order::Item;
use uuid::Uuid;

use crate::bank::CAPTURED_BUT_DECLINED;
use crate::plot::{self, Action, Plot};
use crate::stage::{ASK, Stage, place, play};
use crate::truth::{Cast, End, ends};

const STOCK: i64 = 100;

/// The bank's client panics at its first call of each sort, when the bank has done what it was asked.
#[derive(Default)]
struct Panics(RefCell<HashSet<Action>>);

impl Plot for Panics {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        match action.participant() {
            None if self.0.borrow_mut().insert(action) => {
                Fate::Then(Box::new(|| panic::resume_unwind(Box::new("the bank's client panics"))))
            }
            None | Some(_) => Fate::Delivered,
        }
    }
}

#[test]
pub fn a_panic_of_whoever_performs_an_effect_is_no_answer_and_no_end() {
    let undone = End::Undone("payment_declined".to_owned());
    for (token, end, calls) in [(None, End::Completed, 1), (Some(CAPTURED_BUT_DECLINED), undone, 3)] {
        play(51, async {
            let stage = Stage::set();
            let node = stage.open().await;
            let product = stage.offer(&node, STOCK).await;
            let panics = Rc::<Panics>::default();
            plot::follow(Some(panics.clone()));
            let id = stage.order_id();
            let items = vec![Item { product, quantity: 3 }];
            node.shop.directory().ask(id, place(items, token), ASK).await.expect("accepted");
            stage.settled(Duration::from_secs(300)).await.expect("it ends");
            assert_eq!(panics.0.borrow().len(), calls);
            let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
            assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], end);
            assert!(node.shop.quarantined().is_empty());
        });
    }
}
