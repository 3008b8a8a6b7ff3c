//! The handover: between those who give rows or wait for them and the writer's task.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use loom::thread::{self, JoinHandle};
use souk_loom::handover::Handover;
use souk_loom::journal::{Committed, Reschedule, Row};
use souk_loom::queue::Queue;
use souk_loom::sync::{self, block_on};
use souk_persistence::Timestamp;
use uuid::Uuid;

use crate::explore;

/// A row's stream and version.
type Name = (u128, i32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happened {
    /// The giver is back.
    Given(Name),
    /// The store has it.
    Stored(Name),
    /// The giver was told.
    Told(Name),
    Rescheduled(Name),
}

use Happened::{Given, Rescheduled, Stored, Told};

/// A writer under test. What happens is written down as it happens: loom runs one thread at a time.
#[derive(Default)]
struct Writer {
    handover: Handover,
    /// The rows that the database has, a bit each. loom's, so that schedules part where it is reached.
    stored: sync::AtomicUsize,
    happened: Mutex<Vec<Happened>>,
}

impl Writer {
    fn give(self: &Arc<Self>, name: Name) {
        let told = Arc::clone(self);
        self.handover.commit(row(name), Box::new(move |_| told.note(Told(name))));
        self.note(Given(name));
    }

    /// The writer's task: until it is closed, or until it has stored so many rows and changes.
    fn write(&self, mut count: usize) {
        block_on(async {
            while count > 0
                && let Some((batch, askers)) = self.handover.next().await
            {
                count -= batch.rows.len() + batch.reschedules.len();
                self.store(&batch.rows);
                for change in batch.reschedules {
                    self.note(Rescheduled((change.stream.as_u128(), change.version)));
                }
                self.handover.tell(batch.rows, askers, |_| Committed::Taken);
            }
        });
    }

    fn store(&self, rows: &[Row]) {
        let bits = rows.iter().fold(0, |bits, row| bits | bit(name(row)));
        self.stored.fetch_or(bits, sync::Ordering::Release);
        rows.iter().for_each(|row| self.note(Stored(name(row))));
    }

    fn note(&self, happened: Happened) {
        self.happened.lock().expect("nobody panics").push(happened);
    }

    fn happened(&self) -> Vec<Happened> {
        self.happened.lock().expect("nobody panics").clone()
    }

    /// How often.
    fn count(&self, what: Happened) -> usize {
        self.happened().iter().filter(|happened| **happened == what).count()
    }
}

fn row((stream, version): Name) -> Row {
    Row {
        stream: Uuid::from_u128(stream),
        version,
        kind: 5,
        slot: 0,
        at: Timestamp::default(),
        updated_at: Timestamp::default(),
        events: "[]".to_owned(),
        owner: None,
        owed: None,
        view: "{}".into(),
        snapshot: None,
    }
}

fn bit((stream, version): Name) -> usize {
    1 << (4 * stream as usize + version as usize)
}

fn name(row: &Row) -> Name {
    (row.stream.as_u128(), row.version)
}

/// A thread beside the model's own. The random name of a batch needs more stack than loom gives.
fn beside<S: Send + Sync + 'static>(
    shared: &Arc<S>,
    run: impl FnOnce(&Arc<S>) + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    let words = 0x10000 / size_of::<usize>();
    thread::Builder::new().stack_size(words).spawn(move || run(&shared)).expect("loom has room for it")
}

#[test]
fn a_row_given_while_the_writer_looks_empty_handed_is_not_forgotten() {
    explore("two give a row each, the writer waits for both", || {
        let writer = Arc::new(Writer::default());
        // If a ring is lost it waits for ever, and loom says so.
        let task = beside(&writer, |writer| writer.write(2));
        let other = beside(&writer, |writer| writer.give((2, 1)));
        writer.give((1, 1));
        other.join().expect("it does not panic");
        task.join().expect("it does not panic");
        assert_eq!([writer.count(Told((1, 1))), writer.count(Told((2, 1)))], [1, 1]);
        assert_eq!(writer.handover.backlog(), 0);
    });
}

#[test]
fn a_change_of_what_is_owed_is_not_forgotten_either() {
    explore("a row waits, a change is given, the writer waits for both", || {
        let writer = Arc::new(Writer::default());
        writer.give((2, 1));
        let task = beside(&writer, |writer| writer.write(2));
        writer.handover.reschedule(Reschedule { stream: Uuid::from_u128(1), version: 3, owed: None });
        task.join().expect("it does not panic");
        assert_eq!(writer.count(Rescheduled((1, 3))), 1);
        assert_eq!(writer.handover.backlog(), 0);
    });
}

#[test]
fn a_closed_writer_ends_and_only_after_it_has_told_everybody() {
    explore("a row waits, another of its stream is given, then it is closed", || {
        let writer = Arc::new(Writer::default());
        writer.give((1, 1));
        let task = beside(&writer, |writer| writer.write(usize::MAX));
        writer.give((1, 2));
        writer.handover.close();
        task.join().expect("it does not panic");
        let happened = writer.happened();
        let of_the_writer = happened.into_iter().filter(|happened| !matches!(happened, Given(_)));
        let in_order = [Stored((1, 1)), Told((1, 1)), Stored((1, 2)), Told((1, 2))];
        assert_eq!(of_the_writer.collect::<Vec<_>>(), in_order);
    });
    explore("a row waits, another comes from elsewhere, then it is closed", || {
        let writer = Arc::new(Writer::default());
        writer.give((1, 1));
        let task = beside(&writer, |writer| writer.write(usize::MAX));
        let other = beside(&writer, |writer| writer.give((2, 1)));
        other.join().expect("it does not panic");
        writer.handover.close();
        task.join().expect("it does not panic");
        for name in [(1, 1), (2, 1)] {
            assert_eq!([writer.count(Stored(name)), writer.count(Told(name))], [1, 1], "{name:?}");
        }
    });
}

#[test]
fn a_load_is_woken_after_the_last_row_of_its_stream() {
    /// The load reads the database, and must see every row of its stream that was given before it.
    fn sees(writer: &Writer, names: &[Name]) -> bool {
        let stored = writer.stored.load(sync::Ordering::Acquire);
        names.iter().all(|name| stored & bit(*name) != 0)
    }
    explore("a load, two rows of its stream before it and one of another", || {
        let writer = Arc::new(Writer::default());
        for name in [(1, 1), (1, 2), (2, 1)] {
            writer.give(name);
        }
        let task = beside(&writer, |writer| writer.write(3));
        block_on(writer.handover.passed(Uuid::from_u128(1)));
        assert!(sees(&writer, &[(1, 1), (1, 2)]), "it is loaded too early");
        task.join().expect("it does not panic");
    });
    explore("a load that waits while another row of its stream is given", || {
        let writer = Arc::new(Writer::default());
        writer.give((1, 1));
        let task = beside(&writer, |writer| writer.write(2));
        let mut load = pin!(writer.handover.passed(Uuid::from_u128(1)));
        let is_free = load.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        writer.give((1, 2));
        if !is_free {
            block_on(load);
        }
        assert!(sees(&writer, &[(1, 1)]), "it is loaded too early");
        task.join().expect("it does not panic");
    });
}

#[test]
fn a_load_that_is_given_up_disturbs_nobody() {
    explore("two loads, one given up, while their row is told", || {
        let writer = Arc::new(Writer::default());
        writer.give((1, 1));
        let task = beside(&writer, |writer| writer.write(1));
        let waits = beside(&writer, |writer| block_on(writer.handover.passed(Uuid::from_u128(1))));
        {
            let given_up = pin!(writer.handover.passed(Uuid::from_u128(1)));
            let _ = given_up.poll(&mut Context::from_waker(Waker::noop()));
        }
        waits.join().expect("it does not panic");
        task.join().expect("it does not panic");
        assert_eq!(writer.count(Told((1, 1))), 1);
    });
}

#[test]
fn whoever_hears_that_a_row_is_lost_need_not_wait_for_it() {
    explore("a load out of the mouth of the writer", || {
        let writer = Arc::new(Writer::default());
        let told = Arc::clone(&writer);
        let done = move |committed| {
            let load = pin!(told.handover.passed(Uuid::from_u128(1)));
            let is_free = load.poll(&mut Context::from_waker(Waker::noop())).is_ready();
            if committed == Committed::NotOurs && is_free {
                told.note(Told((1, 1)));
            }
        };
        let task = beside(&writer, |writer| {
            let (batch, askers) = block_on(writer.handover.next()).expect("it is not closed");
            writer.handover.tell(batch.rows, askers, |_| Committed::NotOurs);
        });
        writer.handover.commit(row((1, 1)), Box::new(done));
        task.join().expect("it does not panic");
        assert_eq!(writer.count(Told((1, 1))), 1);
    });
}

#[test]
fn whoever_waits_for_silence_finds_everybody_told() {
    explore("a flush behind two rows, one of which the writer may have begun", || {
        let writer = Arc::new(Writer::default());
        // loom's, so that schedules part between what is settled and what is told.
        let told = Arc::new(sync::AtomicUsize::new(0));
        let give = |name| {
            let told = Arc::clone(&told);
            let done = move |_| {
                told.fetch_add(1, sync::Ordering::Release);
            };
            writer.handover.commit(row(name), Box::new(done));
        };
        give((1, 1));
        let task = beside(&writer, |writer| writer.write(2));
        give((2, 1));
        block_on(writer.handover.flushed());
        assert_eq!(told.load(sync::Ordering::Acquire), 2, "somebody is not told yet");
        task.join().expect("it does not panic");
    });
}

/// The same queue and wake-up, put together wrongly.
#[derive(Default)]
struct Careless {
    queue: sync::Mutex<Queue>,
    wake: sync::Notify,
    told: Mutex<usize>,
}

impl Careless {
    fn push(self: &Arc<Self>) {
        let told = Arc::clone(self);
        let done = Box::new(move |_| *told.told.lock().expect("nobody panics") += 1);
        self.queue.lock().expect("nobody panics").push(row((1, 1)), done);
    }

    fn take(&self) -> bool {
        let taken = self.queue.lock().expect("nobody panics").take();
        taken.is_some_and(|(_, askers)| {
            askers.into_iter().for_each(|asker| (asker.done)(Committed::Taken));
            true
        })
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_giver_that_rings_before_it_puts_in_is_found_out() {
    loom::model(|| {
        let careless = Arc::new(Careless::default());
        let task = beside(&careless, |writer| {
            while !writer.take() {
                block_on(writer.wake.notified());
            }
        });
        careless.wake.notify_one();
        careless.push();
        task.join().expect("it does not panic");
    });
}

#[test]
#[should_panic(expected = "somebody was never told")]
fn a_writer_that_ends_as_soon_as_it_is_closed_is_found_out() {
    loom::model(|| {
        let careless = Arc::new(Careless::default());
        let task = beside(&careless, |writer| {
            while !writer.queue.lock().expect("nobody panics").is_closed() {
                if !writer.take() {
                    block_on(writer.wake.notified());
                }
            }
        });
        careless.push();
        careless.wake.notify_one();
        careless.queue.lock().expect("nobody panics").close();
        careless.wake.notify_one();
        task.join().expect("it does not panic");
        assert_eq!(*careless.told.lock().expect("nobody panics"), 1, "somebody was never told");
    });
}
