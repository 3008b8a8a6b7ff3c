//! The documentation works without a network.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::Value;
use souk_gateway::docs::{self, Api};
use souk_gateway::problem::Code;
use souk_proto::topic::Topic;
use tower::ServiceExt;
use utoipa::OpenApi;

async fn page(path: &str) -> (StatusCode, String) {
    let router: Router = docs::routes(Api::openapi(), &souk_proto::asyncapi("1.2.3", "shop.", 10));
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let answer = router.oneshot(request).await.expect("answered");
    let status = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), 16 << 20).await.expect("a page");
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// What a page loads: the values of its `src` and `href`.
fn loaded(html: &str) -> Vec<&str> {
    let parts = html.split(" src=\"").skip(1).chain(html.split(" href=\"").skip(1));
    parts.filter_map(|part| part.split('"').next()).collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_served_from_here() {
    let (status, html) = page("/docs/").await;
    assert_eq!(status, 200);
    let loaded = loaded(&html);
    assert!(loaded.len() >= 4, "{html}");
    for asset in loaded {
        assert!(!asset.contains("//"), "{asset} is somewhere else");
        let path = format!("/docs/{}", asset.trim_start_matches("./"));
        assert_eq!(page(&path).await.0, 200, "{path}");
    }
    let (_, settings) = page("/docs/swagger-initializer.js").await;
    assert!(settings.contains("/openapi.json") && !settings.contains("://"), "{settings}");
    assert!(settings.contains("\"validatorUrl\": \"none\""), "{settings}");
}

#[tokio::test]
async fn the_description_is_openapi_3_1_and_knows_problems_and_tokens() {
    let (status, text) = page("/openapi.json").await;
    assert_eq!(status, 200);
    let description: Value = serde_json::from_str(&text).expect("JSON");
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{text}");
    assert_eq!(description["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert!(description["components"]["schemas"]["Problem"]["properties"]["retry"].is_object(), "{text}");
}

#[tokio::test]
async fn the_contract_on_kafka_is_served_as_asyncapi() {
    let (status, text) = page("/asyncapi.json").await;
    assert_eq!(status, 200);
    let contract: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(contract["asyncapi"], "3.0.0");
    for topic in Topic::ALL {
        let address = format!("shop.{}", topic.name());
        assert_eq!(contract["channels"][topic.name()]["address"], address, "{topic:?}");
    }
}

#[tokio::test]
async fn every_code_is_listed() {
    let (_, text) = page("/docs/problems").await;
    for code in Code::ALL {
        assert!(text.lines().any(|line| line.starts_with(&format!("{} ", code.row().0))), "{code:?}");
    }
}
