//! Rows that were told a moment ago: what a row tells depends on those before it, and most streams are young.

use std::collections::HashMap;

use uuid::Uuid;

use crate::journal::StoredRow;

/// Rows of the streams that were told last. A row never changes, so what is here is right; what is not is read.
pub(super) struct Recent {
    /// Of each generation; about so much is kept twice.
    bytes_max: usize,
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    rows: HashMap<Uuid, Vec<StoredRow>>,
    bytes: usize,
}

impl Recent {
    /// Of about twice so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, young: Generation::default(), old: Generation::default() }
    }

    /// The rows of a stream before a version, if all of them are here. They are taken out.
    pub fn take(&mut self, stream: Uuid, before: i32) -> Option<Vec<StoredRow>> {
        let mut rows = self.young.rows.remove(&stream).or_else(|| self.old.rows.remove(&stream))?;
        rows.retain(|row| row.version < before);
        rows.iter().map(|row| row.version).eq(1..before).then_some(rows)
    }

    /// Keeps a stream, from its first row on.
    pub fn keep(&mut self, stream: Uuid, rows: Vec<StoredRow>) {
        self.young.bytes += rows.iter().map(|row| size_of::<StoredRow>() + row.events.len()).sum::<usize>();
        self.young.rows.insert(stream, rows);
        if self.young.bytes > self.bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn rows(versions: std::ops::RangeInclusive<i32>) -> Vec<StoredRow> {
        let row = |version| StoredRow { version, at: Timestamp::default(), events: "x".repeat(1_000) };
        versions.map(row).collect()
    }

    #[test]
    fn what_was_told_is_found_as_it_was_and_what_has_a_gap_is_not() {
        let stream = Uuid::from_u128(1);
        let mut recent = Recent::new(10_000);
        recent.keep(stream, rows(1..=3));
        assert_eq!(recent.take(stream, 3), Some(rows(1..=2)), "the third is told again");
        assert_eq!(recent.take(stream, 3), None, "it was taken out");
        recent.keep(stream, rows(1..=3));
        assert_eq!(recent.take(stream, 5), None, "the fourth is not here");
    }

    #[test]
    fn what_was_told_long_ago_makes_room() {
        let stream = Uuid::from_u128;
        let mut recent = Recent::new(10_000);
        (0..25).for_each(|number| recent.keep(stream(number), rows(1..=1)));
        assert_eq!(recent.take(stream(0), 2), None);
        assert_eq!(recent.take(stream(15), 2), Some(rows(1..=1)), "of the generation before");
        assert_eq!(recent.take(stream(24), 2), Some(rows(1..=1)));
    }
}
