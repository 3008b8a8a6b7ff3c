//! Slots move to another database while the shop runs, and wherever that is cut off.

use std::collections::HashMap;
use std::future::pending;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use souk_persistence::Timestamp;
use souk_persistence::databases::{DatabaseUrls, Databases};
use souk_persistence::journal::{Committed, Reschedule, Row, SLOTS};
use souk_persistence::migrate::Service;
use souk_persistence::move_slots::{Followed, Move, MoveError, Moved, move_slots};
use souk_persistence::slots::slot_of;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row as _};
use tokio::sync::{RwLock, oneshot};
use uuid::Uuid;

use crate::journal::{Shared, commit, give, load, number, row, stream};
use crate::partitioned::{open, products};
use crate::server::Postgres;

const ALL: RangeInclusive<i16> = 0..=SLOTS - 1;
/// The first database holds up to 2047.
const MOVED: RangeInclusive<i16> = 1_000..=2_047;

fn order(from: usize, to: usize) -> Move {
    let pause_max = Duration::from_secs(20);
    Move { service: Service::Product, from, to, slots: MOVED, pause_max }
}

async fn followed(_: RangeInclusive<i16>) -> Followed {
    Ok(())
}

/// Moves slots of a shop with one node.
async fn moved(urls: &DatabaseUrls, node: &Databases, order: &Move) -> Result<Moved, MoveError> {
    let unfreeze = |_| async { Ok(node.reload().await?) };
    move_slots(urls, order, followed, unfreeze).await
}

/// The move goes as far as to the freezing, and is cut off there.
async fn cut_off(urls: &DatabaseUrls, order: &Move) {
    let (reach, reached) = oneshot::channel();
    let freeze = |_| async {
        reach.send(()).expect("somebody waits");
        pending().await
    };
    tokio::select! {
        done = move_slots(urls, order, freeze, followed) => panic!("it was to be cut off: {done:?}"),
        reached = reached => reached.expect("it came there"),
    }
}

/// What is said to the old database may be heard late: a pause that was called off ends with nothing given away.
#[tokio::test]
async fn slots_are_not_given_away_once_their_pause_was_called_off() {
    let postgres = Postgres::start().await;
    let urls = products(&postgres, &["products_a", "products_b"]);
    let node = open(&urls).await.expect("opens");
    let give = "select give(0::smallint, 9::smallint, 9, gen_random_uuid(), (select ends from was))";
    let pause = "create table was as select pause(0::smallint, 9::smallint, '1 minute') as ends";
    postgres.sql("products_a", pause).await;
    postgres.sql("products_a", "select go_on()").await;
    assert!(!postgres.sql("products_a", give).await[0].get::<bool, _>(0), "it was called off");
    postgres.sql("products_a", "update was set ends = pause(0::smallint, 9::smallint, '1 minute')").await;
    assert!(postgres.sql("products_a", give).await[0].get::<bool, _>(0));
    assert!(!postgres.sql("products_a", give).await[0].get::<bool, _>(0), "it was heard before");
    drop(node);
}

/// Streams in slots of their own, some of them in what is moved.
fn numbers() -> impl Iterator<Item = u128> {
    (0..30).map(|index| (index << 12) + 500 + 50 * index)
}

fn is_moved(number: u128) -> bool {
    MOVED.contains(&slot_of(stream(number)))
}

async fn count(postgres: &Postgres, database: &str) -> i64 {
    let rows = "select (select count(*) from entity where slot between 1000 and 2047)
                     + (select count(*) from journal where slot between 1000 and 2047)";
    postgres.sql(database, rows).await[0].get(0)
}

/// Everything is there once, whoever looks, and whichever way.
async fn is_whole(journal: &Shared, versions: &HashMap<u128, i32>) {
    for (number, version) in versions {
        assert_eq!(load(journal, *number).await, (*version, (1..=*version).collect()), "{number}");
    }
    let scanned = journal.scan(None, 1_000).await.expect("scans");
    let scanned: Vec<_> = scanned.iter().map(|entity| (number(entity.stream), entity.version)).collect();
    let mut expected: Vec<_> = versions.iter().map(|(number, version)| (*number, *version)).collect();
    expected.sort_unstable();
    assert_eq!(scanned, expected);
    let rows: i32 = versions.values().sum();
    let history = journal.scan_rows(None, Uuid::max(), 1_000_000).await.expect("reads");
    assert_eq!(history.len(), rows as usize);
}

/// A shop on two databases with three rows of each stream.
async fn shop(postgres: &Postgres, names: [&str; 2]) -> (DatabaseUrls, Databases, HashMap<u128, i32>) {
    let urls = products(postgres, &names);
    let node = open(&urls).await.expect("opens");
    let mut versions = HashMap::new();
    for version in 1..=3 {
        write(&node.product, &mut versions, version).await;
    }
    (urls, node, versions)
}

/// The next row of each stream.
async fn write(journal: &Shared, versions: &mut HashMap<u128, i32>, version: i32) {
    let hears: Vec<_> = numbers().map(|number| (number, give(journal, row(number, version)))).collect();
    for (number, hears) in hears {
        assert_eq!(hears.await.expect("is told"), Committed::Taken, "{number}");
        versions.insert(number, version);
    }
}

#[tokio::test]
async fn slots_move_wherever_a_move_was_cut_off() {
    let postgres = Postgres::start().await;
    tokio::join!(
        writes_go_on_while_slots_move(&postgres),
        what_changed_after_a_cut_off_copy_is_copied_when_it_is_run_again(&postgres),
        slots_come_back_whole_over_what_a_cut_off_removal_left(&postgres),
        nothing_is_removed_before_every_node_has_read_again(&postgres),
        a_pause_that_nobody_ends_ends_by_itself(&postgres),
        what_was_given_away_and_not_told_is_told_by_who_reads_it(&postgres),
        what_cannot_be_moved_is_refused(&postgres),
    );
    postgres.stop().await;
}

async fn writes_go_on_while_slots_move(postgres: &Postgres) {
    let (urls, node, _) = shop(postgres, ["run_1", "run_2"]).await;
    let node = Arc::new(node);
    // A node of the cluster: it writes the slots that move only while it may.
    let (may_write, is_over) = (Arc::new(RwLock::new(())), Arc::new(AtomicBool::new(false)));
    let writers = numbers().map(|number| {
        let (node, may_write, is_over) = (Arc::clone(&node), Arc::clone(&may_write), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut version = 3;
            while !is_over.load(Ordering::Acquire) {
                let may = if is_moved(number) { Some(may_write.read().await) } else { None };
                assert_eq!(commit(&node.product, row(number, version + 1)).await, Committed::Taken);
                drop(may);
                version += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (number, version)
        })
    });
    let writers: Vec<_> = writers.collect();
    let frozen = tokio::sync::Mutex::new(None);
    let moved = move_slots(
        &urls,
        &order(0, 1),
        |_| async {
            *frozen.lock().await = Some(may_write.write().await);
            Ok(())
        },
        |_| async {
            node.reload().await?;
            *frozen.lock().await = None;
            Ok(())
        },
    )
    .await
    .expect("moves");
    tokio::time::sleep(Duration::from_millis(200)).await;
    is_over.store(true, Ordering::Release);
    let mut versions = HashMap::new();
    for writer in writers {
        let (number, version) = writer.await.expect("every row is taken");
        assert!(version > 3, "{number} went on");
        versions.insert(number, version);
    }
    let here = numbers().filter(|number| is_moved(*number)).count() as u64;
    assert!(moved.entities > here && moved.at_last > 0 && moved.removed == here, "{moved:?}");
    is_whole(&node.product, &versions).await;
    assert_eq!(count(postgres, "run_1").await, 0);

    // A node that was paused all the while goes by what it knew: the old database takes nothing.
    let paused = postgres.beside("run_1", "paused");
    let number = numbers().find(|number| is_moved(*number)).expect("some are moved");
    let version = versions[&number];
    for late in [row(number, version + 1), row(number, 1), row((99 << 12) + 1_500, 1)] {
        assert_eq!(commit(&paused, late).await, Committed::NotOurs);
    }
    assert_eq!(commit(&paused, row((99 << 12) + 999, 1)).await, Committed::Taken, "its own it takes");
    assert_eq!(count(postgres, "run_1").await, 0);
    versions.insert((99 << 12) + 999, 1);

    // And back again.
    self::moved(&urls, &node, &order(1, 0)).await.expect("moves back");
    is_whole(&node.product, &versions).await;
    assert_eq!(commit(&node.product, row(number, version + 1)).await, Committed::Taken);
    assert_eq!(count(postgres, "run_2").await, 0);
}

async fn what_changed_after_a_cut_off_copy_is_copied_when_it_is_run_again(postgres: &Postgres) {
    let (urls, node, mut versions) = shop(postgres, ["bulk_1", "bulk_2"]).await;
    cut_off(&urls, &order(0, 1)).await;
    assert!(count(postgres, "bulk_2").await > 0, "copies are there");
    is_whole(&node.product, &versions).await;
    write(&node.product, &mut versions, 4).await;
    // What is owed changes without a row.
    let moved_one = numbers().find(|number| is_moved(*number)).expect("some are moved");
    let since = Timestamp::from_micros(1_700_000_000_000_000);
    let owed = Row { owed: Some(since), ..row(moved_one, 5) };
    assert_eq!(commit(&node.product, owed).await, Committed::Taken);
    versions.insert(moved_one, 5);
    cut_off(&urls, &order(0, 1)).await;
    let later = since + Duration::from_secs(1);
    node.product.reschedule(Reschedule { stream: stream(moved_one), version: 5, owed: Some(later) });
    let is_later = async || {
        let loaded = node.product.load(stream(moved_one)).await.expect("loads").expect("is there");
        loaded.owed == Some(later)
    };
    while !is_later().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Another node starts meanwhile, and finds the shop as it was.
    let beside = open(&urls).await.expect("opens");
    is_whole(&beside.product, &versions).await;

    let done = moved(&urls, &node, &order(0, 1)).await.expect("moves");
    assert_eq!(done.entities, 1, "only what was owed had changed");
    is_whole(&node.product, &versions).await;
    assert!(is_later().await);
    assert_eq!(node.product.owed(ALL, later, None, 10).await.expect("reads").len(), 1);
    beside.reload().await.expect("reads");
    is_whole(&beside.product, &versions).await;
    // Once more is nothing.
    let again = moved(&urls, &node, &order(0, 1)).await.expect("is moved already");
    assert_eq!(again, Moved::default());
}

/// What is left behind is removed page by page: guards and histories together, so that whoever comes back over the rest
/// finds out what is missing.
async fn slots_come_back_whole_over_what_a_cut_off_removal_left(postgres: &Postgres) {
    let (urls, node, mut versions) = shop(postgres, ["back_1", "back_2"]).await;
    let (reach, reached) = oneshot::channel();
    let unfreeze = |_| async {
        node.reload().await?;
        reach.send(()).expect("somebody waits");
        pending().await
    };
    let order_there = order(0, 1);
    tokio::select! {
        done = move_slots(&urls, &order_there, followed, unfreeze) => panic!("it was to be cut off: {done:?}"),
        reached = reached => reached.expect("it came there"),
    }
    write(&node.product, &mut versions, 4).await;
    let left = count(postgres, "back_1").await;
    assert!(left > 0, "nothing was removed yet");
    // A page of it goes.
    let page = "with gone as (delete from entity where slot between 1000 and 1400 returning stream)
                delete from journal using gone where journal.stream = gone.stream";
    postgres.sql("back_1", page).await;
    assert!((1..left).contains(&count(postgres, "back_1").await));
    moved(&urls, &node, &order(1, 0)).await.expect("moves back");
    is_whole(&node.product, &versions).await;
    write(&node.product, &mut versions, 5).await;
    is_whole(&node.product, &versions).await;
    assert_eq!(count(postgres, "back_2").await, 0);
}

/// Run again where the slots are moved already, nothing is removed before every node has read again who holds them.
async fn nothing_is_removed_before_every_node_has_read_again(postgres: &Postgres) {
    let (urls, node, versions) = shop(postgres, ["again_1", "again_2"]).await;
    let refusing = |_| async { Err("a node does not follow".into()) };
    let order = order(0, 1);
    for _ in 0..2 {
        let cut = move_slots(&urls, &order, followed, refusing).await;
        assert!(matches!(cut, Err(MoveError::Nodes(_))), "{cut:?}");
        // Nobody here has read again: what is read is what was there.
        is_whole(&node.product, &versions).await;
        assert!(count(postgres, "again_1").await > 0);
    }
    let done = moved(&urls, &node, &order).await.expect("is moved already");
    assert!(done.removed > 0 && done.entities == 0, "{done:?}");
    is_whole(&node.product, &versions).await;
    assert_eq!(count(postgres, "again_1").await, 0);
}

async fn a_pause_that_nobody_ends_ends_by_itself(postgres: &Postgres) {
    let (_, node, mut versions) = shop(postgres, ["pause_1", "pause_2"]).await;
    let number = numbers().find(|number| is_moved(*number)).expect("some are moved");
    let pause = "select pause(1000::smallint, 2047::smallint, '1 second')";
    postgres.sql("pause_1", pause).await;
    assert_eq!(commit(&node.product, row(number, 4)).await, Committed::NotOurs);
    assert_eq!(commit(&node.product, row((99 << 12) + 999, 1)).await, Committed::Taken);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(commit(&node.product, row(number, 4)).await, Committed::Taken);
    versions.extend([(number, 4), ((99 << 12) + 999, 1)]);
    is_whole(&node.product, &versions).await;
}

async fn what_was_given_away_and_not_told_is_told_by_who_reads_it(postgres: &Postgres) {
    let (urls, node, mut versions) = shop(postgres, ["give_1", "give_2"]).await;
    cut_off(&urls, &order(0, 1)).await;
    // As whoever moves them would, and is gone before it tells the new one.
    let to: &PgRow = &postgres.sql("give_2", "select id from identity").await[0];
    let give = "select give(1000::smallint, 2047::smallint, 2, $1,
                            pause(1000::smallint, 2047::smallint, '9 seconds'))";
    let mut source = PgConnection::connect_with(&postgres.options("give_1")).await.expect("connects");
    let given: bool =
        sqlx::query_scalar(give).bind(to.get::<Uuid, _>(0)).fetch_one(&mut source).await.expect("runs");
    assert!(given);
    let number = numbers().find(|number| is_moved(*number)).expect("some are moved");
    assert_eq!(
        commit(&node.product, row(number, 4)).await,
        Committed::NotOurs,
        "it is not held here any more"
    );
    let new = postgres.beside("give_2", "early");
    assert_eq!(commit(&new, row(number, 4)).await, Committed::NotOurs, "it has not heard yet");

    // A node starts, and another reads again.
    let beside = open(&urls).await.expect("opens");
    is_whole(&beside.product, &versions).await;
    node.reload().await.expect("reads");
    write(&node.product, &mut versions, 4).await;
    is_whole(&beside.product, &versions).await;
    let again = moved(&urls, &node, &order(0, 1)).await.expect("is moved already");
    assert_eq!(
        (again.entities, again.removed),
        (0, numbers().filter(|number| is_moved(*number)).count() as u64)
    );
    assert_eq!(count(postgres, "give_1").await, 0);
    is_whole(&node.product, &versions).await;
}

async fn what_cannot_be_moved_is_refused(postgres: &Postgres) {
    let (urls, node, versions) = shop(postgres, ["no_1", "no_2"]).await;
    for senseless in [order(0, 0), order(0, 2), Move { slots: 7..=4_096, ..order(0, 1) }] {
        let refused = moved(&urls, &node, &senseless).await;
        assert!(matches!(refused, Err(MoveError::Senseless(2))), "{refused:?}");
    }
    let elsewhere = moved(&urls, &node, &Move { slots: 2_000..=2_048, ..order(0, 1) }).await;
    assert!(matches!(elsewhere, Err(MoveError::HeldElsewhere { .. })), "{elsewhere:?}");
    // Too little time: nothing is moved, and writes go on.
    let short = moved(&urls, &node, &Move { pause_max: Duration::ZERO, ..order(0, 1) }).await;
    assert!(matches!(short, Err(MoveError::TooSlow(_))), "{short:?}");
    let refusing = |_| async { Err("a node does not answer".into()) };
    let nodes = move_slots(&urls, &order(0, 1), refusing, followed).await;
    assert!(matches!(nodes, Err(MoveError::Nodes(_))), "{nodes:?}");
    is_whole(&node.product, &versions).await;
    let number = numbers().find(|number| is_moved(*number)).expect("some are moved");
    assert_eq!(commit(&node.product, row(number, 4)).await, Committed::Taken);
    // Two at once: the second is told so.
    let order = order(0, 1);
    let freeze = |_| async {
        let second = moved(&urls, &node, &order).await;
        assert!(matches!(second, Err(MoveError::Busy(_))), "{second:?}");
        Ok(())
    };
    let first = move_slots(&urls, &order, freeze, |_| async { Ok(node.reload().await?) }).await;
    assert!(first.is_ok_and(|moved| moved.removed > 0));
    assert_eq!(commit(&node.product, row(number, 5)).await, Committed::Taken);
}
