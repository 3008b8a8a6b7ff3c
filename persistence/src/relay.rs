//! The relay: carries what the journal of one database says to a consumer outside, in the order in which it was
//! committed, at least once.
//!
//! The journal is the outbox. [`outbox`] reads it behind a cursor that only moves forward, and only rows older than
//! every running transaction: none can appear before one that was read. What a row tells is a pure function of its
//! stream, so what is told twice is told alike. The cursor moves when everything is delivered; a crash in between tells
//! it again.

mod outbox;
mod pace;
mod recent;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use uuid::Uuid;

use crate::causes;
use crate::chance;
use crate::journal::StoredRow;
use pace::Pace;
use recent::Recent;

pub use outbox::{Outbox, OutboxError, OutboxRow, Page, Position, Standing};

/// Between two looks while nothing is told.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(5);
/// Between two looks at whether this node is the one that tells.
const ASIDE: Duration = Duration::from_millis(500);
/// While it waits to be delivered, what it is behind by is shown so often.
const LAG_SHOWN: Duration = Duration::from_secs(1);
/// Of the rows that were told last so much is kept, twice.
const RECENT_BYTES: usize = 4 << 20;
/// Behind by more, it is said that it catches up.
const BEHIND: Duration = Duration::from_secs(5);

/// Something to tell, as a broker takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: String,
    /// Messages of one key stay in order.
    pub key: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// What it says.
    pub body: Vec<u8>,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: i64,
}

/// It cannot be told now; the same may be told again.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be told now")]
pub struct Undelivered(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Takes messages for good: a broker, or what stands for one in a test.
pub trait Publisher: Send + Sync + 'static {
    /// Resolves when all are delivered for good, those of one key in their order; however long that takes. Dropped
    /// before, or where it fails, some of them may be, and no other is from then on.
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, Result<(), Undelivered>>;
}

/// How rows are put into words.
#[derive(Clone)]
pub struct Tongue {
    /// Of these kinds there is something to tell.
    pub kinds: Vec<i16>,
    /// Of these kinds what a row tells depends on the rows before it.
    pub remembers: Vec<i16>,
    /// Puts into words what the rows of a stream of a kind tell that are behind a version. Where rows before them are
    /// needed, all of the stream is given.
    pub tell: Arc<dyn Fn(i16, Uuid, &[StoredRow], i32) -> Told + Send + Sync>,
}

/// What rows tell, or why they cannot be read.
pub type Told = Result<Vec<Message>, Box<dyn std::error::Error + Send + Sync>>;

impl fmt::Debug for Tongue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tongue").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// How a relay goes about it.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Between two looks where there was nothing more to read.
    pub interval: Duration,
    /// The most rows at once.
    pub page: i64,
    /// The most rows in a second, however many there are to tell.
    pub rows_per_second: u32,
}

/// Why a relay does not go on.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("the journal cannot be read")]
    Outbox(#[from] OutboxError),
    #[error("a row cannot be put into words")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a row of {0} is behind one that is not here: its slot is moving to another database")]
    Gap(Uuid),
    #[error(transparent)]
    Undelivered(#[from] Undelivered),
    #[error("it panicked")]
    Panicked,
    /// It was loaded from a dump of another server.
    #[error(
        "the cursor is ahead of every transaction of the server, as after loading a dump of another one: \
         `souk relay reset` tells everything again"
    )]
    Ahead,
}

/// Tells a consumer what one database's journal says, as long as this is polled.
pub struct Relay {
    outbox: Outbox,
    tongue: Tongue,
    publisher: Arc<dyn Publisher>,
    settings: RelaySettings,
    /// Of several nodes one tells.
    is_mine: Box<dyn Fn() -> bool + Send + Sync>,
    pace: Pace,
    recent: Recent,
    catches_up: bool,
}

impl Relay {
    /// Over an outbox. `is_mine`: whether this node is to do it now; if two think so, both tell.
    pub fn new(
        outbox: Outbox,
        tongue: Tongue,
        publisher: Arc<dyn Publisher>,
        settings: RelaySettings,
        is_mine: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let pace = Pace::new(settings.rows_per_second, Instant::now());
        let is_mine = Box::new(is_mine);
        let recent = Recent::new(RECENT_BYTES);
        Self { outbox, tongue, publisher, settings, is_mine, pace, recent, catches_up: false }
    }

    /// Goes on for ever. Dropped, it leaves its cursor where it is.
    pub async fn run(mut self) {
        let mut again = AGAIN_FIRST;
        loop {
            if !(self.is_mine)() {
                self.stands_aside();
                tokio::time::sleep(ASIDE).await;
                continue;
            }
            // One that cannot be told must not silence the relays of other databases.
            let round = AssertUnwindSafe(self.round()).catch_unwind().await;
            match round.unwrap_or(Err(Stop::Panicked)) {
                Ok(rows) => {
                    again = AGAIN_FIRST;
                    self.says_that_it_stands(false);
                    let is_all = rows < usize::try_from(self.settings.page).unwrap_or(usize::MAX);
                    let pause = self.pace.pause(rows, Instant::now());
                    tokio::time::sleep(if is_all { pause.max(self.settings.interval) } else { pause }).await;
                }
                Err(stop) => {
                    self.report(&stop);
                    self.says_that_it_stands(true);
                    let chance: f64 = chance::draw();
                    tokio::time::sleep(again.mul_f64(0.5 + chance / 2.0)).await;
                    again = (again * 2).min(AGAIN_LAST);
                }
            }
        }
    }

    /// Tells a page: how many rows it was.
    async fn round(&mut self) -> Result<usize, Stop> {
        let page = self.outbox.read(&self.tongue.kinds, self.settings.page).await?;
        self.measure(&page.standing);
        if page.standing.is_ahead {
            return Err(Stop::Ahead);
        }
        let Some(last) = page.rows.last().map(|row| row.position) else { return Ok(0) };
        let rows = page.rows.len();
        let messages = self.words(page.rows).await?;
        let count = messages.len();
        if count > 0 && !self.publish(messages, page.standing.lag).await? {
            return Ok(0);
        }
        // Somebody else has told it too, and further: the next page begins there.
        if !self.outbox.advance(page.cursor, last).await? {
            tracing::info!(db = self.outbox.name(), "another node tells the same");
        }
        let db = self.outbox.name().to_owned();
        metrics::counter!("souk_relay_rows_total", "db" => db.clone()).increment(rows as u64);
        metrics::counter!("souk_relay_messages_total", "db" => db).increment(count as u64);
        Ok(rows)
    }

    /// While nobody takes it, what it is behind by grows, and is seen to. `false`: it is another node's now.
    async fn publish(&self, messages: Vec<Message>, lag: Duration) -> Result<bool, Undelivered> {
        let begun = Instant::now();
        let mut publishing = self.publisher.publish(messages);
        loop {
            match tokio::time::timeout(LAG_SHOWN, &mut publishing).await {
                Ok(published) => return published.map(|()| true),
                Err(_elapsed) if (self.is_mine)() => self.show_lag(lag + begun.elapsed()),
                Err(_elapsed) => return Ok(false),
            }
        }
    }

    fn show_lag(&self, lag: Duration) {
        let db = self.outbox.name().to_owned();
        metrics::gauge!("souk_relay_lag_seconds", "db" => db).set(lag.as_secs_f64());
    }

    fn show_held(&self, held: Duration) {
        let db = self.outbox.name().to_owned();
        metrics::gauge!("souk_relay_held_seconds", "db" => db).set(held.as_secs_f64());
    }

    /// What a page tells, stream by stream.
    async fn words(&mut self, rows: Vec<OutboxRow>) -> Result<Vec<Message>, Stop> {
        let mut streams: BTreeMap<(i16, Uuid), Vec<StoredRow>> = BTreeMap::new();
        for OutboxRow { position, kind, at, events } in rows {
            if let Some(events) = events {
                let row = StoredRow { version: position.version, at, events };
                streams.entry((kind, position.stream)).or_default().push(row);
            }
        }
        let (mut before, mut lacking) = (HashMap::<Uuid, Vec<StoredRow>>::new(), Vec::new());
        for ((kind, stream), rows) in &streams {
            let first = rows.iter().map(|row| row.version).min().unwrap_or(1);
            if first == 1 || !self.tongue.remembers.contains(kind) {
                continue;
            }
            match self.recent.take(*stream, first) {
                Some(rows) => drop(before.insert(*stream, rows)),
                None => lacking.push((*stream, first)),
            }
        }
        for (stream, row) in self.outbox.before(&lacking).await? {
            before.entry(stream).or_default().push(row);
        }
        let mut messages = Vec::new();
        for ((kind, stream), mut rows) in streams {
            let after = rows.iter().map(|row| row.version).min().unwrap_or(1) - 1;
            let news = i32::try_from(rows.len()).unwrap_or(i32::MAX);
            rows.extend(before.remove(&stream).unwrap_or_default());
            rows.sort_unstable_by_key(|row| row.version);
            let remembers = self.tongue.remembers.contains(&kind);
            // They were read after the page.
            if remembers && !rows.iter().map(|row| row.version).eq(1..=after + news) {
                return Err(Stop::Gap(stream));
            }
            messages.extend((self.tongue.tell)(kind, stream, &rows, after).map_err(Stop::Unreadable)?);
            if remembers {
                self.recent.keep(stream, rows);
            }
        }
        Ok(messages)
    }

    /// How things stand, whoever tells now says.
    fn stands_aside(&mut self) {
        self.outbox.close();
        self.catches_up = false;
        self.show_lag(Duration::ZERO);
        self.show_held(Duration::ZERO);
        self.says_that_it_stands(false);
    }

    fn measure(&mut self, standing: &Standing) {
        let Standing { lag, held, .. } = *standing;
        self.show_lag(lag);
        self.show_held(held);
        let db = self.outbox.name();
        let was_behind = std::mem::replace(&mut self.catches_up, lag > BEHIND);
        match (was_behind, self.catches_up) {
            (false, true) => {
                let rows_per_second = self.settings.rows_per_second;
                tracing::info!(db, behind = ?lag, rows_per_second, "the relay catches up, no faster than this");
            }
            (true, false) => tracing::info!(db, "the relay has caught up"),
            (false, false) | (true, true) => {}
        }
    }

    fn report(&self, stop: &Stop) {
        tracing::warn!(db = self.outbox.name(), error = causes(stop), "the relay waits");
    }

    fn says_that_it_stands(&self, stands: bool) {
        let db = self.outbox.name().to_owned();
        metrics::gauge!("souk_relay_stopped", "db" => db).set(f64::from(u8::from(stands)));
    }
}
