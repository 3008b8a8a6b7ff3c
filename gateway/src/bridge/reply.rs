//! A record on `reply`: a participant outside answers what it was asked. It goes to the order, which believes what can be.

use souk_actors::Id;
use souk_actors::directory::AskError;
use souk_actors::money::Currency;
use souk_actors::order::{self, Cause as Why, Line, Order, StepName};
use souk_persistence::kafka::Incoming;
use souk_proto::shop::reply::Outcome;
use souk_proto::shop::{OrderLine, Refused, Reply, Step};
use souk_proto::topic::Topic;
use uuid::Uuid;

use super::attempts::Attempts;
use super::dead_letters::Cause;
use super::purchase::{decoded, uuid};
use super::trust::Trust;
use crate::app::App;

const TEXT_MAX: usize = 500;

/// Tells the order. An error: this record can never be an answer. While nobody knows it goes on.
pub async fn hear(app: &App, trust: &Trust, record: &Incoming) -> Result<(), Cause> {
    let author = trust.judge(Topic::Reply, record)?;
    let reply: Reply = decoded(&record.body)?;
    author.must_answer_for(reply.step())?;
    let (id, step, reply) = said(reply)?;
    let mut attempts = Attempts::none();
    loop {
        let command = order::Command::Replied { step, reply: reply.clone() };
        match app.directory().ask(id, command, app.patience()).await {
            Ok(_) => return Ok(()),
            Err(AskError::Rejected(order::Rejection::Disbelieved { detail })) => {
                return Err(Cause::new("not_believed", detail));
            }
            Err(AskError::Rejected(
                order::Rejection::NotFound
                | order::Rejection::TooLate
                | order::Rejection::KeyReused
                | order::Rejection::Impossible,
            )) => return Err(Cause::new("not_found", format!("there is no purchase {id}"))),
            Err(AskError::Unknown) => attempts.in_vain(record, "the order does not answer").await,
        }
    }
}

/// What was said, in the words of the saga.
fn said(reply: Reply) -> Result<(Id<Order>, StepName, order::Reply), Cause> {
    let id = Id::from(uuid(&reply.purchase_id, "/purchase_id")?);
    let step = match reply.step() {
        Step::UpdateProductInventory => StepName::UpdateProductInventory,
        Step::CreatePayment => StepName::CreatePayment,
        Step::CreateOrder | Step::Unspecified => {
            let detail = "/step: UPDATE_PRODUCT_INVENTORY or CREATE_PAYMENT";
            return Err(Cause::new("invalid_body", detail.to_owned()));
        }
    };
    let outcome = reply.outcome.ok_or_else(|| {
        let one_of = "one of reserved, captured, rolled_back, refused and rollback_refused";
        Cause::new("invalid_body", format!("it says nothing: {one_of} is missing"))
    })?;
    let said = match outcome {
        Outcome::Reserved(reserved) => order::Reply::Reserved(
            reserved.order_lines.into_iter().enumerate().map(line).collect::<Result<_, _>>()?,
        ),
        Outcome::Captured(captured) => {
            let currency = captured.currency_code.parse::<Currency>();
            let wrong = |error| Cause::new("invalid_body", format!("/captured/currency_code: {error}"));
            order::Reply::Captured { amount: captured.amount, currency: currency.map_err(wrong)? }
        }
        Outcome::RolledBack(_) => order::Reply::RolledBack,
        Outcome::Refused(refused) => order::Reply::Refused(why(refused)?),
        Outcome::RollbackRefused(refused) => order::Reply::RollbackRefused(why(refused)?),
    };
    Ok((id, step, said))
}

fn line((index, line): (usize, OrderLine)) -> Result<Line, Cause> {
    let at = |field: &str| format!("/reserved/order_lines/{index}/{field}");
    let quantity = u32::try_from(line.quantity);
    Ok(Line {
        product: Id::from(uuid(&line.product_id, &at("product_id"))?),
        quantity: quantity
            .map_err(|error| Cause::new("invalid_body", format!("{}: {error}", at("quantity"))))?,
        price: line.price,
        category: Id::from(uuid(&line.category_id, &at("category_id"))?),
        name: line.name,
        brand: line.brand,
    })
}

fn why(Refused { code, product_id, detail }: Refused) -> Result<Why, Cause> {
    let product =
        |id: Option<String>| -> Result<Uuid, Cause> { uuid(&id.unwrap_or_default(), "/refused/product_id") };
    let detail: String = detail.chars().filter(|c| *c != '\0').take(TEXT_MAX).collect();
    Ok(match code.as_str() {
        "insufficient_stock" => Why::InsufficientStock { product: Id::from(product(product_id)?) },
        "product_not_found" => Why::ProductNotFound { product: Id::from(product(product_id)?) },
        "currency_mismatch" => Why::CurrencyMismatch { product: Id::from(product(product_id)?) },
        "payment_declined" => Why::PaymentDeclined { reason: detail },
        _other => Why::Refused { detail },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURCHASE: &str = "00000000-0000-7000-8000-000000000001";

    fn read(step: &str, outcome: &str) -> Result<(Id<Order>, StepName, order::Reply), Cause> {
        let body = format!(r#"{{"purchase_id":"{PURCHASE}","step":"{step}"{outcome}}}"#);
        decoded(body.as_bytes()).and_then(said)
    }

    #[test]
    fn each_answer_is_said_in_the_words_of_the_saga() {
        let captured = r#","captured":{"amount":"500","currency_code":"VND"}"#;
        let (id, step, reply) = read("CREATE_PAYMENT", captured).expect("is read");
        let currency = "VND".parse().expect("in ISO 4217");
        assert_eq!((id.to_string().as_str(), step), (PURCHASE, StepName::CreatePayment));
        assert_eq!(reply, order::Reply::Captured { amount: 500, currency });
        let declined = r#","refused":{"code":"payment_declined","detail":"no money"}"#;
        let reason = "no money".to_owned();
        assert_eq!(
            read("CREATE_PAYMENT", declined).expect("is read").2,
            order::Reply::Refused(Why::PaymentDeclined { reason })
        );
        let back = read("UPDATE_PRODUCT_INVENTORY", r#","rolled_back":{}"#).expect("is read");
        assert_eq!((back.1, back.2), (StepName::UpdateProductInventory, order::Reply::RolledBack));
    }

    #[test]
    fn what_says_nothing_or_nonsense_is_told_where() {
        let refused = |step, outcome| read(step, outcome).expect_err("is refused").detail;
        assert!(refused("CREATE_ORDER", r#","rolled_back":{}"#).contains("/step"));
        assert!(refused("CREATE_PAYMENT", "").contains("it says nothing"));
        let short = r#","refused":{"code":"insufficient_stock","detail":""}"#;
        assert!(refused("UPDATE_PRODUCT_INVENTORY", short).contains("/refused/product_id"));
        let odd = r#","captured":{"amount":"1","currency_code":"money"}"#;
        assert!(refused("CREATE_PAYMENT", odd).contains("currency_code"));
    }
}
