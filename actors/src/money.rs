//! Money: an integer in minor units of an ISO 4217 currency, within bounds that no total can leave.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The highest price of one unit, in minor units. A hundred lines of a million units each at this price
/// still fit into 63 bits.
pub const PRICE_MAX: i64 = 90_000_000_000;
/// The most units of one product in an order.
pub const QUANTITY_MAX: u32 = 1_000_000;
/// The most lines of an order.
pub const LINES_MAX: usize = 100;
/// The most units of a product on hand.
pub const INVENTORY_MAX: i64 = 1_000_000_000_000;

/// An ISO 4217 currency.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The three letters.
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

/// The text is no ISO 4217 code.
#[derive(Debug, thiserror::Error)]
#[error("not an ISO 4217 currency code")]
pub struct UnknownCurrency;

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(code: &str) -> Result<Self, UnknownCurrency> {
        iso_currency::Currency::from_code(code).map(Self).ok_or(UnknownCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

/// The sum of `(price, quantity)` lines. `None` if it does not fit, which bounded lines never reach.
pub fn total(lines: impl IntoIterator<Item = (i64, u32)>) -> Option<i64> {
    lines.into_iter().try_fold(0_i64, |sum, (price, quantity)| {
        price.checked_mul(i64::from(quantity)).and_then(|line| sum.checked_add(line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_order_there_can_be_has_a_total() {
        let lines = vec![(PRICE_MAX, QUANTITY_MAX); LINES_MAX];
        assert_eq!(total(lines), Some(9_000_000_000_000_000_000));
        assert_eq!(total([(i64::MAX, 2)]), None);
    }

    #[test]
    fn a_currency_is_its_three_letters() {
        let dong: Currency = "VND".parse().expect("VND is in ISO 4217");
        assert_eq!(serde_json::to_string(&dong).expect("serializes"), "\"VND\"");
        assert!("VNDX".parse::<Currency>().is_err());
        assert!("vnd".parse::<Currency>().is_err());
    }
}
