//! Where the books are, and what they say in the end: for whoever compares them with the shop's own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::{fmt, io};

use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use super::{books, tables};
use crate::databases::{DatabasesError, database_options};

/// The name of the sandbox's database on a shared server.
const DATABASE: &str = "sandbox_db";

/// What the provider did under a key, as its books say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The payment's id.
    pub key: Uuid,
    /// In minor units.
    pub captured: i64,
    /// In minor units.
    pub refunded: i64,
}

/// Where the sandbox keeps its books.
#[derive(Clone)]
pub enum BooksAt {
    /// In a folder, for the nodes of one machine.
    Folder(PathBuf),
    /// In a database, for nodes anywhere.
    Database(Box<PgConnectOptions>),
}

/// Why the books cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The folder or the files in it.
    #[error("the sandbox's books in {} cannot be used", folder.display())]
    Folder {
        /// Where they are.
        folder: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// The database cannot be had.
    #[error(transparent)]
    Database(#[from] DatabasesError),
    /// The database cannot be read.
    #[error("the sandbox's books cannot be read")]
    Unreadable(#[from] sqlx::Error),
}

impl fmt::Debug for BooksAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            // What the driver prints holds the password.
            Self::Database(_) => f.debug_tuple("Database").finish_non_exhaustive(),
        }
    }
}

impl BooksAt {
    /// A database of their own on the server at this URL; there must be one.
    pub fn server(url: Option<&str>) -> Result<Self, DatabasesError> {
        Ok(Self::Database(Box::new(database_options(DATABASE, None, url)?)))
    }

    /// Whether there are books.
    pub async fn exist(&self) -> Result<bool, BooksError> {
        match self {
            Self::Folder(folder) => {
                folder.try_exists().map_err(|source| BooksError::Folder { folder: folder.clone(), source })
            }
            Self::Database(options) => Ok(tables::reached(options).await?.is_some()),
        }
    }

    /// What the books say of every key. `None`: there are none. Nothing is made, and whoever writes them is
    /// not disturbed.
    pub async fn read(&self) -> Result<Option<Vec<LedgerEntry>>, BooksError> {
        let moved = match self {
            Self::Folder(folder) => {
                let failed = |source| BooksError::Folder { folder: folder.clone(), source };
                match folder.try_exists().map_err(failed)? {
                    true => Some(books::moved(folder).map_err(failed)?),
                    false => None,
                }
            }
            Self::Database(options) => tables::moved(options).await?,
        };
        let entries = |moved: HashMap<Uuid, (i64, i64)>| {
            let entry = |(key, (captured, refunded))| LedgerEntry { key, captured, refunded };
            moved.into_iter().map(entry).collect()
        };
        Ok(moved.map(entries))
    }
}
