//! What of this node other nodes can reach: one actor, which is sent frames. It tells whose they are and hands on
//! what is in them.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message as _;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, BytesConvertable, SupervisionEvent, pg};
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{NodeEventSubscription, NodeSessionMessage};
use souk_proto::node::request::Body;
use souk_proto::node::{Frame, Hello};
use tokio::sync::Notify;
use uuid::Uuid;

use super::peer::Link;
use super::{Handler, LinkSettings, PROTOCOL_MAX, PROTOCOL_MIN};

/// A frame. The one kind of message that is ever sent between nodes: it is bytes to `ractor_cluster`, so there is
/// nothing in it that a newer or older build could fail to name.
pub(super) struct FrameBytes(pub Vec<u8>);

impl BytesConvertable for FrameBytes {
    fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// The group in which the host of an incarnation is found.
fn group(incarnation: Uuid) -> String {
    format!("souk-host/{incarnation}")
}

/// The name of a node to `ractor_cluster`: never used twice, because a session that is half open keeps a name.
pub(super) fn node_name(incarnation: Uuid) -> String {
    format!("souk-{incarnation}")
}

fn incarnation_of(name: &str) -> Option<Uuid> {
    name.split('@').next()?.strip_prefix("souk-")?.parse().ok()
}

/// What everybody here shares.
pub(super) struct Switchboard {
    pub settings: LinkSettings,
    pub handler: Handler,
    state: Mutex<State>,
    /// Something has changed that whoever dials must look at.
    pub changed: Notify,
}

#[derive(Default)]
struct State {
    /// Whom there should be links with.
    expected: HashMap<Uuid, String>,
    links: HashMap<Uuid, (ActorId, Arc<Link>)>,
    sessions: HashMap<ActorId, (Option<Uuid>, ActorRef<NodeSessionMessage>)>,
    /// Said before this end was ready.
    early: HashMap<Uuid, Hello>,
    /// Connections of which nobody knows yet whose they are, by label.
    strangers: HashMap<String, Arc<AtomicBool>>,
    /// They do not fit: not to be dialled again soon.
    refused: HashMap<Uuid, String>,
    /// They fit, and nobody has said yet that they are expected.
    unexpected: HashSet<Uuid>,
}

impl Switchboard {
    pub fn new(settings: LinkSettings, handler: Handler) -> Arc<Self> {
        Arc::new(Self { settings, handler, state: Mutex::default(), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom there should be links with; links with others end.
    pub fn expect(&self, peers: HashMap<Uuid, String>) {
        let mut state = self.state();
        if state.expected == peers {
            return;
        }
        state.expected = peers;
        let State { expected, links, sessions, early, refused, unexpected, .. } = &mut *state;
        for (peer, session) in sessions.values() {
            if peer.is_some_and(|peer| !expected.contains_key(&peer)) {
                session.stop(None);
            }
        }
        for peer in unexpected.drain() {
            match links.get(&peer) {
                Some((_, link)) if expected.contains_key(&peer) => link.open(),
                Some(_) | None => {}
            }
        }
        early.retain(|peer, _| expected.contains_key(peer));
        refused.retain(|peer, _| expected.contains_key(peer));
        drop(state);
        self.changed.notify_one();
    }

    /// The link with a peer, if it is open.
    pub fn link(&self, peer: Uuid) -> Option<Arc<Link>> {
        self.state().links.get(&peer).map(|(_, link)| link).filter(|link| link.is_open()).cloned()
    }

    /// Those that this end dials, and has no session with: incarnation, address, and whether it was refused.
    pub fn missing(&self) -> Vec<(Uuid, String, bool)> {
        let state = self.state();
        let is_missing = |peer: &Uuid| {
            *peer > self.settings.incarnation
                && !state.sessions.values().any(|(known, _)| *known == Some(*peer))
        };
        let missing = state.expected.iter().filter(|(peer, _)| is_missing(peer));
        missing.map(|(peer, address)| (*peer, address.clone(), state.refused.contains_key(peer))).collect()
    }

    /// A new connection, of nobody knows whom.
    pub fn admit(&self, label: &str) -> Arc<AtomicBool> {
        let is_known = Arc::new(AtomicBool::new(false));
        self.state().strangers.insert(label.to_owned(), Arc::clone(&is_known));
        is_known
    }

    fn opened(&self, session: &NodeServerSessionInformation) {
        self.state().sessions.insert(session.actor.get_id(), (None, session.actor.clone()));
    }

    /// Whoever it is has shown the cookie.
    fn authenticated(&self, session: &NodeServerSessionInformation) {
        let mut state = self.state();
        if let Some(is_known) = state.strangers.remove(&session.peer_addr) {
            is_known.store(true, Ordering::Release);
        }
        let peer = session.peer_name.as_ref().and_then(|name| incarnation_of(&name.name));
        state.sessions.insert(session.actor.get_id(), (peer, session.actor.clone()));
        if peer.is_none() {
            tracing::warn!("a node that is not of this kind has connected");
            session.actor.stop(None);
        }
    }

    /// The other side's host can be reached now.
    fn ready(&self, session: &NodeServerSessionInformation) {
        let Some(peer) = session.peer_name.as_ref().and_then(|name| incarnation_of(&name.name)) else {
            return;
        };
        let is_its =
            |id: ActorId| matches!(id, ActorId::Remote { node_id, .. } if node_id == session.node_id);
        let Some(host) = pg::get_members(&group(peer)).into_iter().find(|member| is_its(member.get_id()))
        else {
            tracing::warn!(%peer, "a node has no host");
            return session.actor.stop(None);
        };
        let link = Link::begin(peer, host.into(), self.hello(), &self.settings);
        let (early, before) = {
            let mut state = self.state();
            let before = state.links.insert(peer, (session.actor.get_id(), Arc::clone(&link)));
            (state.early.remove(&peer), before)
        };
        if let Some((_, before)) = before {
            before.end();
        }
        if let Some(hello) = early {
            self.greeted(peer, &hello);
        }
    }

    fn disconnected(&self, session: &NodeServerSessionInformation) {
        let actor = session.actor.get_id();
        let mut state = self.state();
        state.strangers.remove(&session.peer_addr);
        let Some((peer, _)) = state.sessions.remove(&actor) else { return };
        let ended = peer.and_then(|peer| match state.links.get(&peer) {
            Some((of, _)) if *of == actor => {
                state.unexpected.remove(&peer);
                state.links.remove(&peer)
            }
            Some(_) | None => None,
        });
        drop(state);
        if let Some((_, link)) = ended {
            link.end();
            tracing::info!(peer = %link.peer, "a link has ended");
        }
        self.changed.notify_one();
    }

    fn hello(&self) -> Hello {
        let LinkSettings { cluster, incarnation, version, .. } = &self.settings;
        Hello {
            cluster: Bytes::copy_from_slice(cluster.as_bytes()),
            incarnation: Bytes::copy_from_slice(incarnation.as_bytes()),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            version: version.clone(),
        }
    }

    /// The other side says who it is.
    fn greeted(&self, peer: Uuid, hello: &Hello) {
        let mut state = self.state();
        let Some((actor, link)) = state.links.get(&peer).map(|(actor, link)| (*actor, Arc::clone(link)))
        else {
            // Bounded by what is expected, and by the cookie before that.
            if state.early.len() < self.settings.in_flight_max {
                state.early.insert(peer, hello.clone());
            }
            return;
        };
        if link.is_open() {
            // It has said so before: this is of a session whose end here is not ready yet.
            state.early.insert(peer, hello.clone());
        }
        match fits(hello, self.settings.cluster, peer) {
            // The register may be read here a moment later than there.
            Ok(()) if !state.expected.contains_key(&peer) => drop(state.unexpected.insert(peer)),
            Ok(()) => {
                state.refused.remove(&peer);
                link.open();
                drop(state);
                tracing::info!(%peer, version = hello.version, "linked");
            }
            Err(misfit) => {
                let session = state.sessions.get(&actor).map(|(_, session)| session.clone());
                let is_news = state.refused.insert(peer, misfit.clone()).is_none();
                drop(state);
                if is_news {
                    tracing::warn!(%peer, version = hello.version, misfit, "a node does not fit and is not linked with");
                }
                if let Some(session) = session {
                    session.stop(None);
                }
            }
        }
    }

    fn received(&self, FrameBytes(bytes): FrameBytes) {
        let Ok(frame) = Frame::decode(Bytes::from(bytes)) else {
            return tracing::warn!("a frame of another node cannot be read");
        };
        let Ok(peer) = Uuid::from_slice(&frame.from) else { return };
        if let Some(hello) = &frame.hello {
            self.greeted(peer, hello);
        }
        // What comes from somebody who has not said who it is is not listened to.
        let Some(link) = self.link(peer) else { return };
        for request in frame.requests {
            let is_follow = matches!(request.body, Some(Body::Follow(_)));
            let responder = link.responder(request.id, is_follow);
            // One that cannot be handled must not end this node, nor keep the others from being handled: dropped
            // unanswered it is unknown.
            if catch_unwind(AssertUnwindSafe(|| (self.handler)(request, responder))).is_err() {
                tracing::error!(%peer, "a request of another node could not be handled");
            }
        }
        for response in frame.responses {
            link.answered(response);
        }
        for request in frame.cancelled {
            link.cancelled(request);
        }
    }

    /// Nothing comes any more.
    pub fn end(&self) {
        let links: Vec<_> = self.state().links.drain().collect();
        for (_, (_, link)) in links {
            link.end();
        }
    }
}

/// Whether a node can be talked to; if not, why.
fn fits(hello: &Hello, cluster: Uuid, peer: Uuid) -> Result<(), String> {
    if hello.cluster != cluster.as_bytes()[..] {
        return Err("it is of another cluster".to_owned());
    }
    if hello.incarnation != peer.as_bytes()[..] {
        return Err("it is not who it says".to_owned());
    }
    if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
        let Hello { protocol_min, protocol_max, .. } = hello;
        return Err(format!(
            "it speaks protocols {protocol_min} to {protocol_max}, this build {PROTOCOL_MIN} to {PROTOCOL_MAX}"
        ));
    }
    Ok(())
}

/// The actor that other nodes reach.
pub(super) struct HostActor;

impl Actor for HostActor {
    type Msg = FrameBytes;
    type State = Arc<Switchboard>;
    type Arguments = Arc<Switchboard>;

    async fn pre_start(
        &self,
        myself: ActorRef<FrameBytes>,
        switchboard: Arc<Switchboard>,
    ) -> Result<Arc<Switchboard>, ActorProcessingErr> {
        pg::join(group(switchboard.settings.incarnation), vec![myself.get_cell()]);
        Ok(switchboard)
    }

    async fn handle(
        &self,
        _myself: ActorRef<FrameBytes>,
        frame: FrameBytes,
        switchboard: &mut Arc<Switchboard>,
    ) -> Result<(), ActorProcessingErr> {
        switchboard.received(frame);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<FrameBytes>,
        _event: SupervisionEvent,
        _switchboard: &mut Arc<Switchboard>,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children; the default would stop it.
        Ok(())
    }
}

/// What `ractor_cluster` tells of its sessions.
pub(super) struct Events(pub Arc<Switchboard>);

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        self.0.opened(&session);
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        self.0.disconnected(&session);
    }

    fn node_session_authenticated(&self, session: NodeServerSessionInformation) {
        self.0.authenticated(&session);
    }

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        self.0.ready(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(cluster: u128, incarnation: u128, protocols: std::ops::RangeInclusive<u32>) -> Hello {
        Hello {
            cluster: Bytes::copy_from_slice(Uuid::from_u128(cluster).as_bytes()),
            incarnation: Bytes::copy_from_slice(Uuid::from_u128(incarnation).as_bytes()),
            protocol_min: *protocols.start(),
            protocol_max: *protocols.end(),
            version: "1".to_owned(),
        }
    }

    #[test]
    fn only_a_node_of_this_cluster_that_speaks_a_protocol_of_this_build_is_linked_with() {
        let fits = |hello: &Hello| fits(hello, Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(fits(&hello(1, 2, PROTOCOL_MIN..=PROTOCOL_MAX + 5)), Ok(()));
        assert!(fits(&hello(9, 2, 1..=1)).is_err_and(|misfit| misfit.contains("another cluster")));
        assert!(fits(&hello(1, 9, 1..=1)).is_err_and(|misfit| misfit.contains("who it says")));
        let newer = PROTOCOL_MAX + 1..=PROTOCOL_MAX + 2;
        assert!(fits(&hello(1, 2, newer)).is_err_and(|misfit| misfit.contains("protocols 2 to 3")));
    }

    #[test]
    fn a_name_is_an_incarnation() {
        let incarnation = Uuid::from_u128(7);
        assert_eq!(incarnation_of(&format!("{}@host", node_name(incarnation))), Some(incarnation));
        assert_eq!(incarnation_of("somebody@host"), None);
    }
}
