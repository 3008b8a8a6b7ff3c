//! Stock behind Kafka: a warehouse that is killed, answers twice, late, and lies; nothing is sold twice, and nothing lost.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Message};
use serde_json::{Value, json};
use souk_persistence::Timestamp;
use souk_tests::kafka::Kafka;
use souk_tests::process::{Data, Process, binary};
use souk_tests::shopper::{Shopper, send};
use sqlx::{Connection, PgConnection, Row};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::outsider::{KEY, OPERATOR, Outsider, dead_letters};
use super::{ended, until};

const PREFIX: &str = "inventory.";
const PURCHASES: usize = 600;
/// Of the product that is soon sold out, and of the other.
const STOCK: [i64; 2] = [100, 100_000];
const PRICE: i64 = 125;

/// What the warehouse has written down. It outlives the warehouse.
#[derive(Default)]
struct Books {
    stock: HashMap<String, i64>,
    decided: HashMap<String, Decided>,
}

/// What became of a purchase: decided once, whatever is asked how often in which order.
#[derive(Clone, Debug, PartialEq)]
enum Decided {
    Held(Vec<(String, i64)>),
    /// There is not enough of this.
    Refused(String),
    RolledBack,
}

impl Books {
    /// `None`: too late to begin with it, which is neither yes nor no.
    fn reserve(&mut self, command: &Value) -> Option<Decided> {
        let purchase = text(command, "purchase_id");
        if let Some(decided) = self.decided.get(&purchase) {
            return Some(decided.clone());
        }
        let reserve_by = Timestamp::parse(&text(command, "reserve_by")).expect("a moment");
        if reserve_by <= souk_actors::Clock::System.now() {
            return None;
        }
        let items: Vec<_> = command["order_items"].as_array().into_iter().flatten().map(item).collect();
        let lacking = items.iter().find(|(product, quantity)| self.stock[product] < *quantity);
        let decided = match lacking {
            Some((product, _)) => Decided::Refused(product.clone()),
            None => {
                for (product, quantity) in &items {
                    *self.stock.entry(product.clone()).or_default() -= quantity;
                }
                Decided::Held(items)
            }
        };
        self.decided.insert(purchase, decided.clone());
        Some(decided)
    }

    fn roll_back(&mut self, command: &Value) {
        let before = self.decided.insert(text(command, "purchase_id"), Decided::RolledBack);
        if let Some(Decided::Held(items)) = before {
            for (product, quantity) in items {
                *self.stock.entry(product).or_default() += quantity;
            }
        }
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn item(item: &Value) -> (String, i64) {
    (text(item, "product_id"), text(item, "quantity").parse().expect("a quantity"))
}

/// What is answered, in this order; `number` says what goes wrong with it.
fn answers(command: &Value, decided: &Decided, number: usize) -> Vec<Value> {
    let step = json!({"purchase_id": command["purchase_id"], "step": "UPDATE_PRODUCT_INVENTORY"});
    let with = |outcome: Value| {
        let mut answer = step.clone();
        answer.as_object_mut().expect("an object").extend(outcome.as_object().cloned().unwrap_or_default());
        answer
    };
    let lines = |items: &[(String, i64)], more: i64, price: i64| {
        let line = |(product, quantity): &(String, i64)| {
            json!({"product_id": product, "quantity": (quantity + more).to_string(), "price": price.to_string(),
                "category_id": Uuid::nil(), "name": "Iphone 13", "brand": "Apple"})
        };
        with(json!({"reserved": {"order_lines": items.iter().map(line).collect::<Vec<_>>()}}))
    };
    match decided {
        Decided::Held(items) => {
            let truth = lines(items, 0, PRICE);
            match number % 20 {
                3 => vec![lines(items, 1, PRICE), truth],
                7 => vec![lines(&items[1..], 0, PRICE), truth],
                11 => vec![lines(items, 0, -1), truth],
                0 | 5 | 10 | 15 => vec![truth.clone(), truth],
                _ => vec![truth],
            }
        }
        Decided::Refused(product) => vec![with(json!({"refused":
            {"code": "insufficient_stock", "product_id": product, "detail": "there is not enough"}}))],
        Decided::RolledBack => vec![with(json!({"rolled_back": {}}))],
    }
}

/// A warehouse at work, until it is killed.
struct Warehouse {
    is_killed: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Warehouse {
    fn open(kafka: &Kafka, books: &Arc<Mutex<Books>>) -> Self {
        let is_killed = Arc::new(AtomicBool::new(false));
        let (books, killed, runtime) = (Arc::clone(books), Arc::clone(&is_killed), Handle::current());
        let addresses = kafka.addresses.clone();
        let says = Outsider::new(kafka, PREFIX, "warehouse", "reply");
        let thread = std::thread::spawn(move || work(&addresses, &books, &says, &killed, &runtime));
        Self { is_killed, thread }
    }

    /// It ends wherever it is: what it has written down it may not have answered, and what it has answered it reads again.
    async fn kill(self) -> Result<()> {
        self.is_killed.store(true, Ordering::Release);
        tokio::task::spawn_blocking(move || self.thread.join().expect("it does not panic")).await?
    }
}

fn work(
    addresses: &str,
    books: &Mutex<Books>,
    says: &Outsider,
    killed: &AtomicBool,
    runtime: &Handle,
) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .set("group.id", format!("{PREFIX}warehouse"))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("topic.metadata.refresh.interval.ms", "500")
        .create()?;
    let (ask, undo) =
        (format!("{PREFIX}update-product-inventory"), format!("{PREFIX}rollback-product-inventory"));
    consumer.subscribe(&[&ask, &undo])?;
    let mut late = Vec::new();
    for number in 0.. {
        let record = match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(record)) => record,
            // Its topics are yet to be made.
            Some(Err(_)) | None if killed.load(Ordering::Acquire) => return Ok(()),
            Some(Err(_)) | None => {
                runtime.block_on(says.write(std::mem::take(&mut late)))?;
                continue;
            }
        };
        let command: Value = serde_json::from_slice(record.payload().context("a body")?)?;
        ensure!(command["attempt"].as_u64().context("an attempt")? > 0, "it is asked: {command}");
        let decided = {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            if record.topic() == undo {
                books.roll_back(&command);
                Some(Decided::RolledBack)
            } else {
                books.reserve(&command)
            }
        };
        // Decided and not answered.
        if killed.load(Ordering::Acquire) {
            return Ok(());
        }
        let said = decided.map(|decided| answers(&command, &decided, number)).unwrap_or_default();
        let purchase = text(&command, "purchase_id");
        let said = said.iter().map(|answer| {
            says.record(&Uuid::now_v7().to_string(), &purchase, answer.to_string().into_bytes())
        });
        // A tenth is told when there is nothing else to do, which may be past the deadline.
        if number % 10 == 9 {
            late.extend(said);
        } else {
            runtime.block_on(says.write(said.collect()))?;
        }
        // Answered and not noted.
        if killed.load(Ordering::Acquire) {
            return Ok(());
        }
        consumer.commit_message(&record, CommitMode::Async)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_warehouse_outside_is_killed_and_late_and_lies_and_no_stock_is_lost() -> Result<()> {
    let Some(kafka) = Kafka::shared("a warehouse outside").await? else { return Ok(()) };
    let data = Data::new("inventory")?;
    let settings = [
        ("SOUK__KAFKA__BROKERS", kafka.addresses.as_str()),
        ("SOUK__KAFKA__PREFIX", PREFIX),
        ("SOUK__KAFKA__OUTSIDE", "inventory"),
        // Longer than the group needs to notice that a member has gone.
        ("SOUK__ACTORS__RESERVE_MS", "30000"),
        ("SOUK__KAFKA__INVENTORY_SIGNERS__WAREHOUSE", KEY),
        ("SOUK__ADMIN__TOKEN", OPERATOR),
    ];
    let node = Process::serve(&data, &settings).await?;
    // Nobody has heard of them here.
    let products = [Uuid::now_v7().to_string(), Uuid::now_v7().to_string()];
    let books = Arc::new(Mutex::new(Books {
        stock: products.iter().cloned().zip(STOCK).collect(),
        decided: HashMap::new(),
    }));
    let mut warehouse = Warehouse::open(kafka, &books);
    let shopper = Shopper::register(&node.url).await?;
    // So that there is stock here too, which nobody touches.
    let category = shopper.category().await?;
    let other = shopper.product(&category, 7).await?;
    let first = shopper.buy(&[(&products[1], 1)], None).await?;
    ensure!(first.body["status"] == "completed" && first.body["amount"] == PRICE, "{first:?}");

    let buy = async |number: usize| {
        let declined = number.is_multiple_of(15).then_some("tok_declined");
        let body = match number % 3 {
            0 => Shopper::order(&[(&products[1], 2)], declined),
            _ => Shopper::order(&[(&products[0], 1), (&products[1], 1)], declined),
        };
        let answer = send(shopper.request(reqwest::Method::POST, "/purchases").json(&body)).await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    };
    for part in 0..4 {
        futures::future::try_join_all((part * PURCHASES / 4..(part + 1) * PURCHASES / 4).map(buy)).await?;
        if part % 2 == 0 {
            warehouse.kill().await?;
            warehouse = Warehouse::open(kafka, &books);
        }
    }
    ended(&data).await?;
    // What was answered late.
    let lag = r#"souk_kafka_consumer_in_flight"#;
    until("every answer was heard", async || Ok(souk_tests::cluster::counted(&node.url, lag).await? == 0.0))
        .await?;
    warehouse.kill().await?;

    let mut orders = PgConnection::connect(&data.database("order_db")?).await?;
    let query = sqlx::query("select id::text, status, amount from orders");
    let (mut sold, mut completed, mut others) = (HashMap::<String, i64>::new(), 0, 0);
    let Books { stock, decided } = std::mem::take(&mut *books.lock().unwrap_or_else(PoisonError::into_inner));
    for row in query.fetch_all(&mut orders).await? {
        let (id, status): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match (status.as_str(), decided.get(&id)) {
            ("completed", Some(Decided::Held(items))) => {
                let count: i64 = items.iter().map(|(_, quantity)| quantity).sum();
                assert_eq!(row.try_get::<i64, _>(2)?, count * PRICE, "{id}");
                for (product, quantity) in items {
                    *sold.entry(product.clone()).or_default() += quantity;
                }
                completed += 1;
            }
            ("failed", Some(Decided::RolledBack)) => others += 1,
            (status, decided) => panic!("{id} is {status}, and the warehouse has {decided:?}"),
        }
    }
    assert_eq!(completed + others, PURCHASES + 1);
    for (product, first) in products.iter().zip(STOCK) {
        assert_eq!(stock[product] + sold.get(product).unwrap_or(&0), first, "{product}");
    }
    let lies = dead_letters(&shopper).await?;
    ensure!(lies.iter().all(|letter| letter["code"] == "not_believed"), "{lies:?}");
    println!("stock outside: {completed} bought, {others} not; {} answers were not believed", lies.len());
    ensure!(completed > PURCHASES / 4 && others > PURCHASES / 4 && lies.len() > PURCHASES / 50);
    assert_eq!(shopper.inventory(&other).await?, 7);
    assert_eq!(node.stop().await?, 0);
    // Money and everything else is as the laws have it.
    let verified = Command::new(binary()?).args(["verify", "--data"]).arg(data.path()).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}
