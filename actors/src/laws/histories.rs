//! The entities of one database, one after the other, each with what its history tells the laws.

use souk_persistence::journal::{Journal, JournalError, Scanned, ScannedRow};
use uuid::Uuid;

use super::Law;
use super::findings::Findings;
use super::purchase::{OrderTold, Outcomes, PaymentTold};
use super::replay::{Replay, Replayed};
use super::stock::{ProductTold, Shelf};
use super::walk::{Item, Walk};
use crate::account::Account;
use crate::aggregate::Kind;
use crate::category::Category;
use crate::email::Email;
use crate::order::{self, Order, Status};
use crate::payment::Payment;
use crate::product::Product;
use crate::session::Session;

/// What an entity tells the laws that are about more than one stream.
pub(super) enum Told {
    Product(ProductTold),
    Order(OrderTold),
    Payment(PaymentTold),
    /// Nothing.
    Other,
    /// That is reported, and nothing else can be said of it.
    Unreadable,
}

pub(super) struct Histories<'a> {
    walk: Walk<'a>,
    kinds: &'static [Kind],
    current: Option<Replaying>,
}

impl<'a> Histories<'a> {
    /// Of a database that holds entities of these kinds.
    pub fn over(journal: &'a dyn Journal, kinds: &'static [Kind]) -> Self {
        Self { walk: Walk::over(journal), kinds, current: None }
    }

    /// The next entity, once all of its rows are read; in order of stream.
    pub async fn next(&mut self, found: &mut Findings) -> Result<Option<(Uuid, Told)>, JournalError> {
        while let Some(item) = self.walk.next().await? {
            match item {
                Item::Entity(entity) => {
                    let next = Replaying::begin(entity, self.kinds, found);
                    if let Some(ended) = self.current.replace(next) {
                        return Ok(Some(ended.end(found)));
                    }
                }
                Item::Row(row) => match self.current.as_mut().filter(|current| current.is_of(row.stream)) {
                    Some(current) => current.row(&row, found),
                    None => stray(&row, found),
                },
            }
        }
        Ok(self.current.take().map(|ended| ended.end(found)))
    }
}

fn stray(row: &ScannedRow, found: &mut Findings) {
    found.saw(Law::StreamsWithoutGaps, 1);
    let what = format!("has row {} and no entity", row.row.version);
    found.judge(Law::StreamsWithoutGaps, row.stream, Err(what));
}

/// An entity whose rows are being read.
enum Replaying {
    Account(Replay<Account>),
    Session(Replay<Session>),
    Email(Replay<Email>),
    Category(Replay<Category>),
    Product(Replay<Product>, Shelf),
    Order(Replay<Order>, Outcomes),
    Payment(Replay<Payment>),
    /// Of a kind that does not belong here.
    Stray(Uuid),
}

impl Replaying {
    fn begin(entity: Scanned, kinds: &[Kind], found: &mut Findings) -> Self {
        let kind = Kind::from_number(entity.kind).filter(|kind| kinds.contains(kind));
        match kind {
            Some(Kind::Account) => Self::Account(Replay::begin(entity, found)),
            Some(Kind::Session) => Self::Session(Replay::begin(entity, found)),
            Some(Kind::Email) => Self::Email(Replay::begin(entity, found)),
            Some(Kind::Category) => Self::Category(Replay::begin(entity, found)),
            Some(Kind::Product) => Self::Product(Replay::begin(entity, found), Shelf::default()),
            Some(Kind::Order) => Self::Order(Replay::begin(entity, found), Outcomes::default()),
            Some(Kind::Payment) => Self::Payment(Replay::begin(entity, found)),
            None => {
                let what = format!("is of kind {}, which does not belong there", entity.kind);
                found.judge(Law::StateIsItsHistory, entity.stream, Err(what));
                Self::Stray(entity.stream)
            }
        }
    }

    fn is_of(&self, stream: Uuid) -> bool {
        self.stream() == stream
    }

    fn stream(&self) -> Uuid {
        match self {
            Self::Account(replay) => replay.entity.stream,
            Self::Session(replay) => replay.entity.stream,
            Self::Email(replay) => replay.entity.stream,
            Self::Category(replay) => replay.entity.stream,
            Self::Product(replay, _) => replay.entity.stream,
            Self::Order(replay, _) => replay.entity.stream,
            Self::Payment(replay) => replay.entity.stream,
            Self::Stray(stream) => *stream,
        }
    }

    fn row(&mut self, row: &ScannedRow, found: &mut Findings) {
        match self {
            Self::Account(replay) => replay.row(row, found, |_, _| {}),
            Self::Session(replay) => replay.row(row, found, |_, _| {}),
            Self::Email(replay) => replay.row(row, found, |_, _| {}),
            Self::Category(replay) => replay.row(row, found, |_, _| {}),
            Self::Product(replay, shelf) => replay.row(row, found, |_, event| shelf.note(event)),
            Self::Order(replay, outcomes) => replay.row(row, found, |_, event| outcomes.note(event)),
            Self::Payment(replay) => replay.row(row, found, |_, _| {}),
            Self::Stray(_) => {}
        }
    }

    fn end(self, found: &mut Findings) -> (Uuid, Told) {
        let stream = self.stream();
        let other = |is_readable| if is_readable { Told::Other } else { Told::Unreadable };
        let told = match self {
            Self::Account(replay) => other(replay.end(found, |_| false).is_some()),
            Self::Session(replay) => other(replay.end(found, |_| false).is_some()),
            Self::Email(replay) => other(replay.end(found, |_| false).is_some()),
            Self::Category(replay) => other(replay.end(found, |_| false).is_some()),
            Self::Product(replay, shelf) => match replay.end(found, |_| false) {
                Some(Replayed { view: Some(view), .. }) => Told::Product(ProductTold { shelf, view }),
                Some(Replayed { view: None, .. }) => no_view(stream, found),
                None => Told::Unreadable,
            },
            Self::Order(replay, outcomes) => match replay.end(found, is_settled) {
                Some(Replayed { view: Some(view), entity }) => {
                    Told::Order(OrderTold { view, owner: entity.owner, owed: entity.owed, outcomes })
                }
                Some(Replayed { view: None, .. }) => no_view(stream, found),
                None => Told::Unreadable,
            },
            Self::Payment(replay) => match replay.end(found, |_| false) {
                Some(Replayed { view: Some(view), entity }) => {
                    Told::Payment(PaymentTold { view, owed: entity.owed })
                }
                Some(Replayed { view: None, .. }) => no_view(stream, found),
                None => Told::Unreadable,
            },
            Self::Stray(_) => Told::Unreadable,
        };
        (stream, told)
    }
}

/// That a completed order is settled is noted without a row.
fn is_settled(view: &Option<order::View>) -> bool {
    view.as_ref().is_some_and(|view| view.status == Status::Completed)
}

fn no_view(stream: Uuid, found: &mut Findings) -> Told {
    let what = "has a history that makes nothing of it".to_owned();
    found.judge(Law::StateIsItsHistory, stream, Err(what));
    Told::Unreadable
}
