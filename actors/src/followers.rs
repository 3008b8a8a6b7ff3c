//! Who follows which entity's durable views: SSE, `Prefer: wait`.
//!
//! A follower subscribes first and then reads the stored view, so nothing falls between the two. Only the
//! newest view is kept for one who is slow: views replace each other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use futures::stream::StreamExt;
use souk_persistence::Timestamp;
use souk_persistence::journal::{Journal, JournalError, ViewRow};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::ids::Id;
use crate::route::{Places, Views};

/// How often one who waits makes sure that the entity still lives where it is waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Before it is followed anew, where it moves or cannot be reached.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// An entity as readers see it.
#[derive(Debug)]
pub struct Standing<A: Aggregate> {
    /// The entity's id.
    pub stream: Uuid,
    /// The version that this shows.
    pub version: i32,
    /// Whose it is.
    pub owner: Option<Uuid>,
    /// When its first event was decided.
    pub created_at: Timestamp,
    /// When its newest event was decided.
    pub updated_at: Timestamp,
    /// What is seen.
    pub view: A::View,
}

impl<A: Aggregate> Standing<A> {
    /// As it is stored.
    pub fn read(row: &ViewRow) -> Result<Self, serde_json::Error> {
        let ViewRow { stream, version, owner, created_at, updated_at, ref view } = *row;
        Ok(Self { stream, version, owner, created_at, updated_at, view: serde_json::from_str(view)? })
    }

    /// As it would be stored.
    pub fn row(&self) -> ViewRow {
        let Self { stream, version, owner, created_at, updated_at, ref view } = *self;
        let view = serde_json::to_string(view).expect("views have string keys and no failing parts");
        ViewRow { stream, version, owner, created_at, updated_at, view: view.into() }
    }
}

type Channel<A> = watch::Sender<Option<Arc<Standing<A>>>>;

/// The followers of one kind of entity on this node.
#[derive(Debug)]
pub struct Followers<A: Aggregate> {
    channels: Mutex<HashMap<Uuid, Channel<A>>>,
    count: AtomicUsize,
}

impl<A: Aggregate> Default for Followers<A> {
    fn default() -> Self {
        Self { channels: Mutex::default(), count: AtomicUsize::new(0) }
    }
}

impl<A: Aggregate> Followers<A> {
    /// Tells followers of an entity how it stands now. Cheap where nobody follows.
    pub fn publish(&self, standing: Standing<A>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(channel) = self.lock().get(&standing.stream) {
            channel.send_replace(Some(Arc::new(standing)));
        }
    }

    /// Hears of an entity's durable views from now on.
    pub fn subscribe(self: &Arc<Self>, stream: Uuid) -> Subscription<A> {
        let mut channels = self.lock();
        let receiver = match channels.entry(stream) {
            Entry::Occupied(channel) => channel.get().subscribe(),
            Entry::Vacant(vacant) => vacant.insert(watch::channel(None).0).subscribe(),
        };
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(channels);
        Subscription { followers: Arc::clone(self), stream, receiver: Some(receiver) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Channel<A>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of an entity of this node.
#[derive(Debug)]
pub struct Subscription<A: Aggregate> {
    followers: Arc<Followers<A>>,
    stream: Uuid,
    /// Given up under the lock, so that the last one to go knows that it is.
    receiver: Option<watch::Receiver<Option<Arc<Standing<A>>>>>,
}

impl<A: Aggregate> Subscription<A> {
    /// The next view that is newer than the last one heard. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Arc<Standing<A>> {
        let receiver = self.receiver.as_mut().expect("it is given up only by Drop");
        loop {
            // The sending end lives as long as anybody subscribes.
            let is_open = receiver.changed().await.is_ok();
            debug_assert!(is_open, "a channel with a subscriber is kept");
            if let Some(standing) = receiver.borrow_and_update().clone() {
                return standing;
            }
        }
    }
}

impl<A: Aggregate> Drop for Subscription<A> {
    fn drop(&mut self) {
        let mut channels = self.followers.lock();
        self.followers.count.fetch_sub(1, Ordering::AcqRel);
        self.receiver = None;
        if channels.get(&self.stream).is_some_and(|channel| channel.receiver_count() == 0) {
            channels.remove(&self.stream);
        }
    }
}

/// An entity that is followed, wherever it lives.
pub struct Following<A: Aggregate> {
    followers: Arc<Followers<A>>,
    journal: Arc<dyn Journal>,
    places: Places,
    id: Id<A>,
    source: Source<A>,
    shown: Option<i32>,
    /// Something may have been missed.
    is_in_doubt: bool,
}

/// Where its views come from.
enum Source<A: Aggregate> {
    Here(Subscription<A>),
    Elsewhere {
        views: Views,
        /// Something has come: whatever is newer than what is read from now on will come too.
        is_subscribed: bool,
    },
}

impl<A: Aggregate> std::fmt::Debug for Following<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Following").field("id", &self.id).field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl<A: Aggregate> Following<A> {
    /// Follows an entity from how it stands in `journal`.
    pub fn begin(followers: Arc<Followers<A>>, journal: Arc<dyn Journal>, places: Places, id: Id<A>) -> Self {
        let source = Source::of(&followers, &places, id);
        Self { followers, journal, places, id, source, shown: None, is_in_doubt: false }
    }

    /// Only what happens from now on: whoever has just made the entity need not read it.
    pub fn only_news(mut self) -> Self {
        self.shown = Some(0);
        self
    }

    /// How it stands: at first as stored, then whenever it has changed. `Ok(None)`, only at first: it does
    /// not exist yet; the next call waits until it does. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        if self.shown.is_none() {
            let stored = self.caught_up().await?;
            self.shown = Some(stored.as_ref().map_or(0, |standing| standing.version));
            return Ok(stored);
        }
        loop {
            let standing = match self.is_in_doubt {
                true => self.begin_again().await?,
                false => self.heard().await?,
            };
            if let Some(standing) = standing.filter(|standing| Some(standing.version) > self.shown) {
                self.shown = Some(standing.version);
                return Ok(Some(standing));
            }
        }
    }

    /// What comes from where it lives. `None`: nothing has, or that may not be where it lives any more.
    async fn heard(&mut self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        let heard = match &mut self.source {
            Source::Here(here) => timeout(LOOK_AGAIN, here.changed()).await.map(Some),
            Source::Elsewhere { views, .. } => match timeout(LOOK_AGAIN, views.next()).await {
                Ok(Some(row)) if row.version == 0 => return Ok(None),
                Ok(Some(row)) => Ok(Some(Standing::read(&row).map(Arc::new).map_err(unreadable)?)),
                Ok(None) => Ok(None),
                Err(elapsed) => Err(elapsed),
            },
        };
        match heard {
            Ok(Some(standing)) => Ok(Some(standing)),
            Err(_elapsed) if self.is_at_its_source() => Ok(None),
            Ok(None) | Err(_) => {
                self.is_in_doubt = true;
                Ok(None)
            }
        }
    }

    /// It has moved, or the connection is lost: something may have been missed.
    async fn begin_again(&mut self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        tokio::time::sleep(AGAIN_AFTER).await;
        self.source = Source::of(&self.followers, &self.places, self.id);
        let stored = self.caught_up().await?;
        self.is_in_doubt = match self.source {
            Source::Here(_) => false,
            Source::Elsewhere { is_subscribed, .. } => !is_subscribed,
        };
        Ok(stored)
    }

    /// What is stored, once it is certain that whatever is newer will be told.
    async fn caught_up(&mut self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        if let Source::Elsewhere { views, is_subscribed } = &mut self.source
            && !*is_subscribed
        {
            // Should it be a view already, the one that is read below is no older.
            *is_subscribed = matches!(timeout(LOOK_AGAIN, views.next()).await, Ok(Some(_)));
            self.is_in_doubt = !*is_subscribed;
        }
        self.stored().await
    }

    fn is_at_its_source(&self) -> bool {
        match self.source {
            Source::Here(_) => self.places.is_here(self.id.slot()),
            Source::Elsewhere { .. } => !self.places.is_here(self.id.slot()),
        }
    }

    async fn stored(&self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        let stored = self.journal.views(A::KIND.number(), vec![self.id.uuid()]).await?.pop();
        stored.map(|row| Standing::read(&row).map(Arc::new).map_err(unreadable)).transpose()
    }
}

impl<A: Aggregate> Source<A> {
    fn of(followers: &Arc<Followers<A>>, places: &Places, id: Id<A>) -> Self {
        match places.route() {
            Some(route) if !places.is_here(id.slot()) => {
                Self::Elsewhere { views: route.follow(A::KIND, id.uuid()), is_subscribed: false }
            }
            Some(_) | None => Self::Here(followers.subscribe(id.uuid())),
        }
    }
}

fn unreadable(error: serde_json::Error) -> JournalError {
    JournalError::Corrupt(error.to_string().into())
}
