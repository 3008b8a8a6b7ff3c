//! Reads a topic back, as far as it goes now, without a group: for whoever looks at it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{Brokers, Incoming};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The records of a topic; those of a partition in their order. It ends where the topic ended when this began.
pub async fn read_back(brokers: &Brokers, topic: &str) -> Result<Vec<Incoming>, KafkaError> {
    fold_back(brokers, topic, Vec::new(), Vec::push).await
}

/// The same, for whoever does not keep all of it: each record is taken into what there is, as it is read.
pub async fn fold_back<T: Send + 'static>(
    brokers: &Brokers,
    topic: &str,
    mut into: T,
    mut take: impl FnMut(&mut T, Incoming) + Send + 'static,
) -> Result<T, KafkaError> {
    let (brokers, topic) = (brokers.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        read(&brokers, &topic, &mut |record| take(&mut into, record))?;
        Ok(into)
    });
    read.await.map_err(|_| KafkaError::Canceled)?
}

/// The records at these places, (partition, offset), of those that are there.
pub async fn read_places(
    brokers: &Brokers,
    topic: &str,
    places: &[(i32, i64)],
) -> Result<HashMap<(i32, i64), Incoming>, KafkaError> {
    let (brokers, topic, wanted) =
        (brokers.clone(), topic.to_owned(), places.iter().copied().collect::<HashSet<_>>());
    let read = tokio::task::spawn_blocking(move || {
        let consumer = consumer(&brokers)?;
        let mut ranges = Vec::new();
        for partition in partitions(&consumer, &topic)? {
            let (low, high) = consumer.fetch_watermarks(&topic, partition, ANSWER_MAX)?;
            let there = wanted.iter().filter(|(of, offset)| *of == partition && (low..high).contains(offset));
            let offsets: Vec<_> = there.map(|(_, offset)| *offset).collect();
            if let (Some(first), Some(last)) = (offsets.iter().min(), offsets.iter().max()) {
                ranges.push((partition, *first, last + 1));
            }
        }
        let mut found = HashMap::new();
        pages(&consumer, &topic, &ranges, &mut |record| {
            let place = (record.partition, record.offset);
            if wanted.contains(&place) {
                found.insert(place, record);
            }
        })?;
        Ok(found)
    });
    read.await.map_err(|_| KafkaError::Canceled)?
}

fn consumer(brokers: &Brokers) -> Result<BaseConsumer, KafkaError> {
    let mut config = brokers.config();
    // It is a member of none; the client wants a name nevertheless.
    config
        .set("group.id", "souk-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        // Of what is ahead of whoever reads.
        .set("queued.max.messages.kbytes", "16384");
    config.create()
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let of_topic = metadata.topics().iter().filter(|found| found.name() == topic);
    Ok(of_topic.flat_map(|found| found.partitions()).map(|partition| partition.id()).collect())
}

fn read(brokers: &Brokers, topic: &str, take: &mut dyn FnMut(Incoming)) -> Result<(), KafkaError> {
    let consumer = consumer(brokers)?;
    let mut ranges = Vec::new();
    for partition in partitions(&consumer, topic)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
        if low < high {
            ranges.push((partition, low, high));
        }
    }
    pages(&consumer, topic, &ranges, take)
}

/// Reads (partition, from, to), without the last.
fn pages(
    consumer: &BaseConsumer,
    topic: &str,
    ranges: &[(i32, i64, i64)],
    take: &mut dyn FnMut(Incoming),
) -> Result<(), KafkaError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let mut wanted = TopicPartitionList::new();
    for (partition, from, _) in ranges {
        wanted.add_partition_offset(topic, *partition, Offset::Offset(*from))?;
    }
    consumer.assign(&wanted)?;
    let mut heard = Instant::now();
    loop {
        let position = consumer.position()?;
        // A transaction's marks, and what was compacted away, are passed without a record.
        let is_over = ranges.iter().all(|(partition, _, to)| {
            let element = position.find_partition(topic, *partition);
            matches!(element.map(|element| element.offset()), Some(Offset::Offset(at)) if at >= *to)
        });
        if is_over {
            return Ok(());
        }
        match consumer.poll(Duration::from_millis(100)).transpose()? {
            Some(message) => {
                let record = Incoming::from(&message);
                let of = ranges.iter().find(|(partition, _, _)| *partition == record.partition);
                if of.is_some_and(|(_, from, to)| (*from..*to).contains(&record.offset)) {
                    heard = Instant::now();
                    take(record);
                }
            }
            None if heard.elapsed() > ANSWER_MAX => {
                return Err(KafkaError::MessageConsumption(
                    rdkafka::types::RDKafkaErrorCode::OperationTimedOut,
                ));
            }
            None => {}
        }
    }
}
