use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use souk_persistence::databases::{DatabaseUrls, Databases, DatabasesError, Hold, ReadOnly};
use souk_persistence::embedded::{Embedded, EmbeddedError, EmbeddedSettings, Visit};
use sqlx::{Connection, PgConnection, Row};

use crate::folder::Folder;

fn settings(folder: &Folder) -> EmbeddedSettings {
    EmbeddedSettings { data: folder.path().to_owned(), binaries: None }
}

/// Whom the server runs as, if not as ourselves.
fn server_user() -> Option<User> {
    let user = || ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    geteuid().is_root().then(user).flatten()
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
}

#[tokio::test]
async fn a_visitor_leaves_everything_as_it_was_met() {
    let folder = Folder::new();
    assert!(Visit::begin(&settings(&folder)).await.expect("looks").is_none());
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);

    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    let urls = DatabaseUrls { server: Some(server.url()), ..DatabaseUrls::default() };
    assert!(ReadOnly::open(&urls).await.expect("looks").is_none());
    let databases = Databases::open(&urls, Hold::Alone, 1).await.expect("opens");
    let visit = Visit::begin(&settings(&folder)).await.expect("begins").expect("a server");
    assert_eq!((visit.url(), visit.is_alone()), (server.url(), false));
    let read_only = ReadOnly::open(&urls).await.expect("looks").expect("databases");
    assert!(read_only.is_held().await.expect("answers"));
    visit.end().await;
    drop(databases);
    while read_only.is_held().await.expect("answers") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(read_only);
    // What had connections to it lets go a moment later.
    let gone = async { while run(&server, "drop database order_db").await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("dropped");
    let incomplete = ReadOnly::open(&urls).await;
    let Err(DatabasesError::Incomplete { database }) = incomplete else { panic!("{incomplete:?}") };
    assert_eq!(database, "order_db");
    server.stop().await;

    let visit = Visit::begin(&settings(&folder)).await.expect("begins").expect("a server");
    assert!(visit.is_alone());
    let second = Embedded::start(&settings(&folder)).await;
    assert!(matches!(second, Err(EmbeddedError::InUse(_))), "{second:?}");
    let pid = folder.path().join("postgres/postmaster.pid");
    assert!(pid.exists());
    visit.end().await;
    assert!(!pid.exists());
}

#[tokio::test]
async fn a_server_that_was_adopted_and_stopped_is_not_started_by_whoever_left_it() {
    let folder = Folder::new();
    drop(Embedded::start(&settings(&folder)).await.expect("starts"));
    let server = Embedded::start(&settings(&folder)).await.expect("adopts");
    let (pid, port) = (server.pid(), server.port());
    server.stop().await;
    // A watcher looks every half second.
    let revived = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), revived).await.is_err(), "{pid} is back");
}

#[tokio::test]
async fn a_server_is_adopted_also_through_a_link_to_its_folder() {
    let folder = Folder::new();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::create_dir(&real).expect("a folder");
    std::os::unix::fs::symlink(&real, &link).expect("a link");
    let settings = EmbeddedSettings { data: link, binaries: None };
    let server = Embedded::start(&settings).await.expect("starts");
    let pid = server.pid();
    drop(server);
    let server = Embedded::start(&settings).await.expect("adopts");
    assert_eq!((server.is_adopted(), server.pid()), (true, pid));
    server.stop().await;
}

#[tokio::test]
async fn a_stale_pid_file_does_not_keep_a_server_from_starting() {
    let folder = Folder::new();
    Embedded::start(&settings(&folder)).await.expect("starts").stop().await;
    let mut other = Command::new("sleep");
    other.arg("600");
    if let Some(user) = server_user() {
        other.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    // A process of the server's own user is the one that PostgreSQL takes for a server.
    let mut other = other.spawn().expect("starts");
    for pid in [other.id(), std::process::id(), 4_194_303] {
        let cluster = folder.path().join("postgres");
        let stale = format!("{pid}\n{}\n0\n1\n", cluster.display());
        std::fs::write(cluster.join("postmaster.pid"), stale).expect("a stale pid file");
        let server = Embedded::start(&settings(&folder)).await.expect("starts");
        assert!(!server.is_adopted());
        server.stop().await;
    }
    assert!(other.try_wait().expect("ours").is_none(), "what has the pid now is left alone");
    other.kill().and_then(|()| other.wait()).expect("ended");
}

#[tokio::test]
async fn a_server_that_was_killed_with_its_souk_is_started_anew_at_once() {
    let folder = Folder::new();
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    run(&server, "create table kept as select 7 as number").await.expect("a table");
    // A backend outlives its server for a moment.
    let _held = PgConnection::connect(&server.url()).await.expect("connects");
    let pid = server.pid();
    drop(server);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    assert_eq!(run(&server, "select number from kept").await.expect("kept"), 7);
    server.stop().await;
}

#[tokio::test]
async fn a_cluster_that_was_made_by_half_is_made_anew() {
    let folder = Folder::new();
    let half = folder.path().join("postgres.making");
    std::fs::create_dir_all(half.join("base")).expect("half a cluster");
    std::fs::write(half.join("PG_VERSION"), "15\n").expect("half a cluster");
    std::fs::write(folder.path().join("postgres.password"), "kept").expect("its password");
    let server = Embedded::start(&settings(&folder)).await.expect("starts");
    assert!(server.url().contains(":kept@"));
    assert!(!half.exists() && !folder.path().join("postgres.secret").exists());
    server.stop().await;
}

#[tokio::test]
async fn a_cluster_without_its_password_is_refused_and_kept() {
    let folder = Folder::new();
    Embedded::start(&settings(&folder)).await.expect("starts").stop().await;
    let password = folder.path().join("postgres.password");
    let mode = std::fs::metadata(&password).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(&password).expect("removed");
    let refused = Embedded::start(&settings(&folder)).await;
    assert!(matches!(refused, Err(EmbeddedError::NoPassword(_))), "{refused:?}");
    assert!(folder.path().join("postgres/PG_VERSION").exists());
}

/// Only root runs the server as somebody else, whom a folder can be closed to.
#[tokio::test]
async fn where_its_user_cannot_reach_the_data_folder_the_cluster_lies_elsewhere() {
    let folder = Folder::new();
    let closed = folder.path().join("closed");
    std::fs::DirBuilder::new().mode(0o700).create(&closed).expect("a folder");
    let settings = EmbeddedSettings { data: closed.join("data"), binaries: None };
    let server = Embedded::start(&settings).await.expect("starts");
    run(&server, "create table kept as select 7 as number").await.expect("a table");
    let location = settings.data.join("postgres.location");
    if server_user().is_none() {
        assert!(!location.exists());
        return server.stop().await;
    }
    let cluster = PathBuf::from(std::fs::read_to_string(&location).expect("says where").trim());

    // A copy of the data folder names the same cluster.
    let copy = EmbeddedSettings { data: closed.join("copy"), binaries: None };
    std::fs::create_dir(&copy.data).expect("a folder");
    for name in ["postgres.location", "postgres.password"] {
        std::fs::copy(settings.data.join(name), copy.data.join(name)).expect("copied");
    }
    let second = Embedded::start(&copy).await;
    assert!(matches!(second, Err(EmbeddedError::InUse(_))), "{second:?}");
    server.stop().await;

    let server = Embedded::start(&copy).await.expect("starts from the copy");
    assert_eq!(run(&server, "select number from kept").await.expect("kept"), 7);
    server.stop().await;

    std::fs::remove_dir_all(&cluster).expect("removed");
    std::fs::remove_file(format!("{}.lock", cluster.display())).expect("removed");
    let lost = Embedded::start(&settings).await;
    assert!(matches!(lost, Err(EmbeddedError::Lost { .. })), "{lost:?}");
}

#[tokio::test]
async fn a_folder_without_a_server_is_named_in_the_refusal() {
    let folder = Folder::new();
    let binaries = Some(folder.path().to_owned());
    let refused = Embedded::start(&EmbeddedSettings { data: folder.path().to_owned(), binaries }).await;
    assert!(matches!(refused, Err(EmbeddedError::NotBinaries(_))), "{refused:?}");
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
