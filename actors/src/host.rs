//! Where the entities of one kind live on this node: spawned on demand, at most one of a name, started
//! anew with back-off when they fail, quarantined when they keep failing, gone when nobody needs them.
//!
//! Everything that reaches an entity passes [`Host::send`], under the lock of its slot; so an entity that
//! finds its mailbox empty under that lock can leave, and no message is lost between two lives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{ActorCell, ActorId, ActorRef, ActorRuntime, ActorStatus};
use souk_persistence::Timestamp;
use souk_persistence::chance;
use souk_persistence::journal::Journal;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::admission::{Gate, Permit};
use crate::aggregate::{Aggregate, Residence};
use crate::clock::Clock;
use crate::entity::{Birth, Effected, Entity, Envelope, Message, Reply};
use crate::followers::Followers;
use crate::ids::Id;
use crate::retry::Backoff;
use crate::territory::{SlotSet, Territory};
use crate::world::{Performer, Time, World};

const SHARDS: usize = 64;

/// An entity that fails so often without writing a row in between is left alone, and shown.
const FAILURES_MAX: u32 = 5;

/// An entity that has failed and was not asked for since is as good as new after so long.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// An effect that has been unknown for so long is logged as delayed, and then as an alert.
const DELAYED: Duration = Duration::from_secs(60);
const ALERT: Duration = Duration::from_secs(600);

/// The bounds of a host.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most entities in memory, of each kind.
    pub residents_max: usize,
    /// The most commands that an entity may have before it, answered ones not counted.
    pub mailbox_max: usize,
    /// For how long an entity stays that nobody asks.
    pub idle: Duration,
}

/// The entities of one kind on this node.
pub struct Host<A: Aggregate> {
    journal: Arc<dyn Journal>,
    clock: Clock,
    limits: Limits,
    territory: Arc<Territory>,
    followers: Arc<Followers<A>>,
    performer: Performer<A>,
    world: OnceLock<World>,
    supervisor: RwLock<Option<ActorCell>>,
    shards: Vec<Mutex<HashMap<Id<A>, Slot<A>>>>,
    actors: Mutex<HashMap<ActorId, (Id<A>, u64)>>,
    /// Evicted, and perhaps still deciding something.
    leaving: Mutex<Vec<ActorCell>>,
    incarnations: AtomicU64,
    residents: AtomicUsize,
    /// How many were made here and have left.
    done: AtomicU64,
    /// Those inside have an effect that has been unknown for long.
    delayed: Arc<Gate>,
    /// How many messages entities of this kind were sent.
    messages: AtomicU64,
}

enum Slot<A: Aggregate> {
    Live(Live<A>),
    /// Not before `until`, after so many failures.
    BackingOff {
        failures: u32,
        until: Instant,
    },
    Quarantined {
        cause: Arc<str>,
        since: Timestamp,
    },
}

struct Live<A: Aggregate> {
    actor: ActorRef<Message<A>>,
    incarnation: u64,
    gate: Arc<Gate>,
    failures: u32,
    used: Instant,
}

/// An entity that was left alone because it kept failing.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its id.
    pub id: Uuid,
    /// Its kind.
    pub kind: &'static str,
    /// Why.
    pub cause: Arc<str>,
    /// Since when.
    pub since: Timestamp,
}

impl<A: Aggregate> std::fmt::Debug for Host<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("kind", &A::KIND).field("residents", &self.residents).finish()
    }
}

/// What the parts of the node that serve every kind need of a host.
pub trait AnyHost: Send + Sync + std::fmt::Debug {
    /// The kind's name.
    fn kind(&self) -> &'static str;
    /// Spawns an entity that owes something, unless it is here or must be left alone.
    fn wake(&self, id: Uuid);
    /// It is in memory, backing off or quarantined: it needs no waking.
    fn is_known(&self, id: Uuid) -> bool;
    /// An actor has ended; with a cause if it failed. `false`: not one of ours.
    fn ended(&self, actor: ActorId, failure: Option<&str>) -> bool;
    /// Under whom entities live from now on; those of the one before are dead.
    fn supervise(&self, supervisor: ActorCell);
    /// Sends away who is not needed.
    fn tidy(&self);
    /// Ends whoever lives in these slots, which are this node's no more: no entity of theirs is begun after
    /// this returns.
    fn evict(&self, slots: &SlotSet);
    /// Whoever was evicted has ended: nothing of theirs is given to a journal any more.
    fn has_evicted(&self) -> bool;
    /// How many are in memory.
    fn residents(&self) -> usize;
    /// Shows what is counted here.
    fn measure(&self);
    /// Who is quarantined.
    fn quarantined(&self) -> Vec<Quarantined>;
}

impl<A: Aggregate> Host<A> {
    /// A host over the journal of its service.
    pub fn new(
        journal: Arc<dyn Journal>,
        clock: Clock,
        limits: Limits,
        territory: Arc<Territory>,
        performer: Performer<A>,
    ) -> Arc<Self> {
        Arc::new(Self {
            journal,
            clock,
            limits,
            territory,
            followers: Arc::default(),
            performer,
            world: OnceLock::new(),
            supervisor: RwLock::new(None),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            actors: Mutex::default(),
            leaving: Mutex::default(),
            incarnations: AtomicU64::new(0),
            residents: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            delayed: Gate::new(usize::MAX),
            messages: AtomicU64::new(0),
        })
    }

    /// What effects are performed on. Given once, before the first entity is asked.
    pub fn connect(&self, world: World) {
        // A second world would be a second shop.
        assert!(self.world.set(world).is_ok(), "a host is connected once");
    }

    /// The journal of the service.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Where the time comes from.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Who follows entities of this kind.
    pub fn followers(&self) -> &Arc<Followers<A>> {
        &self.followers
    }

    /// An answer of this entity that rests on no row may leave: nobody else can have written what lives here.
    pub fn is_certain(&self, id: Id<A>) -> bool {
        self.territory.has(id.slot()) && self.territory.is_certain()
    }

    /// Delivers a command. The receiver yields the answer, or an error when the outcome is unknown.
    pub fn ask(
        self: &Arc<Self>,
        id: Id<A>,
        command: A::Command,
        is_new: bool,
    ) -> oneshot::Receiver<Result<A::Answer, A::Rejection>> {
        let (to, answer) = oneshot::channel();
        let ask = |permit| Message::Ask(Envelope { command, reply: Reply { to, permit } });
        self.send(id, is_new, Gate::enter, ask);
        answer
    }

    /// Delivers what the world answered, by name: to whichever incarnation lives now.
    pub fn deliver_answer(
        self: &Arc<Self>,
        id: Id<A>,
        incarnation: u64,
        effect: &'static str,
        command: A::Command,
    ) {
        // An incarnation asks once and waits for ever, so a full mailbox must not turn its answer away.
        let enter = |gate: &Arc<Gate>| Some(gate.return_inside());
        let answered = |permit| Message::Answered(Effected { incarnation, effect, command, permit });
        self.send(id, false, enter, answered);
    }

    /// Whoever performed an effect panicked, so nobody will answer: the incarnation that waits for it fails
    /// like one that panicked itself.
    pub fn effect_panicked(&self, id: Id<A>, incarnation: u64, effect: &'static str) {
        match self.shard(id).get(&id) {
            // One that has died meanwhile does not wait any more.
            Some(Slot::Live(live)) if live.incarnation == incarnation => {
                drop(live.actor.cast(Message::EffectPanicked(effect)));
            }
            Some(Slot::Live(_) | Slot::BackingOff { .. } | Slot::Quarantined { .. }) | None => {}
        }
    }

    /// Performs an effect and answers with the command that says how it went.
    pub fn perform(&self, id: Id<A>, effect: A::Effect, time: Time) -> BoxFuture<'static, A::Command> {
        (self.performer.perform)(self.world(), id, effect, time)
    }

    /// Leaves an effect to somebody else for good. `false`: it must be performed.
    pub fn hand_over(&self, id: Id<A>, version: i32, effect: &A::Effect) -> bool {
        (self.performer.hand_over)(self.world(), id, version, effect)
    }

    /// How long the effect of this name waits between attempts.
    pub fn backoff(&self, effect: &'static str) -> Backoff {
        (self.performer.backoff)(effect)
    }

    fn world(&self) -> &World {
        self.world.get().expect("a host is connected before its first entity is asked")
    }

    /// Says that an effect is still unknown, as loudly as its age demands. The permit, where it is old: as long
    /// as it is kept, the entity counts as delayed.
    pub fn report_unknown(
        &self,
        id: Id<A>,
        effect: &'static str,
        failed: u32,
        delayed: Duration,
    ) -> Option<Permit> {
        say_unknown(id, effect, failed, delayed);
        (delayed >= DELAYED).then(|| self.delayed.return_inside())
    }

    /// The one way to an entity. A message that cannot be delivered is dropped, and whoever waits for its
    /// answer learns that the outcome is unknown.
    fn send(
        self: &Arc<Self>,
        id: Id<A>,
        is_new: bool,
        enter: fn(&Arc<Gate>) -> Option<Permit>,
        message: impl FnOnce(Permit) -> Message<A>,
    ) {
        let now = Instant::now();
        self.count_message();
        let mut shard = self.shard(id);
        // One that has failed, or lost its row, has a stream.
        let (is_new, failures) = match shard.get_mut(&id) {
            Some(Slot::Live(live)) => return live.send(now, enter, message),
            Some(Slot::BackingOff { until, .. }) if *until > now => return,
            Some(Slot::Quarantined { .. }) => return,
            Some(Slot::BackingOff { failures, .. }) => (false, *failures),
            None => (is_new, 0),
        };
        // Under the lock: once they are evicted nobody begins anew.
        if !self.territory.has(id.slot()) {
            return;
        }
        if let Some(mut live) = self.spawn(id, is_new, failures, now) {
            live.send(now, enter, message);
            shard.insert(id, Slot::Live(live));
        }
    }

    fn spawn(self: &Arc<Self>, id: Id<A>, is_new: bool, failures: u32, now: Instant) -> Option<Live<A>> {
        let supervisor = self.supervisor.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        if self.residents.load(Ordering::Acquire) >= self.limits.residents_max {
            metrics::counter!("souk_entities_refused_total", "kind" => A::KIND.name()).increment(1);
            return None;
        }
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let gate = Gate::new(self.limits.mailbox_max);
        let birth =
            Birth { host: Arc::clone(self), id, incarnation, is_new, failures, gate: Arc::clone(&gate) };
        // Held over the spawn, so that an early end cannot be reported before the entry is there.
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        // Polled once: starting waits for nothing, so it is over at once and needs no task of its own.
        // Unconstrained: whoever asks may have used up its own turn.
        let starting = ActorRuntime::spawn_linked(None, Entity::default(), birth, supervisor);
        let (actor, _) = tokio::task::unconstrained(starting)
            .now_or_never()
            .expect("starting waits for nothing")
            .inspect_err(|error| tracing::error!(%id, %error, "entity cannot be spawned"))
            .ok()?;
        actors.insert(actor.get_id(), (id, incarnation));
        self.residents.fetch_add(1, Ordering::AcqRel);
        Some(Live { actor, incarnation, gate, failures, used: now })
    }

    /// Lets an entity go: `true` if nothing is on its way to it. Whoever asks next gets a new one.
    /// `is_done`: it has lived for what it was made for.
    pub fn release(&self, id: Id<A>, incarnation: u64, is_done: bool) -> bool {
        let mut shard = self.shard(id);
        let failures = match shard.get(&id) {
            Some(Slot::Live(live)) if live.incarnation == incarnation && live.gate.inside() == 0 => {
                live.failures
            }
            Some(Slot::Live(_) | Slot::BackingOff { .. } | Slot::Quarantined { .. }) | None => return false,
        };
        match failures {
            0 => shard.remove(&id),
            // Leaving does not forgive: what fails at every command would otherwise never be quarantined.
            failures => shard.insert(id, Slot::BackingOff { failures, until: Instant::now() }),
        };
        self.residents.fetch_sub(1, Ordering::AcqRel);
        self.done.fetch_add(u64::from(is_done), Ordering::Relaxed);
        true
    }

    /// An entity of this kind is sent a message.
    pub fn count_message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were made and have left memory, since the node was opened.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many are in memory that something can be expected of soon.
    pub fn moving(&self) -> usize {
        self.residents.load(Ordering::Acquire).saturating_sub(self.delayed.inside())
    }

    /// The entity has written a row: what failed before is forgiven.
    pub fn thrives(&self, id: Id<A>) {
        if let Some(Slot::Live(live)) = self.shard(id).get_mut(&id) {
            live.failures = 0;
        }
    }

    /// The entity's row was another's: it is loaded again, which is no failure.
    pub fn lost(self: &Arc<Self>, id: Id<A>, incarnation: u64) {
        metrics::counter!("souk_entities_lost_total", "kind" => A::KIND.name()).increment(1);
        self.back_off(id, incarnation, 0);
    }

    /// The entity must be left alone until a person has looked or the node is started again.
    pub fn quarantine(&self, id: Id<A>, incarnation: u64, cause: &str) {
        let mut shard = self.shard(id);
        if matches!(shard.get(&id), Some(Slot::Live(live)) if live.incarnation == incarnation) {
            self.residents.fetch_sub(1, Ordering::AcqRel);
            let kind = A::KIND.name();
            tracing::error!(%id, kind, cause, "entity is quarantined");
            metrics::gauge!("souk_entities_quarantined", "kind" => kind).increment(1.0);
            shard.insert(id, Slot::Quarantined { cause: cause.into(), since: self.clock.now() });
        }
    }

    fn failed(self: &Arc<Self>, id: Id<A>, incarnation: u64, cause: &str) {
        let failures = match self.shard(id).get(&id) {
            Some(Slot::Live(live)) if live.incarnation == incarnation => live.failures.saturating_add(1),
            Some(Slot::Live(_) | Slot::BackingOff { .. } | Slot::Quarantined { .. }) | None => return,
        };
        tracing::error!(%id, kind = A::KIND.name(), failures, cause, "entity failed");
        metrics::counter!("souk_entities_failed_total", "kind" => A::KIND.name()).increment(1);
        if failures >= FAILURES_MAX {
            self.quarantine(id, incarnation, cause);
        } else {
            self.back_off(id, incarnation, failures);
        }
    }

    fn back_off(self: &Arc<Self>, id: Id<A>, incarnation: u64, failures: u32) {
        let wait = Backoff::RESTART.delay(failures, chance::draw());
        {
            let mut shard = self.shard(id);
            if !matches!(shard.get(&id), Some(Slot::Live(live)) if live.incarnation == incarnation) {
                return;
            }
            self.residents.fetch_sub(1, Ordering::AcqRel);
            shard.insert(id, Slot::BackingOff { failures, until: Instant::now() + wait });
        }
        let host = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            host.rouse(id);
        });
    }

    /// Forgets failures that nothing has come of for a while.
    fn forgive(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, slot| match slot {
                Slot::BackingOff { until, .. } => *until + FORGIVEN_AFTER > now,
                Slot::Live(_) | Slot::Quarantined { .. } => true,
            });
        }
    }

    fn rouse(self: &Arc<Self>, id: Id<A>) {
        self.send(id, false, Gate::enter, Message::Wake);
    }

    fn shard(&self, id: Id<A>) -> MutexGuard<'_, HashMap<Id<A>, Slot<A>>> {
        let shard = &self.shards[(id.uuid().as_u64_pair().1 % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that an effect is still unknown, as loudly as its age demands.
pub fn say_unknown<A: Aggregate>(id: Id<A>, effect: &'static str, failed: u32, delayed: Duration) {
    let kind = A::KIND.name();
    metrics::counter!("souk_effects_unknown_total", "kind" => kind, "effect" => effect).increment(1);
    if delayed >= ALERT {
        tracing::error!(%id, kind, effect, failed, ?delayed, "effect stays unknown");
    } else if delayed >= DELAYED {
        tracing::warn!(%id, kind, effect, failed, ?delayed, "effect is delayed");
    }
}

impl<A: Aggregate> Live<A> {
    fn send(
        &mut self,
        now: Instant,
        enter: fn(&Arc<Gate>) -> Option<Permit>,
        message: impl FnOnce(Permit) -> Message<A>,
    ) {
        self.used = now;
        match enter(&self.gate) {
            // An actor that has just died drops the message; its end is on the way to its supervisor.
            Some(permit) => drop(self.actor.cast(message(permit))),
            None => metrics::counter!("souk_mailboxes_full_total", "kind" => A::KIND.name()).increment(1),
        }
    }
}

impl<A: Aggregate> AnyHost for Arc<Host<A>> {
    fn kind(&self) -> &'static str {
        A::KIND.name()
    }

    fn wake(&self, id: Uuid) {
        self.rouse(Id::from(id));
    }

    fn is_known(&self, id: Uuid) -> bool {
        let id = Id::from(id);
        match self.shard(id).get(&id) {
            Some(Slot::Live(_) | Slot::Quarantined { .. }) => true,
            Some(Slot::BackingOff { until, .. }) => *until > Instant::now(),
            None => false,
        }
    }

    fn ended(&self, actor: ActorId, failure: Option<&str>) -> bool {
        let ended = self.actors.lock().unwrap_or_else(PoisonError::into_inner).remove(&actor);
        let Some((id, incarnation)) = ended else { return false };
        // One that ended in order has left its slot before; one that was stopped otherwise has failed.
        self.failed(id, incarnation, failure.unwrap_or("it was stopped"));
        true
    }

    fn supervise(&self, supervisor: ActorCell) {
        *self.supervisor.write().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, slot| !matches!(slot, Slot::Live(_)));
            self.residents.fetch_sub(before - shard.len(), Ordering::AcqRel);
        }
        self.actors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn tidy(&self) {
        self.forgive();
        if A::RESIDENCE == Residence::WhileBusy {
            return;
        }
        let is_crowded = self.residents() * 10 >= self.limits.residents_max * 9;
        let idle = if is_crowded { self.limits.idle / 10 } else { self.limits.idle };
        let now = Instant::now();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for slot in shard.values() {
                match slot {
                    // One that has died meanwhile has left.
                    Slot::Live(live) if live.used + idle < now => drop(live.actor.cast(Message::Leave)),
                    Slot::Live(_) | Slot::BackingOff { .. } | Slot::Quarantined { .. } => {}
                }
            }
        }
    }

    fn has_evicted(&self) -> bool {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|actor| actor.get_status() != ActorStatus::Stopped);
        leaving.is_empty()
    }

    fn evict(&self, slots: &SlotSet) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may have asked since the last time.
        leaving.retain(|actor| actor.get_status() != ActorStatus::Stopped);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|id, slot| {
                let stays = !slots.has(id.slot());
                match slot {
                    Slot::Live(live) if !stays => {
                        live.actor.kill();
                        leaving.push(live.actor.get_cell());
                        self.residents.fetch_sub(1, Ordering::AcqRel);
                    }
                    Slot::Quarantined { .. } if !stays => {
                        metrics::gauge!("souk_entities_quarantined", "kind" => A::KIND.name()).decrement(1.0);
                    }
                    Slot::Live(_) | Slot::Quarantined { .. } | Slot::BackingOff { .. } => {}
                }
                stays
            });
        }
    }

    fn residents(&self) -> usize {
        self.residents.load(Ordering::Acquire)
    }

    fn measure(&self) {
        metrics::gauge!("souk_entities_resident", "kind" => A::KIND.name()).set(self.residents() as f64);
        metrics::counter!("souk_messages_total", "kind" => A::KIND.name())
            .absolute(self.messages.load(Ordering::Relaxed));
    }

    fn quarantined(&self) -> Vec<Quarantined> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.iter().filter_map(|(id, slot)| match slot {
                Slot::Quarantined { cause, since } => Some(Quarantined {
                    id: id.uuid(),
                    kind: A::KIND.name(),
                    cause: Arc::clone(cause),
                    since: *since,
                }),
                Slot::Live(_) | Slot::BackingOff { .. } => None,
            }));
        }
        all
    }
}
