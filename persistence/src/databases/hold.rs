//! Who has a database: one Souk alone, or the nodes of a cluster together.
//!
//! An advisory lock says so, on a connection that is kept for nothing else. A lone Souk takes it exclusively
//! and a cluster's nodes share it, so a lone one and a cluster never have the same database at once. It is
//! no lease and protects no row: a row is taken only if its version fits, whoever sends it. It keeps two
//! shops that know nothing of each other from serving the same customers.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::DatabasesError;
use super::server::{connect, within};

/// "souk" in ASCII.
const NODE_LOCK: i64 = 0x736f_756b;
/// A killed predecessor's connection may linger so long.
const LOCK_MAX: Duration = Duration::from_secs(10);
const LOCK_AGAIN: Duration = Duration::from_millis(250);
/// How often it is made sure that the lock is still ours.
const LOCK_CHECK: Duration = Duration::from_secs(2);

const TAKE_ALONE: &str = "select pg_try_advisory_lock($1)";
const TAKE_SHARED: &str = "select pg_try_advisory_lock_shared($1)";

/// Whether somebody has the database alone (true), shares it (false), or nobody has it (null). A lock of 64
/// bits is shown in two halves.
const HELD: &str = "
select bool_or(mode = 'ExclusiveLock') from pg_locks
where locktype = 'advisory' and granted and (classid::bigint << 32 | objid::bigint) = $1
  and database = (select oid from pg_database where datname = current_database())";

/// How a database is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By one Souk, and no other.
    Alone,
    /// By the nodes of a cluster.
    Shared,
}

/// Why a database cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// It was wanted alone, and another Souk has it alone.
    TwoAlone,
    /// It was wanted alone, and a cluster has it.
    AloneInCluster,
    /// A cluster's node wanted it, and a Souk has it alone.
    ClusterInAlone,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoAlone => {
                "in use by another Souk: stop it, or run both as nodes of a cluster (cluster.listen)"
            }
            Self::AloneInCluster => {
                "in use by a cluster: set cluster.listen to join it, or stop all its nodes to run alone"
            }
            Self::ClusterInAlone => {
                "in use by a Souk that runs alone: stop it before a cluster takes its databases"
            }
        })
    }
}

/// Takes the lock; waits a while for a predecessor to be gone.
pub(super) async fn take(
    database: &str,
    connection: &mut PgConnection,
    hold: Hold,
) -> Result<(), DatabasesError> {
    let unreachable = |source| DatabasesError::Unreachable { database: database.to_owned(), source };
    let deadline = Instant::now() + LOCK_MAX;
    while !lock(connection, hold).await.map_err(unreachable)? {
        if Instant::now() >= deadline {
            let conflict = match (hold, holder(connection).await.map_err(unreachable)?) {
                (Hold::Shared, _) => Conflict::ClusterInAlone,
                (Hold::Alone, Some(Hold::Shared)) => Conflict::AloneInCluster,
                (Hold::Alone, Some(Hold::Alone) | None) => Conflict::TwoAlone,
            };
            return Err(DatabasesError::InUse { database: database.to_owned(), conflict });
        }
        tokio::time::sleep(LOCK_AGAIN).await;
    }
    Ok(())
}

/// How the database is held, by whomever.
pub(super) async fn holder(connection: &mut PgConnection) -> Result<Option<Hold>, sqlx::Error> {
    let is_alone: Option<bool> =
        within(sqlx::query(HELD).bind(NODE_LOCK).fetch_one(connection)).await?.try_get(0)?;
    Ok(is_alone.map(|is_alone| if is_alone { Hold::Alone } else { Hold::Shared }))
}

/// Keeps the lock: if its connection is lost, as when the server restarts, it is taken anew.
pub(super) async fn keep(
    mut held: PgConnection,
    options: PgConnectOptions,
    (database, hold): (String, Hold),
    lose: watch::Sender<bool>,
) {
    loop {
        tokio::time::sleep(LOCK_CHECK).await;
        if within(held.ping()).await.is_ok() {
            continue;
        }
        match take_again(&database, &options, hold).await {
            Ok(connection) => held = connection,
            Err(DatabasesError::InUse { conflict, .. }) => {
                tracing::error!(database, "database was lost and is {conflict}; this node must stop");
                lose.send_replace(true);
                return;
            }
            // Away, or on its way back: nobody has taken it from us, so there is no reason to stop.
            Err(error) => tracing::warn!(database, %error, "database cannot be reached"),
        }
    }
}

async fn take_again(
    database: &str,
    options: &PgConnectOptions,
    hold: Hold,
) -> Result<PgConnection, DatabasesError> {
    let unreachable = |source| DatabasesError::Unreachable { database: database.to_owned(), source };
    let mut connection = connect(options).await.map_err(unreachable)?;
    take(database, &mut connection, hold).await?;
    Ok(connection)
}

async fn lock(connection: &mut PgConnection, hold: Hold) -> Result<bool, sqlx::Error> {
    let query = match hold {
        Hold::Alone => sqlx::query(TAKE_ALONE),
        Hold::Shared => sqlx::query(TAKE_SHARED),
    };
    within(query.bind(NODE_LOCK).fetch_one(connection)).await?.try_get(0)
}
