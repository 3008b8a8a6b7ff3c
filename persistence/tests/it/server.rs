//! A PostgreSQL server for tests, with the databases of a Souk.

use souk_persistence::databases::{DatabaseUrls, Databases, Hold};
use souk_persistence::embedded::{Embedded, EmbeddedSettings};
use souk_persistence::postgres::PostgresJournal;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, PgConnection};

use crate::folder::Folder;
use crate::journal::Shared;
use crate::proxy::Proxy;

/// A server with the databases of a Souk. To make one takes seconds: what does it no harm shares it, each
/// in a database of its own.
pub struct Postgres {
    pub server: Embedded,
    pub databases: Databases,
    pub _folder: Folder,
}

impl Postgres {
    pub async fn start() -> Self {
        let folder = Folder::new();
        let settings = EmbeddedSettings { data: folder.path().to_owned(), binaries: None };
        let server = Embedded::start(&settings).await.expect("starts");
        let databases = Databases::open(&urls(&server), Hold::Alone, 4).await.expect("opens");
        Self { server, databases, _folder: folder }
    }

    pub fn journal(&self) -> Shared {
        self.databases.product.clone()
    }

    pub async fn stop(self) {
        drop(self.databases);
        self.server.stop().await;
    }

    pub fn options(&self, database: &str) -> PgConnectOptions {
        let options: PgConnectOptions = self.server.url().parse().expect("a URL");
        options.database(database)
    }

    /// A journal of its own over a Souk's database.
    pub fn beside(&self, database: &str, name: &str) -> Shared {
        PostgresJournal::open(name, self.options(database), 1)
    }

    /// The same, over a proxy.
    pub async fn proxied(&self, database: &str, name: &str) -> (Proxy, Shared) {
        let proxy = Proxy::start(self.server.port()).await;
        let options = self.options(database).port(proxy.port);
        let journal = PostgresJournal::open(name, options, 1);
        (proxy, journal)
    }

    pub async fn sql(&self, database: &str, sql: &'static str) -> Vec<PgRow> {
        let mut connection = PgConnection::connect_with(&self.options(database)).await.expect("connects");
        sqlx::query(sql).fetch_all(&mut connection).await.expect("runs")
    }
}

pub fn urls(server: &Embedded) -> DatabaseUrls {
    DatabaseUrls { server: Some(server.url()), ..DatabaseUrls::default() }
}
