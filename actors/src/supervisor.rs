//! Who watches whom: a root, one supervisor per service under it, entities under those; and beside the
//! services the node's periodic work, each an actor of its own.
//!
//! An entity that fails is its host's business: back-off, quarantine. A supervisor or a periodic actor
//! that fails is started anew; if that happens again and again the node itself is sick, and says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::aggregate::Kind;
use crate::directory::Hosts;

/// So many restarts of the root's children within [`WINDOW`] and the node gives up.
const RESTARTS_MAX: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// A service: entities of a few kinds over one database.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// What lives in it.
    pub kinds: &'static [Kind],
}

/// The services of the shop.
pub const SERVICES: [Service; 4] = [
    Service { name: "account", kinds: &[Kind::Account, Kind::Session, Kind::Email] },
    Service { name: "product", kinds: &[Kind::Category, Kind::Product] },
    Service { name: "order", kinds: &[Kind::Order] },
    Service { name: "payment", kinds: &[Kind::Payment] },
];

/// Work that is done again and again.
#[derive(Clone)]
pub struct Periodic {
    /// Its name.
    pub name: &'static str,
    /// How long it rests between two rounds.
    pub every: Duration,
    /// One round. It handles its own errors; a panic starts the actor anew.
    pub round: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// A child of the root.
#[derive(Clone)]
enum Child {
    Service(Service),
    Periodic(Periodic),
}

impl Child {
    fn name(&self) -> &'static str {
        match self {
            Self::Service(service) => service.name,
            Self::Periodic(periodic) => periodic.name,
        }
    }
}

/// The root.
pub struct Root;

/// What the root needs.
pub struct RootArguments {
    /// Where entities live.
    pub hosts: Arc<Hosts>,
    /// The periodic work.
    pub periodic: Vec<Periodic>,
    /// Turns true when the node gives up.
    pub has_failed: watch::Sender<bool>,
}

/// The root's children.
pub struct RootState {
    arguments: RootArguments,
    children: HashMap<ActorId, Child>,
    restarts: Vec<Instant>,
}

/// The root is sent nothing.
#[derive(Debug)]
pub enum Nothing {}

impl ractor::Message for Nothing {}

impl Actor for Root {
    type Msg = Nothing;
    type State = RootState;
    type Arguments = RootArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Nothing>,
        arguments: RootArguments,
    ) -> Result<RootState, ActorProcessingErr> {
        let services = SERVICES.into_iter().map(Child::Service);
        let children: Vec<_> =
            services.chain(arguments.periodic.iter().cloned().map(Child::Periodic)).collect();
        let mut state = RootState { arguments, children: HashMap::new(), restarts: Vec::new() };
        for child in children {
            state.start(myself.get_cell(), child).await?;
        }
        Ok(state)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Nothing>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, cause) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor, reason.unwrap_or_else(|| "it ended".to_owned()))
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        let Some(child) = state.children.remove(&actor.get_id()) else { return Ok(()) };
        tracing::error!(child = child.name(), cause, "supervised actor ended and is started anew");
        let now = Instant::now();
        state.restarts.retain(|then| now.duration_since(*then) < WINDOW);
        state.restarts.push(now);
        if state.restarts.len() > RESTARTS_MAX {
            tracing::error!("supervised actors end again and again: the node gives up");
            state.arguments.has_failed.send_replace(true);
            return Ok(());
        }
        state.start(myself.get_cell(), child).await
    }
}

impl RootState {
    async fn start(&mut self, root: ActorCell, child: Child) -> Result<(), ActorProcessingErr> {
        let actor = match &child {
            Child::Service(service) => {
                let hosts = Arc::clone(&self.arguments.hosts);
                let (actor, _) =
                    Actor::spawn_linked(None, ServiceSupervisor, (hosts, *service), root).await?;
                actor.get_cell()
            }
            Child::Periodic(periodic) => {
                let (actor, _) = Actor::spawn_linked(None, Rounds, periodic.clone(), root).await?;
                actor.get_cell()
            }
        };
        self.children.insert(actor.get_id(), child);
        Ok(())
    }
}

/// Watches the entities of a service. Its handler is trivial, because an entity's state lives until its
/// end has been read here.
struct ServiceSupervisor;

impl Actor for ServiceSupervisor {
    type Msg = Nothing;
    type State = (Arc<Hosts>, Service);
    type Arguments = (Arc<Hosts>, Service);

    async fn pre_start(
        &self,
        myself: ActorRef<Nothing>,
        (hosts, service): (Arc<Hosts>, Service),
    ) -> Result<(Arc<Hosts>, Service), ActorProcessingErr> {
        for kind in service.kinds {
            hosts.of(*kind).supervise(myself.get_cell());
        }
        Ok((hosts, service))
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Nothing>,
        event: SupervisionEvent,
        (hosts, service): &mut (Arc<Hosts>, Service),
    ) -> Result<(), ActorProcessingErr> {
        let (actor, failure) = match &event {
            SupervisionEvent::ActorFailed(actor, error) => (actor.get_id(), Some(error.to_string())),
            SupervisionEvent::ActorTerminated(actor, _, _) => (actor.get_id(), None),
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        service.kinds.iter().any(|kind| hosts.of(*kind).ended(actor, failure.as_deref()));
        Ok(())
    }
}

/// Does periodic work.
struct Rounds;

/// It is time.
#[derive(Debug)]
struct Now;

impl ractor::Message for Now {}

impl Actor for Rounds {
    type Msg = Now;
    type State = Periodic;
    type Arguments = Periodic;

    async fn pre_start(
        &self,
        myself: ActorRef<Now>,
        periodic: Periodic,
    ) -> Result<Periodic, ActorProcessingErr> {
        myself.cast(Now)?;
        Ok(periodic)
    }

    async fn handle(
        &self,
        myself: ActorRef<Now>,
        _now: Now,
        periodic: &mut Periodic,
    ) -> Result<(), ActorProcessingErr> {
        (periodic.round)().await;
        myself.send_after(periodic.every, || Now);
        Ok(())
    }
}
