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
use tokio::time::{Instant, timeout};

/// A reader waits so long for a connection before the database counts as away.
const ACQUIRE_MAX: Duration = Duration::from_secs(3);
/// A connection that answered so recently is taken to be alive; an older one is asked first.
const FRESH: Duration = Duration::from_secs(1);
/// A kept connection that does not answer so long is not worth waiting for: a new one takes its place.
const PING_MAX: Duration = Duration::from_secs(1);
/// A statement that is not answered so long is given up.
const ANSWER_MAX: Duration = Duration::from_secs(10);

pub(super) struct Readers {
    options: PgConnectOptions,
    places: Semaphore,
    /// Each with when it last answered; the freshest last.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Readers {
    /// Connects when it is first used. `size`: the most connections.
    pub fn new(options: PgConnectOptions, size: u32) -> Self {
        let size = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { options, places: Semaphore::new(size), idle: Mutex::default() }
    }

    /// Runs one statement outside a transaction. May be dropped at any moment. The statement is made anew
    /// for a second attempt, so it must be one that may be run twice.
    pub async fn read<'q>(
        &self,
        query: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let acquire = timeout(ACQUIRE_MAX, self.places.acquire());
        let place = acquire.await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let _place = place.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(kept) = self.kept().await {
            match self.ask(kept, query()).await {
                // It ended while it was kept, which says nothing about the statement.
                Err(error) if is_over(&error) => self.idle().clear(),
                answer => return answer,
            }
        }
        let connecting = timeout(ACQUIRE_MAX, self.options.connect());
        let connection = connecting.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.ask(connection, query()).await
    }

    async fn ask(
        &self,
        mut connection: PgConnection,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let answer = timeout(ANSWER_MAX, query.fetch_all(&mut connection)).await.map_err(silent)?;
        if answer.is_ok() {
            self.idle().push((connection, Instant::now()));
        }
        answer
    }

    /// A kept connection that is alive, as far as can be told.
    async fn kept(&self) -> Option<PgConnection> {
        let (mut connection, answered) = self.idle().pop()?;
        if answered.elapsed() < FRESH {
            return Some(connection);
        }
        match timeout(PING_MAX, connection.ping()).await {
            Ok(Ok(())) => Some(connection),
            // What ended this one, a restart or the network, has ended them all.
            Ok(Err(_)) | Err(_) => {
                self.idle().clear();
                None
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        // No code that can panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent(_: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// The connection had ended before the statement came. Not a silence: whoever asked has waited long enough.
fn is_over(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        other => matches!(other, sqlx::Error::Protocol(_)),
    }
}
