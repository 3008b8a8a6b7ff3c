//! The report, for people.

use super::audit::Audit;
use super::kafka;
use super::meter::Cost;
use super::report::{Conditions, Growth, Measured, Overload, Report, Run, Spread, median, spread};
use super::scenario::{Goal, Scenario, named};
use super::tally::Outcomes;
use super::text::{columns, or_dash, short, whole};

/// All of it.
pub fn show(report: &Report) -> String {
    let mut parts = vec![conditions(&report.conditions)];
    if !report.scenarios.is_empty() {
        parts.push(speed(report));
        parts.push(costs(&report.scenarios));
        parts.extend(kafka::show(&report.scenarios));
        parts.extend(reads(&report.scenarios));
    }
    parts.extend(report.growth.as_ref().map(growth));
    parts.extend(report.overload.as_ref().map(overload));
    parts.extend(troubles(report));
    parts.push(audit("audited", report.audit.as_ref()));
    parts.extend(report.audit_with_kafka.as_ref().map(|beside| audit("audited, with Kafka", Some(beside))));
    parts.join("\n")
}

/// A scenario as it was measured, in one line.
pub fn line(measured: &Measured) -> String {
    let figure =
        or_dash(spread(&measured.souk, |run| Some(figure(measured, run))).map(|s| shown(measured, s)));
    let p99 = or_dash(median(&measured.souk, |run| Some(run.latency.p99_ms)).map(short));
    format!("{:<14} {figure}, p99 {p99} ms", measured.name)
}

fn conditions(on: &Conditions) -> String {
    let unknown = || "unknown".to_owned();
    let gigabytes = |bytes: u64| format!("{} GB", short(bytes as f64 / 1e9));
    let mut text = format!(
        "{} cores ({}), {} of memory, Linux {}, PostgreSQL {}, on {}\n",
        on.cores,
        on.processor.clone().unwrap_or_else(unknown),
        on.memory_bytes.map_or_else(unknown, gigabytes),
        on.kernel.clone().unwrap_or_else(unknown),
        on.postgres.clone().unwrap_or_else(unknown),
        on.file_system.clone().unwrap_or_else(unknown),
    );
    let commit = on.commit.as_ref().map(|commit| format!(" ({commit})")).unwrap_or_default();
    let build = if on.is_optimised { "" } else { ", a debug build: its figures mean nothing" };
    text += &format!("{}: souk {}{commit}{build}\n", on.at, on.souk);
    let runs = if on.runs == 1 { "one run".to_owned() } else { format!("medians of {} runs", on.runs) };
    text += &format!(
        "client, node and database on this machine; {runs} of {} s after {} s of warm-up\n",
        short(on.seconds),
        short(on.warm_up_seconds)
    );
    if on.file_system.as_deref() == Some("tmpfs") {
        text += "the data lies in memory, where nothing is ever flushed: commits cost too little\n";
    }
    if !on.settings.is_empty() {
        text += &format!("settings changed by {}\n", on.settings.join(", "));
    }
    text
}

/// The first row of a table.
pub fn head(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn speed(report: &Report) -> String {
    let mut rows = vec![head(&[
        "load",
        "goal",
        "Souk",
        "p50 ms",
        "p99 ms",
        "SQL over HTTP",
        "p50 ms",
        "p99 ms",
        "pgbench",
    ])];
    for measured in &report.scenarios {
        let of = |runs: &[Run]| {
            let shown = spread(runs, |run| Some(figure(measured, run))).map(|spread| shown(measured, spread));
            let p50 = median(runs, |run| Some(run.latency.p50_ms)).map(short);
            let p99 = median(runs, |run| Some(run.latency.p99_ms)).map(short);
            [shown, p50, p99].map(or_dash)
        };
        let pgbench = spread(&measured.pgbench, |run| Some(in_figure(measured, run.per_second)));
        let mut row = vec![measured.title.clone(), goal(report, measured)];
        row.extend(of(&measured.souk));
        row.extend(of(&measured.sql_over_http));
        row.push(or_dash(pgbench.map(|spread| shown(measured, spread))));
        rows.push(row);
    }
    let fewer =
        report.scenarios.iter().flat_map(|measured| &measured.pgbench).map(|run| run.connections).max();
    let note = fewer.map(|most| format!("pgbench has at most {most} connections.\n")).unwrap_or_default();
    columns(&rows) + &note
}

/// Seconds of a burst, purchases a second of others.
pub fn figure(measured: &Measured, run: &Run) -> f64 {
    if is_burst(measured) { run.seconds } else { run.per_second }
}

fn in_figure(measured: &Measured, per_second: f64) -> f64 {
    let purchases = measured.souk.first().map_or(0, |run| run.outcomes.answered()) as f64;
    if is_burst(measured) { purchases / per_second.max(1e-9) } else { per_second }
}

/// The scenario is the time until all of it is done.
pub fn is_burst(measured: &Measured) -> bool {
    measured.name.starts_with("burst")
}

/// A figure and its spread, with its unit.
pub fn shown(measured: &Measured, Spread { median, least, most }: Spread) -> String {
    let (print, unit): (fn(f64) -> String, _) =
        if is_burst(measured) { (|seconds| format!("{seconds:.3}"), " s") } else { (whole, "/s") };
    match least == most {
        true => print(median) + unit,
        false => format!("{}{unit} ({}-{})", print(median), print(least), print(most)),
    }
}

fn goal(report: &Report, measured: &Measured) -> String {
    let Some(goal) = scenario_of(measured).and_then(|scenario| scenario.goal()) else { return String::new() };
    let rate = |measured: &Measured| median(&measured.souk, |run| Some(run.per_second));
    let p99 = median(&measured.souk, |run| Some(run.latency.p99_ms));
    let (text, is_met) = match goal {
        Goal::Rate { least, p99_most_ms } => {
            let is_fast = rate(measured).is_some_and(|rate| rate >= least);
            let is_prompt = p99_most_ms.is_none_or(|most| p99.is_some_and(|p99| p99 <= most));
            let prompt = p99_most_ms.map(|most| format!(", p99 ≤ {most} ms")).unwrap_or_default();
            (format!("≥ {}/s{prompt}", whole(least)), Some(is_fast && is_prompt))
        }
        Goal::AsFastAs(name) => {
            let other = report.scenario(name).and_then(rate);
            (format!("≥ {name}"), rate(measured).zip(other).map(|(rate, other)| rate >= other))
        }
        Goal::Within(most) => {
            let seconds = median(&measured.souk, |run| Some(run.seconds));
            let most = most.as_secs_f64();
            (format!("≤ {most} s"), seconds.map(|seconds| seconds <= most))
        }
    };
    match is_met {
        Some(true) => text + ": met",
        Some(false) => text + ": missed",
        None => text,
    }
}

fn scenario_of(measured: &Measured) -> Option<Scenario> {
    named(&measured.name, 1).ok()?.pop()
}

fn costs(scenarios: &[Measured]) -> String {
    let mut rows = vec![head(&[
        "cost of a purchase",
        "client µs",
        "node µs",
        "PostgreSQL µs",
        "commits",
        "rows",
        "log kB",
        "messages",
        "hops",
        "frames",
        "allocations",
        "node MB",
        "busy",
        "others",
    ])];
    for measured in scenarios {
        let each = if measured.souk.iter().any(|run| !run.reads.is_empty()) { " (of a request)" } else { "" };
        rows.push(cost(format!("{}{each}", measured.title), &measured.souk));
        if !measured.sql_over_http.is_empty() {
            rows.push(cost("  SQL over HTTP".to_owned(), &measured.sql_over_http));
        }
        if let Some(micros) = median(&measured.pgbench, |run| run.postgres_us) {
            rows.push(vec!["  pgbench".to_owned(), String::new(), String::new(), whole(micros)]);
        }
    }
    columns(&rows)
        + "The client does the same for each purchase: its µs say how fast the machine was. Busy: of the machine \
           during the load; others: for none of these.\n"
}

fn cost(name: String, runs: &[Run]) -> Vec<String> {
    let of = |value: fn(&Cost) -> Option<f64>| median(runs, |run| value(&run.cost));
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    vec![
        name,
        or_dash(of(|cost| Some(cost.client_us)).map(short)),
        or_dash(of(|cost| cost.node_us).map(whole)),
        or_dash(of(|cost| cost.postgres_us).map(whole)),
        or_dash(of(|cost| cost.commits).map(short)),
        or_dash(of(|cost| cost.rows).map(short)),
        or_dash(of(|cost| Some(cost.log_bytes? / 1e3)).map(short)),
        or_dash(of(|cost| cost.messages).map(short)),
        or_dash(of(|cost| cost.hops).map(short)),
        or_dash(of(|cost| cost.frames).map(short)),
        or_dash(of(|cost| cost.allocations).map(whole)),
        or_dash(of(|cost| Some(cost.node_bytes? as f64 / 1e6)).map(whole)),
        or_dash(of(|cost| Some(cost.busy)).map(percent)),
        or_dash(of(|cost| Some(cost.others)).map(percent)),
    ]
}

fn reads(scenarios: &[Measured]) -> Option<String> {
    let mut rows = vec![head(&["reads beside", "a second", "p50 ms", "p99 ms", "max ms"])];
    for run in scenarios.iter().flat_map(|measured| &measured.souk) {
        rows.extend(run.reads.iter().map(|reads| {
            let latency = reads.latency;
            let times = [latency.p50_ms, latency.p99_ms, latency.max_ms].map(short);
            [vec![reads.what.clone(), whole(reads.per_second)], times.to_vec()].concat()
        }));
    }
    (rows.len() > 1).then(|| columns(&rows))
}

fn growth(growth: &Growth) -> String {
    let mut rows = vec![head(&[
        "growth",
        "a second",
        "p50 ms",
        "p99 ms",
        "client µs",
        "node µs",
        "PostgreSQL µs",
        "in all",
        "log kB",
        "node MB",
        "bytes on disk",
    ])];
    let ends = [("empty", &growth.empty, None), ("full", &growth.full, Some(growth.bytes_per_purchase))];
    for (end, runs, bytes) in ends {
        for (place, (run, keys)) in runs.iter().zip(["without keys", "with keys"]).enumerate() {
            let cost = &run.cost;
            rows.push(vec![
                format!("{end}, {keys}"),
                whole(run.per_second),
                short(run.latency.p50_ms),
                short(run.latency.p99_ms),
                short(cost.client_us),
                or_dash(cost.node_us.map(whole)),
                or_dash(cost.postgres_us.map(whole)),
                or_dash(in_all(cost).map(whole)),
                or_dash(cost.log_bytes.map(|bytes| short(bytes / 1e3))),
                or_dash(cost.node_bytes.map(|bytes| whole(bytes as f64 / 1e6))),
                or_dash(bytes.map(|bytes| whole(bytes[place]))),
            ]);
        }
    }
    let grown = [0, 1].map(|place| {
        let [empty, full] = [&growth.empty[place].cost, &growth.full[place].cost].map(in_all);
        or_dash(empty.zip(full).map(|(empty, full)| format!("{:+.0} %", (full / empty - 1.0) * 100.0)))
    });
    columns(&rows)
        + &format!(
            "{} purchases on disk, made at {}/s; a purchase costs {} (without keys) and {} (with) more than in an \
             empty shop, client included.\n",
            whole(growth.purchases as f64),
            whole(growth.filled_per_second),
            grown[0],
            grown[1],
        )
}

fn overload(overload: &Overload) -> String {
    let mut rows = vec![head(&[
        "overload", "a second", "p50 ms", "p99 ms", "refused", "p50 ms", "p99 ms", "max ms", "node MB",
    ])];
    let parts = [("before", &overload.before), ("during", &overload.during), ("after", &overload.after)];
    for (part, run) in parts {
        let refused = run.outcomes.refused + run.outcomes.unavailable;
        let (done, latency) = match part {
            // Nobody waits for the end: what is counted is what was accepted.
            "during" => (run.outcomes.unfinished as f64 / run.seconds.max(1e-9), None),
            _ => (run.per_second, Some(run.latency)),
        };
        let refusals = Some(run.refusals).filter(|_| refused > 0);
        rows.push(vec![
            part.to_owned(),
            whole(done),
            or_dash(latency.map(|latency| short(latency.p50_ms))),
            or_dash(latency.map(|latency| short(latency.p99_ms))),
            whole(refused as f64),
            or_dash(refusals.map(|refusals| short(refusals.p50_ms))),
            or_dash(refusals.map(|refusals| short(refusals.p99_ms))),
            or_dash(refusals.map(|refusals| short(refusals.max_ms))),
            or_dash(run.cost.node_bytes.map(|bytes| whole(bytes as f64 / 1e6))),
        ]);
    }
    let sent = overload.during.outcomes.answered() as f64 / overload.during.seconds.max(1e-9);
    columns(&rows)
        + &format!(
            "{} arrivals/s were due, {} were sent; {} purchases were accepted meanwhile.\n",
            whole(f64::from(overload.asked_per_second)),
            whole(sent),
            whole(overload.during.outcomes.unfinished as f64),
        )
}

/// Of the processor, everybody together.
fn in_all(cost: &Cost) -> Option<f64> {
    Some(cost.client_us + cost.node_us? + cost.postgres_us?)
}

fn troubles(report: &Report) -> Option<String> {
    let mut text = String::new();
    for measured in &report.scenarios {
        let runs = [
            ("", &measured.souk),
            (" (with Kafka)", &measured.with_kafka),
            (" (SQL over HTTP)", &measured.sql_over_http),
        ];
        for (who, runs) in runs {
            let mut sum = Outcomes::default();
            runs.iter()
                .flat_map(|run| run.reads.iter().map(|reads| &reads.outcomes))
                .for_each(|o| sum.add_all(o));
            runs.iter().for_each(|run| sum.add_all(&run.outcomes));
            let trouble = sum.trouble();
            if !trouble.is_empty() {
                text += &format!("{}{who}: {trouble}\n", measured.name);
            }
        }
    }
    for reason in &report.left_out {
        text += &format!("left out: {reason}\n");
    }
    (!text.is_empty()).then_some(text)
}

fn audit(name: &str, audit: Option<&Audit>) -> String {
    let Some(audit) = audit else {
        return "not audited: the databases of a Souk that runs already are not seen\n".to_owned();
    };
    let rows: Vec<_> = audit
        .laws
        .iter()
        .map(|(law, rows)| format!("{} ({} rows)", law.name(), whole(*rows as f64)))
        .collect();
    let mut text = format!(
        "{name}: {} orders completed and {} not; {}: {}\n",
        whole(audit.completed as f64),
        whole(audit.not_completed as f64),
        rows.join(", "),
        match audit.violations.len() {
            0 => "every law holds".to_owned(),
            count => format!("{count} violations"),
        }
    );
    for violation in &audit.violations {
        text += &format!("  {violation}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::latency::Percentiles;
    use super::*;

    fn measured(name: &str, per_second: f64, p99_ms: f64) -> Measured {
        let latency = Percentiles { p99_ms, ..Percentiles::default() };
        let run = Run { seconds: 0.18, per_second, latency, ..Run::default() };
        let title = named(name, 1).expect("a name")[0].title();
        Measured {
            name: name.to_owned(),
            title,
            souk: vec![run],
            with_kafka: Vec::new(),
            sql_over_http: Vec::new(),
            pgbench: Vec::new(),
        }
    }

    #[test]
    fn goals_are_met_or_missed_or_cannot_be_told() {
        let mut report = Report::new(Conditions::default());
        let told = |report: &Report, name: &str| goal(report, report.scenario(name).expect("measured"));
        report.scenarios = vec![measured("hot-256", 9_000.0, 1.0)];
        assert_eq!(told(&report, "hot-256"), "≥ uniform-256");
        report.scenarios.push(measured("uniform-256", 8_500.0, 61.0));
        assert_eq!(told(&report, "hot-256"), "≥ uniform-256: met");
        assert_eq!(told(&report, "uniform-256"), "≥ 8,000/s, p99 ≤ 60 ms: missed");
        report.scenarios.push(measured("burst", 5_000.0, 1.0));
        assert_eq!(told(&report, "burst"), "≤ 0.25 s: met");
        report.scenarios.push(measured("keyed", 5_000.0, 1.0));
        assert_eq!(told(&report, "keyed"), "");
    }

    #[test]
    fn what_went_wrong_and_what_was_left_out_is_said() {
        let mut report = Report::new(Conditions { cores: 2, runs: 1, ..Conditions::default() });
        report.scenarios = vec![measured("burst", 5_000.0, 1.0)];
        report.scenarios[0].souk[0].outcomes.broken = 3;
        report.left_out.push("pgbench: not installed".to_owned());
        report.audit = Some(Audit { violations: vec!["held of x: 1, not 0".to_owned()], ..Audit::default() });
        let text = show(&report);
        for part in [
            "0.180 s",
            "burst: 3 without an answer",
            "left out: pgbench",
            "1 violations",
            "held of x",
            "debug build",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
