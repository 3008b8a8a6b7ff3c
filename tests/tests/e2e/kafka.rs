//! Kafka: everything that is committed is told, in the order of each purchase, whatever befalls Kafka or the node; and
//! nobody who buys notices.

mod door;
mod incoming;
mod inventory;
mod nodes;
mod odd;
mod outsider;
mod readers;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use souk_actors::aggregate::Kind;
use souk_actors::records::{self, records};
use souk_persistence::Timestamp;
use souk_persistence::databases::{DatabaseUrls, ReadOnly};
use souk_persistence::journal::{Journal, SLOTS, ScannedRow, StoredRow};
use souk_proto::topic::{Direction, Topic};
use souk_tests::cluster::counted;
use souk_tests::kafka::{Kafka, Record};
use souk_tests::process::{Data, Process};
use souk_tests::relay::Relay;
use souk_tests::shopper::Shopper;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::crowd::Crowd;

/// Whose journals are told.
const TOLD: [&str; 2] = ["order_db", "account_db"];
/// What was held up is told within this.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
const PAGE: usize = 1_000;

/// Waits until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    while !is_so().await.with_context(|| what.to_owned())? {
        ensure!(begun.elapsed() < CATCH_UP_MAX, "{what} is not so after {CATCH_UP_MAX:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(begun.elapsed())
}

async fn lag(url: &str) -> Result<f64> {
    counted(url, "souk_relay_lag_seconds").await
}

/// Waits until a node tells what happens as it happens: how long that took.
async fn told_at_once(node: &Process) -> Result<Duration> {
    until("it tells at once", async || Ok(lag(&node.url).await? < 1.0)).await
}

/// Waits until every purchase has ended, and nothing is being undone any more.
async fn ended(data: &Data) -> Result<Duration> {
    let orders = read_only(data).await?.order;
    let ever = Timestamp::from_micros(i64::MAX / 2);
    let has_ended = async || Ok(orders.owed(0..=SLOTS - 1, ever, None, 1).await?.is_empty());
    until("every purchase has ended", has_ended).await
}

/// Waits until every purchase has ended, and every row is told.
async fn told(data: &Data) -> Result<Duration> {
    // Not before another row of it could come: what a payment owes long after its purchase, nobody is told.
    ended(data).await?;
    let untold = "select exists (select from journal j, cursor c
        where (j.xid, j.stream, j.version) > (c.xid, c.stream, c.version))";
    until("everything is told", async || {
        for database in TOLD {
            let mut connection = PgConnection::connect(&data.database(database)?).await?;
            if sqlx::query(untold).fetch_one(&mut connection).await?.try_get(0)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

/// Whether the cursor of orders stays where it is, whoever moves it. Nothing is locked, so nothing waits.
async fn hold_cursor(data: &Data, is_held: bool) -> Result<()> {
    let hold = "create or replace function held() returns trigger language plpgsql as $$
                begin raise exception 'the cursor is held'; end $$;
                create trigger held before update on cursor execute function held()";
    let let_go = "drop trigger held on cursor";
    let mut orders = PgConnection::connect(&data.database("order_db")?).await?;
    sqlx::raw_sql(if is_held { hold } else { let_go }).execute(&mut orders).await?;
    Ok(())
}

/// Waits until a node publishes a page and cannot move its cursor, which is held.
async fn published_and_not_noted(url: &str, kafka: &Kafka, prefix: &str) -> Result<()> {
    let topic = format!("{prefix}{}", Topic::PurchaseResult.name());
    let there = async || Ok::<_, anyhow::Error>(kafka.read(vec![topic.clone()]).await?.len());
    let before = there().await?;
    until("a page is published", async || Ok(there().await? > before)).await?;
    let stopped = r#"souk_relay_stopped{db="order_db"}"#;
    until("the cursor cannot be moved", async || Ok(counted(url, stopped).await? > 0.0)).await?;
    Ok(())
}

/// What was found on the topics.
#[derive(Debug)]
struct Heard {
    /// Different ones.
    records: usize,
    /// How many were there more than once, each time they were.
    repeated: usize,
}

/// Where a record goes, and in which order.
type Sequences = HashMap<(String, String), Vec<Said>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    id: String,
    time: String,
    trace: Option<String>,
    body: String,
}

/// On every topic is what the journals say, all of it and nothing else; each purchase in the order of its journal, but for
/// what is told again, and that is told alike.
async fn heard(data: &Data, kafka: &Kafka, prefix: &str) -> Result<Heard> {
    let said = said(data, prefix).await?;
    let topics = Topic::ALL.into_iter().filter(|topic| topic.direction() == Direction::Out);
    let topics = topics.map(|topic| format!("{prefix}{}", topic.name()));
    let mut first: HashMap<String, Record> = HashMap::new();
    let (mut heard, mut repeated) = (Sequences::new(), 0);
    for record in kafka.read(topics.collect()).await? {
        ensure!(record.header("ce_subject")? == record.key, "{record:?}");
        let id = record.header("ce_id")?.to_owned();
        if let Some(first) = first.get(&id) {
            let again = Record { offset: first.offset, ..record };
            ensure!(again == *first, "told differently: {first:?} {again:?}");
            repeated += 1;
            continue;
        }
        let place = (record.topic.clone(), record.key.clone());
        let sequence = heard.entry(place).or_default();
        let trace = said_trace(&record)?;
        let (time, body) = (record.header("ce_time")?.to_owned(), record.body.clone());
        sequence.push(Said { id: id.clone(), time, trace, body });
        first.insert(id, record);
    }
    for (place, said) in &said {
        let heard = heard.remove(place).unwrap_or_default();
        ensure!(heard == *said, "{place:?}: the journal says {said:#?}, and heard is {heard:#?}");
    }
    ensure!(heard.is_empty(), "heard, and no journal says so: {heard:#?}");
    Ok(Heard { records: first.len(), repeated })
}

/// The trace of a record, if whoever began it said one: none is made of its key.
fn said_trace(record: &Record) -> Result<Option<String>> {
    let trace = record.header("traceparent")?;
    Ok((!trace.contains(&record.key.replace('-', ""))).then(|| trace.to_owned()))
}

async fn read_only(data: &Data) -> Result<ReadOnly> {
    let urls = DatabaseUrls { server: Some(data.database("postgres")?), ..DatabaseUrls::default() };
    ReadOnly::open(&urls).await?.context("there are databases")
}

/// What the journals say, read as `souk verify` reads them.
async fn said(data: &Data, prefix: &str) -> Result<Sequences> {
    let databases = read_only(data).await?;
    let mut said = Sequences::new();
    for journal in [&databases.order, &databases.account] {
        let mut streams: HashMap<(i16, Uuid), Vec<StoredRow>> = HashMap::new();
        for ScannedRow { stream, kind, row } in rows(journal.as_ref()).await? {
            streams.entry((kind, stream)).or_default().push(row);
        }
        for ((kind, stream), rows) in streams {
            let kind = Kind::from_number(kind).context("a kind that is known")?;
            for records::Record { topic, key, id, at, trace, body, .. } in records(kind, stream, &rows, 0)? {
                let place = (format!("{prefix}{}", topic.name()), key.to_string());
                said.entry(place).or_default().push(Said { id, time: at.to_string(), trace, body });
            }
        }
    }
    Ok(said)
}

async fn rows(journal: &dyn Journal) -> Result<Vec<ScannedRow>> {
    let mut rows: Vec<ScannedRow> = Vec::new();
    loop {
        let behind = rows.last().map(|row| (row.stream, row.row.version));
        let page = journal.scan_rows(behind, Uuid::max(), PAGE as i64).await?;
        let is_last = page.len() < PAGE;
        rows.extend(page);
        if is_last {
            return Ok(rows);
        }
    }
}

#[tokio::test]
async fn what_is_committed_is_told_whatever_befalls_kafka_and_the_node() -> Result<()> {
    let Some(kafka) = Kafka::start("what befalls Kafka", 3).await? else { return Ok(()) };
    let data = Data::new("told")?;
    let settings = [("SOUK__KAFKA__BROKERS", kafka.addresses.as_str())];
    let node = Process::serve(&data, &settings).await?;
    let door = Relay::to(vec![node.address()?]).await?;
    let url = format!("http://{}", door.address);
    let mut crowd = Crowd::gather(&url).await?;
    // What is tested is not how much can be bought, and everything is read back.
    crowd.pause = Duration::from_millis(200);
    let somebody = Shopper::register(&url).await?;
    let rush = crowd.rush();
    rush.more(100).await?;
    told_at_once(&node).await?;

    // One broker of three.
    kafka.kill_broker(1).await?;
    rush.more(100).await?;
    let took = told_at_once(&node).await?;
    println!("one broker killed: told at once again after {took:.1?}");
    kafka.start_broker(1).await?;

    // All of them, twice.
    for _ in 0..2 {
        kafka.kill_all().await?;
        let took = crowd.first_success(&somebody, Instant::now()).await?;
        rush.more(100).await?;
        until("the lag grows", async || Ok(lag(&node.url).await? > 3.0)).await?;
        kafka.start_all().await?;
        let caught_up = told_at_once(&node).await?;
        println!(
            "all brokers killed: a purchase took {took:.1?}; they are back, all is told after {caught_up:.1?}"
        );
    }

    // The node, when a page is published and its cursor not moved.
    hold_cursor(&data, true).await?;
    published_and_not_noted(&node.url, &kafka, "").await?;
    node.kill().await?;
    hold_cursor(&data, false).await?;
    let node = Process::serve(&data, &settings).await?;
    door.aim(vec![node.address()?]);
    rush.more(100).await?;
    told_at_once(&node).await?;

    crowd.end("Kafka and the node", rush).await?;
    told(&data).await?;
    until("the lag is nothing", async || Ok(lag(&node.url).await? == 0.0)).await?;
    let heard = heard(&data, &kafka, "").await?;
    let Heard { records, repeated } = heard;
    println!("whatever befell Kafka and the node: {records} records are told, {repeated} of them again");
    ensure!(repeated > 0, "the page that was published before the kill was not published again");
    assert_eq!(node.stop().await?, 0);
    Ok(())
}
