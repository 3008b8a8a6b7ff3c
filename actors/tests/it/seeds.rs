//! Random seeds: twenty-five purchases each, under everything at once. All that is drawn follows from the
//! seed, so that one that fails can be played again by itself:
//! `SOUK_SEED=4711 cargo test -p souk-actors --test it seeds`.

pub mod storm;

use std::collections::HashSet;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::stage::{Counts, play};
use storm::storm;

/// So many, unless the environment says otherwise.
const SEEDS: u64 = 10_000;
/// So many of them are played twice, to show that a seed is one play.
const TWICE: u64 = 40;

/// What came of seeds.
#[derive(Clone, Debug, Default)]
pub struct Played {
    pub seeds: u64,
    pub purchases: u64,
    pub faults: Counts,
    pub ends: Counts,
    /// How many rows each law was judged by.
    pub rows: Counts,
}

/// Plays a seed: what came of it and its trace, or what is broken.
pub fn try_seed(seed: u64) -> Result<(Played, u64), String> {
    play(seed, storm(seed)).map_err(|broken| format!("seed {seed}: {broken}"))
}

/// Plays seeds on every core.
fn play_all(seeds: Range<u64>) -> Result<Played, String> {
    let next = AtomicU64::new(seeds.start);
    let all: Mutex<Result<Played, String>> = Mutex::new(Ok(Played::default()));
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || all.lock().expect("no panic").is_err() {
                return;
            }
            let played = catch_unwind(AssertUnwindSafe(|| try_seed(seed)))
                .unwrap_or_else(|_| Err(format!("seed {seed} panicked")));
            let mut all = all.lock().expect("no panic");
            match (&mut *all, played) {
                (Ok(all), Ok((one, _))) => all.add(&one),
                (Ok(_), Err(broken)) => *all = Err(broken),
                (Err(_), _) => return,
            }
        }
    };
    std::thread::scope(|threads| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (0..cores).for_each(|_| drop(threads.spawn(play_some)));
    });
    all.into_inner().expect("no panic")
}

impl Played {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.purchases += other.purchases;
        self.faults.merge(&other.faults);
        self.ends.merge(&other.ends);
        self.rows.merge(&other.rows);
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
}

#[test]
fn whatever_befalls_every_purchase_ends_and_everybody_tells_one_story() {
    let seeds = match number("SOUK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOUK_SEEDS").unwrap_or(SEEDS),
    };
    let started = Instant::now();
    let played = play_all(seeds.clone()).unwrap_or_else(|broken| {
        let seed = broken.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()).unwrap_or("?");
        panic!("{broken}\nplay it again: SOUK_SEED={seed} cargo test -p souk-actors --test it seeds")
    });
    let took = started.elapsed();
    let Played { seeds, purchases, faults, ends, rows } = played;
    let _ = writeln!(
        std::io::stderr(),
        "seeds: {seeds} seeds, {purchases} purchases ({ends}), {} faults ({faults}), {:.1} s\n\
         seeds: no law is broken; rows that each saw: {rows}",
        faults.total(),
        took.as_secs_f64(),
    );
}

#[test]
fn a_seed_is_one_play_however_often_it_is_played() {
    let mut traces = HashSet::new();
    for seed in 0..TWICE {
        let [once, again] = [(); 2].map(|()| try_seed(seed).unwrap_or_else(|broken| panic!("{broken}")).1);
        assert_eq!(once, again, "seed {seed} is not one play");
        traces.insert(once);
    }
    assert_eq!(traces.len() as u64, TWICE, "seeds are plays of their own");
    let _ = writeln!(
        std::io::stderr(),
        "seeds: {TWICE} seeds played twice are {TWICE} plays, row for row; their traces: {:016x}",
        traces.iter().fold(0, |all, trace| all ^ trace),
    );
}
