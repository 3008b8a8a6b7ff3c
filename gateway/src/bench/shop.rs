//! The Souk under test: one that the bench starts itself, or one that runs already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::Row as _;
use tokio::process::Command;
use tokio::time::Instant;

use super::database::Server;
use super::meter::Meter;
use super::options::Options;
use super::program::Program;
use super::target::Target;

/// Tokens of the bench outlive it.
const TOKEN_TTL_S: &str = "86400";
/// As many shards as a cluster has that is not told otherwise.
const SHARDS: i64 = 64;
/// How many shards the node has that has the fewest; null while somebody has none.
const PARTS: &str = "
select case when bool_and(owner is not null) then
  (select min(shards) from (
     select count(s.number) as shards from node n left join shard s on s.owner = n.incarnation
     where not n.is_buried and n.role <> 'gateway' group by n.incarnation) parts)
end from shard";
const SETTLED_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const SETTINGS: &str = "SOUK__";
const DATABASE_SETTINGS: &str = "SOUK__DATABASE__";
const KAFKA_SETTINGS: &str = "SOUK__KAFKA__";

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
    /// Those that answer, all of them.
    nodes: Vec<Program>,
    /// The database server, where the node is not alone with one of its own.
    postgres: Option<Program>,
    server: Server,
    folder: Folder,
}

/// How many nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One, with a database server of its own.
    Alone,
    /// Some that share a server, and some without shards before them.
    Cluster {
        /// With shards.
        nodes: u16,
        /// Without; where there are any, buyers connect to these alone.
        gateways: u16,
    },
}

/// What a Souk has of Kafka.
#[derive(Clone, Copy, Debug)]
pub enum Bridge<'a> {
    /// What the environment says.
    AsSet,
    /// Nothing, whatever it says.
    None,
    /// These brokers.
    To(&'a str),
}

impl Shape {
    /// As asked for.
    pub fn of(options: &Options) -> Self {
        match options.nodes {
            None => Self::Alone,
            Some(nodes) => Self::Cluster { nodes, gateways: options.gateways },
        }
    }
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
    pub async fn start(data: Option<&Path>, shape: Shape, bridge: Bridge<'_>) -> Result<Self> {
        let folder = Folder {
            path: match data {
                Some(data) => std::path::absolute(data)?,
                None => std::env::temp_dir().join(match bridge {
                    Bridge::AsSet | Bridge::None => format!("souk-bench-{}", std::process::id()),
                    Bridge::To(_) => format!("souk-bench-{}-with-kafka", std::process::id()),
                }),
            },
            is_kept: data.is_some(),
        };
        std::fs::create_dir_all(&folder.path).with_context(|| format!("make {}", folder.path.display()))?;
        let path = folder.path.as_path();
        let (nodes, postgres, doors) = match shape {
            Shape::Alone => {
                let node = Program::start(souk(path, path, "serve", bridge)?, &path.join("souk.log")).await?;
                let doors = vec![node.authority.clone()];
                (vec![node], None, doors)
            }
            Shape::Cluster { nodes, gateways } => {
                let server =
                    Program::start(souk(path, path, "postgres", bridge)?, &path.join("souk.log")).await?;
                let (nodes, doors) = cluster(path, nodes, gateways, bridge).await?;
                (nodes, Some(server), doors)
            }
        };
        let server = Server::of(path).context("find the database of the Souk that was started")?;
        Ok(Self { own: Some(Own { nodes, postgres, server, folder }), target: Target::empty(doors) })
    }

    /// One that runs already. `authority`: host and port.
    pub fn at(authority: &str) -> Self {
        Self { own: None, target: Target::empty(vec![authority.to_owned()]) }
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
        let (nodes, souks) = match &self.own {
            Some(own) => own.nodes.iter().map(|node| (node.pid(), node.authority.clone())).unzip(),
            None => (Vec::new(), self.target.doors.to_vec()),
        };
        Ok(Meter { nodes, postgres, souks })
    }

    /// Stops it, if it is the bench's own.
    pub async fn close(self) -> Result<()> {
        let Some(Own { nodes, postgres, server: _, folder }) = self.own else { return Ok(()) };
        let mut stopped = Ok(());
        for program in nodes.into_iter().chain(postgres) {
            stopped = program.stop().await.and(stopped);
        }
        drop(folder);
        stopped
    }
}

/// `souk serve`, or another verb of it, over a folder. There is no souk.toml where it is started: nothing but the
/// environment changes a setting.
fn souk(folder: &Path, data: &Path, verb: &str, bridge: Bridge<'_>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(verb).arg("--data").arg(data);
    if verb == "serve" {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_overruled = match bridge {
            Bridge::AsSet | Bridge::To(_) => false,
            Bridge::None => is_of_kafka(&text),
        };
        if is_database_url(&text) || is_overruled {
            command.env_remove(name);
        }
    }
    if let Bridge::To(brokers) = bridge {
        let prefix = format!("bench-{}-", std::process::id());
        command.env("SOUK__KAFKA__BROKERS", brokers).env("SOUK__KAFKA__PREFIX", prefix);
    }
    command.env("SOUK__TOKEN__ACCESS_TTL_S", TOKEN_TTL_S).current_dir(folder);
    Ok(command)
}

/// Starts nodes over the server in `folder`, and waits until every shard is served: all nodes, and where buyers
/// connect.
async fn cluster(
    folder: &Path,
    nodes: u16,
    gateways: u16,
    bridge: Bridge<'_>,
) -> Result<(Vec<Program>, Vec<String>)> {
    let server = Server::of(folder).context("find the database server that was started")?;
    let cookie = format!("{:032x}", rand::random::<u128>());
    let roles =
        std::iter::repeat_n("both", nodes.into()).chain(std::iter::repeat_n("gateway", gateways.into()));
    let mut programs = Vec::new();
    for (number, role) in roles.enumerate() {
        let data = folder.join(format!("node-{number}"));
        let mut command = souk(folder, &data, "serve", bridge)?;
        command
            .env("SOUK__DATABASE__URL", server.url("postgres"))
            .env("SOUK__CLUSTER__LISTEN", "127.0.0.1:0")
            .env("SOUK__CLUSTER__COOKIE", &cookie)
            .env("SOUK__CLUSTER__NAME", format!("node-{number}"))
            .env("SOUK__CLUSTER__ROLE", role)
            // The books of one node that is alone: so that only what is compared differs.
            .env("SOUK__PAYMENT__SANDBOX_FOLDER", folder.join("sandbox"));
        programs.push(Program::start(command, &folder.join(format!("node-{number}.log"))).await?);
    }
    let mut register = server.connect("cluster_db").await?;
    let deadline = Instant::now() + SETTLED_MAX;
    loop {
        let least: Option<i64> = sqlx::query(PARTS).fetch_one(&mut register).await?.try_get(0)?;
        if least.is_some_and(|least| least * i64::from(nodes) >= SHARDS - SHARDS / 8) {
            break;
        }
        ensure!(Instant::now() < deadline, "the cluster does not settle");
        tokio::time::sleep(POLL).await;
    }
    let buyers_at = if gateways == 0 { 0 } else { usize::from(nodes) };
    let doors = programs[buyers_at..].iter().map(|program| program.authority.clone()).collect();
    Ok((programs, doors))
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

fn is_of_kafka(name: &str) -> bool {
    name.to_uppercase().starts_with(KAFKA_SETTINGS)
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
