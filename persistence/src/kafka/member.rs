//! A member of a group: how it joins, which partitions are its own, and whether there is something to read.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Partition;
use rdkafka::{ClientContext, Statistics};

use super::ConsumerSettings;

/// What a client is told by its own threads.
#[derive(Default)]
pub(super) struct Context {
    /// Partitions that are others' now.
    pub revoked: Mutex<Vec<(String, i32)>>,
    pub has_assigned: AtomicBool,
    /// Records that are there and were not read.
    pub behind: AtomicI64,
    pub brokers_up: AtomicI64,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let up =
            statistics.brokers.values().filter(|broker| broker.nodeid >= 0 && broker.state == "UP").count();
        self.brokers_up.store(i64::try_from(up).unwrap_or(0), Ordering::Release);
        let mut all = 0;
        for (name, topic) in &statistics.topics {
            let own = || topic.partitions.values().filter(|partition| partition.desired);
            let lag: i64 = own().map(|partition| partition.consumer_lag.max(0)).sum();
            metrics::gauge!("souk_kafka_consumer_lag", "topic" => name.clone()).set(lag as f64);
            all += own().map(behind).sum::<i64>();
        }
        self.behind.store(all, Ordering::Release);
    }
}

/// How many records of a partition are there and were not read. Not what its group has yet to commit: a transaction's mark
/// at its end is committed by nobody, for it is no record; where it is read from next is behind the mark.
fn behind(partition: &Partition) -> i64 {
    match partition.next_offset {
        // It has yet to be read from.
        ..0 => partition.consumer_lag.max(0),
        next => (partition.ls_offset - next).max(0) + partition.fetchq_cnt,
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => {
                let gone =
                    partitions.elements().into_iter().map(|one| (one.topic().to_owned(), one.partition()));
                self.revoked.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
            }
            Rebalance::Assign(_) => self.has_assigned.store(true, Ordering::Release),
            Rebalance::Error(error) => tracing::warn!(%error, "partitions cannot be shared out"),
        }
    }
}

/// Joins.
pub(super) fn connect(settings: &ConsumerSettings) -> Result<BaseConsumer<Context>, KafkaError> {
    let mut config = settings.brokers.config();
    config
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        .set("auto.offset.reset", "earliest")
        // What has had its effect is told every second, and when partitions go to others.
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("queued.max.messages.kbytes", "16384")
        .set("statistics.interval.ms", "5000");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::default())?;
    consumer.subscribe(&[&settings.topic])?;
    Ok(consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_up_to(next_offset: i64, ls_offset: i64, fetched: i64, consumer_lag: i64) -> Partition {
        Partition { next_offset, ls_offset, fetchq_cnt: fetched, consumer_lag, ..Partition::default() }
    }

    #[test]
    fn behind_is_whoever_has_records_to_read() {
        assert_eq!(behind(&read_up_to(10, 10, 0, 0)), 0);
        assert_eq!(behind(&read_up_to(10, 12, 0, 2)), 2);
        assert_eq!(behind(&read_up_to(12, 12, 2, 2)), 2, "they are here and were not heard");
        assert_eq!(behind(&read_up_to(11, 11, 0, 1)), 0, "a transaction's mark is at the end");
        assert_eq!(behind(&read_up_to(-1001, 12, 0, 5)), 5, "it was not read from yet");
        assert_eq!(behind(&read_up_to(-1001, -1001, 0, -1)), 0, "nothing is known");
    }
}
