//! The databases of the services: made where they are missing, migrated, checked, and held by one node.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::migrate::{Service, migrate};
use crate::postgres::PostgresJournal;

/// Locks a database for one node, until nodes can share: "souk" in ASCII.
const NODE_LOCK: i64 = 0x736f_756b;
/// A killed predecessor's connection may linger so long.
const LOCK_MAX: Duration = Duration::from_secs(10);
const LOCK_AGAIN: Duration = Duration::from_millis(250);
/// How often it is made sure that the lock is still ours.
const LOCK_CHECK: Duration = Duration::from_secs(2);
/// A server that says nothing for so long is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The oldest server whose behaviour the journal's statement was tried on.
const SERVER_MIN: i32 = 150_000;

/// Where the databases are: one server for all, or a URL for each.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the URL of its service, and goes before the server's")]
pub struct DatabaseUrls {
    /// A server: the databases are made on it.
    pub server: Option<String>,
    pub account: Option<String>,
    pub product: Option<String>,
    pub order: Option<String>,
    pub payment: Option<String>,
}

/// Why the databases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabasesError {
    /// Neither a URL of its own nor a server.
    #[error("no URL for {0}: set database.url or the URL of the service")]
    Missing(&'static str),
    /// Not a PostgreSQL URL. The URL is not shown: it may hold a password.
    #[error("the URL for {database} is not a PostgreSQL URL")]
    Url {
        /// Whose.
        database: &'static str,
        /// What is wrong.
        source: sqlx::Error,
    },
    /// The server does not answer.
    #[error("{database} cannot be reached")]
    Unreachable {
        /// Which.
        database: &'static str,
        /// What was said.
        source: sqlx::Error,
    },
    /// It cannot be migrated.
    #[error("{database} cannot be migrated")]
    Migrate {
        /// Which.
        database: &'static str,
        /// What was said.
        source: sqlx::migrate::MigrateError,
    },
    /// A setting of the server would lose what was promised.
    #[error("the server of {database} has {setting} = {value}, which would lose what was acknowledged")]
    Unsafe {
        /// Which.
        database: &'static str,
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// Too old.
    #[error("the server of {database} is PostgreSQL {version}; 15 or newer is needed")]
    TooOld {
        /// Which.
        database: &'static str,
        /// What it says it is.
        version: String,
    },
    /// Others are there, this one is not.
    #[error("{database} is missing or empty, and others are not")]
    Incomplete {
        /// Which.
        database: &'static str,
    },
    /// Another Souk has it.
    #[error("{database} is in use by another Souk; nodes cannot share databases yet")]
    InUse {
        /// Which.
        database: &'static str,
    },
}

/// The journals of the services, held by this node.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the journal of its service")]
pub struct Databases {
    pub account: Arc<PostgresJournal>,
    pub product: Arc<PostgresJournal>,
    pub order: Arc<PostgresJournal>,
    pub payment: Arc<PostgresJournal>,
    /// Ended, and the locks given back, when this is dropped.
    _keepers: JoinSet<()>,
    is_lost: watch::Receiver<bool>,
}

impl Databases {
    /// Makes, migrates, checks and takes the databases. `pool_size`: the most connections of readers, each.
    pub async fn open(urls: &DatabaseUrls, pool_size: u32) -> Result<Self, DatabasesError> {
        let (lose, is_lost) = watch::channel(false);
        // If a later database fails, the locks of the earlier ones go with it.
        let mut keepers = JoinSet::new();
        let mut journals = Vec::new();
        for service in Service::ALL {
            let options = options(urls, service)?;
            let lock = take(service, &options).await?;
            let database = service.database();
            migrate(service, &options)
                .await
                .map_err(|source| DatabasesError::Migrate { database, source })?;
            keepers.spawn(keep(lock, options.clone(), database, lose.clone()));
            journals.push(PostgresJournal::open(database, options, pool_size));
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        Ok(Self { account, product, order, payment, _keepers: keepers, is_lost })
    }

    /// Turns true when another Souk has taken a database: this one must stop.
    pub fn is_lost(&self) -> watch::Receiver<bool> {
        self.is_lost.clone()
    }
}

/// The journals of the services, to be read alone: nothing is made, migrated or taken, and the servers refuse
/// every change.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the journal of its service")]
pub struct ReadOnly {
    pub account: Arc<PostgresJournal>,
    pub product: Arc<PostgresJournal>,
    pub order: Arc<PostgresJournal>,
    pub payment: Arc<PostgresJournal>,
    /// Of one of them, to ask who has it.
    options: PgConnectOptions,
}

impl ReadOnly {
    /// Opens the databases as they are. `None`: none of them has ever been made.
    pub async fn open(urls: &DatabaseUrls) -> Result<Option<Self>, DatabasesError> {
        let mut journals = Vec::new();
        let mut missing = None;
        for service in Service::ALL {
            let (database, options) = (service.database(), options(urls, service)?);
            match has_journal(&options).await {
                Ok(true) => journals.push(PostgresJournal::open_read_only(database, options)),
                Ok(false) => missing = Some(database),
                Err(source) => return Err(DatabasesError::Unreachable { database, source }),
            }
        }
        match (missing, journals.is_empty()) {
            (Some(_), true) => return Ok(None),
            (Some(database), false) => return Err(DatabasesError::Incomplete { database }),
            (None, _) => {}
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        let options = options(urls, Service::Order)?;
        Ok(Some(Self { account, product, order, payment, options }))
    }

    /// Whether a Souk has the databases: then they may change at any moment.
    pub async fn is_held(&self) -> Result<bool, DatabasesError> {
        let held = async {
            let mut connection = connect(&self.options).await?;
            let query = sqlx::query(HELD).bind(NODE_LOCK);
            let held = within(query.fetch_one(&mut connection)).await?.try_get(0)?;
            connection.close().await?;
            Ok(held)
        };
        let database = Service::Order.database();
        held.await.map_err(|source| DatabasesError::Unreachable { database, source })
    }
}

/// An advisory lock of 64 bits is shown in two halves.
const HELD: &str = "
select exists (
  select from pg_locks
  where locktype = 'advisory' and granted and (classid::bigint << 32 | objid::bigint) = $1
    and database = (select oid from pg_database where datname = current_database()))";

async fn has_journal(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut connection = match connect(options).await {
        Err(error) if is_missing(&error) => return Ok(false),
        connected => connected?,
    };
    let query =
        sqlx::query("select to_regclass('entity') is not null and to_regclass('journal') is not null");
    let has = within(query.fetch_one(&mut connection)).await?.try_get(0)?;
    connection.close().await?;
    Ok(has)
}

/// 3D000: there is no such database.
fn is_missing(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("3D000")
}

fn options(urls: &DatabaseUrls, service: Service) -> Result<PgConnectOptions, DatabasesError> {
    let database = service.database();
    let own = match service {
        Service::Account => &urls.account,
        Service::Product => &urls.product,
        Service::Order => &urls.order,
        Service::Payment => &urls.payment,
    };
    let parse = |url: &String| {
        url.parse::<PgConnectOptions>().map_err(|source| DatabasesError::Url { database, source })
    };
    let options = match (own, &urls.server) {
        (Some(own), _) => parse(own)?,
        (None, Some(server)) => parse(server)?.database(database),
        (None, None) => return Err(DatabasesError::Missing(database)),
    };
    Ok(options.application_name("souk").disable_statement_logging())
}

/// Connects, makes the database if it is missing, checks the server, and takes the lock.
async fn take(service: Service, options: &PgConnectOptions) -> Result<PgConnection, DatabasesError> {
    let database = service.database();
    let unreachable = |source| DatabasesError::Unreachable { database, source };
    let mut connection = match connect(options).await {
        Err(error) if is_missing(&error) => {
            make(options).await.map_err(unreachable)?;
            connect(options).await.map_err(unreachable)?
        }
        connected => connected.map_err(unreachable)?,
    };
    check(database, &mut connection).await?;
    let deadline = Instant::now() + LOCK_MAX;
    while !lock(&mut connection).await.map_err(unreachable)? {
        if Instant::now() >= deadline {
            return Err(DatabasesError::InUse { database });
        }
        tokio::time::sleep(LOCK_AGAIN).await;
    }
    Ok(connection)
}

/// The driver's own connect has no bound.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    within(options.connect()).await
}

async fn within<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let elapsed = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(ANSWER_MAX, answer).await.map_err(elapsed)?
}

async fn make(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let name = options.get_database().unwrap_or_default().replace('"', "\"\"");
    let mut connection = connect(&options.clone().database("postgres")).await?;
    // The name comes from the operator's own URL or is ours; it is quoted, as it cannot be bound.
    let made =
        sqlx::query(AssertSqlSafe(format!("create database \"{name}\""))).execute(&mut connection).await;
    match made {
        // 42P04, 23505: somebody else has just made it.
        Err(error) => match error.as_database_error().and_then(|e| e.code()).as_deref() {
            Some("42P04" | "23505") => Ok(()),
            Some(_) | None => Err(error),
        },
        Ok(_) => connection.close().await,
    }
}

async fn check(database: &'static str, connection: &mut PgConnection) -> Result<(), DatabasesError> {
    let row = sqlx::query(
        "select current_setting('server_version_num')::int, current_setting('server_version'),
                current_setting('fsync'), current_setting('synchronous_commit'),
                current_setting('full_page_writes')",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| DatabasesError::Unreachable { database, source })?;
    let text = |column: usize| row.try_get::<String, _>(column).unwrap_or_default();
    if row.try_get::<i32, _>(0).unwrap_or(0) < SERVER_MIN {
        return Err(DatabasesError::TooOld { database, version: text(1) });
    }
    for (setting, value, is_safe) in [
        ("fsync", text(2), text(2) == "on"),
        // Every other value still waits for the local flush.
        ("synchronous_commit", text(3), text(3) != "off"),
        ("full_page_writes", text(4), text(4) == "on"),
    ] {
        if !is_safe {
            return Err(DatabasesError::Unsafe { database, setting, value });
        }
    }
    Ok(())
}

async fn lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let query = sqlx::query("select pg_try_advisory_lock($1)").bind(NODE_LOCK);
    within(query.fetch_one(connection)).await?.try_get(0)
}

/// Keeps the lock: if its connection is lost, as when the server restarts, it is taken anew.
async fn keep(
    mut held: PgConnection,
    options: PgConnectOptions,
    database: &'static str,
    lose: watch::Sender<bool>,
) {
    loop {
        tokio::time::sleep(LOCK_CHECK).await;
        if within(held.ping()).await.is_ok() {
            continue;
        }
        match take_again(&options).await {
            Ok(Some(connection)) => held = connection,
            Ok(None) => {
                tracing::error!(database, "another Souk has taken the database: this one must stop");
                lose.send_replace(true);
                return;
            }
            Err(error) => tracing::warn!(database, %error, "database cannot be reached"),
        }
    }
}

/// `None`: somebody else has it, and keeps it.
async fn take_again(options: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = connect(options).await?;
    let deadline = Instant::now() + LOCK_MAX;
    while !lock(&mut connection).await? {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOCK_AGAIN).await;
    }
    Ok(Some(connection))
}
