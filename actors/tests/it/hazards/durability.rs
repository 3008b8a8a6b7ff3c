//! What rests on rows that are not durable, and rows that become durable late.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use souk_actors::directory::AskError;
use souk_actors::fate::Fate;
use souk_actors::order::{self, Item, Order, Status};
use souk_actors::product::{self, Claim, Patch, Product};
use souk_actors::{Id, Timestamp};
use souk_persistence::memory::Fault;
use uuid::Uuid;

use crate::plot::{self, Action, Plot};
use crate::stage::{ASK, Node, PATIENCE, Stage, certain, place, play, seller};
use crate::truth::{Cast, End, Promise, ends};

const STOCK: i64 = 100;

fn claim(stage: &Stage, purchase: Id<Order>) -> Claim {
    Claim { purchase, reserve_by: stage.clock.now() + PATIENCE }
}

async fn reserved(stage: &Stage, node: &Node, product: Id<Product>, purchase: Id<Order>) -> Claim {
    let claim = claim(stage, purchase);
    let currency = "VND".parse().expect("in ISO 4217");
    let command = product::Command::Reserve { claim, quantity: 3, currency };
    certain(node, product, command).await.expect("reserved");
    claim
}

fn reprice(price: i64) -> product::Command {
    let patch = Patch { price: Some(price), ..Patch::default() };
    product::Command::Change { by: seller(), patch, seen: None }
}

#[test]
pub fn a_repeated_undo_is_not_answered_from_a_state_that_never_became_durable() {
    play(1, async {
        let stage = Stage::set();
        let (one, two) = (stage.open().await, stage.open().await);
        let product = stage.offer(&one, STOCK).await;
        let claim = reserved(&stage, &one, product, stage.order_id()).await;
        one.freeze(true);
        let host = Arc::clone(&one.shop.directory().hosts().product);
        // The first decides; the second finds it already so, in a state that no row bears out.
        let undos = [(); 2].map(|()| host.ask(product, product::Command::Release(claim), false));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut undos = undos;
        assert!(undos.iter_mut().all(|undo| undo.try_recv().is_err()), "an undo was answered from memory");
        // Another owner writes: the row with the release is lost.
        certain(&two, product, reprice(8)).await.expect("changed");
        one.freeze(false);
        for undo in undos {
            assert!(undo.await.is_err(), "an undo was answered from a state that never was");
        }
        assert_eq!(stage.product(product).await.expect("is there").held, 3);
        assert_eq!(
            certain(&two, product, product::Command::Release(claim)).await,
            Ok(product::Answer::Released)
        );
        assert_eq!(stage.product(product).await.expect("is there").held, 0);
    });
}

/// Writes down what is asked.
#[derive(Default)]
struct Overheard(RefCell<Vec<Action>>);

impl Plot for Overheard {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        self.0.borrow_mut().push(action);
        Fate::Delivered
    }
}

#[test]
pub fn an_effect_does_not_start_from_a_state_that_never_became_durable() {
    play(2, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let overheard = Rc::<Overheard>::default();
        plot::follow(Some(overheard.clone()));
        node.journals[2].pause(true);
        let items = vec![Item { product, quantity: 3 }];
        let id = stage.order_id();
        let placed = node.shop.directory().ask(id, place(items, None), Duration::from_secs(5)).await;
        assert_eq!(placed, Err(AskError::Unknown));
        assert_eq!(*overheard.0.borrow(), [Action::Place], "the world was asked for an order that is not");
        node.kill();
        let another = stage.open().await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let stock = stage.product(product).await.expect("is there");
        assert_eq!((stage.order(id).await, stock.inventory, stock.held), (None, STOCK, 0));
        stage.nobody_stays(&another).await.expect("nobody is here");
    });
}

#[test]
pub fn an_answer_does_not_leave_before_its_row_is_durable() {
    play(3, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        node.journals[1].pause(true);
        let claim = claim(&stage, stage.order_id());
        let currency = "VND".parse().expect("in ISO 4217");
        let reserve = || product::Command::Reserve { claim, quantity: 3, currency };
        let host = &node.shop.directory().hosts().product;
        let mut asked = [host.ask(product, reserve(), false), host.ask(product, reserve(), false)];
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(asked.iter_mut().all(|asked| asked.try_recv().is_err()), "stock was promised from memory");
        node.kill();
        let another = stage.open().await;
        assert_eq!(stage.product(product).await.expect("is there").held, 0);
        let released = certain(&another, product, product::Command::Release(claim)).await;
        assert_eq!(released, Ok(product::Answer::Released));
    });
}

#[test]
pub fn a_row_of_a_paused_owner_that_commits_after_a_take_over_is_driven_by_the_sweep() {
    play(4, async {
        let stage = Stage::set();
        let paused = stage.open().await;
        let product = stage.offer(&paused, STOCK).await;
        paused.journals[2].pause(true);
        let id = stage.order_id();
        let items = vec![Item { product, quantity: 3 }];
        let placed = paused.shop.directory().ask(id, place(items, None), Duration::from_secs(1)).await;
        assert_eq!(placed, Err(AskError::Unknown));
        // Another takes over and finds nothing; then the row arrives, and nobody asks for it ever again.
        let _another = stage.open().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(stage.order(id).await, None);
        paused.shop.kill();
        paused.journals[2].pause(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(stage.order(id).await.is_some(), "the row is there");
        stage.settled(Duration::from_secs(60)).await.expect("it is driven to its end");
        assert_eq!(stage.order(id).await.expect("is there").status, Status::Completed);
        let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
        assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], End::Completed);
    });
}

/// Rows of each journal, in the order in which they were taken.
fn rows(stage: &Stage) -> Vec<usize> {
    stage.journals.iter().map(|journal| journal.chronicle().len()).collect()
}

#[test]
pub fn an_unknown_commit_sent_again_is_neither_lost_nor_doubled() {
    let purchase = |lost: Option<(usize, usize, Fault)>| {
        play(5, async move {
            let stage = Stage::set();
            let node = stage.open().await;
            let product = stage.offer(&node, STOCK).await;
            if let Some((journal, before, fault)) = lost {
                // After so many that are heard, three in a row are not.
                let heard = (0..before).map(|_| Fault::Heard);
                stage.journals[journal].fail_next(heard.chain([fault; 3]));
            }
            let id = stage.order_id();
            let items = vec![Item { product, quantity: 3 }];
            let placed = node.shop.directory().ask(id, place(items, None), ASK).await;
            let accepted = matches!(placed, Ok(order::Answer::Placed { replayed: false, .. }));
            assert!(accepted, "{lost:?}: {placed:?}");
            stage.settled(Duration::from_secs(60)).await.expect("it ends");
            assert_eq!(
                stage.journals.iter().map(|journal| journal.faults_left()).sum::<usize>(),
                0,
                "{lost:?}"
            );
            let cast = Cast {
                products: vec![(product, STOCK)],
                orders: vec![id],
                promises: vec![(id, Promise::Placed)],
                has_forged: false,
            };
            assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], End::Completed);
            rows(&stage)
        })
    };
    let undisturbed = purchase(None);
    // Product: reserve and settle. Order: accepted, reserved, completed. Payment: captured.
    for (journal, commits) in [(1, 2), (2, 3), (3, 1)] {
        for before in 0..commits {
            for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
                let rows = purchase(Some((journal, before, fault)));
                assert_eq!(rows, undisturbed, "commit {before} of journal {journal}, {fault:?}");
            }
        }
    }
}

#[test]
pub fn of_two_owners_the_one_whose_row_is_refused_answers_nobody() {
    play(6, async {
        let stage = Stage::set();
        let (one, two) = (stage.open().await, stage.open().await);
        let product = stage.offer(&one, STOCK).await;
        let first = reserved(&stage, &one, product, stage.order_id()).await;
        certain(&two, product, reprice(9)).await.expect("changed");
        // The first owner does not know of that row. What it decides now rests on a stream that is not.
        let second = Claim { purchase: stage.order_id(), reserve_by: Timestamp::from_micros(i64::MAX / 4) };
        let currency = "VND".parse().expect("in ISO 4217");
        let reserve = product::Command::Reserve { claim: second, quantity: 3, currency };
        let answer = one.shop.directory().ask(product, reserve.clone(), ASK).await;
        assert_eq!(answer, Err(AskError::Unknown));
        match certain(&one, product, reserve).await.expect("loaded again, it reserves") {
            product::Answer::Reserved(offer) => assert_eq!(offer.price, 9),
            other => panic!("{other:?}"),
        }
        for claim in [first, second] {
            certain(&two, product, product::Command::Release(claim)).await.expect("released");
        }
        let stock = stage.product(product).await.expect("is there");
        assert_eq!((stock.inventory, stock.held), (STOCK, 0));
    });
}
