use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use souk_gateway::bench::report::Report;
use souk_tests::process::{Data, Souk, binary};
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
    let held = sqlx::query("select count(*), sum(amount)::bigint from orders where status = 'completed'")
        .fetch_one(&mut orders)
        .await?;
    let (completed, amount): (i64, i64) = (held.try_get(0)?, held.try_get(1)?);
    assert_eq!((audit.completed, audit.amount), (completed, amount));
    assert_eq!(u64::try_from(completed)?, outcomes.completed + report.warmed_up);
    assert_eq!(audit.units, completed * 14);

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
