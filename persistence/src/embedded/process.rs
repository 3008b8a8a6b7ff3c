//! Processes: which one is the server of a cluster, and whether it is still the same one.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

/// A process. Its start is part of its name, because a pid is used again: a signal for a server that has
/// ended must not reach whoever has its pid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: i32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// None that is alive.
    pub const NONE: Self = Self { pid: 0, started: 0 };

    /// The process that has the pid, unless it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        // "pid (name) state …": the name may hold anything, so it is the last parenthesis that counts. The
        // start is the 22nd field, the state the third.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        // A zombie has ended, only nobody has collected it yet.
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // An error: it has ended meanwhile.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// A command without our environment, run as the user.
pub(super) fn command(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// The server that runs over the cluster, and its port.
pub(super) fn server_of(cluster: &Path) -> Option<(Process, u16)> {
    let text = std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2)?.trim().parse().ok()?;
    // The pid may be another process's by now: a server works in its cluster.
    works_in(pid, cluster).then(|| Process::of(pid)).flatten().map(|process| (process, port))
}

/// Removes the pid file of a server that was killed, if its pid is another process's by now. PostgreSQL
/// would take that one for the server if it is its user's, and refuse to start. It stays while any process
/// works in the cluster: that may be what is left of the server. Other stale pid files PostgreSQL sees
/// through by itself.
pub(super) fn forget_killed(cluster: &Path) -> std::io::Result<()> {
    let path = cluster.join("postmaster.pid");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let pid = text.lines().next().and_then(|pid| pid.trim().parse().ok());
    if pid.and_then(Process::of).is_none() || is_in_use(cluster)? {
        return Ok(());
    }
    tracing::warn!(pid, "the pid of a server that was killed is another process's by now");
    std::fs::remove_file(&path)
}

fn is_in_use(cluster: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if pid.is_some_and(|pid| works_in(pid, cluster)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn works_in(pid: i32, cluster: &Path) -> bool {
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd"));
    matches!((folder, std::fs::canonicalize(cluster)), (Ok(folder), Ok(cluster)) if folder == cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let pid = i32::try_from(std::process::id()).expect("a pid is small");
        let ourselves = Process::of(pid).expect("we are alive");
        assert!(ourselves.is_alive());
        assert!(!Process { started: ourselves.started + 1, ..ourselves }.is_alive());
        assert!(!Process::NONE.is_alive());
    }

    #[test]
    fn a_process_that_nobody_has_collected_has_ended() {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "read line"]).stdin(std::process::Stdio::piped());
        let mut child = shell.spawn().expect("starts");
        let process = Process::of(i32::try_from(child.id()).expect("a pid is small")).expect("alive");
        drop(child.stdin.take());
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().expect("collected");
    }
}
