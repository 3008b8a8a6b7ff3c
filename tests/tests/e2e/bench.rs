use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, ensure};
use souk_gateway::bench::report::Report;
use souk_proto::topic::{Direction, Topic};
use souk_tests::kafka::Kafka;
use souk_tests::process::{Data, binary};
use souk_tests::souk::Souk;
use sqlx::{Connection, PgConnection, Row};

#[tokio::test]
async fn what_the_bench_reports_is_what_the_databases_hold() -> Result<()> {
    let data: Arc<Data> = Data::new("bench")?;
    let json = data.path().join("report.json");
    let mut bench = Command::new(binary()?);
    bench.args(["bench", "--scenario", "hot-8", "--seconds", "2", "--json"]).arg(&json);
    // The folder is not the bench's, so it stays.
    bench.arg("--data").arg(data.path());
    let output = tokio::task::spawn_blocking(move || bench.output()).await??;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{text}");

    let report = Report::read(&json)?;
    ensure!(report.left_out.is_empty(), "{:?}", report.left_out);
    let measured = report.scenario("hot-8").expect("measured");
    let [run] = &measured.souk[..] else { panic!("one run: {measured:?}") };
    let outcomes = run.outcomes;
    ensure!(outcomes.completed > 0 && outcomes.trouble().is_empty(), "{outcomes:?}");
    let (within, latency, cost) = (run.per_second * run.seconds, run.latency, &run.cost);
    ensure!(within <= outcomes.completed as f64 + 0.5, "{within} of {outcomes:?}");
    ensure!(latency.p50_ms <= latency.p99_ms && latency.p99_ms <= latency.max_ms, "{latency:?}");
    ensure!(cost.requests == outcomes.completed, "{cost:?}");
    // Two of the order at least and one of the payment; those of a hot product are shared.
    ensure!(cost.rows.is_some_and(|rows| rows > 3.0), "{cost:?}");
    ensure!(
        cost.node_us > Some(0.0) && cost.postgres_us > Some(0.0) && cost.log_bytes > Some(0.0),
        "{cost:?}"
    );

    let audit = report.audit.as_ref().expect("audited");
    assert_eq!(audit.violations, Vec::<String>::new());
    let souk = Souk::start(&data, &[]).await?;
    let mut orders = PgConnection::connect(&data.database("order_db")?).await?;
    let held =
        sqlx::query("select count(*) from orders where status = 'completed'").fetch_one(&mut orders).await?;
    let completed = u64::try_from(held.try_get::<i64, _>(0)?)?;
    assert_eq!((audit.completed, audit.not_completed), (completed, 0));
    assert_eq!(completed, outcomes.completed + report.warmed_up);
    ensure!(audit.laws.len() == 7 && audit.laws.iter().all(|(_, rows)| *rows >= completed), "{audit:?}");

    // The hand-written SQL has written what it was counted for, too: over HTTP and by pgbench.
    let [baseline] = &measured.sql_over_http[..] else { panic!("one run: {measured:?}") };
    ensure!(baseline.outcomes.trouble().is_empty() && measured.pgbench.len() == 1, "{measured:?}");
    let mut baseline_database = PgConnection::connect(&data.database("baseline")?).await?;
    let held = sqlx::query(
        "select (select count(*) from orders), (select count(*) from payment), (select count(*) from journal),
                (select sum(1000000000000 - inventory)::bigint from product)",
    )
    .fetch_one(&mut baseline_database)
    .await?;
    let (orders, payments, rows, units): (i64, i64, i64, i64) =
        (held.try_get(0)?, held.try_get(1)?, held.try_get(2)?, held.try_get(3)?);
    ensure!(u64::try_from(orders)? > baseline.outcomes.completed, "{orders}: {baseline:?}");
    assert_eq!((payments, rows, units), (orders, orders * 5, orders * 14));
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn ten_times_too_much_is_refused_at_once_and_what_was_accepted_comes_to_its_end() -> Result<()> {
    let data: Arc<Data> = Data::new("overload")?;
    let json = data.path().join("report.json");
    let mut bench = Command::new(binary()?);
    bench.args(["bench", "--scenario", "overload", "--seconds", "2", "--no-baselines", "--json"]).arg(&json);
    // However slow this machine is, the client must be able to ask for more.
    bench.arg("--data").arg(data.path()).env("SOUK__ACTORS__PURCHASES_MAX", "64");
    let output = tokio::task::spawn_blocking(move || bench.output()).await??;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // The audit has failed unless every accepted purchase is there and has ended.
    ensure!(output.status.success(), "{text}");

    let overload = Report::read(&json)?.overload.expect("measured");
    let during = &overload.during;
    ensure!(during.outcomes.unavailable > 100 && during.outcomes.unfinished > 0, "{during:?}");
    ensure!((during.outcomes.errors, during.outcomes.broken) == (0, 0), "{during:?}");
    ensure!(during.refusals.p50_ms < 1_000.0, "{during:?}");
    ensure!(during.cost.node_bytes.is_some_and(|bytes| bytes < 400_000_000), "{during:?}");
    ensure!(overload.after.outcomes.completed > 0, "{:?}", overload.after);
    Ok(())
}

#[test]
fn the_bench_refuses_what_it_cannot_do_before_it_starts_anything() -> Result<()> {
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(binary()?).arg("bench").args(arguments).output()?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ))
    };
    let (code, text) = run(&["--help"])?;
    ensure!(code == Some(0) && text.contains("souk bench --scenario open --rate 5000"), "{text}");
    let (code, text) = run(&["--scenario", "burts"])?;
    ensure!(code == Some(2) && text.contains("no scenario \"burts\""), "{text}");
    let (code, text) = run(&["--against", "/nowhere/old.json"])?;
    ensure!(code == Some(1) && text.contains("read /nowhere/old.json"), "{text}");
    let (code, text) = run(&["--url", "https://example.com"])?;
    ensure!(code == Some(2) && text.contains("does not begin with http://"), "{text}");
    Ok(())
}

#[tokio::test]
async fn with_kafka_and_without_it_are_measured_side_by_side() -> Result<()> {
    let Some(kafka) = Kafka::shared("the bench with Kafka").await? else { return Ok(()) };
    let data = Data::new("bench-kafka")?;
    let json = data.path().join("report.json");
    let mut bench = Command::new(binary()?);
    bench.args(["bench", "--scenario", "hot-8", "--seconds", "2", "--no-baselines", "--kafka"]);
    bench.arg(&kafka.addresses).arg("--json").arg(&json).arg("--data").arg(data.path());
    let child = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let prefix = format!("bench-{}-", child.id());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success() && text.contains("with Kafka"), "{text}");

    let report = Report::read(&json)?;
    let measured = report.scenario("hot-8").expect("measured");
    let ([without], [with]) = (&measured.souk[..], &measured.with_kafka[..]) else {
        panic!("one run each: {measured:?}")
    };
    ensure!(without.cost.records.is_none() && without.relay_lag_s.is_none(), "{without:?}");
    ensure!(with.relay_lag_s.is_some() && with.outcomes.trouble().is_empty(), "{with:?}");
    let audits = [&report.audit, &report.audit_with_kafka].map(|audit| audit.as_ref().expect("audited"));
    ensure!(audits.iter().all(|audit| audit.violations.is_empty()), "{audits:?}");

    // Everything that was counted is there: eight records of each purchase, those of the warm-up too.
    let topics = Topic::ALL.into_iter().filter(|topic| topic.direction() == Direction::Out);
    let records = kafka.read(topics.map(|topic| format!("{prefix}{}", topic.name())).collect()).await?;
    let of_purchases = records.iter().filter(|record| !record.topic.ends_with("send-register-email")).count();
    assert_eq!(of_purchases as u64, 8 * audits[1].completed);
    let each = with.cost.records.expect("counted");
    ensure!((7.5..8.5).contains(&each), "{each} records of a purchase");
    Ok(())
}
