//! The queue of dead letters, as operators see it: on the command line and over HTTP.

use std::sync::Arc;

use anyhow::{Context, Result};
use souk_actors::Clock;
use souk_config::Kafka;
use souk_persistence::kafka::{Brokers, KafkaPublisher, fold_back, read_places};
use souk_persistence::relay::Publisher;
use souk_proto::topic::Topic;
use tokio::sync::Mutex;

use super::brokers;
use super::dead_letters::LetterId;
use super::dead_letters::listing::{Listing, Marks, ShownLetter, Wanted, shown};
use super::dead_letters::replay::{Answers, Unplayable, replay};
use super::trust::Trust;

/// The queue.
pub struct Queue {
    brokers: Brokers,
    publisher: KafkaPublisher,
    prefix: String,
    topic: String,
    trust: Trust,
    /// All of it is read by one at a time, whoever asks how often, and also where nobody waits for it any more.
    reading: Arc<Mutex<()>>,
}

/// A letter that cannot be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReplayed {
    /// Which.
    pub id: LetterId,
    /// Why.
    pub why: Unplayable,
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
            reading: Arc::default(),
        })
    }

    /// Letters, oldest first. The queue is read twice: what was put back is written behind it.
    pub async fn list(&self, wanted: Wanted) -> Result<Listing> {
        let reading = Arc::clone(&self.reading).lock_owned().await;
        let (brokers, topic) = (&self.brokers, &self.topic);
        let marks =
            fold_back(brokers, topic, (reading, Marks::default()), |(_, marks), record| marks.hear(record));
        let (reading, marks) = marks.await.context("read the queue")?;
        let listing = (reading, Listing::new(wanted, marks));
        let listing = fold_back(brokers, topic, listing, |(_, listing), record| listing.hear(record));
        Ok(listing.await.context("read the queue")?.1)
    }

    /// One letter; `None`: there is none.
    pub async fn find(&self, id: LetterId) -> Result<Option<ShownLetter>> {
        let records = read_places(&self.brokers, &self.topic, &[id]).await.context("read the queue")?;
        Ok(records.get(&id).and_then(shown))
    }

    /// Puts letters back on their topics, one of them perhaps with another body: all, or none where one cannot be, which
    /// is named. They are all in memory meanwhile.
    pub async fn replay(
        &self,
        ids: &[LetterId],
        body: Option<&[u8]>,
        answers: Answers,
    ) -> Result<Result<(), NotReplayed>> {
        let records = read_places(&self.brokers, &self.topic, ids).await.context("read the queue")?;
        let (mut back, mut marks) = (Vec::new(), Vec::new());
        for id in ids {
            let replayed = records.get(id).ok_or(Unplayable::Missing).and_then(|record| {
                let (body, now) = (body.map(<[u8]>::to_vec), Clock::System.now());
                replay(&self.prefix, record, body, (&self.trust, answers), now)
            });
            match replayed {
                Ok([letter, mark]) => {
                    back.push(letter);
                    marks.push(mark);
                }
                Err(why) => return Ok(Err(NotReplayed { id: *id, why })),
            }
        }
        // Cut off in between they are back and look as if they were not: to put them back again does no harm.
        self.publisher.publish(back).await?;
        self.publisher.publish(marks).await?;
        Ok(Ok(()))
    }
}
