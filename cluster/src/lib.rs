//! The second storey: many nodes are one shop. Delete it and one node works.
//!
//! Who is in the cluster and who has which shard is written in [`register`]; [`map`] is what it said last,
//! [`placement`] what follows from that, [`keeper`] the task that acts upon it. Messages cross over [`link`];
//! [`router`] decides whereto.

pub mod keeper;
pub mod link;
pub mod map;
pub mod placement;
pub mod register;
pub mod router;
pub mod time;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use souk_actors::aggregate::Kind;
use souk_actors::tenant::Tenant;
use souk_actors::territory::{SlotSet, Territory};
use souk_actors::{Clock, Places};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::keeper::{Keeper, Membership, Reload};
use crate::link::{LinkError, LinkSettings, Links, TlsFiles};
use crate::map::{Node, Role};
use crate::register::{Introduction, Register, RegisterError};
use crate::router::{Desk, Forgetting, Router};
use crate::time::ClusterTime;

/// Between the last answer and the end of links.
const LINGER: Duration = Duration::from_millis(50);

/// An operator waits so long for the register.
const OPERATION_MAX: Duration = Duration::from_secs(5);

/// How a node takes part in a cluster.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// `cluster_db`, migrated.
    pub register: PgConnectOptions,
    /// Where other nodes connect.
    pub listen: SocketAddr,
    /// What other nodes connect to, `host:port`; `None`: `listen`.
    pub advertise: Option<String>,
    /// Through all starts; `None`: what is advertised.
    pub name: Option<String>,
    /// Where clients reach it.
    pub http: String,
    /// What it does.
    pub role: Role,
    /// What nodes know each other by.
    pub cookie: String,
    /// Certificates, where links are encrypted.
    pub tls: Option<TlsFiles>,
    /// How many shards a new cluster has.
    pub shards: u16,
    /// How long a node has its shards that says nothing.
    pub lease: Duration,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The register does not answer.
    #[error("cannot join the cluster")]
    Register(#[from] RegisterError),
    /// No messages can be sent or received.
    #[error("cannot link with other nodes")]
    Link(#[from] LinkError),
    /// Somebody has dropped its database meanwhile.
    #[error("the register of the cluster was emptied just now")]
    Unmade,
    /// The setting says otherwise than the cluster.
    #[error(
        "the cluster has {has} shards, cluster.shards says {set}: the number is fixed when a cluster is made"
    )]
    Shards {
        /// As it was made.
        has: i16,
        /// As is set.
        set: u16,
    },
}

/// A node on its way into the cluster: it can be reached, and has no shard yet.
pub struct Joining {
    settings: ClusterSettings,
    register: Register,
    me: Introduction,
    id: Uuid,
    links: Arc<Links>,
    desk: Arc<Desk>,
    router: Arc<Router>,
    territory: Arc<Territory>,
    time: Arc<ClusterTime>,
    membership: watch::Sender<Membership>,
}

impl Joining {
    /// Finds or makes the cluster, and listens for other nodes.
    pub async fn begin(settings: ClusterSettings) -> Result<Self, ClusterError> {
        let mut register = Register::new(settings.register.clone(), settings.lease / 5);
        let set = i16::try_from(settings.shards).unwrap_or(i16::MAX);
        let has = register.found(set).await?;
        if has != set {
            return Err(ClusterError::Shards { has, set: settings.shards });
        }
        let time = Arc::new(ClusterTime::default());
        let sent = Clock::System.now();
        let overview = register.overview().await?.ok_or(ClusterError::Unmade)?;
        // Before anything is taken: a clock is not right until it has been compared.
        time.set(sent, overview.now_us, Clock::System.now());
        let id = overview.id;
        // In the order of their starts: who is there longer dials.
        let incarnation = Uuid::now_v7();
        let (membership, member) = watch::channel(Membership::default());
        let desk = Arc::new(Desk {
            me: incarnation,
            tenant: OnceLock::new(),
            forget: OnceLock::new(),
            membership: member.clone(),
            time: Arc::clone(&time),
        });
        let answering = Arc::clone(&desk);
        let links = LinkSettings {
            cluster: id,
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: settings.listen,
            cookie: settings.cookie.clone(),
            tls: settings.tls.clone(),
            ..LinkSettings::default()
        };
        let handler = Arc::new(move |request, responder| answering.handle(request, responder));
        let links = Arc::new(Links::open(links, handler).await?);
        let router = Arc::new(Router {
            me: incarnation,
            links: Arc::clone(&links),
            membership: member,
            time: Arc::clone(&time),
            hints: Mutex::default(),
        });
        let address = settings.advertise.clone().unwrap_or_else(|| links.address().to_string());
        let me = Introduction {
            incarnation,
            name: settings.name.clone().unwrap_or_else(|| address.clone()),
            address,
            http: settings.http.clone(),
            role: settings.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let territory = Arc::new(Territory::nothing());
        Ok(Self { settings, register, me, id, links, desk, router, territory, time, membership })
    }

    /// Which cluster it is.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Where entities live.
    pub fn places(&self) -> Places {
        Places::shared(Arc::clone(&self.territory), Arc::<Router>::clone(&self.router))
    }

    /// Joins with an open shop. `reload`: reads again which slots the databases hold; `forget`: forgets what is
    /// remembered of an entity.
    pub async fn join(
        mut self,
        tenant: Tenant,
        reload: Reload,
        forget: Forgetting,
    ) -> Result<Cluster, ClusterError> {
        self.register.join(&self.me, self.settings.lease).await?;
        // Set once: joining consumes this.
        let _ = (self.desk.forget.set(forget), self.desk.tenant.set(tenant.clone()));
        let news = Arc::new(Notify::new());
        let member = self.membership.subscribe();
        let (leave, left) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper::listen(self.settings.register.clone(), Arc::clone(&news)));
        tasks.spawn(keeper::guard(tenant.clone(), member.clone()));
        let adoption = Arc::new(Notify::new());
        tasks.spawn(keeper::adopt(tenant.clone(), Arc::clone(&adoption)));
        let me = self.me.incarnation;
        let keeper = Keeper {
            register: self.register,
            me: self.me,
            lease: self.settings.lease,
            tenant,
            links: Arc::clone(&self.links),
            time: self.time,
            membership: self.membership,
            news,
            reload,
            seen: 0,
            holdings: 0,
            must_flush: false,
            frozen: SlotSet::NOTHING,
            had: SlotSet::NOTHING,
            stuck_since: None,
            unsettled: None,
            adoption,
            leave: left,
        };
        tasks.spawn(keeper.run());
        let (fail, failed) = watch::channel(false);
        let is_leaving = Arc::new(AtomicBool::new(false));
        let mut watching = JoinSet::new();
        watching.spawn(watch_over(tasks, self.links.failed(), Arc::clone(&is_leaving), fail));
        Ok(Cluster {
            me,
            register: self.settings.register,
            membership: member,
            links: self.links,
            router: self.router,
            leave,
            failed,
            is_leaving,
            _watching: watching,
        })
    }
}

/// Tells when one of the tasks has ended that should not, or the links have. The others go on.
async fn watch_over(
    mut tasks: JoinSet<()>,
    mut links: watch::Receiver<bool>,
    is_leaving: Arc<AtomicBool>,
    fail: watch::Sender<bool>,
) {
    tokio::select! {
        _ = tasks.join_next() => {}
        _ = links.wait_for(|failed| *failed) => {}
    }
    if !is_leaving.load(Ordering::Acquire) {
        tracing::error!("this node's part in the cluster has ended");
        fail.send_replace(true);
    }
    std::future::pending().await
}

/// How a node stands.
#[derive(Clone, Debug, Default)]
pub struct ClusterStanding {
    /// Its lease is certain.
    pub is_member: bool,
    /// How many shards it has.
    pub shards: usize,
    /// How many shards nobody has.
    pub unowned: usize,
    /// The names of live nodes that it cannot reach.
    pub unreachable: Vec<String>,
    /// They are all there are, and several.
    pub is_isolated: bool,
}

/// A node's part in the cluster.
pub struct Cluster {
    me: Uuid,
    register: PgConnectOptions,
    membership: watch::Receiver<Membership>,
    links: Arc<Links>,
    router: Arc<Router>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    failed: watch::Receiver<bool>,
    is_leaving: Arc<AtomicBool>,
    _watching: JoinSet<()>,
}

impl Cluster {
    /// This start of this node.
    pub fn incarnation(&self) -> Uuid {
        self.me
    }

    /// How the node stands in the cluster.
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// Turns true when the node has no part in the cluster any more, though it did not leave.
    pub fn has_failed(&self) -> watch::Receiver<bool> {
        self.failed.clone()
    }

    /// How the node stands in the cluster now.
    pub fn standing(&self) -> ClusterStanding {
        let membership = self.membership.borrow();
        let Some(map) = &membership.map else { return ClusterStanding::default() };
        let cut_off = |node: &&Node| !self.links.is_linked(node.incarnation);
        let unreachable: Vec<_> = map.peers(self.me).filter(cut_off).map(|node| node.name.clone()).collect();
        ClusterStanding {
            is_isolated: unreachable.len() > 1 && unreachable.len() == map.peers(self.me).count(),
            is_member: membership.is_member(),
            shards: map.shards_of(self.me).len(),
            unowned: map.owners.iter().filter(|owner| owner.owner.is_none()).count(),
            unreachable,
        }
    }

    /// Has every node that can be reached forget what it remembers of an entity. This one is not told.
    pub async fn forget(&self, kind: Kind, id: Uuid) {
        self.router.forget(kind, id).await;
    }

    /// The register, for whoever operates the cluster.
    pub fn register(&self) -> Register {
        Register::new(self.register.clone(), OPERATION_MAX)
    }

    /// Gives every shard away and goes. What is under way goes on elsewhere.
    pub async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        let (asked, left) = oneshot::channel();
        if self.leave.send(asked).await.is_ok() {
            // An error: the keeper has ended otherwise, and the lease ends by itself.
            let _ = left.await;
        }
        // What was answered last is on its way.
        tokio::time::sleep(LINGER).await;
        self.links.close().await;
    }
}
