use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;
use souk_tests::shopper::{Shopper, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::{open, open_with};

async fn raw(url: &str, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").context("a URL")?).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn the_node_says_how_it_is_and_describes_itself_without_a_network() -> Result<()> {
    let souk = open("door").await?;
    let shopper = Shopper::register(&souk.url).await?;
    assert_eq!(shopper.get("//livez").await?.status, 200);
    let ready = shopper.get("//readyz").await?;
    assert_eq!((ready.status.as_u16(), &ready.body["ready"]), (200, &json!(true)));
    let metrics = shopper.request(Method::GET, "//metrics").send().await?.text().await?;
    for name in ["souk_http_requests_total", "souk_journal_commits_total", "souk_http_request_seconds_bucket"]
    {
        ensure!(metrics.contains(name), "{name} is missing");
    }
    ensure!(!metrics.contains(&shopper.account), "a label carries an id");

    let description = shopper.get("//openapi.json").await?.body;
    ensure!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for path in ["/api/v1/purchases", "/api/v1/purchases/{id}/events", "/api/v1/account/login", "/readyz"] {
        ensure!(description["paths"][path].is_object(), "{path} is not described");
    }
    let page = shopper.request(Method::GET, "//docs/").send().await?.text().await?;
    ensure!(page.contains("swagger-ui") && !page.contains("http://") && !page.contains("https://"), "{page}");
    let script = shopper.request(Method::GET, "//docs/swagger-ui-bundle.js").send().await?;
    assert_eq!(script.status(), 200);
    let problems = shopper.request(Method::GET, "//docs/problems").send().await?.text().await?;
    ensure!(problems.contains("idempotency_key_reused"));
    Ok(())
}

#[tokio::test]
async fn every_answer_carries_its_trace_and_every_error_its_path() -> Result<()> {
    let souk = open("trace").await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = stranger
        .request(Method::GET, "/purchases")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .header("x-request-id", "mine");
    let answer = send(request).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "unauthenticated"));
    ensure!(answer.headers["traceparent"].to_str()?.contains(trace));
    assert_eq!(answer.headers["x-request-id"], "mine");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    assert_eq!(
        (&answer.body["instance"], &answer.body["retry"]),
        (&json!("/api/v1/purchases"), &json!("no"))
    );
    assert_eq!(stranger.get("/nowhere").await?.code(), "not_found");
    let method = stranger.delete("/purchases").await?;
    assert_eq!((method.status.as_u16(), method.code()), (405, "method_not_allowed"));
    ensure!(method.headers["allow"].to_str()?.contains("POST"));
    Ok(())
}

#[tokio::test]
async fn whoever_is_slow_or_large_is_cut_off() -> Result<()> {
    let settings =
        [("SOUK__GATEWAY__HEADER_TIMEOUT_MS", "500"), ("SOUK__GATEWAY__REQUEST_TIMEOUT_MS", "1000")];
    let souk = open_with("slow", &settings).await?;
    let started = Instant::now();
    for silent in [b"".as_slice(), b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        raw(&souk.url, silent).await?;
    }
    ensure!(
        started.elapsed() < Duration::from_secs(10),
        "a slow head is waited for: {:?}",
        started.elapsed()
    );
    let slow_body = b"POST /api/v1/account/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let answer = raw(&souk.url, slow_body).await?;
    ensure!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"timeout\""), "{answer}");

    let stranger = Shopper::stranger(&souk.url)?;
    let large = json!({"email": "x".repeat(70_000), "password": "x"});
    let answer = stranger.post("/account/login", &large).await?;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "body_too_large"));
    let head = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(100_000));
    let answer = raw(&souk.url, head.as_bytes()).await?;
    ensure!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let form =
        stranger.request(Method::POST, "/account/login").header("content-type", "text/plain").body("{}");
    assert_eq!(send(form).await?.code(), "unsupported_media_type");
    Ok(())
}

#[tokio::test]
async fn too_much_at_once_is_refused_at_once_and_passes() -> Result<()> {
    let settings = [("SOUK__GATEWAY__REQUESTS_MAX", "4"), ("SOUK__PASSWORD__WAITING_MAX", "1")];
    let souk = open_with("overload", &settings).await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let body = json!({"email": "nobody@example.com", "password": "password"});
    let logins = (0..64).map(|_| stranger.post("/account/login", &body));
    let answers = futures::future::join_all(logins).await;
    let mut refused = 0;
    for answer in answers {
        let answer = answer?;
        if [429, 503].contains(&answer.status.as_u16()) {
            ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
            assert_eq!(answer.body["retry"], "safe");
            refused += 1;
        }
    }
    ensure!(refused > 0, "nobody was refused");
    assert_eq!(stranger.post("/account/login", &body).await?.status, 401);
    Ok(())
}
