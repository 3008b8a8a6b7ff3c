//! What only the journal on PostgreSQL can suffer: lost answers, silent networks, killed connections,
//! restarted servers, another Souk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use souk_persistence::databases::{Conflict, DatabaseUrls, Databases, DatabasesError, Hold};
use souk_persistence::journal::{Committed, Journal as _, JournalError, Row, Scanned, ScannedRow};
use souk_persistence::postgres::PostgresJournal;
use sqlx::{Connection, PgConnection, Row as _};
use tokio::sync::watch;
use uuid::Uuid;

use crate::journal::{Shared, commit, contract, give, load, number, row, stream};
use crate::server::{Postgres, urls};

#[tokio::test]
async fn the_journal_on_postgresql_keeps_the_contract_and_what_only_it_can_break() {
    let postgres = Postgres::start().await;
    let contract = async {
        contract(&postgres.journal(), 1 << 20).await;
        what_cannot_be_read_is_corrupt_and_not_asked_for_again(&postgres).await;
        readers_that_are_given_up_leave_nothing_behind(&postgres).await;
        a_journal_that_is_opened_to_be_read_refuses_every_change(&postgres).await;
    };
    tokio::join!(
        contract,
        a_commit_whose_answer_was_swallowed_is_sent_again_and_found_ours(&postgres),
        a_network_that_drops_everything_delays_commits_and_loads_and_loses_none(&postgres),
        commits_and_scans_go_by_key_even_if_they_were_planned_on_an_empty_table(&postgres),
        a_database_that_another_souk_has_is_left_alone_and_one_that_it_takes_is_lost(&postgres),
        an_opening_that_is_given_up_leaves_no_transaction_in_which_somebody_else_writes(&postgres),
    );
    // Migrated already, and opened again by a later node.
    let Postgres { server, databases, _folder } = postgres;
    drop(databases);
    let databases = Databases::open(&urls(&server), Hold::Alone, 4).await.expect("opens again");
    let journal: Shared = databases.product.clone();
    assert_eq!(load(&journal, 1 << 20).await, (2, vec![1, 2]));
    drop(databases);
    server.stop().await;
}

async fn a_commit_whose_answer_was_swallowed_is_sent_again_and_found_ours(postgres: &Postgres) {
    let (proxy, journal) = postgres.proxied("account_db", "swallowed").await;
    let marked = |number| Row { view: r#"{"mark":"swallow"}"#.into(), ..row(number, 1) };
    commit(&journal, row(1, 1)).await;
    proxy.swallow(3);
    let hears: Vec<_> = (10..60).map(|number| give(&journal, marked(number))).collect();
    for hears in hears {
        assert_eq!(hears.await.expect("is told"), Committed::Taken);
    }
    assert_eq!(proxy.left(), 0);
    let rows = "select count(*), count(distinct stream) from journal where version = 1";
    let rows = postgres.sql("account_db", rows).await;
    assert_eq!((rows[0].get::<i64, _>(0), rows[0].get::<i64, _>(1)), (51, 51));

    // With the last handle its connections go.
    drop(journal);
    let gone = async {
        let open = "select count(*) from pg_stat_activity where application_name = 'souk swallowed'";
        while postgres.sql("account_db", open).await[0].get::<i64, _>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("they are closed");
}

async fn a_network_that_drops_everything_delays_commits_and_loads_and_loses_none(postgres: &Postgres) {
    let (proxy, journal) = postgres.proxied("payment_db", "silenced").await;
    assert_eq!(commit(&journal, row(1, 1)).await, Committed::Taken);
    assert_eq!(load(&journal, 1).await, (1, vec![1]));
    proxy.silence();
    let hears = [give(&journal, row(1, 2)), give(&journal, row(2, 1))];
    // Of another stream: it waits for its own connection, not for the writer.
    let loaded = async { while !matches!(journal.load(stream(3)).await, Ok(None)) {} };
    tokio::time::timeout(Duration::from_secs(30), loaded).await.expect("loads again");
    for hears in hears {
        let told = tokio::time::timeout(Duration::from_secs(30), hears).await.expect("in time");
        assert_eq!(told.expect("is told"), Committed::Taken);
    }
    assert_eq!(load(&journal, 1).await, (2, vec![1, 2]));
    drop(journal);
}

async fn commits_and_scans_go_by_key_even_if_they_were_planned_on_an_empty_table(postgres: &Postgres) {
    let journal = postgres.beside("order_db", "planned");
    assert_eq!(journal.scan(None, 50).await.expect("scans"), []);
    assert_eq!(journal.scan_rows(None, Uuid::max(), 50).await.expect("reads"), []);
    for version in 1..=3 {
        let hears: Vec<_> = (0..300).map(|number| give(&journal, row(number, version))).collect();
        for hears in hears {
            assert_eq!(hears.await.expect("is told"), Committed::Taken);
        }
    }
    let (mut entities, mut rows) = (Vec::new(), Vec::new());
    for page in 1..=6 {
        let after = entities.last().map(|entity: &Scanned| entity.stream);
        entities.extend(journal.scan(after, 50).await.expect("scans"));
        assert_eq!(entities.len(), page * 50);
    }
    for page in 1..=18 {
        let after = rows.last().map(|row: &ScannedRow| (row.stream, row.row.version));
        rows.extend(journal.scan_rows(after, Uuid::max(), 50).await.expect("reads"));
        assert_eq!(rows.len(), page * 50);
    }
    // A connection tells what it has read when it ends.
    drop(journal);
    let counted = async {
        let read = "select e.n_tup_ins, e.n_tup_upd, e.seq_tup_read + j.seq_tup_read, j.idx_tup_fetch
                    from pg_stat_user_tables e, pg_stat_user_tables j
                    where e.relname = 'entity' and j.relname = 'journal'";
        loop {
            let row = &postgres.sql("order_db", read).await[0];
            let [inserted, updated, read, fetched] = [0, 1, 2, 3].map(|column| row.get::<i64, _>(column));
            if (inserted, updated) == (300, 600) && fetched > 0 {
                break (read, fetched);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (read, fetched) =
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("it is counted");
    assert_eq!(read, 0, "tables were read from end to end");
    assert_eq!(fetched, 900, "a page was looked for among the rows before it");
}

async fn a_journal_that_is_opened_to_be_read_refuses_every_change(postgres: &Postgres) {
    let journal = PostgresJournal::open_read_only("looked at", postgres.options("product_db"));
    assert!(!journal.scan(None, 10).await.expect("scans").is_empty());
    let refused = journal.forget(vec![1], 1).await.expect_err("refused").to_string();
    assert!(refused.contains("read-only"), "{refused}");
}

async fn what_cannot_be_read_is_corrupt_and_not_asked_for_again(postgres: &Postgres) {
    let journal = postgres.journal();
    for number in 1..=4 {
        for version in 1..=3 {
            assert_eq!(commit(&journal, row(number, version)).await, Committed::Taken);
        }
    }
    let stream_1 = "update entity set snapshot = '{}' where view ->> 'number' = '1'";
    let stream_2 = r#"update entity set snapshot = '{"version":"two"}' where view ->> 'number' = '2'"#;
    let stream_3 = "delete from journal where version = 2 and events::text like '%event 3 2%'";
    for spoil in [stream_1, stream_2, stream_3] {
        postgres.sql("product_db", spoil).await;
    }
    for number in 1..=3 {
        let loaded = journal.load(stream(number)).await;
        assert!(matches!(loaded, Err(JournalError::Corrupt(_))), "{number}: {loaded:?}");
    }
    assert_eq!(load(&journal, 4).await, (3, vec![1, 2, 3]));
}

async fn readers_that_are_given_up_leave_nothing_behind(postgres: &Postgres) {
    let journal = postgres.journal();
    for number in 100..120 {
        assert_eq!(commit(&journal, row(number, 1)).await, Committed::Taken);
    }
    for number in 0..400 {
        let patience = Duration::from_micros(20 * (number % 50));
        let load = journal.load(stream(u128::from(100 + number % 20)));
        // Dropped at every moment between asking and being answered.
        if let Ok(loaded) = tokio::time::timeout(patience, load).await {
            assert_eq!(loaded.expect("loads").expect("is there").version, 1);
        }
    }
    for number in 100..120 {
        assert_eq!(load(&journal, number).await, (1, vec![1]));
    }
    // Of this database: beside it others are being migrated.
    let open = "select count(*) from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    assert_eq!(postgres.sql("product_db", open).await[0].get::<i64, _>(0), 0);
}

async fn a_database_that_another_souk_has_is_left_alone_and_one_that_it_takes_is_lost(postgres: &Postgres) {
    // Databases of their own, by a URL each; made by the first who opens them.
    let url = |name: &str| vec![postgres.server.url().replace("/postgres", &format!("/{name}"))];
    let urls = DatabaseUrls {
        account: url("locked_1"),
        product: url("locked_2"),
        order: url("locked_3"),
        payment: url("locked_4"),
        ..DatabaseUrls::default()
    };
    drop(Databases::open(&urls, Hold::Alone, 1).await.expect("makes them"));
    let take = "select pg_advisory_lock(x'736f756b'::bigint)";
    let options = postgres.options("locked_4");
    let mut other = PgConnection::connect_with(&options).await.expect("connects");
    sqlx::query(take).execute(&mut other).await.expect("locks");
    let refused = Databases::open(&urls, Hold::Alone, 1).await;
    let Err(DatabasesError::InUse { database, conflict: Conflict::TwoAlone }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(database, "payment_db");
    // What it had taken by then it gave back.
    other.close().await.expect("closes");
    let databases = Databases::open(&urls, Hold::Alone, 1).await.expect("opens");
    let mut is_lost = databases.is_lost();
    assert!(!*is_lost.borrow_and_update());

    // The other one waits for the lock, and our connection is cut.
    let mut other = PgConnection::connect_with(&options).await.expect("connects");
    let mut admin = PgConnection::connect_with(&options).await.expect("connects");
    let kill = "select pg_terminate_backend(pid) from pg_locks
                where locktype = 'advisory' and granted and objid = x'736f756b'::int
                  and database = (select oid from pg_database where datname = 'locked_4')";
    let (taken, killed) = tokio::join!(sqlx::query(take).execute(&mut other), async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        while sqlx::query(waits).fetch_one(&mut admin).await.expect("runs").get::<i64, _>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sqlx::query(kill).execute(&mut admin).await
    });
    taken.expect("locks");
    killed.expect("kills");
    let lost = tokio::time::timeout(Duration::from_secs(30), is_lost.wait_for(|is_lost| *is_lost));
    lost.await.expect("in time").expect("it is told");
}

/// sqlx gives a connection back inside an open transaction if a future is dropped while `begin` is under
/// way. So whatever is more than a statement runs where nobody can drop it; this drops it at every moment.
async fn an_opening_that_is_given_up_leaves_no_transaction_in_which_somebody_else_writes(
    postgres: &Postgres,
) {
    let url = |name: &str| vec![postgres.server.url().replace("/postgres", &format!("/{name}"))];
    let urls = DatabaseUrls {
        account: url("dropped_1"),
        product: url("dropped_2"),
        order: url("dropped_3"),
        payment: url("dropped_4"),
        ..DatabaseUrls::default()
    };
    let mut given_up = 0;
    for number in 0..40 {
        // Each goes on where the one before was given up: making, locking, migrating, one after the other.
        let patience = Duration::from_millis(4 * number);
        given_up +=
            u32::from(tokio::time::timeout(patience, Databases::open(&urls, Hold::Alone, 1)).await.is_err());
    }
    assert!(given_up >= 5, "only {given_up} were given up");
    let opened = tokio::time::timeout(Duration::from_secs(60), Databases::open(&urls, Hold::Alone, 1)).await;
    let databases = opened.expect("in time").expect("opens");
    let journals: [(&str, Shared); 4] = [
        ("dropped_1", databases.account.clone()),
        ("dropped_2", databases.product.clone()),
        ("dropped_3", databases.order.clone()),
        ("dropped_4", databases.payment.clone()),
    ];
    for (database, journal) in journals {
        assert_eq!(commit(&journal, row(1, 1)).await, Committed::Taken);
        // Somebody else sees it: it was not written inside a transaction that nobody ends.
        let rows = &postgres.sql(database, "select count(*) from journal").await[0];
        assert_eq!(rows.get::<i64, _>(0), 1, "{database}");
    }
    // A migration that was given up goes on to its end, and leaves.
    let left = "select count(*) from pg_stat_activity
                where datname like 'dropped%' and state like 'idle in transaction%'";
    let nobody = async {
        while postgres.sql("postgres", left).await[0].get::<i64, _>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), nobody).await.expect("nobody stays in a transaction");
}

/// How many rows have been acknowledged.
struct Progress(watch::Receiver<u64>);

impl Progress {
    /// Waits for so many more.
    async fn more(&mut self, rows: u64) {
        let goal = *self.0.borrow() + rows;
        let reached = self.0.wait_for(|count| *count >= goal);
        tokio::time::timeout(Duration::from_secs(60), reached)
            .await
            .expect("in time")
            .expect("writers go on");
    }
}

/// Writes streams one row after the other while `disturb` goes on: every row is taken in the end, and what
/// was acknowledged is what is stored.
async fn acknowledged_is_stored(
    postgres: &Postgres,
    (database, journal): (&str, &Shared),
    disturb: impl AsyncFnOnce(&mut Progress),
) {
    let acknowledged: Arc<Mutex<HashMap<u128, i32>>> = Arc::default();
    let (count, progress) = watch::channel(0);
    let count = Arc::new(count);
    let is_over = Arc::new(AtomicBool::new(false));
    let write = |number| {
        let (journal, acknowledged, is_over) =
            (Arc::clone(journal), Arc::clone(&acknowledged), Arc::clone(&is_over));
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let mut version = 1;
            while !is_over.load(Ordering::Acquire) {
                assert_eq!(commit(&journal, row(number, version)).await, Committed::Taken);
                acknowledged.lock().expect("no panic").insert(number, version);
                count.send_modify(|count| *count += 1);
                version += 1;
            }
        })
    };
    let writers: Vec<_> = (0..40).map(write).collect();
    disturb(&mut Progress(progress)).await;
    is_over.store(true, Ordering::Release);
    for writer in writers {
        writer.await.expect("every row is taken");
    }
    let rows = "select stream, count(*), max(version) from journal group by stream";
    let rows = postgres.sql(database, rows).await;
    let stored: HashMap<u128, (i64, i32)> =
        rows.iter().map(|row| (number(row.get::<Uuid, _>(0)), (row.get(1), row.get(2)))).collect();
    let acknowledged = acknowledged.lock().expect("no panic").clone();
    assert_eq!(acknowledged.len(), stored.len());
    for (number, version) in acknowledged {
        assert_eq!(stored[&number], (i64::from(version), version), "stream {number}");
    }
}

#[tokio::test]
async fn neither_killed_connections_nor_a_restarted_server_lose_or_double_anything() {
    let postgres = Postgres::start().await;
    let product: Shared = postgres.databases.product.clone();
    acknowledged_is_stored(&postgres, ("product_db", &product), async |progress| {
        for kills in 0..40 {
            // Not in step with the batches of 40.
            progress.more(100 + kills).await;
            let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                        where application_name = 'souk product_db'";
            postgres.sql("product_db", kill).await;
        }
    })
    .await;
    let order: Shared = postgres.databases.order.clone();
    acknowledged_is_stored(&postgres, ("order_db", &order), async |progress| {
        for signal in [Signal::SIGQUIT, Signal::SIGINT, Signal::SIGQUIT] {
            progress.more(1_000).await;
            let pid = postgres.server.pid();
            kill(Pid::from_raw(pid), signal).expect("the server is alive");
            let back = async {
                while postgres.server.pid() == pid
                    || PgConnection::connect(&postgres.server.url()).await.is_err()
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), back).await.expect("it comes back");
        }
    })
    .await;
    postgres.stop().await;
}
