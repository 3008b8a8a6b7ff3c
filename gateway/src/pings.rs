//! `POST /{service}/ping`: is anybody there?

use axum::Json;
use axum::extract::RawPathParams;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::body::OptionalBody;
use crate::problem::Problem;

const SERVICES: [&str; 7] = ["account", "products", "orders", "payments", "purchases", "media", "comment"];

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(ping))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Ping {
    /// Not looked at.
    #[serde(default, rename = "message")]
    _message: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Pong {
    message: &'static str,
}

/// Answers `pong`.
#[utoipa::path(post, path = "/{service}/ping", tag = "health", params(("service" = String, Path)),
    request_body = Ping, responses((status = 200, body = Pong)))]
async fn ping(params: RawPathParams, _ping: OptionalBody<Ping>) -> Result<Json<Pong>, Problem> {
    match params.iter().next() {
        Some((_, service)) if SERVICES.contains(&service) => Ok(Json(Pong { message: "pong" })),
        Some(_) | None => Err(Problem::not_found()),
    }
}
