//! The topics of Kafka, and what is said on each.

/// A topic. What is said of a purchase is keyed by it, so its order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the topic of its name; `souk/shop.proto` says what is on it")]
pub enum Topic {
    Purchase,
    PurchaseResult,
    UpdateProductInventory,
    RollbackProductInventory,
    CreateOrder,
    RollbackOrder,
    CreatePayment,
    RollbackPayment,
    Reply,
    SendRegisterEmail,
    DeadLetterQueue,
}

/// Which way records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Souk writes them.
    Out,
    /// Souk reads them.
    In,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 11] = [
        Self::Purchase,
        Self::PurchaseResult,
        Self::UpdateProductInventory,
        Self::RollbackProductInventory,
        Self::CreateOrder,
        Self::RollbackOrder,
        Self::CreatePayment,
        Self::RollbackPayment,
        Self::Reply,
        Self::SendRegisterEmail,
        Self::DeadLetterQueue,
    ];

    /// Its name, behind the prefix of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::PurchaseResult => "purchase-result",
            Self::UpdateProductInventory => "update-product-inventory",
            Self::RollbackProductInventory => "rollback-product-inventory",
            Self::CreateOrder => "create-order",
            Self::RollbackOrder => "rollback-order",
            Self::CreatePayment => "create-payment",
            Self::RollbackPayment => "rollback-payment",
            Self::Reply => "reply",
            Self::SendRegisterEmail => "send-register-email",
            Self::DeadLetterQueue => "dead-letter-queue",
        }
    }

    /// The message of `souk/shop.proto` that is on it; `None`: records as they came, and why they could not be processed.
    pub fn message(self) -> Option<&'static str> {
        Some(match self {
            Self::Purchase => "StartPurchase",
            Self::PurchaseResult => "PurchaseResult",
            Self::UpdateProductInventory => "UpdateProductInventory",
            Self::RollbackProductInventory => "RollbackProductInventory",
            Self::CreateOrder => "CreateOrder",
            Self::RollbackOrder => "RollbackOrder",
            Self::CreatePayment => "CreatePayment",
            Self::RollbackPayment => "RollbackPayment",
            Self::Reply => "Reply",
            Self::SendRegisterEmail => "SendRegisterEmail",
            Self::DeadLetterQueue => return None,
        })
    }

    /// Which way its records go.
    pub fn direction(self) -> Direction {
        match self {
            Self::Purchase | Self::Reply => Direction::In,
            Self::PurchaseResult
            | Self::UpdateProductInventory
            | Self::RollbackProductInventory
            | Self::CreateOrder
            | Self::RollbackOrder
            | Self::CreatePayment
            | Self::RollbackPayment
            | Self::SendRegisterEmail
            | Self::DeadLetterQueue => Direction::Out,
        }
    }

    /// The topic of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}
