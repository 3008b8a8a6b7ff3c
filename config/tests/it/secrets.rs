//! The secrets, and the script that makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::stack::{beside, stack};

/// A folder of secrets of its own, gone after the test.
pub struct Secrets(PathBuf);

impl Secrets {
    /// As an operator makes them. `name`: of whoever asks.
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("souk-secrets-{name}-{}", std::process::id()));
        let secrets = Self(folder);
        secrets.make();
        secrets
    }

    fn make(&self) {
        let script = beside("config/compose-secrets.sh");
        let status = Command::new(script).arg(&self.0).stderr(Stdio::null()).status().expect("it runs");
        assert!(status.success(), "{status}");
    }

    /// Where the file is that docker-compose.yml declares as `secrets/…`.
    pub fn file(&self, declared: &Path) -> PathBuf {
        self.0.join(declared.strip_prefix("secrets").expect("the script's folder"))
    }

    fn contents(&self) -> BTreeMap<String, String> {
        let files = std::fs::read_dir(&self.0).expect("a folder").map(|file| file.expect("a file"));
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("a text");
        files.map(|file| (file.file_name().into_string().expect("Unicode"), read(file.path()))).collect()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

#[test]
fn the_script_makes_what_is_declared_and_nothing_else() {
    let stack = stack();
    let secrets = Secrets::new("declared");
    let made: BTreeSet<_> = secrets.contents().into_keys().map(|name| secrets.0.join(name)).collect();
    let declared: BTreeSet<_> = stack.secrets.values().map(|secret| secrets.file(&secret.file)).collect();
    assert_eq!(made, declared);
    let wanted: BTreeSet<_> = stack.services.values().flat_map(|service| &service.secrets).collect();
    assert_eq!(wanted, stack.secrets.keys().collect());
}

#[test]
fn a_secret_is_made_once_and_there_are_no_two_alike() {
    let secrets = Secrets::new("once");
    let first = secrets.contents();
    secrets.make();
    assert_eq!(secrets.contents(), first);
    let other = Secrets::new("other");
    let all: BTreeSet<_> = first.values().cloned().chain(other.contents().into_values()).collect();
    assert_eq!(all.len(), 2 * first.len());
}

#[test]
fn one_that_is_lost_is_made_anew_beside_the_others() {
    let secrets = Secrets::new("lost");
    let before = secrets.contents();
    std::fs::remove_file(secrets.0.join("token_key")).expect("removed");
    secrets.make();
    let after = secrets.contents();
    let changed: Vec<_> = before.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, ["token_key"]);
    assert_eq!(after.len(), before.len());
}

#[test]
fn nobody_else_gets_into_the_folder_and_a_container_reads_the_file() {
    let secrets = Secrets::new("mode");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&secrets.0), 0o700);
    for name in secrets.contents().keys() {
        assert_eq!(mode(&secrets.0.join(name)), 0o444, "{name}");
    }
}

#[test]
fn the_database_has_the_password_that_nodes_say() {
    let secrets = Secrets::new("password").contents();
    let url = format!("postgres://souk:{}@postgres:5432/postgres", secrets["postgres_password"]);
    assert_eq!(secrets["database_url"], url);
    let postgres = &stack().services["postgres"];
    assert_eq!(postgres.environment["POSTGRES_USER"], "souk");
    assert_eq!(postgres.environment["POSTGRES_PASSWORD_FILE"], "/run/secrets/postgres_password");
    assert!(postgres.secrets.contains("postgres_password"));
}
