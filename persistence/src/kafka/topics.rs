//! Topics are made when they are missing.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::Brokers;

const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Until one of the brokers has answered.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A topic that there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Copies of it; `None`: as many as brokers make by default.
    pub replication: Option<i32>,
    /// Settings of its own, such as how long it is kept.
    pub settings: Vec<(&'static str, &'static str)>,
}

/// Why topics could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// No broker answers, or none takes this side.
    #[error("brokers cannot be asked: {0}")]
    Unavailable(String),
    /// A broker refuses.
    #[error("topic {topic} cannot be made: {code}")]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
}

impl From<KafkaError> for TopicsError {
    fn from(error: KafkaError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What librdkafka says of its connections. Whoever asks is told no more than that there was no answer.
#[derive(Default)]
struct Connections(Mutex<Option<String>>);

impl ClientContext for Connections {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // It says so after it has said of each why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Connections {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

/// The names of all topics that may be seen.
fn names(config: &ClientConfig) -> Result<HashSet<String>, TopicsError> {
    let client: ThreadedProducer<_> = config.create_with_context(Connections::default())?;
    let metadata = client.client().fetch_metadata(None, CONNECT_MAX).map_err(|error| {
        let said = client.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
        said.map_or_else(|| error.into(), TopicsError::Unavailable)
    })?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}

/// Makes topics that are missing; those that are there stay as they are. How many were made.
pub async fn make_topics(brokers: &Brokers, topics: &[NewTopic]) -> Result<usize, TopicsError> {
    let config = brokers.config();
    let (tell, told) = oneshot::channel();
    let asked = config.clone();
    // It waits for as long as nobody answers, and a node that ends does not wait for it.
    std::thread::spawn(move || tell.send(names(&asked)));
    let there = told.await.map_err(|_| KafkaError::Canceled)??;
    let missing: Vec<_> = topics.iter().filter(|topic| !there.contains(&topic.name)).collect();
    if missing.is_empty() {
        // Whoever made them need not allow this side to make any.
        return Ok(0);
    }
    // Making it reads certificates, dropping it waits for its threads.
    let made =
        tokio::task::spawn_blocking(move || config.create::<AdminClient<DefaultClientContext>>()).await;
    let admin = made.map_err(|_| KafkaError::Canceled)??;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX));
    let wanted: Vec<_> = missing
        .iter()
        .map(|topic| {
            // -1: what brokers do by default.
            let replication = TopicReplication::Fixed(topic.replication.unwrap_or(-1));
            let new = rdkafka::admin::NewTopic::new(&topic.name, topic.partitions, replication);
            topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let answers = admin.create_topics(&wanted, &options).await;
    drop(wanted);
    tokio::task::spawn_blocking(move || drop(admin));
    let mut made = 0;
    for answer in answers? {
        match answer {
            Ok(topic) => {
                tracing::info!(topic, "topic is made");
                made += 1;
            }
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicsError::Refused { topic, code }),
        }
    }
    Ok(made)
}
