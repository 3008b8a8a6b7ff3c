//! What every request passes: admission, a time limit, a trace, metrics; and what every answer gets.
//!
//! One function instead of ten layers: each would cost an allocation and a future per request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use souk_actors::admission::Gate;
use souk_actors::route::TRACEPARENT as CURRENT_TRACE;
use tokio::time::Instant;
use tracing::Instrument;

use crate::problem::{Code, Problem};
use crate::trace::TraceParent;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID_MAX: usize = 128;
/// Told even when too much is under way: a node must not be restarted for being busy.
const HEALTH: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// The bounds of requests.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// How many may be under way.
    pub gate: Arc<Gate>,
    /// How long one may take until the head of its answer.
    pub timeout: Duration,
}

/// Puts what every request passes around `router`, and answers for paths and methods that it does not know.
pub fn layers<S: Clone + Send + Sync + 'static>(router: Router<S>, limits: RequestLimits) -> Router<S> {
    router
        .fallback(async || Problem::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "the path does not know this method")
        })
        .layer(from_fn_with_state(limits, pass))
}

/// Handles a request within its bounds.
async fn pass(State(limits): State<RequestLimits>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _under_way = UnderWay::begin();
    let method = method(request.method());
    let uri = request.uri().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    // Never the path itself: a label has few values.
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let trace = TraceParent::follow(text(request.headers(), &TRACEPARENT));
    let request_id = request_id(request.headers(), trace);
    let span = tracing::info_span!("request", method, route, trace = %format_args!("{:032x}", trace.trace));

    let traceparent: Arc<str> = trace.header().into();
    let handled = handle(&limits, route, request, next).instrument(span.clone());
    let mut response = CURRENT_TRACE.scope(Arc::clone(&traceparent), handled).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.respond(uri.path());
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&traceparent) {
        headers.insert(TRACEPARENT, value);
    }
    headers.insert(REQUEST_ID, request_id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));

    let (status, elapsed) = (response.status(), started.elapsed());
    span.in_scope(|| match status.is_server_error() {
        true => tracing::warn!(status = status.as_u16(), ?elapsed, "request failed"),
        false => tracing::debug!(status = status.as_u16(), ?elapsed, "request handled"),
    });
    count(method, route, status, elapsed);
    response
}

fn count(method: &'static str, route: &str, status: StatusCode, elapsed: Duration) {
    let route: Arc<str> = Arc::from(route);
    metrics::histogram!("souk_http_request_seconds", "method" => method, "route" => Arc::clone(&route))
        .record(elapsed.as_secs_f64());
    let status = status.as_str().to_owned();
    metrics::counter!("souk_http_requests_total", "method" => method, "route" => route, "status" => status)
        .increment(1);
}

/// A request under way, counted until it is answered or its client is gone.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        metrics::gauge!("souk_http_requests_under_way").increment(1.0);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        metrics::gauge!("souk_http_requests_under_way").decrement(1.0);
    }
}

/// The method as a label. A client may invent methods, and each would be counted for ever.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

async fn handle(limits: &RequestLimits, route: &str, request: Request, next: Next) -> Response {
    let permit = limits.gate.enter();
    if permit.is_none() && !HEALTH.contains(&route) {
        return Problem::new(Code::Overloaded, "too many requests are under way").into_response();
    }
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
