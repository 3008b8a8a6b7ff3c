//! A PostgreSQL server of Souk's own: made, started, watched and stopped with it, so that a first user
//! needs no database.
//!
//! Under the data folder: `postgres/` (the cluster), `postgres.password`, `postgres.log`, and `lock`, held
//! while a Souk runs there. Everything is durable: fsync and synchronous commits stay on. If Souk is killed
//! its server goes on, and the next start adopts it.

mod binaries;
mod cluster;
mod process;
mod visit;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::User;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use cluster::Place;
use process::Process;

pub use visit::Visit;

const SUPERUSER: &str = "souk";
const READY_MAX: Duration = Duration::from_secs(60);
/// How often it is started before it is given up.
const STARTS_MAX: u32 = 5;
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const WATCH: Duration = Duration::from_millis(500);
const WATCH_MAX: Duration = Duration::from_secs(10);
const LOG: &str = "postgres.log";
const LOG_MAX: u64 = 16 * 1024 * 1024;
/// What is read of a log to tell why the server does not come up.
const TAIL_BYTES: u64 = 16 * 1024;

/// Where the server lives and what it is made from.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// Souk's data folder.
    pub data: PathBuf,
    /// The folder of `initdb` and `postgres`; `None`: they are looked for.
    pub binaries: Option<PathBuf>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another Souk runs over the folder.
    #[error("{} is in use by another Souk", .0.display())]
    InUse(PathBuf),
    /// Nothing to start.
    #[error(
        "no PostgreSQL server of version 15 or newer is installed; on Debian: apt-get install postgresql. \
         Or set database.url to a running server, or database.binaries to the folder of initdb"
    )]
    NoBinaries,
    /// The configured folder is not one of a server.
    #[error("{} holds no initdb and postgres: set database.binaries to the folder that does", .0.display())]
    NotBinaries(PathBuf),
    /// The cluster is there, the password it was made with is not.
    #[error("{} is missing: without it the database beside it cannot be opened", .0.display())]
    NoPassword(PathBuf),
    /// The cluster is not where the data folder says.
    #[error(
        "the database is not at {}, where {} says it is; put it back, or remove that file to begin anew",
        cluster.display(),
        location.display()
    )]
    Lost {
        /// Where it should be.
        cluster: PathBuf,
        /// What says so.
        location: PathBuf,
    },
    /// Root, and nobody to run it as: PostgreSQL refuses to run as root.
    #[error("running as root, and there is no user `postgres` or `nobody` to run the server as")]
    NoUser,
    /// A file or process could not be handled.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("the database cluster cannot be made: {0}")]
    Initdb(String),
    /// It does not come up.
    #[error("the database server does not become ready; the end of its log:\n{0}")]
    NotReady(String),
}

/// Names what was tried, for the error.
trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, EmbeddedError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, EmbeddedError> {
        self.map_err(|source| EmbeddedError::File { doing, path: path.to_owned(), source })
    }
}

/// A running server. Dropped without [`Embedded::stop`] the server goes on, unwatched, for the next start
/// to adopt.
#[derive(Debug)]
pub struct Embedded {
    server: Arc<Server>,
    watcher: Watcher,
    is_adopted: bool,
    /// Held as long as this lives.
    _locks: (File, Option<File>),
}

/// Watches as long as it lives: afterwards the server may be another's to stop.
#[derive(Debug)]
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Server {
    binaries: PathBuf,
    cluster: PathBuf,
    log: PathBuf,
    password: String,
    port: u16,
    user: Option<User>,
    process: Mutex<Process>,
}

impl Embedded {
    /// Starts the server over the data folder, or adopts the one that still runs there.
    pub async fn start(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let data = std::path::absolute(&settings.data).doing("find", &settings.data)?;
        std::fs::create_dir_all(&data).doing("make", &data)?;
        let lock = cluster::hold(&data.join("lock"), &data)?;
        let user = binaries::unprivileged()?;
        let place = Place::of(&data, user.as_ref())?;
        let locks = (lock, place.hold(&data)?);
        let binaries = binaries::find(settings.binaries.as_deref(), place.made_by)?;
        let password = cluster::password(&data, place.made_by.is_some())?;
        if place.made_by.is_none() {
            place.make(&binaries, &password, user.as_ref()).await?;
        }
        let deadline = Instant::now() + READY_MAX;
        let mut starts = 0;
        loop {
            let adopted = process::server_of(&place.cluster);
            let port = match adopted {
                Some((_, port)) => port,
                None => free_port().doing("find a free port on", Path::new("127.0.0.1"))?,
            };
            let server = Server {
                binaries: binaries.clone(),
                cluster: place.cluster.clone(),
                log: data.join(LOG),
                password: password.clone(),
                port,
                user: user.clone(),
                process: Mutex::new(adopted.map_or(Process::NONE, |(process, _)| process)),
            };
            if adopted.is_none() {
                server.spawn()?;
            }
            starts += 1;
            match server.ready(deadline).await {
                Ok(()) => {
                    let server = Arc::new(server);
                    let watcher = Watcher(tokio::spawn(watch(Arc::clone(&server))));
                    return Ok(Self { server, watcher, is_adopted: adopted.is_some(), _locks: locks });
                }
                Err(error) if starts >= STARTS_MAX || server.process().is_alive() => return Err(error),
                // It ended. The one to be adopted was just stopping, or of one that was killed something is
                // left for a moment, or another program was faster to take the port.
                Err(_) => sleep(WATCH).await,
            }
        }
    }

    /// `postgres://souk:…@127.0.0.1:port/postgres`: holds the password.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The loopback port, which stays the same while this lives.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The process id of the server as it runs now.
    pub fn pid(&self) -> i32 {
        self.server.process().pid
    }

    /// A killed Souk had left it running.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Stops the server: connections are closed, what they had under way is rolled back.
    pub async fn stop(mut self) {
        self.watcher.0.abort();
        // It may be within a start, which is not interrupted; of that one too the process is known then.
        let _ = (&mut self.watcher.0).await;
        let process = self.server.process();
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            process.signal(signal);
            let deadline = Instant::now() + STOP_MAX;
            while Instant::now() < deadline {
                if !process.is_alive() {
                    return;
                }
                sleep(POLL).await;
            }
        }
        tracing::error!(pid = process.pid, "the database server does not stop");
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, port, .. } = self;
        // Not the password.
        f.debug_struct("Server").field("cluster", cluster).field("port", port).finish_non_exhaustive()
    }
}

impl Server {
    fn url(&self) -> String {
        let Self { password, port, .. } = self;
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres")
    }

    fn process(&self) -> Process {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process. It runs in a process group of its own, so that Ctrl-C on the terminal does not
    /// stop it before Souk has drained.
    fn spawn(&self) -> Result<(), EmbeddedError> {
        process::forget_killed(&self.cluster).doing("look after the pid file in", &self.cluster)?;
        let is_large = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_MAX);
        let log = File::options()
            .create(true)
            .append(!is_large)
            .write(true)
            .truncate(is_large)
            // Of a row that is refused it holds the values.
            .mode(0o600)
            .open(&self.log)
            .doing("open", &self.log)?;
        let errors = log.try_clone().doing("open", &self.log)?;
        let program = self.binaries.join("postgres");
        let mut command = process::command(&program, self.user.as_ref());
        command.arg("-D").arg(&self.cluster).arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
            "max_connections=400",
            "shared_buffers=256MB",
            // Long checkpoints: right after one, every page that is touched is logged whole.
            "max_wal_size=4GB",
            "checkpoint_timeout=15min",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let mut child = command.spawn().doing("start", &program)?;
        let pid = i32::try_from(child.id()).expect("Linux counts processes to 4,194,304");
        let process = Process::of(pid).unwrap_or(Process::NONE);
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        // Its end is collected, lest it stays as a zombie that looks alive.
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || child.wait())
            .doing("watch", &self.cluster)?;
        Ok(())
    }

    /// Waits until a connection of the right user works.
    async fn ready(&self, deadline: Instant) -> Result<(), EmbeddedError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(&self.password)
            .database("postgres")
            .disable_statement_logging();
        loop {
            if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), options.connect()).await
                && connection.close().await.is_ok()
            {
                return Ok(());
            }
            if !self.process().is_alive() || Instant::now() >= deadline {
                return Err(EmbeddedError::NotReady(tail(&self.log)));
            }
            sleep(POLL).await;
        }
    }
}

/// Starts the server anew on the same port when it ends by itself.
async fn watch(server: Arc<Server>) {
    let mut wait = WATCH;
    loop {
        sleep(wait).await;
        if server.process().is_alive() {
            wait = WATCH;
            continue;
        }
        tracing::error!(port = server.port, "the database server has ended by itself and is started anew");
        if let Err(error) = server.spawn() {
            tracing::error!(%error, "the database server cannot be started");
        }
        wait = (wait * 2).min(WATCH_MAX);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("{}: {error}", log.display()));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
