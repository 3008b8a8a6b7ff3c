//! Letters as people see them. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use souk_persistence::kafka::Incoming;
use utoipa::ToSchema;

use super::replay::is_believed;
use super::{LetterId, OURS, letter_id, ours};

/// A body and the value of a header are shown up to here.
const SHOWN_MAX: usize = 4_096;
/// Of whatever a list shows of a letter: anybody who writes to the queue can write what is no letter of ours.
const LISTED_MAX: usize = 500;
/// Of what was put back so much is known: anybody who writes to the queue can write that it was.
const MARKS_MAX: usize = 1_000_000;

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

/// What letters are listed by: when they were put aside, and their place.
pub type Rank = (String, LetterId);

impl ListedLetter {
    /// Its place in a list.
    pub fn rank(&self) -> Rank {
        (self.letter.at.clone(), letter_id(&self.letter.id).unwrap_or_default())
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

/// Which letters are asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Those that were put back too.
    pub with_replayed: bool,
    /// Of these.
    pub which: Which,
    /// Behind this one.
    pub after: Option<Rank>,
    /// At most so many.
    pub limit: usize,
}

/// Which, by their cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    Any,
    /// Those with this code.
    Code(String),
    /// Those that can be put back though nobody has named them: their writer was believed, and they are whole.
    Playable,
}

impl Which {
    fn has(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::Any => true,
            Self::Code(code) => *code == letter.code,
            Self::Playable => letter.cut.is_none() && is_believed(&letter.code),
        }
    }
}

/// When each letter was last put back, as far as is known.
#[derive(Debug, Default)]
pub struct Marks(HashMap<LetterId, String>);

impl Marks {
    /// One more record of the queue.
    pub fn hear(&mut self, record: Incoming) {
        if let Some(of) = ours(&record, "replayed").and_then(letter_id)
            && let Some(at) = ours(&record, "at")
            && (self.0.len() < MARKS_MAX || self.0.contains_key(&of))
        {
            let last = self.0.entry(of).or_default();
            if at > last.as_str() {
                *last = listed(at);
            }
        }
    }
}

/// A part of the list.
#[derive(Debug)]
pub struct Listing {
    wanted: Wanted,
    marks: Marks,
    letters: BTreeMap<Rank, ListedLetter>,
    /// There are more behind it.
    pub has_more: bool,
    /// How many there are of others than are wanted.
    pub left_out: u64,
}

impl Listing {
    /// Empty. The queue is read for its marks before.
    pub fn new(wanted: Wanted, marks: Marks) -> Self {
        Self { wanted, marks, letters: BTreeMap::new(), has_more: false, left_out: 0 }
    }

    /// One more record of the queue.
    pub fn hear(&mut self, record: Incoming) {
        let id = (record.partition, record.offset);
        let Some(letter) = described(&record) else { return };
        let replayed_at = self.marks.0.get(&id).cloned();
        if replayed_at.is_some() && !self.wanted.with_replayed {
            return;
        }
        if !self.wanted.which.has(&letter) {
            self.left_out += 1;
            return;
        }
        let listed = ListedLetter { letter, replayed_at };
        let rank = listed.rank();
        if self.wanted.after.as_ref().is_none_or(|after| *after < rank) {
            self.letters.insert(rank, listed);
        }
        if self.letters.len() > self.wanted.limit {
            self.letters.pop_last();
            self.has_more = true;
        }
    }

    /// Its letters, oldest first.
    pub fn letters(self) -> Vec<ListedLetter> {
        self.letters.into_values().collect()
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

    fn listing(records: &[Incoming], wanted: Wanted) -> Listing {
        let mut marks = Marks::default();
        records.iter().cloned().for_each(|record| marks.hear(record));
        let mut listing = Listing::new(wanted, marks);
        records.iter().cloned().for_each(|record| listing.hear(record));
        listing
    }

    fn all(with_replayed: bool) -> Wanted {
        Wanted { with_replayed, which: Which::Any, after: None, limit: 100 }
    }

    #[test]
    fn letters_are_listed_in_order_and_say_when_they_were_last_put_back() {
        let marks = [mark("0/1", "2026-02-02"), mark("0/1", "2026-01-01"), mark("0/9", "2026-01-01")];
        let letters = [2, 1, 0].map(|offset| dead(&record(), "unsigned", offset));
        let queue: Vec<_> = marks.into_iter().chain(letters).collect();
        let listed = listing(&queue, all(true)).letters();
        let ids: Vec<_> = listed.iter().map(|listed| listed.letter.id.as_str()).collect();
        assert_eq!(ids, ["0/0", "0/1", "0/2"], "marks are none");
        assert_eq!(listed[1].replayed_at.as_deref(), Some("2026-02-02"));
        assert_eq!(listing(&queue, all(false)).letters().len(), 2);
    }

    #[test]
    fn the_parts_of_a_list_are_all_of_it_however_long_it_is() {
        let queue: Vec<_> = (0..7).rev().map(|offset| dead(&record(), "unsigned", offset)).collect();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let part = listing(&queue, Wanted { after, limit: 2, ..all(false) });
            let has_more = part.has_more;
            let letters = part.letters();
            assert!(letters.len() <= 2);
            after = letters.last().map(ListedLetter::rank);
            seen.extend(letters.into_iter().map(|listed| listed.letter.id));
            if !has_more {
                break;
            }
        }
        assert_eq!(seen, ["0/0", "0/1", "0/2", "0/3", "0/4", "0/5", "0/6"]);
    }

    #[test]
    fn a_flood_of_what_nobody_believes_hides_nothing() {
        let mut queue: Vec<_> = (1..50).map(|offset| dead(&record(), "unsigned", offset)).collect();
        queue.push(dead(&record(), "invalid_body", 50));
        queue.push(dead(&Incoming { body: vec![b'x'; 300_000], ..record() }, "body_too_large", 51));
        let of = |which| {
            let listing = listing(&queue, Wanted { which, limit: 1, ..all(false) });
            (listing.left_out, listing.has_more, listing.letters().remove(0).letter.code)
        };
        assert_eq!(of(Which::Playable), (50, false, "invalid_body".to_owned()));
        assert_eq!(of(Which::Code("body_too_large".to_owned())), (50, false, "body_too_large".to_owned()));
        assert_eq!(of(Which::Any), (0, true, "unsigned".to_owned()));
    }

    #[test]
    fn what_is_kept_of_a_letter_has_a_bound() {
        let mut large = dead(&record(), "unsigned", 0);
        large.body = vec![b'x'; 1_000_000];
        large.headers.push(header("souk-dead-letter-code", &"x".repeat(1_000_000)));
        large.headers.push(header("ce_source", &"x".repeat(1_000_000)));
        let letters = listing(&[large], all(false)).letters();
        assert!(format!("{letters:?}").len() < 3_000);
    }
}
