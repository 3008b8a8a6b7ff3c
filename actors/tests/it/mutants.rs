//! Whether the tests can see: each deliberately broken build is played against the same hazards, matrix and
//! seeds that the healthy one passes, until one of them complains.

use std::cell::Cell;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Once;
use std::time::Instant;

use souk_persistence::mutant::{self, Mutant};

use crate::hazards;
use crate::matrix::crashes::{points, try_point};
use crate::matrix::{cases, try_case};
use crate::seeds::try_seed;

/// Where no seed below has complained, none will soon.
const SEEDS: u64 = 300;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A mutant's panics are what is looked for: they are not printed.
fn quietly<T>(play: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let played = play();
    IS_QUIET.set(false);
    played
}

/// Which play was the first to complain, of how many.
struct Catch {
    runs: usize,
    by: String,
}

fn caught<T>(
    mutant: Mutant,
    plays: impl Iterator<Item = T>,
    play: impl Fn(&T) -> Result<(), String>,
    name: impl Fn(&T) -> String,
) -> Option<Catch> {
    for (index, one) in plays.enumerate() {
        mutant::breed(Some(mutant));
        let played = quietly(|| catch_unwind(AssertUnwindSafe(|| play(&one))));
        mutant::breed(None);
        let is_caught = !matches!(played, Ok(Ok(())));
        if is_caught {
            return Some(Catch { runs: index + 1, by: name(&one) });
        }
    }
    None
}

fn cell(catch: Option<&Catch>) -> String {
    catch.map_or_else(|| "-".to_owned(), |catch| format!("{} after {}", catch.by, catch.runs))
}

#[test]
fn every_broken_build_is_caught() {
    let started = Instant::now();
    let mut table = String::new();
    let mut escaped = Vec::new();
    for mutant in Mutant::ALL {
        let hazard = caught(
            mutant,
            hazards::ALL.into_iter(),
            |(_, hazard)| {
                hazard();
                Ok(())
            },
            |(name, _)| (*name).to_owned(),
        );
        let case = caught(
            mutant,
            cases().into_iter(),
            |case| try_case(*case).map(drop),
            |case| format!("{:?} {:?} {:?} {:?}", case.scenario, case.action, case.fault, case.place),
        );
        let point = caught(
            mutant,
            points().into_iter(),
            |point| try_point(*point).map(drop),
            |point| format!("{:?} {:?} at {}", point.scenario, point.place, point.number),
        );
        let seed = caught(mutant, 0..SEEDS, |seed| try_seed(*seed).map(drop), |seed| format!("seed {seed}"));
        let catches = [&hazard, &case, &point, &seed].map(|catch| cell(catch.as_ref()));
        table.push_str(&format!(
            "  {:<22} hazards: {}\n  {:<22} matrix: {}\n  {:<22} crash points: {}\n  {:<22} seeds: {}\n",
            format!("{mutant:?}"),
            catches[0],
            "",
            catches[1],
            "",
            catches[2],
            "",
            catches[3],
        ));
        if [&hazard, &case, &point, &seed].iter().all(|catch| catch.is_none()) {
            escaped.push(mutant);
        }
    }
    let _ = write!(
        std::io::stderr(),
        "mutants: {} broken builds, {} caught, {:.1} s\n{table}",
        Mutant::ALL.len(),
        Mutant::ALL.len() - escaped.len(),
        started.elapsed().as_secs_f64(),
    );
    assert!(escaped.is_empty(), "nobody noticed {escaped:?}");
}

#[test]
fn what_is_shipped_has_nothing_of_a_simulation() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["tree", "--offline", "--locked"]);
    cargo.args(["-p", "souk-gateway", "-e", "features,no-dev", "-i", "souk-persistence"]);
    let told = cargo.output().expect("cargo runs");
    let (tree, error) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{error}");
    assert!(tree.contains("souk-actors feature") && !tree.contains("simulation"), "{tree}");
}
