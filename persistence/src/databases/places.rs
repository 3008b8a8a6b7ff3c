//! The databases of one service, and what they say of themselves: who they are, and which slots they hold.

use std::fmt;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row as _};
use uuid::Uuid;

use super::server::{connect, database_options, within};
use super::{DatabaseUrls, DatabasesError};
use crate::journal::SLOTS;
use crate::migrate::Service;
use crate::slots::{Dispute, Holding, SlotTable, Word, share, unheard};

/// Held while the slots of new databases are divided: "soul" in ASCII.
const FOUND_LOCK: i64 = 0x736f_756c;

/// Where a server and a database on it are the same: the microsecond of its start, and the database's number.
const SIGNATURE: &str = "
select pg_postmaster_start_time()::text || ' ' || oid from pg_database where datname = current_database()";

/// A database of a service.
#[derive(Clone)]
pub struct Place {
    /// What it is called in messages: the service's database, and where it is if there are several.
    pub name: String,
    pub(crate) options: PgConnectOptions,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the driver prints holds the password.
        f.debug_tuple("Place").field(&self.name).finish()
    }
}

impl Place {
    pub(crate) async fn connect(&self) -> Result<PgConnection, DatabasesError> {
        connect(&self.options).await.map_err(|source| self.unreachable(source))
    }

    pub(crate) fn unreachable(&self, source: sqlx::Error) -> DatabasesError {
        DatabasesError::Unreachable { database: self.name.clone(), source }
    }
}

/// The databases of a service, in the order of their URLs.
pub fn places(urls: &DatabaseUrls, service: Service) -> Result<Vec<Place>, DatabasesError> {
    let (name, own) = (service.database(), urls.of(service));
    if own.is_empty() {
        let options = database_options(name, None, urls.server.as_deref())?;
        return Ok(vec![Place { name: name.to_owned(), options }]);
    }
    let place = |url: &String| {
        let options = database_options(name, Some(url), None)?;
        let name = match own.len() {
            1 => name.to_owned(),
            _ => {
                let database = options.get_database().unwrap_or_default();
                format!("{name} at {}:{}/{database}", options.get_host(), options.get_port())
            }
        };
        Ok(Place { name, options })
    };
    own.iter().map(place).collect()
}

/// Which database this is, whatever URL leads to it.
pub(super) async fn signature(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    within(sqlx::query(SIGNATURE).fetch_one(connection)).await?.try_get(0)
}

/// Whose it says that it is; `None`: it does not say yet.
pub(super) async fn service_of(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let has = "select to_regclass('identity') is not null";
    match within(sqlx::query(has).fetch_one(&mut *connection)).await?.try_get(0)? {
        true => {
            let query = sqlx::query("select service from identity");
            within(query.fetch_optional(connection)).await?.map(|row| row.try_get(0)).transpose()
        }
        false => Ok(None),
    }
}

/// What a database says.
struct Survey {
    identity: Option<Identity>,
    holdings: Vec<Holding>,
}

struct Identity {
    id: Uuid,
    founding: Uuid,
    is_founded: bool,
}

impl Survey {
    fn is_founded(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.is_founded)
    }

    fn word(self) -> Word {
        let id = self.identity.map_or(Uuid::nil(), |identity| identity.id);
        Word { id, holdings: self.holdings }
    }
}

/// Makes sure that every slot is held by one of these migrated databases: who holds which.
pub(super) async fn settle(service: Service, places: &[Place]) -> Result<SlotTable, DatabasesError> {
    let mut surveys = survey(places).await?;
    if !surveys.iter().all(Survey::is_founded) {
        found(service, places).await?;
        surveys = survey(places).await?;
    }
    if places.len() > 1 {
        for place in places {
            raise_fence(place).await.map_err(|source| place.unreachable(source))?;
        }
    }
    agree(service, places, surveys.into_iter().map(Survey::word).collect()).await
}

/// What these databases say now: who holds which slots. What was given to one that has not heard, it is told.
pub(crate) async fn reload(service: Service, places: &[Place]) -> Result<SlotTable, DatabasesError> {
    agree(service, places, words(places).await?).await
}

/// As [`reload`], and nobody is told anything. Databases that no Souk has divided yet are the first one's.
pub(super) async fn look(service: Service, places: &[Place]) -> Result<SlotTable, DatabasesError> {
    let everything = || Holding { first: 0, last: SLOTS - 1, generation: 1, given_to: None };
    let mut words = Vec::new();
    for place in places {
        let mut connection = place.connect().await?;
        let said = async {
            let has = "select to_regclass('holding') is not null";
            let word = match within(sqlx::query(has).fetch_one(&mut connection)).await?.try_get(0)? {
                true => survey_one(&mut connection).await?.word(),
                // It was last opened when a service had one database.
                false => Word { id: Uuid::nil(), holdings: vec![everything()] },
            };
            connection.close().await?;
            Ok(word)
        };
        words.push(said.await.map_err(|source| place.unreachable(source))?);
    }
    match words.iter().all(|word| word.holdings.is_empty()) {
        true => Ok(SlotTable::sole()),
        false => SlotTable::resolve(&words).map_err(|dispute| disputed(service, places, dispute)),
    }
}

/// What each database says.
pub(crate) async fn words(places: &[Place]) -> Result<Vec<Word>, DatabasesError> {
    Ok(survey(places).await?.into_iter().map(Survey::word).collect())
}

async fn agree(service: Service, places: &[Place], words: Vec<Word>) -> Result<SlotTable, DatabasesError> {
    let table = SlotTable::resolve(&words).map_err(|dispute| disputed(service, places, dispute))?;
    for (to, deed) in unheard(&words) {
        tell(&places[to], &deed).await.map_err(|source| places[to].unreachable(source))?;
    }
    Ok(table)
}

/// Tells a database that it was given slots. It may have heard.
pub(crate) async fn tell(place: &Place, deed: &Holding) -> Result<(), sqlx::Error> {
    let mut connection = connect(&place.options).await?;
    let query = sqlx::query("select take($1, $2, $3)").bind(deed.first).bind(deed.last).bind(deed.generation);
    within(query.execute(&mut connection)).await?;
    connection.close().await
}

fn disputed(service: Service, places: &[Place], dispute: Dispute) -> DatabasesError {
    let name = |index: usize| places.get(index).map(|place| place.name.clone()).unwrap_or_default();
    let of = service.database();
    match dispute {
        Dispute::Unheld(slots) => {
            let listed = places.iter().map(|place| place.name.as_str()).collect::<Vec<_>>().join(", ");
            DatabasesError::Unheld { database: of, first: *slots.start(), last: *slots.end(), listed }
        }
        Dispute::Contested(slots, [one, other]) => {
            let (first, last) = (*slots.start(), *slots.end());
            DatabasesError::Contested { first, last, one: name(one), other: name(other) }
        }
        Dispute::GivenAway(slots, by) => {
            DatabasesError::GivenAway { database: name(by), first: *slots.start(), last: *slots.end() }
        }
    }
}

async fn survey(places: &[Place]) -> Result<Vec<Survey>, DatabasesError> {
    let one = async |place: &Place| {
        let mut connection = place.connect().await?;
        let survey = survey_one(&mut connection).await.map_err(|source| place.unreachable(source))?;
        connection.close().await.map_err(|source| place.unreachable(source))?;
        Ok(survey)
    };
    futures::future::try_join_all(places.iter().map(one)).await
}

async fn survey_one(connection: &mut PgConnection) -> Result<Survey, sqlx::Error> {
    let identity = sqlx::query("select id, founding, founded from identity");
    let identity = within(identity.fetch_optional(&mut *connection)).await?;
    let identity = identity.map(|row| {
        let (id, founding) = (row.try_get(0)?, row.try_get(1)?);
        Ok::<_, sqlx::Error>(Identity { id, founding, is_founded: row.try_get(2)? })
    });
    let holdings = sqlx::query("select first_slot, last_slot, generation, given_to from holding");
    let holdings = within(holdings.fetch_all(connection)).await?.into_iter().map(|row| {
        let (first, last) = (row.try_get(0)?, row.try_get(1)?);
        Ok::<_, sqlx::Error>(Holding { first, last, generation: row.try_get(2)?, given_to: row.try_get(3)? })
    });
    Ok(Survey { identity: identity.transpose()?, holdings: holdings.collect::<Result<_, _>>()? })
}

/// Gives every database its identity and, if all are new, its share of the slots. It may be cut off between any
/// two statements and begun again, even with another list: a share counts only once every database of the
/// same attempt has had its own, and nobody serves before that.
async fn found(service: Service, places: &[Place]) -> Result<(), DatabasesError> {
    let _locks = lock(places).await?;
    let surveys = survey(places).await?;
    let begun: Vec<_> = surveys.iter().filter(|survey| survey.is_founded()).collect();
    let founders: Vec<_> =
        begun.iter().filter_map(|survey| Some(survey.identity.as_ref()?.founding)).collect();
    let is_new = begun.is_empty() && surveys.iter().all(|survey| survey.holdings.is_empty());
    let founding = Uuid::from_u128(rand::random());
    let mut meant = Vec::new();
    for (index, (place, survey)) in places.iter().zip(&surveys).enumerate() {
        let of = survey.identity.as_ref().map(|identity| identity.founding);
        if survey.is_founded() {
            continue;
        }
        let attempt = match of.filter(|of| founders.contains(of)) {
            Some(attempt) => attempt,
            None => {
                let share = is_new.then(|| share(index, places.len())).flatten();
                mean(service, place, founding, share).await.map_err(|source| place.unreachable(source))?;
                founding
            }
        };
        meant.push((place, attempt));
    }
    for (place, attempt) in meant {
        enact(place, attempt).await.map_err(|source| place.unreachable(source))?;
    }
    Ok(())
}

/// Of several nodes that start at once one divides. Ended with the connections.
async fn lock(places: &[Place]) -> Result<Vec<PgConnection>, DatabasesError> {
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_by_key(|place| &place.name);
    let mut locks = Vec::new();
    for place in sorted {
        let mut connection = place.connect().await?;
        let query = sqlx::query("select pg_advisory_lock($1)").bind(FOUND_LOCK);
        within(query.execute(&mut connection)).await.map_err(|source| place.unreachable(source))?;
        locks.push(connection);
    }
    Ok(locks)
}

/// Writes down which share is meant for a database.
async fn mean(
    service: Service,
    place: &Place,
    founding: Uuid,
    share: Option<std::ops::RangeInclusive<i16>>,
) -> Result<(), sqlx::Error> {
    let mut connection = connect(&place.options).await?;
    let query = sqlx::query(
        "insert into identity (service, founding, first_slot, last_slot) values ($1, $2, $3, $4)
         on conflict (one) do update set
           founding = excluded.founding, first_slot = excluded.first_slot, last_slot = excluded.last_slot
         where not identity.founded",
    )
    .bind(service.database())
    .bind(founding)
    .bind(share.as_ref().map(|share| *share.start()))
    .bind(share.as_ref().map(|share| *share.end()));
    within(query.execute(&mut connection)).await?;
    connection.close().await
}

/// What was meant is so.
async fn enact(place: &Place, founding: Uuid) -> Result<(), sqlx::Error> {
    let mut connection = connect(&place.options).await?;
    let query = sqlx::query(
        "with now as (
           update identity set founded = true where founding = $1 and not founded
           returning first_slot, last_slot)
         insert into holding (first_slot, last_slot, generation)
         select first_slot, last_slot, 1 from now where first_slot is not null",
    );
    within(query.bind(founding).execute(&mut connection)).await?;
    connection.close().await
}

/// From now on the database takes only rows of slots that it holds.
async fn raise_fence(place: &Place) -> Result<(), sqlx::Error> {
    let mut connection = connect(&place.options).await?;
    let has =
        "select exists (select from pg_trigger where tgrelid = 'entity'::regclass and tgname = 'fence')";
    if !within(sqlx::query(has).fetch_one(&mut connection)).await?.try_get::<bool, _>(0)? {
        within(sqlx::query("select fence()").execute(&mut connection)).await?;
    }
    connection.close().await
}
