//! Puts the shop together: hosts over journals, the world that effects are performed on, and who watches
//! them. [`Shop::start`] opens it, [`Shop::stop`] closes it in order.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell};
use souk_persistence::journal::{Journal, JournalError};
use souk_persistence::provider::PaymentProvider;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::aggregate::Kind;
use crate::clock::Clock;
use crate::concurrency::ConcurrencyLimit;
use crate::directory::{Directory, Hosts};
use crate::host::{AnyHost, Host, Limits, Quarantined};
use crate::route::Places;
use crate::settling::{Collector, PARTS};
use crate::supervisor::{Periodic, Root, RootArguments};
use crate::sweep::Sweep;
use crate::tenant::{Inner, Tenant};
use crate::territory::Territory;
use crate::world::{Performer, World};

/// The journal of each service.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the journal of its service")]
pub struct Journals {
    pub account: Arc<dyn Journal>,
    pub product: Arc<dyn Journal>,
    pub order: Arc<dyn Journal>,
    pub payment: Arc<dyn Journal>,
}

/// How the shop is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The bounds of hosts.
    pub limits: Limits,
    /// The most purchases under way at once.
    pub purchases_max: usize,
    /// How long stock may take to be reserved and money to be charged.
    pub patience: Duration,
    /// How long one ask may take.
    pub ask: Duration,
    /// How long one call of the payment provider may take.
    pub provider_call: Duration,
    /// How often a product is told what is sold.
    pub settle_every: Duration,
    /// The most orders whose settling is collected at once.
    pub settle_max: usize,
    /// How often what is owed is swept.
    pub sweep_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            limits: Limits { residents_max: 200_000, mailbox_max: 4_096, idle: Duration::from_secs(300) },
            purchases_max: 10_000,
            patience: Duration::from_secs(10),
            ask: Duration::from_secs(2),
            provider_call: Duration::from_secs(5),
            settle_every: Duration::from_secs(1),
            settle_max: 100_000,
            sweep_every: Duration::from_secs(5),
        }
    }
}

/// Why the shop cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// The provider may forget a key while it is still charged.
    #[error(
        "the payment provider remembers a key for {remembered:?}, but a charge may be repeated for {needed:?}"
    )]
    ForgetfulProvider {
        /// How long it remembers.
        remembered: Duration,
        /// How long it would have to.
        needed: Duration,
    },
    /// The supervisors do not start.
    #[error("supervisors do not start")]
    Supervisor(#[from] ractor::SpawnErr),
}

/// The shop, open.
#[derive(Debug)]
pub struct Shop {
    tenant: Tenant,
    root: ActorCell,
    has_failed: watch::Receiver<bool>,
}

/// Accounts, sessions and addresses keep only their newest row.
pub(crate) const FORGOTTEN: [Kind; 3] = [Kind::Account, Kind::Session, Kind::Email];
const FORGET_EVERY: Duration = Duration::from_secs(60);
const FORGET_MAX: i64 = 10_000;
const TIDY_EVERY: Duration = Duration::from_secs(5);

impl Shop {
    /// Opens the shop: whatever was left unfinished is taken up at once.
    pub async fn start(
        journals: Journals,
        provider: Arc<dyn PaymentProvider>,
        clock: Clock,
        pace: Pace,
        places: Places,
    ) -> Result<Self, ShopError> {
        let needed = pace.patience + pace.provider_call + provider.settles_within();
        let remembered = provider.remembers_for();
        if remembered < needed {
            return Err(ShopError::ForgetfulProvider { remembered, needed });
        }
        let hosts = hosts(&journals, clock, pace.limits, places.territory());
        let directory = Directory::new(Arc::clone(&hosts), places);
        let collector = Arc::new(Collector::new(pace.settle_max));
        let world = World {
            directory: directory.clone(),
            provider,
            collector: Arc::clone(&collector),
            clock,
            ask: pace.ask,
            provider_call: pace.provider_call,
        };
        connect(&hosts, &world);
        let (give_up, has_failed) = watch::channel(false);
        let sweep = Arc::new(Sweep::default());
        let periodic = periodic(&directory, &collector, &journals, &sweep, pace);
        let arguments = RootArguments { hosts, periodic, has_failed: give_up };
        let (root, _) = Actor::spawn(None, Root, arguments).await?;
        let concurrency = ConcurrencyLimit::new(pace.purchases_max, pace.patience / 2, Instant::now());
        let tenant = Tenant(Arc::new(Inner { directory, collector, sweep, concurrency, journals }));
        Ok(Self { tenant, root: root.get_cell(), has_failed })
    }

    /// Finds entities.
    pub fn directory(&self) -> &Directory {
        &self.tenant.0.directory
    }

    /// The shop as the cluster sees it.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Turns true when the node gives up.
    pub fn has_failed(&self) -> watch::Receiver<bool> {
        self.has_failed.clone()
    }

    /// Entities that were left alone because they kept failing.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.directory().hosts().all().flat_map(AnyHost::quarantined).collect()
    }

    /// Whether one more purchase may be accepted: what is accepted must be done in time.
    pub fn has_room(&self) -> bool {
        self.tenant.has_room()
    }

    /// Shows in the metrics what is counted elsewhere.
    pub fn measure(&self) {
        self.directory().hosts().all().for_each(AnyHost::measure);
    }

    /// Purchases under way on this node, and completed ones that are not settled yet.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.directory().hosts().order.residents(), self.tenant.0.collector.len())
    }

    /// Ends the shop as if its machine had lost power.
    #[cfg(feature = "simulation")]
    pub fn kill(&self) {
        self.root.kill();
    }

    /// Closes the shop: waits at most `within` for purchases under way to end and to be settled, then
    /// stops everybody. What is not finished by then is durable and is taken up by the next start.
    pub async fn stop(self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.in_flight() != (0, 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (orders, unsettled) = self.in_flight();
        tracing::info!(orders, unsettled, "left for the next start");
        // Rows that were given to a writer are answered even if nobody hears it any more.
        let flushed = self.tenant.flushed();
        if tokio::time::timeout_at(deadline.max(Instant::now() + Duration::from_secs(1)), flushed)
            .await
            .is_err()
        {
            tracing::warn!("rows are still unanswered by the database");
        }
        self.root.stop(None);
    }
}

fn hosts(journals: &Journals, clock: Clock, limits: Limits, territory: &Arc<Territory>) -> Arc<Hosts> {
    let Journals { account, product, order, payment } = journals.clone();
    let here = || Arc::clone(territory);
    Arc::new(Hosts {
        account: Host::new(Arc::clone(&account), clock, limits, here(), Performer::owes_nothing()),
        session: Host::new(Arc::clone(&account), clock, limits, here(), Performer::owes_nothing()),
        email: Host::new(account, clock, limits, here(), Performer::owes_nothing()),
        category: Host::new(Arc::clone(&product), clock, limits, here(), Performer::owes_nothing()),
        product: Host::new(product, clock, limits, here(), Performer::owes_nothing()),
        order: Host::new(order, clock, limits, here(), Performer::order()),
        payment: Host::new(payment, clock, limits, here(), Performer::payment()),
    })
}

fn connect(hosts: &Hosts, world: &World) {
    let Hosts { account, session, email, category, product, order, payment } = hosts;
    account.connect(world.clone());
    session.connect(world.clone());
    email.connect(world.clone());
    category.connect(world.clone());
    product.connect(world.clone());
    order.connect(world.clone());
    payment.connect(world.clone());
}

fn periodic(
    directory: &Directory,
    collector: &Arc<Collector>,
    journals: &Journals,
    sweep: &Arc<Sweep>,
    pace: Pace,
) -> Vec<Periodic> {
    let (sweep, swept, collected) = (Arc::clone(sweep), directory.clone(), Arc::clone(collector));
    let sweeping = rounds("sweep", pace.sweep_every, move || {
        let (sweep, directory, collector) = (Arc::clone(&sweep), swept.clone(), Arc::clone(&collected));
        async move { sweep.round(&directory, &collector, pace.sweep_every).await }.boxed()
    });
    let (told, collected) = (directory.clone(), Arc::clone(collector));
    let settling = rounds("settle", pace.settle_every / PARTS as u32, move || {
        let (directory, collector) = (told.clone(), Arc::clone(&collected));
        async move { collector.settle(&directory, pace.ask).await }.boxed()
    });
    let hosts = Arc::clone(directory.hosts());
    let tidying = rounds("tidy", TIDY_EVERY, move || {
        let hosts = Arc::clone(&hosts);
        async move { hosts.all().for_each(AnyHost::tidy) }.boxed()
    });
    let accounts = Arc::clone(&journals.account);
    let forgetting = rounds("forget", FORGET_EVERY, move || {
        let accounts = Arc::clone(&accounts);
        async move { forget(accounts.as_ref()).await }.boxed()
    });
    vec![sweeping, settling, tidying, forgetting]
}

fn rounds(
    name: &'static str,
    every: Duration,
    round: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Periodic {
    Periodic { name, every, round: Arc::new(round) }
}

async fn forget(journal: &dyn Journal) {
    let kinds = FORGOTTEN.map(Kind::number).to_vec();
    match journal.forget(kinds, FORGET_MAX).await {
        Ok(0) => {}
        Ok(rows) => tracing::debug!(rows, "past rows of accounts, sessions and addresses are forgotten"),
        Err(JournalError::Unavailable(cause) | JournalError::Corrupt(cause)) => {
            tracing::warn!(%cause, "past rows cannot be forgotten");
        }
    }
}
