//! The directory: two verbs. `ask` an entity, and `follow` its durable views.
//!
//! Whoever asks knows no actor and no node: an entity that lives elsewhere is asked there, and one that moves
//! meanwhile is asked again, by name, where it has gone. An ask ends in one of three ways: an answer, a rejection (it
//! did not happen and will not), or `Unknown` (everything else; the same may be asked again).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use souk_persistence::journal::{Journal, ViewRow};
use tokio::time::Instant;
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Kind};
use crate::category::Category;
use crate::email::Email;
use crate::fate;
use crate::followers::{Following, LOOK_AGAIN};
use crate::host::{AnyHost, Host};
use crate::ids::Id;
use crate::order::Order;
use crate::payment::Payment;
use crate::product::Product;
use crate::route::{Call, Places, Said, subscribed};
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
    places: Places,
}

impl Directory {
    /// A directory of these, and of whatever lives elsewhere.
    pub fn new(hosts: Arc<Hosts>, places: Places) -> Self {
        Self { hosts, places }
    }

    /// Where entities live.
    pub fn places(&self) -> &Places {
        &self.places
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
        let Some(route) = self.places.route() else {
            return self.ask_here(id, command, within, is_new).await;
        };
        let deadline = Instant::now() + within;
        let (mut is_new, may_repeat) = (is_new, A::may_repeat(&command));
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            if within.is_zero() {
                return Err(AskError::Unknown);
            }
            let heard: Heard<A> = match self.places.is_here(id.slot()) {
                true => match self.ask_here(id, command.clone(), within, is_new).await {
                    Err(AskError::Unknown) if !self.places.is_here(id.slot()) => Heard::Moved,
                    answer => Heard::Answer(answer),
                },
                false => {
                    let command = json(&command);
                    let call = Call { kind: A::KIND, id: id.uuid(), command, is_new, may_repeat };
                    Heard::of(route.ask(call, within).await)
                }
            };
            match heard {
                Heard::Answer(answer) => return answer,
                Heard::NotHere => {}
                Heard::Moved if may_repeat => is_new = false,
                Heard::Moved => return Err(AskError::Unknown),
            }
        }
    }

    async fn ask_here<A: Housed>(
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

    /// Asks an entity of this node as another node demands. `has_room`: whether one more thing may be begun.
    pub async fn serve(&self, call: Call, within: Duration, has_room: impl Fn() -> bool) -> Said {
        match call.kind {
            Kind::Account => self.serve_as::<Account>(call, within, has_room).await,
            Kind::Session => self.serve_as::<Session>(call, within, has_room).await,
            Kind::Email => self.serve_as::<Email>(call, within, has_room).await,
            Kind::Category => self.serve_as::<Category>(call, within, has_room).await,
            Kind::Product => self.serve_as::<Product>(call, within, has_room).await,
            Kind::Order => self.serve_as::<Order>(call, within, has_room).await,
            Kind::Payment => self.serve_as::<Payment>(call, within, has_room).await,
        }
    }

    async fn serve_as<A: Housed>(&self, call: Call, within: Duration, has_room: impl Fn() -> bool) -> Said {
        let id = Id::<A>::from(call.id);
        if !self.places.is_here(id.slot()) {
            return Said::NotHere;
        }
        let command: A::Command = match serde_json::from_slice(&call.command) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%id, kind = A::KIND.name(), %error, "another node's command cannot be read");
                return Said::Unknown;
            }
        };
        if A::begins(&command) && !has_room() {
            return Said::Unknown;
        }
        match self.ask_here(id, command, within, call.is_new).await {
            Ok(answer) => Said::Answer(json(&answer)),
            Err(AskError::Rejected(rejection)) => Said::Rejection(json(&rejection)),
            Err(AskError::Unknown) if !self.places.is_here(id.slot()) => Said::Moved,
            Err(AskError::Unknown) => Said::Unknown,
        }
    }

    /// Follows an entity's durable views.
    pub fn follow<A: Housed>(&self, id: Id<A>) -> Following<A> {
        let host = A::host(&self.hosts);
        Following::begin(Arc::clone(host.followers()), Arc::clone(host.journal()), self.places.clone(), id)
    }

    /// Follows an entity of this node for another node: from now on, until it moves away.
    pub fn follow_rows(&self, kind: Kind, id: Uuid) -> BoxStream<'static, ViewRow> {
        match kind {
            Kind::Account => self.follow_as::<Account>(id),
            Kind::Session => self.follow_as::<Session>(id),
            Kind::Email => self.follow_as::<Email>(id),
            Kind::Category => self.follow_as::<Category>(id),
            Kind::Product => self.follow_as::<Product>(id),
            Kind::Order => self.follow_as::<Order>(id),
            Kind::Payment => self.follow_as::<Payment>(id),
        }
    }

    fn follow_as<A: Housed>(&self, id: Uuid) -> BoxStream<'static, ViewRow> {
        let here = A::host(&self.hosts).followers().subscribe(id);
        let (places, slot) = (self.places.clone(), Id::<A>::from(id).slot());
        let views = stream::unfold((here, places), move |(mut here, places)| async move {
            loop {
                match tokio::time::timeout(LOOK_AGAIN, here.changed()).await {
                    Ok(standing) => return Some((standing.row(), (here, places))),
                    Err(_elapsed) if places.is_here(slot) => {}
                    Err(_elapsed) => return None,
                }
            }
        });
        stream::iter([subscribed(id)]).chain(views).boxed()
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

/// What an ask came to.
enum Heard<A: Aggregate> {
    Answer(Result<A::Answer, AskError<A::Rejection>>),
    /// It lives elsewhere by now; nothing was done.
    NotHere,
    /// It lives elsewhere by now, and may have been done where it was.
    Moved,
}

impl<A: Aggregate> Heard<A> {
    fn of(said: Said) -> Self {
        match said {
            Said::Answer(answer) => Self::Answer(read(&answer)),
            Said::Rejection(rejection) => {
                Self::Answer(read(&rejection).and_then(|rejection| Err(AskError::Rejected(rejection))))
            }
            Said::Unknown => Self::Answer(Err(AskError::Unknown)),
            Said::NotHere => Self::NotHere,
            Said::Moved => Self::Moved,
        }
    }
}

/// What cannot be read was decided by a build that this one does not know: nobody here knows what.
fn read<T: DeserializeOwned, R>(said: &[u8]) -> Result<T, AskError<R>> {
    serde_json::from_slice(said).map_err(|error| {
        tracing::warn!(%error, "another node's answer cannot be read");
        AskError::Unknown
    })
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("commands and answers have string keys and no failing parts").into()
}
