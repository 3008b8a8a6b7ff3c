//! Products and what of them can be bought.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use souk_actors::category::{self, Category};
use souk_actors::directory::AskError;
use souk_actors::money::{Currency, INVENTORY_MAX, PRICE_MAX};
use souk_actors::product::{self, Facts, Patch, Product, Seen};
use souk_actors::{Id, Timestamp};
use souk_persistence::journal::ViewRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::{App, Caller, decode};
use crate::body::{Body, integer, optional_integer};
use crate::params::{IdempotencyKey, IfMatch, List, Page, PathId, Query, parse_id, replay_mark};
use crate::problem::{Code, Problem, Violation, texts};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list, change_named))
        .routes(routes!(check, check_body))
        .routes(routes!(read, change, withdraw))
}

const NAME_MAX: usize = 200;
const DESCRIPTION_MAX: usize = 5_000;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateProduct {
    category_id: Uuid,
    name: String,
    description: String,
    brand_name: String,
    /// Of one, in minor units of the currency.
    #[serde(deserialize_with = "integer")]
    price: i64,
    #[serde(deserialize_with = "integer")]
    inventory: i64,
    /// ISO 4217; the shop's currency if absent.
    #[serde(default)]
    currency: Option<String>,
    /// Ignored: the seller is the caller.
    #[serde(default, rename = "id_account")]
    _id_account: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeProduct {
    /// Only for `PUT /products`.
    id: Option<Uuid>,
    category_id: Option<Uuid>,
    name: Option<String>,
    description: Option<String>,
    brand_name: Option<String>,
    #[serde(default, deserialize_with = "optional_integer")]
    price: Option<i64>,
    /// What can be bought from now on.
    #[serde(default, deserialize_with = "optional_integer")]
    inventory: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Product)]
struct ProductBody {
    id: Uuid,
    category_id: Uuid,
    id_account: Uuid,
    name: String,
    description: String,
    brand_name: String,
    price: i64,
    currency: String,
    /// What can still be bought: on hand less held.
    inventory: i64,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct Enveloped {
    product: ProductBody,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct Urls {
    url: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Detailed {
    product: ProductBody,
    images: Urls,
    videos: Urls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    limit: Option<String>,
    cursor: Option<String>,
    category_id: Option<String>,
    id_account: Option<String>,
    brand_name: Option<String>,
    name: Option<String>,
    currency: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckQuery {
    id: String,
    quantity: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Check {
    id: Uuid,
    #[serde(deserialize_with = "integer")]
    quantity: i64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Valid {
    /// So many can be bought now.
    valid: bool,
}

fn show(row: &ViewRow) -> Result<ProductBody, Problem> {
    let view: product::View = decode(row)?;
    Ok(ProductBody {
        id: row.stream,
        category_id: view.category_id.uuid(),
        id_account: view.id_account.uuid(),
        name: view.name,
        description: view.description,
        brand_name: view.brand_name,
        price: view.price,
        currency: view.currency.code().to_owned(),
        inventory: view.inventory,
        updated_at: row.updated_at,
        created_at: row.created_at,
    })
}

/// What the representation is known by: the revision of the facts, which guards a change, and the
/// inventory that it showed, which a change that sends it back leaves alone.
fn tag(view: &product::View) -> String {
    format!("\"r{}-{}\"", view.revision, view.inventory)
}

fn seen(tag: Option<&str>) -> Result<Option<Seen>, Problem> {
    let Some(tag) = tag else { return Ok(None) };
    let parse = || {
        let (revision, inventory) = tag.strip_prefix("\"r")?.strip_suffix('"')?.split_once('-')?;
        Some(Seen { revision: revision.parse().ok()?, inventory: inventory.parse().ok()? })
    };
    // A tag that is not ours names no representation that there ever was.
    parse().map(Some).ok_or_else(|| Problem::new(Code::PreconditionFailed, "the entity tag is not known"))
}

fn numbers(price: Option<i64>, inventory: Option<i64>) -> Vec<Violation> {
    [("price", price, PRICE_MAX), ("inventory", inventory, INVENTORY_MAX)]
        .into_iter()
        .filter(|(_, number, max)| number.is_some_and(|number| !(0..=*max).contains(&number)))
        .map(|(name, _, max)| Violation {
            pointer: format!("/{name}"),
            code: "out_of_range",
            detail: format!("0 to {max}"),
        })
        .collect()
}

async fn category(app: &App, id: Uuid) -> Result<Id<Category>, Problem> {
    let exists = match app.view::<Category>(id).await? {
        Some(row) => !decode::<category::View>(&row)?.gone,
        None => false,
    };
    match exists {
        true => Ok(Id::from(id)),
        false => Err(Problem::field(Code::CategoryNotFound, "/category_id", "there is no such category")),
    }
}

/// Offers a product.
#[utoipa::path(post, path = "/products", tag = "products", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = CreateProduct,
    responses((status = 201, body = Enveloped)))]
async fn create(
    State(app): State<App>,
    Caller(seller): Caller,
    IdempotencyKey(key): IdempotencyKey,
    body: Body<CreateProduct>,
) -> Result<Response, Problem> {
    let fingerprint = key.is_some().then(|| body.fingerprint());
    let (facts, inventory) = facts(&app, seller, fingerprint, body.value).await?;
    let command = product::Command::Create { facts, inventory };
    let id = app.identify::<Product>("POST /products", seller, key.as_deref(), None);
    let replayed = match app.make(id, key.as_deref(), command).await {
        Ok(product::Answer::Product { replayed, .. }) => replayed,
        Ok(
            product::Answer::Withdrawn
            | product::Answer::Reserved(_)
            | product::Answer::Released
            | product::Answer::Settled,
        ) => false,
        Err(error) => return Err(problem(error)),
    };
    let row = app.view::<Product>(id.uuid()).await?.ok_or_else(Problem::unknown)?;
    let headers =
        [("location", format!("/api/v1/products/{id}")), ("etag", tag(&decode::<product::View>(&row)?))];
    let mark = replay_mark(replayed);
    Ok((StatusCode::CREATED, headers, mark, Json(Enveloped { product: show(&row)? })).into_response())
}

async fn facts(
    app: &App,
    seller: Id<souk_actors::account::Account>,
    fingerprint: Option<String>,
    body: CreateProduct,
) -> Result<(Facts, i64), Problem> {
    let CreateProduct {
        category_id, name, description, brand_name: brand, price, inventory, currency, ..
    } = body;
    let mut wrong = texts(&[
        ("name", Some(&name), NAME_MAX),
        ("description", Some(&description), DESCRIPTION_MAX),
        ("brand_name", Some(&brand), NAME_MAX),
    ]);
    wrong.extend(numbers(Some(price), Some(inventory)));
    let currency = match currency.as_deref().map(str::parse::<Currency>) {
        None => app.shop_currency(),
        Some(Ok(currency)) => currency,
        Some(Err(error)) => {
            let (pointer, detail) = ("/currency".to_owned(), error.to_string());
            wrong.push(Violation { pointer, code: "invalid_currency", detail });
            app.shop_currency()
        }
    };
    Problem::violations(wrong)?;
    let category = category(app, category_id).await?;
    Ok((Facts { seller, category, name, description, brand, price, currency, fingerprint }, inventory))
}

fn problem(error: AskError<product::Rejection>) -> Problem {
    match error {
        AskError::Rejected(product::Rejection::NotTheSeller) => {
            Problem::new(Code::Forbidden, "only its seller changes a product")
        }
        AskError::Rejected(product::Rejection::Changed) => {
            Problem::new(Code::PreconditionFailed, "the product has changed; read it again")
        }
        AskError::Rejected(product::Rejection::KeyReused) => {
            Problem::new(Code::IdempotencyKeyReused, "the key named a product of another body")
        }
        AskError::Rejected(
            product::Rejection::NotFound
            | product::Rejection::CurrencyMismatch
            | product::Rejection::InsufficientStock
            | product::Rejection::Over
            | product::Rejection::OtherQuantity,
        ) => Problem::not_found(),
        AskError::Unknown => Problem::unknown(),
    }
}

/// What is for sale, newest first.
#[utoipa::path(get, path = "/products", tag = "products", params(
    ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query),
    ("category_id" = Option<Uuid>, Query), ("id_account" = Option<Uuid>, Query, description = "The seller"),
    ("brand_name" = Option<String>, Query), ("name" = Option<String>, Query),
    ("currency" = Option<String>, Query)),
    responses((status = 200, body = List<ProductBody>)))]
async fn list(
    State(app): State<App>,
    Query(filter): Query<Filter>,
) -> Result<Json<List<ProductBody>>, Problem> {
    let Filter { limit, cursor, category_id, id_account, brand_name, name, currency } = filter;
    let page = Page::parse(limit.as_deref(), cursor.as_deref())?;
    let id = |text: &String| {
        parse_id(text)
            .ok_or_else(|| Problem::new(Code::InvalidQuery, "an id is a UUID in its hyphenated form"))
    };
    let seller = id_account.as_ref().map(id).transpose()?;
    category_id.as_ref().map(id).transpose()?;
    let named = [
        ("category_id", category_id.map(|id| id.to_ascii_lowercase())),
        ("brand_name", brand_name),
        ("name", name),
        ("currency", currency),
    ];
    let equal: Vec<_> =
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let rows = app.list::<Product>(seller, equal.clone(), page).await?;
    let mut filters = equal;
    filters.extend(seller.map(|seller| ("id_account".to_owned(), seller.to_string())));
    Ok(Json(List::new(rows, page, "/api/v1/products", &filters, show)?))
}

/// One product.
#[utoipa::path(get, path = "/products/{id}", tag = "products", params(("id" = Uuid, Path)),
    responses((status = 200, body = Detailed)))]
async fn read(State(app): State<App>, PathId(id): PathId) -> Result<Response, Problem> {
    let row = on_sale(&app, id).await?.ok_or_else(Problem::not_found)?;
    let tag = tag(&decode(&row)?);
    let body = Detailed { product: show(&row)?, images: Urls::default(), videos: Urls::default() };
    Ok(([(ETAG, tag)], Json(body)).into_response())
}

async fn on_sale(app: &App, id: Uuid) -> Result<Option<ViewRow>, Problem> {
    let Some(row) = app.view::<Product>(id).await? else { return Ok(None) };
    let view: product::View = decode(&row)?;
    Ok((!view.gone).then_some(row))
}

/// Changes a product.
#[utoipa::path(put, path = "/products/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)), request_body = ChangeProduct,
    responses((status = 200, body = Enveloped), (status = 412, description = "precondition_failed")))]
async fn change(
    State(app): State<App>,
    Caller(by): Caller,
    PathId(id): PathId,
    IfMatch(tag): IfMatch,
    Body { value: body, .. }: Body<ChangeProduct>,
) -> Result<Response, Problem> {
    if body.id.is_some_and(|named| named != id) {
        return Err(Problem::field(Code::InvalidBody, "/id", "not the id of the path"));
    }
    change_one(&app, by, id, tag, body).await
}

/// Changes the product that the body names.
#[utoipa::path(put, path = "/products", tag = "products", security(("token" = [])),
    params(("If-Match" = Option<String>, Header)), request_body = ChangeProduct,
    responses((status = 200, body = Enveloped), (status = 412, description = "precondition_failed")))]
async fn change_named(
    State(app): State<App>,
    Caller(by): Caller,
    IfMatch(tag): IfMatch,
    Body { value: body, .. }: Body<ChangeProduct>,
) -> Result<Response, Problem> {
    let missing = || Problem::field(Code::MissingField, "/id", "which product?");
    let id = body.id.ok_or_else(missing)?;
    change_one(&app, by, id, tag, body).await
}

async fn change_one(
    app: &App,
    by: Id<souk_actors::account::Account>,
    id: Uuid,
    tag_seen: Option<String>,
    body: ChangeProduct,
) -> Result<Response, Problem> {
    let ChangeProduct { id: _, category_id, name, description, brand_name: brand, price, inventory } = body;
    let mut wrong = texts(&[
        ("name", name.as_ref(), NAME_MAX),
        ("description", description.as_ref(), DESCRIPTION_MAX),
        ("brand_name", brand.as_ref(), NAME_MAX),
    ]);
    wrong.extend(numbers(price, inventory));
    Problem::violations(wrong)?;
    let seen = seen(tag_seen.as_deref())?;
    let category = match category_id {
        Some(id) => Some(category(app, id).await?),
        None => None,
    };
    let patch = Patch { category, name, description, brand, price, inventory };
    let command = product::Command::Change { by, patch, seen };
    app.directory().ask(Id::<Product>::from(id), command, app.patience()).await.map_err(problem)?;
    let row = app.view::<Product>(id).await?.ok_or_else(Problem::not_found)?;
    let headers = [(ETAG, tag(&decode(&row)?))];
    Ok((headers, Json(Enveloped { product: show(&row)? })).into_response())
}

/// Sells a product no more. Orders keep it.
#[utoipa::path(delete, path = "/products/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204, description = "It is withdrawn")))]
async fn withdraw(
    State(app): State<App>,
    Caller(by): Caller,
    PathId(id): PathId,
    IfMatch(tag): IfMatch,
) -> Result<StatusCode, Problem> {
    let command = product::Command::Withdraw { by, seen: seen(tag.as_deref())? };
    app.directory().ask(Id::<Product>::from(id), command, app.patience()).await.map_err(problem)?;
    app.forget_product(id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether so many can be bought now.
#[utoipa::path(get, path = "/products/check", tag = "products",
    params(("id" = Uuid, Query), ("quantity" = i64, Query)), responses((status = 200, body = Valid)))]
async fn check(State(app): State<App>, Query(query): Query<CheckQuery>) -> Result<Json<Valid>, Problem> {
    let invalid = || Problem::new(Code::InvalidQuery, "id is a UUID and quantity an integer");
    let id = parse_id(&query.id).ok_or_else(|| Problem::new(Code::InvalidId, "an id is a UUID"))?;
    let quantity = query.quantity.parse().map_err(|_| invalid())?;
    can_be_bought(&app, id, quantity).await
}

/// Whether so many can be bought now.
#[utoipa::path(post, path = "/products/check", tag = "products", request_body = Check,
    responses((status = 200, body = Valid)))]
async fn check_body(
    State(app): State<App>,
    Body { value: Check { id, quantity }, .. }: Body<Check>,
) -> Result<Json<Valid>, Problem> {
    can_be_bought(&app, id, quantity).await
}

async fn can_be_bought(app: &App, id: Uuid, quantity: i64) -> Result<Json<Valid>, Problem> {
    let row = on_sale(app, id).await?.ok_or_else(Problem::not_found)?;
    let view: product::View = decode(&row)?;
    let most = view.inventory.min(i64::from(souk_actors::money::QUANTITY_MAX));
    Ok(Json(Valid { valid: (1..=most).contains(&quantity) }))
}
