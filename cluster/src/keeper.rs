//! Keeps a node in the cluster: renews its lease, acts upon what the register says, and takes and gives shards as
//! [`crate::placement`] plans. One task; the rounds of its loop are the only place where shards come.
//!
//! A lease counts from the moment its renewal was sent, and ends a margin early. When it is no more certain, this
//! node's entities end, whatever else happens: they may live elsewhere by then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use souk_actors::Clock;
use souk_actors::tenant::Tenant;
use souk_actors::territory::{SlotSet, since_boot};
use souk_persistence::causes;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::link::{Links, Peer};
use crate::map::{ClusterMap, Node};
use crate::placement::{self, Plan};
use crate::register::{CHANNEL, Introduction, Register, RegisterError, Standing};
use crate::time::ClusterTime;

/// Rows of shards that are given away get so long to be durable; if they take longer the shards stay.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// Between rounds while there is something to do.
const BUSY: Duration = Duration::from_millis(20);
/// After the register could not be reached, or rows were not durable in time.
const AGAIN: Duration = Duration::from_millis(250);
/// Between rounds without news.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// A node that leaves gives its shards away within this time, or drops them.
const PART_MAX: Duration = Duration::from_secs(10);

/// How the node stands in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// What the register last said; `None`: it has said nothing yet.
    pub map: Option<Arc<ClusterMap>>,
    /// Until when the lease is certain, since the machine was started.
    pub certain_until: Duration,
}

impl Membership {
    /// The lease is certain.
    pub fn is_member(&self) -> bool {
        since_boot() < self.certain_until
    }
}

/// Reads again which slots the databases hold. `false`: they cannot be read now.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// What a keeper works with.
pub(crate) struct Keeper {
    pub register: Register,
    pub me: Introduction,
    pub lease: Duration,
    pub tenant: Tenant,
    pub links: Arc<Links>,
    pub time: Arc<ClusterTime>,
    pub membership: watch::Sender<Membership>,
    pub news: Arc<Notify>,
    pub reload: Reload,
    /// The version of the map that is acted upon.
    pub seen: i64,
    /// The databases' holdings as they were last read.
    pub holdings: i64,
    /// Rows of slots that are not here any more may be unanswered.
    pub must_flush: bool,
    /// The slots that were frozen when they were.
    pub frozen: SlotSet,
    /// What was here after the last round.
    pub had: SlotSet,
    /// Since when rows are not durable that should be, or it cannot be read which database holds what.
    pub stuck_since: Option<Instant>,
    /// The end of a give that was not answered: it may yet happen.
    pub unsettled: Option<i64>,
    /// Has what new slots owe taken up.
    pub adoption: Arc<Notify>,
    pub leave: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Whether more is to be done at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Idle,
    Busy,
    Waiting,
}

impl Keeper {
    /// Runs until it is asked to leave, and has left.
    pub async fn run(mut self) {
        loop {
            let pause = match self.round().await {
                Ok(Pace::Idle) => self.next_look(),
                Ok(Pace::Busy) => BUSY,
                Ok(Pace::Waiting) => AGAIN,
                Err(error) => {
                    tracing::warn!(error = causes(&error), "the register cannot be read");
                    AGAIN
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.news.notified() => {}
                asked = self.leave.recv() => {
                    self.part().await;
                    self.register.close().await;
                    if let Some(asked) = asked {
                        // Whoever waits for it may have lost patience.
                        let _ = asked.send(());
                    }
                    return;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<Pace, RegisterError> {
        if let Some(before) = self.unsettled
            && self.register.settle(before).await?
        {
            self.unsettled = None;
        }
        let (sent, sent_boot) = (Clock::System.now(), since_boot());
        let me = self.me.incarnation;
        let standing =
            Standing { ahead_us: self.time.ahead_us(), seen: self.seen, is_stuck: self.is_stuck() };
        let Some(map) = self.register.renew(me, self.lease, standing).await? else {
            return self.begin_anew().await;
        };
        self.time.set(sent, map.now_us, Clock::System.now());
        // Early, so that it has ended here before it ends there.
        let certain_until = sent_boot + self.lease - self.lease / 5;
        self.tenant.territory().rely_until(certain_until);
        let map = Arc::new(map);
        self.membership.send_replace(Membership { map: Some(Arc::clone(&map)), certain_until });
        let peer = |node: &Node| Peer { incarnation: node.incarnation, address: node.address.clone() };
        self.links.expect(map.peers(me).map(peer).collect());
        match self.unsettled {
            // What was given may yet be: this map is no ground to take it back.
            Some(_) => Ok(Pace::Waiting),
            None => self.act(&map).await,
        }
    }

    /// It has not been able to serve for so long that others are to.
    fn is_stuck(&self) -> bool {
        self.stuck_since.is_some_and(|since| since.elapsed() > self.lease)
    }

    /// The lease had ended: what was here may be elsewhere.
    async fn begin_anew(&mut self) -> Result<Pace, RegisterError> {
        metrics::counter!("souk_cluster_leases_lost_total").increment(1);
        tracing::warn!("the lease had ended: this node joins anew");
        self.tenant.territory().rely_until(Duration::ZERO);
        self.tenant.lose(&self.tenant.territory().slots());
        self.must_flush = true;
        self.seen = 0;
        self.register.join(&self.me, self.lease).await?;
        Ok(Pace::Busy)
    }

    async fn act(&mut self, map: &ClusterMap) -> Result<Pace, RegisterError> {
        let me = self.me.incarnation;
        let frozen = map.frozen_slots();
        // With a wrong clock nothing is served, whatever is this node's until others have taken it.
        let owned = if self.time.is_right() { map.slots_of(&map.shards_of(me)) } else { SlotSet::NOTHING };
        let mine = owned.without(&frozen);
        let here = self.tenant.territory().slots();
        let lost = here.without(&mine);
        if !lost.is_empty() {
            self.tenant.lose(&lost);
            self.must_flush = true;
        }
        // Some may have been lost since, with the lease.
        self.must_flush |= !self.had.without(&here).is_empty();
        // Nobody is told that this map is acted upon before the rows of what was lost are answered.
        if self.must_flush && !self.is_flushed().await {
            return self.stand_still(map).await;
        }
        self.must_flush = false;
        // Also where whoever froze them is heard of no more.
        let has_thawed = !self.frozen.without(&frozen).is_empty();
        if map.holdings != self.holdings || has_thawed {
            // Leases are renewed meanwhile by nobody.
            if !matches!(timeout(self.lease / 5, (self.reload)()).await, Ok(true)) {
                return self.stand_still(map).await;
            }
            self.holdings = map.holdings;
        }
        self.frozen = frozen;
        if !map.node(me).is_some_and(|node| node.is_draining) {
            self.stuck_since = None;
        }
        let gained = mine.without(&here);
        if !gained.is_empty() {
            tracing::info!(slots = ?gained, "slots have come here");
            self.gain(&gained);
        }
        let is_news = self.seen != map.version;
        self.seen = map.version;
        metrics::gauge!("souk_cluster_shards").set(map.shards_of(me).len() as f64);
        let Plan { take, give } = placement::plan(map, me, |node| self.links.is_linked(node));
        if !take.is_empty() && self.time.is_right() {
            self.register.take(me, &take).await?;
        }
        let pace = self.give(map, &give).await?;
        self.had = self.tenant.territory().slots();
        // What has been seen is told with the next renewal.
        Ok(if is_news || !take.is_empty() { Pace::Busy } else { pace })
    }

    /// Rows are not durable, or it cannot be read which database holds what: nothing more is served here. Where that
    /// lasts, others are to have this node's shards, durable or not: of two rows the journal takes one.
    async fn stand_still(&mut self, map: &ClusterMap) -> Result<Pace, RegisterError> {
        self.stuck_since.get_or_insert_with(Instant::now);
        if self.is_stuck() {
            tracing::error!("this node cannot serve: it gives its shards away");
            let Plan { give, .. } =
                placement::plan(map, self.me.incarnation, |node| self.links.is_linked(node));
            self.give(map, &give).await?;
        }
        Ok(Pace::Waiting)
    }

    fn gain(&self, slots: &SlotSet) {
        self.tenant.gain(slots);
        self.adoption.notify_one();
    }

    async fn is_flushed(&self) -> bool {
        timeout(FLUSH_MAX, self.tenant.flushed()).await.is_ok()
    }

    /// Gives shards away once their rows are durable.
    async fn give(&mut self, map: &ClusterMap, give: &[(u16, Option<Uuid>)]) -> Result<Pace, RegisterError> {
        if give.is_empty() {
            return Ok(Pace::Idle);
        }
        // While a database is away nobody's entities end for nothing; but for whoever must go, in the end.
        let must_go = map.node(self.me.incarnation).is_none_or(|me| !me.takes_shards());
        if !self.is_flushed().await {
            if must_go {
                self.stuck_since.get_or_insert_with(Instant::now);
            }
            if !self.is_stuck() {
                return Ok(Pace::Waiting);
            }
        }
        let shards: Vec<u16> = give.iter().map(|(shard, _)| *shard).collect();
        let slots = map.slots_of(&shards);
        let here = self.tenant.territory().slots();
        self.tenant.lose(&slots);
        if !self.is_flushed().await && !self.is_stuck() {
            tracing::warn!(?shards, "rows are not durable yet: the shards stay for now");
            self.gain(&slots.within(&here));
            return Ok(Pace::Waiting);
        }
        let mut receivers: BTreeMap<Option<Uuid>, Vec<u16>> = BTreeMap::new();
        for (shard, to) in give {
            receivers.entry(*to).or_default().push(*shard);
        }
        for (to, shards) in receivers {
            tracing::info!(?shards, to = ?to, "shards are given away");
            metrics::counter!("souk_cluster_shards_given_total").increment(shards.len() as u64);
            // As long as its answer is waited for. Until it is certain whether it was executed, nothing comes back.
            let patience = i64::try_from((self.lease / 5).as_micros()).unwrap_or(0);
            let before = self.time.now_us() + patience;
            self.unsettled = Some(before);
            self.register.give(self.me.incarnation, &shards, to, before).await?;
            self.unsettled = None;
        }
        Ok(Pace::Busy)
    }

    /// Gives everything away and goes.
    async fn part(&mut self) {
        let deadline = Instant::now() + PART_MAX;
        let me = self.me.incarnation;
        let drained = self.register.drain(&me.to_string(), true).await;
        let mut is_known = drained.is_ok();
        while is_known && Instant::now() < deadline {
            match self.round().await {
                Ok(Pace::Waiting) => tokio::time::sleep(BUSY).await,
                Ok(Pace::Idle | Pace::Busy) => {}
                Err(_) => is_known = false,
            }
            let map = self.membership.borrow().map.clone();
            if map.is_none_or(|map| map.shards_of(me).is_empty()) {
                break;
            }
        }
        self.tenant.lose(&self.tenant.territory().slots());
        if !self.is_flushed().await {
            tracing::warn!("rows are not durable yet: whoever has their shards next may lose to them");
        }
        if let Err(error) = self.register.leave(me).await {
            tracing::warn!(%error, "the register cannot be told: the lease ends by itself");
        }
    }

    /// When somebody's lease ends, or as usual.
    fn next_look(&self) -> Duration {
        let membership = self.membership.borrow();
        let ends = membership.map.iter().flat_map(|map| map.peers(self.me.incarnation));
        let first = ends.map(|node| node.remaining_us.unsigned_abs() + 5_000).min().unwrap_or(u64::MAX);
        Duration::from_micros(first).min(IDLE_MAX).min(self.lease / 5)
    }
}

/// Ends this node's entities when its lease is no more certain, whatever the keeper waits for.
pub(crate) async fn guard(tenant: Tenant, mut membership: watch::Receiver<Membership>) {
    loop {
        let left = membership.borrow_and_update().certain_until.saturating_sub(since_boot());
        if left.is_zero() {
            let slots = tenant.territory().slots();
            if !slots.is_empty() {
                tracing::warn!("the lease is not certain any more: entities end");
                tenant.lose(&slots);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(left), if !left.is_zero() => {}
            changed = membership.changed() => if changed.is_err() {
                // Nobody renews it any more.
                tokio::time::sleep(left).await;
                return tenant.lose(&tenant.territory().slots());
            },
        }
    }
}

/// Takes up what new slots owe, whenever some have come.
pub(crate) async fn adopt(tenant: Tenant, adoption: Arc<Notify>) {
    loop {
        adoption.notified().await;
        tenant.adopt().await;
    }
}

/// Hears of changes in the register, for speed; whoever misses one looks by itself.
pub(crate) async fn listen(options: PgConnectOptions, news: Arc<Notify>) {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                listener.recv().await?;
                news.notify_one();
            }
        };
        let Err::<std::convert::Infallible, sqlx::Error>(error) = heard.await;
        tracing::debug!(%error, "changes in the register are not heard");
        tokio::time::sleep(IDLE_MAX).await;
    }
}
