//! One of each: what the golden files say, as values. Every field is set, so that each is in a file.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use souk_proto::Timestamp;
use souk_proto::shop::reply::Outcome;
use souk_proto::shop::{
    Captured, CreateOrder, CreatePayment, OrderItem, OrderLine, PaymentMethod, PurchaseResult, Refused,
    Reply, Reserved, RollbackOrder, RollbackPayment, RollbackProductInventory, RolledBack, SendRegisterEmail,
    StartPurchase, Step, StepStatus, UpdateProductInventory,
};

const PURCHASE: &str = "8f14e45f-ceea-467f-a8ee-0f3d2e1c0b9a";
const CUSTOMER: &str = "c9f0f895-fb98-4b91-99f5-1fd0297e236d";
const PRODUCT: &str = "45c48cce-2e2d-4fbd-aa1a-fc51c7c6ad26";
const CATEGORY: &str = "d3d94468-02a4-4259-b55d-38e6d163e820";

/// A value, how it is written, and whether something else is read as it.
pub struct Sample {
    /// Of its files: the message, and behind a point what tells it from others of that message.
    pub name: &'static str,
    pub json: String,
    pub bytes: Vec<u8>,
    is_json: Box<dyn Fn(&str) -> serde_json::Result<bool>>,
    is_bytes: Box<dyn Fn(&[u8]) -> Result<bool, prost::DecodeError>>,
}

impl Sample {
    fn new<M>(name: &'static str, value: M) -> Self
    where
        M: Message + Default + Clone + PartialEq + Serialize + DeserializeOwned + 'static,
    {
        let json = serde_json::to_string(&value).expect("messages have names for all that is in them");
        let bytes = value.encode_to_vec();
        let expected = value.clone();
        let is_json = Box::new(move |text: &str| Ok(serde_json::from_str::<M>(text)? == expected));
        let is_bytes = Box::new(move |bytes: &[u8]| Ok(M::decode(bytes)? == value));
        Self { name, json, bytes, is_json, is_bytes }
    }

    /// The message of `souk/shop.proto` that it is.
    pub fn message(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(message, _)| message)
    }

    /// Whether this is JSON for the value; an error: for none.
    pub fn is_json(&self, text: &str) -> serde_json::Result<bool> {
        (self.is_json)(text)
    }

    /// Whether this is protobuf for the value; an error: for none.
    pub fn is_bytes(&self, bytes: &[u8]) -> Result<bool, prost::DecodeError> {
        (self.is_bytes)(bytes)
    }
}

pub fn all() -> Vec<Sample> {
    vec![
        Sample::new(
            "StartPurchase",
            StartPurchase {
                customer_id: CUSTOMER.to_owned(),
                order_items: items(),
                payment: Some(PaymentMethod {
                    currency_code: "VND".to_owned(),
                    token: Some("tok_declined".to_owned()),
                }),
            },
        ),
        Sample::new(
            "PurchaseResult",
            PurchaseResult {
                purchase_id: PURCHASE.to_owned(),
                step: Step::CreatePayment.into(),
                status: StepStatus::Failed.into(),
                created_at: Some(at(123_456_000)),
                detail: Some("payment_declined".to_owned()),
            },
        ),
        Sample::new(
            "UpdateProductInventory",
            UpdateProductInventory {
                purchase_id: PURCHASE.to_owned(),
                customer_id: CUSTOMER.to_owned(),
                order_items: items(),
                currency_code: "VND".to_owned(),
                reserve_by: Some(at(500_000_000)),
                attempt: 1,
            },
        ),
        Sample::new(
            "RollbackProductInventory",
            RollbackProductInventory {
                purchase_id: PURCHASE.to_owned(),
                order_items: items(),
                reserve_by: Some(at(500_000_000)),
                attempt: 2,
            },
        ),
        Sample::new(
            "CreateOrder",
            CreateOrder {
                purchase_id: PURCHASE.to_owned(),
                customer_id: CUSTOMER.to_owned(),
                order_lines: lines(),
                amount: 500,
                currency_code: "VND".to_owned(),
            },
        ),
        Sample::new(
            "RollbackOrder",
            RollbackOrder {
                purchase_id: PURCHASE.to_owned(),
                customer_id: CUSTOMER.to_owned(),
                cause: "payment_declined".to_owned(),
            },
        ),
        Sample::new(
            "CreatePayment",
            CreatePayment {
                purchase_id: PURCHASE.to_owned(),
                customer_id: CUSTOMER.to_owned(),
                // More than a reader keeps who makes every number a double.
                amount: 9_007_199_254_740_993,
                currency_code: "VND".to_owned(),
                token: Some("tok_declined".to_owned()),
                // Whole seconds are written without a fraction.
                reserve_by: Some(at(0)),
                attempt: 1,
            },
        ),
        Sample::new(
            "RollbackPayment",
            RollbackPayment {
                purchase_id: PURCHASE.to_owned(),
                customer_id: CUSTOMER.to_owned(),
                amount: 500,
                currency_code: "VND".to_owned(),
                // What is nought is written too.
                attempt: 0,
            },
        ),
        reply(
            "Reply.reserved",
            Step::UpdateProductInventory,
            Outcome::Reserved(Reserved { order_lines: lines() }),
        ),
        reply(
            "Reply.captured",
            Step::CreatePayment,
            Outcome::Captured(Captured { amount: 500, currency_code: "VND".to_owned() }),
        ),
        reply("Reply.rolled_back", Step::CreatePayment, Outcome::RolledBack(RolledBack {})),
        reply(
            "Reply.refused",
            Step::UpdateProductInventory,
            Outcome::Refused(Refused {
                code: "insufficient_stock".to_owned(),
                product_id: Some(PRODUCT.to_owned()),
                detail: "3 are left".to_owned(),
            }),
        ),
        reply(
            "Reply.rollback_refused",
            Step::CreatePayment,
            Outcome::RollbackRefused(Refused {
                code: "account_closed".to_owned(),
                product_id: None,
                detail: "the card is no more".to_owned(),
            }),
        ),
        Sample::new(
            "SendRegisterEmail",
            SendRegisterEmail {
                account_id: CUSTOMER.to_owned(),
                email: "deptrai@example.com".to_owned(),
                first_name: "Đẹp".to_owned(),
                last_name: "Trai".to_owned(),
            },
        ),
    ]
}

fn reply(name: &'static str, step: Step, outcome: Outcome) -> Sample {
    let reply = Reply { purchase_id: PURCHASE.to_owned(), step: step.into(), outcome: Some(outcome) };
    Sample::new(name, reply)
}

fn items() -> Vec<OrderItem> {
    vec![OrderItem { product_id: PRODUCT.to_owned(), quantity: 4 }]
}

fn lines() -> Vec<OrderLine> {
    vec![OrderLine {
        product_id: PRODUCT.to_owned(),
        quantity: 4,
        price: 125,
        category_id: CATEGORY.to_owned(),
        name: "Iphone 13".to_owned(),
        brand: "Apple".to_owned(),
    }]
}

/// So many nanoseconds after a certain second.
fn at(nanos: i32) -> Timestamp {
    Timestamp { seconds: 1_764_000_000, nanos }
}
