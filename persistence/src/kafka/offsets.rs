//! Which records of a partition have had their effect. Pure.
//!
//! Records are worked upon many at a time and end in any order; a group's offset is one number. It may pass a record only
//! when that and all before it have had their effect.

use std::collections::BTreeMap;
use std::time::Instant;

/// One partition, from when it was assigned.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// Since when.
    in_flight: BTreeMap<i64, Instant>,
    /// Behind the last that was taken.
    next: Option<i64>,
    /// As it was last told.
    told: i64,
}

impl Offsets {
    /// It is being worked upon.
    pub fn take(&mut self, offset: i64, now: Instant) {
        // Up to the first it is as whoever had the partition left it.
        if self.next.is_none() {
            self.told = offset;
        }
        self.in_flight.insert(offset, now);
        self.next = self.next.max(Some(offset + 1));
    }

    /// It has had its effect. Of an assignment before this one it means nothing.
    pub fn done(&mut self, offset: i64) {
        self.in_flight.remove(&offset);
    }

    /// The last record up to which all have had their effect, if that is news.
    pub fn news(&mut self) -> Option<i64> {
        let position = self.in_flight.first_key_value().map(|(offset, _)| *offset).or(self.next)?;
        if position <= self.told {
            return None;
        }
        self.told = position;
        Some(position - 1)
    }

    /// Since when the first is being worked upon that nothing may pass: they are taken in order.
    pub fn oldest(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|(_, taken)| *taken)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(offsets: impl IntoIterator<Item = i64>) -> Offsets {
        let mut all = Offsets::default();
        offsets.into_iter().for_each(|offset| all.take(offset, Instant::now()));
        all
    }

    #[test]
    fn an_offset_passes_a_record_only_when_all_before_it_have_had_their_effect() {
        let mut offsets = taken(10..=13);
        assert_eq!(offsets.news(), None);
        offsets.done(11);
        assert_eq!(offsets.news(), None, "10 is still being worked upon");
        offsets.done(10);
        assert_eq!(offsets.news(), Some(11));
        assert_eq!(offsets.news(), None, "that was told");
        offsets.done(13);
        offsets.done(12);
        assert_eq!(offsets.news(), Some(13));
    }

    #[test]
    fn the_oldest_is_the_first_that_nothing_may_pass() {
        let (begun, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut offsets = Offsets::default();
        offsets.take(10, begun);
        offsets.take(11, later);
        assert_eq!(offsets.oldest(), Some(begun));
        offsets.done(10);
        assert_eq!(offsets.oldest(), Some(later));
        offsets.done(11);
        assert_eq!(offsets.oldest(), None);
    }

    #[test]
    fn gaps_of_a_compacted_or_transactional_topic_are_passed() {
        let mut offsets = taken([10, 17]);
        offsets.done(10);
        assert_eq!(offsets.news(), Some(16));
        offsets.done(17);
        assert_eq!(offsets.news(), Some(17));
    }

    #[test]
    fn what_was_taken_under_another_assignment_means_nothing() {
        let mut offsets = taken([20]);
        offsets.done(3);
        assert_eq!(offsets.news(), None);
    }
}
