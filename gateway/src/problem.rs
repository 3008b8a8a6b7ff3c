//! Every failure as the caller sees it: `application/problem+json`, RFC 9457, with a stable code and
//! whether trying again is safe.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// As often as one likes: nothing happened.
    Safe,
    /// With the same `Idempotency-Key`: nobody knows whether it happened.
    SameKey,
    /// It would end the same.
    No,
}

/// A stable code, the same for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each has its title in the table below")]
pub enum Code {
    InvalidJson,
    InvalidBody,
    UnknownField,
    MissingField,
    InvalidType,
    InvalidString,
    InvalidId,
    InvalidQuery,
    InvalidHeader,
    InvalidQuantity,
    DuplicateProduct,
    Unauthenticated,
    InvalidCredentials,
    InvalidRefreshToken,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    EmailTaken,
    TooLate,
    PreconditionFailed,
    BodyTooLarge,
    UnsupportedMediaType,
    IdempotencyKeyReused,
    ProductNotFound,
    CategoryNotFound,
    CurrencyMismatch,
    LetterCut,
    LetterFromElsewhere,
    TooManyRequests,
    Internal,
    Unavailable,
    Overloaded,
    Draining,
    Timeout,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 34] = [
        Self::InvalidJson,
        Self::InvalidBody,
        Self::UnknownField,
        Self::MissingField,
        Self::InvalidType,
        Self::InvalidString,
        Self::InvalidId,
        Self::InvalidQuery,
        Self::InvalidHeader,
        Self::InvalidQuantity,
        Self::DuplicateProduct,
        Self::Unauthenticated,
        Self::InvalidCredentials,
        Self::InvalidRefreshToken,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::EmailTaken,
        Self::TooLate,
        Self::PreconditionFailed,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::ProductNotFound,
        Self::CategoryNotFound,
        Self::CurrencyMismatch,
        Self::LetterCut,
        Self::LetterFromElsewhere,
        Self::TooManyRequests,
        Self::Internal,
        Self::Unavailable,
        Self::Overloaded,
        Self::Draining,
        Self::Timeout,
    ];

    /// (code, status, title, whether to try again)
    pub fn row(self) -> (&'static str, u16, &'static str, Retry) {
        match self {
            Self::InvalidJson => ("invalid_json", 400, "The body is not JSON", Retry::No),
            Self::InvalidBody => ("invalid_body", 400, "The body says what cannot be", Retry::No),
            Self::UnknownField => ("unknown_field", 400, "The body has a field that is not known", Retry::No),
            Self::MissingField => ("missing_field", 400, "The body lacks a field", Retry::No),
            Self::InvalidType => ("invalid_type", 400, "A field has another type or range", Retry::No),
            Self::InvalidString => ("invalid_string", 400, "A string contains NUL", Retry::No),
            Self::InvalidId => ("invalid_id", 400, "The id is not a UUID", Retry::No),
            Self::InvalidQuery => ("invalid_query", 400, "The query is not understood", Retry::No),
            Self::InvalidHeader => ("invalid_header", 400, "A header is not understood", Retry::No),
            Self::InvalidQuantity => ("invalid_quantity", 400, "The quantity is out of bounds", Retry::No),
            Self::DuplicateProduct => ("duplicate_product", 400, "A product is ordered twice", Retry::No),
            Self::Unauthenticated => ("unauthenticated", 401, "A valid access token is needed", Retry::No),
            Self::InvalidCredentials => {
                ("invalid_credentials", 401, "The e-mail address or password is wrong", Retry::No)
            }
            Self::InvalidRefreshToken => {
                ("invalid_refresh_token", 401, "The session is over or never was", Retry::No)
            }
            Self::Forbidden => ("forbidden", 403, "It is somebody else's", Retry::No),
            Self::NotFound => ("not_found", 404, "There is no such thing", Retry::No),
            Self::MethodNotAllowed => {
                ("method_not_allowed", 405, "The path does not know this method", Retry::No)
            }
            Self::EmailTaken => ("email_taken", 409, "The e-mail address has an account", Retry::No),
            Self::TooLate => ("too_late", 409, "The purchase has ended otherwise", Retry::No),
            Self::PreconditionFailed => {
                ("precondition_failed", 412, "It has changed since it was read", Retry::No)
            }
            Self::BodyTooLarge => ("body_too_large", 413, "The body is too large", Retry::No),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", 415, "The body must be application/json", Retry::No)
            }
            Self::IdempotencyKeyReused => {
                ("idempotency_key_reused", 422, "The key names something of another body", Retry::No)
            }
            Self::ProductNotFound => ("product_not_found", 422, "A product is not for sale", Retry::No),
            Self::CategoryNotFound => ("category_not_found", 422, "There is no such category", Retry::No),
            Self::CurrencyMismatch => {
                ("currency_mismatch", 422, "A product is priced in another currency", Retry::No)
            }
            Self::LetterCut => ("letter_cut", 422, "Only a part of the record was kept", Retry::No),
            Self::LetterFromElsewhere => {
                ("letter_from_elsewhere", 422, "The record is not from a topic that is read", Retry::No)
            }
            Self::TooManyRequests => ("too_many_requests", 429, "Too much at once", Retry::Safe),
            Self::Internal => ("internal", 500, "Something is broken", Retry::SameKey),
            Self::Unavailable => ("unavailable", 503, "Nobody knows whether it happened", Retry::SameKey),
            Self::Overloaded => ("overloaded", 503, "Too much is under way", Retry::Safe),
            Self::Draining => ("draining", 503, "This node is going away", Retry::Safe),
            Self::Timeout => ("timeout", 503, "It took too long", Retry::SameKey),
        }
    }
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<Violation>,
    location: Option<String>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Violation {
    /// A JSON pointer into the body (RFC 6901).
    pub pointer: String,
    /// As for the problem itself.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// What is wrong with texts that may be absent: (name, text, longest).
pub fn texts(fields: &[(&str, Option<&String>, usize)]) -> Vec<Violation> {
    fields
        .iter()
        .filter_map(|(name, text, max)| {
            let length = (*text)?.trim().chars().count();
            (length == 0 || length > *max).then(|| Violation {
                pointer: format!("/{name}"),
                code: "invalid_length",
                detail: format!("1 to {max} characters"),
            })
        })
        .collect()
}

/// A failure, on the wire.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    kind: String,
    /// For people, the same for every problem of the kind.
    title: &'a str,
    /// The HTTP status code.
    status: u16,
    /// For people, this time.
    detail: &'a str,
    /// The path that was asked for.
    instance: &'a str,
    /// Stable, for machines.
    code: &'a str,
    /// Whether to try again.
    retry: Retry,
    /// Field by field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

impl Problem {
    /// A problem, with what is to be said about this one.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), location: None }
    }

    /// A problem of one field.
    pub fn field(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (name, _, title, _) = code.row();
        let violation = Violation { pointer: pointer.into(), code: name, detail: detail.into() };
        Self { code, detail: title.to_owned(), errors: vec![violation], location: None }
    }

    /// Everything that is wrong with a body, or nothing.
    pub fn violations(errors: Vec<Violation>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        let (_, _, title, _) = Code::InvalidBody.row();
        Err(Self { code: Code::InvalidBody, detail: title.to_owned(), errors, location: None })
    }

    /// There is no such thing, or it is not the caller's: both look the same.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "no such thing, or it is not yours")
    }

    /// Nobody knows whether it happened.
    pub fn unknown() -> Self {
        Self::new(Code::Unavailable, "the outcome is unknown; the same may be asked again")
    }

    /// Where to look how it ended.
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// For people: what is wrong, field by field where it is known.
    pub fn told(&self) -> String {
        let fields: Vec<_> =
            self.errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect();
        if fields.is_empty() { self.detail.clone() } else { fields.join("; ") }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The answer to a request for `instance`.
    pub fn respond(&self, instance: &str) -> Response {
        let (code, status, title, retry) = self.code.row();
        let kind = format!("/docs/problems#{code}");
        let Self { detail, errors, .. } = self;
        let body = ProblemBody { kind, title, status, detail, instance, code, retry, errors };
        let text = serde_json::to_vec(&body).expect("a problem is strings and numbers");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::from_u16(status).expect("the table has real status codes");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            401 => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            429 | 503 => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        if let Some(location) = self.location.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(axum::http::header::LOCATION, location);
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.respond("");
        // The outermost layer knows the path, and answers anew with it.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_code() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.row().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        assert_eq!(Code::ALL.len(), Code::Timeout as usize + 1, "the last one is named here");
    }
}
