//! The world: what effects are performed on. Every function here asks somebody and turns what was said
//! into the command that tells the entity; none of them decides.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use souk_persistence::chance;
use souk_persistence::mutant::{self, Mutant};
use souk_persistence::provider::{ChargeRequest, Charged, PaymentProvider, RefundRequest};

use crate::aggregate::Aggregate;
use crate::clock::Clock;
use crate::directory::{AskError, Directory};
use crate::host::say_unknown;
use crate::ids::Id;
use crate::money::Currency;
use crate::order::{self, Cause, Item, Line, Order, Outcome, Terms};
use crate::payment::{self, Bill, Payment};
use crate::product::{self, Claim, Product};
use crate::retry::Backoff;
use crate::settling::Collector;

/// Who can be asked.
#[derive(Clone, Debug)]
pub struct World {
    /// Other entities.
    pub directory: Directory,
    /// Whoever moves the money.
    pub provider: Arc<dyn PaymentProvider>,
    /// Whoever tells products what is sold.
    pub collector: Arc<Collector>,
    /// Where the time comes from.
    pub clock: Clock,
    /// How long one ask may take.
    pub ask: Duration,
    /// How long one call of the provider may take.
    pub provider_call: Duration,
}

/// Which time an effect is performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The first: by the very incarnation that made the stream, so nobody can have asked before it, and
    /// what is made under the stream's own id is not there yet.
    First,
    /// Perhaps not the first.
    Any,
}

/// How the effects of an aggregate are performed.
pub struct Performer<A: Aggregate> {
    /// Performs one and answers with the command that says how it went.
    pub perform: fn(&World, Id<A>, A::Effect, Time) -> BoxFuture<'static, A::Command>,
    /// Leaves one to somebody else, told the version that owes it. `false`: it must be performed.
    pub hand_over: fn(&World, Id<A>, i32, &A::Effect) -> bool,
    /// How long one waits between attempts.
    pub backoff: fn(&'static str) -> Backoff,
}

impl<A: Aggregate<Effect = Infallible>> Performer<A> {
    /// Of an aggregate that never owes anything.
    pub fn owes_nothing() -> Self {
        Self {
            perform: |_, _, effect, _| match effect {},
            hand_over: |_, _, _, effect| match *effect {},
            backoff: |_| Backoff::FOR_EVER,
        }
    }
}

impl Performer<Order> {
    /// Of the saga.
    pub fn order() -> Self {
        Self {
            perform: |world, id, effect, time| Box::pin(perform_order(world.clone(), id, effect, time)),
            hand_over: |world, id, version, effect| match effect {
                order::Effect::Settle { items, reserve_by } => {
                    let claim = Claim { purchase: id, reserve_by: *reserve_by };
                    world.collector.take(claim, version, items.iter().map(|item| item.product));
                    true
                }
                order::Effect::Reserve { .. }
                | order::Effect::Release { .. }
                | order::Effect::Charge(_)
                | order::Effect::Void(_)
                | order::Effect::AskOutside { .. } => false,
            },
            backoff: |effect| match effect {
                "reserve" | "charge" => Backoff::FORWARD,
                _undo => Backoff::FOR_EVER,
            },
        }
    }
}

impl Performer<Payment> {
    /// Of what a payment asks of its provider.
    pub fn payment() -> Self {
        Self {
            perform: |world, id, effect, _| Box::pin(perform_payment(world.clone(), id, effect)),
            hand_over: |_, _, _, _| false,
            backoff: |_| Backoff::FOR_EVER,
        }
    }
}

async fn perform_order(world: World, id: Id<Order>, effect: order::Effect, time: Time) -> order::Command {
    let (step, direction) = order::step_of(&effect).expect("settling is handed over, never performed");
    let name = Order::effect_name(&effect);
    let outcome = match effect {
        order::Effect::Reserve { items, currency, reserve_by } => {
            reserve(&world, Claim { purchase: id, reserve_by }, items, currency).await
        }
        order::Effect::Release { items, reserve_by } | order::Effect::Settle { items, reserve_by } => {
            release(&world, Claim { purchase: id, reserve_by }, items).await
        }
        order::Effect::Charge(terms) => charge(&world, id.same(), terms, time).await,
        order::Effect::Void(terms) => void(&world, id.same(), terms).await,
        order::Effect::AskOutside { attempt, since, .. } => {
            if let Some(since) = since {
                say_unknown(id, name, attempt, since.until(world.clock.now()));
            }
            return order::Command::Ask { step, direction, attempt };
        }
    };
    order::Command::StepAnswered { step, direction, outcome }
}

/// Asks every product at once. Answered when all have answered, or one has refused.
async fn reserve(world: &World, claim: Claim, items: Vec<Item>, currency: Currency) -> Outcome {
    let mut asks: FuturesUnordered<_> = items
        .iter()
        .enumerate()
        .map(|(index, item)| async move {
            let command = product::Command::Reserve { claim, quantity: item.quantity, currency };
            (index, world.directory.ask::<Product>(item.product, command, world.ask).await)
        })
        .collect();
    let mut lines: Vec<Option<Line>> = vec![None; items.len()];
    while let Some((index, answer)) = asks.next().await {
        let Item { product, quantity } = items[index];
        match answer {
            Ok(product::Answer::Reserved(offer)) => {
                let product::Offer { price, category, name, brand } = offer;
                lines[index] = Some(Line { product, quantity, price, category, name, brand });
            }
            Ok(
                product::Answer::Product { .. }
                | product::Answer::Withdrawn
                | product::Answer::Released
                | product::Answer::Settled,
            )
            | Err(AskError::Unknown) => {}
            Err(AskError::Rejected(rejection)) => {
                if let Some(cause) = refusal(product, rejection) {
                    return Outcome::Refused(cause);
                }
            }
        }
    }
    match lines.into_iter().collect() {
        Some(lines) => Outcome::Reserved(lines),
        None => Outcome::Unknown,
    }
}

/// What a product's rejection means to the buyer. `None`: the order itself has ended otherwise, and its
/// stream knows; this asker is the last to learn.
fn refusal(product: Id<Product>, rejection: product::Rejection) -> Option<Cause> {
    match rejection {
        product::Rejection::NotFound => Some(Cause::ProductNotFound { product }),
        product::Rejection::CurrencyMismatch => Some(Cause::CurrencyMismatch { product }),
        product::Rejection::InsufficientStock => Some(Cause::InsufficientStock { product }),
        product::Rejection::Over => None,
        product::Rejection::OtherQuantity
        | product::Rejection::NotTheSeller
        | product::Rejection::Changed
        | product::Rejection::KeyReused => {
            Some(Cause::Refused { detail: format!("product {product}: {rejection:?}") })
        }
    }
}

async fn release(world: &World, claim: Claim, items: Vec<Item>) -> Outcome {
    let asks: FuturesUnordered<_> = items
        .iter()
        .map(|item| {
            let command = product::Command::Release(claim);
            world.directory.ask::<Product>(item.product, command, world.ask)
        })
        .collect();
    let answers: Vec<_> = asks.collect().await;
    let refused = answers.iter().find_map(|answer| match answer {
        Err(AskError::Rejected(rejection)) => Some(format!("{rejection:?}")),
        Ok(_) | Err(AskError::Unknown) => None,
    });
    match refused {
        Some(detail) => Outcome::Refused(Cause::Refused { detail }),
        None if answers.iter().all(Result::is_ok) => Outcome::Undone,
        None => Outcome::Unknown,
    }
}

fn bill(terms: &Terms) -> Bill {
    Bill {
        customer: terms.customer,
        amount: terms.amount,
        currency: terms.currency,
        reserve_by: terms.reserve_by,
    }
}

async fn charge(world: &World, id: Id<Payment>, terms: Terms, time: Time) -> Outcome {
    let command = payment::Command::Charge { bill: bill(&terms), token: terms.token };
    // The payment waits for the provider before it answers.
    let within = world.provider_call + world.ask;
    let answer = match time {
        // Not there yet, so there is nothing to load. Should the order have moved to another incarnation
        // meanwhile, which charged or voided, this one's row is refused: the same as a late request.
        Time::First => world.directory.create(id, command, within).await,
        Time::Any => world.directory.ask(id, command, within).await,
    };
    match answer {
        Ok(payment::Answer::Captured) => Outcome::Charged,
        Err(AskError::Rejected(payment::Rejection::Declined { reason })) => {
            Outcome::Refused(Cause::PaymentDeclined { reason })
        }
        Err(AskError::Rejected(payment::Rejection::OtherBill)) => {
            let detail = "the payment was charged under another bill".to_owned();
            Outcome::Refused(Cause::Refused { detail })
        }
        // Voided: the order itself has ended otherwise, and its stream knows.
        Err(AskError::Rejected(payment::Rejection::Voided) | AskError::Unknown)
        | Ok(payment::Answer::Voided | payment::Answer::Noted) => Outcome::Unknown,
    }
}

async fn void(world: &World, id: Id<Payment>, terms: Terms) -> Outcome {
    let settles_within = world.provider.settles_within();
    let command = payment::Command::Void { bill: bill(&terms), settles_within };
    match world.directory.ask(id, command, world.ask).await {
        Ok(payment::Answer::Voided) => Outcome::Undone,
        Ok(payment::Answer::Captured | payment::Answer::Noted) | Err(AskError::Unknown) => Outcome::Unknown,
        Err(AskError::Rejected(rejection)) => {
            Outcome::Refused(Cause::Refused { detail: format!("{rejection:?}") })
        }
    }
}

async fn perform_payment(world: World, id: Id<Payment>, effect: payment::Effect) -> payment::Command {
    let provider = &world.provider;
    let limit = world.provider_call;
    match effect {
        payment::Effect::Charge { bill, token } => {
            let request = ChargeRequest {
                key: id.uuid(),
                amount: bill.amount,
                currency: bill.currency.code().to_owned(),
                token: token.unwrap_or_default(),
            };
            let charge = match within(limit, provider.charge(request, bill.reserve_by)).await {
                Some(Charged::Captured { reference }) => Some(payment::Charge::Captured { reference }),
                Some(Charged::Declined { reason }) => Some(payment::Charge::Declined { reason }),
                None if mutant::is(Mutant::SilenceIsRefusal) => {
                    Some(payment::Charge::Declined { reason: "silence".to_owned() })
                }
                None => None,
            };
            payment::Command::Answered { bill, charge }
        }
        payment::Effect::Look => match within(limit, provider.find(id.uuid())).await {
            Some(found) => {
                payment::Command::Looked { answered: true, captured: found.map(|found| found.amount) }
            }
            None => payment::Command::Looked { answered: false, captured: None },
        },
        payment::Effect::Refund { amount, currency } => {
            let request = RefundRequest {
                key: id.uuid(),
                refund_key: match mutant::is(Mutant::RefundsUnderNewName) {
                    true => format!("{id}/{}", chance::draw::<u64>()),
                    false => format!("{id}/void"),
                },
                amount,
                currency: currency.code().to_owned(),
            };
            let done = within(limit, provider.refund(request)).await.is_some();
            payment::Command::Refunded { done }
        }
    }
}

/// The provider's answer; `None` if it gave none in time, which says nothing about what it did.
async fn within<T, E: std::fmt::Display>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "payment provider did not answer");
            None
        }
        Err(_elapsed) => None,
    }
}
