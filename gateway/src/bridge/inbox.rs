//! What Souk is told on Kafka, record by record: done for good, or put aside with its cause.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use souk_persistence::causes;
use souk_persistence::kafka::{Handler, Incoming, is_too_large};
use souk_persistence::relay::Publisher;
use souk_proto::topic::{Direction, Topic};

use super::dead_letters::{Cause, Room, letter};
use super::trust::Trust;
use super::{purchase, reply};
use crate::app::App;

const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(5);

/// The topics that are read.
pub fn topics() -> impl Iterator<Item = Topic> {
    Topic::ALL.into_iter().filter(|topic| topic.direction() == Direction::In)
}

/// Works upon records for a node.
pub fn handler(app: App, prefix: String, trust: Trust, publisher: Arc<dyn Publisher>) -> Handler {
    let inbox = Arc::new(Inbox { app, prefix, trust, publisher });
    Arc::new(move |record| {
        let inbox = Arc::clone(&inbox);
        async move { inbox.hear(record).await }.boxed()
    })
}

struct Inbox {
    app: App,
    prefix: String,
    trust: Trust,
    publisher: Arc<dyn Publisher>,
}

impl Inbox {
    async fn hear(&self, record: Incoming) {
        let topic = record.topic.clone();
        let outcome = match AssertUnwindSafe(self.work_upon(&record)).catch_unwind().await {
            Ok(Ok(())) => "done",
            Ok(Err(cause)) => self.put_aside(&record, &cause).await,
            Err(_panic) => {
                let cause = Cause::new("internal", "it could not be handled: see the log".to_owned());
                self.put_aside(&record, &cause).await
            }
        };
        metrics::counter!("souk_kafka_records_total", "topic" => topic, "outcome" => outcome).increment(1);
    }

    async fn work_upon(&self, record: &Incoming) -> Result<(), Cause> {
        if record.is_garbled {
            return Err(Cause::new("invalid_header", "the name of a header is not UTF-8".to_owned()));
        }
        let (bytes, allowed) = (record.body.len(), self.app.body_limit());
        if bytes > allowed {
            let detail = format!("the body has {bytes} bytes; {allowed} are allowed");
            return Err(Cause::new("body_too_large", detail));
        }
        let name = record.topic.strip_prefix(self.prefix.as_str()).unwrap_or(&record.topic);
        match Topic::named(name) {
            Some(Topic::Purchase) => purchase::start(&self.app, &self.trust, record).await,
            Some(Topic::Reply) => reply::hear(&self.app, &self.trust, record).await,
            Some(
                Topic::PurchaseResult
                | Topic::UpdateProductInventory
                | Topic::RollbackProductInventory
                | Topic::CreateOrder
                | Topic::RollbackOrder
                | Topic::CreatePayment
                | Topic::RollbackPayment
                | Topic::SendRegisterEmail
                | Topic::DeadLetterQueue,
            )
            | None => Err(Cause::new("not_read", format!("nobody reads {name}"))),
        }
    }

    /// However long Kafka is away: the record's offset waits for it.
    async fn put_aside(&self, record: &Incoming, cause: &Cause) -> &'static str {
        let Incoming { topic, partition, offset, .. } = record;
        let Cause { code, detail } = cause;
        tracing::warn!(topic, partition, offset, code, detail, "a record cannot be processed");
        let (mut again, mut room) = (AGAIN_FIRST, Room::USUAL);
        loop {
            let letter = letter(&self.prefix, record, cause, self.app.now(), room);
            match self.publisher.publish(vec![letter]).await {
                Ok(()) => return "dead",
                // Brokers that take less than others.
                Err(error) if is_too_large(&error) && room != Room::LEAST => {
                    room = Room::LEAST;
                    continue;
                }
                Err(error) if is_too_large(&error) => {
                    tracing::error!(
                        topic,
                        partition,
                        offset,
                        code,
                        "no dead letter is small enough: it is lost"
                    );
                    return "lost";
                }
                Err(error) => {
                    tracing::warn!(error = causes(&error), "a dead letter cannot be put aside yet");
                }
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN_LAST);
        }
    }
}
