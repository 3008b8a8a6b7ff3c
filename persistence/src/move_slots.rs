//! Moves slots to another database of their service while the shop runs.
//!
//! 1. Everything of the slots is copied, and what changed meanwhile again, while writes go on.
//! 2. The caller freezes the slots: no node writes them from then on.
//! 3. The old database pauses them: it takes no row of theirs, whoever sends it. What changed last is copied.
//! 4. The old database gives them away, in one statement: it notes who has them now, takes no row of theirs
//!    ever again, and so is the one place where it is decided who has them. The new one is told.
//! 5. The caller lets every node read again who holds what, and only then write the slots again.
//! 6. What is left in the old database is removed.
//!
//! It may be cut off anywhere, and run again. Until it has given them away the old database holds the slots,
//! whatever was copied: a pause ends by itself, and to run again copies what is missing. From then on the new
//! one holds them: whoever reads who holds what tells it, if it was not told, and to run again removes what
//! was left. No statement is part of a transaction with another, so none can be left open.

mod copy;

use std::ops::RangeInclusive;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::databases::{self, DatabaseUrls, DatabasesError, Place, within};
use crate::migrate::Service;
use crate::slots::{Holding, next_generation};
use copy::{Copied, Copier};

/// One move of a service at a time: "soum" in ASCII.
const MOVE_LOCK: i64 = 0x736f_756d;
/// What was written meanwhile is copied again, before anything is paused, until it is no more than this.
const FEW_ROWS: u64 = 1_000;
/// Or until it was so often: then the shop writes faster than is copied, and the pause will be long.
const PASSES_MAX: usize = 10;
/// The database's word on when a pause ends is younger than what is reckoned here by no more than this.
const PAUSE_SLACK: Duration = Duration::from_secs(6);
/// Between two attempts to call a pause off.
const AGAIN: Duration = Duration::from_millis(250);

/// Which slots go where.
#[derive(Clone, Debug)]
pub struct Move {
    /// Whose.
    pub service: Service,
    /// The place, in the list of its URLs, of the database that has them.
    pub from: usize,
    /// The place of the one that shall have them.
    pub to: usize,
    /// Which.
    pub slots: RangeInclusive<i16>,
    /// The longest that the slots may be paused; if that does not suffice, nothing is moved.
    pub pause_max: Duration,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Entities that were copied, those that changed meanwhile as often as they were.
    pub entities: u64,
    /// Rows of their histories that were copied.
    pub rows: u64,
    /// Entities that were copied during the pause.
    pub at_last: u64,
    /// How long the slots were frozen.
    pub frozen: Duration,
    /// Entities that were removed from the database that had them.
    pub removed: u64,
}

/// Why slots were not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There are no two such databases, or no such slots.
    #[error("slots are moved from one database of the list to another, and there are {0} of them")]
    Senseless(usize),
    /// They are elsewhere.
    #[error("slots {first} to {last} are not all held by {database}")]
    HeldElsewhere {
        /// Who should have had them.
        database: String,
        /// The first of them.
        first: i16,
        /// The last of them.
        last: i16,
    },
    /// No Souk has been started with it.
    #[error("{0} is new: first every node is started with it in its list")]
    Unopened(String),
    /// Somebody else moves slots.
    #[error("slots of {0} are being moved by somebody else")]
    Busy(String),
    /// The databases cannot be used.
    #[error(transparent)]
    Databases(#[from] DatabasesError),
    /// A database refused something, or said nothing.
    #[error("slots cannot be copied")]
    Copy(#[source] sqlx::Error),
    /// The slots could not be frozen, or not be released.
    #[error("nodes do not follow")]
    Nodes(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What changed last could not be copied in time.
    #[error("slots were paused for {0:?}, which did not suffice; nothing was moved")]
    TooSlow(Duration),
}

/// What the caller's part of a move comes to.
pub type Followed = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Moves slots. `freeze` resolves when no node writes them any more. `unfreeze` resolves when every node has
/// read again who holds them ([`databases::Databases::reload`]) and may write them; it is called whenever
/// `freeze` was, whatever came of the move, and where the slots had been moved before. A node that freezes slots and
/// hears no more of it reads again too, before it writes them.
pub async fn move_slots<F: Future<Output = Followed>, U: Future<Output = Followed>>(
    urls: &DatabaseUrls,
    order: &Move,
    freeze: impl FnOnce(RangeInclusive<i16>) -> F,
    unfreeze: impl FnOnce(RangeInclusive<i16>) -> U,
) -> Result<Moved, MoveError> {
    let places = databases::places(urls, order.service)?;
    let (Some(from), Some(to)) = (places.get(order.from), places.get(order.to)) else {
        return Err(MoveError::Senseless(places.len()));
    };
    let are_slots = 0 <= *order.slots.start() && *order.slots.end() < crate::journal::SLOTS;
    if order.from == order.to || order.slots.is_empty() || !are_slots {
        return Err(MoveError::Senseless(places.len()));
    }
    let _locks = [lock(from).await?, lock(to).await?];
    // If an earlier run was cut off when it had given them away, the new one is told now.
    let table = databases::reload(order.service, &places).await?;
    let mut copier = Copier::connect(from, to, order.slots.clone()).await?;
    let mut moved = Moved::default();
    match table.ranges(order.slots.clone()).as_slice() {
        // An earlier run was cut off: perhaps before every node had read again what it removes now.
        [(_, holder)] if *holder == order.to => {
            unfreeze(order.slots.clone()).await.map_err(MoveError::Nodes)?;
        }
        [(_, holder)] if *holder == order.from => {
            let words = databases::words(&places).await?;
            if words[order.to].id.is_nil() {
                return Err(MoveError::Unopened(to.name.clone()));
            }
            let deed = Holding {
                first: *order.slots.start(),
                last: *order.slots.end(),
                generation: next_generation(&words, &order.slots),
                given_to: Some(words[order.to].id),
            };
            let mark = prepare(&mut copier, &mut moved).await?;
            let since = Instant::now();
            let handed = match freeze(order.slots.clone()).await {
                Ok(()) => hand_over((from, to), &mut copier, (mark, order.pause_max), &deed).await,
                Err(error) => Err(MoveError::Nodes(error)),
            };
            let released = unfreeze(order.slots.clone()).await;
            moved.frozen = since.elapsed();
            let late = handed?;
            moved.add(late);
            moved.at_last = late.entities;
            released.map_err(MoveError::Nodes)?;
        }
        _ => {
            let (database, first, last) = (from.name.clone(), *order.slots.start(), *order.slots.end());
            return Err(MoveError::HeldElsewhere { database, first, last });
        }
    }
    moved.removed = copier.remove().await.map_err(MoveError::Copy)?;
    tracing::info!(?order, ?moved, "slots are moved");
    Ok(moved)
}

impl Moved {
    fn add(&mut self, copied: Copied) {
        self.entities += copied.entities;
        self.rows += copied.rows;
    }
}

/// Copies while writes go on. What is changed after the mark that it answers is still to be copied.
async fn prepare(copier: &mut Copier, moved: &mut Moved) -> Result<i64, MoveError> {
    let mut mark = copier.mark().await.map_err(MoveError::Copy)?;
    let mut copied = copier.all().await.map_err(MoveError::Copy)?;
    moved.add(copied);
    for _ in 0..PASSES_MAX {
        if copied.rows <= FEW_ROWS {
            break;
        }
        let next = copier.mark().await.map_err(MoveError::Copy)?;
        copied = copier.since(mark).await.map_err(MoveError::Copy)?;
        moved.add(copied);
        mark = next;
    }
    Ok(mark)
}

/// Copies what is left while nothing is written, and gives the slots away.
async fn hand_over(
    (from, to): (&Place, &Place),
    copier: &mut Copier,
    (mark, pause_max): (i64, Duration),
    deed: &Holding,
) -> Result<Copied, MoveError> {
    let given = async {
        let ends = copier.pause(pause_max).await?;
        match timeout(pause_max, copier.since(mark)).await {
            // The database judges whether the pause has lasted.
            Ok(late) => {
                let late = late?;
                Ok(give(&mut copier.source, deed, ends).await?.then_some(late))
            }
            Err(_) => Ok(None),
        }
    };
    let begun = Instant::now();
    let late = match given.await {
        Ok(Some(late)) => late,
        Ok(None) => {
            go_on(from, begun + pause_max + PAUSE_SLACK).await;
            return Err(MoveError::TooSlow(pause_max));
        }
        Err(error) => {
            go_on(from, begun + pause_max + PAUSE_SLACK).await;
            return Err(MoveError::Copy(error));
        }
    };
    databases::tell(to, deed).await.map_err(|source| to.unreachable(source))?;
    Ok(late)
}

async fn give(
    source: &mut PgConnection,
    deed: &Holding,
    pause_ends: OffsetDateTime,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query("select give($1, $2, $3, $4, $5)")
        .bind(deed.first)
        .bind(deed.last)
        .bind(deed.generation)
        .bind(deed.given_to)
        .bind(pause_ends);
    within(query.fetch_one(source)).await?.try_get(0)
}

/// Calls a pause off. If that cannot be, it ends by itself, and is waited for: nobody may write the slots while they
/// may still be given away.
async fn go_on(place: &Place, ends: Instant) {
    while Instant::now() < ends {
        let ended = async {
            let mut connection = place.connect().await?;
            let query = sqlx::query("select go_on()");
            within(query.execute(&mut connection)).await.map_err(|source| place.unreachable(source))
        };
        match ended.await {
            Ok(_) => return,
            Err(error) => tracing::warn!(%error, "slots stay paused until their time is over"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Kept as long as the connection.
async fn lock(place: &Place) -> Result<PgConnection, MoveError> {
    let mut connection = place.connect().await?;
    let query = sqlx::query("select pg_try_advisory_lock($1)").bind(MOVE_LOCK);
    let row = within(query.fetch_one(&mut connection)).await.map_err(|source| place.unreachable(source))?;
    match row.try_get(0).map_err(MoveError::Copy)? {
        true => Ok(connection),
        false => Err(MoveError::Busy(place.name.clone())),
    }
}
