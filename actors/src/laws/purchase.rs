//! A purchase, as its order, its payment, the products it took from and the provider tell it: whether they
//! keep the laws. Pure.

use std::time::Duration;

use souk_persistence::Timestamp;
use uuid::Uuid;

use super::findings::Findings;
use super::stock::{Fate, Stock, Taken};
use super::{Booked, Law, Moment};
use crate::money;
use crate::order::{self, Event, Outside, Status};
use crate::payment;

/// A shop at work may be so late with an outcome: a step that was asked before the deadline is waited for.
const LATE_MAX: Duration = Duration::from_secs(60);

/// What an order's events say of its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    events: u32,
    accepted: u32,
    is_accepted_first: bool,
    reserve_by: Option<Timestamp>,
    outcomes: u32,
    is_completed: bool,
    after_completion: u32,
    outside: Outside,
}

impl Outcomes {
    pub fn note(&mut self, event: &Event) {
        self.after_completion += u32::from(self.is_completed);
        match event {
            Event::Accepted(accepted) => {
                self.accepted += 1;
                self.is_accepted_first |= self.events == 0;
                self.reserve_by = Some(accepted.reserve_by);
                self.outside = accepted.outside;
            }
            Event::Completed => {
                self.outcomes += 1;
                self.is_completed = true;
            }
            Event::Unwinding { .. } => self.outcomes += 1,
            Event::StockReserved { .. }
            | Event::Asked { .. }
            | Event::Undone { .. }
            | Event::AttentionNeeded { .. } => {}
        }
        self.events += 1;
    }

    /// Accepted once, first, and with one outcome at most.
    fn one(&self, status: Status) -> Result<(), String> {
        let Self { accepted, outcomes, after_completion, .. } = *self;
        if accepted != 1 || !self.is_accepted_first {
            return Err(format!("was accepted {accepted} times"));
        }
        if outcomes > 1 {
            return Err(format!("has {outcomes} outcomes"));
        }
        if after_completion > 0 {
            return Err(format!("has {after_completion} events after its completion"));
        }
        let fits = match status {
            Status::Pending => outcomes == 0,
            Status::Completed => self.is_completed,
            Status::Failed | Status::Cancelled => outcomes == 1 && !self.is_completed,
        };
        if fits { Ok(()) } else { Err(format!("is {status:?}, and has {outcomes} outcomes")) }
    }
}

/// What an order tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OrderTold {
    pub view: order::View,
    pub owner: Option<Uuid>,
    pub owed: Option<Timestamp>,
    pub outcomes: Outcomes,
}

/// What a payment tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PaymentTold {
    pub view: payment::View,
    pub owed: Option<Timestamp>,
}

/// One side of the story.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Side<T> {
    Absent,
    /// There is something, which cannot be read: reported, and nobody's fault but its own.
    Unreadable,
    Known(T),
}

impl<T> Side<T> {
    fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Absent | Self::Unreadable => None,
        }
    }

    fn is_unreadable(&self) -> bool {
        match self {
            Self::Unreadable => true,
            Self::Absent | Self::Known(_) => false,
        }
    }
}

/// All that there is of one purchase.
#[derive(Debug)]
pub(super) struct Purchase<'a> {
    pub id: Uuid,
    pub order: Side<OrderTold>,
    pub payment: Side<PaymentTold>,
    pub taken: &'a [Taken],
    /// `None`: there are no books. `Some(None)`: they say nothing of it.
    pub booked: Option<Option<Booked>>,
}

impl Purchase<'_> {
    /// Judges every law that is about purchases.
    pub fn judge(&self, stock: &Stock, found: &mut Findings) {
        let (id, moment) = (self.id, found.moment);
        let (order, payment) = (self.order.known(), self.payment.known());
        let is_booked_alone = payment.is_none() && matches!(self.booked, Some(Some(_)));
        let (orders, payments) = (u64::from(order.is_some()), u64::from(payment.is_some()));
        found.saw(Law::StockConserved, self.taken.len() as u64);
        found.saw(Law::EveryPurchaseEnds, orders);
        found.saw(Law::OneOutcome, orders);
        found.saw(Law::OneStory, orders + payments);
        found.saw(Law::MoneyConserved, payments + u64::from(is_booked_alone));
        if let Some(OrderTold { view, outcomes, .. }) = order {
            found.saw_purchase(view.status);
            found.judge(Law::OneOutcome, id, outcomes.one(view.status));
        }
        found.judge(Law::EveryPurchaseEnds, id, self.ends(moment));
        if self.order.is_unreadable() || self.payment.is_unreadable() {
            return;
        }
        found.judge(Law::StockConserved, id, self.stock_is_conserved(stock));
        found.judge(Law::MoneyConserved, id, self.money_is_conserved(moment));
        found.judge(Law::OneStory, id, self.is_one_story(stock));
    }

    fn ends(&self, moment: Moment) -> Result<(), String> {
        let is_due = |owed: Option<Timestamp>, now| owed.filter(|owed| *owed <= now);
        if let Some(OrderTold { view, owed, outcomes, .. }) = self.order.known() {
            if let Some(attention) = &view.attention {
                return Err(format!("needs a person since {}: {}", attention.since, attention.detail));
            }
            // Somebody outside is asked again later.
            let waits = |now| !outcomes.outside.is_nobody() && owed.is_some_and(|owed| owed > now);
            match moment {
                Moment::AtRest(now) if waits(now) => {}
                Moment::AtRest(_) if view.status == Status::Pending => return Err("is pending".to_owned()),
                Moment::AtRest(_) if !view.at_rest => return Err("is still being undone".to_owned()),
                Moment::AtRest(now) => {
                    if let Some(owed) = is_due(*owed, now) {
                        return Err(format!("owes something since {owed}"));
                    }
                }
                Moment::Stopped => {}
                Moment::Live(now) => {
                    let deadline = outcomes.reserve_by.unwrap_or_default();
                    if view.status == Status::Pending && now > deadline + LATE_MAX {
                        return Err(format!("is pending, and its deadline was {deadline}"));
                    }
                }
            }
        }
        match (self.payment.known(), moment) {
            (Some(payment), Moment::AtRest(now)) => match is_due(payment.owed, now) {
                Some(owed) => Err(format!("has a payment that owes something since {owed}")),
                None => Ok(()),
            },
            (Some(_) | None, Moment::AtRest(_) | Moment::Stopped | Moment::Live(_)) => Ok(()),
        }
    }

    fn stock_is_conserved(&self, stock: &Stock) -> Result<(), String> {
        let name = |taken: &Taken| format!("{} of {}", taken.quantity, stock.product(taken));
        let Some(OrderTold { view, owed, outcomes, .. }) = self.order.known() else {
            return match self.taken.first() {
                Some(taken) => Err(format!("took {}, and there is no such order", name(taken))),
                None => Ok(()),
            };
        };
        let find = |fate| self.taken.iter().find(|taken| taken.fate == fate);
        match (view.status, find(Fate::Settled), find(Fate::Held)) {
            (Status::Pending | Status::Failed | Status::Cancelled, Some(sold), _) => {
                Err(format!("is {:?}, and {} is sold to it", view.status, name(sold)))
            }
            (Status::Failed | Status::Cancelled, None, Some(held)) if view.at_rest => {
                Err(format!("is {:?}, and {} is held for it", view.status, name(held)))
            }
            (Status::Pending | Status::Failed | Status::Cancelled, None, Some(_) | None) => Ok(()),
            (Status::Completed, _, Some(held)) if owed.is_none() => {
                Err(format!("is settled, and {} is held for it", name(held)))
            }
            // Of the stock of others their books tell.
            (Status::Completed, None, None) if outcomes.outside.inventory => Ok(()),
            (Status::Completed, Some(_) | None, Some(_) | None) => self.stock_is_bought(view, stock),
        }
    }

    /// Whether a completed order's lines, and nothing else, are held or sold.
    fn stock_is_bought(&self, view: &order::View, stock: &Stock) -> Result<(), String> {
        let kept = |taken: &&Taken| taken.fate != Fate::Released;
        for line in &view.lines {
            let product = line.product.uuid();
            let quantity = self
                .taken
                .iter()
                .filter(kept)
                .find(|taken| stock.product(taken) == product)
                .map(|taken| taken.quantity);
            if quantity != Some(line.quantity) {
                let (bought, taken) = (line.quantity, quantity.unwrap_or(0));
                return Err(format!("bought {bought} of {product}, which gave {taken}"));
            }
        }
        match self.taken.iter().filter(kept).count() == view.lines.len() {
            true => Ok(()),
            false => Err("took from products that it did not buy".to_owned()),
        }
    }

    fn money_is_conserved(&self, moment: Moment) -> Result<(), String> {
        let (order, payment) = (self.order.known(), self.payment.known());
        let view = payment.map(|payment| &payment.view);
        let ours = view.map_or((0, 0), |view| (view.captured_amount, view.refunded_amount));
        if let Some(OrderTold {
            view: order::View { status: Status::Completed, amount, lines, .. }, ..
        }) = order
        {
            let total = money::total(lines.iter().map(|line| (line.price, line.quantity)));
            if *amount != total {
                return Err(format!("has lines that cost {total:?}, and the amount {amount:?}"));
            }
            if view.is_some() && *amount != Some(ours.0) {
                return Err(format!("costs {amount:?}, and {} was captured", ours.0));
            }
        }
        // Until both are through, one of provider and payment may know more than the other.
        let is_open = order.is_some_and(|order| !order.view.at_rest)
            || payment.is_some_and(|payment| payment.owed.is_some());
        match moment {
            Moment::Stopped | Moment::Live(_) if is_open => return Ok(()),
            Moment::AtRest(_) | Moment::Stopped | Moment::Live(_) => {}
        }
        if view.is_some_and(|view| view.status == payment::Status::Voided) && ours.0 != ours.1 {
            return Err(format!("is taken back, and of {} only {} is refunded", ours.0, ours.1));
        }
        let Some(booked) = self.booked else { return Ok(()) };
        let Booked { captured, refunded } = booked.unwrap_or_default();
        match view {
            Some(_) if ours != (captured, refunded) => Err(format!(
                "has captured {} and refunded {}; the provider says {captured} and {refunded}",
                ours.0, ours.1
            )),
            None if captured != refunded => {
                Err(format!("is unpaid; the provider has captured {captured} and refunded {refunded}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn is_one_story(&self, stock: &Stock) -> Result<(), String> {
        let (order, owner, outside, payment) = match (self.order.known(), self.payment.known()) {
            (Some(order), payment) => {
                (&order.view, order.owner, order.outcomes.outside, payment.map(|payment| &payment.view))
            }
            (None, Some(_)) => return Err("is paid, and there is no such order".to_owned()),
            (None, None) => return Ok(()),
        };
        let paid = payment.map(|payment| payment.status);
        let fits = match (order.status, paid) {
            (Status::Pending, None | Some(payment::Status::Captured | payment::Status::Declined)) => true,
            (Status::Pending, Some(payment::Status::Voided)) => false,
            // Of the money that others move their books tell.
            (Status::Completed, None) if outside.payment => true,
            (Status::Completed, paid) => paid == Some(payment::Status::Captured),
            (Status::Failed | Status::Cancelled, None | Some(payment::Status::Voided)) => true,
            // Its undo is on its way.
            (
                Status::Failed | Status::Cancelled,
                Some(payment::Status::Captured | payment::Status::Declined),
            ) => !order.at_rest,
        };
        if !fits {
            return Err(format!("is {:?}, and its payment {paid:?}", order.status));
        }
        if let Some(payment) = payment
            && (Some(payment.customer_id.uuid()), payment.currency_code) != (owner, order.currency_code)
        {
            return Err(format!("is paid by {} in {}", payment.customer_id, payment.currency_code));
        }
        if order.status != Status::Completed {
            return Ok(());
        }
        let is_other = |taken: &&Taken| {
            let product = stock.product(taken);
            order.lines.iter().any(|line| line.product.uuid() == product && line.price != taken.price)
        };
        match self.taken.iter().find(is_other) {
            Some(taken) => {
                Err(format!("bought {} at another price than {}", stock.product(taken), taken.price))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
