//! The reply guard: whoever asks is told, once, and the place in the mailbox is free again.

use loom::thread;
use souk_loom::admission::Gate;
use souk_loom::barrier::{Barrier, Hold};
use souk_loom::reply::Reply;
use souk_loom::sync::oneshot::{self, Receiver, RecvError};
use souk_loom::sync::{Arc, block_on};

use crate::explore;

/// Somebody asks an entity whose mailbox has one place.
fn ask(gate: &Arc<Gate>) -> (Reply<u8>, Receiver<u8>) {
    let permit = gate.enter().expect("the mailbox is empty");
    let (to, answer) = oneshot::channel();
    (Reply { to, permit }, answer)
}

#[test]
fn whoever_is_answered_hears_it_and_finds_its_place_free() {
    explore("a reply is answered", || {
        let gate = Gate::new(1);
        let (reply, answer) = ask(&gate);
        let entity = thread::spawn(move || reply.answer(7));
        assert_eq!(block_on(answer), Ok(7));
        assert!(gate.enter().is_some(), "who asks again at once is not turned away for itself");
        entity.join().expect("it does not panic");
        assert_eq!(gate.inside(), 0);
    });
}

#[test]
fn a_reply_that_is_dropped_tells_its_asker_and_finds_its_place_free() {
    explore("a reply is dropped", || {
        let gate = Gate::new(1);
        let (reply, answer) = ask(&gate);
        let entity = thread::spawn(move || drop(reply));
        assert_eq!(block_on(answer), Err(RecvError));
        assert!(gate.enter().is_some(), "who asks again at once is not turned away for itself");
        entity.join().expect("it does not panic");
        assert_eq!(gate.inside(), 0);
    });
}

#[test]
fn an_asker_that_gives_up_leaves_no_place_taken() {
    explore("an asker gives up while it is answered", || {
        let gate = Gate::new(1);
        let (reply, answer) = ask(&gate);
        let asker = thread::spawn(move || drop(answer));
        if reply.to.is_closed() {
            drop(reply);
        } else {
            reply.answer(7);
        }
        assert_eq!(gate.inside(), 0);
        asker.join().expect("it does not panic");
        assert_eq!(gate.inside(), 0);
    });
}

/// As entity and writer do it between them: an answer is held for row 1, which `ends` one way or another.
fn hold_for_a_row(ends: fn(&Barrier<(Reply<u8>, u8)>)) -> (Result<u8, RecvError>, usize) {
    let gate = Gate::new(1);
    let barrier = Arc::new(Barrier::new(0));
    let (reply, answer) = ask(&gate);
    let asker = thread::spawn(move || block_on(answer));
    let writer = Arc::clone(&barrier);
    let writer = thread::spawn(move || ends(&writer));
    match barrier.hold(1, (reply, 7)) {
        Hold::Held => {}
        Hold::Free((reply, answer)) => reply.answer(answer),
        Hold::Broken(held) => drop(held),
    }
    let told = asker.join().expect("it does not panic");
    writer.join().expect("it does not panic");
    (told, gate.inside())
}

#[test]
fn an_asker_hears_the_answer_when_the_row_is_taken_and_nothing_when_it_is_lost() {
    explore("a reply behind a barrier whose row is taken", || {
        let told = hold_for_a_row(|barrier| {
            barrier.settle(1).into_iter().for_each(|(reply, answer)| reply.answer(answer));
        });
        assert_eq!(told, (Ok(7), 0));
    });
    explore("a reply behind a barrier whose row is lost", || {
        let told = hold_for_a_row(|barrier| drop(barrier.break_open()));
        assert_eq!(told, (Err(RecvError), 0));
    });
}

#[test]
#[should_panic(expected = "turned away for itself")]
fn a_reply_that_tells_before_it_frees_its_place_is_found_out() {
    loom::model(|| {
        let gate = Gate::new(1);
        let (Reply { to, permit }, answer) = ask(&gate);
        let entity = thread::spawn(move || {
            let _ = to.send(7);
            drop(permit);
        });
        assert_eq!(block_on(answer), Ok(7));
        assert!(gate.enter().is_some(), "who asks again at once is turned away for itself");
        entity.join().expect("it does not panic");
    });
}
