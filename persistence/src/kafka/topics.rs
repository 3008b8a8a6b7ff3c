//! Topics are made when they are missing.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Brokers;

const ANSWER_MAX: Duration = Duration::from_secs(15);

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
    #[error("brokers cannot be asked")]
    Unavailable(#[from] KafkaError),
    /// A broker refuses.
    #[error("topic {topic} cannot be made: {code}")]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
}

/// Makes topics that are missing; those that are there stay as they are. How many were made.
pub async fn make_topics(brokers: &Brokers, topics: &[NewTopic]) -> Result<usize, TopicsError> {
    let config = brokers.config();
    // Making it reads certificates, dropping it waits for its threads.
    let made =
        tokio::task::spawn_blocking(move || config.create::<AdminClient<DefaultClientContext>>()).await;
    let admin = made.map_err(|_| KafkaError::Canceled)??;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX));
    let wanted: Vec<_> = topics
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
