//! The databases of the services: made where they are missing, migrated, checked, and held.

mod hold;
mod places;
mod server;

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::journal::Journal;
use crate::migrate::{Service, migrate};
use crate::partitioned::{PartitionedJournal, Spread};
use crate::postgres::PostgresJournal;
use crate::slots::SlotTable;

pub use hold::{Conflict, Hold};
pub use places::{Place, places};
pub(crate) use places::{reload, tell, words};
use server::connected;
pub use server::prepare;
pub(crate) use server::{connect, database_options, is_missing, prepared, within};

/// Where the databases are: one server for all, or URLs for each service, of which every one has a part of
/// its slots.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the URLs of its service, and goes before the server's")]
pub struct DatabaseUrls {
    /// A server: the databases are made on it.
    pub server: Option<String>,
    pub account: Vec<String>,
    pub product: Vec<String>,
    pub order: Vec<String>,
    pub payment: Vec<String>,
    /// Of the cluster's own database.
    pub cluster: Option<String>,
}

impl DatabaseUrls {
    fn of(&self, service: Service) -> &[String] {
        match service {
            Service::Account => &self.account,
            Service::Product => &self.product,
            Service::Order => &self.order,
            Service::Payment => &self.payment,
        }
    }
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
    /// Two URLs lead to one database.
    #[error("{one} and {other} are the same database")]
    Twice {
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// It is another service's.
    #[error("{database} is the database of another service, {service}")]
    OfAnotherService {
        /// Which.
        database: String,
        /// Whose it says that it is.
        service: String,
    },
    /// Slots that no database holds.
    #[error("slots {first} to {last} of {database} are held by none of: {listed}; is a URL missing?")]
    Unheld {
        /// Whose.
        database: &'static str,
        /// The first of them.
        first: i16,
        /// The last of them.
        last: i16,
        /// The databases that there are.
        listed: String,
    },
    /// Slots that two databases hold.
    #[error("slots {first} to {last} are held by both {one} and {other}")]
    Contested {
        /// The first of them.
        first: i16,
        /// The last of them.
        last: i16,
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// Slots of a database that is not listed.
    #[error("{database} gave slots {first} to {last} to a database whose URL is missing")]
    GivenAway {
        /// Who gave them.
        database: String,
        /// The first of them.
        first: i16,
        /// The last of them.
        last: i16,
    },
}

/// The journals of the services, held by this node.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the journal of its service")]
pub struct Databases {
    pub account: Arc<dyn Journal>,
    pub product: Arc<dyn Journal>,
    pub order: Arc<dyn Journal>,
    pub payment: Arc<dyn Journal>,
    served: Vec<Served>,
    /// Ended, and the locks given back, when this is dropped.
    _keepers: JoinSet<()>,
    is_lost: watch::Receiver<bool>,
}

/// A service's databases, and what makes several look like one.
#[derive(Debug)]
struct Served {
    service: Service,
    places: Vec<Place>,
    partitioned: Option<Arc<PartitionedJournal>>,
}

impl Databases {
    /// Makes, checks, takes and migrates the databases. `pool_size`: the most connections of readers, each.
    pub async fn open(urls: &DatabaseUrls, hold: Hold, pool_size: u32) -> Result<Self, DatabasesError> {
        let (lose, is_lost) = watch::channel(false);
        // If a later database fails, the locks of the earlier ones go with it.
        let mut keepers = JoinSet::new();
        let (mut journals, mut served) = (Vec::new(), Vec::new());
        let mut known = HashMap::new();
        for service in Service::ALL {
            let places = places(urls, service)?;
            for place in &places {
                let mut lock = connected(&place.name, &place.options).await?;
                is_meant(service, place, &mut lock, &mut known).await?;
                hold::take(&place.name, &mut lock, hold).await?;
                migrate(service, &place.options)
                    .await
                    .map_err(|source| DatabasesError::Migrate { database: place.name.clone(), source })?;
                let held = (place.name.clone(), hold);
                keepers.spawn(hold::keep(lock, place.options.clone(), held, lose.clone()));
            }
            let table = places::settle(service, &places).await?;
            let open = |place: &Place| -> Arc<dyn Journal> {
                PostgresJournal::open(&place.name, place.options.clone(), pool_size)
            };
            let (journal, partitioned) = journal(service, &places, table, open);
            journals.push(journal);
            served.push(Served { service, places, partitioned });
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        Ok(Self { account, product, order, payment, served, _keepers: keepers, is_lost })
    }

    /// Reads again which database of a service holds which slots, and goes by that from now on. A node that
    /// was told not to write some slots does this before it writes them again.
    pub async fn reload(&self) -> Result<(), DatabasesError> {
        for journal in self.served.iter().filter_map(|served| served.partitioned.as_ref()) {
            journal.reload().await?;
        }
        Ok(())
    }

    /// The databases of a service, each with what tells the lowest slot that it holds now; none where it holds nothing.
    pub fn places(&self, service: Service) -> Vec<(Place, impl Fn() -> Option<i16> + Send + Sync + 'static)> {
        let of = self.served.iter().filter(move |served| served.service == service);
        of.flat_map(|Served { places, partitioned, .. }| {
            places.iter().enumerate().map(|(index, place)| {
                let partitioned = partitioned.clone();
                let lowest = move || match &partitioned {
                    Some(journal) => journal.table().lowest(index),
                    None => Some(0),
                };
                (place.clone(), lowest)
            })
        })
        .collect()
    }

    /// Turns true when somebody else has taken a database: this node must stop.
    pub fn is_lost(&self) -> watch::Receiver<bool> {
        self.is_lost.clone()
    }
}

/// One database is the journal itself; several are made to look like one.
fn journal(
    service: Service,
    places: &[Place],
    table: SlotTable,
    open: impl Fn(&Place) -> Arc<dyn Journal>,
) -> (Arc<dyn Journal>, Option<Arc<PartitionedJournal>>) {
    if let [sole] = places {
        return (open(sole), None);
    }
    let journals = places.iter().map(open).collect();
    let journal = PartitionedJournal::over(journals, table, Spread::of(service, places.to_vec()));
    (journal.clone(), Some(journal))
}

/// A database is listed once, and for its own service.
async fn is_meant(
    service: Service,
    place: &Place,
    connection: &mut PgConnection,
    known: &mut HashMap<String, String>,
) -> Result<(), DatabasesError> {
    let unreachable = |source| place.unreachable(source);
    let signature = places::signature(connection).await.map_err(unreachable)?;
    if let Some(one) = known.insert(signature, place.name.clone()) {
        return Err(DatabasesError::Twice { one, other: place.name.clone() });
    }
    match places::service_of(connection).await.map_err(unreachable)? {
        Some(other) if other != service.database() => {
            Err(DatabasesError::OfAnotherService { database: place.name.clone(), service: other })
        }
        Some(_) | None => Ok(()),
    }
}

/// The journals of the services, to be read alone: nothing is made, migrated or taken, and the servers refuse
/// every change.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the journal of its service")]
pub struct ReadOnly {
    pub account: Arc<dyn Journal>,
    pub product: Arc<dyn Journal>,
    pub order: Arc<dyn Journal>,
    pub payment: Arc<dyn Journal>,
    /// One of them, to ask who has it.
    asked: Place,
}

impl ReadOnly {
    /// Opens the databases as they are. `None`: none of them has ever been made.
    pub async fn open(urls: &DatabaseUrls) -> Result<Option<Self>, DatabasesError> {
        let mut all = Vec::new();
        let mut missing = None;
        for service in Service::ALL {
            let mut made = Vec::new();
            for place in places(urls, service)? {
                match has_journal(&place.options).await {
                    Ok(true) => made.push(place),
                    // A new server may be listed that no Souk has opened yet.
                    Ok(false) => {}
                    Err(source) => return Err(place.unreachable(source)),
                }
            }
            match made.is_empty() {
                true => missing = Some(service.database().to_owned()),
                false => all.push((service, made)),
            }
        }
        match (missing, all.is_empty()) {
            (Some(_), true) => return Ok(None),
            (Some(database), false) => return Err(DatabasesError::Incomplete { database }),
            (None, _) => {}
        }
        let asked = all.iter().find(|(service, _)| *service == Service::Order);
        let asked = asked.and_then(|(_, places)| places.first()).expect("no service is missing").clone();
        let mut journals = Vec::new();
        for (service, places) in all {
            let table = places::look(service, &places).await?;
            let open = |place: &Place| -> Arc<dyn Journal> {
                PostgresJournal::open_read_only(&place.name, place.options.clone())
            };
            journals.push(journal(service, &places, table, open).0);
        }
        let [account, product, order, payment] =
            journals.try_into().expect("there are four services, each with a journal");
        Ok(Some(Self { account, product, order, payment, asked }))
    }

    /// Whether a Souk has the databases, alone or with others: then they may change at any moment.
    pub async fn is_held(&self) -> Result<bool, DatabasesError> {
        let mut connection = self.asked.connect().await?;
        let held = async {
            let holder = hold::holder(&mut connection).await?;
            connection.close().await?;
            Ok(holder.is_some())
        };
        held.await.map_err(|source| self.asked.unreachable(source))
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
