//! Purchases: buying, watching, cancelling.
//!
//! A purchase is accepted when its order's first row is durable; what happens then, happens without the
//! buyer. `Prefer: wait` and the event stream only watch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use souk_actors::directory::AskError;
use souk_actors::followers::{Following, Standing};
use souk_actors::money::{Currency, LINES_MAX, QUANTITY_MAX};
use souk_actors::order::{
    self, Attention, Failure, Item, Order, Place, Status, StepName, StepStatus, TrailEntry,
};
use souk_actors::product::{self, Product};
use souk_actors::route::TRACEPARENT;
use souk_actors::{Id, Timestamp};
use souk_config::millis;
use souk_persistence::journal::ViewRow;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::{App, Caller, decode, standing};
use crate::body::{Body, OptionalBody, integer};
use crate::params::{IdempotencyKey, List, OwnList, PathId, PreferWait, Query, replay_mark};
use crate::problem::{Code, Problem, Violation};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(buy, list))
        .routes(routes!(read))
        .routes(routes!(cancel))
        .routes(routes!(events))
}

const TOKEN_MAX: usize = 200;
const REASON_MAX: usize = 500;
/// An undo that takes longer is shown as delayed.
const DELAYED: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Buy {
    /// 1 to 100, one per product.
    pub order_items: Vec<BuyItem>,
    pub payment: BuyPayment,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuyItem {
    pub product_id: Uuid,
    /// 1 to 1,000,000.
    #[serde(deserialize_with = "integer")]
    pub quantity: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuyPayment {
    /// The products' currency, ISO 4217.
    pub currency_code: String,
    /// What is paid with; the sandbox documents its own.
    #[serde(default)]
    pub token: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Cancel {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    purchase_id: Uuid,
    #[schema(value_type = String)]
    status: Status,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Purchase)]
struct PurchaseBody {
    purchase_id: Uuid,
    /// `pending`, then one of `completed`, `failed`, `cancelled`, for ever.
    #[schema(value_type = String)]
    status: Status,
    order_id: Uuid,
    payment_id: Uuid,
    customer_id: Uuid,
    order_items: Vec<PurchaseItem>,
    /// Once the stock is reserved.
    amount: Option<i64>,
    currency_code: String,
    steps: Vec<StepBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureBody>,
    /// A person must look: an undo was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<AttentionBody>,
    /// What is being undone takes longer than a minute.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    delayed: bool,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct PurchaseItem {
    product_id: Uuid,
    quantity: u32,
    /// Of one, once the stock is reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StepBody {
    #[schema(value_type = String)]
    step: StepName,
    #[schema(value_type = String)]
    status: StepStatus,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FailureBody {
    code: String,
    detail: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct AttentionBody {
    #[schema(value_type = String)]
    step: StepName,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    detail: String,
}

fn show(now: Timestamp, order: &Standing<Order>) -> Result<PurchaseBody, Problem> {
    let view = order.view.as_ref().ok_or_else(Problem::not_found)?;
    let priced = view.lines.iter().map(|line| (line.product, line.quantity, Some(line.price)));
    // Until it is reserved it has no price.
    let unpriced = view.items.iter().map(|item| (item.product, item.quantity, None));
    let items = priced.chain(unpriced).map(|(product, quantity, price)| PurchaseItem {
        product_id: product.uuid(),
        quantity,
        price,
    });
    let is_undoing = matches!(view.status, Status::Failed | Status::Cancelled) && !view.at_rest;
    Ok(PurchaseBody {
        purchase_id: order.stream,
        status: view.status,
        order_id: order.stream,
        payment_id: order.stream,
        customer_id: order.owner.unwrap_or_default(),
        order_items: items.collect(),
        amount: view.amount,
        currency_code: view.currency_code.code().to_owned(),
        steps: view.steps.iter().map(step).collect(),
        failure: view
            .failure
            .clone()
            .filter(|_| view.status == Status::Failed)
            .map(|Failure { code, detail }| FailureBody { code, detail }),
        attention: view.attention.clone().map(|Attention { step, since, detail }| AttentionBody {
            step,
            since,
            detail,
        }),
        // Not since its last row: somebody outside is asked again by rows.
        delayed: is_undoing && view.steps.last().is_some_and(|step| step.created_at.until(now) > DELAYED),
        timestamp: order.created_at,
        updated_at: order.updated_at,
    })
}

fn show_stored(now: Timestamp, row: &ViewRow) -> Result<PurchaseBody, Problem> {
    show(now, &standing(row)?)
}

fn step(entry: &TrailEntry) -> StepBody {
    let TrailEntry { step, status, created_at, detail } = entry;
    StepBody { step: *step, status: *status, created_at: *created_at, detail: detail.clone() }
}

/// What is wrong with a request to buy, whatever products there are.
pub(crate) fn valid(body: &Buy) -> Result<(Vec<Item>, Currency), Problem> {
    let mut wrong = Vec::new();
    let mut violation = |pointer: String, code, detail: String| {
        wrong.push(Violation { pointer, code, detail });
    };
    if !(1..=LINES_MAX).contains(&body.order_items.len()) {
        violation("/order_items".to_owned(), "invalid_length", format!("1 to {LINES_MAX} lines"));
    }
    if body.payment.token.as_ref().is_some_and(|token| token.len() > TOKEN_MAX) {
        violation("/payment/token".to_owned(), "too_long", format!("at most {TOKEN_MAX} bytes"));
    }
    let currency = body.payment.currency_code.parse::<Currency>();
    if let Err(error) = &currency {
        violation("/payment/currency_code".to_owned(), "invalid_currency", error.to_string());
    }
    Problem::violations(wrong)?;
    let currency = currency.map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?;
    let mut products = HashSet::new();
    let mut items = Vec::with_capacity(body.order_items.len());
    for (index, item) in body.order_items.iter().enumerate() {
        let quantity = u32::try_from(item.quantity).ok().filter(|q| (1..=QUANTITY_MAX).contains(q));
        let Some(quantity) = quantity else {
            let (pointer, detail) =
                (format!("/order_items/{index}/quantity"), format!("1 to {QUANTITY_MAX}"));
            return Err(Problem::field(Code::InvalidQuantity, pointer, detail));
        };
        if !products.insert(item.product_id) {
            let pointer = format!("/order_items/{index}/product_id");
            return Err(Problem::field(Code::DuplicateProduct, pointer, "a product is on one line"));
        }
        items.push(Item { product: Id::from(item.product_id), quantity });
    }
    Ok((items, currency))
}

/// What the door knows to be impossible: a product that is not for sale, or not for this currency.
pub(crate) async fn impossible(
    app: &App,
    items: &[Item],
    currency: Currency,
) -> Result<Option<Problem>, Problem> {
    // Of what is sold elsewhere the door knows nothing.
    if app.outside().inventory {
        return Ok(None);
    }
    let known = app.known_products();
    // Asked once for each: what it remembers it may forget at any moment.
    let remembered = items.iter().map(|item| (item.product.uuid(), known.get(&item.product.uuid())));
    let mut currencies: HashMap<_, _> = remembered.collect();
    let unknown = currencies.iter().filter(|(_, theirs)| theirs.is_none()).map(|(id, _)| *id);
    let unknown: Vec<_> = unknown.collect();
    if !unknown.is_empty() {
        for row in app.views::<Product>(unknown).await? {
            let view: product::View = decode(&row)?;
            if !view.gone {
                known.insert(row.stream, view.currency);
                currencies.insert(row.stream, Some(view.currency));
            }
        }
    }
    let wrong = items.iter().enumerate().find_map(|(index, item)| {
        let pointer = format!("/order_items/{index}/product_id");
        match currencies.get(&item.product.uuid()).copied().flatten() {
            None => Some(Problem::field(Code::ProductNotFound, pointer, "the product is not for sale")),
            Some(theirs) if theirs != currency => {
                let detail = format!("the product is priced in {theirs}");
                Some(Problem::field(Code::CurrencyMismatch, pointer, detail))
            }
            Some(_) => None,
        }
    });
    Ok(wrong)
}

/// Buys.
#[utoipa::path(post, path = "/purchases", tag = "purchases", security(("token" = [])), params(
    ("Idempotency-Key" = Option<String>, Header, description = "Names the purchase: the same key is the same one"),
    ("Prefer" = Option<String>, Header, description = "wait=N: wait up to N seconds, 1 to 30, for the end")),
    request_body = Buy,
    responses((status = 202, body = Accepted), (status = 200, body = PurchaseBody)))]
async fn buy(
    State(app): State<App>,
    Caller(customer): Caller,
    IdempotencyKey(key): IdempotencyKey,
    PreferWait(wait): PreferWait,
    body: Body<Buy>,
) -> Result<Response, Problem> {
    let (items, currency) = valid(&body.value)?;
    if app.is_draining() {
        return Err(Problem::new(Code::Draining, "no new purchases are accepted here"));
    }
    let refusal = impossible(&app, &items, currency).await?;
    if let (Some(problem), None) = (&refusal, &key) {
        return Err(problem.clone());
    }
    if !app.shop().has_room() {
        return Err(Problem::new(Code::Overloaded, "too many purchases are under way"));
    }
    let fingerprint = key.is_some().then(|| body.fingerprint());
    let place = order::Command::Place(Place {
        customer,
        items,
        currency,
        token: body.value.payment.token,
        fingerprint,
        patience: millis(app.settings().actors.reserve_ms),
        impossible: refusal.is_some(),
        outside: app.outside(),
        trace: TRACEPARENT.try_with(|trace| trace.to_string()).ok(),
    });
    let id = app.identify::<Order>("POST /purchases", customer, key.as_deref(), Some(customer.slot()));
    let watched = wait.map(|seconds| (app.directory().follow(id), Duration::from_secs(seconds)));
    let placed = app.make(id, key.as_deref(), place).await;
    let location = format!("/api/v1/purchases/{id}");
    let (status, at, replayed) = match placed {
        Ok(order::Answer::Placed { status, at, replayed }) => (status, at, replayed),
        Ok(order::Answer::Cancelled | order::Answer::Noted) => return Err(Problem::unknown()),
        Err(AskError::Rejected(order::Rejection::KeyReused)) => {
            return Err(Problem::new(Code::IdempotencyKeyReused, "the key named a purchase of another body"));
        }
        Err(AskError::Rejected(_)) => return Err(refusal.unwrap_or_else(Problem::not_found)),
        Err(AskError::Unknown) => return Err(Problem::unknown().at(location)),
    };
    let mark = replay_mark(replayed);
    if let Some((following, wait)) = watched {
        // Followed before it was made: of a new one nothing can have been missed.
        let mut following = if replayed { following } else { following.only_news() };
        let ended = tokio::time::timeout(wait, ended(&mut following)).await;
        if let Ok(Some(order)) = ended {
            return Ok((mark, [("location", location)], Json(show(app.now(), &order)?)).into_response());
        }
    }
    let body = Accepted { purchase_id: id.uuid(), status, timestamp: at };
    Ok((StatusCode::ACCEPTED, mark, [("location", location)], Json(body)).into_response())
}

/// Waits until the purchase has an outcome. `None`: it cannot be watched.
async fn ended(following: &mut Following<Order>) -> Option<Arc<Standing<Order>>> {
    loop {
        if let Some(order) = following.next().await.ok()?
            && order.view.as_ref()?.status != Status::Pending
        {
            return Some(order);
        }
    }
}

/// One purchase.
#[utoipa::path(get, path = "/purchases/{id}", tag = "purchases", security(("token" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = PurchaseBody)))]
async fn read(
    State(app): State<App>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<PurchaseBody>, Problem> {
    let row = app.own::<Order>(caller, id).await?;
    Ok(Json(show_stored(app.now(), &row)?))
}

/// The caller's purchases, newest first.
#[utoipa::path(get, path = "/purchases", tag = "purchases", security(("token" = [])), params(
    ("limit" = Option<i64>, Query), ("cursor" = Option<String>, Query), ("status" = Option<String>, Query)),
    responses((status = 200, body = List<PurchaseBody>)))]
async fn list(
    State(app): State<App>,
    Caller(customer): Caller,
    Query(query): Query<OwnList>,
) -> Result<Json<List<PurchaseBody>>, Problem> {
    let (page, equal) = query.parse()?;
    let rows = app.list::<Order>(Some(customer.uuid()), equal.clone(), page).await?;
    let now = app.now();
    Ok(Json(List::new(rows, page, "/api/v1/purchases", &equal, |row| show_stored(now, row))?))
}

/// Cancels a purchase, unless its end is decided otherwise.
#[utoipa::path(post, path = "/purchases/{id}/cancel", tag = "purchases", security(("token" = [])),
    params(("id" = Uuid, Path)), request_body = Cancel,
    responses((status = 202, body = PurchaseBody), (status = 409, description = "too_late")))]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    PathId(id): PathId,
    OptionalBody(Cancel { reason }): OptionalBody<Cancel>,
) -> Result<Response, Problem> {
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_MAX) {
        let detail = format!("at most {REASON_MAX} characters");
        return Err(Problem::field(Code::InvalidBody, "/reason", detail));
    }
    // A stranger must not make an entity load.
    app.own::<Order>(caller, id).await?;
    let command = order::Command::Cancel { by: caller.0, reason };
    match app.directory().ask(Id::<Order>::from(id), command, app.patience()).await {
        Ok(_) => {}
        Err(AskError::Rejected(order::Rejection::TooLate)) => {
            return Err(Problem::new(Code::TooLate, "the purchase has ended, or ends, otherwise"));
        }
        Err(AskError::Rejected(_)) => return Err(Problem::not_found()),
        Err(AskError::Unknown) => return Err(Problem::unknown()),
    }
    let row = app.own::<Order>(caller, id).await?;
    Ok((StatusCode::ACCEPTED, Json(show_stored(app.now(), &row)?)).into_response())
}

/// What happens to a purchase, as it happens: an event per entry of `steps`, with its position as id.
#[utoipa::path(get, path = "/purchases/{id}/events", tag = "purchases", security(("token" = [])),
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<usize>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn events(
    State(app): State<App>,
    caller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let seen = match headers.get("last-event-id").map(|value| value.to_str().map(str::parse::<usize>)) {
        None => 0,
        Some(Ok(Ok(last))) => last.saturating_add(1),
        Some(_) => return Err(Problem::new(Code::InvalidHeader, "Last-Event-ID is a position")),
    };
    app.own::<Order>(caller, id).await?;
    let watching = Watching {
        id,
        following: app.directory().follow(Id::<Order>::from(id)),
        draining: app.draining(),
        next: seen,
        queued: VecDeque::new(),
        is_over: false,
    };
    Ok(Sse::new(watching.stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Somebody who watches a purchase.
struct Watching {
    id: Uuid,
    following: Following<Order>,
    draining: watch::Receiver<bool>,
    /// The position of the next entry that was not shown.
    next: usize,
    queued: VecDeque<Event>,
    is_over: bool,
}

#[derive(Serialize)]
struct StepEvent {
    purchase_id: Uuid,
    #[serde(flatten)]
    step: StepBody,
}

impl Watching {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watching| async move {
            let event = watching.event().await?;
            Some((Ok(event), watching))
        })
    }

    /// The next event; `None` when nothing more will happen, or the node goes away.
    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let order = tokio::select! {
                order = self.following.next() => order.ok()??,
                _ = self.draining.wait_for(|is_draining| *is_draining) => return None,
            };
            let view = order.view.as_ref()?;
            self.is_over = view.at_rest;
            let news = view.steps.iter().enumerate().skip(self.next);
            for (position, entry) in news {
                let body = StepEvent { purchase_id: self.id, step: step(entry) };
                let event = Event::default().id(position.to_string()).event("step").json_data(body);
                self.queued.push_back(event.ok()?);
                self.next = position + 1;
            }
        }
    }
}
