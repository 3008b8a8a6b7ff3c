//! What every request passes: admission, a time limit, a trace, metrics; and what every answer gets.
//!
//! One function instead of ten layers: each would cost an allocation and a future per request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use souk_actors::admission::Gate;
use tokio::time::Instant;

use crate::problem::{Code, Problem};
use crate::trace::TraceParent;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID_MAX: usize = 128;

/// The bounds of requests.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// How many may be under way.
    pub gate: Arc<Gate>,
    /// How long one may take until the head of its answer.
    pub timeout: Duration,
}

/// Handles a request within its bounds.
pub async fn pass(State(limits): State<RequestLimits>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let trace = TraceParent::follow(text(request.headers(), &TRACEPARENT));
    let request_id = request_id(request.headers(), trace);

    let mut response = handle(&limits, request, next).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.respond(&path);
    }
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&trace.header()) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(REQUEST_ID, request_id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));

    // Never the path itself: a label has few values.
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let elapsed = started.elapsed();
    let trace = format!("{:032x}", trace.trace);
    if status.is_server_error() {
        tracing::warn!(%method, route, status = status.as_u16(), ?elapsed, trace, "request failed");
    } else {
        tracing::debug!(%method, route, status = status.as_u16(), ?elapsed, trace, "request handled");
    }
    metrics::histogram!("souk_http_request_seconds", "method" => method.to_string(), "route" => route.clone())
        .record(elapsed.as_secs_f64());
    metrics::counter!("souk_http_requests_total", "method" => method.to_string(), "route" => route,
        "status" => status.as_u16().to_string())
    .increment(1);
    response
}

async fn handle(limits: &RequestLimits, request: Request, next: Next) -> Response {
    let Some(_permit) = limits.gate.enter() else {
        return Problem::new(Code::Overloaded, "too many requests are under way").into_response();
    };
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(limits.timeout, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let cause = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            tracing::error!(cause, "request handler panicked");
            Problem::new(Code::Internal, "the request could not be handled").into_response()
        }
        Err(_elapsed) => Problem::new(Code::Timeout, "the request was not handled in time").into_response(),
    }
}

/// The caller's id of the request, if it is one line of text, else one of our own.
fn request_id(headers: &HeaderMap, trace: TraceParent) -> HeaderValue {
    let theirs = headers.get(REQUEST_ID).filter(|value| {
        let length = value.len();
        (1..=REQUEST_ID_MAX).contains(&length) && value.to_str().is_ok()
    });
    theirs.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&format!("{:016x}", trace.span)).expect("hexadecimal digits are a header value")
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
