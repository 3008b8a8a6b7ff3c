//! What the sandbox decides about a key, from what its books say of it. Pure: it knows no file, no table and
//! no clock, so that the books may be kept in either.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;
use crate::provider::{ChargeRequest, Charged, Found, ProviderUnknown, RefundRequest};

/// What was decided: what the books shall say, and what whoever asked is told.
pub(super) type Decided<T> = (Option<Line>, Result<T, ProviderUnknown>);

/// A line of the books.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Line {
    /// A charge was asked for and nothing came of it yet.
    Asked {
        key: Uuid,
        at: Timestamp,
    },
    Captured {
        key: Uuid,
        at: Timestamp,
        amount: i64,
        currency: String,
        token: String,
    },
    Declined {
        key: Uuid,
        at: Timestamp,
        amount: i64,
        reason: String,
    },
    Refunded {
        key: Uuid,
        at: Timestamp,
        refund_key: String,
        amount: i64,
    },
}

impl Line {
    /// Whose charge it is about.
    pub fn key(&self) -> Uuid {
        match self {
            Self::Asked { key, .. }
            | Self::Captured { key, .. }
            | Self::Declined { key, .. }
            | Self::Refunded { key, .. } => *key,
        }
    }
}

/// What the books say of a key. Kept in memory for ever, so what is rare is kept apart.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub captured: Option<Captured>,
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
pub(super) struct Captured {
    pub amount: i64,
    pub currency: Currency,
}

/// The three letters of ISO 4217.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Currency([u8; 3]);

impl Currency {
    /// `None`: no currency.
    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }
}

/// What few payments have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The buyer's token, where it matters for an answer that is repeated.
    pub token: Option<String>,
    pub asked: Option<Timestamp>,
    /// (amount, reason)
    pub declined: Option<(i64, String)>,
    pub refunds: HashMap<String, i64>,
}

/// Tokens whose repeated charge is answered otherwise than with what was captured.
const REMEMBERED: [&str; 2] = ["tok_captured_but_declined", "tok_unknown_for_a_while"];

impl Known {
    /// What few payments have; `None`: this one has nothing of it.
    pub fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// What was given back, in minor units.
    pub fn refunded(&self) -> i64 {
        self.rare().map_or(0, |rare| rare.refunds.values().sum())
    }

    /// What a line says more.
    pub fn learn(&mut self, line: Line) {
        match line {
            Line::Asked { key: _, at } => {
                self.rarely().asked.get_or_insert(at);
            }
            Line::Captured { key, at, amount, currency, token } => {
                let Some(currency) = Currency::parse(&currency) else {
                    tracing::error!(%key, currency, "a line of the sandbox's books has no currency");
                    return;
                };
                if self.captured.is_none() && REMEMBERED.contains(&token.as_str()) {
                    let rare = self.rarely();
                    rare.asked.get_or_insert(at);
                    rare.token = Some(token);
                }
                self.captured.get_or_insert(Captured { amount, currency });
            }
            Line::Declined { key: _, at: _, amount, reason } => {
                self.rarely().declined.get_or_insert((amount, reason));
            }
            Line::Refunded { key: _, at: _, refund_key, amount } => {
                self.rarely().refunds.insert(refund_key, amount);
            }
        }
    }

    fn rarely(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// A charge that was read at `now`.
pub(super) fn charge(
    known: Option<&Known>,
    now: Timestamp,
    unknown_for: Duration,
    request: &ChargeRequest,
    expires: Timestamp,
) -> Decided<Charged> {
    let ChargeRequest { key, amount, currency, token } = request;
    let (key, amount) = (*key, *amount);
    let unknown = |why: &str| Err(ProviderUnknown(why.to_owned()));
    let captured_answer = || Ok(Charged::Captured { reference: format!("sandbox-{key}") });
    let declined_answer = |reason: &str| Ok(Charged::Declined { reason: reason.to_owned() });
    let Some(currency_code) = Currency::parse(currency) else {
        return (None, unknown("there is no such currency"));
    };
    let rare = known.and_then(Known::rare);
    let was_asked = rare.and_then(|rare| rare.asked);
    if let Some(captured) = known.and_then(|known| known.captured.as_ref()) {
        let asked = was_asked.unwrap_or(now);
        let paid_with = rare.and_then(|rare| rare.token.as_deref()).unwrap_or_default();
        let answer = match paid_with {
            _ if (captured.amount, captured.currency) != (amount, currency_code) => {
                unknown("the key was used for another amount")
            }
            "tok_captured_but_declined" => declined_answer("card_declined"),
            "tok_unknown_for_a_while" if now < asked + unknown_for => unknown("not known yet"),
            _ => captured_answer(),
        };
        return (None, answer);
    }
    if let Some((declined, reason)) = rare.and_then(|rare| rare.declined.as_ref()) {
        let answer = match *declined == amount {
            true => declined_answer(reason),
            false => unknown("the key was used for another amount"),
        };
        return (None, answer);
    }
    if now > expires {
        return (None, unknown("the request came too late"));
    }
    if amount < 0 {
        return (None, unknown("an amount is not negative"));
    }
    let decline = |reason: &str| {
        (Some(Line::Declined { key, at: now, amount, reason: reason.to_owned() }), declined_answer(reason))
    };
    let capture = |answer| {
        let (currency, token) = (currency.clone(), token.clone());
        (Some(Line::Captured { key, at: now, amount, currency, token }), answer)
    };
    match token.as_str() {
        "tok_declined" => decline("card_declined"),
        "tok_insufficient_funds" => decline("insufficient_funds"),
        "tok_timeout_then_success" if was_asked.is_none() => {
            (Some(Line::Asked { key, at: now }), unknown("timed out"))
        }
        "tok_unknown_for_a_while" => capture(unknown("not known yet")),
        "tok_captured_but_declined" => capture(declined_answer("card_declined")),
        _ => capture(captured_answer()),
    }
}

/// What was captured under the key.
pub(super) fn find(known: Option<&Known>, key: Uuid) -> Decided<Option<Found>> {
    let captured = known.and_then(|known| known.captured.as_ref());
    let found =
        captured.map(|captured| Found { amount: captured.amount, reference: format!("sandbox-{key}") });
    (None, Ok(found))
}

/// A refund that was read at `now`.
pub(super) fn refund(known: Option<&Known>, now: Timestamp, request: &RefundRequest) -> Decided<()> {
    let RefundRequest { key, refund_key, amount, currency } = request;
    let (key, amount) = (*key, *amount);
    let unknown = |why: &str| (None, Err(ProviderUnknown(why.to_owned())));
    let Some(known) = known else { return unknown("nothing was charged") };
    let Some(captured) = &known.captured else { return unknown("nothing was captured") };
    if let Some(refunded) = known.rare().and_then(|rare| rare.refunds.get(refund_key)) {
        return match *refunded == amount {
            true => (None, Ok(())),
            false => unknown("the refund's key was used for another amount"),
        };
    }
    if Currency::parse(currency) != Some(captured.currency) {
        return unknown("another currency was captured");
    }
    // A negative one would make room for more than was captured.
    if amount < 0 {
        return unknown("an amount is not negative");
    }
    match known.refunded().checked_add(amount) {
        Some(sum) if sum <= captured.amount => {
            (Some(Line::Refunded { key, at: now, refund_key: refund_key.clone(), amount }), Ok(()))
        }
        Some(_) | None => unknown("more than was captured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_EVER: Timestamp = Timestamp::from_micros(i64::MAX);

    fn request(token: &str) -> ChargeRequest {
        let (key, currency) = (Uuid::from_u128(7), "VND".to_owned());
        ChargeRequest { key, amount: 5, currency, token: token.to_owned() }
    }

    fn at(micros: i64, known: &mut Known, token: &str) -> Result<Charged, ProviderUnknown> {
        let now = Timestamp::from_micros(micros);
        let (line, answer) = charge(Some(known), now, Duration::from_micros(10), &request(token), FOR_EVER);
        line.into_iter().for_each(|line| known.learn(line));
        answer
    }

    #[test]
    fn a_request_that_was_lost_is_captured_when_it_is_repeated() {
        let mut known = Known::default();
        assert!(at(1, &mut known, "tok_timeout_then_success").is_err());
        assert_eq!(find(Some(&known), Uuid::from_u128(7)).1, Ok(None));
        assert!(at(2, &mut known, "tok_timeout_then_success").is_ok());
        assert_eq!(known.captured.expect("captured").amount, 5);
    }

    #[test]
    fn what_is_not_known_for_a_while_is_known_at_the_end_of_it() {
        let mut known = Known::default();
        assert!(at(1, &mut known, "tok_unknown_for_a_while").is_err());
        assert!(at(10, &mut known, "tok_unknown_for_a_while").is_err());
        assert!(at(11, &mut known, "tok_unknown_for_a_while").is_ok());
    }

    #[test]
    fn a_late_request_is_not_executed_and_a_late_repeat_is_answered() {
        let (now, past) = (Timestamp::from_micros(9), Timestamp::from_micros(8));
        let late = |known: Option<&Known>| charge(known, now, Duration::ZERO, &request(""), past);
        let (line, answer) = late(None);
        assert!(line.is_none() && answer.is_err());
        let mut known = Known::default();
        assert!(at(1, &mut known, "").is_ok());
        let (line, answer) = late(Some(&known));
        assert!(line.is_none() && answer.is_ok());
    }
}
