//! The register: `cluster_db`, where nodes and shards are written down. What it does is in its functions,
//! `migrations/0001_cluster.sql`; here they are called.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row as _};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::map::{ClusterMap, Node, Role};

/// What brings `cluster_db` to this build's shape.
pub fn migrations() -> Migrator {
    sqlx::migrate!("./migrations")
}

/// Between two looks at how far nodes are.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where changes are told.
pub const CHANNEL: &str = "souk_cluster";

/// Why the register did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It does not answer.
    #[error("cluster_db does not answer")]
    Unavailable(#[from] sqlx::Error),
    /// What it says cannot be read: another build made it.
    #[error("what cluster_db says cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

/// Who joins.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Of this start.
    pub incarnation: Uuid,
    /// Through all starts.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Where clients reach it.
    pub http: String,
    /// What it does.
    pub role: Role,
    /// Its build.
    pub version: String,
}

/// What a node says of itself with every renewal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// How far its clock is ahead, in microseconds.
    pub ahead_us: i64,
    /// The version of the map that it acts upon.
    pub seen: i64,
    /// It cannot serve: its shards are to go to others.
    pub is_stuck: bool,
}

/// A connection to the register, made when it is needed. Whatever fails is tried on a new one.
#[derive(Debug)]
pub struct Register {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    answer_max: Duration,
}

/// Binds nothing, or a few values.
macro_rules! call {
    ($register:expr, $text:literal $(, $value:expr)*) => {{
        let answer_max = $register.answer_max;
        let connection = $register.connection().await?;
        let answer = timeout(answer_max, sqlx::query($text)$(.bind($value))*.fetch_one(connection)).await;
        $register.answered(answer)
    }};
}

impl Register {
    /// Over a migrated `cluster_db`. One call takes at most `answer_max`.
    pub fn new(options: PgConnectOptions, answer_max: Duration) -> Self {
        Self { options: options.disable_statement_logging(), connection: None, answer_max }
    }

    /// The same register, over a connection of its own.
    pub fn again(&self) -> Self {
        Self { options: self.options.clone(), connection: None, answer_max: self.answer_max }
    }

    /// Makes the cluster if there is none: the number of shards that it has.
    pub async fn found(&mut self, shards: i16) -> Result<i16, RegisterError> {
        Ok(call!(self, "select found($1)", shards)?.try_get(0)?)
    }

    /// Joins, with no shard.
    pub async fn join(&mut self, node: &Introduction, lease: Duration) -> Result<(), RegisterError> {
        let Introduction { incarnation, name, address, http, role, version } = node;
        call!(
            self,
            "select join_as($1, $2, $3, $4, $5, $6, $7)",
            incarnation,
            name,
            address,
            http,
            role.name(),
            version,
            interval(lease)
        )?;
        Ok(())
    }

    /// Renews a lease and reads everything. `None`: the lease has ended before.
    pub async fn renew(
        &mut self,
        incarnation: Uuid,
        lease: Duration,
        Standing { ahead_us, seen, is_stuck }: Standing,
    ) -> Result<Option<ClusterMap>, RegisterError> {
        let row = call!(
            self,
            "select renew($1, $2, $3, $4, $5)::text",
            incarnation,
            interval(lease),
            ahead_us,
            seen,
            is_stuck
        )?;
        let text: Option<String> = row.try_get(0)?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// Reads everything. `None`: there is no cluster yet.
    pub async fn overview(&mut self) -> Result<Option<ClusterMap>, RegisterError> {
        let row = call!(self, "select (select overview())::text")?;
        let text: Option<String> = row.try_get(0)?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// Takes shards that nobody has: how many.
    pub async fn take(&mut self, incarnation: Uuid, shards: &[u16]) -> Result<i64, RegisterError> {
        Ok(call!(self, "select take($1, $2)", incarnation, numbers(shards))?.try_get(0)?)
    }

    /// Gives shards to another node, or to nobody: how many. None after `before_us`, by the register's clock in
    /// microseconds since 1970.
    pub async fn give(
        &mut self,
        incarnation: Uuid,
        shards: &[u16],
        to: Option<Uuid>,
        before_us: i64,
    ) -> Result<i64, RegisterError> {
        Ok(call!(self, "select give($1, $2, $3, $4)", incarnation, numbers(shards), to, before_us)?
            .try_get(0)?)
    }

    /// Whether a give with this end that was not answered has happened by now or never will.
    pub async fn settle(&mut self, before_us: i64) -> Result<bool, RegisterError> {
        Ok(call!(self, "select settle($1)", before_us)?.try_get(0)?)
    }

    /// Goes away.
    pub async fn leave(&mut self, incarnation: Uuid) -> Result<(), RegisterError> {
        call!(self, "select 1 from leave($1)", incarnation)?;
        Ok(())
    }

    /// Has a node, by name or incarnation, give its shards away, or take shards again: how many there are.
    pub async fn drain(&mut self, node: &str, is_so: bool) -> Result<i64, RegisterError> {
        Ok(call!(self, "select drain($1, $2)", node, is_so)?.try_get(0)?)
    }

    /// Stops moves for balance for so long; zero: they go on.
    pub async fn hold(&mut self, how_long: Duration) -> Result<(), RegisterError> {
        call!(self, "select 1 from hold($1)", interval(how_long))?;
        Ok(())
    }

    /// Has nobody serve these slots while `move_id` moves them: the version of the map in which that is so.
    pub async fn freeze(&mut self, move_id: Uuid, first: i16, last: i16) -> Result<i64, RegisterError> {
        Ok(call!(self, "select freeze($1, $2, $3)", move_id, first, last)?.try_get(0)?)
    }

    /// Has every node read again which database holds what: the version of the map that tells it.
    pub async fn announce(&mut self) -> Result<i64, RegisterError> {
        Ok(call!(self, "select announce()")?.try_get(0)?)
    }

    /// They are served again: the version in which that is so.
    pub async fn thaw(&mut self, move_id: Uuid) -> Result<i64, RegisterError> {
        Ok(call!(self, "select thaw($1)", move_id)?.try_get(0)?)
    }

    /// Waits until every live node acts upon a version of the map. `false`: one does not within `patience`.
    pub async fn followed(&mut self, version: i64, patience: Duration) -> Result<bool, RegisterError> {
        let deadline = Instant::now() + patience;
        loop {
            let map = self.overview().await?;
            let lags = |node: &Node| node.is_live() && node.seen < version;
            if !map.is_some_and(|map| map.nodes.iter().any(lags)) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => {
                let connected = timeout(self.answer_max, self.options.connect()).await;
                Ok(empty.insert(connected.map_err(timed_out)??))
            }
        }
    }

    fn answered<T>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, sqlx::Error> {
        let answer = answer.map_err(timed_out).and_then(|answer| answer);
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        if let Some(connection) = self.connection {
            // A server that is away is not said goodbye to.
            let _ = timeout(self.answer_max, connection.close()).await;
        }
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

fn numbers(shards: &[u16]) -> Vec<i16> {
    shards.iter().filter_map(|shard| i16::try_from(*shard).ok()).collect()
}
