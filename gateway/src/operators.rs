//! What operators see and do: the cluster. `souk cluster` says the same on the command line.

mod dead_letters;

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use souk_actors::Timestamp;
use souk_cluster::map::{ClusterMap, Node};
use souk_cluster::register::RegisterError;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::body::Body;
use crate::problem::{Code, Problem};

/// Moves are held at most so long at once.
pub const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(cluster))
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(hold))
        .merge(dead_letters::routes())
}

/// Somebody who knows the operators' token.
struct Operator;

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(token) = &app.settings().admin.token else {
            return Err(Problem::new(Code::Unauthenticated, "it is closed: admin.token is not set"));
        };
        let shown = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let shown = shown
            .and_then(|header| header.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        // Hashes, so that the time it takes to compare says nothing about the token.
        let is_right =
            shown.is_some_and(|(_, shown)| Sha256::digest(shown.trim()) == Sha256::digest(token.reveal()));
        match is_right {
            true => Ok(Self),
            false => Err(Problem::new(Code::Unauthenticated, "this is for operators, who have a token")),
        }
    }
}

/// A cluster as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterStatus {
    /// Which cluster.
    pub id: Uuid,
    /// Grows with every change.
    pub version: i64,
    /// How many shards nobody has.
    pub unowned: usize,
    /// Shards are not moved for balance: somebody holds them, or drains.
    pub held: bool,
    /// Every node whose lease has not been given up.
    pub nodes: Vec<NodeStatus>,
    /// Every shard.
    pub shards: Vec<ShardStatus>,
    /// Slots that nobody may serve because their rows are being moved: first and last.
    pub frozen: Vec<(i16, i16)>,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeStatus {
    /// Through all its starts.
    pub name: String,
    /// Of this start.
    pub incarnation: Uuid,
    /// `live`, `draining`, `clock_off` (too far to have shards), `stuck` (it cannot reach the databases), or `silent`
    /// (its lease has ended).
    pub state: &'static str,
    /// `both`, `gateway` or `worker`.
    pub role: &'static str,
    /// How many shards it has.
    pub shards: usize,
    /// Where clients reach it.
    pub http: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its build.
    pub version: String,
    /// How far its clock is ahead of the database's.
    pub clock_ahead_ms: i64,
    /// What is left of its lease.
    pub lease_ms: i64,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}

/// A shard.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// Its first slot.
    pub first_slot: i16,
    /// Its last slot.
    pub last_slot: i16,
    /// The name of the node that has it; null: nobody.
    pub owner: Option<String>,
    /// Grows whenever it changes hands.
    pub epoch: i64,
}

impl ClusterStatus {
    /// As a map says.
    pub fn of(map: &ClusterMap) -> Self {
        let shards: Vec<ShardStatus> = (0..map.shards).map(|shard| shard_status(map, shard)).collect();
        Self {
            id: map.id,
            version: map.version,
            unowned: shards.iter().filter(|shard| shard.owner.is_none()).count(),
            held: map.is_held || map.nodes.iter().any(|node| node.is_live() && node.is_draining),
            nodes: map.nodes.iter().map(|node| node_status(map, node)).collect(),
            shards,
            frozen: map.frozen.iter().map(|frozen| (frozen.first, frozen.last)).collect(),
        }
    }
}

fn shard_status(map: &ClusterMap, shard: u16) -> ShardStatus {
    let slots = map.slots_of(&[shard]).ranges();
    let owner = map.owner(shard);
    ShardStatus {
        shard,
        first_slot: slots.first().map_or(0, |range| *range.start()),
        last_slot: slots.last().map_or(0, |range| *range.end()),
        owner: owner.owner.and_then(|owner| map.node(owner)).map(|node| node.name.clone()),
        epoch: owner.epoch,
    }
}

fn node_status(map: &ClusterMap, node: &Node) -> NodeStatus {
    let state = match node {
        node if !node.is_live() => "silent",
        node if node.is_draining => "draining",
        node if node.is_stuck => "stuck",
        node if !node.has_right_time() => "clock_off",
        _well => "live",
    };
    NodeStatus {
        name: node.name.clone(),
        incarnation: node.incarnation,
        state,
        role: node.role.name(),
        shards: map.shards_of(node.incarnation).len(),
        http: node.http.clone(),
        address: node.address.clone(),
        version: node.version.clone(),
        clock_ahead_ms: node.ahead_us / 1_000,
        lease_ms: node.remaining_us / 1_000,
        started_at: Timestamp::from_micros(node.started_us),
    }
}

/// Names a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Its name or its incarnation.
    node: String,
}

/// For how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Hold {
    /// 0 to 86400; 0: moves go on.
    seconds: u64,
}

/// Nodes and shards, as the register says now.
#[utoipa::path(get, path = "/admin/cluster", tag = "operators", security(("operator" = [])),
    responses((status = 200, body = ClusterStatus)))]
async fn cluster(State(app): State<App>, _: Operator) -> Result<Json<ClusterStatus>, Problem> {
    status(&app).await
}

/// Has a node give its shards away and take none.
#[utoipa::path(post, path = "/admin/cluster/drain", tag = "operators", security(("operator" = [])),
    request_body = Named, responses((status = 200, body = ClusterStatus)))]
async fn drain(
    State(app): State<App>,
    _: Operator,
    body: Body<Named>,
) -> Result<Json<ClusterStatus>, Problem> {
    set_draining(&app, &body.value.node, true).await
}

/// Has a node take shards again.
#[utoipa::path(post, path = "/admin/cluster/undrain", tag = "operators", security(("operator" = [])),
    request_body = Named, responses((status = 200, body = ClusterStatus)))]
async fn undrain(
    State(app): State<App>,
    _: Operator,
    body: Body<Named>,
) -> Result<Json<ClusterStatus>, Problem> {
    set_draining(&app, &body.value.node, false).await
}

/// Has shards stay where they are for a while, as for a rolling restart.
#[utoipa::path(post, path = "/admin/cluster/hold", tag = "operators", security(("operator" = [])),
    request_body = Hold, responses((status = 200, body = ClusterStatus)))]
async fn hold(State(app): State<App>, _: Operator, body: Body<Hold>) -> Result<Json<ClusterStatus>, Problem> {
    let how_long = Duration::from_secs(body.value.seconds);
    if how_long > HOLD_MAX {
        return Err(Problem::field(Code::InvalidBody, "/seconds", "0 to 86400"));
    }
    let cluster = app.cluster().ok_or_else(alone)?;
    cluster.register().hold(how_long).await?;
    status(&app).await
}

async fn set_draining(app: &App, node: &str, is_so: bool) -> Result<Json<ClusterStatus>, Problem> {
    let cluster = app.cluster().ok_or_else(alone)?;
    match cluster.register().drain(node, is_so).await? {
        0 => Err(Problem::not_found()),
        _ => status(app).await,
    }
}

async fn status(app: &App) -> Result<Json<ClusterStatus>, Problem> {
    let cluster = app.cluster().ok_or_else(alone)?;
    let map = cluster.register().overview().await?.ok_or_else(alone)?;
    Ok(Json(ClusterStatus::of(&map)))
}

fn alone() -> Problem {
    Problem::new(Code::NotFound, "this node is alone: there is no cluster")
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Unavailable(error) => {
                tracing::warn!(%error, "the register cannot be reached");
                Problem::new(Code::Unavailable, "the register of the cluster does not answer")
            }
            RegisterError::Unreadable(error) => {
                tracing::error!(%error, "the register cannot be read");
                Problem::new(Code::Internal, "the register of the cluster cannot be read")
            }
        }
    }
}
