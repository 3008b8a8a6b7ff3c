//! Programs that the bench starts: a Souk, and the hand-written SQL that it is compared with. Each says on
//! its standard output where it listens, and is stopped by its id.

use std::path::{Path, PathBuf};
use std::process::Stdio;
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

/// A program that runs.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pid: i32,
    /// Host and port.
    pub authority: String,
}

impl Program {
    /// Starts it and waits until it says where it listens. What it logs goes to the end of `log`.
    pub async fn start(mut command: Command, log: &Path) -> Result<Self> {
        let program = command.as_std().get_program().display().to_string();
        let file = std::fs::File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        let pid = i32::try_from(child.id().context("the program has just ended")?)?;
        let stdout = child.stdout.take().context("take its standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let authority = timeout(START_MAX, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(authority) = authority(&line) {
                    return Ok(authority.to_owned());
                }
            }
            bail!("{program} ended before it was open: {}", tail(log))
        })
        .await
        .with_context(|| format!("{program} does not open: {}", tail(log)))??;
        // What it prints later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, pid, authority })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.pid), Signal::SIGTERM)?;
        }
        timeout(STOP_MAX, self.child.wait()).await.context("it does not stop")??;
        Ok(())
    }
}

/// A program that was built with this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    match program.exists() {
        true => Ok(program),
        false => bail!("there is no {}", program.display()),
    }
}

/// `host:port` of the first URL in a line.
fn authority(line: &str) -> Option<&str> {
    let rest = match line.split_once("postgres://") {
        Some((_, rest)) => rest.split_once('@')?.1,
        None => line.split_once("http://")?.1,
    };
    rest.split(|c: char| c == '/' || c.is_whitespace()).next()
}

/// The end of what it logged, for a failure's message.
fn tail(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_what_a_program_says() {
        assert_eq!(authority("Souk is open at http://127.0.0.1:8080"), Some("127.0.0.1:8080"));
        assert_eq!(authority("  API  http://127.0.0.1:1/api/v1"), Some("127.0.0.1:1"));
        assert_eq!(authority("postgres://souk:secret@127.0.0.1:5/postgres"), Some("127.0.0.1:5"));
        assert_eq!(authority("wait"), None);
    }
}
