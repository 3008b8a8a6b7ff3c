//! Payments, to read. Refunds come with roles.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use souk_actors::Timestamp;
use souk_actors::payment::{self, Payment, Status};
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

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Payment)]
struct PaymentBody {
    id: Uuid,
    order_id: Uuid,
    customer_id: Uuid,
    /// In minor units.
    amount: i64,
    currency_code: String,
    /// `captured`, `declined` or `voided`.
    #[schema(value_type = String)]
    status: Status,
    refunded_amount: i64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

fn show(row: &ViewRow) -> Result<PaymentBody, Problem> {
    let view: payment::View = decode(row)?;
    Ok(PaymentBody {
        id: row.stream,
        order_id: row.stream,
        customer_id: view.customer_id.uuid(),
        amount: view.amount,
        currency_code: view.currency_code.code().to_owned(),
        status: view.status,
        refunded_amount: view.refunded_amount,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}

/// The caller's payments, newest first.
#[utoipa::path(get, path = "/payments", tag = "payments", security(("token" = [])), params(
    ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query), ("status" = Option<String>, Query)),
    responses((status = 200, body = List<PaymentBody>)))]
async fn list(
    State(app): State<App>,
    Caller(customer): Caller,
    Query(query): Query<OwnList>,
) -> Result<Json<List<PaymentBody>>, Problem> {
    let (page, equal) = query.parse()?;
    let rows = app.list::<Payment>(Some(customer.uuid()), equal.clone(), page).await?;
    Ok(Json(List::new(rows, page, "/api/v1/payments", &equal, show)?))
}

/// One payment: from when the provider has answered, or it was voided.
#[utoipa::path(get, path = "/payments/{id}", tag = "payments", security(("token" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = PaymentBody)))]
async fn read(
    State(app): State<App>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<PaymentBody>, Problem> {
    Ok(Json(show(&app.own::<Payment>(caller, id).await?)?))
}
