//! A node: databases, shop and door, opened in order and closed in the opposite one.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;
use sha2::{Digest, Sha256};
use souk_actors::aggregate::Kind;
use souk_actors::host::Limits;
use souk_actors::{Clock, Journals, Pace, Places, Shop};
use souk_cluster::Cluster;
use souk_cluster::keeper::Reload;
use souk_cluster::router::Forgetting;
use souk_config::{Provider, SecretUrl, SecretUrls, Settings, millis};
use souk_persistence::databases::{DatabaseUrls, Databases, DatabasesError, Hold};
use souk_persistence::embedded::{Embedded, EmbeddedSettings};
use souk_persistence::provider::PaymentProvider;
use souk_persistence::sandbox::{self, BooksAt, SandboxProvider};
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use crate::app::{App, Ingredients, known_products, router};
use crate::bridge::Bridge;
use crate::membership;
use crate::passwords::Passwords;
use crate::server::{ServerLimits, serve};
use crate::tokens::Tokens;

/// Requests under way get so long to end before the shop is closed.
const REQUESTS_DRAIN: Duration = Duration::from_secs(5);
/// Load balancers get so long to see that the node is not ready any more.
const GRACE: Duration = Duration::from_millis(200);

/// A node, open.
pub struct Node {
    embedded: Option<Embedded>,
    databases: Arc<Databases>,
    cluster: Option<Arc<Cluster>>,
    app: App,
    bridge: Option<Bridge>,
    listener: TcpListener,
    settings: Settings,
    drain: watch::Sender<bool>,
}

/// Why a node has ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Another Souk has the databases.
    #[error("another Souk has taken the databases")]
    Lost,
    /// Supervised actors ended again and again.
    #[error("supervised actors end again and again")]
    GaveUp,
    /// It has no part in its cluster any more.
    #[error("the node's part in the cluster has ended by itself")]
    Parted,
}

impl Node {
    /// Opens everything: from then on purchases that were left unfinished go on.
    pub async fn open(settings: Settings, metrics: PrometheusHandle) -> Result<Self> {
        let data = &settings.data;
        std::fs::create_dir_all(data).with_context(|| format!("make {}", data.display()))?;
        let listen = settings.gateway.listen;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let embedded = match settings.database.is_embedded() {
            true => {
                let binaries = settings.database.binaries.clone();
                let embedded = EmbeddedSettings { data: data.clone(), binaries };
                Some(Embedded::start(&embedded).await.context("start the embedded database")?)
            }
            false => None,
        };
        let address = listener.local_addr().context("ask for the address")?;
        match over(&settings, embedded.as_ref(), address, metrics).await {
            Ok(Opened { databases, cluster, app, drain }) => {
                let bridge = Bridge::start(&settings.kafka, &databases, &app);
                Ok(Self { embedded, databases, cluster, app, bridge, listener, settings, drain })
            }
            Err(error) => {
                // Nobody is left who would stop it.
                if let Some(embedded) = embedded {
                    embedded.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The port of the embedded database.
    pub fn database_port(&self) -> Option<u16> {
        self.embedded.as_ref().map(Embedded::port)
    }

    /// Serves until `shutdown` resolves or the node ends by itself, then closes everything in order: not
    /// ready, no new purchases, requests end, shards go to other nodes, purchases end or are left to the next
    /// start, rows are durable, the embedded database stops.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Ended> {
        let Self { embedded, databases, cluster, app, mut bridge, listener, settings, drain } = self;
        let (mut lost, mut failed) = (databases.is_lost(), app.shop().has_failed());
        let drain_max = millis(settings.shutdown.drain_ms);
        let limits = ServerLimits {
            header_timeout: millis(settings.gateway.header_timeout_ms),
            header_bytes: settings.gateway.header_limit_bytes,
            connections: settings.gateway.connections_max,
            drain: REQUESTS_DRAIN.min(drain_max),
        };
        let (end, mut ended) = watch::channel(None);
        let stopping = async {
            let why = tokio::select! {
                () = shutdown => None,
                _ = lost.wait_for(|lost| *lost) => Some(Ended::Lost),
                _ = failed.wait_for(|failed| *failed) => Some(Ended::GaveUp),
                () = parted(cluster.as_deref()) => Some(Ended::Parted),
            };
            tracing::info!("draining");
            drain.send_replace(true);
            let reading = async {
                if let Some(bridge) = &mut bridge {
                    bridge.stop_reading().await;
                }
            };
            tokio::join!(reading, tokio::time::sleep(GRACE));
            end.send_replace(why);
        };
        serve(listener, router(app.clone()), limits, stopping).await;
        if let Some(cluster) = &cluster {
            cluster.leave().await;
        }
        // Handlers that were cut off let go of the shop a moment later.
        if let Some(shop) = sole(app, REQUESTS_DRAIN).await {
            shop.stop(drain_max).await;
        }
        // It may read the databases.
        drop(cluster);
        // What happened last is told now rather than by the next start.
        if let Some(bridge) = bridge {
            bridge.stop().await;
        }
        drop(databases);
        if let Some(embedded) = embedded {
            embedded.stop().await;
        }
        match ended.borrow_and_update().as_ref() {
            None => Ok(()),
            Some(Ended::Lost) => Err(Ended::Lost),
            Some(Ended::GaveUp) => Err(Ended::GaveUp),
            Some(Ended::Parted) => Err(Ended::Parted),
        }
    }
}

/// Never, where there is no cluster.
async fn parted(cluster: Option<&Cluster>) {
    match cluster {
        // An error: it has ended, which others see to.
        Some(cluster) if cluster.has_failed().wait_for(|failed| *failed).await.is_ok() => {}
        Some(_) | None => std::future::pending().await,
    }
}

/// What is open before the door is.
struct Opened {
    databases: Arc<Databases>,
    cluster: Option<Arc<Cluster>>,
    app: App,
    drain: watch::Sender<bool>,
}

/// Opens databases and shop over the servers that there are, and joins the cluster, if there is one.
async fn over(
    settings: &Settings,
    embedded: Option<&Embedded>,
    http: SocketAddr,
    metrics: PrometheusHandle,
) -> Result<Opened> {
    let urls = urls(settings, embedded.map(Embedded::url));
    let hold = if settings.cluster.listen.is_some() { Hold::Shared } else { Hold::Alone };
    let databases = Databases::open(&urls, hold, settings.database.pool_size).await;
    let databases = Arc::new(databases.context("open the databases")?);
    let joining = membership::begin(settings, &urls, http).await?;
    let books = sandbox_books(settings, joining.is_some(), urls.server.as_deref())
        .context("find the sandbox's books")?;
    let password = &settings.password;
    let (drain, draining) = watch::channel(false);
    let clock = Clock::System;
    let places = joining.as_ref().map_or_else(Places::alone, |joining| joining.places());
    let key = token_key(settings, joining.as_ref().map(|joining| joining.id()))?;
    let shop = shop(settings, &databases, &books, clock, places).await?;
    let known_products = known_products();
    let cluster = match joining {
        Some(joining) => {
            let reload = reload(&databases);
            let remembered = known_products.clone();
            let forget: Forgetting = Arc::new(move |kind, id| match kind {
                Kind::Product => remembered.invalidate(&id),
                Kind::Account
                | Kind::Session
                | Kind::Email
                | Kind::Category
                | Kind::Order
                | Kind::Payment => {}
            });
            let joined = joining.join(shop.tenant().clone(), reload, forget).await;
            let cluster = joined.context("join the cluster")?;
            Some(Arc::new(cluster))
        }
        None => None,
    };
    let app = App::new(Ingredients {
        tokens: Tokens::new(&[key])?,
        passwords: Passwords::new(password.concurrency, password.waiting_max)?,
        shop_currency: settings.gateway.shop_currency.parse().context("gateway.shop_currency")?,
        shop,
        clock,
        settings: settings.clone(),
        metrics,
        known_products,
        draining,
        cluster: cluster.clone(),
    });
    Ok(Opened { databases, cluster, app, drain })
}

/// Reads again which database holds which slots.
fn reload(databases: &Arc<Databases>) -> Reload {
    let databases = Arc::clone(databases);
    Arc::new(move || {
        let databases = Arc::clone(&databases);
        Box::pin(async move {
            let read = databases.reload().await;
            read.inspect_err(|error| tracing::warn!(%error, "who holds which slots cannot be read now"))
                .is_ok()
        })
    })
}

async fn sole(app: App, within: Duration) -> Option<Shop> {
    let deadline = tokio::time::Instant::now() + within;
    while !app.is_sole() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.into_shop()
}

/// Where the databases are; `server`: of the embedded one.
pub(crate) fn urls(settings: &Settings, server: Option<String>) -> DatabaseUrls {
    let database = &settings.database;
    let reveal = |url: &Option<SecretUrl>| url.as_ref().map(|url| url.reveal().to_owned());
    let each = |urls: &SecretUrls| urls.iter().map(|url| url.reveal().to_owned()).collect();
    DatabaseUrls {
        server: server.or_else(|| reveal(&database.url)),
        account: each(&database.account_url),
        product: each(&database.product_url),
        order: each(&database.order_url),
        payment: each(&database.payment_url),
        cluster: reveal(&database.cluster_url),
    }
}

/// Where the sandbox keeps its books: in a folder, unless nodes that have nothing in common but a database
/// server, `server`, must share them.
pub(crate) fn sandbox_books(
    settings: &Settings,
    is_clustered: bool,
    server: Option<&str>,
) -> Result<BooksAt, DatabasesError> {
    match (&settings.payment.sandbox_folder, is_clustered) {
        (Some(folder), _) => Ok(BooksAt::Folder(folder.clone())),
        (None, false) => Ok(BooksAt::Folder(settings.data.join("sandbox"))),
        (None, true) => BooksAt::server(server),
    }
}

async fn shop(
    settings: &Settings,
    databases: &Databases,
    books: &BooksAt,
    clock: Clock,
    places: Places,
) -> Result<Shop> {
    let actors = &settings.actors;
    let provider: Arc<dyn PaymentProvider> = match settings.payment.provider {
        Provider::Sandbox => {
            let pace = sandbox::Pace::default();
            SandboxProvider::open_at(books, pace).await.context("open the payment provider's books")?
        }
    };
    let journals = Journals {
        account: databases.account.clone(),
        product: databases.product.clone(),
        order: databases.order.clone(),
        payment: databases.payment.clone(),
    };
    let pace = Pace {
        limits: Limits {
            residents_max: actors.residents_max,
            mailbox_max: actors.mailbox_max,
            idle: millis(actors.idle_ms),
        },
        purchases_max: actors.purchases_max,
        patience: millis(actors.reserve_ms),
        ask: millis(actors.ask_ms),
        provider_call: millis(actors.provider_ms),
        settle_every: millis(actors.settle_interval_ms),
        settle_max: actors.settle_max,
        sweep_every: millis(actors.sweep_interval_ms),
    };
    Ok(Shop::start(journals, provider, clock, pace, places).await?)
}

/// The configured key; else one that the nodes of a cluster make from what they share; else one that is made once
/// and kept in the data folder.
fn token_key(settings: &Settings, cluster: Option<Uuid>) -> Result<[u8; 32]> {
    let path = settings.data.join("token.key");
    let text = match (&settings.token.key, cluster, &settings.cluster.cookie) {
        (Some(key), _, _) => key.reveal().to_owned(),
        (None, Some(cluster), Some(cookie)) => {
            let hash = Sha256::new().chain_update("souk token key").chain_update(cluster.as_bytes());
            return Ok(hash.chain_update(cookie.reveal()).finalize().into());
        }
        (None, _, _) => kept_key(&path).with_context(|| format!("keep a token key in {}", path.display()))?,
    };
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.trim().as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits)?;
        *byte = u8::from_str_radix(digits, 16).context("a token key is 64 hexadecimal digits")?;
    }
    anyhow::ensure!(text.trim().len() == 64, "a token key is 64 hexadecimal digits");
    Ok(key)
}

fn kept_key(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
            file.write_all(key.as_bytes())?;
            file.sync_all()?;
            Ok(key)
        }
        read => read,
    }
}
