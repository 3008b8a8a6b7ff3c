//! Finds PostgreSQL's programs, and whom they are run as.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::EmbeddedError;

/// The oldest version that Souk's statements were tried on.
const VERSION_MIN: u32 = 15;

/// The configured folder; else Debian's of the version that made the cluster, else its newest; else where
/// `postgres` is on the path.
pub(super) fn find(configured: Option<&Path>, made_by: Option<u32>) -> Result<PathBuf, EmbeddedError> {
    if let Some(folder) = configured {
        return match has_binaries(folder) {
            true => Ok(folder.to_owned()),
            false => Err(EmbeddedError::NotBinaries(folder.to_owned())),
        };
    }
    let versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, folder)| *version >= VERSION_MIN && has_binaries(folder))
        .collect();
    // A server opens only the clusters of its own version: a newer one that is installed later must not
    // keep Souk from its data.
    let best = versions.into_iter().max_by_key(|(version, _)| (Some(*version) == made_by, *version));
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| has_binaries(folder) && is_recent(folder))
    };
    best.map(|(_, folder)| folder).or_else(on_path).ok_or(EmbeddedError::NoBinaries)
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
pub(super) fn unprivileged() -> Result<Option<User>, EmbeddedError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    user.map(Some).ok_or(EmbeddedError::NoUser)
}
