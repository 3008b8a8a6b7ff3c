//! Categories.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use souk_actors::category::{self, Category, Facts};
use souk_actors::directory::AskError;
use souk_actors::{Id, Timestamp};
use souk_persistence::journal::ViewRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::{App, Caller, decode};
use crate::body::Body;
use crate::params::{IdempotencyKey, List, Page, PathId, Query, replay_mark};
use crate::problem::{Code, Problem, texts};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(read, change, remove))
}

const NAME_MAX: usize = 200;
const DESCRIPTION_MAX: usize = 5_000;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateCategory {
    name: String,
    description: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeCategory {
    name: Option<String>,
    description: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Category)]
struct CategoryBody {
    id: Uuid,
    name: String,
    description: String,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct Enveloped {
    category: CategoryBody,
}

/// A category that was made, also under the name by which today's clients read it.
#[derive(Debug, Serialize, ToSchema)]
struct Created {
    category: CategoryBody,
    categoty: CategoryBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    limit: Option<String>,
    cursor: Option<String>,
}

fn show(row: &ViewRow) -> Result<CategoryBody, Problem> {
    let category::View { name, description, gone: _ } = decode(row)?;
    let (id, updated_at, created_at) = (row.stream, row.updated_at, row.created_at);
    Ok(CategoryBody { id, name, description, updated_at, created_at })
}

/// Makes a category.
#[utoipa::path(post, path = "/categories", tag = "products", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = CreateCategory,
    responses((status = 201, body = Created)))]
async fn create(
    State(app): State<App>,
    Caller(maker): Caller,
    IdempotencyKey(key): IdempotencyKey,
    body: Body<CreateCategory>,
) -> Result<Response, Problem> {
    let fingerprint = key.is_some().then(|| body.fingerprint());
    let CreateCategory { name, description } = body.value;
    Problem::violations(texts(&[
        ("name", Some(&name), NAME_MAX),
        ("description", Some(&description), DESCRIPTION_MAX),
    ]))?;
    let command = category::Command::Create(Facts { maker, name, description, fingerprint });
    let id = app.identify::<Category>("POST /categories", maker, key.as_deref(), None);
    let replayed = match app.make(id, key.as_deref(), command).await {
        Ok(category::Answer::Category { replayed, .. }) => replayed,
        Ok(category::Answer::Removed) => false,
        Err(error) => return Err(problem(error)),
    };
    let row = app.view::<Category>(id.uuid()).await?.ok_or_else(Problem::unknown)?;
    let category = show(&row)?;
    let location = [("location", format!("/api/v1/categories/{id}"))];
    let body = Created { categoty: category.clone(), category };
    Ok((StatusCode::CREATED, location, replay_mark(replayed), Json(body)).into_response())
}

fn problem(error: AskError<category::Rejection>) -> Problem {
    match error {
        AskError::Rejected(category::Rejection::NotFound) => Problem::not_found(),
        AskError::Rejected(category::Rejection::NotTheMaker) => {
            Problem::new(Code::Forbidden, "only who made a category changes it")
        }
        AskError::Rejected(category::Rejection::KeyReused) => {
            Problem::new(Code::IdempotencyKeyReused, "the key named a category of another body")
        }
        AskError::Unknown => Problem::unknown(),
    }
}

/// Every category, newest first.
#[utoipa::path(get, path = "/categories", tag = "products",
    params(("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = List<CategoryBody>)))]
async fn list(
    State(app): State<App>,
    Query(filter): Query<Filter>,
) -> Result<Json<List<CategoryBody>>, Problem> {
    let page = Page::parse(filter.limit.as_deref(), filter.cursor.as_deref())?;
    let rows = app.list::<Category>(None, Vec::new(), page).await?;
    Ok(Json(List::new(rows, page, "/api/v1/categories", &[], show)?))
}

/// One category.
#[utoipa::path(get, path = "/categories/{id}", tag = "products", params(("id" = Uuid, Path)),
    responses((status = 200, body = Enveloped)))]
async fn read(State(app): State<App>, PathId(id): PathId) -> Result<Json<Enveloped>, Problem> {
    let row = app.view::<Category>(id).await?.ok_or_else(Problem::not_found)?;
    if decode::<category::View>(&row)?.gone {
        return Err(Problem::not_found());
    }
    Ok(Json(Enveloped { category: show(&row)? }))
}

/// Renames or describes a category anew.
#[utoipa::path(put, path = "/categories/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path)), request_body = ChangeCategory, responses((status = 200, body = Enveloped)))]
async fn change(
    State(app): State<App>,
    Caller(by): Caller,
    PathId(id): PathId,
    Body { value: body, .. }: Body<ChangeCategory>,
) -> Result<Json<Enveloped>, Problem> {
    let ChangeCategory { name, description } = body;
    Problem::violations(texts(&[
        ("name", name.as_ref(), NAME_MAX),
        ("description", description.as_ref(), DESCRIPTION_MAX),
    ]))?;
    let command = category::Command::Change { by, name, description };
    app.directory().ask(Id::<Category>::from(id), command, app.patience()).await.map_err(problem)?;
    read(State(app), PathId(id)).await
}

/// Removes a category. Its products stay.
#[utoipa::path(delete, path = "/categories/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path)), responses((status = 204, description = "It is removed")))]
async fn remove(
    State(app): State<App>,
    Caller(by): Caller,
    PathId(id): PathId,
) -> Result<StatusCode, Problem> {
    let command = category::Command::Remove { by };
    app.directory().ask(Id::<Category>::from(id), command, app.patience()).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}
