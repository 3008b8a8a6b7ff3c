//! The shop as whoever gives and takes slots sees it: a cluster, or nobody.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use souk_persistence::journal::ViewRow;
use tokio::time::Instant;
use uuid::Uuid;

use crate::aggregate::Kind;
use crate::concurrency::ConcurrencyLimit;
use crate::directory::Directory;
use crate::host::AnyHost;
use crate::route::{Call, Said};
use crate::settling::Collector;
use crate::shop::Journals;
use crate::sweep::Sweep;
use crate::territory::{SlotSet, Territory};

/// Between two looks at what a new slot owes, where there is more than one look wakes.
const ADOPT_PAUSE: Duration = Duration::from_millis(100);

/// Entities end within a turn of theirs.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A handle to an open shop.
#[derive(Clone, Debug)]
pub struct Tenant(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub directory: Directory,
    pub collector: Arc<Collector>,
    pub sweep: Arc<Sweep>,
    pub concurrency: ConcurrencyLimit,
    pub journals: Journals,
}

impl Tenant {
    /// What lives here.
    pub fn territory(&self) -> &Territory {
        self.0.directory.places().territory()
    }

    /// Entities of these slots live here from now on. What they owe is taken up by [`Tenant::adopt`].
    pub fn gain(&self, slots: &SlotSet) {
        self.territory().gain(slots);
    }

    /// Takes up what gained slots owe. Ends when all of it is awake; the sweep goes on where this is dropped.
    pub async fn adopt(&self) {
        let Inner { directory, collector, sweep, .. } = &*self.0;
        while !sweep.adopt(directory, collector).await {
            tokio::time::sleep(ADOPT_PAUSE).await;
        }
    }

    /// Entities of these slots live here no more: they end at once, whatever they were about. Rows that a journal
    /// was given are still answered; [`Tenant::flushed`] tells when.
    pub fn lose(&self, slots: &SlotSet) {
        self.territory().lose(slots);
        self.0.sweep.forget(slots);
        self.0.collector.forget(slots);
        self.0.directory.hosts().all().for_each(|host| host.evict(slots));
    }

    /// Resolves when whoever was sent away by [`Tenant::lose`] has ended and every row given to a journal so far is
    /// answered.
    pub async fn flushed(&self) {
        while !self.0.directory.hosts().all().all(AnyHost::has_evicted) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let Journals { account, product, order, payment } = &self.0.journals;
        let flushed = [account, product, order, payment].map(|journal| journal.flushed());
        futures::future::join_all(flushed).await;
    }

    /// Whether one more purchase may be accepted: what is accepted must be done in time.
    pub fn has_room(&self) -> bool {
        let orders = &self.0.directory.hosts().order;
        // What is stuck takes no turn of anybody else's: it must not close the shop.
        orders.moving() < self.0.concurrency.get(Instant::now(), orders.done())
    }

    /// Asks an entity of this node for another node.
    pub async fn serve(&self, call: Call, within: Duration) -> Said {
        self.0.directory.serve(call, within, || self.has_room()).await
    }

    /// The durable views of an entity of this node from now on, until it moves away.
    pub fn follow(&self, kind: Kind, id: Uuid) -> BoxStream<'static, ViewRow> {
        self.0.directory.follow_rows(kind, id)
    }

    /// How many entities are in memory, of each kind.
    pub fn residents(&self) -> Vec<(&'static str, usize)> {
        self.0.directory.hosts().all().map(|host| (host.kind(), host.residents())).collect()
    }
}
