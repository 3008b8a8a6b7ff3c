//! What Souk is told on Kafka: purchases, and answers of a participant outside.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use souk_persistence::relay::Message;
use souk_tests::cluster::counted;
use souk_tests::kafka::Kafka;
use souk_tests::process::{Data, Process};
use souk_tests::shopper::{Shopper, send};
use sqlx::{Connection, PgConnection, Row};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::odd::{write_garbled, write_large};
use super::outsider::{KEY, OPERATOR, Outsider, dead_letters, orders};
use super::{ended, until};

const RECORDS: usize = 10_000;
/// Every so manieth record is poison.
const POISON_EVERY: usize = 20;
const POISONS: usize = 12;
const GARBLED: usize = 10;
const LARGE: usize = 11;

fn purchase(customer: &str, product: &str) -> Value {
    json!({"customer_id": customer, "order_items": [{"product_id": product, "quantity": 1}],
        "payment": {"currency_code": "VND"}})
}

/// A record that can be no purchase, of the kind `number` of twelve, and the code of its cause. The last two need a writer
/// of their own.
fn poison(front: &Outsider, number: usize, id: &str, good: &Value) -> (Message, &'static str) {
    let with = |change: fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        front.record(id, id, body.to_string().into_bytes())
    };
    let mut unsigned = front.record(id, id, good.to_string().into_bytes());
    match number {
        0 => (front.record(id, id, b"{\"customer_id\":".to_vec()), "invalid_body"),
        1 => (front.record(id, id, vec![0xff, 0xfe]), "invalid_body"),
        2 => (with(|body| body["gift"] = json!(true)), "invalid_body"),
        3 => (with(|body| body["order_items"][0]["quantity"] = json!(0)), "invalid_quantity"),
        4 => (
            with(|body| body["order_items"] = json!([body["order_items"][0], body["order_items"][0]])),
            "duplicate_product",
        ),
        5 => (with(|body| body["payment"]["currency_code"] = json!("EUR")), "currency_mismatch"),
        6 => (
            with(|body| body["order_items"][0]["product_id"] = json!(uuid::Uuid::now_v7())),
            "product_not_found",
        ),
        7 => (with(|body| body["customer_id"] = json!(uuid::Uuid::now_v7())), "not_found"),
        8 => {
            unsigned.headers.pop();
            (unsigned, "unsigned")
        }
        9 => {
            let padded = format!("{good}{}", " ".repeat(70_000));
            (front.record(id, id, padded.into_bytes()), "body_too_large")
        }
        GARBLED => (unsigned, "invalid_header"),
        _ => {
            // Larger than what a producer sends by default: its letter must not be.
            let padded = format!("{good}{}", " ".repeat(1_100_000));
            (front.record(id, id, padded.into_bytes()), "body_too_large")
        }
    }
}

#[tokio::test]
async fn records_buy_and_what_cannot_be_bought_is_put_aside_until_it_is_put_back() -> Result<()> {
    let Some(kafka) = Kafka::shared("purchases by record").await? else { return Ok(()) };
    let data = Data::new("records")?;
    let settings = [
        ("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()),
        ("SOUK__KAFKA__PREFIX", "records."),
        ("SOUK__KAFKA__PURCHASE_SIGNERS__FRONT", KEY),
        ("SOUK__ADMIN__TOKEN", OPERATOR),
    ];
    let node = Process::serve(&data, &settings).await?;
    let shopper = Shopper::register(&node.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, RECORDS as u64 * 2).await?;
    let good = purchase(&shopper.account, &product);
    let front = Outsider::new(kafka, "records.", "front", "purchase");

    let mut expected: HashMap<&str, usize> = HashMap::new();
    let (mut records, mut garbled, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..RECORDS {
        let id = format!("order-{number}");
        if number.is_multiple_of(POISON_EVERY) {
            let kind = number / POISON_EVERY % POISONS;
            let (record, code) = poison(&front, kind, &id, &good);
            *expected.entry(code).or_default() += 1;
            match kind {
                GARBLED => garbled.push(record),
                LARGE => large.push(record),
                _ => records.push(record),
            }
        } else {
            records.push(front.record(&id, &id, good.to_string().into_bytes()));
        }
        // Some come twice, and are one purchase each.
        if number % POISON_EVERY == 1 {
            records.push(front.record(&id, &id, good.to_string().into_bytes()));
        }
    }
    let count = records.len() + garbled.len() + large.len();
    let (bad, cut) = (expected.values().sum::<usize>(), large.len());
    let begun = Instant::now();
    // Among the others, which come behind them.
    let half = records.split_off(records.len() / 2);
    front.write(records).await?;
    for record in &garbled {
        write_garbled(kafka, record).await?;
    }
    write_large(kafka, large).await?;
    front.write(half).await?;
    let url = node.url.as_str();
    let heard = async |outcome: &str| {
        let name = format!(r#"souk_kafka_records_total{{topic="records.purchase",outcome="{outcome}"}}"#);
        counted(url, &name).await
    };
    until("every record has had its effect", async || {
        Ok(heard("done").await? + heard("dead").await? == count as f64)
    })
    .await?;
    let took = begun.elapsed();
    let bought = i64::try_from(RECORDS - bad)?;
    until("every purchase has ended", async || Ok(orders(&data, "completed").await? == bought)).await?;
    println!("{count} records, {bad} of them poison: all had their effect after {took:.1?}");
    assert_eq!(orders(&data, "pending").await? + orders(&data, "failed").await?, 0);

    let letters = dead_letters(&shopper).await?;
    let mut found: HashMap<&str, usize> = HashMap::new();
    for letter in &letters {
        *found.entry(letter["code"].as_str().unwrap_or_default()).or_default() += 1;
        ensure!(letter["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{letter}");
        ensure!(letter["record_id"].as_str().is_some_and(|id| id.starts_with("order-")), "{letter}");
    }
    assert_eq!(found, expected);
    assert_eq!(letters.iter().filter(|letter| letter["cut"] == "body").count(), cut);
    assert_eq!(letters.iter().filter(|letter| letter["cut"] == "headers").count(), garbled.len());

    // An operator answers for those that were not signed, and mends one that said too little.
    let of = |code: &str| letters.iter().filter(move |letter| letter["code"] == code).collect::<Vec<_>>();
    let operator = shopper.with_token(OPERATOR, "");
    let unsigned: Vec<_> = of("unsigned").iter().map(|letter| letter["id"].clone()).collect();
    let answer = operator.post("/admin/dead-letters/replay", &json!({"ids": unsigned})).await?;
    assert_eq!(answer.body["replayed"], json!(unsigned.len()), "{answer:?}");
    let mended = &of("invalid_quantity")[0]["id"];
    let body = json!({"ids": [mended], "body": good.to_string()});
    let answer = operator.post("/admin/dead-letters/replay", &body).await?;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    // Of one that was too large there is only a part: somebody must say all of it again.
    let large = letters.iter().find(|letter| letter["cut"] == "body").context("a letter that was cut")?;
    let place = large["id"].as_str().context("an id")?;
    let shown = operator.get(&format!("/admin/dead-letters/{place}")).await?;
    ensure!(
        shown.body["body"].as_str().is_some_and(|body| body.starts_with("{\"customer_id\"")),
        "{shown:?}"
    );
    let refused = operator.post("/admin/dead-letters/replay", &json!({"ids": [place]})).await?;
    assert_eq!((refused.status.as_u16(), refused.code()), (422, "letter_cut"));
    let body = json!({"ids": [place], "body": good.to_string()});
    assert_eq!(operator.post("/admin/dead-letters/replay", &body).await?.body["replayed"], 1);
    let again = bought + i64::try_from(unsigned.len())? + 2;
    until("what was put back is bought", async || Ok(orders(&data, "completed").await? == again)).await?;
    assert_eq!(dead_letters(&shopper).await?.len(), letters.len() - unsigned.len() - 2);
    let nobody = shopper.get("/admin/dead-letters").await?;
    assert_eq!(nobody.status, 401, "it is for operators");
    let none = operator.post("/admin/dead-letters/replay", &json!({"ids": ["0/999999"]})).await?;
    assert_eq!(none.status, 404, "{none:?}");
    let restarts = counted(url, "souk_kafka_consumer_restarts_total").await?;
    assert_eq!(restarts, 0.0, "no record has stopped who reads");
    assert_eq!(node.stop().await?, 0);
    Ok(())
}

/// Python with what the example participant needs. `None`: there is none here, and it is said that the test is skipped.
async fn python(test: &str) -> Result<Option<PathBuf>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tests.join("../target/services/python");
    let python = folder.join("bin/python");
    if !folder.join("is-complete").exists() {
        let requirements = tests.join("participants/requirements.txt");
        let made = "python3 -m venv --clear \"$0\" && \"$0\"/bin/pip install -q -r \"$1\" && touch \"$0\"/is-complete";
        let output = Command::new("bash").args(["-c", made]).arg(&folder).arg(&requirements).output().await?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = why.lines().last().unwrap_or("python3 -m venv fails");
            writeln!(std::io::stderr(), "skipped: {test}: {why}")?;
            return Ok(None);
        }
    }
    Ok(Some(python))
}

/// The example participant, which does wrong what it can.
fn participant(python: &Path, kafka: &Kafka, books: &Path) -> Result<Child> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("participants/payment.py");
    let child = Command::new(python)
        .arg(script)
        .args(["--brokers", kafka.addresses.as_str(), "--prefix", "outside.", "--key", KEY])
        .args(["--duplicate", "0.2", "--late", "3", "--wrong-amount", "0.05"])
        .arg("--books")
        .arg(books)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// What its books say: (purchase, captured, refunded).
async fn booked(python: &Path, books: &Path) -> Result<HashMap<String, (i64, i64)>> {
    let read = "import json, sqlite3, sys; print(json.dumps(sqlite3.connect(sys.argv[1]).execute(
        'select purchase, captured, refunded from payment').fetchall()))";
    let output = Command::new(python).args(["-c", read]).arg(books.join("payments.db")).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<(String, i64, i64)> = serde_json::from_slice(&output.stdout)?;
    Ok(rows.into_iter().map(|(purchase, captured, refunded)| (purchase, (captured, refunded))).collect())
}

#[tokio::test]
async fn a_payment_service_outside_is_killed_and_late_and_lies_and_no_money_is_lost() -> Result<()> {
    const TEST: &str = "a payment service outside";
    const PURCHASES: usize = 1_000;
    let Some(kafka) = Kafka::shared(TEST).await? else { return Ok(()) };
    let Some(python) = python(TEST).await? else { return Ok(()) };
    let data = Data::new("outside")?;
    let books = data.path().join("books");
    let settings = [
        ("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()),
        ("SOUK__KAFKA__PREFIX", "outside."),
        ("SOUK__KAFKA__OUTSIDE", "payment"),
        // Longer than the group needs to notice that a member was killed.
        ("SOUK__ACTORS__RESERVE_MS", "30000"),
        ("SOUK__KAFKA__PAYMENT_SIGNERS__PAYMENTS", KEY),
        ("SOUK__ADMIN__TOKEN", OPERATOR),
    ];
    let node = Process::serve(&data, &settings).await?;
    let mut payments = participant(&python, kafka, &books)?;
    let shopper = Shopper::register(&node.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, PURCHASES as u64 + 1).await?;
    let first = shopper.buy(&[(&product, 1)], None).await?;
    ensure!(first.body["status"] == "completed", "the payment service is there: {first:?}");
    let buy = async |number: usize| {
        let declined = number.is_multiple_of(20).then_some("tok_declined");
        let body = Shopper::order(&[(&product, 1)], declined);
        let answer = send(shopper.request(reqwest::Method::POST, "/purchases").json(&body)).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    };
    for part in 0..4 {
        let asked = (part * PURCHASES / 4..(part + 1) * PURCHASES / 4).map(buy);
        futures::future::try_join_all(asked).await?;
        if part % 2 == 0 {
            // In the middle of what it was asked.
            payments.kill().await?;
            payments = participant(&python, kafka, &books)?;
        }
    }
    ended(&data).await?;

    let books = booked(&python, &books).await?;
    let mut connection = PgConnection::connect(&data.database("order_db")?).await?;
    let query = sqlx::query("select id::text, status, amount from orders");
    let mut paid = 0;
    let (mut completed, mut others) = (0, 0);
    for row in query.fetch_all(&mut connection).await? {
        let (id, status): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (captured, refunded) = books.get(&id).copied().unwrap_or_default();
        match status.as_str() {
            "completed" => {
                assert_eq!((Some(captured), refunded), (row.try_get(2)?, 0), "{id}");
                paid += captured;
                completed += 1;
            }
            _ => {
                assert_eq!(captured, refunded, "{id} is {status}");
                others += 1;
            }
        }
    }
    let kept: i64 = books.values().map(|(captured, refunded)| captured - refunded).sum();
    assert_eq!((completed + others, kept), (PURCHASES + 1, paid));
    assert_eq!(shopper.inventory(&product).await?, i64::try_from(PURCHASES + 1 - completed)?);
    let lies = dead_letters(&shopper).await?;
    ensure!(lies.iter().all(|letter| letter["code"] == "not_believed"), "{lies:?}");
    println!("{completed} paid, {others} not; {} answers were not believed", lies.len());
    ensure!(completed > PURCHASES / 2 && others >= PURCHASES / 20 && !lies.is_empty());
    payments.kill().await?;
    assert_eq!(node.stop().await?, 0);
    Ok(())
}
