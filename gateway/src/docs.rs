//! The API's description, made from the handlers, and a page to browse it that needs no network.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::problem::{Code, ProblemBody, Violation};

/// What is said beside the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Souk",
        description = "A shop in which every purchase is a saga that survives crashes. Errors are \
            application/problem+json; their codes are listed at /docs/problems. What is said on Kafka is described \
            at /asyncapi.json."
    ),
    components(schemas(ProblemBody, Violation)),
    modifiers(&Bearer)
)]
pub struct Api;

/// Access tokens, and the operators' one.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, description: &mut Description) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("PASETO v4.local");
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
        let operator = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("admin.token"));
        components.add_security_scheme("operator", SecurityScheme::Http(operator.build()));
    }
}

/// `/openapi.json`, `/docs` and `/docs/problems`; `/asyncapi.json`, the contract on Kafka.
pub fn routes<S: Clone + Send + Sync + 'static>(description: Description, contract: &Value) -> Router<S> {
    // The page would otherwise ask a validator on the network about the description.
    let config = Config::default().validator_url("none").persist_authorization(true);
    let page = SwaggerUi::new("/docs").url("/openapi.json", description).config(config);
    let contract = Bytes::from(contract.to_string());
    let asyncapi = || async { ([(CONTENT_TYPE, "application/json")], contract) };
    Router::new().merge(page).route("/docs/problems", get(problems)).route("/asyncapi.json", get(asyncapi))
}

async fn problems() -> String {
    let mut text = "code                     status  retry     meaning\n".to_owned();
    for code in Code::ALL {
        let (name, status, title, retry) = code.row();
        let retry = serde_json::to_string(&retry).unwrap_or_default();
        text.push_str(&format!("{name:<24} {status:<7} {:<9} {title}\n", retry.trim_matches('"')));
    }
    text
}
