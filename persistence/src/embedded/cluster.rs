//! The folder of a server: who holds it, where it lies, its password, and how it is made whole or not at
//! all.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::User;

use super::process::command;
use super::{Doing, EmbeddedError, SUPERUSER};

/// For clusters that cannot lie in the data folder.
const ELSEWHERE: &str = "/var/lib/souk";

/// Where a cluster lies.
#[derive(Debug)]
pub(super) struct Place {
    pub cluster: PathBuf,
    /// It lies outside the data folder: the file there that says where.
    location: Option<PathBuf>,
    /// The version that made it; `None`: it is not made yet.
    pub made_by: Option<u32>,
}

impl Place {
    /// In the data folder; or, where the server's user cannot reach that (a data folder below /root), in
    /// /var/lib/souk.
    pub fn of(data: &Path, user: Option<&User>) -> Result<Self, EmbeddedError> {
        let location = data.join("postgres.location");
        match std::fs::read_to_string(&location) {
            Ok(cluster) => {
                let cluster = PathBuf::from(cluster.trim());
                // The file is written when the cluster is made. To make another in silence would be to
                // lose every order.
                let made_by = version(&cluster)?;
                return match made_by {
                    Some(_) => Ok(Self { cluster, location: Some(location), made_by }),
                    None => Err(EmbeddedError::Lost { cluster, location }),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing("read", &location),
        }
        let inside = data.join("postgres");
        let made_by = version(&inside)?;
        let is_reachable = |user| data.ancestors().all(|folder| is_searchable(folder, user));
        if made_by.is_some() || user.is_none_or(is_reachable) {
            return Ok(Self { cluster: inside, location: None, made_by });
        }
        // A fresh name: what an earlier data folder of this path has left has another password.
        let cluster = Path::new(ELSEWHERE).join(hex(&rand::random::<[u8; 8]>()));
        Ok(Self { cluster, location: Some(location), made_by: None })
    }

    /// Takes the cluster for this process, if the lock of the data folder does not say it all: a copied
    /// data folder names the same cluster.
    pub fn hold(&self, data: &Path) -> Result<Option<File>, EmbeddedError> {
        let Some(folder) = self.location.as_ref().and_then(|_| self.cluster.parent()) else {
            return Ok(None);
        };
        std::fs::create_dir_all(folder).doing("make", folder)?;
        hold(&beside(&self.cluster, "lock"), data).map(Some)
    }

    /// Makes the cluster beside its place and moves it there whole: one that was made by half is made anew.
    pub async fn make(
        &self,
        binaries: &Path,
        password: &str,
        user: Option<&User>,
    ) -> Result<(), EmbeddedError> {
        let making = beside(&self.cluster, "making");
        match std::fs::remove_dir_all(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing("remove", &making);
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&making).doing("make", &making)?;
        // initdb reads the password as the server's user, and not from within the cluster.
        let secret = beside(&self.cluster, "secret");
        keep(&secret, password)?;
        if let Some(user) = user {
            for path in [&making, &secret] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).doing("hand over", path)?;
            }
        }
        let program = binaries.join("initdb");
        let mut initdb = command(&program, user);
        initdb
            .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"])
            .args(["--username", SUPERUSER, "--pwfile"])
            .arg(&secret)
            .arg("-D")
            .arg(&making);
        let output = tokio::task::spawn_blocking(move || initdb.output()).await;
        std::fs::remove_file(&secret).doing("remove", &secret)?;
        let output = output.unwrap_or_else(|error| Err(io::Error::other(error))).doing("run", &program)?;
        if !output.status.success() {
            return Err(EmbeddedError::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        std::fs::rename(&making, &self.cluster).doing("move", &making)?;
        sync_folder_of(&self.cluster)?;
        match &self.location {
            Some(location) => {
                let cluster = self.cluster.display();
                tracing::info!(%cluster, "the database lies outside the data folder, which its user cannot reach");
                keep(location, &format!("{cluster}\n"))
            }
            None => Ok(()),
        }
    }
}

/// Takes the folder for this process. The lock goes with the process, however it ends.
pub(super) fn hold(path: &Path, data: &Path) -> Result<File, EmbeddedError> {
    let lock = File::options().create(true).append(true).open(path).doing("open", path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(EmbeddedError::InUse(data.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => {
            Err(EmbeddedError::File { doing: "lock", path: path.to_owned(), source })
        }
    }
}

/// The superuser's password, made once and synced before the cluster is made with it.
pub(super) fn password(data: &Path, has_cluster: bool) -> Result<String, EmbeddedError> {
    let path = data.join("postgres.password");
    match std::fs::read_to_string(&path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing("read", &path),
    }
    if has_cluster {
        return Err(EmbeddedError::NoPassword(path));
    }
    let password = hex(&rand::random::<[u8; 32]>());
    keep(&path, &password)?;
    Ok(password)
}

/// The major version that made a cluster; `None`: there is no cluster.
fn version(cluster: &Path) -> Result<Option<u32>, EmbeddedError> {
    let path = cluster.join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other).doing("read", &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read", &path),
    }
}

fn is_searchable(folder: &Path, user: &User) -> bool {
    let Ok(metadata) = std::fs::metadata(folder) else { return false };
    let mode = metadata.permissions().mode();
    let is_owner = metadata.uid() == user.uid.as_raw();
    let is_group = metadata.gid() == user.gid.as_raw();
    is_owner && mode & 0o100 != 0 || is_group && mode & 0o010 != 0 || mode & 0o001 != 0
}

fn beside(cluster: &Path, what: &str) -> PathBuf {
    let mut name = cluster.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

/// Writes a file whole or not at all, readable by its owner only.
fn keep(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    let fresh = beside(path, "new");
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .doing("make", &fresh)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).doing("write", &fresh)?;
    std::fs::rename(&fresh, path).doing("move", &fresh)?;
    sync_folder_of(path)
}

/// A name that is not synced may be gone after a power cut, whatever was synced under it.
fn sync_folder_of(path: &Path) -> Result<(), EmbeddedError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).doing("sync", folder)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
