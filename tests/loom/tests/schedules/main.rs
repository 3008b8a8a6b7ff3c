//! What must hold of the concurrent core in every schedule that two or three threads can have, and with
//! every older value that the memory model lets them read. Each file also shows a wrong build of its part
//! that is found.

mod admission;
mod barrier;
mod handover;
mod reply;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs `model` in every schedule and says how many there were.
fn explore(property: &str, model: impl Fn() + Send + Sync + 'static) {
    let schedules = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&schedules);
    let started = Instant::now();
    let mut builder = loom::model::Builder::new();
    // All of them, whatever the environment says.
    (builder.preemption_bound, builder.max_permutations, builder.max_duration) = (None, None, None);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let (schedules, took) = (schedules.load(Ordering::Relaxed), started.elapsed());
    // Past the test harness, which would swallow it.
    let _ = writeln!(std::io::stdout(), "loom: {property}: {schedules} schedules in {took:.1?}");
}
