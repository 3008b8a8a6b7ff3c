//! Letters back on their topics. Pure.

use std::borrow::Cow;

use souk_actors::Timestamp;
use souk_persistence::kafka::Incoming;
use souk_persistence::relay::Message;
use souk_proto::topic::Topic;

use super::{OURS, ours};
use crate::bridge::inbox;
use crate::bridge::trust::{DISBELIEVED, Right, SIGNATURE, Trust};

/// Why a letter cannot be put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplayable {
    /// There is none of this name.
    #[error("there is none")]
    Missing,
    /// Whoever wrote it, it is not from a topic that this shop reads.
    #[error("it says that it is from {0:?}, which this shop does not read")]
    Elsewhere(String),
    /// The record was too large to be kept.
    #[error("only a part of the record was kept: it can be put back only with a body that you give")]
    Cut,
}

/// Who answers for what is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Whoever named the letter: it is signed again, where its source's key is known.
    Operator,
    /// Whoever signed it: it has the signature that it had.
    Source,
}

/// Whether a letter with this code is put back though nobody named it. What was not believed is not: to sign it again is
/// to say that it is true.
pub fn is_believed(code: &str) -> bool {
    !DISBELIEVED.contains(&code)
}

/// A letter back on its topic, perhaps with another body, and the mark that it is.
pub fn replay(
    prefix: &str,
    record: &Incoming,
    body: Option<Vec<u8>>,
    (trust, answers): (&Trust, Answers),
    now: Timestamp,
) -> Result<[Message; 2], Unplayable> {
    let from = ours(record, "topic").ok_or(Unplayable::Missing)?;
    let topic = from.strip_prefix(prefix).and_then(Topic::named);
    let topic = topic.filter(|topic| inbox::topics().any(|read| read == *topic));
    let topic = topic.ok_or_else(|| Unplayable::Elsewhere(from.chars().take(100).collect()))?;
    if ours(record, "cut").is_some() && body.is_none() {
        return Err(Unplayable::Cut);
    }
    let kept = record.header(SIGNATURE).filter(|_| body.is_none()).map(str::to_owned);
    let body = body.unwrap_or_else(|| record.body.clone());
    let signed = || {
        let (source, id) = record.header("ce_source").zip(record.header("ce_id"))?;
        trust.sign(Right::to_say(topic, &body)?, source, id, &body)
    };
    let signature = match answers {
        Answers::Operator => signed().or(kept),
        Answers::Source => kept,
    };
    let own = record.headers.iter().filter(|(name, _)| !name.starts_with(OURS) && name != SIGNATURE);
    let mut headers: Vec<_> = own.map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect();
    headers.extend(signature.map(|signature| (Cow::Borrowed(SIGNATURE), signature.into_bytes())));
    let key = record.key.clone().unwrap_or_default();
    let at_ms = now.micros().div_euclid(1_000);
    let id = format!("{}/{}", record.partition, record.offset);
    let mark = Message {
        topic: format!("{prefix}{}", Topic::DeadLetterQueue.name()),
        key: key.clone(),
        headers: vec![
            (Cow::Owned(format!("{OURS}replayed")), id.into_bytes()),
            (Cow::Owned(format!("{OURS}at")), now.to_string().into_bytes()),
        ],
        body: Vec::new(),
        at_ms,
    };
    Ok([Message { topic: from.to_owned(), key, headers, body, at_ms }, mark])
}

#[cfg(test)]
mod tests {
    use super::super::listing::{Listing, Marks, Wanted, Which};
    use super::super::tests::{dead, header, queued, record, settings};
    use super::super::{Cause, Room, letter};
    use super::*;

    fn back(letter: &Incoming, body: Option<&[u8]>, answers: Answers) -> Result<[Message; 2], Unplayable> {
        let trust = Trust::new(&settings());
        replay("shop.", letter, body.map(<[u8]>::to_vec), (&trust, answers), Timestamp::default())
    }

    #[test]
    fn what_was_put_back_is_on_its_topic_and_known_to_be() {
        let first = dead(&record(), "bad_signature", 7);
        let [back, mark] = back(&first, Some(b"{}"), Answers::Operator).expect("is a letter");
        assert_eq!((back.topic.as_str(), back.body.as_slice()), ("shop.purchase", b"{}".as_slice()));
        let again = queued(&back, 0);
        assert!(Trust::new(&settings()).judge(Topic::Purchase, &again).is_ok(), "it is signed again");
        assert!(!again.headers.iter().any(|(name, _)| name.starts_with(OURS)));
        let mut marks = Marks::default();
        [queued(&mark, 8), first.clone()].into_iter().for_each(|record| marks.hear(record));
        let wanted = Wanted { with_replayed: true, which: Which::Any, after: None, limit: 10 };
        let mut listing = Listing::new(wanted, marks);
        [queued(&mark, 8), first].into_iter().for_each(|record| listing.hear(record));
        let letters = listing.letters();
        assert_eq!(letters.len(), 1, "the mark is none");
        assert!(letters[0].replayed_at.is_some());
    }

    #[test]
    fn nobody_answers_for_what_nobody_named() {
        let forged = dead(&record(), "invalid_body", 7);
        let [back, _] = back(&forged, None, Answers::Source).expect("is a letter");
        let refused = Trust::new(&settings()).judge(Topic::Purchase, &queued(&back, 0)).map(drop);
        assert_eq!(refused.expect_err("is refused").code, "bad_signature");
        assert!(!is_believed("unsigned") && !is_believed("not_its_step") && is_believed("invalid_body"));
    }

    #[test]
    fn what_is_not_from_a_topic_that_is_read_is_not_put_back() {
        for topic in ["shop.create-payment", "purchase", "other.purchase", "shop.dead-letter-queue"] {
            let mut forged = dead(&record(), "invalid_body", 7);
            forged.headers.push(header("souk-dead-letter-topic", topic));
            let refused = back(&forged, None, Answers::Operator).expect_err("is refused");
            assert_eq!(refused, Unplayable::Elsewhere(topic.to_owned()));
        }
        assert_eq!(back(&record(), None, Answers::Operator).expect_err("is none"), Unplayable::Missing);
    }

    #[test]
    fn of_what_was_cut_only_what_somebody_completes_is_put_back() {
        let large = Incoming { body: vec![b'x'; 1_100_000], ..record() };
        let cut = dead(&large, "body_too_large", 7);
        assert_eq!(back(&cut, None, Answers::Operator).expect_err("is refused"), Unplayable::Cut);
        let [back, _] = back(&cut, Some(b"{}"), Answers::Operator).expect("is a letter");
        assert!(Trust::new(&settings()).judge(Topic::Purchase, &queued(&back, 0)).is_ok());
    }

    #[test]
    fn letters_and_marks_have_the_headers_that_the_contract_says() {
        let contract = souk_proto::asyncapi("1.2.3", "", 10);
        let cause = Cause::new("unsigned", String::new());
        let letter = |room| letter("shop.", &record(), &cause, Timestamp::default(), room);
        let whole = letter(Room::USUAL);
        let [_, mark] = back(&queued(&whole, 7), None, Answers::Operator).expect("is a letter");
        let ours = |message: &Message| {
            let mut ours: Vec<_> = message.headers.iter().map(|(name, _)| name.to_string()).collect();
            ours.retain(|name| name.starts_with(OURS));
            ours.sort_unstable();
            ours
        };
        let headers = |name| &contract["components"]["messages"][name]["headers"];
        for (message, name) in [(&whole, "DeadLetter"), (&mark, "DeadLetterReplayed")] {
            assert_eq!(headers(name)["required"], serde_json::json!(ours(message)), "{name}");
        }
        for name in ours(&letter(Room::LEAST)) {
            assert!(headers("DeadLetter")["properties"][&name].is_object(), "{name}");
        }
    }
}
