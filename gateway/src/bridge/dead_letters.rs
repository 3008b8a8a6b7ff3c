//! Records that cannot be processed: put aside on `dead-letter-queue` with their cause ([`letter`]), listed
//! ([`listing`]), and put back ([`replay`]).
//!
//! A letter is the record as it came, key, headers and body, with headers of our own behind its own; of one that is very
//! large it is the beginning, and says so. Its name is its place in the queue, `partition/offset`. That it was put back is
//! written down as one more record of the queue.

pub mod listing;
pub mod replay;

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use souk_actors::Timestamp;
use souk_persistence::kafka::Incoming;
use souk_persistence::relay::Message;
use souk_proto::topic::Topic;

use crate::problem::Problem;

/// What every header of ours begins with.
const OURS: &str = "souk-dead-letter-";
const DETAIL_MAX: usize = 500;

/// Why a record cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Stable.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

impl Cause {
    /// A cause.
    pub fn new(code: &'static str, detail: String) -> Self {
        Self { code, detail: detail.chars().take(DETAIL_MAX).collect() }
    }
}

impl From<Problem> for Cause {
    fn from(problem: Problem) -> Self {
        Self::new(problem.code().row().0, problem.told())
    }
}

/// How much of a record a letter has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    key: usize,
    headers: usize,
    body: usize,
    /// Of a body that does not fit.
    body_kept: usize,
}

impl Room {
    /// Far less than brokers take by default, so that a letter of ours fits though the record hardly did.
    pub const USUAL: Self = Self { key: 4 * 1024, headers: 64 * 1024, body: 256 * 1024, body_kept: 4 * 1024 };
    /// Only where it was and why it is here.
    pub const LEAST: Self = Self { key: 0, headers: 0, body: 0, body_kept: 0 };
}

/// The letter of a record.
pub fn letter(prefix: &str, record: &Incoming, cause: &Cause, now: Timestamp, room: Room) -> Message {
    let mut cut = Vec::new();
    let key = record.key.as_deref().unwrap_or_default();
    let key = if key.len() > room.key {
        cut.push("key");
        &[]
    } else {
        key
    };
    let (mut headers, are_whole) = fitting(record, room.headers);
    if !are_whole {
        cut.push("headers");
    }
    let body = match record.body.len() > room.body {
        true => {
            cut.push("body");
            &record.body[..room.body_kept]
        }
        false => record.body.as_slice(),
    };
    let mut ours = vec![
        ("topic", record.topic.clone()),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("code", cause.code.to_owned()),
        ("detail", cause.detail.clone()),
        ("at", now.to_string()),
    ];
    if !cut.is_empty() {
        let sha256: String = Sha256::digest(&record.body).iter().map(|byte| format!("{byte:02x}")).collect();
        ours.extend([
            ("cut", cut.join(" ")),
            ("body-bytes", record.body.len().to_string()),
            ("body-sha256", sha256),
        ]);
    }
    headers.extend(
        ours.into_iter().map(|(name, value)| (Cow::Owned(format!("{OURS}{name}")), value.into_bytes())),
    );
    Message {
        topic: format!("{prefix}{}", Topic::DeadLetterQueue.name()),
        key: key.to_vec(),
        headers,
        body: body.to_vec(),
        at_ms: now.micros().div_euclid(1_000),
    }
}

/// A record's own headers, as far as there is room, and whether that is all of them.
fn fitting(record: &Incoming, mut room: usize) -> (Vec<(Cow<'static, str>, Vec<u8>)>, bool) {
    let (mut fitting, mut are_whole) = (Vec::new(), !record.is_garbled);
    for (name, value) in record.headers.iter().filter(|(name, _)| !name.starts_with(OURS)) {
        // Their lengths take room too.
        match room.checked_sub(name.len() + value.len() + 10) {
            Some(left) => {
                room = left;
                fitting.push((Cow::Owned(name.clone()), value.clone()));
            }
            None => are_whole = false,
        }
    }
    (fitting, are_whole)
}

fn ours<'a>(record: &'a Incoming, name: &str) -> Option<&'a str> {
    record.header(&format!("{OURS}{name}"))
}

/// Names a letter: partition and offset.
pub type LetterId = (i32, i64);

/// Reads `partition/offset`.
pub fn letter_id(text: &str) -> Option<LetterId> {
    let (partition, offset) = text.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::listing::shown;
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    pub(super) fn header(name: &str, value: &str) -> (String, Vec<u8>) {
        (name.to_owned(), value.as_bytes().to_vec())
    }

    pub(super) fn record() -> Incoming {
        Incoming {
            topic: "shop.purchase".to_owned(),
            partition: 3,
            offset: 14,
            key: Some(b"k".to_vec()),
            headers: vec![
                header("ce_source", "shopfront"),
                header("ce_id", "42"),
                header("souk-signature", "v1=bad"),
            ],
            body: b"{".to_vec(),
            is_garbled: false,
        }
    }

    /// As it stands in the queue.
    pub(super) fn queued(message: &Message, offset: i64) -> Incoming {
        Incoming {
            topic: message.topic.clone(),
            offset,
            key: Some(message.key.clone()),
            headers: message.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
            body: message.body.clone(),
            ..Incoming::default()
        }
    }

    /// The letter of a record, in the queue.
    pub(super) fn dead(record: &Incoming, code: &'static str, offset: i64) -> Incoming {
        let cause = Cause::new(code, "for a reason".to_owned());
        queued(&letter("shop.", record, &cause, Timestamp::default(), Room::USUAL), offset)
    }

    pub(super) fn settings() -> souk_config::Kafka {
        let purchase_signers = [("shopfront".to_owned(), KEY.to_owned().into())].into();
        souk_config::Kafka { prefix: "shop.".to_owned(), purchase_signers, ..Default::default() }
    }

    #[test]
    fn a_letter_is_the_record_as_it_came_with_its_cause() {
        let dead = dead(&record(), "invalid_body", 7);
        assert_eq!((dead.topic.as_str(), dead.body.as_slice()), ("shop.dead-letter-queue", b"{".as_slice()));
        assert_eq!(dead.key, record().key);
        let shown = shown(&dead).expect("is a letter");
        assert_eq!(shown.letter.id, "0/7");
        assert_eq!((shown.letter.place.as_str(), shown.letter.code.as_str()), ("3/14", "invalid_body"));
        assert_eq!((shown.letter.record_id.as_deref(), shown.letter.cut), (Some("42"), None));
        assert_eq!(shown.headers.len(), 3, "ours are not among them");
    }

    #[test]
    fn of_a_record_that_is_too_large_a_letter_is_the_beginning_and_says_so() {
        let mut large = Incoming { body: vec![b'x'; 1_100_000], ..record() };
        let dead_body = dead(&large, "body_too_large", 0);
        assert_eq!(ours(&dead_body, "cut"), Some("body"));
        assert_eq!(ours(&dead_body, "body-bytes"), Some("1100000"));
        assert_eq!(ours(&dead_body, "body-sha256").map(str::len), Some(64));
        assert_eq!(dead_body.header("ce_id"), Some("42"));
        large.key = Some(vec![0; 1_000_000]);
        large.headers.insert(2, header("padding", &"x".repeat(1_000_000)));
        let dead = dead(&large, "body_too_large", 0);
        assert_eq!(ours(&dead, "cut"), Some("key headers body"));
        assert_eq!(dead.headers.len(), 3 + 9, "what fits is there");
        let bytes: usize = dead.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes + dead.body.len() < 10_000);
    }

    #[test]
    fn the_least_letter_says_where_the_record_was_and_why_it_is_here() {
        let cause = Cause::new("invalid_body", String::new());
        let least = queued(&letter("", &record(), &cause, Timestamp::default(), Room::LEAST), 0);
        assert_eq!((ours(&least, "offset"), ours(&least, "code")), (Some("14"), Some("invalid_body")));
        assert_eq!((least.body.len(), least.headers.len()), (0, 9));
    }

    #[test]
    fn a_record_with_a_garbled_header_is_not_whole() {
        let garbled = Incoming { is_garbled: true, ..record() };
        assert_eq!(ours(&dead(&garbled, "invalid_header", 0), "cut"), Some("headers"));
    }

    #[test]
    fn a_letter_that_dies_again_tells_its_last_cause() {
        let again = dead(&dead(&record(), "invalid_body", 0), "unsigned", 1);
        assert_eq!(shown(&again).expect("is a letter").letter.code, "unsigned");
    }

    #[test]
    fn what_is_no_id_names_no_letter() {
        assert_eq!(letter_id("3/14"), Some((3, 14)));
        assert_eq!((letter_id("3"), letter_id("3/14/1"), letter_id("a/b")), (None, None, None));
    }
}
