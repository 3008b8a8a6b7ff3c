//! Records of Kafka that could not be processed: listed, shown, put back. `souk dlq` does the same on the command line.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Operator;
use crate::app::App;
use crate::body::Body;
use crate::bridge::dead_letters::DeadLetter;
use crate::bridge::queue::{Queue, letter_id};
use crate::problem::{Code, Problem};

/// The most letters that are put back by one request.
const REPLAYED_MAX: usize = 1_000;

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(replay))
}

/// Letters that were not put back yet, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
}

/// Which are to be put back on their topics.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// Their ids, `partition/offset`: 1 to 1000.
    ids: Vec<String>,
    /// What they are to say instead, where it is one.
    #[serde(default)]
    body: Option<String>,
}

/// How many were put back.
#[derive(Debug, Serialize, ToSchema)]
struct Replayed {
    replayed: usize,
}

fn queue(app: &App) -> Result<&Queue, Problem> {
    app.dead_letters().ok_or_else(|| Problem::new(Code::NotFound, "no brokers are named: there is no Kafka"))
}

fn unavailable(error: anyhow::Error) -> Problem {
    tracing::warn!(error = format!("{error:#}"), "the dead letters cannot be reached");
    Problem::new(Code::Unavailable, "Kafka does not answer")
}

/// Records that could not be processed and were not put back yet.
#[utoipa::path(get, path = "/admin/dead-letters", tag = "operators", security(("operator" = [])),
    responses((status = 200, body = DeadLetters)))]
async fn list(State(app): State<App>, _: Operator) -> Result<Json<DeadLetters>, Problem> {
    let dead_letters = queue(&app)?.list(false).await.map_err(unavailable)?;
    Ok(Json(DeadLetters { dead_letters }))
}

/// One of them, put back or not.
#[utoipa::path(get, path = "/admin/dead-letters/{partition}/{offset}", tag = "operators",
    security(("operator" = [])), params(("partition" = i32, Path), ("offset" = i64, Path)),
    responses((status = 200, body = DeadLetter)))]
async fn show(
    State(app): State<App>,
    _: Operator,
    Path((partition, offset)): Path<(String, String)>,
) -> Result<Json<DeadLetter>, Problem> {
    let id = format!("{partition}/{offset}");
    let letter = queue(&app)?.find(&id).await.map_err(unavailable)?;
    letter.map(Json).ok_or_else(Problem::not_found)
}

/// Puts records back on their topics.
#[utoipa::path(post, path = "/admin/dead-letters/replay", tag = "operators", security(("operator" = [])),
    request_body = Replay, responses((status = 200, body = Replayed)))]
async fn replay(State(app): State<App>, _: Operator, body: Body<Replay>) -> Result<Json<Replayed>, Problem> {
    let Replay { ids, body } = body.value;
    if !(1..=REPLAYED_MAX).contains(&ids.len()) {
        return Err(Problem::field(Code::InvalidBody, "/ids", format!("1 to {REPLAYED_MAX}")));
    }
    if body.is_some() && ids.len() != 1 {
        return Err(Problem::field(Code::InvalidBody, "/body", "only where one is put back"));
    }
    let queue = queue(&app)?;
    let wrong =
        |id: &String| Problem::field(Code::InvalidId, "/ids", format!("{id:?} is not partition/offset"));
    let places = ids.iter().map(|id| letter_id(id).ok_or_else(|| wrong(id)));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let body = body.as_ref().map(String::as_bytes);
    if let Err((partition, offset)) = queue.replay(&places, body).await.map_err(unavailable)? {
        let detail = format!("there is no dead letter {partition}/{offset}; nothing was put back");
        return Err(Problem::new(Code::NotFound, detail));
    }
    Ok(Json(Replayed { replayed: places.len() }))
}
