//! Reads a topic back, as far as it goes now, without a group: for whoever looks at it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{Brokers, Incoming};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The newest records of a topic, about `limit` at most; those of a partition in their order. It ends where the topic
/// ended when this began.
pub async fn read_back(brokers: &Brokers, topic: &str, limit: u32) -> Result<Vec<Incoming>, KafkaError> {
    fold_back(brokers, topic, limit, Vec::new(), Vec::push).await
}

/// The same, for whoever does not keep all of it: each record is taken into what there is, as it is read.
pub async fn fold_back<T: Send + 'static>(
    brokers: &Brokers,
    topic: &str,
    limit: u32,
    mut into: T,
    mut take: impl FnMut(&mut T, Incoming) + Send + 'static,
) -> Result<T, KafkaError> {
    let (brokers, topic) = (brokers.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        read(&brokers, &topic, limit, &mut |record| take(&mut into, record))?;
        Ok(into)
    });
    read.await.map_err(|_| KafkaError::Canceled)?
}

/// One record; `None`: there is none at this place.
pub async fn read_one(
    brokers: &Brokers,
    topic: &str,
    (partition, offset): (i32, i64),
) -> Result<Option<Incoming>, KafkaError> {
    let (brokers, topic) = (brokers.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let consumer = consumer(&brokers)?;
        if !partitions(&consumer, &topic)?.contains(&partition) {
            return Ok(None);
        }
        let (low, high) = consumer.fetch_watermarks(&topic, partition, ANSWER_MAX)?;
        if !(low..high).contains(&offset) {
            return Ok(None);
        }
        let mut found = None;
        let wanted = [(partition, offset, offset + 1)];
        pages(&consumer, &topic, &wanted, &mut |record| found = Some(record))?;
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

fn read(
    brokers: &Brokers,
    topic: &str,
    limit: u32,
    take: &mut dyn FnMut(Incoming),
) -> Result<(), KafkaError> {
    let consumer = consumer(brokers)?;
    let partitions = partitions(&consumer, topic)?;
    let each = i64::from(limit).div_euclid(partitions.len().max(1) as i64).max(1);
    let mut ranges = Vec::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
        if low < high {
            ranges.push((partition, low.max(high - each), high));
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
                heard = Instant::now();
                let record = Incoming::from(&message);
                let of = ranges.iter().find(|(partition, _, _)| *partition == record.partition);
                if of.is_some_and(|(_, from, to)| (*from..*to).contains(&record.offset)) {
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
