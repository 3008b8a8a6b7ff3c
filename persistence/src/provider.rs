//! The port to whoever moves the money.
//!
//! A provider knows a charge by our key and answers a repeated key with what it did the first time. An
//! error, a time-out and silence are all `Unknown`: only its word `declined` is a refusal.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::Timestamp;

/// What is to be charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeRequest {
    /// The payment's id: names the charge at the provider.
    pub key: Uuid,
    /// In minor units of `currency`.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// What the buyer pays with. The sandbox documents its own.
    pub token: String,
}

/// What the provider did about a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charged {
    /// The money is ours: authorised and captured.
    Captured {
        /// The provider's own name of the charge.
        reference: String,
    },
    /// Refused, in the provider's words.
    Declined {
        /// A stable word such as `insufficient_funds`.
        reason: String,
    },
}

/// A charge that the provider finds under our key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What was captured, in minor units.
    pub amount: i64,
    /// The provider's own name of the charge.
    pub reference: String,
}

/// What is to be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundRequest {
    /// The payment's id: names the charge.
    pub key: Uuid,
    /// Names this refund at the provider; the same name is the same refund.
    pub refund_key: String,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

/// The provider did not answer, or not in words that decide: ask the same again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("payment provider gave no answer: {0}")]
pub struct ProviderUnknown(pub String);

/// Moves money. Every call may be repeated with its key.
pub trait PaymentProvider: Send + Sync + fmt::Debug + 'static {
    /// For how long after it was sent a request may still be executed.
    fn settles_within(&self) -> Duration;

    /// For how long after the first request the provider remembers a key; past that `find` must come
    /// before `charge`.
    fn remembers_for(&self) -> Duration;

    /// Authorises and captures. Not executed if the provider reads it after `expires`.
    fn charge(
        &self,
        request: ChargeRequest,
        expires: Timestamp,
    ) -> BoxFuture<'_, Result<Charged, ProviderUnknown>>;

    /// What was captured under a key, whatever was answered then; `None`: nothing.
    fn find(&self, key: Uuid) -> BoxFuture<'_, Result<Option<Found>, ProviderUnknown>>;

    /// Gives money back.
    fn refund(&self, request: RefundRequest) -> BoxFuture<'_, Result<(), ProviderUnknown>>;
}
