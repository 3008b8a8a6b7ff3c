//! One Souk alone, or the nodes of a cluster: never both over the same databases.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use souk_persistence::databases::{Conflict, Databases, DatabasesError, Hold, ReadOnly, prepare};
use souk_persistence::embedded::Embedded;
use sqlx::{Connection, PgConnection};

use crate::server::{Postgres, urls};

#[tokio::test]
async fn nodes_of_a_cluster_share_databases_and_a_lone_souk_has_them_to_itself() {
    let Postgres { server, databases: alone, _folder } = Postgres::start().await;
    let urls = urls(&server);
    assert_eq!(refused(Databases::open(&urls, Hold::Shared, 1).await), Conflict::ClusterInAlone);
    drop(alone);
    let one = Databases::open(&urls, Hold::Shared, 1).await.expect("opens");
    let two = Databases::open(&urls, Hold::Shared, 1).await.expect("opens beside");
    let look = ReadOnly::open(&urls).await.expect("looks").expect("databases");
    assert!(look.is_held().await.expect("answers"));
    assert_eq!(refused(Databases::open(&urls, Hold::Alone, 1).await), Conflict::AloneInCluster);

    restart(&server).await;
    // Each looks after its locks every two seconds.
    let held = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock' and granted";
    let again = async {
        loop {
            let mut connection = PgConnection::connect(&server.url()).await.expect("connects");
            let count: i64 = sqlx::query_scalar(held).fetch_one(&mut connection).await.expect("counts");
            if count == 8 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("both have four locks again");
    assert!(!*one.is_lost().borrow() && !*two.is_lost().borrow());

    drop(one);
    assert!(look.is_held().await.expect("answers"), "one of two still has them");
    drop(two);
    drop(Databases::open(&urls, Hold::Alone, 1).await.expect("opens alone"));
    server.stop().await;
}

#[tokio::test]
async fn a_database_that_is_no_services_is_made_beside_them() {
    let Postgres { server, databases, _folder } = Postgres::start().await;
    let url = server.url();
    for _ in 0..2 {
        let options = prepare("cluster_db", None, Some(&url)).await.expect("is made");
        assert_eq!(options.get_database(), Some("cluster_db"));
        PgConnection::connect_with(&options).await.expect("connects").close().await.expect("closes");
    }
    let missing = prepare("cluster_db", None, None).await.expect_err("nowhere").to_string();
    assert!(missing.contains("cluster_db"), "{missing}");
    drop(databases);
    server.stop().await;
}

fn refused(opened: Result<Databases, DatabasesError>) -> Conflict {
    match opened {
        Err(DatabasesError::InUse { conflict, .. }) => conflict,
        other => panic!("{other:?}"),
    }
}

/// As a crash of a backend does; whoever started the server starts it again.
async fn restart(server: &Embedded) {
    let pid = server.pid();
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("the server is alive");
    let back = async {
        while server.pid() == pid || PgConnection::connect(&server.url()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("it comes back");
}
