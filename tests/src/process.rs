//! A `souk serve` as a process: started on a free port over a data folder, stopped or killed by its id.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longer than the slowest start: a new database server on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Longer than Souk's own bound of draining, and its database's.
const STOP_MAX: Duration = Duration::from_secs(90);

/// A data folder that goes when it is dropped.
#[derive(Debug)]
pub struct Data(PathBuf);

impl Data {
    /// An empty folder.
    pub fn new(name: &str) -> Result<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("souk-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).context("make a data folder")?;
        Ok(Arc::new(Self(folder)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The URL of a database on the embedded server that runs over this folder.
    pub fn database(&self, name: &str) -> Result<String> {
        let password = std::fs::read_to_string(self.0.join("postgres.password"))?;
        let pid_file = std::fs::read_to_string(self.0.join("postgres/postmaster.pid"))?;
        let port = pid_file.lines().nth(3).context("postmaster.pid names no port")?;
        Ok(format!("postgres://souk:{}@127.0.0.1:{port}/{name}", password.trim()))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // A test that fails half-way may leave its server behind.
        if let Ok(pid_file) = std::fs::read_to_string(self.0.join("postgres/postmaster.pid"))
            && let Some(Ok(pid)) = pid_file.lines().next().map(str::parse)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary that was built beside this test.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test lies in target/<profile>/deps")?;
    let binary = folder.join("souk");
    if !binary.exists() {
        bail!("{} does not exist: run `cargo build --bin souk` first", binary.display());
    }
    Ok(binary)
}

/// One process of `souk`, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it printed first that is a URL.
    pub url: String,
}

impl Process {
    /// `souk serve` on a free port over a data folder; it is open.
    pub async fn serve(data: &Data, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start(&["serve", "--listen", "127.0.0.1:0"], data, settings).await
    }

    /// `souk postgres` over a data folder; it is ready.
    pub async fn postgres(data: &Data) -> Result<Self> {
        Self::start(&["postgres"], data, &[]).await
    }

    async fn start(arguments: &[&str], data: &Data, settings: &[(&str, &str)]) -> Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(data.path().join("souk.log"))?;
        let mut child = Command::new(binary()?)
            .args(arguments)
            .arg("--data")
            .arg(data.path())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start souk")?;
        let stdout = child.stdout.take().context("souk has a standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let url = timeout(START_MAX, async {
            while let Some(line) = lines.next_line().await? {
                let is_url = |word: &&str| word.starts_with("http://127.") || word.starts_with("postgres://");
                if let Some(url) = line.split_whitespace().find(is_url) {
                    return Ok(url.trim_end_matches('/').to_owned());
                }
            }
            bail!("souk ended before it was open: {}", tail(data.path()))
        })
        .await
        .with_context(|| format!("souk does not open: {}", tail(data.path())))??;
        // What it prints later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, url })
    }

    /// Where it listens, if that is for HTTP.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.url.trim_start_matches("http://").parse()?)
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("souk has ended before")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill souk")
    }

    /// SIGTERM, and waits for its end: the exit code.
    pub async fn stop(mut self) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        let status = timeout(STOP_MAX, self.child.wait()).await.context("souk does not stop")??;
        status.code().context("souk was killed by a signal")
    }
}

/// The end of what it logged, for a failure's message.
fn tail(data: &Path) -> String {
    let log = std::fs::read_to_string(data.join("souk.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
