//! A PostgreSQL server of Souk's own: made, started, watched and stopped with it, so that a first user
//! needs no database.
//!
//! Under the data folder: `postgres/` (the cluster), `postgres.password`, `postgres.log`, and `lock`, held
//! while a Souk runs there. Everything is durable: fsync and synchronous commits stay on. If Souk is killed
//! its server goes on, and the next start adopts it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const SUPERUSER: &str = "souk";
/// The oldest version that Souk's statements were tried on.
const VERSION_MIN: u32 = 15;
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const WATCH: Duration = Duration::from_millis(500);
const LOG_MAX: u64 = 16 * 1024 * 1024;

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

/// A running server. Dropped without [`Embedded::stop`] the server goes on, for the next start to adopt.
#[derive(Debug)]
pub struct Embedded {
    server: Arc<Server>,
    watcher: JoinHandle<()>,
    is_adopted: bool,
    /// Held as long as this lives.
    _lock: File,
}

#[derive(Debug)]
struct Server {
    binaries: PathBuf,
    cluster: PathBuf,
    log: PathBuf,
    password: String,
    port: u16,
    user: Option<User>,
    pid: AtomicI32,
    is_stopping: AtomicBool,
}

impl Embedded {
    /// Starts the server over the data folder, or adopts the one that still runs there.
    pub async fn start(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let data = std::path::absolute(&settings.data).doing("find", &settings.data)?;
        std::fs::create_dir_all(&data).doing("make", &data)?;
        let lock = hold(&data)?;
        let binaries = find_binaries(settings.binaries.as_deref())?;
        let user = unprivileged()?;
        let password = password(&data)?;
        let cluster = place(&data, user.as_ref())?;
        if !cluster.join("PG_VERSION").exists() {
            make_cluster(&binaries, &cluster, &password, user.as_ref()).await?;
        }
        let log = data.join("postgres.log");
        let adopted = running(&cluster);
        let port = match adopted {
            Some((_, port)) => port,
            None => free_port().doing("find a free port on", Path::new("127.0.0.1"))?,
        };
        let (pid, is_stopping) = (AtomicI32::new(0), AtomicBool::new(false));
        let server = Arc::new(Server { binaries, cluster, log, password, port, user, pid, is_stopping });
        match adopted {
            Some((pid, _)) => server.pid.store(pid, Ordering::Release),
            None => server.spawn()?,
        }
        match server.ready().await {
            // The one that was to be adopted was ending.
            Err(_) if adopted.is_some() && !is_alive(server.pid.load(Ordering::Acquire)) => {
                server.spawn()?;
                server.ready().await?;
            }
            ready => ready?,
        }
        let watcher = tokio::spawn(watch(Arc::clone(&server)));
        Ok(Self { server, watcher, is_adopted: adopted.is_some(), _lock: lock })
    }

    /// `postgres://souk:…@127.0.0.1:port/postgres`: holds the password.
    pub fn url(&self) -> String {
        let Server { password, port, .. } = &*self.server;
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres")
    }

    /// The loopback port, which stays the same while this lives.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The process id of the server as it runs now.
    pub fn pid(&self) -> i32 {
        self.server.pid.load(Ordering::Acquire)
    }

    /// A killed Souk had left it running.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Stops the server: connections are closed, what they had under way is rolled back.
    pub async fn stop(self) {
        self.server.is_stopping.store(true, Ordering::Release);
        self.watcher.abort();
        // The watcher may have been starting it anew.
        let _ = self.watcher.await;
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            let pid = self.server.pid.load(Ordering::Acquire);
            // An error: it has ended.
            let _ = kill(Pid::from_raw(pid), signal);
            let deadline = Instant::now() + STOP_MAX;
            while Instant::now() < deadline {
                if !is_alive(pid) {
                    return;
                }
                sleep(POLL).await;
            }
        }
        tracing::error!(pid = self.server.pid.load(Ordering::Acquire), "the database server does not stop");
    }
}

impl Server {
    /// Starts the process. It runs in a process group of its own, so that Ctrl-C on the terminal does not
    /// stop it before Souk has drained.
    fn spawn(&self) -> Result<(), EmbeddedError> {
        let is_large = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_MAX);
        let log = File::options()
            .create(true)
            .append(!is_large)
            .write(true)
            .truncate(is_large)
            .open(&self.log)
            .doing("open", &self.log)?;
        let errors = log.try_clone().doing("open", &self.log)?;
        let mut command = command(&self.binaries.join("postgres"), self.user.as_ref());
        command.arg("-D").arg(&self.cluster).arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
            "max_connections=100",
            "shared_buffers=256MB",
            // Long checkpoints: right after one, every page that is touched is logged whole.
            "max_wal_size=4GB",
            "checkpoint_timeout=15min",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let mut child = command.spawn().doing("start", &self.binaries.join("postgres"))?;
        self.pid.store(i32::try_from(child.id()).unwrap_or_default(), Ordering::Release);
        // Its end is collected, lest it stays as a zombie that looks alive.
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || child.wait())
            .doing("watch", &self.cluster)?;
        Ok(())
    }

    /// Waits until a connection of the right user works.
    async fn ready(&self) -> Result<(), EmbeddedError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(&self.password)
            .database("postgres")
            .disable_statement_logging();
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), options.connect()).await
                && connection.close().await.is_ok()
            {
                return Ok(());
            }
            let has_ended = !is_alive(self.pid.load(Ordering::Acquire));
            if has_ended || Instant::now() >= deadline {
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
        if is_alive(server.pid.load(Ordering::Acquire)) {
            wait = WATCH;
            continue;
        }
        if server.is_stopping.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(port = server.port, "the database server has ended by itself and is started anew");
        if let Err(error) = server.spawn() {
            tracing::error!(%error, "the database server cannot be started");
        }
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

/// Takes the folder for this process. The lock goes with the process, however it ends.
fn hold(data: &Path) -> Result<File, EmbeddedError> {
    let path = data.join("lock");
    let lock = File::options().create(true).append(true).open(&path).doing("open", &path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(EmbeddedError::InUse(data.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(EmbeddedError::File { doing: "lock", path, source }),
    }
}

/// The configured folder, else the newest of Debian's, else where `postgres` is on the path.
fn find_binaries(configured: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    if let Some(folder) = configured {
        return has_binaries(folder).then(|| folder.to_owned()).ok_or(EmbeddedError::NoBinaries);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, folder)| *version >= VERSION_MIN && has_binaries(folder))
        .collect();
    versions.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| has_binaries(folder) && is_recent(folder))
    };
    versions.pop().map(|(_, folder)| folder).or_else(on_path).ok_or(EmbeddedError::NoBinaries)
}

fn has_binaries(folder: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|name| folder.join(name).is_file())
}

fn is_recent(folder: &Path) -> bool {
    let Ok(output) = Command::new(folder.join("postgres")).arg("--version").output() else { return false };
    // "postgres (PostgreSQL) 15.18 (Debian …)"
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse().ok());
    major.is_some_and(|major: u32| major >= VERSION_MIN)
}

/// Whom the server runs as; `None`: ourselves.
fn unprivileged() -> Result<Option<User>, EmbeddedError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    user.map(Some).ok_or(EmbeddedError::NoUser)
}

fn command(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Where the cluster lies: in the data folder, or, where the server's user cannot reach that (a data folder
/// below /root), in /var/lib/souk; a file in the data folder says so.
fn place(data: &Path, user: Option<&User>) -> Result<PathBuf, EmbeddedError> {
    let inside = data.join("postgres");
    let Some(user) = user else { return Ok(inside) };
    let location = data.join("postgres.location");
    if let Ok(elsewhere) = std::fs::read_to_string(&location) {
        return Ok(PathBuf::from(elsewhere.trim()));
    }
    if data.ancestors().all(|folder| is_searchable(folder, user)) {
        return Ok(inside);
    }
    // No two folders have one name: a dash that was there is doubled.
    let name = data.to_string_lossy().replace('-', "--").replace('/', "-");
    let elsewhere = Path::new("/var/lib/souk").join(name);
    std::fs::create_dir_all("/var/lib/souk").doing("make", Path::new("/var/lib/souk"))?;
    std::fs::write(&location, format!("{}\n", elsewhere.display())).doing("write", &location)?;
    tracing::info!(cluster = %elsewhere.display(), "the server's user cannot reach the data folder");
    Ok(elsewhere)
}

fn is_searchable(folder: &Path, user: &User) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(folder) else { return false };
    let mode = metadata.permissions().mode();
    let is_owner = metadata.uid() == user.uid.as_raw();
    let is_group = metadata.gid() == user.gid.as_raw();
    is_owner && mode & 0o100 != 0 || is_group && mode & 0o010 != 0 || mode & 0o001 != 0
}

/// The superuser's password, made once and synced before the cluster is made with it.
fn password(data: &Path) -> Result<String, EmbeddedError> {
    let path = data.join("postgres.password");
    match std::fs::read_to_string(&path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing("read", &path),
    }
    let password: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(&path, &password)?;
    Ok(password)
}

/// Makes the cluster beside its place and moves it there whole: one that was made by half is made anew.
async fn make_cluster(
    binaries: &Path,
    cluster: &Path,
    password: &str,
    user: Option<&User>,
) -> Result<(), EmbeddedError> {
    let making = cluster.with_extension("making");
    for leftover in [making.as_path(), cluster] {
        match std::fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing("remove", leftover);
            }
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::DirBuilder::new().mode(0o700).create(&making).doing("make", &making)?;
    // initdb reads the password as the server's user, and not from within the cluster.
    let secret = cluster.with_extension("secret");
    write_secret(&secret, password)?;
    if let Some(user) = user {
        for path in [&making, &secret] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).doing("hand over", path)?;
        }
    }
    let mut initdb = command(&binaries.join("initdb"), user);
    initdb
        .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"])
        .args(["--username", SUPERUSER, "--pwfile"])
        .arg(&secret)
        .arg("-D")
        .arg(&making);
    let output = tokio::task::spawn_blocking(move || initdb.output()).await;
    std::fs::remove_file(&secret).doing("remove", &secret)?;
    let output =
        output.unwrap_or_else(|error| Err(io::Error::other(error))).doing("run", &binaries.join("initdb"))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    std::fs::rename(&making, cluster).doing("move", &making)
}

fn write_secret(path: &Path, secret: &str) -> Result<(), EmbeddedError> {
    let mut file =
        File::options().create(true).write(true).truncate(true).mode(0o600).open(path).doing("make", path)?;
    file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).doing("write", path)
}

/// (pid, port) of the server that runs over the cluster.
fn running(cluster: &Path) -> Option<(i32, u16)> {
    let mut text = String::new();
    File::open(cluster.join("postmaster.pid")).ok()?.read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let folder = lines.next()?.trim();
    let port = lines.nth(1)?.trim().parse().ok()?;
    // The pid may be another process's by now: a server's working directory is its cluster.
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let cluster = std::fs::canonicalize(cluster).ok()?;
    (Path::new(folder) == cluster && works_in == cluster && is_alive(pid)).then_some((pid, port))
}

fn is_alive(pid: i32) -> bool {
    if pid <= 0 || kill(Pid::from_raw(pid), None).is_err() {
        return false;
    }
    // One that has ended but was not yet collected is not alive: "pid (name) Z …".
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
