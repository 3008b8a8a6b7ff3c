//! The journal as an outbox: in the order of commits, behind a cursor, at least once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use souk_persistence::databases::{Place, places};
use souk_persistence::journal::StoredRow;
use souk_persistence::migrate::Service;
use souk_persistence::relay::{
    Message, Outbox, OutboxError, Page, Publisher, Relay, RelaySettings, Told, Tongue, Undelivered,
};
use sqlx::{Connection, PgConnection, Row as _};
use uuid::Uuid;

use crate::journal::{commit, number, row, stream};
use crate::server::{Postgres, urls};

const KIND: i16 = 5;
const BEFORE_EVERYTHING: &str = "update cursor set xid = -9223372036854775807, version = 0";

fn orders(postgres: &Postgres) -> Place {
    places(&urls(&postgres.server), Service::Order).expect("is named").remove(0)
}

fn read(page: &Page) -> Vec<(u128, i32)> {
    page.rows.iter().map(|row| (number(row.position.stream), row.position.version)).collect()
}

#[tokio::test]
async fn rows_come_in_the_order_of_commits_and_none_before_one_that_may_yet_come() {
    let postgres = Postgres::start().await;
    let journal = postgres.databases.order.clone();
    let mut outbox = Outbox::open(&orders(&postgres), "reader");
    assert_eq!(read(&outbox.read(&[KIND], 10).await.expect("reads")), []);
    for (number, version) in [(2, 1), (1, 1), (2, 2)] {
        commit(&journal, row(number, version)).await;
    }
    let page = outbox.read(&[KIND], 10).await.expect("reads");
    assert_eq!(read(&page), [(2, 1), (1, 1), (2, 2)]);
    assert!(page.rows.iter().all(|row| row.events.is_some()));
    assert_eq!(
        read(&outbox.read(&[KIND], 2).await.expect("reads")),
        [(2, 1), (1, 1)],
        "as many as asked for"
    );
    let others = outbox.read(&[KIND + 1], 10).await.expect("reads");
    assert!(others.rows.iter().all(|row| row.events.is_none()), "they are passed over, and not told");

    // Whoever writes, anywhere on the server, may yet commit a row that comes before.
    let mut writer = PgConnection::connect_with(&postgres.options("product_db")).await.expect("connects");
    for statement in ["begin", "select pg_current_xact_id()"] {
        sqlx::query(statement).fetch_all(&mut writer).await.expect("runs");
    }
    commit(&journal, row(3, 1)).await;
    let page = outbox.read(&[KIND], 10).await.expect("reads");
    assert_eq!(read(&page).len(), 3, "it is held back");
    assert!(page.standing.held > Duration::ZERO);
    sqlx::query("commit").execute(&mut writer).await.expect("commits");
    assert_eq!(read(&outbox.read(&[KIND], 10).await.expect("reads")).last(), Some(&(3, 1)));

    // The cursor moves forward, once.
    let page = outbox.read(&[KIND], 10).await.expect("reads");
    let last = page.rows.last().expect("is read").position;
    assert!(outbox.advance(page.cursor, last).await.expect("moves"));
    assert!(!outbox.advance(page.cursor, last).await.expect("is told"), "somebody else has moved it");
    assert_eq!(read(&outbox.read(&[KIND], 10).await.expect("reads")), []);
    let before = outbox.before(&[(page.rows[0].position.stream, 2)]).await.expect("reads");
    assert_eq!(before.iter().map(|(_, row)| row.version).collect::<Vec<_>>(), [1]);

    // A dump of another server: what it numbered means nothing here.
    postgres.sql("order_db", "update journal set xid = xid + 1000000000").await;
    postgres.sql("order_db", "update cursor set xid = xid + 1000000000").await;
    assert!(outbox.read(&[KIND], 10).await.expect("reads").standing.is_ahead);
    // Also for whoever begins only now.
    let mut new = Outbox::open(&orders(&postgres), "new");
    assert!(
        new.standing().await.expect("reads").is_none(),
        "it has not begun, and looking does not begin it"
    );
    assert!(new.read(&[KIND], 10).await.expect("reads").standing.is_ahead);
    assert!(matches!(new.end().await, Err(OutboxError::InUse)), "another reads, and would begin anew");
    outbox.close();
    let begun = Instant::now();
    let ended = loop {
        match new.end().await {
            // The server has yet to see that it has gone.
            Err(OutboxError::InUse) if begun.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ended => break ended,
        }
    };
    assert!(ended.expect("ends") && !new.end().await.expect("ends"));
    outbox.reset().await.expect("resets");
    let mut again = read(&outbox.read(&[KIND], 10).await.expect("reads"));
    assert!(again.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1), "{again:?}");
    again.sort_unstable();
    assert_eq!(again, [(1, 1), (2, 1), (2, 2), (3, 1)], "everything is told again");
    postgres.stop().await;
}

/// Refuses every third time, and keeps what it took.
#[derive(Default)]
struct Moody {
    taken: Mutex<Vec<(u128, i32)>>,
    asked: Mutex<usize>,
}

impl Publisher for Moody {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>> {
        async move {
            let mut asked = self.asked.lock().expect("nobody panicked");
            *asked += 1;
            let said = messages.iter().map(said);
            // Some of what is refused has arrived nevertheless.
            let arrives = if *asked % 3 == 1 { messages.len() / 2 } else { messages.len() };
            self.taken.lock().expect("nobody panicked").extend(said.take(arrives));
            match arrives == messages.len() {
                true => Ok(()),
                false => Err(Undelivered("it is moody".into())),
            }
        }
        .boxed()
    }
}

/// The number of the stream, and the version.
fn said(message: &Message) -> (u128, i32) {
    let text = str::from_utf8(&message.body).expect("text");
    let (number, version) = text.split_once(' ').expect("two numbers");
    (number.parse().expect("a number"), version.parse().expect("a number"))
}

/// The versions of a stream in the order in which each was told first.
fn first_told(taken: &[(u128, i32)], number: u128) -> Vec<i32> {
    let mut first: Vec<i32> = Vec::new();
    for (_, version) in taken.iter().filter(|(of, _)| *of == number) {
        if !first.contains(version) {
            first.push(*version);
        }
    }
    first
}

fn tongue() -> Tongue {
    let tell = |_: i16, stream: Uuid, rows: &[StoredRow], after: i32| -> Told {
        assert!(rows.iter().map(|row| row.version).eq(1..=rows.len() as i32), "all of the stream is there");
        let news = rows.iter().filter(|row| row.version > after);
        let message = |row: &StoredRow| Message {
            topic: "topic".to_owned(),
            key: Vec::new(),
            headers: Vec::new(),
            body: format!("{} {}", number(stream), row.version).into_bytes(),
            at_ms: 0,
        };
        Ok(news.map(message).collect())
    };
    Tongue { kinds: vec![KIND], remembers: vec![KIND], tell: Arc::new(tell) }
}

#[tokio::test]
async fn a_consumer_that_fails_is_told_everything_and_each_stream_in_order() {
    let postgres = Postgres::start().await;
    let journal = postgres.databases.order.clone();
    let publisher = Arc::new(Moody::default());
    let pace = RelaySettings { interval: Duration::from_millis(5), page: 7, rows_per_second: 100_000 };
    let outbox = Outbox::open(&orders(&postgres), "moody");
    let relay = Relay::new(outbox, tongue(), publisher.clone(), pace, || true);
    let relaying = tokio::spawn(relay.run());
    for version in 1..=10 {
        for number in 1..=5 {
            commit(&journal, row(number, version)).await;
        }
    }
    let all = |taken: &[(u128, i32)]| (1..=5).all(|number| taken.contains(&(number, 10)));
    let told = async {
        while !all(&publisher.taken.lock().expect("nobody panicked")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("everything is told");
    relaying.abort();
    let taken = publisher.taken.lock().expect("nobody panicked").clone();
    for number in 1..=5 {
        assert_eq!(first_told(&taken, number), (1..=10).collect::<Vec<_>>(), "{number}");
    }
    assert!(taken.len() > 50, "some were told twice");
    postgres.stop().await;
}

/// Takes its time, and keeps what it took.
#[derive(Default)]
struct Slow(Mutex<Vec<(u128, i32)>>);

impl Publisher for Slow {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>> {
        async move {
            for message in messages {
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.0.lock().expect("nobody panicked").push(said(&message));
            }
            Ok(())
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_relay_that_cannot_tell_a_row_goes_on_when_it_can() {
    let postgres = Postgres::start().await;
    let journal = postgres.databases.order.clone();
    let publisher = Arc::new(Slow::default());
    let pace = RelaySettings { interval: Duration::from_millis(5), page: 7, rows_per_second: 100_000 };
    // It panics at first, as on a row that it cannot bear.
    let asked = Arc::new(Mutex::new(0));
    let Tongue { kinds, remembers, tell } = tongue();
    let moody = move |kind: i16, stream: Uuid, rows: &[StoredRow], after: i32| {
        let mut asked = asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *asked += 1;
        assert!(*asked > 1, "it cannot be told");
        tell(kind, stream, rows, after)
    };
    let tongue = Tongue { kinds, remembers, tell: Arc::new(moody) };
    let outbox = Outbox::open(&orders(&postgres), "panics");
    let relaying = tokio::spawn(Relay::new(outbox, tongue, publisher.clone(), pace, || true).run());
    commit(&journal, row(1, 1)).await;
    let told = async |version: i32| {
        while !publisher.0.lock().expect("nobody panicked").contains(&(1, version)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = Duration::from_secs(60);
    tokio::time::timeout(in_time, told(1)).await.expect("is told after all");

    // The rows before one have gone to another database, and it itself has not yet.
    postgres.sql("order_db", "delete from journal").await;
    commit_alone(&postgres, 3).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        *publisher.0.lock().expect("nobody panicked"),
        [(1, 1)],
        "what is told rests on what is not there"
    );
    commit_alone(&postgres, 1).await;
    commit_alone(&postgres, 2).await;
    tokio::time::timeout(in_time, told(3)).await.expect("is told once all is there");
    relaying.abort();
    postgres.stop().await;
}

/// A row without those before it.
async fn commit_alone(postgres: &Postgres, version: i32) {
    let row = "insert into journal (stream, version, kind, slot, at, events)
               values ($1, $2, 5, 0, clock_timestamp(), '[]')";
    let mut connection = PgConnection::connect_with(&postgres.options("order_db")).await.expect("connects");
    let row = sqlx::query(row).bind(stream(1)).bind(version);
    row.execute(&mut connection).await.expect("is written");
}

#[tokio::test]
async fn two_that_tell_at_once_and_are_cut_off_all_the_time_leave_nothing_out() {
    const STREAMS: u128 = 5;
    const ROWS: i32 = 40;
    let postgres = Postgres::start().await;
    let journal = postgres.databases.order.clone();
    let publisher = Arc::new(Slow::default());
    let pace = RelaySettings { interval: Duration::from_millis(5), page: 7, rows_per_second: 100_000 };
    let relay = || {
        let outbox = Outbox::open(&orders(&postgres), "cut off");
        tokio::spawn(Relay::new(outbox, tongue(), publisher.clone(), pace, || true).run())
    };
    let mut relaying = [relay(), relay()];
    for version in 1..=ROWS {
        for number in 1..=STREAMS {
            commit(&journal, row(number, version)).await;
        }
    }
    let is_told = |taken: &[(u128, i32)]| (1..=STREAMS).all(|number| taken.contains(&(number, ROWS)));
    let told = async {
        let mut cut_off = 0;
        while !is_told(&publisher.0.lock().expect("nobody panicked")) {
            // In the midst of a page.
            tokio::time::sleep(Duration::from_millis(60)).await;
            relaying[cut_off % 2].abort();
            relaying[cut_off % 2] = relay();
            cut_off += 1;
        }
        cut_off
    };
    let cut_off = tokio::time::timeout(Duration::from_secs(60), told).await.expect("everything is told");
    relaying.iter().for_each(tokio::task::JoinHandle::abort);
    let taken = publisher.0.lock().expect("nobody panicked").clone();
    for number in 1..=STREAMS {
        assert_eq!(first_told(&taken, number), (1..=ROWS).collect::<Vec<_>>(), "{number}");
    }
    println!("{} messages for {} rows, {cut_off} times cut off", taken.len(), STREAMS * ROWS as u128);
    postgres.stop().await;
}

#[tokio::test]
async fn of_many_who_write_at_once_no_row_is_passed_over() {
    const WRITERS: u128 = 8;
    const TRANSACTIONS: u128 = 40;
    let postgres = Postgres::start().await;
    let write = |writer: u128| {
        let options = postgres.options("order_db");
        async move {
            let mut connection = PgConnection::connect_with(&options).await.expect("connects");
            for transaction in 0..TRANSACTIONS {
                let mut begun = connection.begin().await.expect("begins");
                // Numbered now, and seen later: whoever began after may be seen before.
                let row = "insert into journal (stream, version, kind, slot, at, events)
                           values ($1, $2, 5, 0, clock_timestamp(), '[]')";
                for version in 1..=3 {
                    let row = sqlx::query(row).bind(stream(writer * 1_000 + transaction)).bind(version);
                    row.execute(&mut *begun).await.expect("is written");
                    let pause = "select pg_sleep(random() * 0.01)";
                    sqlx::query(pause).execute(&mut *begun).await.expect("waits");
                }
                begun.commit().await.expect("commits");
            }
        }
    };
    let writing: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer))).collect();
    let mut outbox = Outbox::open(&orders(&postgres), "attentive");
    let mut read = Vec::new();
    let total = (WRITERS * TRANSACTIONS * 3) as usize;
    let all = async {
        while read.len() < total {
            let page = outbox.read(&[KIND], 7).await.expect("reads");
            if let Some(last) = page.rows.last() {
                assert!(outbox.advance(page.cursor, last.position).await.expect("moves"));
                read.extend(page.rows.iter().map(|row| row.position));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every row is read");
    assert!(read.is_sorted_by(|one, next| one < next), "a row came twice, or before one that was read");
    assert_eq!(read.len(), total);
    for written in writing {
        written.await.expect("is written");
    }
    postgres.stop().await;
}

#[tokio::test]
async fn what_a_consumer_was_not_told_is_not_forgotten() {
    let postgres = Postgres::start().await;
    let journal = postgres.databases.order.clone();
    for version in 1..=3 {
        let snapshot = Some(format!(r#"{{"version": {version}}}"#));
        commit(&journal, souk_persistence::journal::Row { snapshot, ..row(1, version) }).await;
    }
    let mut outbox = Outbox::open(&orders(&postgres), "late");
    outbox.read(&[KIND], 1).await.expect("begins");
    assert_eq!(journal.forget(vec![KIND], 10).await.expect("forgets"), 0, "nothing of it was told");
    let page = outbox.read(&[KIND], 10).await.expect("reads");
    outbox.advance(page.cursor, page.rows[2].position).await.expect("moves");
    assert_eq!(journal.forget(vec![KIND], 10).await.expect("forgets"), 2);
    let left = postgres.sql("order_db", "select count(*) from journal").await;
    assert_eq!(left[0].get::<i64, _>(0), 1);
    postgres.sql("order_db", BEFORE_EVERYTHING).await;
    assert_eq!(read(&outbox.read(&[KIND], 10).await.expect("reads")), [(1, 3)]);
    postgres.stop().await;
}
