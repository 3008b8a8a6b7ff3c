//! The queue of dead letters, as operators see it: on the command line and over HTTP.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use souk_actors::Clock;
use souk_config::Kafka;
use souk_persistence::kafka::{Brokers, Incoming, KafkaPublisher, fold_back, read_one};
use souk_persistence::relay::Publisher;
use souk_proto::topic::Topic;
use tokio::sync::Mutex;

use super::brokers;
use super::dead_letters::LetterId;
use super::dead_letters::listing::{ListedLetter, Listing, ShownLetter, shown};
use super::dead_letters::replay::{Answers, Unplayable, replay};
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
    /// All of it is read by one at a time, whoever asks how often.
    reading: Mutex<()>,
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
            reading: Mutex::new(()),
        })
    }

    /// Letters, oldest first; those that were put back only if they are asked for too.
    pub async fn list(&self, with_replayed: bool) -> Result<Vec<ListedLetter>> {
        let _reading = self.reading.lock().await;
        let (brokers, topic) = (&self.brokers, &self.topic);
        let listing = fold_back(brokers, topic, LOOKED_AT, Listing::default(), Listing::hear);
        let listing = listing.await.context("read the queue")?;
        // To put so many in order is more than a moment.
        Ok(tokio::task::spawn_blocking(move || listing.letters(with_replayed)).await?)
    }

    /// One letter; `None`: there is none.
    pub async fn find(&self, id: LetterId) -> Result<Option<ShownLetter>> {
        let record = read_one(&self.brokers, &self.topic, id).await.context("read the queue")?;
        Ok(record.as_ref().and_then(shown))
    }

    /// Puts letters back on their topics, one of them perhaps with another body: all, or none where one cannot be, which
    /// is named. They are all in memory meanwhile.
    pub async fn replay(
        &self,
        ids: &[LetterId],
        body: Option<&[u8]>,
        answers: Answers,
    ) -> Result<Result<(), NotReplayed>> {
        let records = self.records(ids).await.context("read the queue")?;
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

    async fn records(&self, ids: &[LetterId]) -> Result<HashMap<LetterId, Incoming>> {
        let (brokers, topic) = (&self.brokers, &self.topic);
        if let [one] = ids {
            return Ok(read_one(brokers, topic, *one)
                .await?
                .map(|record| (*one, record))
                .into_iter()
                .collect());
        }
        let _reading = self.reading.lock().await;
        let wanted: HashSet<LetterId> = ids.iter().copied().collect();
        let take = move |records: &mut HashMap<_, _>, record: Incoming| {
            let id = (record.partition, record.offset);
            if wanted.contains(&id) {
                records.insert(id, record);
            }
        };
        Ok(fold_back(brokers, topic, LOOKED_AT, HashMap::new(), take).await?)
    }
}
