//! The Souk under test: one that the bench starts itself, or one that runs already.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use super::database::Server;
use super::meter::Meter;
use super::program::Program;
use super::target::Target;

/// Tokens of the bench outlive it.
const TOKEN_TTL_S: &str = "86400";
const SETTINGS: &str = "SOUK__";
const DATABASE_SETTINGS: &str = "SOUK__DATABASE__";

/// The Souk under test.
#[derive(Debug)]
pub struct Shop {
    own: Option<Own>,
    /// Where to buy.
    pub target: Target,
}

/// A Souk that the bench has started.
#[derive(Debug)]
struct Own {
    program: Program,
    server: Server,
    folder: Folder,
}

/// Where it keeps its data.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed is left to the system's own tidying.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Shop {
    /// Starts a Souk with a database of its own. `data`: the folder, which is then kept.
    pub async fn start(data: Option<&Path>) -> Result<Self> {
        let folder = Folder {
            path: match data {
                Some(data) => std::path::absolute(data)?,
                None => std::env::temp_dir().join(format!("souk-bench-{}", std::process::id())),
            },
            is_kept: data.is_some(),
        };
        std::fs::create_dir_all(&folder.path).with_context(|| format!("make {}", folder.path.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&folder.path);
        for (name, _) in std::env::vars_os() {
            if is_database_url(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        // There is no souk.toml in its folder: nothing but the environment changes a setting.
        command.env("SOUK__TOKEN__ACCESS_TTL_S", TOKEN_TTL_S).current_dir(&folder.path);
        let program = Program::start(command, &folder.path.join("souk.log")).await?;
        let target = Target::empty(&program.authority);
        match Server::of(&folder.path) {
            Ok(server) => Ok(Self { own: Some(Own { program, server, folder }), target }),
            Err(error) => {
                program.stop().await?;
                Err(error.context("find the database of the Souk that was started"))
            }
        }
    }

    /// One that runs already. `authority`: host and port.
    pub fn at(authority: &str) -> Self {
        Self { own: None, target: Target::empty(authority) }
    }

    /// The server of its databases, if it is the bench's own.
    pub fn server(&self) -> Option<&Server> {
        self.own.as_ref().map(|own| &own.server)
    }

    /// Where its data lies, likewise.
    pub fn folder(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.folder.path.as_path())
    }

    /// Reads what can be seen of it.
    pub async fn meter(&self) -> Result<Meter> {
        let postgres = match self.server() {
            Some(server) => Some((server.clone(), server.connect("order_db").await?)),
            None => None,
        };
        let node = self.own.as_ref().map(|own| own.program.pid());
        Ok(Meter { node, postgres, souk: Some(self.target.clone()) })
    }

    /// Stops it, if it is the bench's own.
    pub async fn close(self) -> Result<()> {
        let Some(Own { program, server: _, folder }) = self.own else { return Ok(()) };
        let stopped = program.stop().await;
        drop(folder);
        stopped
    }
}

/// Variables of the environment that change Souk's settings, as the report names them. Their values may be
/// secrets.
pub fn settings() -> Vec<String> {
    let is_passed_on = |name: &String| name.to_uppercase().starts_with(SETTINGS) && !is_database_url(name);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<_> = names.filter(is_passed_on).collect();
    names.sort();
    names
}

/// It says where a database is. The bench never works on one that is not its own.
fn is_database_url(name: &str) -> bool {
    let name = name.to_uppercase();
    name.starts_with(DATABASE_SETTINGS) && name.ends_with("URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_of_others_are_never_worked_on() {
        assert!(is_database_url("SOUK__DATABASE__URL") && is_database_url("souk__database__order_url"));
        assert!(!is_database_url("SOUK__DATABASE__POOL_SIZE") && !is_database_url("SOUK__LOG__FILTER"));
    }
}
