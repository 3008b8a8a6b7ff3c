use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use souk_persistence::embedded::{Embedded, EmbeddedError, EmbeddedSettings};
use sqlx::{Connection, PgConnection, Row};

use crate::folder::Folder;

fn settings(folder: &Folder) -> EmbeddedSettings {
    EmbeddedSettings { data: folder.path().to_owned(), binaries: None }
}

async fn run(server: &Embedded, sql: &'static str) -> Result<i32, sqlx::Error> {
    let mut connection = PgConnection::connect(&server.url()).await?;
    let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}

#[tokio::test]
async fn a_server_is_made_keeps_its_data_and_is_nobody_elses() {
    let folder = Folder::new();
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    run(&server, "create table kept as select 7 as number").await.expect("a table");
    let second = Embedded::start(&settings(&folder)).await;
    assert!(matches!(second, Err(EmbeddedError::InUse(_))), "{second:?}");
    let durable =
        "select (current_setting('fsync') = 'on' and current_setting('synchronous_commit') = 'on')::int";
    assert_eq!(run(&server, durable).await.expect("settings"), 1);
    server.stop().await;

    let server = Embedded::start(&settings(&folder)).await.expect("starts again");
    assert!(!server.is_adopted());
    assert_eq!(run(&server, "select number from kept").await.expect("kept"), 7);
    server.stop().await;
}

#[tokio::test]
async fn a_server_whose_souk_was_killed_is_adopted() {
    let folder = Folder::new();
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    let (pid, port) = (server.pid(), server.port());
    drop(server);
    let server = Embedded::start(&settings(&folder)).await.expect("adopts");
    assert_eq!((server.is_adopted(), server.pid(), server.port()), (true, pid, port));
    server.stop().await;

    // A stale pid file that names a process which is no server.
    let pid_file = folder.path().join("postgres/postmaster.pid");
    let stale = format!("{}\n{}\n0\n1\n", std::process::id(), folder.path().join("postgres").display());
    std::fs::write(&pid_file, stale).expect("a stale pid file");
    let server = Embedded::start(&settings(&folder)).await;
    // PostgreSQL itself refuses only if the process could be a server of its user.
    match server {
        Ok(server) => server.stop().await,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_on_its_port() {
    let folder = Folder::new();
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    let (pid, url) = (server.pid(), server.url());
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    let back = async {
        while server.pid() == pid || run(&server, "select 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("it comes back");
    assert_eq!(server.url(), url);
    server.stop().await;
}
