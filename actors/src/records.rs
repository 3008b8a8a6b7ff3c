//! What the world is told of what happened: records for Kafka, a pure function of the rows of one stream.
//!
//! The journal is the outbox, so nothing is decided here and nothing stored: the same rows give the same records, however
//! often they are published. A record's id says which event it is of, (stream, version, index), and what it tells of it.

mod account;
mod order;

use serde::Serialize;
use souk_persistence::Timestamp;
use souk_persistence::journal::StoredRow;
use souk_proto::topic::Topic;
use uuid::Uuid;

use crate::aggregate::{Aggregate, Kind};

/// A record, before it has a place on its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it goes.
    pub topic: Topic,
    /// Orders it among others: the stream that it tells of.
    pub key: Uuid,
    /// Names it, always the same: whoever has seen it has seen it.
    pub id: String,
    /// When what it tells happened.
    pub at: Timestamp,
    /// The W3C `traceparent` of whoever began it; `None`: nobody said.
    pub trace: Option<String>,
    /// JSON.
    pub body: String,
}

/// A row cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("row {version} of {stream} cannot be read")]
pub struct Unreadable {
    /// Whose.
    pub stream: Uuid,
    /// Its number.
    pub version: i32,
    source: serde_json::Error,
}

/// What there is to tell of the rows behind `after` of a stream of this kind. `rows`: all of it from the first on, without
/// a gap, up to where it is to be told.
pub fn records(kind: Kind, stream: Uuid, rows: &[StoredRow], after: i32) -> Result<Vec<Record>, Unreadable> {
    match kind {
        Kind::Order => told(stream, rows, after, order::known, order::tell, order::trace),
        Kind::Account => told(stream, rows, after, |_| (), account::tell, |_| None),
        // What these decide, the order's stream says.
        Kind::Session | Kind::Email | Kind::Category | Kind::Product | Kind::Payment => Ok(Vec::new()),
    }
}

/// Whether rows of this kind are told at all.
pub fn are_told(kind: Kind) -> bool {
    match kind {
        Kind::Order | Kind::Account => true,
        Kind::Session | Kind::Email | Kind::Category | Kind::Product | Kind::Payment => false,
    }
}

/// One thing to tell of an event.
struct Told {
    topic: Topic,
    /// Tells it from what else is told of the event.
    what: String,
    body: String,
}

impl Told {
    fn new(topic: Topic, body: &impl Serialize) -> Self {
        Self::named(topic, topic.name().to_owned(), body)
    }

    fn named(topic: Topic, what: String, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("messages have string keys and no failing parts");
        Self { topic, what, body }
    }
}

/// What is told of an event, which led from what was known before to a state.
type Tell<A, K> = fn(Uuid, K, &<A as Aggregate>::Event, &A) -> Vec<Told>;

fn told<A: Aggregate, K>(
    stream: Uuid,
    rows: &[StoredRow],
    after: i32,
    known: fn(&A) -> K,
    tell: Tell<A, K>,
    trace: fn(&A) -> Option<String>,
) -> Result<Vec<Record>, Unreadable> {
    let mut records = Vec::new();
    let mut state = A::default();
    for row in rows {
        let unreadable = |source| Unreadable { stream, version: row.version, source };
        let events: Vec<(i64, A::Event)> = serde_json::from_str(&row.events).map_err(unreadable)?;
        for (index, (offset, event)) in events.into_iter().enumerate() {
            let at = Timestamp::from_micros(row.at.micros().saturating_add(offset));
            let before = known(&state);
            state.apply(at, &event);
            if row.version <= after {
                continue;
            }
            records.extend(tell(stream, before, &event, &state).into_iter().map(|told| Record {
                topic: told.topic,
                key: stream,
                id: format!("{stream}/{}/{index}/{}", row.version, told.what),
                at,
                trace: trace(&state),
                body: told.body,
            }));
        }
    }
    Ok(records)
}

fn timestamp(at: Timestamp) -> souk_proto::Timestamp {
    let (seconds, micros) = (at.micros().div_euclid(1_000_000), at.micros().rem_euclid(1_000_000));
    souk_proto::Timestamp { seconds, nanos: i32::try_from(micros).unwrap_or_default() * 1_000 }
}
