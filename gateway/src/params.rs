//! What a request says beside its body: ids, pages, and headers that name or guard things.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use souk_persistence::journal::ViewRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::problem::{Code, Problem};

/// The id in the path.
#[derive(Clone, Copy, Debug)]
pub struct PathId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let invalid = || Problem::new(Code::InvalidId, "an id is a UUID in its hyphenated form");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        let text = params.iter().next().map(|(_, text)| text).ok_or_else(invalid)?;
        parse_id(text).map(Self).ok_or_else(invalid)
    }
}

/// A UUID in its hyphenated form.
pub fn parse_id(text: &str) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    Uuid::try_parse(text).ok()
}

/// A query, strict: what is not known, or comes twice, is refused.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(Problem::new(Code::InvalidString, "a string may not contain NUL"));
        }
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => Err(Problem::new(Code::InvalidQuery, error.body_text())),
        }
    }
}

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;

/// Which part of a list is shown: newest first, behind a cursor.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// 1 to 100.
    pub limit: i64,
    /// Behind this entry.
    pub after: Option<(Timestamp, Uuid)>,
}

impl Page {
    /// From `limit` and `cursor` of a query.
    pub fn parse(limit: Option<&str>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = match limit.map(str::parse) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => limit,
            Some(_) => return Err(Problem::new(Code::InvalidQuery, "limit is 1 to 100")),
        };
        let after = match cursor.map(open_cursor) {
            None => None,
            Some(Some(after)) => Some(after),
            Some(None) => return Err(Problem::new(Code::InvalidQuery, "the cursor is not one of ours")),
        };
        Ok(Self { limit, after })
    }
}

fn open_cursor(text: &str) -> Option<(Timestamp, Uuid)> {
    let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (at, id) = bytes.split_at(8);
    let at = i64::from_be_bytes(at.try_into().ok()?);
    // The first and last moments that the calendar of the database knows.
    let is_moment = (0..=253_402_300_799_999_999).contains(&at);
    is_moment.then_some((Timestamp::from_micros(at), Uuid::from_slice(id).ok()?))
}

fn seal_cursor(row: &ViewRow) -> String {
    let mut bytes = row.created_at.micros().to_be_bytes().to_vec();
    bytes.extend_from_slice(row.stream.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Where the next part is; null at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// Shows `rows`; asked for one more than the page holds, so that the end is known. `path` with the
    /// filters that were asked for, each as (name, value).
    pub fn new(
        mut rows: Vec<ViewRow>,
        page: Page,
        path: &str,
        filters: &[(String, String)],
        show: impl Fn(&ViewRow) -> Result<T, Problem>,
    ) -> Result<Self, Problem> {
        let size = usize::try_from(page.limit).unwrap_or(0);
        let has_more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| has_more).map(|last| {
            let filters: String =
                filters.iter().map(|(name, value)| format!("{name}={}&", percent_encoded(value))).collect();
            format!("{path}?{filters}limit={}&cursor={}", page.limit, seal_cursor(last))
        });
        Ok(Self { items: rows.iter().map(show).collect::<Result<_, _>>()?, next })
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// `Idempotency-Key`: names the thing that the request makes.
#[derive(Debug)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let invalid = || {
            Problem::new(Code::InvalidHeader, "Idempotency-Key is 1 to 255 printable ASCII characters, once")
        };
        let mut keys = parts.headers.get_all("idempotency-key").iter();
        let Some(key) = keys.next() else { return Ok(Self(None)) };
        let key = key.to_str().map_err(|_| invalid())?.trim();
        let is_valid = (1..=255).contains(&key.len()) && key.bytes().all(|byte| (32..127).contains(&byte));
        match is_valid && keys.next().is_none() {
            true => Ok(Self(Some(key.to_owned()))),
            false => Err(invalid()),
        }
    }
}

/// `Idempotent-Replayed: true`, where what was asked for had been made before.
pub fn replay_mark(is_replayed: bool) -> HeaderMap {
    let name = HeaderName::from_static("idempotent-replayed");
    is_replayed.then_some((name, HeaderValue::from_static("true"))).into_iter().collect()
}

/// The query of a list of the caller's own things.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnList {
    limit: Option<String>,
    cursor: Option<String>,
    status: Option<String>,
}

impl OwnList {
    /// Which part, and which views: (name, value).
    pub fn parse(self) -> Result<(Page, Vec<(String, String)>), Problem> {
        let page = Page::parse(self.limit.as_deref(), self.cursor.as_deref())?;
        Ok((page, self.status.into_iter().map(|status| ("status".to_owned(), status)).collect()))
    }
}

/// `Prefer: wait=N` (RFC 7240): how many seconds the caller would wait for the end, 1 to 30.
#[derive(Clone, Copy, Debug)]
pub struct PreferWait(pub Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for PreferWait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        // A preference that is not understood is no error.
        let preferences = parts.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let wait = preferences
            .flat_map(|value| value.split(','))
            .filter_map(|preference| preference.trim().strip_prefix("wait=")?.parse().ok())
            .find(|seconds| (1..=30).contains(seconds));
        Ok(Self(wait))
    }
}

/// `If-Match`: the representation that a change was made from. `*` is no guard.
#[derive(Debug)]
pub struct IfMatch(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("if-match") else { return Ok(Self(None)) };
        match value.to_str().map(str::trim) {
            Ok("*") => Ok(Self(None)),
            Ok(tag) => Ok(Self(Some(tag.to_owned()))),
            Err(_) => Err(Problem::new(Code::InvalidHeader, "If-Match is an entity tag")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_to_what_was_sealed() {
        let row = ViewRow {
            stream: Uuid::from_u128(7),
            version: 1,
            owner: None,
            created_at: Timestamp::from_micros(1_700_000_000_000_001),
            updated_at: Timestamp::default(),
            view: "{}".into(),
        };
        assert_eq!(open_cursor(&seal_cursor(&row)), Some((row.created_at, row.stream)));
        for forged in ["", "x", "____________________________________", &"A".repeat(1_000)] {
            assert_eq!(open_cursor(forged), None, "{forged}");
        }
    }

    #[test]
    fn a_page_is_bounded() {
        assert_eq!(Page::parse(None, None).expect("a page").limit, 20);
        for wrong in ["0", "101", "-1", "x", "99999999999999999999"] {
            assert!(Page::parse(Some(wrong), None).is_err(), "{wrong}");
        }
    }
}
