//! Who follows which entity's durable views: SSE, `Prefer: wait`.
//!
//! A follower subscribes first and then reads the stored view, so nothing falls between the two. Only the
//! newest view is kept for one who is slow: views replace each other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use souk_persistence::Timestamp;
use souk_persistence::journal::{Journal, JournalError, ViewRow};
use tokio::sync::watch;
use uuid::Uuid;

use crate::aggregate::Aggregate;

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

    /// Follows an entity from how it stands in `journal`.
    pub fn follow(self: &Arc<Self>, journal: Arc<dyn Journal>, stream: Uuid) -> Following<A> {
        let mut channels = self.lock();
        let receiver = match channels.entry(stream) {
            Entry::Occupied(channel) => channel.get().subscribe(),
            Entry::Vacant(vacant) => vacant.insert(watch::channel(None).0).subscribe(),
        };
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(channels);
        Following { followers: Arc::clone(self), journal, stream, receiver: Some(receiver), shown: None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Channel<A>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entity that is followed.
#[derive(Debug)]
pub struct Following<A: Aggregate> {
    followers: Arc<Followers<A>>,
    journal: Arc<dyn Journal>,
    stream: Uuid,
    /// Given up under the lock, so that the last one to go knows that it is.
    receiver: Option<watch::Receiver<Option<Arc<Standing<A>>>>>,
    shown: Option<i32>,
}

impl<A: Aggregate> Following<A> {
    /// Only what happens from now on: whoever has just made the entity need not read it.
    pub fn only_news(mut self) -> Self {
        self.shown = Some(0);
        self
    }

    /// How it stands: at first as stored, then whenever it has changed. `Ok(None)`, only at first: it does
    /// not exist yet; the next call waits until it does. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Arc<Standing<A>>>, JournalError> {
        if self.shown.is_none() {
            let stored = self.journal.views(A::KIND.number(), vec![self.stream]).await?.pop();
            self.shown = Some(stored.as_ref().map_or(0, |row| row.version));
            let unreadable = |error: serde_json::Error| JournalError::Corrupt(error.to_string().into());
            return stored.map(|row| Standing::read(&row).map(Arc::new).map_err(unreadable)).transpose();
        }
        let receiver = self.receiver.as_mut().expect("it is given up only by Drop");
        loop {
            let newest = receiver.borrow_and_update().clone();
            if let Some(standing) = newest.filter(|standing| Some(standing.version) > self.shown) {
                self.shown = Some(standing.version);
                return Ok(Some(standing));
            }
            if receiver.changed().await.is_err() {
                return Err(JournalError::Unavailable("the node stops".into()));
            }
        }
    }
}

impl<A: Aggregate> Drop for Following<A> {
    fn drop(&mut self) {
        let mut channels = self.followers.lock();
        self.followers.count.fetch_sub(1, Ordering::AcqRel);
        self.receiver = None;
        if channels.get(&self.stream).is_some_and(|channel| channel.receiver_count() == 0) {
            channels.remove(&self.stream);
        }
    }
}
