//! Accounts: registering, logging in, sessions, personal data.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use souk_actors::account::{self, Account, Patch, Personal};
use souk_actors::directory::AskError;
use souk_actors::email::{self, Address, Email};
use souk_actors::session::{self, Session};
use souk_actors::{Id, Slot, Timestamp};
use souk_persistence::journal::ViewRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::{App, Caller, decode};
use crate::body::Body;
use crate::passwords::Passwords;
use crate::problem::{Code, Problem, Violation};
use crate::tokens::{Access, Refresh};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(personal, change_personal))
}

/// OWASP ASVS 5.0, V6.2: at least 8, at least 64 allowed, nothing cut off.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=128;
const FIELD_MAX: usize = 500;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    email: String,
    /// 8 to 128 characters.
    password: String,
    #[serde(default)]
    first_name: String,
    #[serde(default)]
    last_name: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    phone_number: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    password: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefreshToken {
    refresh_token: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePersonal {
    first_name: Option<String>,
    last_name: Option<String>,
    address: Option<String>,
    phone_number: Option<String>,
}

/// Somebody is logged in.
#[derive(Debug, Serialize, ToSchema)]
struct SessionBody {
    access_token: String,
    refresh_token: String,
    session_id: Uuid,
    account: AccountBody,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    refresh_expires_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
struct AccountBody {
    id: Uuid,
    first_name: String,
    last_name: String,
    email: String,
    address: String,
    phone_number: String,
    /// The e-mail address is verified.
    active: bool,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct Enveloped {
    account: AccountBody,
}

fn show(row: &ViewRow) -> Result<AccountBody, Problem> {
    let account::View { email, personal, active } = decode(row)?;
    let Personal { first_name, last_name, address, phone_number } = personal;
    let (id, updated_at, created_at) = (row.stream, row.updated_at, row.created_at);
    Ok(AccountBody {
        id,
        first_name,
        last_name,
        email,
        address,
        phone_number,
        active,
        updated_at,
        created_at,
    })
}

fn too_long(fields: &[(&str, Option<&String>)]) -> Vec<Violation> {
    fields
        .iter()
        .filter(|(_, value)| value.is_some_and(|value| value.chars().count() > FIELD_MAX))
        .map(|(name, _)| Violation {
            pointer: format!("/{name}"),
            code: "too_long",
            detail: format!("at most {FIELD_MAX} characters"),
        })
        .collect()
}

/// Makes an account and logs in.
#[utoipa::path(post, path = "/account/register", tag = "account", request_body = Register,
    responses((status = 201, body = SessionBody), (status = 409, description = "email_taken")))]
async fn register(
    State(app): State<App>,
    Body { value: body, .. }: Body<Register>,
) -> Result<(StatusCode, Json<SessionBody>), Problem> {
    let address = valid(&body)?;
    let Register { password, first_name, last_name, address: home, phone_number, .. } = body;
    let email_taken = || Problem::new(Code::EmailTaken, "log in, or use another address");

    // The claim names the account, whoever made the claim: one that a crash has left locks nobody out.
    let ours = Id::<Account>::fresh(app.now(), Slot::random());
    let claim = email::Command::Claim { account: ours };
    let answer = app.directory().ask::<Email>(address.id(), claim, app.patience()).await;
    let email::Answer { account } = match answer {
        Ok(answer) => answer,
        Err(AskError::Rejected(never)) => match never {},
        Err(AskError::Unknown) => return Err(Problem::unknown()),
    };
    if account != ours && app.view::<Account>(account.uuid()).await?.is_some() {
        return Err(email_taken());
    }
    let password_hash = app.passwords().hash(password).await?;
    let personal = Personal { first_name, last_name, address: home, phone_number };
    let email = address.as_str().to_owned();
    let open = account::Command::Open { email, password_hash, personal };
    let opened = match account == ours {
        true => app.directory().create(account, open, app.patience()).await,
        false => app.directory().ask(account, open, app.patience()).await,
    };
    match opened {
        Ok(_) => {}
        Err(AskError::Rejected(account::Rejection::Exists | account::Rejection::NotFound)) => {
            return Err(email_taken());
        }
        Err(AskError::Unknown) => return Err(Problem::unknown()),
    }
    Ok((StatusCode::CREATED, Json(start(&app, account).await?)))
}

fn valid(body: &Register) -> Result<Address, Problem> {
    let mut wrong = too_long(&[
        ("first_name", Some(&body.first_name)),
        ("last_name", Some(&body.last_name)),
        ("address", Some(&body.address)),
        ("phone_number", Some(&body.phone_number)),
    ]);
    let address = Address::parse(&body.email);
    if address.is_none() {
        let (pointer, detail) =
            ("/email".to_owned(), "not an e-mail address of at most 254 bytes".to_owned());
        wrong.push(Violation { pointer, code: "invalid_email", detail });
    }
    if !PASSWORD.contains(&body.password.chars().count()) {
        let (pointer, detail) = ("/password".to_owned(), "8 to 128 characters".to_owned());
        wrong.push(Violation { pointer, code: "invalid_password", detail });
    }
    Problem::violations(wrong)?;
    address.ok_or_else(|| Problem::new(Code::InvalidBody, "not an e-mail address"))
}

/// Logs in.
#[utoipa::path(post, path = "/account/login", tag = "account", request_body = Login,
    responses((status = 200, body = SessionBody), (status = 401, description = "invalid_credentials")))]
async fn login(
    State(app): State<App>,
    Body { value: Login { email, password }, .. }: Body<Login>,
) -> Result<Json<SessionBody>, Problem> {
    // Whichever is wrong, the answer is the same and takes as long.
    let wrong = || Problem::new(Code::InvalidCredentials, "the e-mail address or the password is wrong");
    let account = account_of(&app, &email).await?;
    let stored = match account {
        Some(account) => credentials(&app, account).await?,
        None => None,
    };
    let is_too_long = password.chars().count() > *PASSWORD.end();
    let password = if is_too_long { String::new() } else { password };
    let is_right = app.passwords().verify(password.clone(), stored.clone()).await?;
    let (Some(account), Some(stored), true) = (account, stored, is_right) else { return Err(wrong()) };
    if Passwords::needs_rehash(&stored) {
        let to = app.passwords().hash(password).await?;
        let command = account::Command::Rehash { from: stored, to };
        if app.directory().ask(account, command, app.patience()).await.is_err() {
            tracing::warn!(%account, "password hash was not renewed; the next login tries again");
        }
    }
    Ok(Json(start(&app, account).await?))
}

async fn account_of(app: &App, email: &str) -> Result<Option<Id<Account>>, Problem> {
    let Some(address) = Address::parse(email) else { return Ok(None) };
    match app.view::<Email>(address.id().uuid()).await? {
        Some(row) => Ok(decode::<email::View>(&row)?.account),
        None => Ok(None),
    }
}

async fn credentials(app: &App, account: Id<Account>) -> Result<Option<String>, Problem> {
    let command = account::Command::Credentials;
    match app.directory().ask(account, command, app.patience()).await {
        Ok(account::Answer::Credentials { password_hash, .. }) => Ok(Some(password_hash)),
        Ok(account::Answer::Account(_)) | Err(AskError::Rejected(_)) => Ok(None),
        Err(AskError::Unknown) => Err(Problem::unknown()),
    }
}

/// Begins a session.
async fn start(app: &App, account: Id<Account>) -> Result<SessionBody, Problem> {
    let id = Id::<Session>::fresh(app.now(), account.slot());
    let command = session::Command::Start { account };
    match app.directory().create(id, command, app.patience()).await {
        Ok(answer) => seal(app, id, answer).await,
        Err(AskError::Rejected(session::Over) | AskError::Unknown) => Err(Problem::unknown()),
    }
}

async fn seal(app: &App, id: Id<Session>, answer: session::Answer) -> Result<SessionBody, Problem> {
    let session::Answer { account, number } = answer;
    let row = app.view::<Account>(account.uuid()).await?.ok_or_else(Problem::not_found)?;
    let (now, settings) = (app.now(), &app.settings().token);
    let access_ttl = Duration::from_secs(settings.access_ttl_s);
    let refresh_ttl = Duration::from_secs(settings.refresh_ttl_s);
    let (session, account) = (id.uuid(), account.uuid());
    Ok(SessionBody {
        access_token: app.tokens().seal_access(Access { account, session }, now, access_ttl),
        refresh_token: app.tokens().seal_refresh(account, Refresh { session, number }, now, refresh_ttl),
        session_id: session,
        account: show(&row)?,
        expires_at: now + access_ttl,
        refresh_expires_at: now + refresh_ttl,
    })
}

/// Changes both tokens for new ones. A token that was changed before ends the session.
#[utoipa::path(post, path = "/account/refresh", tag = "account", request_body = RefreshToken,
    responses((status = 200, body = SessionBody), (status = 401, description = "invalid_refresh_token")))]
async fn refresh(
    State(app): State<App>,
    Body { value: RefreshToken { refresh_token }, .. }: Body<RefreshToken>,
) -> Result<Json<SessionBody>, Problem> {
    let over = || Problem::new(Code::InvalidRefreshToken, "log in again");
    let shown = app.tokens().open_refresh(&refresh_token, app.now()).map_err(|_| over())?;
    let id = Id::<Session>::from(shown.session);
    let command = session::Command::Refresh { number: shown.number };
    match app.directory().ask(id, command, app.patience()).await {
        Ok(answer) => Ok(Json(seal(&app, id, answer).await?)),
        Err(AskError::Rejected(session::Over)) => Err(over()),
        Err(AskError::Unknown) => Err(Problem::unknown()),
    }
}

/// Who the caller is.
#[utoipa::path(get, path = "/account/customer/personal", tag = "account", security(("token" = [])),
    responses((status = 200, body = Enveloped)))]
async fn personal(State(app): State<App>, Caller(account): Caller) -> Result<Json<Enveloped>, Problem> {
    let row = app.view::<Account>(account.uuid()).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(Enveloped { account: show(&row)? }))
}

/// Changes what the caller says about themselves.
#[utoipa::path(put, path = "/account/customer/personal", tag = "account", security(("token" = [])),
    request_body = ChangePersonal, responses((status = 200, body = Enveloped)))]
async fn change_personal(
    State(app): State<App>,
    Caller(account): Caller,
    Body { value: body, .. }: Body<ChangePersonal>,
) -> Result<Json<Enveloped>, Problem> {
    let ChangePersonal { first_name, last_name, address, phone_number } = body;
    Problem::violations(too_long(&[
        ("first_name", first_name.as_ref()),
        ("last_name", last_name.as_ref()),
        ("address", address.as_ref()),
        ("phone_number", phone_number.as_ref()),
    ]))?;
    let patch = Patch { first_name, last_name, address, phone_number };
    let command = account::Command::ChangePersonal(patch);
    match app.directory().ask(account, command, app.patience()).await {
        Ok(_) => personal(State(app), Caller(account)).await,
        Err(AskError::Rejected(_)) => Err(Problem::not_found()),
        Err(AskError::Unknown) => Err(Problem::unknown()),
    }
}
