//! Somebody who uses the shop over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The head.
    pub headers: HeaderMap,
    /// The body; null where there is none or it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The problem's stable code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A shopper, logged in or not.
#[derive(Clone, Debug)]
pub struct Shopper {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
    /// Of the account; empty for a stranger.
    pub account: String,
}

impl Shopper {
    /// Nobody in particular.
    pub fn stranger(url: &str) -> Result<Self> {
        // A connection per request: a balancer spreads connections.
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(60)).pool_max_idle_per_host(0).build()?;
        Ok(Self { http, url: url.to_owned(), token: None, account: String::new() })
    }

    /// Somebody with a new account.
    pub async fn register(url: &str) -> Result<Self> {
        let email = format!("{}@example.com", uuid::Uuid::now_v7());
        let stranger = Self::stranger(url)?;
        let body = json!({"email": email, "password": "correct horse battery"});
        let answer = stranger.post("/account/register", &body).await?;
        ensure!(answer.status == 201, "register: {answer:?}");
        let token = answer.body["access_token"].as_str().context("a token")?;
        let account = answer.body["account"]["id"].as_str().context("an account")?;
        Ok(stranger.with_token(token, account))
    }

    /// The same with another token.
    pub fn with_token(&self, token: &str, account: &str) -> Self {
        Self { token: Some(token.to_owned()), account: account.to_owned(), ..self.clone() }
    }

    /// The same at another address.
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// A request to a path below `/api/v1`, or to `path` itself if it begins with `//`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = match path.strip_prefix("//") {
            Some(path) => format!("{}/{path}", self.url),
            None => format!("{}/api/v1{path}", self.url),
        };
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        send(self.request(Method::GET, path)).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        send(self.request(Method::PUT, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        send(self.request(Method::DELETE, path)).await
    }

    /// A new category: its id.
    pub async fn category(&self) -> Result<String> {
        let answer = self.post("/categories", &json!({"name": "Phone", "description": "Smartphone"})).await?;
        ensure!(answer.status == 201, "category: {answer:?}");
        Ok(answer.body["category"]["id"].as_str().context("an id")?.to_owned())
    }

    /// A new product at 125 VND: its id.
    pub async fn product(&self, category: &str, inventory: u64) -> Result<String> {
        let body = json!({"category_id": category, "name": "Iphone 13", "description": "A phone",
            "brand_name": "Apple", "price": 125, "inventory": inventory});
        let answer = self.post("/products", &body).await?;
        ensure!(answer.status == 201, "product: {answer:?}");
        Ok(answer.body["product"]["id"].as_str().context("an id")?.to_owned())
    }

    /// The body of a purchase.
    pub fn order(items: &[(&str, u64)], token: Option<&str>) -> Value {
        let items: Vec<_> = items
            .iter()
            .map(|(product, quantity)| json!({"product_id": product, "quantity": quantity}))
            .collect();
        let mut payment = json!({"currency_code": "VND"});
        if let Some(token) = token {
            payment["token"] = json!(token);
        }
        json!({"order_items": items, "payment": payment})
    }

    /// Buys and waits up to 30 s for the end.
    pub async fn buy(&self, items: &[(&str, u64)], token: Option<&str>) -> Result<Answer> {
        let request = self.request(Method::POST, "/purchases").header("prefer", "wait=30");
        send(request.json(&Self::order(items, token))).await
    }

    /// What can be bought of a product.
    pub async fn inventory(&self, product: &str) -> Result<i64> {
        let answer = self.get(&format!("/products/{product}")).await?;
        answer.body["product"]["inventory"].as_i64().with_context(|| format!("{answer:?}"))
    }

    /// Asks until `is_so`, at most for `limit`.
    pub async fn until(
        &self,
        path: &str,
        limit: Duration,
        is_so: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.get(path).await?;
            if is_so(&answer) {
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "{path} is not so after {limit:?}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Sends a request and reads the answer to its end.
pub async fn send(request: RequestBuilder) -> Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}
