//! A record on `purchase`: buys, as `POST /purchases` does. The purchase is named by the record's source, its customer and
//! its id, so a record that comes again is the same purchase.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use souk_actors::Id;
use souk_actors::account::Account;
use souk_actors::directory::AskError;
use souk_actors::order::{self, Order, Place};
use souk_config::millis;
use souk_persistence::kafka::Incoming;
use souk_proto::shop::StartPurchase;
use souk_proto::topic::Topic;
use uuid::Uuid;

use super::attempts::Attempts;
use super::dead_letters::Cause;
use super::trust::{Author, Trust};
use crate::app::App;
use crate::problem::{Code, Problem, Retry};
use crate::purchases::{Buy, BuyItem, BuyPayment, impossible, valid};
use crate::trace::{self, TraceParent};

/// Buys. An error: this record can never be a purchase. While nobody knows it goes on.
pub async fn start(app: &App, trust: &Trust, record: &Incoming) -> Result<(), Cause> {
    let Author { source, id: record_id, .. } = trust.judge(Topic::Purchase, record)?;
    let wanted: StartPurchase = decoded(&record.body)?;
    let customer = customer(&wanted)?;
    let fingerprint = URL_SAFE_NO_PAD.encode(Sha256::digest(wanted.encode_to_vec()));
    let buy = buy(wanted)?;
    let account = customer.uuid();
    let parts: [&[u8]; 3] = [source.as_bytes(), account.as_bytes(), record_id.as_bytes()];
    let id = Id::<Order>::named("record on purchase", &parts, Some(customer.slot()));
    let trace = record.header("traceparent").and_then(trace::parse).map(TraceParent::header);
    let mut attempts = Attempts::none();
    loop {
        match attempt(app, customer, id, &buy, (&fingerprint, trace.as_deref())).await {
            Ok(()) => return Ok(()),
            Err(problem) => match problem.code().row().3 {
                Retry::No => return Err(Cause::from(problem)),
                Retry::Safe | Retry::SameKey => attempts.in_vain(record, &problem.told()).await,
            },
        }
    }
}

async fn attempt(
    app: &App,
    customer: Id<Account>,
    id: Id<Order>,
    buy: &Buy,
    (fingerprint, trace): (&str, Option<&str>),
) -> Result<(), Problem> {
    let (items, currency) = valid(buy)?;
    if app.view::<Account>(customer.uuid()).await?.is_none() {
        return Err(Problem::field(Code::NotFound, "/customer_id", "there is no such account"));
    }
    // A node that goes away takes no more records; what it has taken still buys.
    if !app.shop().has_room() {
        return Err(Problem::new(Code::Overloaded, "too many purchases are under way"));
    }
    let refusal = impossible(app, &items, currency).await?;
    let place = order::Command::Place(Place {
        customer,
        items,
        currency,
        token: buy.payment.token.clone(),
        fingerprint: Some(fingerprint.to_owned()),
        patience: millis(app.settings().actors.reserve_ms),
        impossible: refusal.is_some(),
        outside: app.outside(),
        trace: trace.map(str::to_owned),
    });
    match app.directory().ask(id, place, app.patience()).await {
        Ok(order::Answer::Placed { .. }) => Ok(()),
        Ok(order::Answer::Cancelled | order::Answer::Noted) | Err(AskError::Unknown) => {
            Err(Problem::unknown())
        }
        Err(AskError::Rejected(order::Rejection::KeyReused)) => {
            let detail = "the record's id named a purchase of another body";
            Err(Problem::new(Code::IdempotencyKeyReused, detail))
        }
        Err(AskError::Rejected(
            order::Rejection::Impossible
            | order::Rejection::NotFound
            | order::Rejection::TooLate
            | order::Rejection::Disbelieved { .. },
        )) => Err(refusal.unwrap_or_else(Problem::not_found)),
    }
}

/// A body in the words of the contract.
pub fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, Cause> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let decoded = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| Cause::new("invalid_body", format!("{}: {}", error.path(), error.inner())))?;
    reader.end().map_err(|error| Cause::new("invalid_body", error.to_string()))?;
    Ok(decoded)
}

fn customer(wanted: &StartPurchase) -> Result<Id<Account>, Cause> {
    uuid(&wanted.customer_id, "/customer_id").map(Id::from)
}

/// An id, or where it is none.
pub fn uuid(text: &str, pointer: &str) -> Result<Uuid, Cause> {
    Uuid::try_parse(text).map_err(|error| Cause::new("invalid_id", format!("{pointer}: {error}")))
}

/// As `POST /purchases` would be told.
fn buy(wanted: StartPurchase) -> Result<Buy, Cause> {
    let items = wanted.order_items.iter().enumerate().map(|(index, item)| {
        let product_id = uuid(&item.product_id, &format!("/order_items/{index}/product_id"))?;
        Ok(BuyItem { product_id, quantity: item.quantity })
    });
    let order_items = items.collect::<Result<_, Cause>>()?;
    let payment =
        wanted.payment.ok_or_else(|| Cause::new("invalid_body", "/payment is missing".to_owned()))?;
    let has_nul = payment.token.as_ref().is_some_and(|token| token.contains('\0'));
    if has_nul {
        return Err(Cause::new("invalid_string", "/payment/token contains NUL".to_owned()));
    }
    let payment = BuyPayment { currency_code: payment.currency_code, token: payment.token };
    Ok(Buy { order_items, payment })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"customer_id":"00000000-0000-7000-8000-000000000001",
        "order_items":[{"product_id":"00000000-0000-7000-8000-000000000002","quantity":"2"}],
        "payment":{"currency_code":"VND","token":"tok"}}"#;

    fn refused(body: &str) -> String {
        let read = decoded(body.as_bytes()).and_then(|wanted| customer(&wanted).and_then(|_| buy(wanted)));
        let cause = read.expect_err("is refused");
        format!("{} {}", cause.code, cause.detail)
    }

    #[test]
    fn a_record_says_what_a_request_says() {
        let wanted = decoded(GOOD.as_bytes()).expect("is read");
        let buy = buy(wanted).expect("makes sense");
        assert_eq!((buy.order_items.len(), buy.order_items[0].quantity), (1, 2));
        assert_eq!(buy.payment.token.as_deref(), Some("tok"));
    }

    #[test]
    fn what_cannot_be_read_is_told_where_and_why() {
        assert!(refused("nothing").starts_with("invalid_body "));
        assert!(refused(&GOOD.replace("quantity", "count")).contains("order_items[0]"));
        assert!(refused(&GOOD.replace("VND\"", "VND\",\"extra\":1")).starts_with("invalid_body payment"));
        assert!(refused(&GOOD.replace("000000000001", "x")).starts_with("invalid_id /customer_id"));
        assert!(
            refused(&GOOD.replace("000000000002", "x")).starts_with("invalid_id /order_items/0/product_id")
        );
        assert!(refused(&GOOD.replace("tok\"", "\\u0000\"")).starts_with("invalid_string"));
        assert!(refused(&format!("{GOOD} {GOOD}")).contains("trailing"));
        assert!(refused(r#"{"customer_id":"00000000-0000-7000-8000-000000000001"}"#).contains("/payment"));
    }
}
