//! Who follows which entity's durable views: SSE, `Prefer: wait`.
//!
//! A follower subscribes first and then reads the stored view, so nothing falls between the two. Only the
//! newest view is kept for one who is slow: views replace each other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use souk_persistence::journal::{Journal, JournalError, ViewRow};
use tokio::sync::watch;
use uuid::Uuid;

type Channel = watch::Sender<Option<Arc<ViewRow>>>;

/// The followers of one kind of entity on this node.
#[derive(Debug, Default)]
pub struct Followers {
    channels: Mutex<HashMap<Uuid, Channel>>,
    count: AtomicUsize,
}

impl Followers {
    /// Tells followers of an entity how it stands now. Cheap where nobody follows.
    pub fn publish(&self, row: &ViewRow) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(channel) = self.lock().get(&row.stream) {
            channel.send_replace(Some(Arc::new(row.clone())));
        }
    }

    /// Follows an entity from how it stands in `journal`.
    pub fn follow(self: &Arc<Self>, journal: Arc<dyn Journal>, kind: i16, stream: Uuid) -> Following {
        let mut channels = self.lock();
        let receiver = match channels.entry(stream) {
            Entry::Occupied(channel) => channel.get().subscribe(),
            Entry::Vacant(vacant) => vacant.insert(watch::channel(None).0).subscribe(),
        };
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(channels);
        Following { followers: Arc::clone(self), journal, kind, stream, receiver, shown: None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entity that is followed.
#[derive(Debug)]
pub struct Following {
    followers: Arc<Followers>,
    journal: Arc<dyn Journal>,
    kind: i16,
    stream: Uuid,
    receiver: watch::Receiver<Option<Arc<ViewRow>>>,
    shown: Option<i32>,
}

impl Following {
    /// How it stands: at first as stored, then whenever it has changed. `Ok(None)`, only at first: it does
    /// not exist yet; the next call waits until it does. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Arc<ViewRow>>, JournalError> {
        if self.shown.is_none() {
            let stored = self.journal.views(self.kind, vec![self.stream]).await?.pop();
            self.shown = Some(stored.as_ref().map_or(0, |row| row.version));
            return Ok(stored.map(Arc::new));
        }
        loop {
            let newest = self.receiver.borrow_and_update().clone();
            if let Some(row) = newest.filter(|row| Some(row.version) > self.shown) {
                self.shown = Some(row.version);
                return Ok(Some(row));
            }
            if self.receiver.changed().await.is_err() {
                return Err(JournalError::Unavailable("the node stops".into()));
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut channels = self.followers.lock();
        self.followers.count.fetch_sub(1, Ordering::AcqRel);
        // This one's receiver still counts.
        if channels.get(&self.stream).is_some_and(|channel| channel.receiver_count() <= 1) {
            channels.remove(&self.stream);
        }
    }
}
