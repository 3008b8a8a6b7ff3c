//! The databases of the services: made where they are missing, migrated, checked, and held.

mod hold;
mod server;

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Row as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::migrate::{Service, migrate};
use crate::postgres::PostgresJournal;

pub use hold::{Conflict, Hold};
use server::connected;
pub use server::prepare;
pub(crate) use server::{connect, database_options, is_missing, prepared, within};

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
    /// Of the cluster's own database.
    pub cluster: Option<String>,
}

/// Why the databases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabasesError {
    /// Neither a URL of its own nor a server.
    #[error("no URL for {0}: set database.url or the URL of the service")]
    Missing(String),
    /// Not a PostgreSQL URL. The URL is not shown: it may hold a password.
    #[error("the URL for {database} is not a PostgreSQL URL")]
    Url {
        /// Whose.
        database: String,
        /// What is wrong.
        source: sqlx::Error,
    },
    /// The server does not answer.
    #[error("{database} cannot be reached")]
    Unreachable {
        /// Which.
        database: String,
        /// What was said.
        source: sqlx::Error,
    },
    /// It cannot be migrated.
    #[error("{database} cannot be migrated")]
    Migrate {
        /// Which.
        database: String,
        /// What was said.
        source: sqlx::migrate::MigrateError,
    },
    /// A setting of the server would lose what was promised.
    #[error("the server of {database} has {setting} = {value}, which would lose what was acknowledged")]
    Unsafe {
        /// Which.
        database: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// Too old.
    #[error("the server of {database} is PostgreSQL {version}; 15 or newer is needed")]
    TooOld {
        /// Which.
        database: String,
        /// What it says it is.
        version: String,
    },
    /// Others are there, this one is not.
    #[error("{database} is missing or empty, and others are not")]
    Incomplete {
        /// Which.
        database: String,
    },
    /// Somebody else has it.
    #[error("{database} is {conflict}")]
    InUse {
        /// Which.
        database: String,
        /// How it was wanted, and how it is held.
        conflict: Conflict,
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
    /// Makes, checks, takes and migrates the databases. `pool_size`: the most connections of readers, each.
    pub async fn open(urls: &DatabaseUrls, hold: Hold, pool_size: u32) -> Result<Self, DatabasesError> {
        let (lose, is_lost) = watch::channel(false);
        // If a later database fails, the locks of the earlier ones go with it.
        let mut keepers = JoinSet::new();
        let mut journals = Vec::new();
        for service in Service::ALL {
            let (database, options) = (service.database(), options(urls, service)?);
            let mut lock = connected(database, &options).await?;
            hold::take(database, &mut lock, hold).await?;
            migrate(service, &options)
                .await
                .map_err(|source| DatabasesError::Migrate { database: database.to_owned(), source })?;
            keepers.spawn(hold::keep(lock, options.clone(), (database.to_owned(), hold), lose.clone()));
            journals.push(PostgresJournal::open(database, options, pool_size));
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        Ok(Self { account, product, order, payment, _keepers: keepers, is_lost })
    }

    /// Turns true when somebody else has taken a database: this node must stop.
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
                Err(source) => {
                    return Err(DatabasesError::Unreachable { database: database.to_owned(), source });
                }
            }
        }
        match (missing, journals.is_empty()) {
            (Some(_), true) => return Ok(None),
            (Some(database), false) => {
                return Err(DatabasesError::Incomplete { database: database.to_owned() });
            }
            (None, _) => {}
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        let options = options(urls, Service::Order)?;
        Ok(Some(Self { account, product, order, payment, options }))
    }

    /// Whether a Souk has the databases, alone or with others: then they may change at any moment.
    pub async fn is_held(&self) -> Result<bool, DatabasesError> {
        let held = async {
            let mut connection = connect(&self.options).await?;
            let holder = hold::holder(&mut connection).await?;
            connection.close().await?;
            Ok(holder.is_some())
        };
        let database = || Service::Order.database().to_owned();
        held.await.map_err(|source| DatabasesError::Unreachable { database: database(), source })
    }
}

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

fn options(urls: &DatabaseUrls, service: Service) -> Result<PgConnectOptions, DatabasesError> {
    let own = match service {
        Service::Account => &urls.account,
        Service::Product => &urls.product,
        Service::Order => &urls.order,
        Service::Payment => &urls.payment,
    };
    database_options(service.database(), own.as_deref(), urls.server.as_deref())
}
