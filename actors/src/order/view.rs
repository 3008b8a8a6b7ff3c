//! What readers see of a purchase and its order.

use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};
use souk_persistence::Timestamp;

use super::{Item, Line};
use crate::money::Currency;

/// What the buyer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Under way.
    Pending,
    /// Bought.
    Completed,
    /// Refused; what was done is being undone.
    Failed,
    /// By the customer; likewise.
    Cancelled,
}

/// A purchase and its order. Written anew with every row of the order, so nothing is said twice: whose it
/// is stands beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// As it stands. `Pending` changes once; the others never.
    pub status: Status,
    /// ISO 4217.
    pub currency_code: Currency,
    /// What was ordered, until it is reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// What was reserved; empty before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    /// The total, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// What happened.
    pub steps: Vec<TrailEntry>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// A person must look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Nothing is being done or undone any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_rest: bool,
}

/// Why a purchase failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A person must look: an undo was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// Which step.
    pub step: StepName,
    /// Since when.
    pub since: Timestamp,
    /// What was said.
    pub detail: String,
}

/// One thing that happened to a step. Written as `[step, status, microseconds, detail?]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TrailEntry {
    /// Which.
    pub step: StepName,
    /// What.
    pub status: StepStatus,
    /// When.
    pub created_at: Timestamp,
    /// Why, where there is a reason.
    #[serde(default)]
    pub detail: Option<String>,
}

impl Serialize for TrailEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_tuple(3 + usize::from(self.detail.is_some()))?;
        entry.serialize_element(&self.step)?;
        entry.serialize_element(&self.status)?;
        entry.serialize_element(&self.created_at.micros())?;
        if let Some(detail) = &self.detail {
            entry.serialize_element(detail)?;
        }
        entry.end()
    }
}

/// The steps of a purchase, in the words that clients and topics know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StepName {
    /// Stock is held.
    UpdateProductInventory,
    /// The order exists, priced: the order's own stream.
    CreateOrder,
    /// The customer is charged.
    CreatePayment,
}

impl StepName {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpdateProductInventory => "UPDATE_PRODUCT_INVENTORY",
            Self::CreateOrder => "CREATE_ORDER",
            Self::CreatePayment => "CREATE_PAYMENT",
        }
    }
}

/// What happened to a step, in the words of the topic `purchase-result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StepStatus {
    /// It is being asked.
    Execute,
    /// It is done.
    Success,
    /// It is not done.
    Failed,
    /// It is taken back.
    Rollback,
    /// It could not be taken back.
    RollbackFailed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_short_and_read_in_either_form() {
        let entry = TrailEntry {
            step: StepName::CreatePayment,
            status: StepStatus::Failed,
            created_at: Timestamp::from_micros(1_764_000_000_123_456),
            detail: Some("payment_declined".to_owned()),
        };
        let short = r#"["CREATE_PAYMENT","FAILED",1764000000123456,"payment_declined"]"#;
        assert_eq!(serde_json::to_string(&entry).expect("writes"), short);
        let long = r#"{"step":"CREATE_PAYMENT","status":"FAILED",
            "created_at":"2025-11-24T16:00:00.123456Z","detail":"payment_declined"}"#;
        for text in [short, long] {
            assert_eq!(serde_json::from_str::<TrailEntry>(text).expect("reads"), entry);
        }
        let plain = r#"["CREATE_ORDER","SUCCESS",0]"#;
        assert_eq!(serde_json::from_str::<TrailEntry>(plain).expect("reads").detail, None);
    }
}
