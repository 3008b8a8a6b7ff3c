//! Records that no ordinary writer writes, and brokers take nevertheless.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use souk_actors::Clock;
use souk_persistence::relay::Message;
use souk_tests::kafka::Kafka;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// As no client library lets a header be named: not UTF-8.
const GARBLED: &[u8] = b"\xff\xfe";
const WRITTEN_MAX: Duration = Duration::from_secs(30);

/// Writes records that are larger than a producer sends by default. Compressed they are small enough for brokers.
pub async fn write_large(kafka: &Kafka, records: Vec<Message>) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.addresses);
    config.set("message.max.bytes", "10000000").set("compression.type", "lz4");
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = config.create()?;
        for Message { topic, key, headers, body, .. } in &records {
            let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let record = BaseRecord::to(topic).key(key).payload(body).headers(headers);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(WRITTEN_MAX)?)
    })
    .await?
}

/// Writes a record as a transaction, whose mark stays behind it on the topic and is no record.
pub async fn write_in_a_transaction(kafka: &Kafka, topic: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.addresses).set("transactional.id", topic);
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(WRITTEN_MAX)?;
        producer.begin_transaction()?;
        let record = BaseRecord::<(), str>::to(&topic).payload("{}");
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.commit_transaction(WRITTEN_MAX)?)
    })
    .await?
}

/// Writes a record to the first partition of its topic with one more header, whose name is garbled: in the bytes of
/// Kafka's protocol, Produce version 3, for there is no other way.
pub async fn write_garbled(kafka: &Kafka, record: &Message) -> Result<()> {
    let mut broker = TcpStream::connect(&kafka.addresses).await?;
    broker.write_all(&sized(&produce(record))).await?;
    let mut answer = vec![0; usize::try_from(broker.read_i32().await?)?];
    broker.read_exact(&mut answer).await?;
    // Behind the correlation, two counts, the topic and the partition.
    let error = answer.get(4 + 4 + 2 + record.topic.len() + 4 + 4..).and_then(|rest| rest.first_chunk());
    let error = i16::from_be_bytes(*error.context("an answer")?);
    ensure!(error == 0, "the broker answers {error}");
    Ok(())
}

fn produce(record: &Message) -> Vec<u8> {
    // Produce, version 3, a correlation, no client's name.
    let mut request = [0_i16, 3, 0, 0, -1].map(i16::to_be_bytes).concat();
    // No transaction, every replica must have it, and 10 s.
    request.extend([-1_i16, -1].map(i16::to_be_bytes).concat());
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(i16::try_from(record.topic.len()).unwrap_or(i16::MAX).to_be_bytes());
    request.extend(record.topic.as_bytes());
    request.extend([1_i32, 0].map(i32::to_be_bytes).concat());
    request.extend(sized(&batch(record)));
    request
}

/// A batch of one record, format 2.
fn batch(Message { key, headers, body, .. }: &Message) -> Vec<u8> {
    // No attributes, and its distances from the batch's time and offset.
    let mut record = vec![0, 0, 0];
    record.extend([measured(key), measured(body), varint(headers.len() + 1)].concat());
    for (name, value) in headers {
        record.extend([measured(name.as_bytes()), measured(value)].concat());
    }
    record.extend([measured(GARBLED), measured(b"odd")].concat());
    let now = Clock::System.now().micros() / 1_000;
    // No attributes, its last offset, its first and last moment, no producer, one record.
    let mut summed = [[0; 6].as_slice(), &now.to_be_bytes(), &now.to_be_bytes(), &[0xff; 14]].concat();
    summed.extend([1_i32.to_be_bytes().as_slice(), &measured(&record)].concat());
    let mut checked = [(-1_i32).to_be_bytes().as_slice(), &[2], &crc32c(&summed).to_be_bytes()].concat();
    checked.extend(summed);
    [[0; 8].as_slice(), &sized(&checked)].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes().as_slice(), bytes].concat()
}

fn measured(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len()).as_slice(), bytes].concat()
}

/// Zigzag, seven bits at a time.
fn varint(number: usize) -> Vec<u8> {
    let (mut rest, mut bytes) = (number * 2, Vec::new());
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// Castagnoli's.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1)))
    })
}

#[test]
fn the_sum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
