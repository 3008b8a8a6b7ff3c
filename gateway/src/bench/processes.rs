//! What the kernel says of processes and of the machine: time used, memory.

use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Clock ticks per second in /proc: a constant of Linux's interface to programs.
const TICKS: f64 = 100.0;

/// Of one process, from `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    parent: i32,
    /// Seconds of a core.
    own: f64,
    /// Of children that have ended.
    ended_children: f64,
}

/// Of the whole machine, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// Seconds of a core in which something ran.
    pub busy: f64,
    /// Of those and all others.
    pub all: f64,
}

/// Seconds of a core that this process has used, to the microsecond.
pub fn of_us() -> f64 {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |used| seconds(used.user_time()) + seconds(used.system_time()))
}

/// Seconds of a core that the process has used.
pub fn of(pid: i32) -> Option<f64> {
    Some(stat(&read(format!("/proc/{pid}/stat"))?)?.own)
}

/// The same with all its children, also those that have ended.
pub fn of_family(pid: i32) -> Option<f64> {
    let parent = stat(&read(format!("/proc/{pid}/stat"))?)?;
    let children = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        stat(&read(format!("/proc/{id}/stat"))?).filter(|stat| stat.parent == pid)
    });
    let children: f64 = children.map(|child| child.own + child.ended_children).sum();
    Some(parent.own + parent.ended_children + children)
}

/// What the process has in memory, in bytes.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let status = read(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The machine's time.
pub fn machine() -> Machine {
    read("/proc/stat").as_deref().and_then(machine_of).unwrap_or_default()
}

/// The model of the processor.
pub fn processor() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The machine's memory in bytes.
pub fn memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The kernel's release.
pub fn kernel() -> Option<String> {
    Some(read("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The type of the file system on which a path lies.
pub fn file_system(path: &Path) -> Option<String> {
    file_system_of(&read("/proc/self/mounts")?, &std::fs::canonicalize(path).ok()?)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// "pid (name) state parent …": the name may hold anything, so it is the last parenthesis that counts.
/// utime, stime, cutime and cstime are fields 14 to 17, the state is the third.
fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(14)? + ticks(15)?) / TICKS,
        ended_children: (ticks(16)? + ticks(17)?) / TICKS,
    })
}

/// "cpu user nice system idle iowait irq softirq steal guest …": guests are in user already.
fn machine_of(text: &str) -> Option<Machine> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    let all = fields.iter().sum::<f64>() / TICKS;
    let idle = (fields.get(3)? + fields.get(4)?) / TICKS;
    Some(Machine { busy: all - idle, all })
}

/// The longest place that the path begins with.
fn file_system_of(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    let under = mounts.lines().filter_map(mount).filter(|(place, _)| path.starts_with(place));
    under.max_by_key(|(place, _)| place.len()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 900 0 0 0 150 50 30 20 20 0 1 0 99 1 1 1";
        assert_eq!(stat(text), Some(Stat { parent: 7, own: 2.0, ended_children: 0.5 }));
        assert_eq!(stat("42 (cut) S"), None);
        assert!(of_us() >= 0.0 && of(i32::MAX).is_none());
    }

    #[test]
    fn waiting_for_the_disk_is_not_work() {
        let text = "cpu  100 0 200 600 50 10 20 20 70 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(machine_of(text), Some(Machine { busy: 3.5, all: 10.0 }));
        assert!(machine().all > 0.0);
    }

    #[test]
    fn a_child_that_has_ended_still_counts() {
        let us = i32::try_from(std::process::id()).expect("a pid is small");
        let before = of_family(us).expect("we are there");
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("/bin/sh").args(["-c", spin]).status().expect("runs").success());
        assert!(of_family(us).expect("we are there") > before);
    }

    #[test]
    fn a_path_lies_on_the_innermost_file_system() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n";
        let kind = |path: &str| file_system_of(mounts, Path::new(path));
        assert_eq!(kind("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmpfile").as_deref(), Some("ext4"));
    }
}
