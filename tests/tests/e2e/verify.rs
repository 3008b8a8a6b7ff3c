use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use souk_tests::laws;
use souk_tests::process::{Data, binary};
use souk_tests::shopper::Shopper;
use souk_tests::souk::Souk;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

const LAWS: [&str; 7] = [
    "streams_without_gaps",
    "state_is_its_history",
    "every_purchase_ends",
    "one_outcome",
    "stock_conserved",
    "money_conserved",
    "one_story",
];

/// What `souk verify` says of a data folder: the exit code, what it prints, what it logs.
fn run(data: &Data, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output =
        Command::new(binary()?).arg("verify").args(arguments).arg("--data").arg(data.path()).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

async fn verify(data: &Data) -> Result<(Option<i32>, Value)> {
    let (code, printed, logged) = tokio::task::block_in_place(|| run(data, &["--json"]))?;
    let report = serde_json::from_str(&printed).with_context(|| format!("{printed} {logged}"))?;
    Ok((code, report))
}

/// The laws that a report sees broken, each with how often.
fn broken(report: &Value) -> Vec<(&str, u64)> {
    let verdicts = report["verdicts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let broken = verdicts.iter().filter_map(|verdict| {
        Some((verdict["law"].as_str()?, verdict["count"].as_u64().filter(|count| *count > 0)?))
    });
    broken.collect()
}

fn is_server_running(data: &Data) -> bool {
    data.path().join("postgres/postmaster.pid").exists()
}

/// A shop in which something is bought, declined, and captured though it was declined.
struct Sold {
    souk: Souk,
    product: Uuid,
    bought: [Uuid; 5],
    declined: Uuid,
}

async fn sell(name: &str) -> Result<Sold> {
    let souk = crate::open(name).await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 1_000).await?;
    let mut made = Vec::new();
    let tokens = [None, None, None, None, None, Some("tok_declined"), Some("tok_captured_but_declined")];
    for token in tokens {
        let answer = shopper.buy(&[(&product, 4)], token).await?;
        made.push(answer.body["purchase_id"].as_str().context("an id")?.parse()?);
    }
    let product = product.parse()?;
    let checked = laws::hold(&souk.data, &[(product, 1_000)].into(), Duration::from_secs(30)).await?;
    ensure!((checked.completed, checked.failed, checked.cancelled) == (5, 2, 0), "{checked:?}");
    let bought = made[..5].try_into()?;
    Ok(Sold { souk, product, bought, declined: made[5] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_shop_is_verified_while_it_is_open_and_when_it_is_closed() -> Result<()> {
    let nothing = Data::new("nothing")?;
    let (code, printed, _) = run(&nothing, &[])?;
    ensure!(code == Some(0) && printed.contains("nothing to verify"), "{printed}");
    ensure!(std::fs::read_dir(nothing.path())?.next().is_none(), "something was made");

    let Sold { souk, .. } = sell("verified").await?;
    let (code, report) = verify(&souk.data).await?;
    ensure!(code == Some(0) && report["holds"] == true && report["shop"] == "at_rest", "{report:#}");
    let rows = |law: usize| (&report["verdicts"][law]["law"], report["verdicts"][law]["rows"].as_u64());
    for (number, law) in LAWS.into_iter().enumerate() {
        ensure!(rows(number).0 == law && rows(number).1 > Some(0), "{report:#}");
    }
    ensure!(report["purchases"]["completed"] == 5 && report["has_books"] == true, "{report:#}");

    let data = souk.data.clone();
    assert_eq!(souk.stop().await?, 0);
    let (code, printed, logged) = run(&data, &[])?;
    ensure!(code == Some(0) && printed.contains("Every law holds."), "{printed} {logged}");
    ensure!(!is_server_running(&data), "the server that was started for it still runs");
    // The provider is somewhere else.
    std::fs::rename(data.path().join("sandbox"), data.path().join("elsewhere"))?;
    let (code, printed, _) = run(&data, &[])?;
    ensure!(code == Some(0) && printed.contains("books are not there"), "{printed}");
    std::fs::rename(data.path().join("elsewhere"), data.path().join("sandbox"))?;

    let souk = Souk::start(&data, &[]).await?;
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_at_work_is_verified_without_a_false_alarm() -> Result<()> {
    let souk = crate::open("at-work").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 100_000).await?;
    let buying = {
        let (shopper, product) = (shopper.clone(), product.clone());
        tokio::spawn(async move {
            loop {
                let items = [(product.as_str(), 1)];
                let _ = tokio::join!(
                    shopper.buy(&items, None),
                    shopper.buy(&items, Some("tok_declined")),
                    shopper.buy(&items, Some("tok_captured_but_declined"))
                );
            }
        })
    };
    for _ in 0..3 {
        let (code, report) = verify(&souk.data).await?;
        ensure!(code == Some(0) && report["holds"] == true, "{report:#}");
    }
    buying.abort();
    // Killed at work, it is verified as it was left.
    shopper.post("/purchases", &Shopper::order(&[(&product, 1)], Some("tok_never_answers"))).await?;
    let data = souk.data.clone();
    souk.kill().await?;
    // The server sees a moment later that nobody has the databases any more.
    let deadline = Instant::now() + Duration::from_secs(20);
    let report = loop {
        let (code, report) = verify(&data).await?;
        ensure!(code == Some(0) && Instant::now() < deadline, "{report:#}");
        if report["shop"] == "stopped" {
            break report;
        }
    };
    ensure!(report["purchases"]["pending"].as_u64() > Some(0), "{report:#}");
    ensure!(is_server_running(&data), "a server that ran before was stopped");
    Ok(())
}

/// The databases of a shop, to be damaged.
struct Damaged<'a>(&'a Data);

impl Damaged<'_> {
    async fn run(&self, database: &str, sql: &'static str, stream: Uuid) -> Result<()> {
        let mut connection = PgConnection::connect(&self.0.database(database)?).await?;
        let changed = sqlx::query(sql).bind(stream).execute(&mut connection).await?;
        ensure!(changed.rows_affected() == 1, "{sql} changed {}", changed.rows_affected());
        Ok(())
    }

    /// Writes a further row, and the view that it leads to.
    async fn append(
        &self,
        database: &str,
        stream: Uuid,
        event: Value,
        change: impl FnOnce((&str, i64), &mut Value),
    ) -> Result<()> {
        let mut connection = PgConnection::connect(&self.0.database(database)?).await?;
        let read = "select view::text, (extract(epoch from updated_at) * 1000000)::bigint,
                           to_char(updated_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                    from entity where stream = $1";
        let row = sqlx::query(read).bind(stream).fetch_one(&mut connection).await?;
        let mut view = serde_json::from_str(row.try_get(0)?)?;
        change((row.try_get(2)?, row.try_get(1)?), &mut view);
        let write = "with e as (update entity set version = version + 1, view = $3::json where stream = $1
                                returning stream, version, kind, slot, updated_at)
                     insert into journal (stream, version, kind, slot, at, events)
                     select stream, version, kind, slot, updated_at, $2::json from e";
        let event = json!([[0, event]]).to_string();
        sqlx::query(write).bind(stream).bind(event).bind(view.to_string()).execute(&mut connection).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_violation_of_each_law_is_seen_as_that_laws_and_no_others() -> Result<()> {
    let Sold { souk, product, bought, declined } = sell("violated").await?;
    let data = souk.data.clone();
    // Its server goes on; nobody repairs or undoes what is planted.
    souk.kill().await?;
    let damaged = Damaged(&data);
    let mut seen: Vec<(&str, u64)> = Vec::new();
    for law in LAWS {
        match law {
            "streams_without_gaps" => {
                let gap = "delete from journal where stream = $1 and version = 2";
                damaged.run("order_db", gap, bought[0]).await?;
            }
            "state_is_its_history" => {
                let lie = "update entity set view = replace(view::text, '\"captured\"', '\"declined\"')::json
                           where stream = $1";
                damaged.run("payment_db", lie, bought[1]).await?;
            }
            "every_purchase_ends" => {
                // Whatever is at work, a purchase that waits for a person has not ended.
                let event = json!({"AttentionNeeded": {"step": 1, "detail": "no"}});
                let needs = |(at, micros): (&str, i64), view: &mut Value| {
                    let step = json!(["CREATE_PAYMENT", "ROLLBACK_FAILED", micros, "no"]);
                    view["steps"].as_array_mut().expect("steps").push(step);
                    view["attention"] = json!({"step": "CREATE_PAYMENT", "since": at, "detail": "no"});
                };
                damaged.append("order_db", declined, event, needs).await?;
            }
            "one_outcome" => {
                let completed_again = |(_, micros): (&str, i64), view: &mut Value| {
                    let step = json!(["CREATE_PAYMENT", "SUCCESS", micros]);
                    view["steps"].as_array_mut().expect("steps").push(step);
                };
                damaged.append("order_db", bought[2], json!("Completed"), completed_again).await?;
            }
            "stock_conserved" => {
                let hold = json!({"quantity": 3, "price": 125});
                let event = json!({"Reserved": {"purchase": Uuid::from_u128(7), "hold": hold}});
                let held = |_: (&str, i64), view: &mut Value| {
                    view["inventory"] = json!(view["inventory"].as_i64().expect("a number") - 3);
                    view["held"] = json!(3);
                };
                damaged.append("product_db", product, event, held).await?;
            }
            "money_conserved" => {
                let line = json!({"what": "refunded", "key": bought[3], "at": "2026-01-01T00:00:00Z",
                    "refund_key": "another", "amount": 5});
                let books = data.path().join("sandbox/payments.log");
                writeln!(std::fs::File::options().append(true).open(books)?, "{line}")?;
            }
            "one_story" => {
                // Somebody else has paid, in every row that says so.
                let rows =
                    "update journal j set events = replace(events::text, e.owner::text, e.stream::text)::json
                            from entity e where e.stream = j.stream and e.stream = $1";
                damaged.run("payment_db", rows, bought[4]).await?;
                let shown = "update entity set view = replace(view::text, owner::text, stream::text)::json,
                             owner = stream where stream = $1";
                damaged.run("payment_db", shown, bought[4]).await?;
            }
            law => anyhow::bail!("nothing is planted for {law}"),
        }
        let (code, report) = verify(&data).await?;
        seen.push((law, 1));
        ensure!(code == Some(1) && broken(&report) == seen, "{law}: {report:#}");
    }
    let (code, printed, _) = run(&data, &[])?;
    ensure!(code == Some(1) && printed.contains("7 laws are broken."), "{printed}");
    ensure!(printed.contains(&format!("streams without gaps: {}", bought[0])), "{printed}");
    Ok(())
}
