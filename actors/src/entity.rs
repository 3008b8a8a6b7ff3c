//! The one actor that hosts any aggregate. Its life: load; then for each command decide, apply, put the
//! events into the next row, and hold the answer until that row is durable; when no row is under way, have
//! performed what the state owes; when nothing is owed, leave.
//!
//! At most one row is under way. What is decided meanwhile is the next row, so a product that everybody
//! wants writes hundreds of decisions at once. An event that [`Aggregate::may_wait`] does not make a row by
//! itself, for the incarnation that made the stream. If a row turns out not to be ours, nothing is repaired: the
//! entity dies, everything held back becomes unknown, and it is loaded again.

mod message;
mod pursuit;
mod reply;

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::chance;
use souk_persistence::journal::{Committed, JournalError, Loaded, Row};
use souk_persistence::mutant::{self, Mutant};

use crate::admission::Permit;
use crate::aggregate::{Aggregate, Decision, Residence};
use crate::barrier::{Barrier, Hold};
use crate::fate::{self, Moment};
use crate::followers::Standing;
use crate::retry::Backoff;

use pursuit::{Attempt, Awaited};

pub use message::{Birth, Effected, Envelope, Message, Outcome};
pub use reply::Reply;

/// The actor of an `A`.
pub struct Entity<A>(PhantomData<fn() -> A>);

impl<A> Default for Entity<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// An entity in memory.
pub struct Resident<A: Aggregate> {
    birth: Birth<A>,
    state: A,
    created_at: Option<Timestamp>,
    /// The time of the newest event; never goes back.
    at: Timestamp,
    /// The number of the newest row that the journal was given.
    written: i32,
    /// The first row of the stream is this incarnation's own.
    is_founder: bool,
    /// What might have waited is needed now.
    must_write: bool,
    /// Kept while an effect has been unknown for long.
    delayed: Option<Permit>,
    under_way: bool,
    /// From when something is owed, as in the newest row.
    owed: Option<Timestamp>,
    /// Events of the next row, with their times.
    next: Vec<(Timestamp, A::Event)>,
    rows_since_snapshot: u32,
    barrier: Arc<Barrier<Held<A>>>,
    /// The command that waits for the world's word. Until it comes nothing else is decided.
    asking: Option<Asking<A>>,
    waiting: VecDeque<Envelope<A>>,
    attempts: HashMap<&'static str, Attempt>,
    /// What is owed soon is waited for here.
    awaited: Option<Awaited>,
}

type Held<A> = (Reply<Outcome<A>>, Outcome<A>);

struct Asking<A: Aggregate> {
    envelope: Envelope<A>,
    effect: &'static str,
    unstarted: Option<A::Effect>,
}

#[derive(Serialize, Deserialize)]
struct Snapshot<S> {
    version: i32,
    at: Timestamp,
    state: S,
}

/// Stored data cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{what} of {kind} {id} cannot be read")]
struct Unreadable {
    what: &'static str,
    kind: &'static str,
    id: uuid::Uuid,
    source: serde_json::Error,
}

impl<A: Aggregate> Actor for Entity<A> {
    type Msg = Message<A>;
    type State = Resident<A>;
    type Arguments = Birth<A>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message<A>>,
        birth: Birth<A>,
    ) -> Result<Resident<A>, ActorProcessingErr> {
        Ok(Resident::new(birth))
    }

    // Not in `pre_start`: there a failure would reach no supervisor.
    async fn post_start(
        &self,
        myself: ActorRef<Message<A>>,
        resident: &mut Resident<A>,
    ) -> Result<(), ActorProcessingErr> {
        fate::strike(A::KIND, resident.birth.id.uuid(), "load", Moment::Before);
        if !resident.birth.is_new {
            resident.load().await?;
        }
        resident.carry_on(&myself);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message<A>>,
        message: Message<A>,
        resident: &mut Resident<A>,
    ) -> Result<(), ActorProcessingErr> {
        let (id, name) = (resident.birth.id.uuid(), message.name());
        fate::strike(A::KIND, id, name, Moment::Before);
        match message {
            Message::Ask(envelope) => resident.take(envelope),
            Message::Answered(effected) => resident.answered(&myself, effected),
            Message::Durable(_) => {
                resident.under_way = false;
                if std::mem::take(&mut resident.birth.failures) > 0 {
                    resident.birth.host.thrives(resident.birth.id);
                }
            }
            Message::NotOurs => {
                resident.birth.host.lost(resident.birth.id, resident.birth.incarnation);
                myself.stop(Some("its row is not ours".to_owned()));
                return Ok(());
            }
            Message::Poisoned(cause) => {
                resident.birth.host.quarantine(resident.birth.id, resident.birth.incarnation, &cause);
                myself.stop(Some("its row is refused".to_owned()));
                return Ok(());
            }
            Message::EffectPanicked(effect) => return Err(format!("its effect {effect} panicked").into()),
            Message::Wake(permit) => drop(permit),
            Message::Leave => {
                resident.leave(&myself);
                return Ok(());
            }
        }
        resident.carry_on(&myself);
        fate::strike(A::KIND, id, name, Moment::After);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message<A>>,
        _event: ractor::SupervisionEvent,
        _resident: &mut Resident<A>,
    ) -> Result<(), ActorProcessingErr> {
        // An entity has no children; the default would stop it.
        Ok(())
    }
}

impl<A: Aggregate> Resident<A> {
    fn new(birth: Birth<A>) -> Self {
        Self {
            birth,
            state: A::default(),
            created_at: None,
            at: Timestamp::default(),
            written: 0,
            is_founder: false,
            must_write: false,
            delayed: None,
            under_way: false,
            owed: None,
            next: Vec::new(),
            rows_since_snapshot: 0,
            barrier: Arc::new(Barrier::new(0)),
            asking: None,
            waiting: VecDeque::new(),
            attempts: HashMap::new(),
            awaited: None,
        }
    }

    /// Loads it, however long the database is away: callers have deadlines of their own, and the mailbox
    /// is bounded.
    async fn load(&mut self) -> Result<(), ActorProcessingErr> {
        let mut failed = 0;
        loop {
            match self.birth.host.journal().load(self.birth.id.uuid()).await {
                Ok(None) => return Ok(()),
                // Somebody has asked for a product as a category: there is no such category.
                Ok(Some(loaded)) if loaded.kind != A::KIND.number() => return Ok(()),
                Ok(Some(loaded)) => return Ok(self.rebuild(loaded)?),
                Err(error @ JournalError::Corrupt(_)) => return Err(error.into()),
                Err(JournalError::Unavailable(cause)) => {
                    tracing::debug!(id = %self.birth.id, %cause, "entity cannot be loaded yet");
                    tokio::time::sleep(Backoff::FORWARD.delay(failed, chance::draw())).await;
                    failed = failed.saturating_add(1);
                }
            }
        }
    }

    fn rebuild(&mut self, loaded: Loaded) -> Result<(), Unreadable> {
        let id = self.birth.id.uuid();
        let unreadable = |what| move |source| Unreadable { what, kind: A::KIND.name(), id, source };
        if let Some(snapshot) = &loaded.snapshot {
            let snapshot: Snapshot<A> = serde_json::from_str(snapshot).map_err(unreadable("snapshot"))?;
            self.state = snapshot.state;
            self.at = snapshot.at;
        }
        for row in &loaded.tail {
            let events: Vec<(i64, A::Event)> =
                serde_json::from_str(&row.events).map_err(unreadable("journal row"))?;
            for (offset, event) in events {
                self.at = Timestamp::from_micros(row.at.micros().saturating_add(offset));
                self.state.apply(self.at, &event);
            }
        }
        self.created_at = Some(loaded.created_at);
        self.owed = loaded.owed;
        self.written = loaded.version;
        self.rows_since_snapshot = u32::try_from(loaded.tail.len()).unwrap_or(u32::MAX);
        self.barrier = Arc::new(Barrier::new(loaded.version));
        self.state.reloaded();
        Ok(())
    }

    fn take(&mut self, envelope: Envelope<A>) {
        if self.asking.is_some() {
            self.waiting.push_back(envelope);
        } else if !envelope.reply.to.is_closed() {
            self.decide(envelope);
        }
    }

    fn decide(&mut self, envelope: Envelope<A>) {
        let at = self.now();
        match self.state.decide(at, &envelope.command) {
            Decision::Done { events, answer } => {
                self.record(at, events);
                self.hold(envelope.reply, answer);
            }
            Decision::AskFirst(effect) => {
                let name = A::effect_name(&effect);
                self.asking = Some(Asking { envelope, effect: name, unstarted: Some(effect) });
            }
            Decision::Unknown => drop(envelope),
        }
    }

    fn now(&self) -> Timestamp {
        self.birth.host.clock().now().max(self.at)
    }

    fn record(&mut self, at: Timestamp, events: Vec<A::Event>) {
        for event in events {
            self.state.apply(at, &event);
            self.at = at;
            self.next.push((at, event));
        }
    }

    fn hold(&mut self, reply: Reply<Outcome<A>>, answer: Outcome<A>) {
        let rests_on = if self.next.is_empty() { self.written } else { self.written.saturating_add(1) };
        if mutant::is(Mutant::NoBarrier) || mutant::is(Mutant::RepeatsDoNotWait) && self.next.is_empty() {
            return release::<A>((reply, answer));
        }
        match self.barrier.hold(rests_on, (reply, answer)) {
            // Somebody waits for the row.
            Hold::Held => self.must_write |= !self.next.is_empty(),
            Hold::Free(held) if self.birth.host.is_certain(self.birth.id) => release::<A>(held),
            // Another node may have written since.
            Hold::Free(held) => drop(held),
            Hold::Broken(held) => drop(held),
        }
    }

    fn answered(&mut self, myself: &ActorRef<Message<A>>, effected: Effected<A>) {
        let Effected { incarnation, effect, command, permit } = effected;
        let at = self.now();
        let events = match self.state.decide(at, &command) {
            Decision::Done { events, answer: _ } => events,
            Decision::AskFirst(_) | Decision::Unknown => Vec::new(),
        };
        let has_led_on = !events.is_empty();
        self.record(at, events);
        drop(permit);

        let is_own = incarnation == self.birth.incarnation;
        let is_asked_for = is_own && self.asking.as_ref().is_some_and(|asking| asking.effect == effect);
        if is_own {
            self.close_attempt(myself, effect, has_led_on || is_asked_for);
        }
        if has_led_on || is_asked_for {
            self.resume(has_led_on);
        }
    }

    /// Decides again what had to wait for the world's word; drops it if there was none.
    fn resume(&mut self, has_led_on: bool) {
        match self.asking.take() {
            Some(asking) if has_led_on => self.decide(asking.envelope),
            Some(_) | None => {}
        }
        while self.asking.is_none() {
            let Some(envelope) = self.waiting.pop_front() else { return };
            self.take(envelope);
        }
    }

    fn carry_on(&mut self, myself: &ActorRef<Message<A>>) {
        self.write(myself);
        self.pursue(myself);
        // One that was never written must not stay: anybody can ask for any id.
        if A::RESIDENCE == Residence::WhileBusy || self.written == 0 {
            self.leave(myself);
        }
    }

    /// Nothing has been decided that must be durable before the world is asked.
    fn is_written(&self) -> bool {
        let may_wait = self.is_founder && !self.must_write;
        self.next.is_empty() || (may_wait && self.next.iter().all(|(_, event)| A::may_wait(event)))
    }

    /// Gives the next row to the journal, unless one is under way.
    fn write(&mut self, myself: &ActorRef<Message<A>>) {
        if self.under_way || self.is_written() {
            return;
        }
        let view = self.state.view();
        let row = self.next_row(&view);
        let version = row.version;
        let standing = self.standing(&row, view);
        self.under_way = true;
        self.must_write = false;
        self.written = version;
        self.is_founder |= version == 1;
        self.owed = row.owed;

        let host = Arc::clone(&self.birth.host);
        let barrier = Arc::clone(&self.barrier);
        let myself = myself.clone();
        let done = Box::new(move |committed| {
            host.count_message();
            // Where the entity has died meanwhile nobody hears the message, and nobody needs to.
            let _ = match committed {
                Committed::Taken => {
                    barrier.settle(version).into_iter().for_each(release::<A>);
                    host.followers().publish(standing);
                    myself.cast(Message::Durable(version))
                }
                Committed::NotOurs => {
                    drop(barrier.break_open());
                    myself.cast(Message::NotOurs)
                }
                Committed::Poisoned(cause) => {
                    drop(barrier.break_open());
                    myself.cast(Message::Poisoned(cause))
                }
            };
        });
        self.birth.host.journal().commit(row, done);
    }

    fn next_row(&mut self, view: &A::View) -> Row {
        let at = self.next.first().map_or(self.at, |(at, _)| *at);
        let events: Vec<_> =
            self.next.drain(..).map(|(then, event)| (then.micros() - at.micros(), event)).collect();
        let version = self.written.saturating_add(1);
        self.created_at.get_or_insert(at);
        self.rows_since_snapshot = self.rows_since_snapshot.saturating_add(1);
        let is_due = A::SNAPSHOT_EVERY != 0 && self.rows_since_snapshot >= A::SNAPSHOT_EVERY;
        let snapshot = is_due.then(|| {
            self.rows_since_snapshot = 0;
            to_json(&Snapshot { version, at: self.at, state: &self.state })
        });
        Row {
            stream: self.birth.id.uuid(),
            version,
            kind: A::KIND.number(),
            slot: self.birth.id.slot().number(),
            at,
            updated_at: self.at,
            events: to_json(&events),
            owner: self.state.owner(),
            owed: self.state.effects().into_iter().map(|(due, _)| due).min(),
            view: to_json(view).into(),
            snapshot,
        }
    }

    fn standing(&self, row: &Row, view: A::View) -> Standing<A> {
        let &Row { stream, version, owner, updated_at, .. } = row;
        Standing { stream, version, owner, created_at: self.created_at.unwrap_or(row.at), updated_at, view }
    }

    fn is_busy(&self) -> bool {
        self.under_way || !self.next.is_empty() || self.asking.is_some() || self.is_pursuing()
    }

    /// Leaves memory, if nothing is under way and nothing is on its way here.
    fn leave(&self, myself: &ActorRef<Message<A>>) {
        if !self.is_busy() && self.birth.host.release(self.birth.id, self.birth.incarnation, self.is_founder)
        {
            myself.stop(None);
        }
    }
}

fn release<A: Aggregate>((reply, answer): Held<A>) {
    reply.answer(answer);
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("events, states and views have string keys and no failing parts")
}
