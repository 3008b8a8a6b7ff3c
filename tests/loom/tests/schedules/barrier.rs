//! The barrier: between the entity, which holds answers back, and the writer, which lets them go.

use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use loom::thread;
use souk_loom::barrier::{Barrier, Hold};
use souk_loom::sync::Arc;

use crate::explore;

/// An answer and the row that it rests on.
type Answer = (usize, i32);

/// A stream under test: the barrier, and what really happened beside it.
struct Stream {
    barrier: Barrier<Answer>,
    /// The newest row that the database has.
    durable: AtomicI32,
    is_broken: AtomicBool,
    given: [AtomicUsize; 3],
    dropped: [AtomicUsize; 3],
}

impl Stream {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            barrier: Barrier::new(0),
            durable: AtomicI32::new(0),
            is_broken: AtomicBool::new(false),
            given: Default::default(),
            dropped: Default::default(),
        })
    }

    /// As the entity does with an answer that it has decided.
    fn hold(&self, number: usize, version: i32) {
        let was_broken = self.is_broken.load(Ordering::Acquire);
        match self.barrier.hold(version, (number, version)) {
            Hold::Held => assert!(!was_broken, "what comes after the break is not held for ever"),
            Hold::Free(answer) => {
                assert!(!was_broken, "nothing leaves after the break");
                self.give(answer);
            }
            Hold::Broken(answer) => self.drop(answer),
        }
    }

    /// As the writer does when the database has the row.
    fn settle(&self, version: i32) {
        self.durable.store(version, Ordering::Release);
        let was_broken = self.is_broken.load(Ordering::Acquire);
        let free = self.barrier.settle(version);
        assert!(!was_broken || free.is_empty(), "nothing leaves after the break");
        assert!(free.is_sorted(), "answers leave in the order in which they were decided");
        free.into_iter().for_each(|answer| self.give(answer));
    }

    /// As the writer does when a row is not ours.
    fn break_open(&self) {
        let lost = self.barrier.break_open();
        self.is_broken.store(true, Ordering::Release);
        lost.into_iter().for_each(|answer| self.drop(answer));
    }

    fn give(&self, (number, version): Answer) {
        assert!(self.durable.load(Ordering::Acquire) >= version, "an answer leaves with its row, not before");
        self.given[number].fetch_add(1, Ordering::Relaxed);
    }

    fn drop(&self, (number, _): Answer) {
        self.dropped[number].fetch_add(1, Ordering::Relaxed);
    }

    fn given(&self, number: usize) -> usize {
        self.given[number].load(Ordering::Relaxed)
    }

    fn dropped(&self, number: usize) -> usize {
        self.dropped[number].load(Ordering::Relaxed)
    }
}

fn together(stream: &Arc<Stream>, other: impl FnOnce(&Stream) + 'static) -> thread::JoinHandle<()> {
    let stream = Arc::clone(stream);
    thread::spawn(move || other(&stream))
}

#[test]
fn every_answer_leaves_once_and_not_before_its_row_is_settled() {
    explore("three answers, two rows settled meanwhile", || {
        let stream = Stream::new();
        let writer = together(&stream, |stream| {
            stream.settle(1);
            stream.settle(2);
        });
        stream.hold(0, 1);
        stream.hold(1, 1);
        stream.hold(2, 2);
        writer.join().expect("it does not panic");
        assert_eq!([0, 1, 2].map(|number| stream.given(number)), [1, 1, 1]);
        assert_eq!([0, 1, 2].map(|number| stream.dropped(number)), [0, 0, 0]);
    });
}

#[test]
fn after_the_break_nothing_leaves_and_nothing_stays_behind() {
    explore("three answers, one row settled, the next lost", || {
        let stream = Stream::new();
        let writer = together(&stream, |stream| {
            stream.settle(1);
            stream.break_open();
        });
        stream.hold(0, 1);
        stream.hold(1, 1);
        stream.hold(2, 2);
        writer.join().expect("it does not panic");
        for number in 0..3 {
            assert_eq!(stream.given(number) + stream.dropped(number), 1, "each is told once");
        }
        assert_eq!(stream.given(2), 0, "its row was lost");
        stream.hold(2, 2);
        assert_eq!(stream.dropped(2), 2, "it stays broken");
    });
}

#[test]
fn a_row_that_is_settled_while_another_is_lost_gives_all_or_nothing() {
    explore("an answer, a row settled and a row lost at once", || {
        let stream = Stream::new();
        stream.hold(0, 1);
        let settles = together(&stream, |stream| stream.settle(1));
        let breaks = together(&stream, Stream::break_open);
        stream.hold(1, 1);
        settles.join().expect("it does not panic");
        breaks.join().expect("it does not panic");
        for number in 0..2 {
            assert_eq!(stream.given(number) + stream.dropped(number), 1, "each is told once");
        }
    });
}

/// A barrier as one might write it that wants to spare the lock: what is durable is looked at without it.
struct Careless {
    durable: AtomicI32,
    held: loom::sync::Mutex<Vec<Answer>>,
}

impl Careless {
    fn hold(&self, answer: Answer) -> usize {
        if answer.1 <= self.durable.load(Ordering::Acquire) {
            return 1;
        }
        self.held.lock().expect("nobody panics").push(answer);
        0
    }

    fn settle(&self, version: i32) -> usize {
        self.durable.store(version, Ordering::Release);
        self.held.lock().expect("nobody panics").drain(..).count()
    }
}

#[test]
#[should_panic(expected = "an answer is never given")]
fn a_barrier_that_looks_without_its_lock_is_found_out() {
    loom::model(|| {
        let barrier = Arc::new(Careless { durable: AtomicI32::new(0), held: Default::default() });
        let writer = Arc::clone(&barrier);
        let writer = thread::spawn(move || writer.settle(1));
        let given = barrier.hold((0, 1));
        let given = given + writer.join().expect("it does not panic");
        assert_eq!(given, 1, "an answer is never given");
    });
}
