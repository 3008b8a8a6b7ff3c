//! Writes to Kafka: idempotent, acknowledged by all replicas in sync, in the order of each key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::Brokers;
use crate::relay::{Message, Publisher, Undelivered};

/// A message that is not delivered within this time is not: whoever gave it gives it again.
const DELIVERED_WITHIN: &str = "30000";
/// Between two looks at a full queue.
const ROOM_AGAIN: Duration = Duration::from_millis(5);

/// Messages that were given together, and how many of them nothing has been heard of.
struct Batch {
    state: Mutex<(usize, Option<KafkaError>)>,
    changed: Notify,
}

impl Batch {
    fn heard(&self, error: Option<KafkaError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_sub(1);
        if let Some(error) = error {
            state.1.get_or_insert(error);
        }
        if state.0 == 0 {
            self.changed.notify_one();
        }
    }

    async fn all(&self) -> Result<(), KafkaError> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.0 == 0 {
                    return state.1.take().map_or(Ok(()), Err);
                }
            }
            changed.await;
        }
    }
}

struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        batch.heard(result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

type Client = ThreadedProducer<Deliveries>;

/// Writes to Kafka.
pub struct KafkaPublisher {
    brokers: Brokers,
    client: Mutex<Option<Arc<Client>>>,
}

impl KafkaPublisher {
    /// Connects when something is first published, and again for as long as it takes.
    pub fn new(brokers: Brokers) -> Self {
        Self { brokers, client: Mutex::new(None) }
    }

    fn current(&self) -> Option<Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn client(&self) -> Result<Arc<Client>, KafkaError> {
        if let Some(client) = self.current() {
            return Ok(client);
        }
        let mut config = self.brokers.config();
        config
            .set("enable.idempotence", "true")
            // If one of a key is not delivered, none behind it is: the client is ended, and all are given again.
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("message.timeout.ms", DELIVERED_WITHIN)
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // As the Java client has it: whoever writes to the same topics finds the same partitions.
            .set("partitioner", "murmur2_random");
        let made = tokio::task::spawn_blocking(move || config.create_with_context(Deliveries)).await;
        let client: Arc<Client> = Arc::new(made.map_err(|_| KafkaError::Canceled)??);
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Whoever publishes next has a client of its own time. This one is dropped where nobody waits for it.
    fn abandon(&self, client: Arc<Client>) {
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &client)) {
            let current = current.take();
            std::thread::spawn(move || drop((current, client)));
        }
    }

    async fn deliver(&self, messages: Vec<Message>) -> Result<(), KafkaError> {
        let client = self.client().await?;
        let batch = Arc::new(Batch { state: Mutex::new((messages.len(), None)), changed: Notify::new() });
        for message in &messages {
            send(&client, message, &batch).await?;
        }
        let delivered = batch.all().await;
        if delivered.is_err() && client.client().fatal_error().is_some() {
            self.abandon(client);
        }
        delivered
    }
}

/// Waits while the client's queue is full.
async fn send(client: &Client, message: &Message, batch: &Arc<Batch>) -> Result<(), KafkaError> {
    let headers = message
        .headers
        .iter()
        .fold(OwnedHeaders::new_with_capacity(message.headers.len()), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
    let mut record = BaseRecord::with_opaque_to(&message.topic, Arc::clone(batch))
        .key(&message.key)
        .payload(&message.body)
        .timestamp(message.at_ms)
        .headers(headers);
    loop {
        match client.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                record = refused;
                tokio::time::sleep(ROOM_AGAIN).await;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

impl Publisher for KafkaPublisher {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>> {
        async move { self.deliver(messages).await.map_err(|error| Undelivered(error.into())) }.boxed()
    }
}

impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        if let Some(client) = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            std::thread::spawn(move || drop(client));
        }
    }
}
