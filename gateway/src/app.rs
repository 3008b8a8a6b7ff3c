//! What handlers share, who calls them, and the router of it all.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use metrics_exporter_prometheus::PrometheusHandle;
use moka::sync::Cache;
use souk_actors::account::Account;
use souk_actors::admission::Gate;
use souk_actors::aggregate::{Aggregate, Kind};
use souk_actors::directory::{AskError, Housed};
use souk_actors::followers::Standing;
use souk_actors::money::Currency;
use souk_actors::order::Outside;
use souk_actors::{Clock, Directory, Id, Shop, Slot, Timestamp};
use souk_cluster::Cluster;
use souk_config::{Settings, millis};
use souk_persistence::journal::{JournalError, ListQuery, ViewRow};
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::bridge::queue::Queue;
use crate::layers::{RequestLimits, layers};
use crate::params::Page;
use crate::passwords::{Passwords, PasswordsError};
use crate::problem::{Code, Problem};
use crate::tokens::Tokens;
use crate::{
    accounts, categories, docs, health, membership, operators, orders, payments, pings, products, purchases,
};

/// So many products' currencies are remembered: what the door must know of a product before it is ordered.
const PRODUCTS_KNOWN: u64 = 100_000;
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Currencies of products that were for sale a moment ago.
pub type KnownProducts = Cache<Uuid, Currency>;

/// Remembers nothing yet.
pub fn known_products() -> KnownProducts {
    Cache::builder().max_capacity(PRODUCTS_KNOWN).time_to_live(KNOWN_FOR).build()
}

/// What handlers share.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    shop: Shop,
    clock: Clock,
    tokens: Tokens,
    passwords: Passwords,
    shop_currency: Currency,
    known_products: KnownProducts,
    settings: Settings,
    metrics: PrometheusHandle,
    draining: watch::Receiver<bool>,
    cluster: Option<Arc<Cluster>>,
    dead_letters: Option<Queue>,
}

/// What an [`App`] is made of.
#[expect(missing_docs, reason = "each is what its type says")]
pub struct Ingredients {
    pub shop: Shop,
    pub clock: Clock,
    pub tokens: Tokens,
    pub passwords: Passwords,
    pub shop_currency: Currency,
    pub settings: Settings,
    pub metrics: PrometheusHandle,
    pub known_products: KnownProducts,
    /// Turns true when the node begins to go away.
    pub draining: watch::Receiver<bool>,
    /// `None`: this node is alone.
    pub cluster: Option<Arc<Cluster>>,
}

impl App {
    /// What handlers share.
    pub fn new(parts: Ingredients) -> Self {
        let Ingredients {
            shop,
            clock,
            tokens,
            passwords,
            shop_currency,
            settings,
            metrics,
            known_products,
            draining,
            cluster,
        } = parts;
        let dead_letters = Queue::new(&settings.kafka);
        Self(Arc::new(Inner {
            dead_letters,
            shop,
            clock,
            tokens,
            passwords,
            shop_currency,
            known_products,
            settings,
            metrics,
            draining,
            cluster,
        }))
    }

    /// No handler shares it any more.
    pub fn is_sole(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The shop, back, once no handler shares it any more.
    pub fn into_shop(self) -> Option<Shop> {
        Arc::into_inner(self.0).map(|inner| inner.shop)
    }

    /// The shop.
    pub fn shop(&self) -> &Shop {
        &self.0.shop
    }

    /// Finds entities.
    pub fn directory(&self) -> &Directory {
        self.0.shop.directory()
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Seals and opens tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Hashes and checks passwords.
    pub fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// The currency of a product that names none.
    pub fn shop_currency(&self) -> Currency {
        self.0.shop_currency
    }

    /// Currencies of products that were for sale a moment ago.
    pub fn known_products(&self) -> &KnownProducts {
        &self.0.known_products
    }

    /// A product is not what it was: no node that can be reached remembers it.
    pub async fn forget_product(&self, id: Uuid) {
        self.known_products().invalidate(&id);
        if let Some(cluster) = self.cluster() {
            cluster.forget(Kind::Product, id).await;
        }
    }

    /// Who of a purchase's participants is outside.
    pub fn outside(&self) -> Outside {
        let kafka = &self.0.settings.kafka;
        Outside { inventory: kafka.is_outside("inventory"), payment: kafka.is_outside("payment") }
    }

    /// Every setting.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The largest body, in bytes.
    pub fn body_limit(&self) -> usize {
        self.0.settings.gateway.body_limit_bytes
    }

    /// How long an ask may take.
    pub fn patience(&self) -> Duration {
        // A request waits for a row of its own and perhaps for one before it.
        millis(self.0.settings.actors.ask_ms) * 2
    }

    /// What is counted.
    pub fn metrics(&self) -> &PrometheusHandle {
        &self.0.metrics
    }

    /// The node goes away.
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// The node's part in a cluster; `None`: it is alone.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.0.cluster.as_deref()
    }

    /// What could not be processed; `None`: there is no Kafka.
    pub fn dead_letters(&self) -> Option<&Queue> {
        self.0.dead_letters.as_ref()
    }

    /// Tells when the node goes away.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.0.draining.clone()
    }

    /// A node that is none of its cluster may not know which database holds what.
    fn is_member(&self) -> Result<(), Problem> {
        match self.cluster().is_none_or(|cluster| cluster.membership().borrow().is_member()) {
            true => Ok(()),
            false => Err(Problem::new(Code::Unavailable, "this node has no part in its cluster now")),
        }
    }

    /// The stored view of one entity.
    pub async fn view<A: Housed>(&self, id: Uuid) -> Result<Option<ViewRow>, Problem> {
        Ok(self.views::<A>(vec![id]).await?.pop())
    }

    /// The stored views of entities that exist.
    pub async fn views<A: Housed>(&self, ids: Vec<Uuid>) -> Result<Vec<ViewRow>, Problem> {
        self.is_member()?;
        Ok(self.directory().journal::<A>().views(A::KIND.number(), ids).await?)
    }

    /// The stored view of the caller's own entity. Somebody else's looks as if it were not there.
    pub async fn own<A: Housed>(&self, caller: Caller, id: Uuid) -> Result<ViewRow, Problem> {
        let row = self.view::<A>(id).await?.filter(|row| row.owner == Some(caller.0.uuid()));
        row.ok_or_else(Problem::not_found)
    }

    /// The id of what a request makes: what its key names, of this route and for this account, or a fresh
    /// one. In `slot`, or wherever.
    pub fn identify<A>(
        &self,
        route: &str,
        account: Id<Account>,
        key: Option<&str>,
        slot: Option<Slot>,
    ) -> Id<A> {
        match key {
            Some(key) => Id::named(route, &[account.uuid().as_bytes(), key.as_bytes()], slot),
            None => Id::fresh(self.now(), slot.unwrap_or_else(Slot::random)),
        }
    }

    /// Asks an entity to be made. `key`: what names it; without one it is new for certain.
    pub async fn make<A: Housed>(
        &self,
        id: Id<A>,
        key: Option<&str>,
        command: A::Command,
    ) -> Result<A::Answer, AskError<A::Rejection>> {
        match key {
            Some(_) => self.directory().ask(id, command, self.patience()).await,
            None => self.directory().create(id, command, self.patience()).await,
        }
    }

    /// One more view than the page holds, newest first.
    pub async fn list<A: Housed>(
        &self,
        owner: Option<Uuid>,
        equal: Vec<(String, String)>,
        page: Page,
    ) -> Result<Vec<ViewRow>, Problem> {
        self.is_member()?;
        let query =
            ListQuery { kind: A::KIND.number(), owner, equal, after: page.after, limit: page.limit + 1 };
        Ok(self.directory().journal::<A>().list(query).await?)
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Unavailable(cause) => {
                tracing::warn!(%cause, "journal cannot be read");
                Problem::new(Code::Unavailable, "the database does not answer")
            }
            JournalError::Corrupt(cause) => {
                tracing::error!(%cause, "stored data cannot be read");
                Problem::new(Code::Internal, "stored data cannot be read")
            }
        }
    }
}

impl From<PasswordsError> for Problem {
    fn from(error: PasswordsError) -> Self {
        match error {
            PasswordsError::Overloaded => {
                Problem::new(Code::TooManyRequests, "too many people log in at once")
            }
            PasswordsError::Broken => Problem::new(Code::Internal, "a password cannot be checked"),
        }
    }
}

/// A view, decoded.
pub fn decode<T: serde::de::DeserializeOwned>(row: &ViewRow) -> Result<T, Problem> {
    serde_json::from_str(&row.view).map_err(|error| unreadable(row, &error))
}

/// A view, decoded, with what stands beside it.
pub fn standing<A: Aggregate>(row: &ViewRow) -> Result<Standing<A>, Problem> {
    Standing::read(row).map_err(|error| unreadable(row, &error))
}

fn unreadable(row: &ViewRow, error: &serde_json::Error) -> Problem {
    tracing::error!(stream = %row.stream, %error, "stored view cannot be read");
    Problem::new(Code::Internal, "stored data cannot be read")
}

/// Who calls, by a valid access token.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub Id<Account>);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let unauthenticated = |detail: &str| Problem::new(Code::Unauthenticated, detail);
        let header = parts.headers.get(AUTHORIZATION).ok_or_else(|| unauthenticated("no access token"))?;
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthenticated("the access token follows the word Bearer"))?;
        let access = app
            .tokens()
            .open_access(token, app.now())
            .map_err(|_| unauthenticated("the access token is not valid, or over"))?;
        Ok(Self(Id::from(access.account)))
    }
}

/// Every route, and what every request passes.
pub fn router(app: App) -> Router {
    let settings = &app.settings().gateway;
    let limits = RequestLimits {
        gate: Gate::new(settings.requests_max),
        timeout: millis(settings.request_timeout_ms),
    };
    let shop = OpenApiRouter::new()
        .merge(accounts::routes())
        .merge(categories::routes())
        .merge(products::routes())
        .merge(purchases::routes())
        .merge(orders::routes())
        .merge(payments::routes())
        .merge(pings::routes());
    let api = match membership::role(app.settings().cluster.role).takes_requests() {
        true => shop.merge(operators::routes()),
        false => operators::routes(),
    };
    let (router, description) = OpenApiRouter::with_openapi(docs::Api::openapi())
        .nest("/api/v1", api)
        .merge(health::routes())
        .split_for_parts();
    // Whether or not there is a Kafka: who is to connect one wants to read it first.
    let kafka = &app.settings().kafka;
    let contract = souk_proto::asyncapi(env!("CARGO_PKG_VERSION"), &kafka.prefix, kafka.partitions);
    layers(router.merge(docs::routes(description, &contract)), limits).with_state(app)
}
