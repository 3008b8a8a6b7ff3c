//! An aggregate to try the machinery with: counts, panics on request, and asks a world that it is told of.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde::{Deserialize, Serialize};
use souk_actors::aggregate::{Aggregate, Decision, Kind, Residence};
use souk_actors::host::{AnyHost, Host, Limits};
use souk_actors::territory::Territory;
use souk_actors::world::Performer;
use souk_actors::{Clock, Id, Slot, Timestamp};
use souk_persistence::memory::MemoryJournal;
use uuid::Uuid;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    count: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    Add,
    Read,
    /// Refused once there is something.
    Refuse,
    Panic,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    Added,
}

impl Aggregate for Tally {
    const KIND: Kind = Kind::Category;
    const SNAPSHOT_EVERY: u32 = 4;
    const RESIDENCE: Residence = Residence::WhileUsed;

    type Command = Command;
    type Answer = u32;
    type Rejection = u32;
    type Event = Event;
    type Effect = Infallible;
    type View = u32;

    fn decide(&self, _at: Timestamp, command: &Command) -> Decision<Self> {
        match command {
            Command::Add => Decision::event(Event::Added, self.count + 1),
            Command::Read => Decision::answer(self.count),
            Command::Refuse => Decision::reject(self.count),
            Command::Panic => panic!("asked to panic"),
        }
    }

    fn apply(&mut self, _at: Timestamp, event: &Event) {
        match event {
            Event::Added => self.count += 1,
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Infallible)> {
        Vec::new()
    }

    fn effect_name(effect: &Infallible) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> u32 {
        self.count
    }

    fn owner(&self) -> Option<Uuid> {
        None
    }
}

/// Supervises as a service supervisor does.
struct Supervisor<A>(PhantomData<fn() -> A>);

/// Opens a host: from then on its entities have a supervisor.
pub async fn supervise<A: Aggregate>(host: &Arc<Host<A>>) {
    Actor::spawn(None, Supervisor(PhantomData), Arc::clone(host)).await.expect("a supervisor starts");
}

#[derive(Debug)]
pub struct Nothing;

impl ractor::Message for Nothing {}

impl<A: Aggregate> Actor for Supervisor<A> {
    type Msg = Nothing;
    type State = Arc<Host<A>>;
    type Arguments = Arc<Host<A>>;

    async fn pre_start(
        &self,
        myself: ActorRef<Nothing>,
        host: Arc<Host<A>>,
    ) -> Result<Arc<Host<A>>, ActorProcessingErr> {
        host.supervise(myself.get_cell());
        Ok(host)
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Nothing>,
        event: SupervisionEvent,
        host: &mut Arc<Host<A>>,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                host.ended(actor.get_id(), Some(&error.to_string()));
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                host.ended(actor.get_id(), None);
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}

/// A host of tallies over a journal in memory.
pub struct Tallies {
    pub host: Arc<Host<Tally>>,
    pub journal: Arc<MemoryJournal>,
}

impl Tallies {
    pub async fn open(limits: Limits) -> Self {
        let journal = MemoryJournal::open("tallies");
        let host = Self::over(&journal, limits).await;
        Self { host, journal }
    }

    /// Another host over the same journal, as another node would have.
    pub async fn over(journal: &Arc<MemoryJournal>, limits: Limits) -> Arc<Host<Tally>> {
        let host = Host::new(
            journal.clone(),
            Clock::System,
            limits,
            Arc::new(Territory::everything()),
            Performer::owes_nothing(),
        );
        supervise(&host).await;
        host
    }

    pub fn id() -> Id<Tally> {
        Id::fresh(Clock::System.now(), Slot::random())
    }

    pub async fn ask(&self, id: Id<Tally>, command: Command) -> Option<Result<u32, u32>> {
        ask(&self.host, id, command).await
    }
}

/// The answer; `None`: unknown.
pub async fn ask(host: &Arc<Host<Tally>>, id: Id<Tally>, command: Command) -> Option<Result<u32, u32>> {
    let answer = host.ask(id, command, false);
    tokio::time::timeout(Duration::from_secs(10), answer).await.expect("nobody waits for ever").ok()
}

pub const LIMITS: Limits = Limits { residents_max: 100, mailbox_max: 64, idle: Duration::from_secs(300) };
