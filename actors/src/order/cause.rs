//! Why a purchase turned round.

use serde::{Deserialize, Serialize};

use crate::ids::Id;
use crate::product::Product;

/// Why a purchase turned round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Less is left than was ordered.
    InsufficientStock {
        /// Of this product.
        product: Id<Product>,
    },
    /// Unknown or withdrawn.
    ProductNotFound {
        /// This product.
        product: Id<Product>,
    },
    /// The product is priced in another currency.
    CurrencyMismatch {
        /// This product.
        product: Id<Product>,
    },
    /// The provider's word.
    PaymentDeclined {
        /// In the provider's words.
        reason: String,
    },
    /// A step was not answered in time.
    DeadlineExceeded,
    /// By the customer.
    Cancelled {
        /// In the customer's words.
        reason: Option<String>,
    },
    /// A participant refused what cannot be refused.
    Refused {
        /// In its words.
        detail: String,
    },
}

impl Cause {
    /// The stable code that clients read.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InsufficientStock { .. } => "insufficient_stock",
            Self::ProductNotFound { .. } => "product_not_found",
            Self::CurrencyMismatch { .. } => "currency_mismatch",
            Self::PaymentDeclined { .. } => "payment_declined",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled { .. } => "cancelled",
            Self::Refused { .. } => "refused",
        }
    }

    /// For people.
    pub fn detail(&self) -> String {
        match self {
            Self::InsufficientStock { product } => format!("not enough of product {product} is left"),
            Self::ProductNotFound { product } => format!("product {product} is not for sale"),
            Self::CurrencyMismatch { product } => format!("product {product} is priced in another currency"),
            Self::PaymentDeclined { reason } => format!("the payment was declined: {reason}"),
            Self::DeadlineExceeded => "a step was not answered in time".to_owned(),
            Self::Cancelled { reason: Some(reason) } => format!("cancelled by the customer: {reason}"),
            Self::Cancelled { reason: None } => "cancelled by the customer".to_owned(),
            Self::Refused { detail } => detail.clone(),
        }
    }
}
