//! The queue of dead letters, as operators see it: on the command line and over HTTP.

use std::collections::HashMap;

use anyhow::{Context, Result};
use souk_actors::Clock;
use souk_config::Kafka;
use souk_persistence::kafka::{Brokers, Incoming, KafkaPublisher, read_back, read_one};
use souk_persistence::relay::Publisher;
use souk_proto::topic::Topic;

use super::brokers;
use super::dead_letters::{DeadLetter, letters, replay};
use super::trust::Trust;

/// The newest records of the queue that are looked at, marks of what was put back among them.
pub const LOOKED_AT: u32 = 50_000;

/// The queue.
pub struct Queue {
    brokers: Brokers,
    publisher: KafkaPublisher,
    prefix: String,
    topic: String,
    trust: Trust,
}

/// Names a letter: partition and offset.
pub type LetterId = (i32, i64);

/// Reads `partition/offset`.
pub fn letter_id(text: &str) -> Option<LetterId> {
    let (partition, offset) = text.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

impl Queue {
    /// As the settings say; `None`: they name no brokers.
    pub fn new(settings: &Kafka) -> Option<Self> {
        let brokers = brokers(settings)?;
        Some(Self {
            publisher: KafkaPublisher::new(brokers.clone()),
            brokers,
            prefix: settings.prefix.clone(),
            topic: format!("{}{}", settings.prefix, Topic::DeadLetterQueue.name()),
            trust: Trust::new(settings),
        })
    }

    /// Letters, oldest first; those that were put back only if they are asked for too.
    pub async fn list(&self, with_replayed: bool) -> Result<Vec<DeadLetter>> {
        let queue = read_back(&self.brokers, &self.topic, LOOKED_AT).await.context("read the queue")?;
        let all = letters(&queue).into_iter();
        Ok(all.filter(|letter| with_replayed || letter.replayed_at.is_none()).collect())
    }

    /// One letter; `None`: there is none.
    pub async fn find(&self, id: &str) -> Result<Option<DeadLetter>> {
        Ok(self.list(true).await?.into_iter().find(|letter| letter.id == id))
    }

    /// Puts letters back on their topics, one of them perhaps with another body: all, or none where one is not there,
    /// which is named.
    pub async fn replay(&self, ids: &[LetterId], body: Option<&[u8]>) -> Result<Result<(), LetterId>> {
        let queue = match ids {
            [one] => {
                read_one(&self.brokers, &self.topic, *one).await.map(|record| record.into_iter().collect())
            }
            _several => read_back(&self.brokers, &self.topic, LOOKED_AT).await,
        };
        let queue: HashMap<LetterId, Incoming> = queue
            .context("read the queue")?
            .into_iter()
            .map(|record| ((record.partition, record.offset), record))
            .collect();
        let (mut back, mut marks) = (Vec::new(), Vec::new());
        for id in ids {
            let letter = queue.get(id).and_then(|record| {
                replay(&self.prefix, record, body.map(<[u8]>::to_vec), &self.trust, Clock::System.now())
            });
            let Some([letter, mark]) = letter else { return Ok(Err(*id)) };
            back.push(letter);
            marks.push(mark);
        }
        // Cut off in between they are back and look as if they were not: to put them back again does no harm.
        self.publisher.publish(back).await?;
        self.publisher.publish(marks).await?;
        Ok(Ok(()))
    }
}
