//! The database server of the Souk under test, seen from outside: where it is, what it has written, how
//! large it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row as _};

const USER: &str = "souk";

/// A server that `souk serve` has started over a data folder.
#[derive(Clone, Debug)]
pub struct Server {
    /// Of its first process, the parent of all others.
    pub pid: i32,
    /// On loopback.
    pub port: u16,
    password: String,
}

impl Server {
    /// The one that runs over a data folder.
    pub fn of(data: &Path) -> Result<Self> {
        let password = std::fs::read_to_string(data.join("postgres.password"))?;
        // Where its user cannot reach the data folder, it lies elsewhere.
        let cluster = match std::fs::read_to_string(data.join("postgres.location")) {
            Ok(elsewhere) => PathBuf::from(elsewhere.trim()),
            Err(_) => data.join("postgres"),
        };
        let file = std::fs::read_to_string(cluster.join("postmaster.pid"))?;
        let mut lines = file.lines();
        let pid = lines.next().context("postmaster.pid names no process")?.trim().parse()?;
        let port = lines.nth(2).context("postmaster.pid names no port")?.trim().parse()?;
        Ok(Self { pid, port, password: password.trim().to_owned() })
    }

    /// Of its superuser.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The URL of a database on it: holds the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A connection to a database on it.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        let options: PgConnectOptions = self.url(database).parse()?;
        let options = options.disable_statement_logging();
        PgConnection::connect_with(&options).await.with_context(|| format!("connect to {database}"))
    }

    /// A program of the installation that the server was started from.
    pub fn installed(&self, program: &str) -> Option<PathBuf> {
        let server = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        Some(server.with_file_name(program)).filter(|path| path.is_file())
    }
}

/// The version of the server.
pub async fn version(connection: &mut PgConnection) -> Result<String> {
    Ok(sqlx::query("show server_version").fetch_one(connection).await?.try_get(0)?)
}

/// How many bytes of log the server has ever written.
pub async fn log_bytes(connection: &mut PgConnection) -> Result<i64> {
    let position = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    Ok(sqlx::query(position).fetch_one(connection).await?.try_get(0)?)
}

/// How large the databases of orders, payments and products are, with their indexes.
pub async fn bytes(connection: &mut PgConnection) -> Result<i64> {
    let size = "select sum(pg_database_size(datname))::bigint from pg_database
                where datname in ('order_db', 'payment_db', 'product_db')";
    Ok(sqlx::query(size).fetch_one(connection).await?.try_get(0)?)
}
