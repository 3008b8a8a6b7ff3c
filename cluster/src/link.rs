//! Messages between nodes. `ractor_cluster` is a plain pipe here: one remotable actor per node, which is sent frames
//! of requests and responses; no entity is ever seen from another node.
//!
//! What it leaves open is closed here: silent peers (`transport`), unbounded queues (`peer`), names and
//! sessions that do not fit (`host`), dialling and strangers (`door`). At debug level it logs whole
//! payloads: leave `ractor_cluster=warn` in the log filter.

mod door;
mod host;
mod peer;
mod tls;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ractor::Actor;
use ractor_cluster::{NodeServer, NodeServerMessage};
use souk_proto::node::Request;
use souk_proto::node::response::Outcome;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

pub use self::peer::{Responder, Subscription};
pub use self::tls::{TlsError, TlsFiles};

use self::door::Door;
use self::host::{Events, HostActor, Switchboard, node_name};
use self::tls::Tls;

/// The oldest protocol that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest.
pub const PROTOCOL_MAX: u32 = 1;

/// No frame is larger: those of this build have a half of it.
const FRAME_MAX: u64 = 1024 * 1024;

/// How a node links with others.
#[derive(Clone)]
pub struct LinkSettings {
    /// Which cluster: nodes of another are refused.
    pub cluster: Uuid,
    /// Of this start. Whoever started earlier dials.
    pub incarnation: Uuid,
    /// Of the build, for people.
    pub version: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What nodes know each other by.
    pub cookie: String,
    /// Where links are encrypted.
    pub tls: Option<TlsFiles>,
    /// A link on which nothing is heard for so long has ended.
    pub idle_timeout: Duration,
    /// So has one that takes nothing for so long.
    pub stall_timeout: Duration,
    /// Whoever connects must have shown the cookie within this.
    pub introduction_timeout: Duration,
    /// The largest request, in bytes.
    pub payload_max: usize,
    /// The most requests of one peer that are unanswered.
    pub in_flight_max: usize,
    /// The most entities of one peer that are followed; whoever is turned away looks by itself.
    pub follows_max: usize,
    /// The most connections whose other side has not shown the cookie.
    pub strangers_max: usize,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            cluster: Uuid::nil(),
            incarnation: Uuid::nil(),
            version: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            cookie: String::new(),
            tls: None,
            idle_timeout: Duration::from_secs(8),
            stall_timeout: Duration::from_secs(4),
            introduction_timeout: Duration::from_secs(5),
            payload_max: 256 * 1024,
            in_flight_max: 4_096,
            follows_max: 4_096,
            strangers_max: 64,
        }
    }
}

impl fmt::Debug for LinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the cookie.
        f.debug_struct("LinkSettings")
            .field("cluster", &self.cluster)
            .field("incarnation", &self.incarnation)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Of its start.
    pub incarnation: Uuid,
    /// Where it listens, `host:port`.
    pub address: String,
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The actors do not start.
    #[error("actors for other nodes do not start")]
    Actor(#[from] ractor::SpawnErr),
    /// They ended at once.
    #[error("the server of nodes has ended")]
    Ended,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// It was answered.
    Answered(Outcome),
    /// There is no link, or it is full, or the request too large: nothing was sent.
    NotSent,
    /// No answer came: perhaps it was executed.
    Lost,
}

/// Handles what other nodes ask, on the host's turn: it must not wait.
pub type Handler = Arc<dyn Fn(Request, Responder) + Send + Sync>;

/// The links of a node.
pub struct Links {
    switchboard: Arc<Switchboard>,
    address: SocketAddr,
    server: ractor::ActorRef<NodeServerMessage>,
    host: ractor::ActorCell,
    failed: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Links {
    /// Listens, and dials whoever is expected.
    pub async fn open(settings: LinkSettings, handler: Handler) -> Result<Self, LinkError> {
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
        let failed_to_listen = |error| LinkError::Listen(settings.listen, error);
        let listener = TcpListener::bind(settings.listen).await.map_err(failed_to_listen)?;
        let address = listener.local_addr().map_err(failed_to_listen)?;
        let (incarnation, cookie) = (settings.incarnation, settings.cookie.clone());
        let switchboard = Switchboard::new(settings, handler);
        let (host, mut host_ended) = Actor::spawn(None, HostActor, Arc::clone(&switchboard)).await?;
        // It insists on a listener of its own: on loopback, any port, and nobody is told. Name and host are never
        // used twice, because it takes a session of the same name, or to the same host, for the same node.
        let server = NodeServer::new(0, cookie, node_name(incarnation), incarnation.to_string(), None, None)
            .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .with_max_inbound_frame_size(FRAME_MAX);
        let (server, mut server_ended) = Actor::spawn(None, server, ()).await?;
        let events = NodeServerMessage::SubscribeToEvents {
            id: "links".to_owned(),
            subscription: Box::new(Events(Arc::clone(&switchboard))),
        };
        server.cast(events).map_err(|_| LinkError::Ended)?;
        let door = Arc::new(Door { switchboard: Arc::clone(&switchboard), server: server.clone(), tls });
        let mut doors = JoinSet::new();
        doors.spawn(Arc::clone(&door).accept(listener));
        doors.spawn(door.dial());
        let (fail, failed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            tokio::select! {
                _ = &mut host_ended => {}
                _ = &mut server_ended => {}
                _ = doors.join_next() => {}
            }
            fail.send_replace(true);
        });
        Ok(Self { switchboard, address, server, host: host.get_cell(), failed, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Turns true when nothing can be sent or received any more.
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.failed.clone()
    }

    /// With whom there should be links from now on.
    pub fn expect(&self, peers: Vec<Peer>) {
        let peers: HashMap<_, _> = peers.into_iter().map(|peer| (peer.incarnation, peer.address)).collect();
        self.switchboard.expect(peers);
    }

    /// Whether requests can be sent there.
    pub fn is_linked(&self, incarnation: Uuid) -> bool {
        self.switchboard.link(incarnation).is_some()
    }

    /// Asks another node and waits at most `within`. The request is given its id here.
    pub async fn request(&self, to: Uuid, request: Request, within: Duration) -> Asked {
        match self.switchboard.link(to) {
            Some(link) => link.request(request, within).await,
            None => Asked::NotSent,
        }
    }

    /// Follows an entity of another node, at most for `within`. What is asked there next comes behind it. `None`:
    /// there is no link.
    pub fn follow(&self, to: Uuid, request: Request, within: Duration) -> Option<Subscription> {
        self.switchboard.link(to)?.follow(request, within)
    }

    /// Ends every link.
    pub async fn close(&self) {
        self.switchboard.end();
        self.server.stop(None);
        self.host.stop(None);
    }
}
