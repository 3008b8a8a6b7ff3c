//! Brings a service database to this version's shape. Forward only.
//!
//! What every service has is numbered from 1, what one of them adds from 1001; sqlx keeps one table of what
//! was applied.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

static SHARED: Migrator = sqlx::migrate!("./migrations/shared");
static ACCOUNT: Migrator = sqlx::migrate!("./migrations/account");
static PRODUCT: Migrator = sqlx::migrate!("./migrations/product");
static ORDER: Migrator = sqlx::migrate!("./migrations/order");
static PAYMENT: Migrator = sqlx::migrate!("./migrations/payment");

/// A service that has a database of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the service of its name")]
pub enum Service {
    Account,
    Product,
    Order,
    Payment,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 4] = [Self::Account, Self::Product, Self::Order, Self::Payment];

    /// The name of its database on a shared server.
    pub fn database(self) -> &'static str {
        match self {
            Self::Account => "account_db",
            Self::Product => "product_db",
            Self::Order => "order_db",
            Self::Payment => "payment_db",
        }
    }

    fn migrator(self) -> Migrator {
        let own = match self {
            Self::Account => &ACCOUNT,
            Self::Product => &PRODUCT,
            Self::Order => &ORDER,
            Self::Payment => &PAYMENT,
        };
        Migrator::with_migrations(SHARED.iter().chain(own.iter()).cloned().collect())
    }
}

/// Applies what is missing in the database of a service.
pub async fn migrate(service: Service, options: &PgConnectOptions) -> Result<(), MigrateError> {
    migrate_by(service.migrator(), options).await
}

/// Applies what is missing in any database; `migrator`: as `sqlx::migrate!` makes it. On a thread of its own: dropping the future cannot leave a
/// transaction open. Of several nodes at once one applies, and the others wait for it.
pub async fn migrate_by(migrator: Migrator, options: &PgConnectOptions) -> Result<(), MigrateError> {
    let options = options.clone();
    let runtime = tokio::runtime::Handle::current();
    let unit = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            let mut connection = options.connect().await?;
            migrator.run(&mut connection).await?;
            connection.close().await?;
            Ok(())
        })
    });
    unit.await.map_err(|error| MigrateError::Source(error.into()))?
}
