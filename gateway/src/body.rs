//! JSON bodies: bounded, strict, and exact about what is wrong.

use axum::extract::{FromRef, FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::de::{DeserializeOwned, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::problem::{Code, Problem};

/// So many characters of either end of a message are told.
const QUOTED_MAX: usize = 120;

/// The largest body that is read, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit(pub usize);

impl FromRef<App> for BodyLimit {
    fn from_ref(app: &App) -> Self {
        Self(app.body_limit())
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Body<T> {
    /// What it says.
    pub value: T,
    bytes: Bytes,
}

impl<T> Body<T> {
    /// Hash of the body's canonical form: what is said, whatever its order and white space.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        let hash = match serde_json::from_slice(&self.bytes) {
            Ok(value) => {
                canonical(&value, &mut text);
                Sha256::digest(text)
            }
            // A field that nobody looks at may hold what a `Value` cannot: then it is the bytes that count.
            Err(_) => Sha256::digest(&self.bytes),
        };
        URL_SAFE_NO_PAD.encode(hash)
    }
}

/// Writes members in the order of their names, after RFC 8785.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in members {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string());
        }
    }
}

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
    BodyLimit: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = read(request, BodyLimit::from_ref(state)).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

/// A body that may be left out: nothing, or the empty string that some clients send.
#[derive(Debug)]
pub struct OptionalBody<T>(pub T);

impl<S, T> FromRequest<S> for OptionalBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Default,
    BodyLimit: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = read(request, BodyLimit::from_ref(state)).await?;
        match bytes.trim_ascii() {
            b"" | b"\"\"" => Ok(Self(T::default())),
            _ => parse(&bytes).map(Self),
        }
    }
}

async fn read(request: Request, BodyLimit(limit): BodyLimit) -> Result<Bytes, Problem> {
    if let Some(kind) = request.headers().get(CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let kind = kind.to_ascii_lowercase();
        if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
            return Err(Problem::new(Code::UnsupportedMediaType, format!("{kind} is not understood")));
        }
    }
    axum::body::to_bytes(request.into_body(), limit).await.map_err(|error| {
        let is_length = std::error::Error::source(&error)
            .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        match is_length {
            true => Problem::new(Code::BodyTooLarge, format!("at most {limit} bytes are read")),
            false => Problem::new(Code::InvalidJson, "the body did not arrive whole"),
        }
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if has_nul(bytes) {
        return Err(Problem::new(Code::InvalidString, "a string may not contain NUL"));
    }
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    // Once more, to tell where it is wrong.
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(refusal)?;
    json.end().map_err(|_| Problem::new(Code::InvalidJson, "something follows the JSON value"))?;
    Ok(value)
}

/// What serde says of a body, as a problem. It tells its errors apart by their text alone.
fn refusal(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let mut pointer = pointer(error.path());
    let error = error.into_inner();
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _place)| message);
    if !error.is_data() {
        return Problem::new(Code::InvalidJson, shortened(message));
    }
    if message.starts_with("unknown field") {
        return Problem::field(Code::UnknownField, pointer, shortened(message));
    }
    // The path of these two ends at the object, so the field comes from the text: a name in our own types.
    let named = |prefix: &str| message.strip_prefix(prefix)?.split('`').nth(1);
    if let Some(field) = named("missing field") {
        pointer.push_str(&format!("/{}", escape(field)));
        return Problem::field(Code::MissingField, pointer, message);
    }
    if let Some(field) = named("duplicate field") {
        pointer.push_str(&format!("/{}", escape(field)));
        return Problem::field(Code::InvalidBody, pointer, message);
    }
    Problem::field(Code::InvalidType, pointer, shortened(message))
}

/// A message quotes what was sent, however long; how it begins and ends says enough.
fn shortened(message: &str) -> String {
    let length = message.chars().count();
    if length <= 2 * QUOTED_MAX {
        return message.to_owned();
    }
    let begin = message.chars().take(QUOTED_MAX);
    begin.chain(['…']).chain(message.chars().skip(length - QUOTED_MAX)).collect()
}

/// A NUL can only come as itself, which JSON forbids, or as the escape of a string.
fn has_nul(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            0 => return true,
            b'\\' => match rest.next() {
                Some(b'u') if rest.as_slice().starts_with(b"0000") => return true,
                Some(_) | None => {}
            },
            _ => {}
        }
    }
    false
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", escape(key))),
            Segment::Enum { variant } => Some(format!("/{}", escape(variant))),
            Segment::Unknown => None,
        })
        .collect()
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// An integer as a number, or as the decimal string that clients of the old contract send.
pub fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Integer;
    impl Visitor<'_> for Integer {
        type Value = i64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an integer, as a number or a decimal string")
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<i64, E> {
            Ok(number)
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<i64, E> {
            i64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<i64, E> {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            match text.parse() {
                Ok(number) if is_decimal => Ok(number),
                Ok(_) | Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(Integer)
}

/// As [`integer`], for a member that may be absent or null.
pub fn optional_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Wrapped(#[serde(deserialize_with = "integer")] i64);
    Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|Wrapped(number)| number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[serde(deserialize_with = "integer")]
        price: i64,
        #[serde(default, deserialize_with = "optional_integer")]
        stock: Option<i64>,
        #[serde(default)]
        parts: Vec<Thing>,
    }

    fn fails(text: &str) -> (Code, String) {
        let problem = parse::<Thing>(text.as_bytes()).expect_err(text);
        let body = problem.respond("/");
        assert!(body.status().is_client_error());
        (problem.code(), format!("{problem:?}"))
    }

    #[test]
    fn integers_are_numbers_or_decimal_strings() {
        let thing: Thing = parse(br#"{"price":"125","stock":"7","parts":[{"price":-1}]}"#).expect("parses");
        assert_eq!((thing.price, thing.stock, thing.parts[0].price), (125, Some(7), -1));
        for wrong in ["1.5", "1e3", "\"1e3\"", "\"+1\"", "\"\"", "\" 1\"", "9223372036854775808", "true"] {
            assert_eq!(fails(&format!(r#"{{"price":{wrong}}}"#)).0, Code::InvalidType, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_a_pointer() {
        let (code, text) = fails(r#"{"price":1,"parts":[{"price":1,"pri/ce":2}]}"#);
        assert_eq!(code, Code::UnknownField);
        assert!(text.contains("\"/parts/0/pri~1ce\""), "{text}");
        let (code, text) = fails(r#"{"parts":[]}"#);
        assert_eq!(code, Code::MissingField);
        assert!(text.contains("\"/price\""), "{text}");
        for broken in ["", "{", r#"{"price":1}x"#, "\u{feff}{}", r#"{"price":NaN}"#] {
            assert_eq!(fails(broken).0, Code::InvalidJson, "{broken:?}");
        }
    }

    #[test]
    fn a_nul_is_found_and_an_escaped_backslash_is_none() {
        assert!(has_nul(br#""a\u0000""#) && has_nul(b"\"a\0\""));
        assert!(!has_nul(br#""a\\u0000""#) && !has_nul(br#""\u0001""#));
    }

    #[test]
    fn a_fingerprint_is_of_what_is_said_and_not_of_how() {
        let fingerprint =
            |text: &'static str| Body { value: (), bytes: Bytes::from_static(text.as_bytes()) }.fingerprint();
        assert_eq!(fingerprint(r#"{"a":1,"b":[1,2]}"#), fingerprint("{ \"b\":[1, 2],\n\"a\":1}"));
        assert_ne!(fingerprint(r#"{"a":1,"b":[1,2]}"#), fingerprint(r#"{"a":1,"b":[2,1]}"#));
        assert_ne!(fingerprint(r#"{"a":1,"x":1e999}"#), fingerprint(r#"{"a":2,"x":1e999}"#));
    }
}
