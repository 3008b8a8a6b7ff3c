//! The gate: how many are inside at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::thread::{self, JoinHandle};
use souk_loom::admission::{Gate, Permit};
use souk_loom::sync::{self, Arc};

use crate::explore;

/// A gate under test. Who is really inside is counted beside it; loom runs one thread at a time.
struct Room {
    gate: Arc<Gate>,
    max: usize,
    inside: AtomicUsize,
}

impl Room {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { gate: Gate::new(max), max, inside: AtomicUsize::new(0) })
    }

    fn enter(&self) -> Option<Permit> {
        let permit = self.gate.enter()?;
        let before = self.inside.fetch_add(1, Ordering::Relaxed);
        assert!(before < self.max, "more are inside than may be");
        Some(permit)
    }

    fn leave(&self, permit: Permit) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
        drop(permit);
    }

    /// Goes in, if it may, and out again.
    fn visit(&self) -> bool {
        let permit = self.enter();
        let entered = permit.is_some();
        permit.into_iter().for_each(|permit| self.leave(permit));
        entered
    }
}

fn beside(room: &Arc<Room>, run: impl FnOnce(&Room) -> bool + 'static) -> JoinHandle<bool> {
    let room = Arc::clone(room);
    thread::spawn(move || run(&room))
}

#[test]
fn a_gate_never_lets_in_more_than_its_bound_and_is_empty_in_the_end() {
    explore("two go twice through a gate for one", || {
        let room = Room::new(1);
        let other = beside(&room, |room| room.visit() | room.visit());
        let entered = room.visit() | room.visit();
        assert!(other.join().expect("it does not panic") || entered, "an empty gate lets in");
        assert_eq!(room.gate.inside(), 0, "everybody has left");
        assert!(room.enter().is_some(), "an empty gate lets in");
    });
    explore("one leaves while two want the last place", || {
        let room = Room::new(2);
        let permit = room.enter().expect("an empty gate lets in");
        let one = beside(&room, Room::visit);
        let other = beside(&room, Room::visit);
        room.leave(permit);
        let entered = one.join().expect("it does not panic") | other.join().expect("it does not panic");
        assert!(entered, "there was a place all the time");
        assert_eq!(room.gate.inside(), 0, "everybody has left");
    });
}

#[test]
fn a_permit_may_be_given_back_by_another_than_took_it() {
    explore("a permit is given back elsewhere", || {
        let room = Room::new(1);
        let permit = room.enter().expect("an empty gate lets in");
        let leaves = beside(&room, |room| {
            room.leave(permit);
            true
        });
        let enters = beside(&room, Room::visit);
        leaves.join().expect("it does not panic");
        enters.join().expect("it does not panic");
        assert_eq!(room.gate.inside(), 0, "everybody has left");
        assert!(room.enter().is_some(), "who knows that it is empty is let in");
    });
}

#[test]
#[should_panic(expected = "more are inside than may be")]
fn a_gate_that_looks_before_it_counts_is_found_out() {
    /// Answers how many were inside before.
    fn enter(counted: &sync::AtomicUsize) -> Option<usize> {
        let has_room = counted.load(Ordering::Acquire) < 1;
        has_room.then(|| counted.fetch_add(1, Ordering::AcqRel))
    }
    loom::model(|| {
        let counted = Arc::new(sync::AtomicUsize::new(0));
        let other = Arc::clone(&counted);
        let other = thread::spawn(move || enter(&other));
        let both = [enter(&counted), other.join().expect("it does not panic")];
        assert!(!both.contains(&Some(1)), "more are inside than may be");
    });
}
