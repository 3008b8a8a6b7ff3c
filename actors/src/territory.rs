//! Which slots live on this node, and whether that is certain.
//!
//! A node that is alone has everything for ever. In a cluster somebody else gives and takes slots, and says
//! until when it may be relied upon. What this protects is an answer that rests on no row: a row proves by
//! itself, because the journal refuses the row of whoever lost.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::ids::Slot;

const WORDS: usize = 64;

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotSet([u64; WORDS]);

impl Default for SlotSet {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl SlotSet {
    /// No slot.
    pub const NOTHING: Self = Self([0; WORDS]);
    /// Every slot.
    pub const EVERYTHING: Self = Self([u64::MAX; WORDS]);

    /// Whether it holds the slot.
    pub fn has(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.0[word] & bit != 0
    }

    /// It holds no slot.
    pub fn is_empty(&self) -> bool {
        *self == Self::NOTHING
    }

    /// What is in either.
    pub fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, others)| *word |= others);
        self
    }

    /// What is in both.
    pub fn within(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, others)| *word &= others);
        self
    }

    /// What is in this one and not in the other.
    pub fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, others)| *word &= !others);
        self
    }

    /// Its slots as ranges, in order.
    pub fn ranges(&self) -> Vec<RangeInclusive<i16>> {
        let mut ranges: Vec<RangeInclusive<i16>> = Vec::new();
        for slot in Slot::all().filter(|slot| self.has(*slot)).map(Slot::number) {
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 == slot => *last = *last.start()..=slot,
                Some(_) | None => ranges.push(slot..=slot),
            }
        }
        ranges
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<T: IntoIterator<Item = Slot>>(slots: T) -> Self {
        let mut set = Self::NOTHING;
        for slot in slots {
            let (word, bit) = place(slot);
            set.0[word] |= bit;
        }
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

fn place(slot: Slot) -> (usize, u64) {
    let slot = slot.number().unsigned_abs();
    (usize::from(slot / 64), 1 << (slot % 64))
}

/// The slots of this node, as of now.
pub struct Territory {
    slots: [AtomicU64; WORDS],
    /// By [`since_boot`], in nanoseconds.
    certain_until: AtomicI64,
}

impl Territory {
    /// Everything, for ever: of a node that is alone.
    pub fn everything() -> Self {
        Self { slots: SlotSet::EVERYTHING.0.map(AtomicU64::new), certain_until: AtomicI64::new(i64::MAX) }
    }

    /// Nothing yet.
    pub fn nothing() -> Self {
        Self { slots: SlotSet::NOTHING.0.map(AtomicU64::new), certain_until: AtomicI64::new(i64::MIN) }
    }

    /// Whether entities of the slot live here.
    pub fn has(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.slots[word].load(Ordering::Acquire) & bit != 0
    }

    /// Every slot that lives here.
    pub fn slots(&self) -> SlotSet {
        SlotSet(std::array::from_fn(|word| self.slots[word].load(Ordering::Acquire)))
    }

    /// Nobody else can have written what lives here. To be asked when an answer leaves, not before: the whole
    /// machine may have slept in between.
    pub fn is_certain(&self) -> bool {
        match self.certain_until.load(Ordering::Acquire) {
            i64::MAX => true,
            until => nanos(since_boot()) < until,
        }
    }

    /// These live here from now on.
    pub fn gain(&self, slots: &SlotSet) {
        for (mine, gained) in self.slots.iter().zip(slots.0) {
            mine.fetch_or(gained, Ordering::AcqRel);
        }
    }

    /// These do not live here any more.
    pub fn lose(&self, slots: &SlotSet) {
        for (mine, lost) in self.slots.iter().zip(slots.0) {
            mine.fetch_and(!lost, Ordering::AcqRel);
        }
    }

    /// What lives here is certain until then, by [`since_boot`].
    pub fn rely_until(&self, until: Duration) {
        self.certain_until.store(nanos(until), Ordering::Release);
    }
}

impl fmt::Debug for Territory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Territory").field(&self.slots()).finish()
    }
}

/// The time since the machine was started. Unlike the monotonic clock it goes on while the machine sleeps.
pub fn since_boot() -> Duration {
    // It fails only where the kernel has no such clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(range: RangeInclusive<i16>) -> SlotSet {
        Slot::all().filter(|slot| range.contains(&slot.number())).collect()
    }

    #[test]
    fn a_set_is_its_ranges() {
        let set = slots(0..=63).with(&slots(100..=200)).without(&slots(150..=150)).with(&slots(4095..=4095));
        assert_eq!(set.ranges(), [0..=63, 100..=149, 151..=200, 4095..=4095]);
        assert_eq!(SlotSet::EVERYTHING.ranges(), [0..=4095]);
        assert!(set.without(&set).is_empty());
    }

    #[test]
    fn a_territory_has_what_it_was_given_and_was_not_taken() {
        let territory = Territory::nothing();
        territory.gain(&slots(10..=20));
        territory.lose(&slots(15..=30));
        assert_eq!(territory.slots().ranges(), [10..=14]);
    }

    #[test]
    fn certainty_ends_by_itself() {
        let territory = Territory::nothing();
        assert!(!territory.is_certain(), "nobody has said so");
        territory.rely_until(since_boot() + Duration::from_secs(60));
        assert!(territory.is_certain());
        territory.rely_until(since_boot());
        assert!(!territory.is_certain());
        assert!(Territory::everything().is_certain());
    }
}
