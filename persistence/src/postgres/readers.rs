//! A few connections for readers, each for one statement at a time.
//!
//! A connection is used again only if its answer was read to its end; after an error, a silence or a caller
//! that went away it is closed. The driver's own pool would ping it on its return instead, with no bound,
//! and keep its place meanwhile: a network that drops everything would leave no place for anybody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A reader waits so long for a connection before the database counts as away.
const ACQUIRE_MAX: Duration = Duration::from_secs(3);
/// A kept connection that does not answer so long is not worth waiting for: a new one takes its place.
const PING_MAX: Duration = Duration::from_secs(1);
/// A statement that is not answered so long is given up.
const ANSWER_MAX: Duration = Duration::from_secs(10);

pub(super) struct Readers {
    options: PgConnectOptions,
    places: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Readers {
    /// Connects when it is first used. `size`: the most connections.
    pub fn new(options: PgConnectOptions, size: u32) -> Self {
        let size = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { options, places: Semaphore::new(size), idle: Mutex::default() }
    }

    /// Runs one statement outside a transaction. May be dropped at any moment.
    pub async fn read(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, sqlx::Error> {
        let acquired = timeout(ACQUIRE_MAX, async {
            let place = self.places.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok::<_, sqlx::Error>((place, self.connection().await?))
        });
        let (_place, mut connection) = acquired.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let answer = timeout(ANSWER_MAX, query.fetch_all(&mut connection)).await.map_err(silent)?;
        if answer.is_ok() {
            self.idle().push(connection);
        }
        answer
    }

    async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        let kept = self.idle().pop();
        if let Some(mut connection) = kept {
            match timeout(PING_MAX, connection.ping()).await.map_err(silent) {
                Ok(Ok(())) => return Ok(connection),
                // What ended this one, a restart or the network, has ended them all.
                Ok(Err(_)) | Err(_) => self.idle().clear(),
            }
        }
        self.options.connect().await
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        // No code that can panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent(_: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
