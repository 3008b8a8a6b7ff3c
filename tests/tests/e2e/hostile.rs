//! Every route with what nobody should send: never a 5xx, never somebody else's things.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use souk_tests::shopper::{Answer, Shopper, send};

use crate::open;

/// Every operation that the shop describes: (method, path).
async fn operations(shopper: &Shopper) -> Result<Vec<(Method, String, bool)>> {
    let description = shopper.get("//openapi.json").await?.body;
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            let method = Method::from_bytes(method.to_uppercase().as_bytes())?;
            operations.push((method, path.clone(), operation["security"].is_array()));
        }
    }
    ensure!(operations.len() > 25, "only {} operations are described", operations.len());
    Ok(operations)
}

fn path(template: &str, id: &str) -> String {
    let path = template.replace("{id}", id).replace("{service}", "orders");
    match path.strip_prefix("/api/v1") {
        Some(rest) => rest.to_owned(),
        None => format!("/{path}"),
    }
}

fn check(what: &str, answer: &Answer) -> Result<()> {
    ensure!(!answer.status.is_server_error(), "{what}: {answer:?}");
    if answer.status.is_client_error() {
        ensure!(answer.headers["content-type"] == "application/problem+json", "{what}: {answer:?}");
        ensure!(!answer.code().is_empty() && answer.body["retry"].is_string(), "{what}: {answer:?}");
        let text = answer.body.to_string();
        for inside in ["sqlx", "postgres", "select ", "panicked", ".rs:"] {
            ensure!(!text.contains(inside), "{what} shows what is inside: {text}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_body_makes_any_route_fail() -> Result<()> {
    let souk = open("bodies").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 10).await?;
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let huge = "9".repeat(400);
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "\"text\"",
        "1e400",
        "{\"email\":1,\"password\":[]}",
        "{\"email\":\"a\\u0000b@c\",\"password\":\"12345678\"}",
        "{\"name\":\"\\ud800\",\"description\":\"x\"}",
        "{\"unknown\":true}",
        "{\"name\":\"a\",\"name\":\"b\",\"description\":\"c\"}",
        "\u{feff}{}",
        &deep,
        &format!("{{\"price\":{huge},\"inventory\":-{huge}}}"),
        &format!(
            "{{\"order_items\":[{{\"product_id\":\"{product}\",\"quantity\":{huge}}}],\"payment\":{{\"currency_code\":\"VND\"}}}}"
        ),
        &format!(
            "{{\"order_items\":[{{\"product_id\":\"{product}\",\"quantity\":-1}}],\"payment\":{{\"currency_code\":\"VND\"}}}}"
        ),
        &format!(
            "{{\"order_items\":[{{\"product_id\":\"{product}\",\"quantity\":1.5}}],\"payment\":{{\"currency_code\":\"VND\"}}}}"
        ),
        &format!(
            "{{\"category_id\":\"{category}\",\"name\":\"n\",\"description\":\"d\",\"brand_name\":\"b\",\"price\":90000000001,\"inventory\":1}}"
        ),
        &format!(
            "{{\"category_id\":\"{category}\",\"name\":\" \",\"description\":\"\",\"brand_name\":\"b\",\"price\":-1,\"inventory\":-1}}"
        ),
    ];
    for (method, template, _) in operations(&shopper).await? {
        if method == Method::GET || template.contains("ping") {
            continue;
        }
        for body in bodies {
            let request = shopper
                .request(method.clone(), &path(&template, &product))
                .header("content-type", "application/json")
                .body(body.to_owned());
            let answer = send(request).await?;
            let shown: String = body.chars().take(80).collect();
            check(&format!("{method} {template} {shown}"), &answer)?;
            let may_succeed = method == Method::DELETE || template.ends_with("cancel");
            ensure!(may_succeed || answer.status.is_client_error(), "{method} {template} takes {shown}");
        }
        let bytes = shopper.request(method.clone(), &path(&template, &product)).body(vec![0xff, 0xfe, 0x00]);
        check(&format!("{method} {template} bytes"), &send(bytes).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn no_id_query_or_header_makes_any_route_fail() -> Result<()> {
    let souk = open("ids").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let ids = [
        "x",
        "0",
        "%00",
        "..%2f..",
        "00000000-0000-0000-0000-000000000000",
        "🦀",
        "'; drop table entity; --",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "{01a20ddd-6010-7098-be98-5808f1088867}",
    ];
    let queries = [
        "limit=99999999999999999999",
        "cursor=%00",
        "cursor=AAAA",
        "status=%00",
        "%ff=%ff",
        "=&=&",
        "status='",
    ];
    for (method, template, _) in operations(&shopper).await? {
        if template.contains("{id}") {
            for id in ids {
                let request = shopper.request(method.clone(), &path(&template, id)).json(&json!({}));
                let answer = send(request).await?;
                check(&format!("{method} {template} {id}"), &answer)?;
                ensure!(answer.status.is_client_error(), "{method} {template} knows {id}: {answer:?}");
            }
        }
        if method == Method::GET {
            for query in queries {
                let path = format!("{}?{query}", path(&template, ids[4]));
                check(&format!("{method} {path}"), &send(shopper.request(method.clone(), &path)).await?)?;
            }
        }
        for (name, value) in [
            ("idempotency-key", "\u{e9}"),
            ("idempotency-key", ""),
            ("if-match", "x"),
            ("prefer", "wait=99999999999999999999"),
            ("last-event-id", "-1"),
            ("traceparent", "x"),
            ("x-request-id", "\u{e9}"),
        ] {
            let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes())?;
            let request = shopper.request(method.clone(), &path(&template, ids[4])).header(name, value);
            check(&format!("{method} {template} {name}"), &send(request.json(&json!({}))).await?)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_valid_token_nobody_gets_anything() -> Result<()> {
    let souk = open("tokens").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let forged = [
        "garbage",
        "v4.local.",
        "v2.local.AAAA",
        "v4.public.AAAA",
        "eyJhbGciOiJub25lIn0.e30.",
        &"A".repeat(9_000),
    ];
    let mut guarded = 0;
    for (method, template, is_guarded) in operations(&shopper).await? {
        if !is_guarded {
            continue;
        }
        guarded += 1;
        let path = path(&template, "01a20ddd-6010-7098-be98-5808f1088867");
        let answer = send(stranger.request(method.clone(), &path).json(&json!({}))).await?;
        assert_eq!((answer.status.as_u16(), answer.code()), (401, "unauthenticated"), "{method} {template}");
        for token in forged {
            let forger = stranger.with_token(token, "");
            let answer = send(forger.request(method.clone(), &path).json(&json!({}))).await?;
            assert_eq!(answer.code(), "unauthenticated", "{method} {template}");
        }
        let basic = stranger.request(method.clone(), &path).header("authorization", "Basic eDp4");
        assert_eq!(send(basic.json(&json!({}))).await?.code(), "unauthenticated", "{method} {template}");
    }
    ensure!(guarded > 15, "only {guarded} routes need a token");
    Ok(())
}

#[tokio::test]
async fn somebody_elses_things_look_as_if_they_were_not_there() -> Result<()> {
    let souk = open("others").await?;
    let (an, binh) = (Shopper::register(&souk.url).await?, Shopper::register(&souk.url).await?);
    let category = an.category().await?;
    let product = an.product(&category, 10).await?;
    let bought = an.buy(&[(&product, 1)], None).await?;
    let id = bought.body["purchase_id"].as_str().context("an id")?;
    let missing = "01a20ddd-6010-7098-be98-5808f1088867";
    let without_path = |answer: Answer, id: &str| -> (u16, Value) {
        (answer.status.as_u16(), json!(answer.body.to_string().replace(id, "")))
    };
    for (method, template) in [
        (Method::GET, "/purchases/{id}"),
        (Method::GET, "/purchases/{id}/events"),
        (Method::POST, "/purchases/{id}/cancel"),
        (Method::GET, "/orders/{id}"),
        (Method::GET, "/payments/{id}"),
    ] {
        let theirs = send(binh.request(method.clone(), &path(template, id)).json(&json!({}))).await?;
        let nobodys = send(binh.request(method.clone(), &path(template, missing)).json(&json!({}))).await?;
        let (theirs, nobodys) = (without_path(theirs, id), without_path(nobodys, missing));
        assert_eq!(theirs.0, 404, "{template}");
        assert_eq!(theirs, nobodys, "{template}");
    }
    for list in ["/purchases", "/orders", "/payments"] {
        assert_eq!(binh.get(list).await?.body, json!({"items": [], "next": null}));
    }
    Ok(())
}
