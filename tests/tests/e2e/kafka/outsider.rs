//! Somebody outside who writes records, and what a shop says of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;
use souk_config::Kafka as KafkaSettings;
use souk_gateway::bridge::trust::{Right, SIGNATURE, Trust};
use souk_persistence::kafka::{Brokers, KafkaPublisher};
use souk_persistence::relay::{Message, Publisher};
use souk_tests::kafka::Kafka;
use souk_tests::process::Data;
use souk_tests::shopper::Shopper;
use sqlx::{Connection, PgConnection, Row};

/// Of every signature.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";
/// Of the shop's operator.
pub const OPERATOR: &str = "an operator's token";

/// Signs what it says.
pub struct Outsider {
    publisher: KafkaPublisher,
    topic: String,
    source: &'static str,
    right: Right,
    trust: Trust,
}

impl Outsider {
    /// Writes to one topic of a shop with a prefix; the shop knows its source and the key.
    pub fn new(kafka: &Kafka, prefix: &str, source: &'static str, topic: &str) -> Self {
        let signers: BTreeMap<_, _> = [(source.to_owned(), KEY.to_owned().into())].into();
        let settings = KafkaSettings {
            prefix: prefix.to_owned(),
            purchase_signers: signers.clone(),
            inventory_signers: signers,
            ..KafkaSettings::default()
        };
        Self {
            publisher: KafkaPublisher::new(Brokers::plain(&kafka.addresses)),
            topic: format!("{prefix}{topic}"),
            source,
            right: if topic == "purchase" { Right::Purchase } else { Right::Inventory },
            trust: Trust::new(&settings),
        }
    }

    /// A signed record.
    pub fn record(&self, id: &str, key: &str, body: Vec<u8>) -> Message {
        let signature = self.trust.sign(self.right, self.source, id, &body).unwrap_or_default();
        let header = |name, value: &str| (Cow::Borrowed(name), value.as_bytes().to_vec());
        Message {
            topic: self.topic.clone(),
            key: key.as_bytes().to_vec(),
            headers: vec![
                header("ce_source", self.source),
                header("ce_id", id),
                header(SIGNATURE, &signature),
            ],
            body,
            at_ms: 0,
        }
    }

    /// Writes them, in this order.
    pub async fn write(&self, records: Vec<Message>) -> Result<()> {
        Ok(self.publisher.publish(records).await?)
    }
}

/// How many orders have a status.
pub async fn orders(data: &Data, status: &str) -> Result<i64> {
    let mut connection = PgConnection::connect(&data.database("order_db")?).await?;
    let query = sqlx::query("select count(*) from orders where status = $1").bind(status);
    Ok(query.fetch_one(&mut connection).await?.try_get(0)?)
}

/// Those of the shop to which the shopper goes, whose operator's token is [`OPERATOR`].
pub async fn dead_letters(shopper: &Shopper) -> Result<Vec<Value>> {
    let operator = shopper.with_token(OPERATOR, "");
    let (mut letters, mut next) = (Vec::new(), Some("/admin/dead-letters?limit=200".to_owned()));
    while let Some(part) = next {
        let answer = operator.get(&part).await?;
        ensure!(answer.status == 200, "{answer:?}");
        letters.extend(answer.body["items"].as_array().cloned().unwrap_or_default());
        next = answer.body["next"].as_str().map(|next| next.trim_start_matches("/api/v1").to_owned());
    }
    Ok(letters)
}
