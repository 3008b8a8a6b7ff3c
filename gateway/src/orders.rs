//! Orders: what was bought, at the prices at which its stock was reserved.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use souk_actors::Timestamp;
use souk_actors::order::{self, Order, Status};
use souk_actors::product::{self, Product};
use souk_persistence::journal::ViewRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::{App, Caller, decode};
use crate::params::{List, OwnList, PathId, Query};
use crate::problem::Problem;

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

/// The most products whose descriptions are read for one answer.
const DESCRIPTIONS_MAX: usize = 100;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Order)]
struct OrderBody {
    id: Uuid,
    customer_id: Uuid,
    #[schema(value_type = String)]
    status: Status,
    /// Empty until the stock is reserved.
    products: Vec<OrderProduct>,
    amount: Option<i64>,
    currency_code: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct OrderProduct {
    id: Uuid,
    category_id: Uuid,
    name: String,
    brand_name: String,
    /// As it is now: an order records what it was called and what it cost, not what was written about it.
    description: String,
    price: i64,
    quantity: u32,
}

type Descriptions = HashMap<Uuid, String>;

fn show(row: &ViewRow, descriptions: &Descriptions) -> Result<OrderBody, Problem> {
    let view: order::View = decode(row)?;
    let products = view.lines.into_iter().map(|line| {
        let id = line.product.uuid();
        OrderProduct {
            id,
            category_id: line.category.uuid(),
            name: line.name,
            brand_name: line.brand,
            description: descriptions.get(&id).cloned().unwrap_or_default(),
            price: line.price,
            quantity: line.quantity,
        }
    });
    Ok(OrderBody {
        id: row.stream,
        customer_id: row.owner.unwrap_or_default(),
        status: view.status,
        products: products.collect(),
        amount: view.amount,
        currency_code: view.currency_code.code().to_owned(),
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}

async fn descriptions(app: &App, rows: &[ViewRow]) -> Result<Descriptions, Problem> {
    let mut ids = Vec::new();
    for row in rows {
        let view: order::View = decode(row)?;
        ids.extend(view.lines.iter().map(|line| line.product.uuid()));
    }
    ids.sort_unstable();
    ids.dedup();
    let mut descriptions = HashMap::new();
    for ids in ids.chunks(DESCRIPTIONS_MAX) {
        for row in app.views::<Product>(ids.to_vec()).await? {
            descriptions.insert(row.stream, decode::<product::View>(&row)?.description);
        }
    }
    Ok(descriptions)
}

/// The caller's orders, newest first.
#[utoipa::path(get, path = "/orders", tag = "orders", security(("token" = [])), params(
    ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query), ("status" = Option<String>, Query)),
    responses((status = 200, body = List<OrderBody>)))]
async fn list(
    State(app): State<App>,
    Caller(customer): Caller,
    Query(query): Query<OwnList>,
) -> Result<Json<List<OrderBody>>, Problem> {
    let (page, equal) = query.parse()?;
    let rows = app.list::<Order>(Some(customer.uuid()), equal.clone(), page).await?;
    let descriptions = descriptions(&app, &rows).await?;
    Ok(Json(List::new(rows, page, "/api/v1/orders", &equal, |row| show(row, &descriptions))?))
}

/// One order.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = OrderBody)))]
async fn read(
    State(app): State<App>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<OrderBody>, Problem> {
    let rows = [app.own::<Order>(caller, id).await?];
    let descriptions = descriptions(&app, &rows).await?;
    Ok(Json(show(&rows[0], &descriptions)?))
}
