//! Many sorted pages as one.

use futures::future::BoxFuture;

use crate::journal::JournalError;

/// The first `limit` in order of `key`. Each page is sorted by it; no two rows have the same.
pub(super) fn merged<T, K: Ord>(pages: Vec<Vec<T>>, limit: usize, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut rows: Vec<_> = pages.into_iter().flatten().collect();
    rows.sort_by_key(key);
    rows.truncate(limit);
    rows
}

/// The first `limit` rows that one database holds: on and on, as long as rows that it does not hold have taken
/// up the room of those that it does. `page`: what comes behind a row.
pub(super) async fn held<'a, T: Clone>(
    limit: i64,
    is_held: impl Fn(&T) -> bool,
    page: impl Fn(Option<T>) -> BoxFuture<'a, Result<Vec<T>, JournalError>>,
) -> Result<Vec<T>, JournalError> {
    let (mut kept, mut last) = (Vec::new(), None);
    loop {
        let rows = page(last).await?;
        last = rows.last().cloned();
        let is_end = rows.len() < size(limit) || rows.is_empty();
        kept.extend(rows.into_iter().filter(&is_held));
        if is_end || kept.len() >= size(limit) {
            kept.truncate(size(limit));
            return Ok(kept);
        }
    }
}

/// A limit as a length.
pub(super) fn size(limit: i64) -> usize {
    usize::try_from(limit).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn pages_are_merged_in_order_and_cut() {
        assert_eq!(merged(vec![vec![1, 4, 9], vec![], vec![2, 3, 5]], 4, |row| *row), [1, 2, 3, 4]);
    }

    #[test]
    fn rows_that_are_not_held_take_nobodys_room() {
        let all: Vec<i32> = (0..100).collect();
        let page = |limit: i64| {
            let all = &all;
            move |after: Option<i32>| {
                let behind = all.iter().copied().filter(move |row| after.is_none_or(|after| *row > after));
                let rows: Vec<_> = behind.take(size(limit)).collect();
                async move { Ok(rows) }.boxed()
            }
        };
        let held = |limit, is_held: fn(&i32) -> bool| {
            held(limit, is_held, page(limit)).now_or_never().expect("ready").expect("reads")
        };
        assert_eq!(held(3, |row| *row >= 50), [50, 51, 52]);
        assert_eq!(held(3, |row| *row >= 98), [98, 99]);
        assert_eq!(held(3, |row| *row > 100), [] as [i32; 0]);
        assert_eq!(held(0, |_| true), [] as [i32; 0]);
    }
}
