//! Which of a service's databases holds which slots. Pure: what the databases say is read elsewhere.
//!
//! Every database says what it holds, with a generation that rises whenever slots change hands; of two that
//! name a slot the higher generation has it. One that gave slots away says to whom, and that counts as the
//! word of the other, who may not have heard yet.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::journal::SLOTS;

/// The slot that an id carries: the 12 bits after its version nibble.
pub fn slot_of(id: Uuid) -> i16 {
    let (high, _) = id.as_u64_pair();
    i16::try_from(high & 0x0fff).expect("12 bits")
}

/// What a database says of a range of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The first slot.
    pub first: i16,
    /// The last slot.
    pub last: i16,
    /// The higher one has a slot.
    pub generation: i64,
    /// To which database they were given; `None`: they are held.
    pub given_to: Option<Uuid>,
}

impl Holding {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What one database says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The database's identity.
    pub id: Uuid,
    /// Of its slots, and of those it gave away.
    pub holdings: Vec<Holding>,
}

/// Why slots cannot be said to be held by one database. Databases are named by their place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dispute {
    /// By none.
    Unheld(RangeInclusive<i16>),
    /// Of these slots two say the same generation.
    Contested(RangeInclusive<i16>, [usize; 2]),
    /// This one gave them to a database that is not in the list.
    GivenAway(RangeInclusive<i16>, usize),
}

/// Which database holds each slot: its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    holders: Box<[usize]>,
}

impl SlotTable {
    /// All slots in the first database.
    pub fn sole() -> Self {
        Self { holders: (0..SLOTS).map(|_| 0).collect() }
    }

    /// What the databases of a service say together.
    pub fn resolve(words: &[Word]) -> Result<Self, Dispute> {
        let says = |slot| claim(words, slot);
        let holders: Result<_, _> = (0..SLOTS).map(says).collect();
        let first = match holders {
            Ok(holders) => return Ok(Self { holders }),
            Err(refused) => refused,
        };
        let (start, claim_of) = first;
        let last = (start..SLOTS).take_while(|slot| says(*slot) == Err((*slot, claim_of))).last();
        let slots = start..=last.unwrap_or(start);
        Err(match claim_of {
            NoClaim::Nobody => Dispute::Unheld(slots),
            NoClaim::Both(one, other) => Dispute::Contested(slots, [one, other]),
            NoClaim::Stranger(by) => Dispute::GivenAway(slots, by),
        })
    }

    /// The lowest slot that a database holds.
    pub fn lowest(&self, holder: usize) -> Option<i16> {
        (0..SLOTS).find(|slot| self.holder(*slot) == holder)
    }

    /// Who holds a slot.
    pub fn holder(&self, slot: i16) -> usize {
        usize::try_from(slot).ok().and_then(|slot| self.holders.get(slot)).copied().unwrap_or_default()
    }

    /// Who holds the slot of an id.
    pub fn holder_of(&self, id: Uuid) -> usize {
        self.holder(slot_of(id))
    }

    /// The ranges within `slots`, each with who holds it, as long as they can be.
    pub fn ranges(&self, slots: RangeInclusive<i16>) -> Vec<(RangeInclusive<i16>, usize)> {
        let mut ranges: Vec<(RangeInclusive<i16>, usize)> = Vec::new();
        for slot in slots {
            match (ranges.last_mut(), self.holder(slot)) {
                (Some((range, of)), holder) if *of == holder => *range = *range.start()..=slot,
                (_, holder) => ranges.push((slot..=slot, holder)),
            }
        }
        ranges
    }

    /// Those who hold anything.
    pub fn holders(&self) -> Vec<usize> {
        let mut holders = self.holders.to_vec();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NoClaim {
    Nobody,
    Both(usize, usize),
    Stranger(usize),
}

/// Who has a slot.
fn claim(words: &[Word], slot: i16) -> Result<usize, (i16, NoClaim)> {
    let mut best: Option<(i64, Result<usize, NoClaim>)> = None;
    for (speaker, word) in words.iter().enumerate() {
        for holding in word.holdings.iter().filter(|holding| (holding.first..=holding.last).contains(&slot)) {
            let holder = match holding.given_to {
                None => Ok(speaker),
                Some(id) => words.iter().position(|word| word.id == id).ok_or(NoClaim::Stranger(speaker)),
            };
            best = match best {
                Some((generation, of)) if generation == holding.generation => match (of, holder) {
                    (Ok(one), Ok(other)) if one != other => {
                        Some((generation, Err(NoClaim::Both(one, other))))
                    }
                    (Err(dispute), _) | (Ok(_), Err(dispute)) => Some((generation, Err(dispute))),
                    (Ok(_), Ok(_)) => Some((generation, of)),
                },
                Some((generation, of)) if generation > holding.generation => Some((generation, of)),
                Some(_) | None => Some((holding.generation, holder)),
            };
        }
    }
    let (_, holder) = best.unwrap_or((0, Err(NoClaim::Nobody)));
    holder.map_err(|dispute| (slot, dispute))
}

/// What was given to databases that have not heard of it: each with the place of who shall have it.
pub fn unheard(words: &[Word]) -> Vec<(usize, Holding)> {
    let deeds = words.iter().flat_map(|word| &word.holdings);
    let unheard = deeds.filter_map(|deed| {
        let to = words.iter().position(|word| Some(word.id) == deed.given_to)?;
        let has_heard = |own: &Holding| own.meets(deed) && own.generation >= deed.generation;
        (!words[to].holdings.iter().any(has_heard)).then(|| (to, deed.clone()))
    });
    unheard.collect()
}

/// The generation above all that anybody says of these slots.
pub fn next_generation(words: &[Word], slots: &RangeInclusive<i16>) -> i64 {
    let of = Holding { first: *slots.start(), last: *slots.end(), generation: 0, given_to: None };
    let said = words.iter().flat_map(|word| &word.holdings).filter(|holding| holding.meets(&of));
    said.map(|holding| holding.generation).max().unwrap_or_default() + 1
}

/// The share of the `index`th of `count` databases; `None`: there are more databases than slots.
pub fn share(index: usize, count: usize) -> Option<RangeInclusive<i16>> {
    let slots = usize::try_from(SLOTS).ok()?;
    let edge = |index: usize| i16::try_from(index * slots / count).ok();
    let (first, end) = (edge(index)?, edge(index + 1)?);
    (first < end).then(|| first..=end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(first: i16, last: i16, generation: i64) -> Holding {
        Holding { first, last, generation, given_to: None }
    }

    fn given(first: i16, last: i16, generation: i64, to: u128) -> Holding {
        Holding { given_to: Some(Uuid::from_u128(to)), ..held(first, last, generation) }
    }

    /// The identities are 1, 2, …
    fn words<const N: usize>(holdings: [Vec<Holding>; N]) -> Vec<Word> {
        let word = |(index, holdings): (usize, _)| Word { id: Uuid::from_u128(index as u128 + 1), holdings };
        holdings.into_iter().enumerate().map(word).collect()
    }

    #[test]
    fn an_id_carries_its_slot_behind_the_version() {
        let id = Uuid::parse_str("0192f0c1-2345-7abc-8def-0123456789ab").expect("an id");
        assert_eq!(slot_of(id), 0xabc);
        assert_eq!(slot_of(Uuid::max()), 4095);
    }

    #[test]
    fn shares_cover_every_slot_once() {
        for count in [1, 2, 3, 5, 64, 4_096] {
            let words: Vec<_> = (0..count)
                .map(|index| {
                    let share = share(index, count).expect("a share");
                    let holdings = vec![held(*share.start(), *share.end(), 1)];
                    Word { id: Uuid::from_u128(index as u128), holdings }
                })
                .collect();
            let table = SlotTable::resolve(&words).expect("covers");
            assert_eq!(table.holders().len(), count);
        }
        assert_eq!((share(0, 2), share(1, 2)), (Some(0..=2047), Some(2048..=4095)));
        assert_eq!(share(0, 5_000), None);
    }

    #[test]
    fn the_higher_generation_has_a_slot_and_one_that_holds_nothing_is_allowed() {
        let words = words([vec![held(0, 4095, 1)], vec![held(100, 200, 2)], vec![]]);
        let table = SlotTable::resolve(&words).expect("covers");
        assert_eq!(table.ranges(0..=4095), [(0..=99, 0), (100..=200, 1), (201..=4095, 0)]);
        assert_eq!(table.ranges(150..=201), [(150..=200, 1), (201..=201, 0)]);
        assert_eq!(table.holders(), [0, 1]);
        assert_eq!(next_generation(&words, &(200..=300)), 3);
        assert_eq!(next_generation(&words, &(201..=300)), 2);
    }

    #[test]
    fn what_was_given_is_held_by_who_has_not_heard_of_it_yet() {
        let before = words([vec![held(0, 99, 1), held(201, 4095, 1), given(100, 200, 2, 2)], vec![]]);
        let table = SlotTable::resolve(&before).expect("covers");
        assert_eq!(table.ranges(0..=300), [(0..=99, 0), (100..=200, 1), (201..=300, 0)]);
        assert_eq!(unheard(&before), [(1, given(100, 200, 2, 2))]);

        let mut heard = before;
        heard[1].holdings = vec![held(100, 200, 2)];
        assert_eq!(SlotTable::resolve(&heard), Ok(table));
        assert_eq!(unheard(&heard), []);
        // Given on in part: what is said of it later goes before.
        heard[1].holdings = vec![held(100, 149, 2), given(150, 200, 3, 1)];
        let table = SlotTable::resolve(&heard).expect("covers");
        assert_eq!(table.ranges(100..=200), [(100..=149, 1), (150..=200, 0)]);
        assert_eq!(unheard(&heard), [(0, given(150, 200, 3, 1))]);
    }

    #[test]
    fn slots_that_nobody_or_two_hold_are_named() {
        let gap = words([vec![held(0, 9, 1), held(20, 4095, 1)]]);
        assert_eq!(SlotTable::resolve(&gap), Err(Dispute::Unheld(10..=19)));
        let contested = words([vec![held(0, 4095, 1)], vec![held(7, 8, 1)]]);
        assert_eq!(SlotTable::resolve(&contested), Err(Dispute::Contested(7..=8, [0, 1])));
        let away = words([vec![held(0, 99, 1), given(100, 4095, 2, 9)]]);
        assert_eq!(SlotTable::resolve(&away), Err(Dispute::GivenAway(100..=4095, 0)));
        assert_eq!(SlotTable::resolve(&[]), Err(Dispute::Unheld(0..=4095)));
    }
}
