use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::json;
use souk_tests::shopper::{Shopper, send};

use crate::open;

#[tokio::test]
async fn a_product_is_changed_by_its_seller_and_from_what_was_seen() -> Result<()> {
    let souk = open("product").await?;
    let (seller, other) = (Shopper::register(&souk.url).await?, Shopper::register(&souk.url).await?);
    let category = seller.category().await?;
    let product = seller.product(&category, 10).await?;
    let path = format!("/products/{product}");
    let stranger = Shopper::stranger(&souk.url)?;
    let read = stranger.get(&path).await?;
    assert_eq!((read.status.as_u16(), &read.body["images"]), (200, &json!({"url": []})));
    let tag = read.headers["etag"].to_str()?.to_owned();
    assert_eq!(other.put(&path, &json!({"price": 1})).await?.code(), "forbidden");
    assert_eq!(stranger.put(&path, &json!({"price": 1})).await?.status, 401);

    // Sold in between; sent back whole, the old inventory invents no stock.
    other.buy(&[(&product, 4)], None).await?;
    let put = async |tag: &str, body| {
        send(seller.request(Method::PUT, &path).header("if-match", tag).json(&body)).await
    };
    let edited = put(&tag, json!({"name": "New", "inventory": 10})).await?;
    assert_eq!((edited.status.as_u16(), &edited.body["product"]["inventory"]), (200, &json!(6)));
    assert_eq!(put(&tag, json!({"name": "Newer"})).await?.code(), "precondition_failed");
    let by_body = seller.put("/products", &json!({"id": product, "price": "200", "inventory": 20})).await?;
    let shown = &by_body.body["product"];
    assert_eq!(
        (&shown["price"], &shown["inventory"], &shown["name"]),
        (&json!(200), &json!(20), &json!("New"))
    );

    for (quantity, valid) in [(20, true), (21, false), (0, false)] {
        let answer = stranger.get(&format!("/products/check?id={product}&quantity={quantity}")).await?;
        assert_eq!(answer.body, json!({"valid": valid}));
        let answer = stranger.post("/products/check", &json!({"id": product, "quantity": quantity})).await?;
        assert_eq!(answer.body, json!({"valid": valid}));
    }
    assert_eq!(other.delete(&path).await?.status, 403);
    assert_eq!(seller.delete(&path).await?.status, 204);
    assert_eq!(stranger.get(&path).await?.status, 404);
    assert_eq!(seller.delete(&path).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn lists_go_on_where_they_ended_and_a_key_makes_one_product() -> Result<()> {
    let souk = open("lists").await?;
    let seller = Shopper::register(&souk.url).await?;
    let category = seller.category().await?;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(seller.product(&category, 1).await?);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut next = Some(format!("/products?limit=2&category_id={category}"));
    while let Some(path) = next {
        let page = seller.get(path.strip_prefix("/api/v1").unwrap_or(&path)).await?.body;
        for item in page["items"].as_array().context("items")? {
            seen.push(item["id"].as_str().context("an id")?.to_owned());
        }
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, made);
    for query in ["limit=0", "limit=x", "cursor=x", "unknown=1", "category_id=x", "limit=1&limit=2"] {
        let answer = seller.get(&format!("/products?{query}")).await?;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "invalid_query"), "{query}");
    }

    let body = json!({"category_id": category, "name": "Keyed", "description": "d", "brand_name": "b",
        "price": 1, "inventory": 1, "id_account": "ignored"});
    let post = async |body| {
        send(seller.request(Method::POST, "/products").header("idempotency-key", "k").json(body)).await
    };
    let (one, two) = (post(&body).await?, post(&body).await?);
    assert_eq!((one.status.as_u16(), &one.body["product"]["id"]), (201, &two.body["product"]["id"]));
    assert_eq!(
        two.headers.get("idempotent-replayed").map(|value| value.as_bytes()),
        Some(b"true".as_slice())
    );
    let other = json!({"category_id": category, "name": "Other", "description": "d", "brand_name": "b",
        "price": 1, "inventory": 1});
    assert_eq!(post(&other).await?.code(), "idempotency_key_reused");
    Ok(())
}

#[tokio::test]
async fn a_category_is_its_makers() -> Result<()> {
    let souk = open("category").await?;
    let (maker, other) = (Shopper::register(&souk.url).await?, Shopper::register(&souk.url).await?);
    let made = maker.post("/categories", &json!({"name": "Phone", "description": "Smartphone"})).await?;
    assert_eq!(made.body["category"], made.body["categoty"]);
    let path = format!("/categories/{}", made.body["category"]["id"].as_str().context("an id")?);
    assert_eq!(other.put(&path, &json!({"name": "Mine"})).await?.status, 403);
    let renamed = maker.put(&path, &json!({"name": "Toys"})).await?;
    assert_eq!(renamed.body["category"]["name"], "Toys");
    assert_eq!(maker.delete(&path).await?.status, 204);
    assert_eq!(maker.get(&path).await?.status, 404);
    let listed = maker.get("/categories").await?;
    assert_eq!(listed.body, json!({"items": [], "next": null}));
    let gone = json!({"category_id": made.body["category"]["id"], "name": "n", "description": "d",
        "brand_name": "b", "price": 1, "inventory": 1});
    assert_eq!(maker.post("/products", &gone).await?.code(), "category_not_found");
    Ok(())
}
