//! The gate: how many are inside at once.

use loom::thread::{self, JoinHandle};
use souk_loom::admission::{Gate, Permit};
use souk_loom::sync::{Arc, AtomicUsize, Ordering};

use crate::explore;

/// Somebody who wants in, and stays.
fn guest(gate: &Arc<Gate>) -> JoinHandle<Option<Permit>> {
    let gate = Arc::clone(gate);
    thread::spawn(move || gate.enter())
}

/// Goes in twice, if it may, and out again. `inside` counts who is really there.
fn visit(gate: &Arc<Gate>, inside: &AtomicUsize) {
    for _ in 0..2 {
        if let Some(permit) = gate.enter() {
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "more are inside than may be");
            inside.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        }
    }
}

#[test]
fn a_gate_lets_in_as_many_as_its_bound_and_no_more() {
    explore("three want one of two places", || {
        let gate = Gate::new(2);
        let others = [guest(&gate), guest(&gate)];
        let mut permits = vec![gate.enter()];
        permits.extend(others.map(|other| other.join().expect("it does not panic")));
        assert_eq!(permits.iter().flatten().count(), 2, "nobody is turned away while there is room");
        assert_eq!(gate.inside(), 2);
        drop(permits);
        assert_eq!(gate.inside(), 0, "everybody has left");
    });
    explore("two go twice through a gate for one", || {
        let gate = Gate::new(1);
        let inside = Arc::new(AtomicUsize::new(0));
        let other = (Arc::clone(&gate), Arc::clone(&inside));
        let other = thread::spawn(move || visit(&other.0, &other.1));
        visit(&gate, &inside);
        other.join().expect("it does not panic");
        assert_eq!(gate.inside(), 0, "everybody has left");
        assert!(gate.enter().is_some(), "an empty gate lets in");
    });
}

#[test]
fn a_permit_may_be_given_back_while_others_want_in() {
    explore("one leaves while two want the last place", || {
        let gate = Gate::new(2);
        let permit = gate.enter().expect("an empty gate lets in");
        let others = [guest(&gate), guest(&gate)];
        drop(permit);
        let permits = others.map(|other| other.join().expect("it does not panic"));
        let stayed = permits.iter().flatten().count();
        assert!(stayed > 0, "there was a place all the time");
        assert_eq!(gate.inside(), stayed);
        drop(permits);
        assert_eq!(gate.inside(), 0, "everybody has left");
    });
    explore("a permit is given back by another than took it", || {
        let gate = Gate::new(1);
        let permit = gate.enter().expect("an empty gate lets in");
        let leaves = thread::spawn(move || drop(permit));
        let stayed = gate.enter();
        leaves.join().expect("it does not panic");
        assert_eq!(gate.inside(), stayed.iter().count());
        drop(stayed);
        assert!(gate.enter().is_some(), "who knows that it is empty is let in");
    });
}

#[test]
fn what_returns_inside_keeps_its_place_from_others() {
    explore("one returns, and leaves with its first permit, while another wants in", || {
        let gate = Gate::new(1);
        let permit = gate.enter().expect("an empty gate lets in");
        let other = guest(&gate);
        let returned = gate.return_inside();
        drop(permit);
        assert!(other.join().expect("it does not panic").is_none(), "the place was never free");
        assert_eq!(gate.inside(), 1);
        drop(returned);
        assert_eq!(gate.inside(), 0, "everybody has left");
    });
}

#[test]
#[should_panic(expected = "more are inside than may be")]
fn a_gate_that_looks_before_it_counts_is_found_out() {
    /// Answers how many were inside before.
    fn enter(counted: &AtomicUsize) -> Option<usize> {
        let has_room = counted.load(Ordering::Acquire) < 1;
        has_room.then(|| counted.fetch_add(1, Ordering::AcqRel))
    }
    loom::model(|| {
        let counted = Arc::new(AtomicUsize::new(0));
        let other = Arc::clone(&counted);
        let other = thread::spawn(move || enter(&other));
        let both = [enter(&counted), other.join().expect("it does not panic")];
        assert!(!both.contains(&Some(1)), "more are inside than may be");
    });
}
