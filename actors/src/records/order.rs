//! What is told of a purchase: what happened to each of its steps, and what is asked for the next.

use souk_proto::shop::{
    CreateOrder, CreatePayment, OrderItem, OrderLine, PurchaseResult, RollbackOrder, RollbackPayment,
    RollbackProductInventory, Step, StepStatus as Status, UpdateProductInventory,
};
use souk_proto::topic::Topic;
use uuid::Uuid;

use super::{Told, timestamp};
use crate::order::{Effect, Event, Item, Line, Order, StepName, StepStatus, TrailEntry};

pub(super) fn trace(order: &Order) -> Option<String> {
    order.accepted()?.trace.clone()
}

/// How much of the trail.
pub(super) fn known(order: &Order) -> usize {
    order.trail().len()
}

pub(super) fn tell(stream: Uuid, known: usize, event: &Event, after: &Order) -> Vec<Told> {
    let purchase_id = stream.to_string();
    let news = after.trail().get(known..).unwrap_or_default();
    let mut told: Vec<_> = news.iter().map(|entry| result(&purchase_id, entry)).collect();
    let is_new = |step, status| news.iter().any(|entry| (entry.step, entry.status) == (step, status));
    if is_new(StepName::CreateOrder, StepStatus::Success) {
        told.extend(create_order(&purchase_id, after));
    }
    if is_new(StepName::CreateOrder, StepStatus::Rollback) {
        told.extend(rollback_order(&purchase_id, after));
    }
    match event {
        Event::Accepted(_) | Event::StockReserved { .. } | Event::Unwinding { .. } | Event::Undone { .. } => {
            let owed = after.owed_effect();
            told.extend(owed.and_then(|effect| command(&purchase_id, after, &effect, 0)));
        }
        Event::Asked { step, direction, attempt } => {
            let effect = after.command_of(*step, *direction);
            told.extend(command(&purchase_id, after, &effect, *attempt));
        }
        Event::Completed | Event::AttentionNeeded { .. } => {}
    }
    told
}

fn result(purchase_id: &str, entry: &TrailEntry) -> Told {
    let TrailEntry { step, status, created_at, detail } = entry;
    let step = match step {
        StepName::UpdateProductInventory => Step::UpdateProductInventory,
        StepName::CreateOrder => Step::CreateOrder,
        StepName::CreatePayment => Step::CreatePayment,
    };
    let status = match status {
        StepStatus::Execute => Status::Execute,
        StepStatus::Success => Status::Success,
        StepStatus::Failed => Status::Failed,
        StepStatus::Rollback => Status::Rollback,
        StepStatus::RollbackFailed => Status::RollbackFailed,
    };
    let body = PurchaseResult {
        purchase_id: purchase_id.to_owned(),
        step: step.into(),
        status: status.into(),
        created_at: Some(timestamp(*created_at)),
        detail: detail.clone(),
    };
    let what = format!("{}/{}", step.as_str_name(), status.as_str_name());
    Told::named(Topic::PurchaseResult, what, &body)
}

fn create_order(purchase_id: &str, order: &Order) -> Option<Told> {
    let accepted = order.accepted()?;
    let body = CreateOrder {
        purchase_id: purchase_id.to_owned(),
        customer_id: accepted.customer.to_string(),
        order_lines: order.lines().iter().map(line).collect(),
        amount: order.amount()?,
        currency_code: accepted.currency.to_string(),
    };
    Some(Told::new(Topic::CreateOrder, &body))
}

fn rollback_order(purchase_id: &str, order: &Order) -> Option<Told> {
    let body = RollbackOrder {
        purchase_id: purchase_id.to_owned(),
        customer_id: order.accepted()?.customer.to_string(),
        cause: order.cause().map(|cause| cause.code().to_owned()).unwrap_or_default(),
    };
    Some(Told::new(Topic::RollbackOrder, &body))
}

/// What is asked of a participant, in the words of its topic; `attempt`: 0 where it is here, and the record only tells.
fn command(purchase_id: &str, order: &Order, effect: &Effect, attempt: u32) -> Option<Told> {
    let purchase_id = purchase_id.to_owned();
    let customer_id = order.accepted()?.customer.to_string();
    Some(match effect {
        Effect::Reserve { items, currency, reserve_by } => {
            let body = UpdateProductInventory {
                purchase_id,
                customer_id,
                order_items: items.iter().map(item).collect(),
                currency_code: currency.to_string(),
                reserve_by: Some(timestamp(*reserve_by)),
                attempt,
            };
            Told::new(Topic::UpdateProductInventory, &body)
        }
        Effect::Release { items, reserve_by } => {
            let body = RollbackProductInventory {
                purchase_id,
                order_items: items.iter().map(item).collect(),
                reserve_by: Some(timestamp(*reserve_by)),
                attempt,
            };
            Told::new(Topic::RollbackProductInventory, &body)
        }
        Effect::Charge(terms) => {
            let body = CreatePayment {
                purchase_id,
                customer_id,
                amount: terms.amount,
                currency_code: terms.currency.to_string(),
                // Where nobody outside is asked, nobody needs it.
                token: terms.token.clone().filter(|_| attempt > 0),
                reserve_by: Some(timestamp(terms.reserve_by)),
                attempt,
            };
            Told::new(Topic::CreatePayment, &body)
        }
        Effect::Void(terms) => {
            let body = RollbackPayment {
                purchase_id,
                customer_id,
                amount: terms.amount,
                currency_code: terms.currency.to_string(),
                attempt,
            };
            Told::new(Topic::RollbackPayment, &body)
        }
        // Asked by a row of its own.
        Effect::AskOutside { .. } | Effect::Settle { .. } => return None,
    })
}

fn item(item: &Item) -> OrderItem {
    OrderItem { product_id: item.product.to_string(), quantity: i64::from(item.quantity) }
}

fn line(line: &Line) -> OrderLine {
    OrderLine {
        product_id: line.product.to_string(),
        quantity: i64::from(line.quantity),
        price: line.price,
        category_id: line.category.to_string(),
        name: line.name.clone(),
        brand: line.brand.clone(),
    }
}

#[cfg(test)]
mod tests;
