//! What it costs to tell Kafka everything: two Souks side by side, one of which does.

use super::report::{Measured, Run, median, spread};
use super::table::{figure, head, shown};
use super::text::{columns, or_dash, short, whole};

/// A table. `None`: nothing was measured with Kafka.
pub fn show(scenarios: &[Measured]) -> Option<String> {
    let mut rows = vec![head(&[
        "with Kafka and without",
        "Souk",
        "p50 ms",
        "p99 ms",
        "client µs",
        "node µs",
        "PostgreSQL µs",
        "log kB",
        "node MB",
        "others",
        "records",
        "lag s",
    ])];
    for measured in scenarios.iter().filter(|measured| !measured.with_kafka.is_empty()) {
        rows.push(row(measured, measured.title.clone(), &measured.souk));
        rows.push(row(measured, "  with Kafka".to_owned(), &measured.with_kafka));
        rows.push(differences(measured));
    }
    (rows.len() > 1).then(|| {
        columns(&rows)
            + "Others are the brokers, if they are on this machine, and a second Souk that is idle. Records are what Kafka \
               is told of a purchase, lag is how far that was behind when the load ended.\n"
    })
}

fn row(measured: &Measured, name: String, runs: &[Run]) -> Vec<String> {
    let of = |value: fn(&Run) -> Option<f64>| median(runs, value);
    vec![
        name,
        or_dash(spread(runs, |run| Some(figure(measured, run))).map(|spread| shown(measured, spread))),
        or_dash(of(|run| Some(run.latency.p50_ms)).map(short)),
        or_dash(of(|run| Some(run.latency.p99_ms)).map(short)),
        or_dash(of(|run| Some(run.cost.client_us)).map(short)),
        or_dash(of(|run| run.cost.node_us).map(whole)),
        or_dash(of(|run| run.cost.postgres_us).map(whole)),
        or_dash(of(|run| Some(run.cost.log_bytes? / 1e3)).map(short)),
        or_dash(of(|run| Some(run.cost.node_bytes? as f64 / 1e6)).map(whole)),
        or_dash(of(|run| Some(run.cost.others)).map(|part| format!("{:.0} %", part * 100.0))),
        or_dash(of(|run| run.cost.records).map(short)),
        or_dash(of(|run| run.relay_lag_s).map(short)),
    ]
}

/// In percent, of the figures for which that says something.
fn differences(measured: &Measured) -> Vec<String> {
    let of = |value: &dyn Fn(&Run) -> Option<f64>| {
        let (with, without) = (median(&measured.with_kafka, value)?, median(&measured.souk, value)?);
        without.is_normal().then(|| format!("{:+.0} %", (with / without - 1.0) * 100.0))
    };
    vec![
        "  difference".to_owned(),
        or_dash(of(&|run| Some(figure(measured, run)))),
        or_dash(of(&|run| Some(run.latency.p50_ms))),
        or_dash(of(&|run| Some(run.latency.p99_ms))),
        or_dash(of(&|run| Some(run.cost.client_us))),
        or_dash(of(&|run| run.cost.node_us)),
        or_dash(of(&|run| run.cost.postgres_us)),
        or_dash(of(&|run| run.cost.log_bytes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::meter::Cost;
    use super::super::scenario::named;
    use super::*;

    #[test]
    fn what_kafka_costs_is_told_only_where_it_was_measured() {
        let run = |per_second, node_us, records| Run {
            per_second,
            cost: Cost { node_us: Some(node_us), records, ..Cost::default() },
            ..Run::default()
        };
        let mut measured = Measured::begin(&named("uniform-256", 1).expect("a name")[0]);
        measured.souk = vec![run(5_000.0, 150.0, None)];
        assert_eq!(show(std::slice::from_ref(&measured)), None);
        measured.with_kafka = vec![run(4_000.0, 180.0, Some(8.0))];
        let text = show(&[measured]).expect("measured");
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
        assert!(
            line("256 connections").contains("5,000/s") && line("  with Kafka").contains("8.00"),
            "{text}"
        );
        assert!(line("  difference").contains("-20 %") && line("  difference").contains("+20 %"), "{text}");
    }
}
