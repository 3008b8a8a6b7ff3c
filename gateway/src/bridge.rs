//! The bridge to Kafka, as the settings say: what the journals say goes out ([`souk_persistence::relay`]), and what Souk is
//! told comes in ([`inbox`]).

mod attempts;
pub mod dead_letters;
mod inbox;
pub mod operate;
mod purchase;
pub mod queue;
mod reading;
mod reply;
pub mod trust;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use souk_actors::Slot;
use souk_actors::aggregate::Kind;
use souk_actors::records::{Record, are_told, records};
use souk_actors::tenant::Tenant;
use souk_config::{Kafka, SaslMechanism, Security, millis};
use souk_persistence::causes;
use souk_persistence::databases::Databases;
use souk_persistence::journal::StoredRow;
use souk_persistence::kafka::{Brokers, KafkaPublisher, NewTopic, Sasl, make_topics};
use souk_persistence::migrate::Service;
use souk_persistence::relay::{Message, Outbox, Publisher, Relay, RelaySettings, Told, Tongue, Undelivered};
use souk_proto::topic::Topic;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use self::reading::Reading;
use crate::app::App;

/// The consumer's name beside its cursor.
pub const CONSUMER: &str = "kafka";
/// Whose journals are told.
const SERVICES: [Service; 2] = [Service::Order, Service::Account];
/// The most rows that are told at once.
const PAGE: i64 = 1_000;
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_LAST: Duration = Duration::from_secs(10);
/// So often it is seen to that none is missing.
const MADE_AGAIN: Duration = Duration::from_secs(60);
/// What cannot be processed is kept for so long, in milliseconds: 90 days.
const DEAD_LETTERS_KEPT: &str = "7776000000";
/// What happened last is told within this time, or by the next start.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The node's part in Kafka. Dropped, it ends.
pub struct Bridge {
    reading: Reading,
    relays: JoinSet<()>,
    interval: Duration,
}

impl Bridge {
    /// Starts what the settings ask for. `None`: no brokers are named. Kafka may be away for as long as it likes.
    pub fn start(settings: &Kafka, databases: &Databases, app: &App) -> Option<Self> {
        let brokers = brokers(settings)?;
        let (made, are_made) = watch::channel(false);
        let kafka = KafkaPublisher::new(brokers.clone());
        let publisher: Arc<dyn Publisher> = Arc::new(OnceMade { kafka, are_made: are_made.clone() });
        let interval = millis(settings.relay_interval_ms);
        let pace = RelaySettings { interval, page: PAGE, rows_per_second: settings.relay_rows_per_second };
        let each: Vec<_> = SERVICES
            .into_iter()
            .flat_map(|service| databases.places(service))
            .map(|(place, lowest)| {
                let tenant = app.shop().tenant().clone();
                let (outbox, tongue) = (Outbox::open(&place, CONSUMER), tongue(settings.prefix.clone()));
                Relay::new(outbox, tongue, Arc::clone(&publisher), pace, move || is_mine(&tenant, lowest()))
            })
            .collect();
        let topics = topics(settings);
        let reading = Reading::start(settings, brokers.clone(), app, are_made);
        let mut relays = JoinSet::new();
        relays.spawn(async move {
            loop {
                make_until_made(&brokers, &topics).await;
                made.send_replace(true);
                tokio::time::sleep(MADE_AGAIN).await;
            }
        });
        relays.spawn(join_all(each.into_iter().map(Relay::run)).map(drop));
        Some(Self { reading, relays, interval })
    }

    /// Reads no more: what is under way has its effect, or is read by another node.
    pub async fn stop_reading(&mut self) {
        self.reading.stop().await;
    }

    /// Gives what happened last a moment to be told, and ends.
    pub async fn stop(mut self) {
        // Every row is durable by now; one look finds them, and one more delivers.
        tokio::time::sleep((self.interval * 3).min(STOP_MAX)).await;
        self.relays.abort_all();
        let ended = async { while self.relays.join_next().await.is_some() {} };
        if timeout(STOP_MAX, ended).await.is_err() {
            tracing::warn!("the bridge to Kafka does not end");
        }
    }
}

/// Writes to Kafka once its topics are made. Until then whoever has something to tell waits, and is seen to be behind.
struct OnceMade {
    kafka: KafkaPublisher,
    are_made: watch::Receiver<bool>,
}

impl Publisher for OnceMade {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>> {
        let mut are_made = self.are_made.clone();
        async move {
            are_made.wait_for(|made| *made).await.map_err(|error| Undelivered(error.into()))?;
            self.kafka.publish(messages).await
        }
        .boxed()
    }
}

/// The owner of a database's lowest slot tells what is in it.
fn is_mine(tenant: &Tenant, lowest: Option<i16>) -> bool {
    let lowest = lowest.unwrap_or(0);
    let is_here =
        Slot::all().find(|slot| slot.number() == lowest).is_some_and(|slot| tenant.territory().has(slot));
    is_here && tenant.territory().is_certain()
}

/// Where brokers are and how they are spoken with; `None`: the settings name none.
pub fn brokers(settings: &Kafka) -> Option<Brokers> {
    let addresses = settings.brokers.clone()?;
    let (tls, uses_sasl) = match settings.security {
        Security::Plaintext => (false, false),
        Security::Tls => (true, false),
        Security::SaslPlaintext => (false, true),
        Security::SaslTls => (true, true),
    };
    let mechanism = match settings.sasl_mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    };
    let sasl = settings.username.clone().zip(settings.password.as_ref()).filter(|_| uses_sasl);
    Some(Brokers {
        addresses,
        tls,
        sasl: sasl.map(|(username, password)| Sasl {
            mechanism,
            username,
            password: password.reveal().to_owned(),
        }),
        authority: settings.tls_authority.clone(),
        identity: settings.tls_certificate.clone().zip(settings.tls_key.clone()),
    })
}

/// Every topic as the settings want it.
pub fn topics(settings: &Kafka) -> Vec<NewTopic> {
    let new = |topic: Topic| NewTopic {
        name: format!("{}{}", settings.prefix, topic.name()),
        partitions: settings.partitions,
        replication: Some(settings.replication).filter(|copies| *copies > 0),
        settings: match topic {
            Topic::DeadLetterQueue => vec![("retention.ms", DEAD_LETTERS_KEPT)],
            Topic::Purchase
            | Topic::PurchaseResult
            | Topic::UpdateProductInventory
            | Topic::RollbackProductInventory
            | Topic::CreateOrder
            | Topic::RollbackOrder
            | Topic::CreatePayment
            | Topic::RollbackPayment
            | Topic::Reply
            | Topic::SendRegisterEmail => Vec::new(),
        },
    };
    Topic::ALL.map(new).into()
}

async fn make_until_made(brokers: &Brokers, topics: &[NewTopic]) {
    let mut again = AGAIN_FIRST;
    while let Err(error) = make_topics(brokers, topics).await {
        tracing::warn!(error = causes(&error), "Kafka's topics cannot be made now");
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_LAST);
    }
}

fn tongue(prefix: String) -> Tongue {
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| are_told(*kind)).map(Kind::number).collect();
    let tell = move |kind: i16, stream: Uuid, rows: &[StoredRow], after: i32| -> Told {
        let Some(kind) = Kind::from_number(kind) else { return Ok(Vec::new()) };
        let records = records(kind, stream, rows, after)?;
        Ok(records.into_iter().map(|record| message(&prefix, kind, record)).collect())
    };
    Tongue { kinds, remembers: vec![Kind::Order.number()], tell: Arc::new(tell) }
}

/// A record as an event: CloudEvents, Kafka protocol binding 1.0.2, binary mode.
fn message(prefix: &str, kind: Kind, record: Record) -> Message {
    let Record { topic, key, id, at, trace, body } = record;
    let headers = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id),
        ("ce_source", format!("/souk/{}", kind.name())),
        ("ce_type", format!("souk.shop.v1.{}", topic.message().unwrap_or_default())),
        ("ce_subject", key.to_string()),
        ("ce_time", at.to_string()),
        ("content-type", "application/json".to_owned()),
        ("traceparent", trace.unwrap_or_else(|| trace_of(key))),
    ];
    Message {
        topic: format!("{prefix}{}", topic.name()),
        key: key.to_string().into_bytes(),
        headers: headers.map(|(name, value)| (Cow::Borrowed(name), value.into_bytes())).into(),
        body: body.into_bytes(),
        at_ms: at.micros().div_euclid(1_000),
    }
}

/// What nobody traced is a trace of its own, always the same.
fn trace_of(key: Uuid) -> String {
    let (high, low) = key.as_u64_pair();
    format!("00-{high:016x}{low:016x}-{low:016x}-00")
}

#[cfg(test)]
mod tests {
    use souk_actors::Timestamp;

    use super::*;

    #[test]
    fn a_record_is_a_cloud_event_under_the_key_of_its_stream() {
        let record = Record {
            topic: Topic::PurchaseResult,
            key: Uuid::from_u128(7),
            id: "7/2/0/CREATE_ORDER/SUCCESS".to_owned(),
            at: Timestamp::from_micros(1_764_000_000_123_456),
            trace: None,
            body: "{}".to_owned(),
        };
        let message = message("shop.", Kind::Order, record);
        assert_eq!(message.topic, "shop.purchase-result");
        assert_eq!(message.key, Uuid::from_u128(7).to_string().into_bytes());
        assert_eq!(message.at_ms, 1_764_000_000_123);
        let header =
            |name| message.headers.iter().find(|(key, _)| *key == name).expect("is there").1.as_slice();
        assert_eq!(header("ce_id"), b"7/2/0/CREATE_ORDER/SUCCESS");
        assert_eq!(header("ce_type"), b"souk.shop.v1.PurchaseResult");
        assert_eq!(header("ce_time"), b"2025-11-24T16:00:00.123456Z");
        assert_eq!(header("traceparent"), b"00-00000000000000000000000000000007-0000000000000007-00");
    }

    #[test]
    fn a_record_has_the_headers_that_the_contract_says() {
        let contract = souk_proto::asyncapi("1.2.3", "", 10);
        for (kind, topic) in [(Kind::Order, Topic::CreatePayment), (Kind::Account, Topic::SendRegisterEmail)]
        {
            let record = Record {
                topic,
                key: Uuid::from_u128(7),
                id: "7/1/0".to_owned(),
                at: Timestamp::default(),
                trace: None,
                body: "{}".to_owned(),
            };
            let message = message("", kind, record);
            let name = topic.message().expect("there is one");
            let headers = &contract["components"]["messages"][name]["headers"];
            for (header, value) in &message.headers {
                let schema = &headers["properties"][header.as_ref()];
                assert!(schema.is_object(), "{header}");
                let certain = schema["const"].as_str().map(str::as_bytes);
                assert!(certain.is_none_or(|certain| certain == value), "{header}: {schema}");
            }
            let required = headers["required"].as_array().map(Vec::len);
            assert_eq!(required, Some(message.headers.len()), "{headers}");
        }
    }

    #[test]
    fn what_cannot_be_processed_is_kept_longer() {
        let topics = topics(&Kafka { prefix: "shop.".to_owned(), replication: 3, ..Kafka::default() });
        assert_eq!(topics.len(), Topic::ALL.len());
        let dead = topics.iter().find(|topic| topic.name == "shop.dead-letter-queue").expect("is there");
        assert_eq!((dead.partitions, dead.replication, dead.settings.len()), (10, Some(3), 1));
    }
}
