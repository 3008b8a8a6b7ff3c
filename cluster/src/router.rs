//! Finds where an entity lives and asks it there; answers for those that live here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use souk_actors::aggregate::Kind;
use souk_actors::route::{Call, Route, Said, TRACEPARENT, Views};
use souk_actors::tenant::Tenant;
use souk_actors::{Id, Slot, Timestamp};
use souk_persistence::journal::ViewRow;
use souk_proto::node::request::Body;
use souk_proto::node::response::Outcome;
use souk_proto::node::{Ask, Follow, Forget, NotOwner, Request, Standing, Unknown};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::keeper::Membership;
use crate::link::{Asked, Links, Responder};
use crate::map::Owner;
use crate::time::ClusterTime;

/// While nobody has a shard, or whoever has it cannot be reached.
const PAUSE: Duration = Duration::from_millis(25);
/// Nodes that do not hear it in time forget by themselves, later.
const FORGET_MAX: Duration = Duration::from_millis(500);
/// A subscription is renewed by whoever follows when it ends.
const FOLLOWED_MAX: Duration = Duration::from_secs(300);

/// The way to entities on other nodes.
#[derive(Debug)]
pub struct Router {
    pub(crate) me: Uuid,
    pub(crate) links: Arc<Links>,
    pub(crate) membership: watch::Receiver<Membership>,
    pub(crate) time: Arc<ClusterTime>,
    /// What another node said since the map was read: newer, where its epoch is.
    pub(crate) hints: Mutex<HashMap<u16, Owner>>,
}

impl Router {
    /// The shard of an entity and who has it, as far as is known here.
    fn owner(&self, id: Uuid) -> Option<(u16, Owner)> {
        let membership = self.membership.borrow();
        let map = membership.map.as_ref()?;
        let shard = map.shard_of(slot(id));
        let known = map.owner(shard);
        let newer = self.hints().get(&shard).copied().filter(|hint| hint.epoch > known.epoch);
        Some((shard, newer.unwrap_or(known)))
    }

    fn learn(&self, not_owner: &NotOwner) {
        let Ok(shard) = u16::try_from(not_owner.shard) else { return };
        let hint = Owner { owner: Uuid::from_slice(&not_owner.owner).ok(), epoch: not_owner.epoch };
        let mut hints = self.hints();
        let known = hints.entry(shard).or_default();
        if hint.epoch > known.epoch {
            *known = hint;
        }
    }

    fn hints(&self) -> MutexGuard<'_, HashMap<u16, Owner>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once the map changes, or a moment later.
    async fn pause(&self, deadline: Instant) {
        let mut membership = self.membership.clone();
        membership.mark_unchanged();
        let until = deadline.min(Instant::now() + PAUSE);
        // An end of the cluster is an end of the pause.
        let _ = tokio::time::timeout_at(until, membership.changed()).await;
    }

    async fn carry(&self, mut call: Call, within: Duration) -> Said {
        let deadline = Instant::now() + within;
        let mut perhaps_done = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Perhaps it was done where it was asked last.
            if left.is_zero() || perhaps_done && !call.may_repeat {
                return Said::Unknown;
            }
            call.is_new &= !perhaps_done;
            let Some((_, Owner { owner: Some(owner), .. })) = self.owner(call.id) else {
                self.pause(deadline).await;
                continue;
            };
            if owner == self.me {
                // It comes here, or has just gone: whoever asks looks again.
                self.pause(deadline).await;
                return if perhaps_done { Said::Moved } else { Said::NotHere };
            }
            metrics::counter!("souk_cluster_hops_total", "kind" => call.kind.name()).increment(1);
            match self.links.request(owner, self.request(&call, left), left).await {
                Asked::Answered(Outcome::Answer(answer)) => return Said::Answer(answer),
                Asked::Answered(Outcome::Rejection(rejection)) => return Said::Rejection(rejection),
                Asked::Answered(Outcome::Unknown(Unknown {}) | Outcome::Standing(_)) => {
                    return Said::Unknown;
                }
                Asked::Answered(Outcome::NotOwner(not_owner)) => {
                    self.learn(&not_owner);
                    perhaps_done |= not_owner.perhaps_done;
                    let is_news = self.owner(call.id).is_some_and(|(_, newer)| newer.owner != Some(owner));
                    if !is_news {
                        self.pause(deadline).await;
                    }
                }
                Asked::NotSent => self.pause(deadline).await,
                Asked::Lost => perhaps_done = true,
            }
        }
    }

    /// Has every node that can be reached forget what it remembers of an entity.
    pub(crate) async fn forget(&self, kind: Kind, id: Uuid) {
        let map = self.membership.borrow().map.clone();
        let peers: Vec<Uuid> =
            map.iter().flat_map(|map| map.peers(self.me)).map(|node| node.incarnation).collect();
        let telling = peers.into_iter().map(|peer| {
            let request = self.envelope(kind, id, FORGET_MAX, Body::Forget(Forget {}));
            self.links.request(peer, request, FORGET_MAX)
        });
        futures::future::join_all(telling).await;
    }

    fn request(&self, call: &Call, within: Duration) -> Request {
        let ask = Ask { command: call.command.clone(), is_new: call.is_new };
        self.envelope(call.kind, call.id, within, Body::Ask(ask))
    }

    fn envelope(&self, kind: Kind, id: Uuid, within: Duration, body: Body) -> Request {
        Request {
            id: 0,
            kind: u32::from(kind.number().unsigned_abs()),
            entity: Bytes::copy_from_slice(id.as_bytes()),
            deadline: self
                .time
                .now_us()
                .saturating_add(i64::try_from(within.as_micros()).unwrap_or(i64::MAX)),
            traceparent: TRACEPARENT.try_with(|trace| trace.to_string()).unwrap_or_default(),
            body: Some(body),
        }
    }
}

impl Route for Router {
    fn ask(&self, call: Call, within: Duration) -> BoxFuture<'_, Said> {
        self.carry(call, within).boxed()
    }

    fn follow(&self, kind: Kind, id: Uuid) -> Views {
        let owner = self.owner(id).and_then(|(_, owner)| owner.owner).filter(|owner| *owner != self.me);
        let subscription = owner.and_then(|owner| {
            self.links.follow(
                owner,
                self.envelope(kind, id, FOLLOWED_MAX, Body::Follow(Follow {})),
                FOLLOWED_MAX,
            )
        });
        Box::pin(stream::unfold(subscription, move |subscription| async move {
            let mut subscription = subscription?;
            let standing = subscription.next().await?;
            Some((view_row(id, &standing), Some(subscription)))
        }))
    }
}

/// Forgets what is remembered of an entity beside its rows. Does not wait.
pub type Forgetting = Arc<dyn Fn(Kind, Uuid) + Send + Sync>;

/// Answers other nodes for the entities of this one.
pub(crate) struct Desk {
    pub me: Uuid,
    pub tenant: OnceLock<Tenant>,
    pub forget: OnceLock<Forgetting>,
    pub membership: watch::Receiver<Membership>,
    pub time: Arc<ClusterTime>,
}

impl Desk {
    /// Handles a request of another node. Does not wait.
    pub fn handle(self: &Arc<Self>, request: Request, responder: Responder) {
        // Whoever cannot be answered learns that nobody knows.
        let Some(tenant) = self.tenant.get() else { return };
        let kind = i16::try_from(request.kind).ok().and_then(Kind::from_number);
        let (Some(kind), Ok(id)) = (kind, Uuid::from_slice(&request.entity)) else {
            tracing::warn!(kind = request.kind, "a request of another node names no entity");
            return;
        };
        if let (Some(Body::Forget(Forget {})), Some(forget)) = (&request.body, self.forget.get()) {
            forget(kind, id);
            return responder.answer(Outcome::Answer(Bytes::new()));
        }
        let left = request.deadline.saturating_sub(self.time.now_us());
        let Ok(left) = u64::try_from(left).map(Duration::from_micros) else {
            metrics::counter!("souk_cluster_expired_total").increment(1);
            return;
        };
        if !tenant.territory().has(slot(id)) {
            return responder.answer(Outcome::NotOwner(self.not_owner(id, false)));
        }
        match request.body {
            Some(Body::Ask(Ask { command, is_new })) => {
                let (desk, tenant) = (Arc::clone(self), tenant.clone());
                // Whoever asks decides whether it is asked again.
                let call = Call { kind, id, command, is_new, may_repeat: false };
                let serving = async move {
                    let outcome = match tenant.serve(call, left).await {
                        Said::Answer(answer) => Outcome::Answer(answer),
                        Said::Rejection(rejection) => Outcome::Rejection(rejection),
                        Said::Unknown => Outcome::Unknown(Unknown {}),
                        Said::NotHere => Outcome::NotOwner(desk.not_owner(id, false)),
                        Said::Moved => Outcome::NotOwner(desk.not_owner(id, true)),
                    };
                    responder.answer(outcome);
                };
                tokio::spawn(TRACEPARENT.scope(request.traceparent.into(), serving));
            }
            Some(Body::Follow(Follow {})) => {
                // Subscribed before anything that comes behind it is handled.
                let views = tenant.follow(kind, id);
                tokio::spawn(tell(views, responder, left.min(FOLLOWED_MAX)));
            }
            // The node is not open yet, and remembers nothing.
            Some(Body::Forget(Forget {})) => responder.answer(Outcome::Answer(Bytes::new())),
            None => tracing::warn!(%id, "a request of another node asks nothing"),
        }
    }

    fn not_owner(&self, id: Uuid, perhaps_done: bool) -> NotOwner {
        let membership = self.membership.borrow();
        let Some(map) = &membership.map else { return NotOwner { perhaps_done, ..NotOwner::default() } };
        let shard = map.shard_of(slot(id));
        let Owner { owner, epoch } = map.owner(shard);
        // A shard that is still this node's in the map has left a moment ago, or comes.
        let owner = owner.filter(|owner| *owner != self.me);
        let owner = owner.map(|owner| Bytes::copy_from_slice(owner.as_bytes())).unwrap_or_default();
        NotOwner { shard: u32::from(shard), owner, epoch, perhaps_done }
    }
}

async fn tell(mut views: BoxStream<'static, ViewRow>, mut responder: Responder, within: Duration) {
    let deadline = tokio::time::sleep(within);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            view = views.next() => match view {
                Some(row) if responder.push(Outcome::Standing(standing(&row))) => {}
                Some(_) | None => return,
            },
            () = responder.closed() => return,
            () = &mut deadline => return,
        }
    }
}

fn slot(id: Uuid) -> Slot {
    // Every id has its slot in the same place, whatever it is of.
    Id::<()>::from(id).slot()
}

fn standing(row: &ViewRow) -> Standing {
    Standing {
        version: row.version,
        owner: row.owner.map(|owner| Bytes::copy_from_slice(owner.as_bytes())).unwrap_or_default(),
        created_at: row.created_at.micros(),
        updated_at: row.updated_at.micros(),
        view: row.view.to_string(),
    }
}

fn view_row(stream: Uuid, standing: &Standing) -> ViewRow {
    ViewRow {
        stream,
        version: standing.version,
        owner: Uuid::from_slice(&standing.owner).ok(),
        created_at: Timestamp::from_micros(standing.created_at),
        updated_at: Timestamp::from_micros(standing.updated_at),
        view: standing.view.as_str().into(),
    }
}
