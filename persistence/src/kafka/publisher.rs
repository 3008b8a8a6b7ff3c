//! Writes to Kafka: idempotent, acknowledged by all replicas in sync, in the order of each key.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::ClientContext;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use tokio::sync::Notify;

use super::Brokers;
use crate::relay::{Message, Publisher, Undelivered};

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
        if let Some(error) = error
            && state.1.as_ref().is_none_or(is_consequence)
        {
            state.1 = Some(error);
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

/// Another message was not delivered, which is why this one is not.
fn is_consequence(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{PurgeInflight, PurgeQueue};
    matches!(error, KafkaError::MessageProduction(PurgeInflight | PurgeQueue))
}

/// No broker will ever take it: to give it again is in vain.
pub fn is_too_large(error: &Undelivered) -> bool {
    let error = error.0.downcast_ref::<KafkaError>().and_then(KafkaError::rdkafka_error_code);
    error == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match facility {
            // That a setting is experimental need not be said at each start.
            "CONFWARN" => tracing::debug!(message, "librdkafka"),
            _ => DefaultClientContext.log(level, facility, message),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        batch.heard(result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

/// A client of librdkafka, until it is ended.
struct Client(RwLock<Option<ThreadedProducer<Deliveries>>>);

type Record<'a> = BaseRecord<'a, [u8], [u8], Arc<Batch>>;

impl Client {
    /// Comes back where there is no room. Of several who give at once each is told from its next message on that it is
    /// ended: what comes behind one that is not delivered must not be either.
    fn send<'a>(&self, record: Record<'a>) -> Result<Option<Record<'a>>, KafkaError> {
        let producer = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match producer.as_ref().ok_or(KafkaError::Canceled)?.send(record) {
            Ok(()) => Ok(None),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => Ok(Some(record)),
            Err((error, _)) => Err(error),
        }
    }

    /// What it still has is not delivered any more, and whoever waits for that is told. It is dropped where nobody waits
    /// for it.
    fn end(&self) {
        let producer = self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(producer) = producer {
            std::thread::spawn(move || {
                producer.purge(PurgeConfig::default().queue().inflight());
                drop(producer);
            });
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes to Kafka.
pub struct KafkaPublisher {
    brokers: Brokers,
    client: Mutex<Option<Arc<Client>>>,
    making: tokio::sync::Mutex<()>,
}

impl KafkaPublisher {
    /// Connects when something is first published, and again for as long as it takes.
    pub fn new(brokers: Brokers) -> Self {
        Self { brokers, client: Mutex::new(None), making: tokio::sync::Mutex::new(()) }
    }

    fn current(&self) -> Option<Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn client(&self) -> Result<Arc<Client>, KafkaError> {
        // Of several who publish first one makes it.
        let _making = self.making.lock().await;
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
            // For ever: one that was given up would leave a gap before those behind it.
            .set("message.timeout.ms", "0")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // As the Java client has it: whoever writes to the same topics finds the same partitions.
            .set("partitioner", "murmur2_random");
        let made = tokio::task::spawn_blocking(move || config.create_with_context(Deliveries)).await;
        let client = Arc::new(Client(RwLock::new(Some(made.map_err(|_| KafkaError::Canceled)??))));
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
        Ok(client)
    }

    /// What this client still has is not delivered any more, and whoever publishes next has another.
    fn abandon(&self, client: &Arc<Client>) {
        client.end();
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, client)) {
            *current = None;
        }
    }

    async fn deliver(&self, messages: Vec<Message>) -> Result<(), KafkaError> {
        let client = self.client().await?;
        let batch = Arc::new(Batch { state: Mutex::new((messages.len(), None)), changed: Notify::new() });
        let mut given = Given { to: self, client: &client, is_delivered: false };
        for message in &messages {
            send(&client, message, &batch).await?;
        }
        batch.all().await?;
        given.is_delivered = true;
        Ok(())
    }
}

/// Messages that a client was given. If they are not all delivered, or nobody waits for that any more, none of them may be
/// delivered later: they are given again.
struct Given<'a> {
    to: &'a KafkaPublisher,
    client: &'a Arc<Client>,
    is_delivered: bool,
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        if !self.is_delivered {
            self.to.abandon(self.client);
        }
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
    let mut record: Record<'_> = BaseRecord::with_opaque_to(&message.topic, Arc::clone(batch))
        .key(message.key.as_slice())
        .payload(message.body.as_slice())
        .timestamp(message.at_ms)
        .headers(headers);
    while let Some(refused) = client.send(record)? {
        record = refused;
        tokio::time::sleep(ROOM_AGAIN).await;
    }
    Ok(())
}

impl Publisher for KafkaPublisher {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>> {
        async move { self.deliver(messages).await.map_err(|error| Undelivered(error.into())) }.boxed()
    }
}
