//! Records that cannot be processed: put aside on `dead-letter-queue` with their cause, listed, and put back.
//!
//! A letter is the record as it came, key, headers and body, with headers of our own behind its own. Its name is its place
//! in the queue, `partition/offset`. That it was put back is written down as one more record of the queue.

use std::borrow::Cow;

use serde::Serialize;
use souk_actors::Timestamp;
use souk_persistence::kafka::Incoming;
use souk_persistence::relay::Message;
use souk_proto::topic::Topic;
use utoipa::ToSchema;

use super::trust::{SIGNATURE, Trust};
use crate::problem::Problem;

/// What every header of ours begins with.
const OURS: &str = "souk-dead-letter-";
/// A body is shown up to here.
const SHOWN_MAX: usize = 4_096;
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

/// The letter of a record.
pub fn letter(prefix: &str, record: &Incoming, cause: &Cause, now: Timestamp) -> Message {
    let own = record.headers.iter().filter(|(name, _)| !name.starts_with(OURS));
    let own = own.map(|(name, value)| (Cow::Owned(name.clone()), value.clone()));
    let ours = [
        ("topic", record.topic.clone()),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("code", cause.code.to_owned()),
        ("detail", cause.detail.clone()),
        ("at", now.to_string()),
    ];
    let ours = ours.map(|(name, value)| (Cow::Owned(format!("{OURS}{name}")), value.into_bytes()));
    Message {
        topic: format!("{prefix}{}", Topic::DeadLetterQueue.name()),
        key: record.key.clone().unwrap_or_default(),
        headers: own.chain(ours).collect(),
        body: record.body.clone(),
        at_ms: now.micros().div_euclid(1_000),
    }
}

/// A letter as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Its place in the queue: `partition/offset`.
    pub id: String,
    /// The topic that it came from.
    pub topic: String,
    /// Its place there.
    pub place: String,
    /// Why it could not be processed, a stable code.
    pub code: String,
    /// Why, for people.
    pub detail: String,
    /// When it was put aside.
    pub at: String,
    /// `ce_source` and `ce_id`, where they can be read.
    pub source: Option<String>,
    /// See above.
    pub record_id: Option<String>,
    /// When it was last put back on its topic; null: never.
    pub replayed_at: Option<String>,
    /// Its headers, without ours.
    pub headers: Vec<(String, String)>,
    /// Its body, as far as it is text, at most 4096 bytes.
    pub body: String,
}

/// The letters of a queue, oldest first, by what is read from all of it in any order.
pub fn letters(queue: &[Incoming]) -> Vec<DeadLetter> {
    let mut letters: Vec<_> = queue.iter().filter_map(|record| Some((record, shown(record)?))).collect();
    for record in queue {
        let (Some(of), Some(at)) = (ours(record, "replayed"), ours(record, "at")) else { continue };
        if let Some((_, letter)) = letters.iter_mut().find(|(_, letter)| letter.id == of) {
            letter.replayed_at = letter.replayed_at.take().max(Some(at.to_owned()));
        }
    }
    letters.sort_by(|(one, a), (other, b)| {
        (&a.at, one.partition, one.offset).cmp(&(&b.at, other.partition, other.offset))
    });
    letters.into_iter().map(|(_, letter)| letter).collect()
}

fn ours<'a>(record: &'a Incoming, name: &str) -> Option<&'a str> {
    record.header(&format!("{OURS}{name}"))
}

fn id(record: &Incoming) -> String {
    format!("{}/{}", record.partition, record.offset)
}

fn shown(record: &Incoming) -> Option<DeadLetter> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned();
    Some(DeadLetter {
        id: id(record),
        topic: ours(record, "topic")?.to_owned(),
        place: format!("{}/{}", ours(record, "partition")?, ours(record, "offset")?),
        code: ours(record, "code")?.to_owned(),
        detail: ours(record, "detail")?.to_owned(),
        at: ours(record, "at")?.to_owned(),
        source: record.header("ce_source").map(str::to_owned),
        record_id: record.header("ce_id").map(str::to_owned),
        replayed_at: None,
        headers: record
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with(OURS))
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        body: text(&record.body),
    })
}

/// A letter back on its topic, perhaps with another body, and the mark that it is. A record that was signed is signed
/// again, where its source's key is known: whoever replays it answers for it.
pub fn replay(
    prefix: &str,
    record: &Incoming,
    body: Option<Vec<u8>>,
    trust: &Trust,
    now: Timestamp,
) -> Option<[Message; 2]> {
    let topic = ours(record, "topic")?.to_owned();
    let body = body.unwrap_or_else(|| record.body.clone());
    let own = record.headers.iter().filter(|(name, _)| !name.starts_with(OURS) && name != SIGNATURE);
    let mut headers: Vec<_> = own.map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect();
    let again = record.header("ce_source").zip(record.header("ce_id"));
    let signed = again.and_then(|(source, id)| trust.sign(source, id, &body));
    let kept = record.header(SIGNATURE).filter(|_| body == record.body).map(str::to_owned);
    if let Some(signature) = signed.or(kept) {
        headers.push((Cow::Borrowed(SIGNATURE), signature.into_bytes()));
    }
    let key = record.key.clone().unwrap_or_default();
    let at_ms = now.micros().div_euclid(1_000);
    let mark = Message {
        topic: format!("{prefix}{}", Topic::DeadLetterQueue.name()),
        key: key.clone(),
        headers: vec![
            (Cow::Owned(format!("{OURS}replayed")), id(record).into_bytes()),
            (Cow::Owned(format!("{OURS}at")), now.to_string().into_bytes()),
        ],
        body: Vec::new(),
        at_ms,
    };
    Some([Message { topic, key, headers, body, at_ms }, mark])
}

#[cfg(test)]
mod tests {
    use souk_config::Kafka;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn record() -> Incoming {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
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
        }
    }

    /// As it stands in the queue.
    fn queued(message: &Message, offset: i64) -> Incoming {
        Incoming {
            topic: message.topic.clone(),
            partition: 0,
            offset,
            key: Some(message.key.clone()),
            headers: message.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
            body: message.body.clone(),
        }
    }

    fn trust() -> Trust {
        let signers = [("shopfront".to_owned(), KEY.to_owned().into())].into();
        Trust::new(&Kafka { signers, ..Kafka::default() })
    }

    #[test]
    fn a_letter_is_the_record_as_it_came_with_its_cause() {
        let cause = Cause::new("invalid_body", "it ends too early".to_owned());
        let letter = letter("shop.", &record(), &cause, Timestamp::default());
        assert_eq!(
            (letter.topic.as_str(), letter.body.as_slice()),
            ("shop.dead-letter-queue", b"{".as_slice())
        );
        let shown = &letters(&[queued(&letter, 7)])[0];
        assert_eq!(
            (shown.id.as_str(), shown.place.as_str(), shown.code.as_str()),
            ("0/7", "3/14", "invalid_body")
        );
        assert_eq!(shown.record_id.as_deref(), Some("42"));
        assert_eq!(shown.headers.len(), 3, "ours are not among them");
        assert_eq!(shown.replayed_at, None);
    }

    #[test]
    fn what_was_put_back_is_on_its_topic_and_known_to_be() {
        let cause = Cause::new("bad_signature", "forged".to_owned());
        let first = queued(&letter("shop.", &record(), &cause, Timestamp::default()), 7);
        let [back, mark] = replay("shop.", &first, Some(b"{}".to_vec()), &trust(), Timestamp::default())
            .expect("is a letter");
        assert_eq!((back.topic.as_str(), back.body.as_slice()), ("shop.purchase", b"{}".as_slice()));
        let again = queued(&back, 0);
        assert!(trust().judge(Topic::Purchase, &again).is_ok(), "it is signed again");
        assert!(!again.headers.iter().any(|(name, _)| name.starts_with(OURS)));
        let letters = letters(&[queued(&mark, 8), first]);
        assert_eq!(letters.len(), 1, "the mark is none");
        assert!(letters[0].replayed_at.is_some());
    }

    #[test]
    fn letters_and_marks_have_the_headers_that_the_contract_says() {
        let contract = souk_proto::asyncapi("1.2.3", "", 10);
        let letter = letter("", &record(), &Cause::new("unsigned", String::new()), Timestamp::default());
        let [_, mark] =
            replay("", &queued(&letter, 7), None, &trust(), Timestamp::default()).expect("is a letter");
        for (message, name) in [(letter, "DeadLetter"), (mark, "DeadLetterReplayed")] {
            let mut ours: Vec<_> = message.headers.iter().map(|(name, _)| name.as_ref()).collect();
            ours.retain(|name| name.starts_with(OURS));
            ours.sort_unstable();
            let headers = &contract["components"]["messages"][name]["headers"];
            assert_eq!(headers["required"], serde_json::json!(ours), "{name}");
        }
    }

    #[test]
    fn a_letter_that_dies_again_tells_its_last_cause() {
        let first = Cause::new("invalid_body", "first".to_owned());
        let dead = queued(&letter("", &record(), &first, Timestamp::default()), 0);
        let second = Cause::new("unsigned", "second".to_owned());
        let again = queued(&letter("", &dead, &second, Timestamp::default()), 1);
        assert_eq!(letters(&[again])[0].code, "unsigned");
    }
}
