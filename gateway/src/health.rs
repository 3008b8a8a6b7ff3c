//! Health: whether the process makes progress, whether it takes requests, and what it counts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::telemetry;

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).routes(routes!(metrics))
}

/// Whether this node takes requests.
#[derive(Debug, Serialize, ToSchema)]
struct Ready {
    ready: bool,
    /// Purchases under way on this node.
    purchases: usize,
    /// Completed purchases whose stock is not settled yet.
    unsettled: usize,
    /// Entities that were left alone because they kept failing: a person must look.
    quarantined: Vec<QuarantinedEntity>,
    /// Where this node is not alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterHealth>,
}

/// The node's part in its cluster.
#[derive(Debug, Serialize, ToSchema)]
struct ClusterHealth {
    /// Its lease is certain; without one it has no shards and answers nothing.
    member: bool,
    /// How many shards it has.
    shards: usize,
    /// How many shards nobody has.
    unowned: usize,
    /// Other live nodes that it cannot reach.
    unreachable: Vec<String>,
    /// It can reach none of several: its cookie is another one, or its network is cut.
    isolated: bool,
}

/// An entity that was left alone.
#[derive(Debug, Serialize, ToSchema)]
struct QuarantinedEntity {
    kind: &'static str,
    id: String,
    since: String,
}

/// The process makes progress.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "It does")))]
async fn live() -> &'static str {
    "ok\n"
}

/// The node takes requests: not while it starts, not while it has no lease in its cluster, and not any more from
/// the first SIGTERM on.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Ready), (status = 503, body = Ready)))]
async fn ready(State(app): State<App>) -> Response {
    let (purchases, unsettled) = app.shop().in_flight();
    let quarantined = app
        .shop()
        .quarantined()
        .into_iter()
        .take(100)
        .map(|entity| QuarantinedEntity {
            kind: entity.kind,
            id: entity.id.to_string(),
            since: entity.since.to_string(),
        })
        .collect();
    let cluster = app.cluster().map(|cluster| {
        let standing = cluster.standing();
        ClusterHealth {
            member: standing.is_member,
            shards: standing.shards,
            unowned: standing.unowned,
            unreachable: standing.unreachable,
            isolated: standing.is_isolated,
        }
    });
    let ready =
        !app.is_draining() && cluster.as_ref().is_none_or(|cluster| cluster.member && !cluster.isolated);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, purchases, unsettled, quarantined, cluster })).into_response()
}

/// What the node counts, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String)))]
async fn metrics(State(app): State<App>) -> Response {
    app.shop().measure();
    telemetry::measure_allocations();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics().render()).into_response()
}
