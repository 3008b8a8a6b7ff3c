//! What changes at a participant while it is on its way to be asked.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use souk_actors::fate::Fate;
use souk_actors::order::Item;
use souk_actors::payment::{self, Bill, Payment};
use souk_actors::product::{self, Claim, Patch};
use uuid::Uuid;

use crate::plot::{self, Action, Plot};
use crate::stage::{ASK, PATIENCE, PRICE, Stage, buyer, certain, place, play, seller};
use crate::truth::{Cast, End, ends};

const STOCK: i64 = 100;

/// The first request for an action takes a second.
struct Slow {
    action: Action,
    is_over: Cell<bool>,
}

impl Plot for Slow {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        match action == self.action && !self.is_over.replace(true) {
            true => Fate::RequestLate(Duration::from_secs(1)),
            false => Fate::Delivered,
        }
    }
}

fn slow(action: Action) {
    plot::follow(Some(Rc::new(Slow { action, is_over: Cell::new(action == Action::Other) })));
}

fn reprice(price: i64) -> product::Command {
    let patch = Patch { price: Some(price), ..Patch::default() };
    product::Command::Change { by: seller(), patch, seen: None }
}

#[test]
pub fn the_price_in_force_when_stock_is_reserved_is_the_one_that_is_charged() {
    // Changed while Reserve is on its way, and while Charge is.
    for (action, price) in [(Action::Reserve, 9), (Action::Charge, PRICE)] {
        play(31, async {
            let stage = Stage::set();
            let node = stage.open().await;
            let product = stage.offer(&node, STOCK).await;
            slow(action);
            let id = stage.order_id();
            let items = vec![Item { product, quantity: 3 }];
            node.shop.directory().ask(id, place(items, None), ASK).await.expect("accepted");
            tokio::time::sleep(Duration::from_millis(500)).await;
            certain(&node, product, reprice(9)).await.expect("changed");
            stage.settled(Duration::from_secs(60)).await.expect("it ends");
            let view = stage.order(id).await.expect("is there");
            assert_eq!((view.lines[0].price, view.amount), (price, Some(3 * price)), "{action:?}");
            assert_eq!(stage.bank.books()[&id.uuid()].captured(), 3 * price);
            let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
            assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], End::Completed);
        });
    }
}

#[test]
pub fn a_product_withdrawn_before_it_is_reserved_is_not_sold() {
    let undone = End::Undone("product_not_found".to_owned());
    // Withdrawn while Reserve is on its way; and while Charge is: what is held is still served.
    for (action, end) in [(Action::Reserve, undone), (Action::Charge, End::Completed)] {
        play(32, async {
            let stage = Stage::set();
            let node = stage.open().await;
            let products = [stage.offer(&node, STOCK).await, stage.offer(&node, STOCK).await];
            slow(action);
            let id = stage.order_id();
            let items = products.map(|product| Item { product, quantity: 3 }).to_vec();
            node.shop.directory().ask(id, place(items, None), ASK).await.expect("accepted");
            tokio::time::sleep(Duration::from_millis(500)).await;
            for product in products {
                let withdraw = product::Command::Withdraw { by: seller(), seen: None };
                certain(&node, product, withdraw).await.expect("withdrawn");
            }
            stage.settled(Duration::from_secs(60)).await.expect("it ends");
            let products = products.map(|product| (product, STOCK)).to_vec();
            let cast = Cast { products, orders: vec![id], ..Cast::default() };
            assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], end, "{action:?}");
        });
    }
}

#[test]
pub fn an_undo_before_its_action_succeeds_and_the_late_action_is_refused() {
    play(33, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let purchase = stage.order_id();
        let reserve_by = stage.clock.now() + PATIENCE;
        let claim = Claim { purchase, reserve_by };
        let currency = "VND".parse().expect("in ISO 4217");
        let reserve = || product::Command::Reserve { claim, quantity: 3, currency };
        for _ in 0..2 {
            let released = certain(&node, product, product::Command::Release(claim)).await;
            assert_eq!(released, Ok(product::Answer::Released));
        }
        assert_eq!(certain(&node, product, reserve()).await, Err(product::Rejection::Over));

        let bill = Bill { customer: buyer(), amount: 21, currency, reserve_by };
        let id = purchase.same::<Payment>();
        for _ in 0..2 {
            let settles_within = Duration::from_secs(30);
            let void = payment::Command::Void { bill: bill.clone(), settles_within };
            assert_eq!(certain(&node, id, void).await, Ok(payment::Answer::Voided));
        }
        let charge = payment::Command::Charge { bill, token: None };
        assert_eq!(certain(&node, id, charge).await, Err(payment::Rejection::Voided));
        assert!(stage.bank.books().is_empty(), "the bank was asked to charge what was voided");

        // Another node, which was told nothing, refuses it too.
        node.kill();
        let another = stage.open().await;
        assert_eq!(certain(&another, product, reserve()).await, Err(product::Rejection::Over));
        let stock = stage.product(product).await.expect("is there");
        assert_eq!((stock.inventory, stock.held), (STOCK, 0));
    });
}
