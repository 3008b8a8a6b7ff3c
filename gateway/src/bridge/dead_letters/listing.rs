//! Letters as people see them. Pure.

use std::collections::HashMap;

use serde::Serialize;
use souk_persistence::kafka::Incoming;
use utoipa::ToSchema;

use super::{LetterId, OURS, letter_id, ours};

/// A body and the value of a header are shown up to here.
const SHOWN_MAX: usize = 4_096;
/// Of whatever a list shows of a letter: anybody who writes to the queue can write what is no letter of ours.
const LISTED_MAX: usize = 500;

/// A letter.
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
    /// What of the record was too large to be kept: of `key`, `headers` and `body`. Null: it is as it came.
    pub cut: Option<String>,
}

/// A letter among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ListedLetter {
    /// It.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// When it was last put back on its topic; null: never.
    pub replayed_at: Option<String>,
}

impl ListedLetter {
    /// What letters are listed by: when they were put aside, and their place.
    pub fn rank(&self) -> (&str, LetterId) {
        (&self.letter.at, letter_id(&self.letter.id).unwrap_or_default())
    }
}

/// All of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShownLetter {
    /// It.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The record's headers, without ours.
    pub headers: Vec<(String, String)>,
    /// The record's body, as far as it is text, at most 4096 bytes.
    pub body: String,
}

/// What is kept of a queue while it is read, in any order.
#[derive(Debug, Default)]
pub struct Listing {
    letters: Vec<DeadLetter>,
    /// When each was last put back.
    replayed: HashMap<LetterId, String>,
}

impl Listing {
    /// One more of its records.
    pub fn hear(&mut self, record: Incoming) {
        if let Some(letter) = described(&record) {
            self.letters.push(letter);
        } else if let Some(of) = ours(&record, "replayed").and_then(letter_id)
            && let Some(at) = ours(&record, "at")
        {
            let last = self.replayed.entry(of).or_default();
            if at > last.as_str() {
                *last = listed(at);
            }
        }
    }

    /// Its letters, oldest first; those that were put back only if they are asked for too.
    pub fn letters(mut self, with_replayed: bool) -> Vec<ListedLetter> {
        let listed = self.letters.into_iter().map(|letter| {
            let replayed_at = letter_id(&letter.id).and_then(|id| self.replayed.remove(&id));
            ListedLetter { letter, replayed_at }
        });
        let mut letters: Vec<_> =
            listed.filter(|listed| with_replayed || listed.replayed_at.is_none()).collect();
        letters.sort_by(|one, other| one.rank().cmp(&other.rank()));
        letters
    }
}

/// All of a letter; `None`: the record is none.
pub fn shown(record: &Incoming) -> Option<ShownLetter> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned();
    let own = record.headers.iter().filter(|(name, _)| !name.starts_with(OURS));
    Some(ShownLetter {
        letter: described(record)?,
        headers: own.map(|(name, value)| (name.clone(), text(value))).collect(),
        body: text(&record.body),
    })
}

fn described(record: &Incoming) -> Option<DeadLetter> {
    Some(DeadLetter {
        id: format!("{}/{}", record.partition, record.offset),
        topic: listed(ours(record, "topic")?),
        place: format!("{}/{}", listed(ours(record, "partition")?), listed(ours(record, "offset")?)),
        code: listed(ours(record, "code")?),
        detail: listed(ours(record, "detail")?),
        at: listed(ours(record, "at")?),
        source: record.header("ce_source").map(listed),
        record_id: record.header("ce_id").map(listed),
        cut: ours(record, "cut").map(listed),
    })
}

fn listed(text: &str) -> String {
    text.chars().take(LISTED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dead, header, record};
    use super::*;

    fn mark(of: &str, at: &str) -> Incoming {
        let headers = vec![header("souk-dead-letter-replayed", of), header("souk-dead-letter-at", at)];
        Incoming { headers, ..Incoming::default() }
    }

    fn listing(records: impl IntoIterator<Item = Incoming>) -> Listing {
        let mut listing = Listing::default();
        records.into_iter().for_each(|record| listing.hear(record));
        listing
    }

    #[test]
    fn letters_are_listed_in_order_and_say_when_they_were_last_put_back() {
        let marks = [mark("0/1", "2026-02-02"), mark("0/1", "2026-01-01"), mark("0/9", "2026-01-01")];
        let letters = [2, 1, 0].map(|offset| dead(&record(), "unsigned", offset));
        let queue = || marks.iter().chain(&letters).cloned();
        let all = listing(queue()).letters(true);
        let ids: Vec<_> = all.iter().map(|listed| listed.letter.id.as_str()).collect();
        assert_eq!(ids, ["0/0", "0/1", "0/2"], "marks are none");
        assert_eq!(all[1].replayed_at.as_deref(), Some("2026-02-02"));
        assert_eq!(listing(queue()).letters(false).len(), 2);
    }

    #[test]
    fn what_is_kept_of_a_letter_has_a_bound() {
        let mut large = dead(&record(), "unsigned", 0);
        large.body = vec![b'x'; 1_000_000];
        large.headers.push(header("souk-dead-letter-code", &"x".repeat(1_000_000)));
        large.headers.push(header("ce_source", &"x".repeat(1_000_000)));
        let letters = listing([large]).letters(false);
        assert!(format!("{letters:?}").len() < 3_000);
    }
}
