//! A database and its server: reached, made, and checked.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};
use tokio::time::timeout;

use super::DatabasesError;

/// A server that says nothing for so long is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The oldest server whose behaviour the journal's statement was tried on.
const SERVER_MIN: i32 = 150_000;

/// Makes a database that is no service's, such as the cluster's, if it is missing, and checks its server.
/// It is where `own` says, else `name` on `server`.
pub async fn prepare(
    name: &str,
    own: Option<&str>,
    server: Option<&str>,
) -> Result<PgConnectOptions, DatabasesError> {
    let options = database_options(name, own, server)?;
    prepared(name, &options).await?;
    Ok(options)
}

/// Makes the database if it is missing, and checks its server.
pub(crate) async fn prepared(name: &str, options: &PgConnectOptions) -> Result<(), DatabasesError> {
    let connection = connected(name, options).await?;
    connection.close().await.map_err(|source| DatabasesError::Unreachable { database: name.into(), source })
}

/// Where the database `name` is: where `own` says, else of that name on `server`.
pub(crate) fn database_options(
    name: &str,
    own: Option<&str>,
    server: Option<&str>,
) -> Result<PgConnectOptions, DatabasesError> {
    let parse = |url: &str| {
        url.parse::<PgConnectOptions>()
            .map_err(|source| DatabasesError::Url { database: name.into(), source })
    };
    let options = match (own, server) {
        (Some(own), _) => parse(own)?,
        (None, Some(server)) => parse(server)?.database(name),
        (None, None) => return Err(DatabasesError::Missing(name.into())),
    };
    Ok(options.application_name("souk").disable_statement_logging())
}

/// Connects, makes the database if it is missing, and checks the server.
pub(super) async fn connected(
    name: &str,
    options: &PgConnectOptions,
) -> Result<PgConnection, DatabasesError> {
    let unreachable = |source| DatabasesError::Unreachable { database: name.into(), source };
    let mut connection = match connect(options).await {
        Err(error) if is_missing(&error) => {
            make(options).await.map_err(unreachable)?;
            connect(options).await.map_err(unreachable)?
        }
        connected => connected.map_err(unreachable)?,
    };
    check(name, &mut connection).await?;
    Ok(connection)
}

/// The driver's own connect has no bound.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    within(options.connect()).await
}

pub(crate) async fn within<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let elapsed = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(ANSWER_MAX, answer).await.map_err(elapsed)?
}

/// 3D000: there is no such database.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("3D000")
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

async fn check(name: &str, connection: &mut PgConnection) -> Result<(), DatabasesError> {
    let query = sqlx::query(
        "select current_setting('server_version_num')::int, current_setting('server_version'),
                current_setting('fsync'), current_setting('synchronous_commit'),
                current_setting('full_page_writes')",
    );
    let row = within(query.fetch_one(connection))
        .await
        .map_err(|source| DatabasesError::Unreachable { database: name.into(), source })?;
    let text = |column: usize| row.try_get::<String, _>(column).unwrap_or_default();
    if row.try_get::<i32, _>(0).unwrap_or(0) < SERVER_MIN {
        return Err(DatabasesError::TooOld { database: name.into(), version: text(1) });
    }
    for (setting, value, is_safe) in [
        ("fsync", text(2), text(2) == "on"),
        // Every other value still waits for the local flush.
        ("synchronous_commit", text(3), text(3) != "off"),
        ("full_page_writes", text(4), text(4) == "on"),
    ] {
        if !is_safe {
            return Err(DatabasesError::Unsafe { database: name.into(), setting, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_its_own_goes_before_the_server() {
        let server = Some("postgres://souk@db/postgres");
        let name = |own| {
            database_options("cluster_db", own, server).expect("options").get_database().map(str::to_owned)
        };
        assert_eq!(name(None).as_deref(), Some("cluster_db"));
        assert_eq!(name(Some("postgres://souk@other/members")).as_deref(), Some("members"));
        assert!(matches!(database_options("cluster_db", None, None), Err(DatabasesError::Missing(_))));
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_shown() {
        let error =
            database_options("order_db", Some("postgres://souk:canary@db:x"), None).expect_err("no port");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}
