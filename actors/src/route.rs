//! Where entities live: here, or on another node that a [`Route`] leads to. What crosses is bytes; nobody
//! but the [`crate::directory`] knows what is in them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::Stream;
use souk_persistence::Timestamp;
use souk_persistence::journal::ViewRow;
use uuid::Uuid;

use crate::aggregate::Kind;
use crate::ids::Slot;
use crate::territory::Territory;

tokio::task_local! {
    /// The W3C `traceparent` of the request that this task serves. It goes with what is asked of other nodes.
    pub static TRACEPARENT: Arc<str>;
}

/// A command that crosses to another node.
#[derive(Clone, Debug)]
pub struct Call {
    /// Of which aggregate.
    pub kind: Kind,
    /// The entity.
    pub id: Uuid,
    /// The command, as JSON.
    pub command: Bytes,
    /// The stream is known to be empty. Not so any more once it may have been done: nobody knows what became of
    /// that.
    pub is_new: bool,
    /// It may be done twice, and is answered the same.
    pub may_repeat: bool,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The answer, as JSON.
    Answer(Bytes),
    /// The rejection, as JSON: it did not happen and will not.
    Rejection(Bytes),
    /// Nobody knows; the same may be asked again.
    Unknown,
    /// The entity does not live there, and nothing was done: ask where it lives.
    NotHere,
    /// It has moved away while it was asked, and perhaps it was done.
    Moved,
}

/// Views of an entity as they become durable.
pub type Views = Pin<Box<dyn Stream<Item = ViewRow> + Send + Sync>>;

/// No view, and older than any: it says that whatever is newer will be told.
pub fn subscribed(stream: Uuid) -> ViewRow {
    let never = Timestamp::default();
    ViewRow { stream, version: 0, owner: None, created_at: never, updated_at: never, view: "null".into() }
}

/// Leads to entities on other nodes.
pub trait Route: Send + Sync + fmt::Debug + 'static {
    /// Asks, and asks again where an entity has moved, at most for `within`; what may not be repeated only while
    /// nothing was done. [`Said::NotHere`], [`Said::Moved`]: it may have moved to this very node.
    fn ask(&self, call: Call, within: Duration) -> BoxFuture<'_, Said>;

    /// Every durable view of an entity from now on. The subscription is on its way when this returns, before
    /// whatever is asked next; the first row that comes, [`subscribed`], says that it has arrived. It ends whenever
    /// the connection or the entity's home changes; views may have been missed then.
    fn follow(&self, kind: Kind, id: Uuid) -> Views;
}

/// Where entities live.
#[derive(Clone, Debug)]
pub struct Places {
    territory: Arc<Territory>,
    route: Option<Arc<dyn Route>>,
}

impl Places {
    /// All of them here.
    pub fn alone() -> Self {
        Self { territory: Arc::new(Territory::everything()), route: None }
    }

    /// Some of them here, the others where the route leads.
    pub fn shared(territory: Arc<Territory>, route: Arc<dyn Route>) -> Self {
        Self { territory, route: Some(route) }
    }

    /// What lives here.
    pub fn territory(&self) -> &Arc<Territory> {
        &self.territory
    }

    /// The way elsewhere; `None`: there is no elsewhere.
    pub fn route(&self) -> Option<&Arc<dyn Route>> {
        self.route.as_ref()
    }

    /// Whether entities of the slot live here.
    pub fn is_here(&self, slot: Slot) -> bool {
        self.territory.has(slot)
    }
}
