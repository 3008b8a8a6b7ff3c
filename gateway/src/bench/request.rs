//! What the load client sends, built once, and what it makes of the answers.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::scenario::{Scenario, Spread};
use super::tally::Outcome;
use super::target::Target;
use super::wire::Answer;

/// The scenario of the system that Souk replaces: so many units of one product, so many of another.
pub const QUANTITIES: [i64; 2] = [4, 10];

/// How the answer to a purchase begins, and its id after that.
const ID_BEFORE: &[u8] = b"{\"purchase_id\":\"";
const ID_LENGTH: usize = 36;

/// A request to buy: the bytes, and where in them the ids lie that change.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    products: [usize; 2],
    key: Option<usize>,
}

impl Template {
    fn new(target: &Target, scenario: &Scenario, token: Option<&str>) -> Self {
        let blank = Uuid::nil();
        let [one, two] = QUANTITIES;
        let token = token.map(|token| format!(r#","token":"{token}""#)).unwrap_or_default();
        let body = format!(
            r#"{{"order_items":[{{"product_id":"{blank}","quantity":{one}}},{{"product_id":"{blank}","quantity":{two}}}],"payment":{{"currency_code":"VND"{token}}}}}"#
        );
        let key = if scenario.is_keyed { format!("idempotency-key: {blank}\r\n") } else { String::new() };
        let prefer = if scenario.is_patient { "prefer: wait=30\r\n" } else { "" };
        let head = head(target, "POST", "/purchases");
        let length = body.len();
        let text = format!(
            "{head}{key}{prefer}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let places: Vec<_> = text.match_indices(&blank.to_string()).map(|(place, _)| place).collect();
        let (key, products) = match places[..] {
            [key, one, two] => (Some(key), [one, two]),
            [one, two] => (None, [one, two]),
            _ => unreachable!("the text above has two products, and perhaps a key"),
        };
        Self { bytes: text.into_bytes(), products, key }
    }

    fn put(&mut self, place: usize, id: Uuid) {
        id.hyphenated().encode_lower(&mut self.bytes[place..place + ID_LENGTH]);
    }
}

/// One buyer: an endless row of requests.
#[derive(Debug)]
pub struct Buyer {
    good: Template,
    declined: Template,
    declined_percent: u32,
    products: std::sync::Arc<[Uuid]>,
    random: StdRng,
}

impl Buyer {
    /// A buyer of the scenario. Buyers of different `seed`s buy different things.
    pub fn new(target: &Target, scenario: &Scenario, seed: u64) -> Self {
        let Scenario { spread, declined_percent, .. } = *scenario;
        let products = match spread {
            Spread::Uniform => &target.uniform,
            Spread::Hot => &target.hot,
        };
        Self {
            good: Template::new(target, scenario, None),
            declined: Template::new(target, scenario, Some("tok_declined")),
            declined_percent,
            products: std::sync::Arc::clone(products),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// The next request.
    pub fn build(&mut self) -> &[u8] {
        let (one, two) = self.pick();
        let is_declined =
            self.declined_percent > 0 && self.random.random_range(0..100) < self.declined_percent;
        let template = if is_declined { &mut self.declined } else { &mut self.good };
        let [first, second] = template.products;
        template.put(first, one);
        template.put(second, two);
        if let Some(place) = template.key {
            template.put(place, Uuid::from_u128(self.random.random()));
        }
        &template.bytes
    }

    /// Two different products. Of two, always in the same order: they are as hot either way.
    fn pick(&mut self) -> (Uuid, Uuid) {
        let count = self.products.len();
        if count == 2 {
            return (self.products[0], self.products[1]);
        }
        let one = self.random.random_range(0..count);
        let two = (one + self.random.random_range(1..count)) % count;
        (self.products[one], self.products[two])
    }
}

/// A request without a body.
pub fn get(target: &Target, path: &str) -> Vec<u8> {
    (head(target, "GET", path) + "\r\n").into_bytes()
}

/// A request with a JSON body.
pub fn post(target: &Target, path: &str, body: &serde_json::Value) -> Vec<u8> {
    with_body(head(target, "POST", path), body)
}

/// A request with a JSON body and a key of its own: it may be sent again.
pub fn post_once(target: &Target, path: &str, body: &serde_json::Value) -> Vec<u8> {
    let key = Uuid::from_u128(rand::random());
    with_body(head(target, "POST", path) + &format!("idempotency-key: {key}\r\n"), body)
}

fn with_body(head: String, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// `path` below `/api/v1`; or, if it begins with `//`, itself.
fn head(target: &Target, method: &str, path: &str) -> String {
    let Target { doors, token, .. } = target;
    // Nodes do not look at it.
    let authority = doors.first().map_or("souk", String::as_str);
    let path = match path.strip_prefix("//") {
        Some(path) => format!("/{path}"),
        None => format!("/api/v1{path}"),
    };
    let authorization = match token.is_empty() {
        true => String::new(),
        false => format!("authorization: Bearer {token}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: {authority}\r\n{authorization}")
}

/// What became of a purchase.
pub fn outcome(answer: &Answer<'_>) -> Outcome {
    match answer.status {
        200 => match status(answer.body) {
            Some(b"completed") => Outcome::Completed,
            Some(b"failed") if contains(answer.body, b"\"code\":\"payment_declined\"") => Outcome::Declined,
            Some(_) => Outcome::Failed,
            None => Outcome::Error,
        },
        202 => Outcome::Unfinished,
        429 => Outcome::Refused,
        503 => Outcome::Unavailable,
        _ => Outcome::Error,
    }
}

/// Its id.
pub fn purchase_id(body: &[u8]) -> Option<Uuid> {
    let id = body.strip_prefix(ID_BEFORE)?.get(..ID_LENGTH)?;
    Uuid::try_parse_ascii(id).ok()
}

/// The status of the purchase: the second field, before those of its steps.
fn status(body: &[u8]) -> Option<&[u8]> {
    let rest = body.get(ID_BEFORE.len() + ID_LENGTH..)?.strip_prefix(b"\",\"status\":\"")?;
    rest.split(|byte| *byte == b'"').next()
}

fn contains(body: &[u8], what: &[u8]) -> bool {
    body.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::scenario::named;
    use super::*;

    fn target() -> Target {
        let ids = |count: u128| (1..=count).map(Uuid::from_u128).collect();
        Target {
            doors: ["127.0.0.1:80".to_owned()].into(),
            turn: Arc::default(),
            token: "secret".to_owned(),
            uniform: ids(1_000),
            hot: ids(2),
        }
    }

    fn scenario(name: &str) -> Scenario {
        named(name, 1).expect("a name").remove(0)
    }

    fn body(request: &[u8]) -> serde_json::Value {
        let text = std::str::from_utf8(request).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
        assert!(head.contains("authorization: Bearer secret\r\n"), "{text}");
        serde_json::from_str(body).expect("JSON")
    }

    #[test]
    fn a_purchase_is_of_two_different_products() {
        let mut buyer = Buyer::new(&target(), &scenario("uniform-32"), 7);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2_000 {
            let body = body(buyer.build());
            let product = |line: usize| body["order_items"][line]["product_id"].as_str().map(str::to_owned);
            assert_ne!(product(0), product(1));
            seen.extend([product(0), product(1)]);
            assert_eq!(body["order_items"][1]["quantity"], 10);
        }
        assert!(seen.len() > 900, "{}", seen.len());
    }

    #[test]
    fn keys_are_different_and_one_in_twenty_is_declined() {
        let mut buyer = Buyer::new(&target(), &scenario("declined"), 7);
        let count = (0..10_000).filter(|_| body(buyer.build())["payment"]["token"] == "tok_declined").count();
        assert!((400..600).contains(&count), "{count}");
        let mut buyer = Buyer::new(&target(), &scenario("keyed"), 7);
        let keys: std::collections::HashSet<_> = (0..100)
            .map(|_| {
                let text = String::from_utf8(buyer.build().to_vec()).expect("text");
                text.split("idempotency-key: ").nth(1).expect("a key")[..36].to_owned()
            })
            .collect();
        assert_eq!(keys.len(), 100);
    }

    #[test]
    fn only_what_says_completed_is_completed() {
        let purchase = |status: &str, rest: &str| {
            format!(r#"{{"purchase_id":"{}","status":"{status}"{rest}}}"#, Uuid::from_u128(5))
        };
        let of = |status, body: &str| outcome(&Answer { status, body: body.as_bytes() });
        let steps = r#","steps":[{"status":"completed"}]"#;
        assert_eq!(of(200, &purchase("completed", "")), Outcome::Completed);
        assert_eq!(of(200, &purchase("pending", steps)), Outcome::Failed);
        let declined = purchase("failed", r#","failure":{"code":"payment_declined"}"#);
        assert_eq!(of(200, &declined), Outcome::Declined);
        assert_eq!(of(200, &purchase("failed", "")), Outcome::Failed);
        assert_eq!(of(200, "completed"), Outcome::Error);
        assert_eq!(of(202, &purchase("pending", "")), Outcome::Unfinished);
        assert_eq!((of(429, ""), of(503, "")), (Outcome::Refused, Outcome::Unavailable));
        assert_eq!((of(500, ""), of(404, "")), (Outcome::Error, Outcome::Error));
        assert_eq!(purchase_id(purchase("completed", "").as_bytes()), Some(Uuid::from_u128(5)));
    }
}
