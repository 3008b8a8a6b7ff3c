//! The directory: two verbs. `ask` an entity, and `follow` its durable views.
//!
//! Whoever asks knows no actor and no node. An ask ends in one of three ways: an answer, a rejection (it
//! did not happen and will not), or `Unknown` (everything else; the same may be asked again).

use std::sync::Arc;
use std::time::Duration;

use souk_persistence::journal::Journal;
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Kind};
use crate::category::Category;
use crate::email::Email;
use crate::fate;
use crate::followers::Following;
use crate::host::{AnyHost, Host};
use crate::ids::Id;
use crate::order::Order;
use crate::payment::Payment;
use crate::product::Product;
use crate::session::Session;

/// Why an ask has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError<R> {
    /// It did not happen and will not: the aggregate says so.
    Rejected(R),
    /// Nobody knows: overload, a crash, time. Ask the same again.
    Unknown,
}

/// Every host of this node.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is the host of its aggregate")]
pub struct Hosts {
    pub account: Arc<Host<Account>>,
    pub session: Arc<Host<Session>>,
    pub email: Arc<Host<Email>>,
    pub category: Arc<Host<Category>>,
    pub product: Arc<Host<Product>>,
    pub order: Arc<Host<Order>>,
    pub payment: Arc<Host<Payment>>,
}

impl Hosts {
    /// The host of a kind.
    pub fn of(&self, kind: Kind) -> &dyn AnyHost {
        match kind {
            Kind::Account => &self.account,
            Kind::Session => &self.session,
            Kind::Email => &self.email,
            Kind::Category => &self.category,
            Kind::Product => &self.product,
            Kind::Order => &self.order,
            Kind::Payment => &self.payment,
        }
    }

    /// Every host.
    pub fn all(&self) -> impl Iterator<Item = &dyn AnyHost> {
        Kind::ALL.into_iter().map(|kind| self.of(kind))
    }
}

/// An aggregate that has a host.
pub trait Housed: Aggregate {
    /// Its host.
    fn host(hosts: &Hosts) -> &Arc<Host<Self>>;
}

/// Names the host of each aggregate.
macro_rules! housed {
    ($($aggregate:ty => $field:ident),*) => {$(
        impl Housed for $aggregate {
            fn host(hosts: &Hosts) -> &Arc<Host<Self>> {
                &hosts.$field
            }
        }
    )*};
}

housed!(
    Account => account, Session => session, Email => email, Category => category, Product => product,
    Order => order, Payment => payment
);

/// Finds entities.
#[derive(Clone, Debug)]
pub struct Directory {
    hosts: Arc<Hosts>,
}

impl Directory {
    /// A directory of these.
    pub fn new(hosts: Arc<Hosts>) -> Self {
        Self { hosts }
    }

    /// Every host of this node.
    pub fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    /// Asks an entity and waits for its answer at most `within`. Dropping the future takes nothing back.
    pub async fn ask<A: Housed>(
        &self,
        id: Id<A>,
        command: A::Command,
        within: Duration,
    ) -> Result<A::Answer, AskError<A::Rejection>> {
        self.wait(id, command, within, false).await
    }

    /// As [`Self::ask`], for the first command to a fresh id that the caller has just made: nothing is
    /// loaded. For any other id a row would be refused.
    pub async fn create<A: Housed>(
        &self,
        id: Id<A>,
        command: A::Command,
        within: Duration,
    ) -> Result<A::Answer, AskError<A::Rejection>> {
        self.wait(id, command, within, true).await
    }

    async fn wait<A: Housed>(
        &self,
        id: Id<A>,
        command: A::Command,
        within: Duration,
        is_new: bool,
    ) -> Result<A::Answer, AskError<A::Rejection>> {
        let answer = fate::carry(A::host(&self.hosts), id, command, is_new);
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(rejection))) => Err(AskError::Rejected(rejection)),
            Ok(Err(_dropped)) => Err(AskError::Unknown),
            Err(_elapsed) => Err(AskError::Unknown),
        }
    }

    /// Follows an entity's durable views.
    pub fn follow<A: Housed>(&self, id: Id<A>) -> Following<A> {
        let host = A::host(&self.hosts);
        host.followers().follow(Arc::clone(host.journal()), id.uuid())
    }

    /// Where views and lists of an aggregate are read.
    pub fn journal<A: Housed>(&self) -> &Arc<dyn Journal> {
        A::host(&self.hosts).journal()
    }

    /// Spawns the entity of a row that owes something, unless it needs no waking.
    pub fn wake(&self, kind: Kind, id: Uuid) {
        let host = self.hosts.of(kind);
        if !host.is_known(id) {
            host.wake(id);
        }
    }
}
