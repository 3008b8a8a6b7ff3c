//! The journal's contract, written once, and kept by both implementations: in memory here, on PostgreSQL in
//! `postgres.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use souk_persistence::Timestamp;
use souk_persistence::journal::{
    Committed, Journal, JournalError, ListQuery, Reschedule, Row, Scanned, ScannedRow, StoredRow,
};
use souk_persistence::memory::{Fault, MemoryJournal};
use souk_persistence::slots::slot_of;
use tokio::sync::oneshot;
use uuid::Uuid;

pub type Shared = Arc<dyn Journal>;

const KIND: i16 = 5;

/// Ordered as the numbers are, and with the low 12 bits of the number for a slot.
pub fn stream(number: u128) -> Uuid {
    Uuid::from_u128(number << 64)
}

pub fn number(stream: Uuid) -> u128 {
    stream.as_u128() >> 64
}

fn micros(at: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + at)
}

pub fn row(number: u128, version: i32) -> Row {
    Row {
        stream: stream(number),
        version,
        kind: KIND,
        slot: slot_of(stream(number)),
        at: micros(i64::from(version)),
        updated_at: micros(i64::from(version)),
        events: format!(r#"[[0,"event {number} {version}"]]"#),
        owner: None,
        owed: None,
        view: format!(r#"{{"number":"{number}","version":{version}}}"#).into(),
        snapshot: None,
    }
}

/// Gives a row and waits for what became of it.
pub fn give(journal: &Shared, row: Row) -> oneshot::Receiver<Committed> {
    let (told, hears) = oneshot::channel();
    journal.commit(row, Box::new(move |committed| drop(told.send(committed))));
    hears
}

pub async fn commit(journal: &Shared, row: Row) -> Committed {
    let hears = give(journal, row);
    tokio::time::timeout(Duration::from_secs(60), hears).await.expect("in time").expect("is told")
}

pub async fn load(journal: &Shared, number: u128) -> (i32, Vec<i32>) {
    let loaded = journal.load(stream(number)).await.expect("loads").expect("is there");
    (loaded.version, loaded.tail.iter().map(|row| row.version).collect())
}

async fn numbers(journal: &Shared, query: ListQuery) -> Vec<u128> {
    let rows = journal.list(query).await.expect("a list");
    rows.iter().map(|row| number(row.stream)).collect()
}

/// The contract. Streams are numbered from `base`, so that it can be run more than once on one journal.
pub async fn contract(journal: &Shared, base: u128) {
    rows_are_dense_and_read_back(journal, base).await;
    of_two_incarnations_one_loses(journal, base + 100).await;
    a_refused_row_harms_no_neighbour(journal, base + 200).await;
    a_poisoned_row_harms_no_neighbour(journal, base + 300).await;
    a_caller_that_panics_or_goes_harms_no_neighbour(journal, base + 400).await;
    a_load_comes_after_the_rows_before_it(journal, base + 1_000).await;
    a_snapshot_covers_what_is_before_it(journal, base + 2_000).await;
    what_is_owed_is_found_and_moved(journal, base + 3_000).await;
    lists_are_newest_first_and_go_on(journal, base + 4_000).await;
    everything_is_scanned_in_order_of_stream(journal, base + 5_000).await;
}

async fn rows_are_dense_and_read_back(journal: &Shared, base: u128) {
    assert_eq!(journal.load(stream(base)).await.expect("loads"), None);
    assert_eq!(commit(journal, row(base, 1)).await, Committed::Taken);
    assert_eq!(commit(journal, row(base, 2)).await, Committed::Taken);
    for stale_or_ahead in [1, 2, 4] {
        assert_eq!(commit(journal, row(base, stale_or_ahead)).await, Committed::NotOurs);
    }
    assert_eq!(commit(journal, row(base + 1, 5)).await, Committed::NotOurs, "a stream begins with 1");
    let loaded = journal.load(stream(base)).await.expect("loads").expect("is there");
    assert_eq!((loaded.version, loaded.created_at, loaded.updated_at), (2, micros(1), micros(2)));
    let events: Vec<_> = loaded.tail.iter().map(|row| (row.version, row.at, row.events.clone())).collect();
    let expected = [1, 2].map(|version| {
        let row = row(base, version);
        (version, row.at, row.events)
    });
    assert_eq!(events, expected);
}

async fn of_two_incarnations_one_loses(journal: &Shared, base: u128) {
    let both = [give(journal, row(base, 1)), give(journal, row(base, 1))];
    let [one, two] = both.map(|hears| async { hears.await.expect("is told") });
    assert_eq!((one.await, two.await), (Committed::Taken, Committed::NotOurs));
    assert_eq!(load(journal, base).await, (1, vec![1]));
}

async fn a_refused_row_harms_no_neighbour(journal: &Shared, base: u128) {
    commit(journal, row(base, 1)).await;
    // Queued together, so that they are one batch.
    let hears: Vec<_> =
        (0..50).map(|offset| give(journal, row(base + offset, if offset == 0 { 3 } else { 1 }))).collect();
    for (offset, hears) in hears.into_iter().enumerate() {
        let expected = if offset == 0 { Committed::NotOurs } else { Committed::Taken };
        assert_eq!(hears.await.expect("is told"), expected, "{offset}");
    }
}

async fn a_poisoned_row_harms_no_neighbour(journal: &Shared, base: u128) {
    let no_json = || "{not json".to_owned();
    let poisoned = [
        Row { view: no_json().into(), ..row(base, 1) },
        Row { events: no_json(), ..row(base + 30, 1) },
        Row { snapshot: Some(no_json()), ..row(base + 31, 1) },
    ];
    let bad = poisoned.map(|row| give(journal, row));
    let good: Vec<_> = (1..20).map(|offset| give(journal, row(base + offset, 1))).collect();
    for hears in bad {
        assert!(matches!(hears.await.expect("is told"), Committed::Poisoned(_)));
    }
    for hears in good {
        assert_eq!(hears.await.expect("is told"), Committed::Taken);
    }
    for offset in [0, 30, 31] {
        assert_eq!(journal.load(stream(base + offset)).await.expect("loads"), None);
    }
}

async fn a_caller_that_panics_or_goes_harms_no_neighbour(journal: &Shared, base: u128) {
    let panicking = Box::new(|committed| panic!("as the test wants it: {committed:?}"));
    journal.commit(row(base, 1), panicking);
    drop(give(journal, row(base + 1, 1)));
    // Given up while it waits behind the rows.
    assert!(journal.load(stream(base)).now_or_never().is_none());
    let beside = give(journal, row(base + 2, 1));
    assert_eq!(beside.await.expect("is told"), Committed::Taken);
    assert_eq!(commit(journal, row(base, 2)).await, Committed::Taken);
    assert_eq!((load(journal, base).await.0, load(journal, base + 1).await.0), (2, 1));
}

async fn a_load_comes_after_the_rows_before_it(journal: &Shared, base: u128) {
    for version in 1..=200 {
        drop(give(journal, row(base, version)));
    }
    let (version, tail) = load(journal, base).await;
    assert_eq!((version, tail), (200, (1..=200).collect()));
    journal.flushed().await;
    assert_eq!(journal.backlog(), 0);
}

async fn a_snapshot_covers_what_is_before_it(journal: &Shared, base: u128) {
    let with_snapshot = |version| Row {
        snapshot: Some(format!(r#"{{"version":{version},"state":{version}}}"#)),
        kind: 1,
        ..row(base, version)
    };
    let without = |version| Row { kind: 1, ..row(base, version) };
    commit(journal, without(1)).await;
    commit(journal, with_snapshot(2)).await;
    commit(journal, without(3)).await;
    let loaded = journal.load(stream(base)).await.expect("loads").expect("is there");
    assert_eq!(loaded.snapshot, Some(r#"{"version":2,"state":2}"#.to_owned()));
    assert_eq!(load(journal, base).await, (3, vec![3]));
    assert_eq!(journal.forget(vec![1], 100).await.expect("forgets"), 1);
    assert_eq!(journal.forget(vec![1], 100).await.expect("forgets"), 0);
    assert_eq!(load(journal, base).await, (3, vec![3]));
    // What was forgotten cannot be written again.
    assert_eq!(commit(journal, without(1)).await, Committed::NotOurs);
}

async fn what_is_owed_is_found_and_moved(journal: &Shared, base: u128) {
    let since = |at| Some(micros(at));
    for (offset, owed) in [(0, since(30)), (1, since(10)), (2, since(20)), (3, None), (4, since(900))] {
        commit(journal, Row { owed, ..row(base + offset, 1) }).await;
    }
    let owed = async |after, limit| {
        let found = journal.owed(0..=4095, micros(100), after, limit).await.expect("reads");
        let found = found.into_iter().filter(|owed| owed.stream >= stream(base));
        found.map(|owed| number(owed.stream) - base).collect::<Vec<_>>()
    };
    assert_eq!(owed(None, 10).await, vec![1, 2, 0]);
    assert_eq!(owed(Some((micros(10), stream(base + 1))), 1).await, vec![2]);
    assert_eq!(journal.owed(4095..=4095, micros(100), None, 10).await.expect("reads"), vec![]);

    let change = |offset, version, owed| Reschedule { stream: stream(base + offset), version, owed };
    // Of two the last is meant.
    journal.reschedule(change(0, 1, since(60)));
    journal.reschedule(change(0, 1, None));
    // For a row that is still on its way.
    drop(give(journal, Row { owed: since(40), ..row(base + 3, 2) }));
    journal.reschedule(change(3, 2, None));
    journal.reschedule(change(1, 7, None));
    journal.reschedule(change(2, 1, since(500)));
    // Changes ride with a batch and are not answered: they have come when they are seen.
    let moved = async {
        while owed(None, 10).await != vec![1] || load(journal, base + 3).await.0 != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("moved");
    let loaded = journal.load(stream(base + 2)).await.expect("loads").expect("is there");
    assert_eq!((loaded.version, loaded.owed), (1, since(500)));
}

async fn lists_are_newest_first_and_go_on(journal: &Shared, base: u128) {
    let owner = Uuid::from_u128(base);
    for offset in 0..5_u128 {
        let colour = if offset % 2 == 0 { "red" } else { "blue" };
        let gone = if offset == 4 { r#","gone":true"# } else { "" };
        let at = micros(offset as i64 / 2);
        let view = format!(r#"{{"colour":"{colour}"{gone}}}"#).into();
        let kind = 9;
        let row = Row { kind, at, updated_at: at, view, owner: Some(owner), ..row(base + offset, 1) };
        commit(journal, row).await;
    }
    let query = |after, limit| ListQuery { kind: 9, owner: Some(owner), equal: Vec::new(), after, limit };
    assert_eq!(numbers(journal, query(None, 2)).await, vec![base + 3, base + 2]);
    let rest = numbers(journal, query(Some((micros(1), stream(base + 2))), 10)).await;
    assert_eq!(rest, vec![base + 1, base]);
    let red = ListQuery { equal: vec![("colour".to_owned(), "red".to_owned())], ..query(None, 10) };
    assert_eq!(numbers(journal, red).await, vec![base + 2, base]);
    let strangers = ListQuery { owner: Some(stream(1)), ..query(None, 10) };
    assert_eq!(numbers(journal, strangers).await, Vec::<u128>::new());

    let views = journal.views(9, vec![stream(base), stream(base + 99)]).await.expect("views");
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].owner, views[0].version, views[0].created_at), (Some(owner), 1, micros(0)));
    assert_eq!(journal.views(8, vec![stream(base)]).await.expect("views"), vec![]);
}

async fn everything_is_scanned_in_order_of_stream(journal: &Shared, base: u128) {
    let owner = Some(stream(1));
    for offset in [3, 1, 2] {
        commit(journal, Row { owner, kind: 4 + offset as i16, ..row(base + offset, 1) }).await;
    }
    let snapshot = Some(r#"{"version":2}"#.to_owned());
    let newest = Row { owed: Some(micros(9)), snapshot, kind: 6, ..row(base + 2, 2) };
    commit(journal, newest.clone()).await;

    let behind = async |after, limit| {
        let page = journal.scan(Some(stream(after)), limit).await.expect("scans");
        page.iter().map(|entity| number(entity.stream) - base).collect::<Vec<_>>()
    };
    assert_eq!(behind(base, 2).await, [1, 2]);
    assert_eq!(behind(base + 2, 2).await, [3]);
    assert_eq!(behind(base + 3, 2).await, [] as [u128; 0]);
    let first = journal.scan(None, 1).await.expect("scans");
    assert!(first.len() == 1 && first[0].stream < stream(base + 1), "{first:?}");
    let page = journal.scan(Some(stream(base + 1)), 1).await.expect("scans");
    let expected = Scanned {
        stream: newest.stream,
        kind: 6,
        version: 2,
        slot: newest.slot,
        owed: newest.owed,
        owner,
        created_at: micros(1),
        updated_at: micros(2),
        view: newest.view,
        snapshot: newest.snapshot,
    };
    assert_eq!(page, [expected]);

    let rows = async |after: (u128, i32), until, limit| {
        let after = Some((stream(base + after.0), after.1));
        let page = journal.scan_rows(after, stream(base + until), limit).await.expect("reads");
        page.iter().map(|row| (number(row.stream) - base, row.row.version)).collect::<Vec<_>>()
    };
    assert_eq!(rows((0, 0), 3, 10).await, [(1, 1), (2, 1), (2, 2), (3, 1)]);
    assert_eq!(rows((0, 0), 2, 2).await, [(1, 1), (2, 1)]);
    assert_eq!(rows((2, 1), 2, 2).await, [(2, 2)]);
    assert_eq!(rows((2, 2), 2, 2).await, []);
    let page = journal.scan_rows(Some((stream(base + 2), 1)), stream(base + 2), 1).await.expect("reads");
    let row = StoredRow { version: 2, at: newest.at, events: newest.events };
    assert_eq!(page, [ScannedRow { stream: newest.stream, kind: 6, row }]);
    assert_eq!(journal.scan_rows(None, Uuid::max(), 1).await.expect("reads").len(), 1);
}

#[tokio::test]
async fn the_journal_in_memory_keeps_the_contract() {
    let journal: Shared = MemoryJournal::open("memory");
    contract(&journal, 1 << 20).await;
}

#[tokio::test]
async fn the_journal_in_memory_keeps_the_contract_whatever_is_lost() {
    let memory = MemoryJournal::open("memory");
    memory.fail_next([Fault::LoseAnswer, Fault::LoseRequest, Fault::LoseAnswer, Fault::LoseAnswer]);
    let journal: Shared = memory.clone();
    contract(&journal, 1 << 20).await;
    memory.away(true);
    assert!(matches!(journal.load(stream(1)).await, Err(JournalError::Unavailable(_))));
    assert!(matches!(journal.forget(vec![1], 1).await, Err(JournalError::Unavailable(_))));
    assert!(matches!(journal.scan(None, 1).await, Err(JournalError::Unavailable(_))));
}
