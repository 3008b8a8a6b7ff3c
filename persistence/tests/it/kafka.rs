//! What is written to Kafka arrives, in the order of each key, and what is read is heard, whatever brokers answer: against
//! librdkafka's own brokers, which do what a test says.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use souk_persistence::kafka::{
    Brokers, ConsumerSettings, Handler, Incoming, KafkaConsumer, KafkaPublisher, is_too_large, read_back,
};
use souk_persistence::relay::{Message, Publisher as _};
use tokio::time::timeout;

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "said";
const PARTITIONS: i32 = 4;
const KEYS: usize = 10;
/// Longer than librdkafka waits before it connects again.
const IN_TIME: Duration = Duration::from_secs(30);
/// Long enough for whoever is connected to send what it has.
const A_MOMENT: Duration = Duration::from_secs(3);

fn mock(brokers: i32) -> (Mock, KafkaPublisher) {
    let mock = Mock::new(brokers).expect("brokers");
    mock.create_topic(TOPIC, PARTITIONS, brokers).expect("a topic");
    for partition in 0..PARTITIONS {
        mock.partition_leader(TOPIC, partition, Some(1 + partition % brokers)).expect("a leader");
    }
    let publisher = KafkaPublisher::new(Brokers::plain(mock.bootstrap_servers()));
    (mock, publisher)
}

fn message(key: &str, number: usize) -> Message {
    Message {
        topic: TOPIC.to_owned(),
        key: key.as_bytes().to_vec(),
        headers: vec![(Cow::Borrowed("ce_id"), format!("{key}/{number}").into_bytes())],
        body: number.to_string().into_bytes(),
        at_ms: 0,
    }
}

/// So many of each key, from the number `from` on.
fn messages(from: usize, count: usize) -> Vec<Message> {
    let numbers = from..from + count;
    numbers.flat_map(|number| (0..KEYS).map(move |key| message(&format!("key {key}"), number))).collect()
}

/// As a relay does it: until it is delivered. How often it was not.
async fn deliver(publisher: &KafkaPublisher, messages: &[Message]) -> usize {
    let delivered = async {
        let mut failed = 0;
        while publisher.publish(messages.to_vec()).await.is_err() {
            failed += 1;
        }
        failed
    };
    timeout(IN_TIME, delivered).await.expect("is delivered in time")
}

/// The numbers that are there of each key, in the order in which each was there first.
async fn heard(mock: &Mock) -> HashMap<String, Vec<usize>> {
    let brokers = Brokers::plain(mock.bootstrap_servers());
    let records = read_back(&brokers, TOPIC).await.expect("reads");
    let (mut first, mut seen) = (HashMap::<String, Vec<usize>>::new(), HashSet::new());
    for record in records {
        if seen.insert(record.header("ce_id").expect("an id").to_owned()) {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
            let numbers = first.entry(text(record.key.expect("a key"))).or_default();
            numbers.push(text(record.body).parse().expect("a number"));
        }
    }
    first
}

/// Everything up to `count` is there of every key, in order.
async fn all_is_heard(mock: &Mock, count: usize) {
    let first = heard(mock).await;
    assert_eq!(first.len(), KEYS);
    for (key, numbers) in first {
        let wrong = numbers.iter().enumerate().find(|(place, number)| place != *number);
        assert_eq!((numbers.len(), wrong), (count, None), "{key}: a number is not in its place");
    }
}

#[tokio::test]
async fn what_a_broker_refuses_for_now_is_delivered_later_and_in_order() {
    let (mock, publisher) = mock(3);
    deliver(&publisher, &messages(0, 10)).await;
    let for_now = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        // The connection breaks.
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    for round in 1..=5 {
        mock.request_errors(RDKafkaApiKey::Produce, &for_now);
        assert_eq!(deliver(&publisher, &messages(round * 10, 10)).await, 0, "nobody above is told of it");
    }
    all_is_heard(&mock, 60).await;
}

#[tokio::test]
async fn brokers_that_are_down_are_waited_for() {
    let (mock, publisher) = mock(3);
    deliver(&publisher, &messages(0, 10)).await;
    for (round, broker) in [1, -1, 2, -1].into_iter().enumerate() {
        mock.broker_down(broker).expect("goes down");
        let next = messages((round + 1) * 10, 10);
        let mut delivering = Box::pin(deliver(&publisher, &next));
        assert!(timeout(Duration::from_secs(1), &mut delivering).await.is_err(), "who has taken it?");
        mock.broker_up(broker).expect("comes up");
        assert_eq!(delivering.await, 0);
    }
    all_is_heard(&mock, 50).await;
}

#[tokio::test]
async fn a_long_way_to_the_brokers_costs_time_and_nothing_else() {
    let (mock, publisher) = mock(3);
    mock.broker_round_trip_time(-1, Duration::from_millis(500)).expect("is far");
    for round in 0..5 {
        assert_eq!(deliver(&publisher, &messages(round * 100, 100)).await, 0);
    }
    mock.broker_round_trip_time(-1, Duration::ZERO).expect("is near");
    all_is_heard(&mock, 500).await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_an_error_until_it_is_allowed() {
    let (mock, publisher) = mock(1);
    deliver(&publisher, &messages(0, 10)).await;
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 10_000];
    mock.request_errors(RDKafkaApiKey::Produce, &refused);
    let next = messages(10, 10);
    for _ in 0..3 {
        let refused = timeout(IN_TIME, publisher.publish(next.clone())).await.expect("it is said");
        let why = refused.expect_err("it is refused").0.to_string();
        assert!(why.contains("authorization"), "{why}");
    }
    mock.clear_request_errors(RDKafkaApiKey::Produce);
    deliver(&publisher, &next).await;
    all_is_heard(&mock, 20).await;
}

#[tokio::test]
async fn what_is_too_large_is_known_to_be_and_others_are_delivered() {
    let (mock, publisher) = mock(1);
    let large = Message { body: vec![b'x'; 1_000_001], ..message("key 0", 1_000) };
    let refused = timeout(IN_TIME, publisher.publish(vec![large])).await.expect("it is said");
    assert!(is_too_large(&refused.expect_err("no client sends it")));
    deliver(&publisher, &messages(0, 1)).await;
    // Brokers that take less than others.
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let refused = timeout(IN_TIME, publisher.publish(vec![message("key 0", 1_001)])).await;
    let refused = refused.expect("it is said").expect_err("the broker does not take it");
    assert!(is_too_large(&refused), "{refused:?}");
    deliver(&publisher, &messages(1, 1)).await;
    all_is_heard(&mock, 2).await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_delivered_later() {
    let (mock, publisher) = mock(1);
    deliver(&publisher, &messages(0, 10)).await;
    mock.broker_down(-1).expect("goes down");
    // Nothing of it can be on its way: the broker is not there.
    let dropped = timeout(Duration::from_millis(500), publisher.publish(messages(1_000, 10))).await;
    assert!(dropped.is_err(), "who has taken it?");
    mock.broker_up(-1).expect("comes up");
    deliver(&publisher, &messages(10, 10)).await;
    // Whoever had it would have connected again by now.
    tokio::time::sleep(A_MOMENT).await;
    all_is_heard(&mock, 20).await;
}

#[tokio::test]
async fn of_two_who_publish_one_that_gives_up_does_not_mix_up_what_the_other_says() {
    let (mock, publisher) = mock(1);
    deliver(&publisher, &messages(0, 1)).await;
    mock.broker_down(-1).expect("goes down");
    // More than a client takes at once: some of it is given only when there is room.
    let many = messages(1, 12_000);
    let mut delivering = Box::pin(deliver(&publisher, &many));
    assert!(timeout(Duration::from_secs(1), &mut delivering).await.is_err(), "who has taken it?");
    let given_up = timeout(Duration::from_millis(10), publisher.publish(vec![message("key 0", 0)])).await;
    assert!(given_up.is_err(), "who has taken it?");
    assert!(timeout(Duration::from_millis(200), &mut delivering).await.is_err(), "who has taken it?");
    mock.broker_up(-1).expect("comes up");
    assert!(delivering.await > 0, "it was taken away with what was given up");
    all_is_heard(&mock, 12_001).await;
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < IN_TIME * 2, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_consumer_that_is_behind_and_hears_nothing_is_made_anew() {
    let (mock, publisher) = mock(1);
    let metrics = PrometheusBuilder::new().install_recorder().expect("the only one of this process");
    let restarts = || {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix("souk_kafka_consumer_restarts_total "));
        line.expect("is counted").parse::<u64>().expect("a count")
    };
    let heard: Arc<Mutex<HashSet<String>>> = Arc::default();
    let again = Arc::new(AtomicUsize::new(0));
    let hears: Handler = {
        let (heard, again) = (Arc::clone(&heard), Arc::clone(&again));
        Arc::new(move |record: Incoming| {
            let id = record.header("ce_id").expect("an id").to_owned();
            let is_new = heard.lock().expect("nobody panics").insert(id);
            again.fetch_add(usize::from(!is_new), Ordering::AcqRel);
            async {}.boxed()
        })
    };
    let settings = ConsumerSettings {
        brokers: Brokers::plain(mock.bootstrap_servers()),
        group: "listeners".to_owned(),
        topic: TOPIC.to_owned(),
        in_flight_max: 50,
        silence: Duration::from_secs(2),
    };
    let consumer = KafkaConsumer::start(settings, hears);
    let has_heard = |count: usize| heard.lock().expect("nobody panics").len() == count * KEYS;
    deliver(&publisher, &messages(0, 10)).await;
    until("what is there is heard", || has_heard(10)).await;
    assert_eq!(restarts(), 0);

    // There is more, and the broker says so, and does not hand it out.
    mock.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 2_000]);
    deliver(&publisher, &messages(10, 10)).await;
    until("it is made anew", || restarts() > 0).await;
    assert!(has_heard(10));
    mock.clear_request_errors(RDKafkaApiKey::Fetch);
    until("it hears again", || has_heard(20)).await;
    assert!(consumer.stop(IN_TIME).await);
    assert_eq!(again.load(Ordering::Acquire), 0, "it goes on where it was");
}
