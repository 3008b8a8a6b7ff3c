//! Records of Kafka that could not be processed: listed, shown, put back. `souk dlq` does the same on the command line.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Operator;
use crate::app::App;
use crate::body::Body;
use crate::bridge::dead_letters::letter_id;
use crate::bridge::dead_letters::listing::{ListedLetter, Rank, ShownLetter, Wanted, Which};
use crate::bridge::dead_letters::replay::{Answers, Unplayable};
use crate::bridge::queue::{NotReplayed, Queue};
use crate::params::Query;
use crate::problem::{Code, Problem};

/// The most letters that are put back by one request: all of them are in memory.
const REPLAYED_MAX: usize = 100;
const LISTED_DEFAULT: usize = 100;
/// For each part of the list the queue is read again.
const LISTED_MAX: usize = 1_000;

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(replay))
}

/// Letters that were not put back yet, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    items: Vec<ListedLetter>,
    /// Where the next part is; null at the end.
    next: Option<String>,
}

/// Which part of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    limit: Option<String>,
    cursor: Option<String>,
    code: Option<String>,
    replayed: Option<String>,
}

/// Which are to be put back on their topics.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// Their ids, `partition/offset`: 1 to 100.
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
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query),
        ("code" = Option<String>, Query, description = "only those with this code"),
        ("replayed" = Option<bool>, Query, description = "those that were put back too")),
    responses((status = 200, body = DeadLetters)))]
async fn list(
    State(app): State<App>,
    _: Operator,
    Query(Part { limit, cursor, code, replayed }): Query<Part>,
) -> Result<Json<DeadLetters>, Problem> {
    let limit = match limit.as_deref().map(str::parse) {
        None => LISTED_DEFAULT,
        Some(Ok(limit)) if (1..=LISTED_MAX).contains(&limit) => limit,
        Some(_) => return Err(Problem::new(Code::InvalidQuery, format!("limit is 1 to {LISTED_MAX}"))),
    };
    let wrong = || Problem::new(Code::InvalidQuery, "the cursor is not one of ours");
    let after = cursor.as_deref().map(|cursor| open_cursor(cursor).ok_or_else(wrong)).transpose()?;
    let which = code.map_or(Which::Any, Which::Code);
    let with_replayed = match replayed.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::new(Code::InvalidQuery, "replayed is true or false")),
    };
    let wanted = Wanted { with_replayed, which: which.clone(), after, limit };
    let listing = queue(&app)?.list(wanted).await.map_err(unavailable)?;
    let has_more = listing.has_more;
    let items = listing.letters();
    let next = items.last().filter(|_| has_more).map(|last| next(limit, with_replayed, &which, &last.rank()));
    Ok(Json(DeadLetters { items, next }))
}

/// Where the next part is. A code is the shop's own or the cursor's asker's: what is no word is not repeated.
fn next(limit: usize, with_replayed: bool, which: &Which, last: &Rank) -> String {
    let code = match which {
        Which::Code(code) => {
            format!("&code={}", code.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', ""))
        }
        Which::Any | Which::Playable => String::new(),
    };
    let replayed = if with_replayed { "&replayed=true" } else { "" };
    format!("/api/v1/admin/dead-letters?limit={limit}{code}{replayed}&cursor={}", seal_cursor(last))
}

fn seal_cursor((at, (partition, offset)): &Rank) -> String {
    URL_SAFE_NO_PAD.encode(format!("{partition}/{offset} {at}"))
}

fn open_cursor(text: &str) -> Option<Rank> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (id, at) = text.split_once(' ')?;
    Some((at.to_owned(), letter_id(id)?))
}

/// One of them, put back or not.
#[utoipa::path(get, path = "/admin/dead-letters/{partition}/{offset}", tag = "operators",
    security(("operator" = [])), params(("partition" = i32, Path), ("offset" = i64, Path)),
    responses((status = 200, body = ShownLetter)))]
async fn show(
    State(app): State<App>,
    _: Operator,
    Path((partition, offset)): Path<(String, String)>,
) -> Result<Json<ShownLetter>, Problem> {
    let id = letter_id(&format!("{partition}/{offset}")).ok_or_else(Problem::not_found)?;
    let letter = queue(&app)?.find(id).await.map_err(unavailable)?;
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
    let places: Vec<_> = places.collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect();
    let body = body.as_ref().map(String::as_bytes);
    let replayed = queue.replay(&places, body, Answers::Operator).await.map_err(unavailable)?;
    replayed.map_err(refused)?;
    Ok(Json(Replayed { replayed: places.len() }))
}

fn refused(NotReplayed { id: (partition, offset), why }: NotReplayed) -> Problem {
    let detail = format!("{partition}/{offset}: {why}; nothing was put back");
    match why {
        Unplayable::Missing => Problem::new(Code::NotFound, detail),
        Unplayable::Cut => Problem::field(Code::LetterCut, "/body", detail),
        Unplayable::Elsewhere(_) => Problem::new(Code::LetterFromElsewhere, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_as_it_was_sealed_and_a_forged_one_does_not() {
        let last = ("2026-01-01T00:00:00Z".to_owned(), (3, 14));
        let next = next(2, true, &Which::Code("not_believed".to_owned()), &last);
        assert!(next.contains("limit=2&code=not_believed&replayed=true&cursor="), "{next}");
        let (_, cursor) = next.split_once("cursor=").expect("there is one");
        assert_eq!(open_cursor(cursor), Some(last));
        assert_eq!(open_cursor("forged"), None);
    }
}
