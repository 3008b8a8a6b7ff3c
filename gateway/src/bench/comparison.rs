//! Two reports, side by side.
//!
//! Machines, and one machine from minute to minute, are not equally fast. The load client does the same for
//! every purchase, so its own time tells how fast: the last column is what the difference would be if both
//! clients had needed the same.

use super::report::{Measured, Report, Run, median};
use super::table::is_burst;
use super::text::{columns, short, whole};

/// How a figure depends on the machine.
#[derive(Clone, Copy)]
enum Depends {
    /// A faster machine gives more of it.
    Rises,
    /// A faster machine takes less of it.
    Falls,
    /// Not at all.
    Not,
}

/// A figure of a run.
type Figure = (&'static str, Depends, fn(&Run) -> Option<f64>);

const RATE: Figure = ("purchases/s", Depends::Rises, |run| Some(run.per_second));
const SECONDS: Figure = ("seconds", Depends::Falls, |run| Some(run.seconds));
const FIGURES: [Figure; 8] = [
    ("p50 ms", Depends::Falls, |run| Some(run.latency.p50_ms)),
    ("p99 ms", Depends::Falls, |run| Some(run.latency.p99_ms)),
    ("client µs", Depends::Not, |run| Some(run.cost.client_us)),
    ("node µs", Depends::Falls, |run| run.cost.node_us),
    ("PostgreSQL µs", Depends::Falls, |run| run.cost.postgres_us),
    ("commits", Depends::Not, |run| run.cost.commits),
    ("rows", Depends::Not, |run| run.cost.rows),
    ("log kB", Depends::Not, |run| Some(run.cost.log_bytes? / 1e3)),
];

/// What has changed from one report to another, of the scenarios that both have.
pub fn show(then: &Report, now: &Report) -> String {
    let mut rows =
        vec![["load", "figure", "then", "now", "difference", "at equal speed"].map(str::to_owned).to_vec()];
    for newer in &now.scenarios {
        if let Some(older) = then.scenario(&newer.name) {
            rows.extend(differences(older, newer));
        }
    }
    if rows.len() == 1 {
        return "The reports have no scenario in common.\n".to_owned();
    }
    let told = |report: &Report| {
        let commit = report.conditions.commit.as_deref().unwrap_or("commit unknown");
        format!("{} ({commit})", report.conditions.at)
    };
    format!("then: {}, now: {}\n{}", told(then), told(now), columns(&rows))
}

fn differences(older: &Measured, newer: &Measured) -> Vec<Vec<String>> {
    let first = if is_burst(newer) { SECONDS } else { RATE };
    let client = |measured: &Measured| median(&measured.souk, |run| Some(run.cost.client_us));
    // Above one: the machine is slower now.
    let slower =
        client(newer).zip(client(older)).map(|(now, then)| now / then).filter(|part| part.is_normal());
    let row = |(name, depends, value): &Figure| {
        let [then, now] = [older, newer].map(|measured| median(&measured.souk, value));
        let (then, now) = (then?, now?);
        let scaled = match (depends, slower) {
            (Depends::Rises, Some(slower)) => Some(now * slower),
            (Depends::Falls, Some(slower)) => Some(now / slower),
            (Depends::Rises | Depends::Falls, None) | (Depends::Not, _) => None,
        };
        let print = |value: f64| if value >= 1_000.0 { whole(value) } else { short(value) };
        Some(vec![
            newer.title.clone(),
            (*name).to_owned(),
            print(then),
            print(now),
            percent(then, now),
            scaled.map(|scaled| percent(then, scaled)).unwrap_or_default(),
        ])
    };
    let mut rows: Vec<_> = std::iter::once(&first).chain(&FIGURES).filter_map(row).collect();
    // The name of the load once is enough.
    rows.iter_mut().skip(1).for_each(|row| row[0].clear());
    rows
}

fn percent(then: f64, now: f64) -> String {
    match then.is_normal() {
        true => format!("{:+.1} %", (now / then - 1.0) * 100.0),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::meter::Cost;
    use super::super::report::Conditions;
    use super::*;

    fn report(per_second: f64, client_us: f64, rows: Option<f64>) -> Report {
        let cost = Cost { client_us, rows, ..Cost::default() };
        let mut report = Report::new(Conditions::default());
        report.scenarios.push(Measured {
            name: "uniform-256".to_owned(),
            title: "256 connections".to_owned(),
            souk: vec![Run { per_second, cost, ..Run::default() }],
            with_kafka: Vec::new(),
            sql_over_http: Vec::new(),
            pgbench: Vec::new(),
        });
        report
    }

    #[test]
    fn a_slower_machine_is_told_from_a_slower_souk() {
        // The client needs half as much again: so does everything, and nothing has become worse.
        let text = show(&report(9_000.0, 12.0, Some(13.0)), &report(6_000.0, 18.0, Some(12.0)));
        let line = |figure: &str| text.lines().find(|line| line.contains(figure)).expect(figure).to_owned();
        let rate = line("purchases/s");
        assert!(rate.contains("9,000") && rate.contains("-33.3 %") && rate.ends_with("+0.0 %"), "{text}");
        assert!(line("rows").ends_with("-7.7 %"), "{text}");
        // What one of them has not seen is left out.
        assert!(!text.contains("PostgreSQL"), "{text}");
    }

    #[test]
    fn reports_without_a_common_scenario_are_not_compared() {
        let mut other = report(1.0, 1.0, None);
        other.scenarios[0].name = "burst".to_owned();
        assert!(show(&other, &report(1.0, 1.0, None)).contains("no scenario in common"));
    }
}
