//! What comes late: repeats past their deadline, charges that nobody heard of, databases that were away.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use souk_actors::directory::AskError;
use souk_actors::fate::Fate;
use souk_actors::order::{Item, Status};
use souk_actors::payment::{self, Bill, Payment};
use souk_actors::product::{self, Claim, Product};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bank::CAPTURED_BUT_DECLINED;
use crate::plot::{self, Action, Plot};
use crate::stage::{ASK, PATIENCE, Stage, buyer, cancel, certain, place, play};
use crate::truth::{Cast, End, Promise, ends};

const STOCK: i64 = 100;

#[test]
pub fn a_late_repeat_past_its_deadline_is_not_taken_for_a_refusal() {
    play(11, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let currency = "VND".parse().expect("in ISO 4217");
        let reserve_by = stage.clock.now() + PATIENCE;
        let (made, never) = (stage.order_id(), stage.order_id());
        let reserve = |purchase| {
            let claim = Claim { purchase, reserve_by };
            product::Command::Reserve { claim, quantity: 3, currency }
        };
        let bill = Bill { customer: buyer(), amount: 21, currency, reserve_by };
        let charge = || payment::Command::Charge { bill: bill.clone(), token: None };
        let in_time = certain(&node, product, reserve(made)).await;
        assert!(matches!(in_time, Ok(product::Answer::Reserved(_))), "{in_time:?}");
        let charged = certain(&node, made.same::<Payment>(), charge()).await;
        assert_eq!(charged, Ok(payment::Answer::Captured));

        tokio::time::sleep(PATIENCE + Duration::from_secs(5)).await;
        let directory = node.shop.directory();
        // What is already so is answered as always; what is new is neither done nor refused.
        assert_eq!(directory.ask(product, reserve(made), ASK).await, in_time.map_err(AskError::Rejected));
        assert_eq!(directory.ask::<Product>(product, reserve(never), ASK).await, Err(AskError::Unknown));
        let late = directory.ask(made.same::<Payment>(), charge(), ASK).await;
        assert_eq!(late, Ok(payment::Answer::Captured));
        let late = directory.ask(never.same::<Payment>(), charge(), ASK).await;
        assert_eq!(late, Err(AskError::Unknown));
        assert!(!stage.bank.books().contains_key(&never.uuid()), "the bank was asked past the deadline");
    });
}

/// The answers of an action get lost.
struct Unheard(Action);

impl Plot for Unheard {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        if action == self.0 { Fate::AnswerLost } else { Fate::Delivered }
    }
}

#[test]
pub fn a_charge_that_was_made_counts_even_if_its_node_was_dead_past_the_deadline() {
    play(12, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        plot::follow(Some(Rc::new(Unheard(Action::Charge))));
        let id = stage.order_id();
        let items = vec![Item { product, quantity: 3 }];
        node.shop.directory().ask(id, place(items, None), ASK).await.expect("accepted");
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.kill();
        plot::follow(None);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let _another = stage.open().await;
        stage.settled(Duration::from_secs(60)).await.expect("it ends");
        let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
        assert_eq!(ends(&stage, &cast).await.expect("all is well")[&id], End::Completed);
    });
}

#[test]
pub fn an_outage_of_five_minutes_leaves_nothing_undone_and_nobody_needed() {
    play(13, async {
        let stage = Stage::set();
        let node = stage.open().await;
        let product = stage.offer(&node, STOCK).await;
        let mut cast = Cast { products: vec![(product, STOCK)], ..Cast::default() };
        // One that is new, one that has stock, one that is being charged, and one that is being undone.
        for stage_of_life in 0..4_u64 {
            let id = stage.order_id();
            let items = vec![Item { product, quantity: 3 }];
            let directory = node.shop.directory();
            node.slow(Duration::from_millis(40));
            directory.ask(id, place(items, None), ASK).await.expect("accepted");
            tokio::time::sleep(Duration::from_millis(20 * stage_of_life)).await;
            if stage_of_life == 3 {
                // Too late, or not.
                let _ = directory.ask(id, cancel(), ASK).await;
            }
            cast.orders.push(id);
            cast.promises.push((id, Promise::Placed));
        }
        node.freeze(true);
        tokio::time::sleep(Duration::from_secs(300)).await;
        node.freeze(false);
        stage.settled(Duration::from_secs(300)).await.expect("it ends");
        for (id, end) in ends(&stage, &cast).await.expect("all is well").of {
            assert!(matches!(end, End::Completed | End::Undone(_)), "{id} ended as {end:?}");
        }
        assert!(node.shop.quarantined().is_empty());
        stage.nobody_stays(&node).await.expect("nobody stays");
    });
}

/// Something befalls the first charge at the bank.
struct FirstCharge {
    fate: Cell<Option<Fate>>,
    charges: Cell<u32>,
}

impl Plot for FirstCharge {
    fn befalls(&self, action: Action, _to: Uuid) -> Fate {
        if action != Action::BankCharge {
            return Fate::Delivered;
        }
        self.charges.set(self.charges.get() + 1);
        self.fate.take().unwrap_or(Fate::Unknown)
    }
}

#[test]
pub fn a_charge_whose_answer_was_lost_is_given_back_once_whatever_the_bank_said() {
    let late = |seconds| Fate::RequestLate(Duration::from_secs(seconds));
    // What befalls the charge; every later attempt is answered unknown, and the buyer cancels at once.
    let fates = [
        ("its answer is lost", Fate::AnswerLost, None),
        ("it is done and unknown", Fate::DoneUnknown, None),
        ("it arrives when nobody waits", late(6), None),
        ("it arrives after the void has looked", late(9), None),
        ("the bank says it failed", Fate::Delivered, Some(CAPTURED_BUT_DECLINED)),
        ("the bank says it failed, late", late(8), Some(CAPTURED_BUT_DECLINED)),
        ("the bank's word is lost", Fate::AnswerLost, Some(CAPTURED_BUT_DECLINED)),
    ];
    for (what, fate, token) in fates {
        play(14, async {
            let stage = Stage::set();
            let node = stage.open().await;
            let product = stage.offer(&node, STOCK).await;
            let plot = Rc::new(FirstCharge { fate: Cell::new(Some(fate)), charges: Cell::new(0) });
            plot::follow(Some(plot.clone()));
            let id = stage.order_id();
            let items = vec![Item { product, quantity: 3 }];
            node.shop.directory().ask(id, place(items, token), ASK).await.expect("accepted");
            let deadline = Instant::now() + Duration::from_secs(5);
            while plot.charges.get() == 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Too late only where the bank's refusal was heard first.
            let _ = node.shop.directory().ask(id, cancel(), ASK).await;
            tokio::time::sleep(Duration::from_secs(15)).await;
            stage.settled(Duration::from_secs(300)).await.expect(what);
            let books = stage.bank.books().remove(&id.uuid()).expect("the bank was asked");
            assert_eq!((books.captured(), books.refunded(), books.refunds.len()), (21, 21, 1), "{what}");
            let cast = Cast { products: vec![(product, STOCK)], orders: vec![id], ..Cast::default() };
            ends(&stage, &cast).await.expect(what);
            let view = stage.order(id).await.expect("is there");
            assert!(matches!(view.status, Status::Cancelled | Status::Failed), "{what}: {view:?}");
        });
    }
}
