//! What readers see of a purchase and its order.

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;

use super::{Item, Line};
use crate::account::Account;
use crate::ids::Id;
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

/// A purchase and its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// As it stands. `Pending` changes once; the others never.
    pub status: Status,
    /// Whose.
    pub customer_id: Id<Account>,
    /// ISO 4217.
    pub currency_code: Currency,
    /// What was ordered.
    pub items: Vec<Item>,
    /// What was reserved; empty before.
    pub lines: Vec<Line>,
    /// The total, once it is known.
    pub amount: Option<i64>,
    /// What happened.
    pub steps: Vec<TrailEntry>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// A person must look.
    pub attention: Option<Attention>,
    /// Nothing is being done or undone any more.
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
    /// The step's name.
    pub step: String,
    /// Since when.
    pub since: Timestamp,
    /// What was said.
    pub detail: String,
}

/// One thing that happened to a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrailEntry {
    /// `UPDATE_PRODUCT_INVENTORY`, `CREATE_ORDER` or `CREATE_PAYMENT`.
    pub step: String,
    /// What.
    pub status: StepStatus,
    /// When.
    pub created_at: Timestamp,
    /// Why, where there is a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
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
