use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use souk_tests::laws::{self, Checked};
use souk_tests::shopper::{Answer, Shopper, send};
use uuid::Uuid;

use crate::{open, open_with};

const SOON: Duration = Duration::from_secs(30);

fn steps(purchase: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = purchase["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|step| format!("{} {}", text(&step["step"]), text(&step["status"]))).collect()
}

async fn place(shopper: &Shopper, body: &Value, key: &str) -> Result<Answer> {
    send(shopper.request(Method::POST, "/purchases").header("idempotency-key", key).json(body)).await
}

fn id(answer: &Answer) -> Result<String> {
    Ok(answer.body["purchase_id"].as_str().with_context(|| format!("{answer:?}"))?.to_owned())
}

#[tokio::test]
async fn a_purchase_tells_one_story_in_order_payment_and_stock() -> Result<()> {
    let souk = open("story").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let (one, two) = (shopper.product(&category, 1000).await?, shopper.product(&category, 1000).await?);
    let purchase = shopper.buy(&[(&one, 4), (&two, 5)], None).await?;
    ensure!(purchase.status == 200 && purchase.body["status"] == "completed", "{purchase:?}");
    ensure!(purchase.body["amount"] == 9 * 125 && purchase.body["failure"].is_null(), "{purchase:?}");
    let expected = [
        "UPDATE_PRODUCT_INVENTORY EXECUTE",
        "UPDATE_PRODUCT_INVENTORY SUCCESS",
        "CREATE_ORDER SUCCESS",
        "CREATE_PAYMENT EXECUTE",
        "CREATE_PAYMENT SUCCESS",
    ];
    assert_eq!(steps(&purchase.body), expected);
    let id = id(&purchase)?;

    let order = shopper.get(&format!("/orders/{id}")).await?.body;
    ensure!(order["status"] == "completed" && order["amount"] == 1125, "{order}");
    let lines = order["products"].as_array().context("lines")?;
    let line = |index: usize| (&lines[index]["id"], &lines[index]["quantity"], &lines[index]["price"]);
    assert_eq!(line(0), (&json!(one), &json!(4), &json!(125)));
    assert_eq!(line(1), (&json!(two), &json!(5), &json!(125)));
    assert_eq!(lines[0]["description"], "A phone");

    let payment = shopper.get(&format!("/payments/{id}")).await?.body;
    ensure!(payment["status"] == "captured" && payment["amount"] == 1125, "{payment}");
    assert_eq!((shopper.inventory(&one).await?, shopper.inventory(&two).await?), (996, 995));

    for list in ["/purchases", "/orders", "/payments"] {
        let listed = shopper
            .get(&format!("{list}?status={}", if list == "/payments" { "captured" } else { "completed" }))
            .await?;
        assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{list} {listed:?}");
    }
    let stocked = HashMap::from([(one.parse()?, 1000), (two.parse()?, 1000)]);
    let checked = laws::hold(&souk.data, &stocked, SOON).await?;
    assert_eq!(checked, Checked { completed: 1, ..Checked::default() });
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_short_or_declined_gives_everything_back() -> Result<()> {
    let souk = open("back").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let (plenty, scarce) = (shopper.product(&category, 1000).await?, shopper.product(&category, 3).await?);
    let outcome = async |items: &[(&str, u64)], token: Option<&str>| -> Result<(String, String)> {
        let purchase = shopper.buy(items, token).await?;
        ensure!(purchase.body["status"] == "failed", "{purchase:?}");
        let code = purchase.body["failure"]["code"].as_str().context("a code")?.to_owned();
        Ok((id(&purchase)?, code))
    };
    let (short, code) = outcome(&[(&plenty, 4), (&scarce, 4)], None).await?;
    assert_eq!(code, "insufficient_stock");
    let (declined, code) = outcome(&[(&plenty, 4)], Some("tok_declined")).await?;
    assert_eq!(code, "payment_declined");
    let (lied, code) = outcome(&[(&plenty, 4)], Some("tok_captured_but_declined")).await?;
    assert_eq!(code, "payment_declined");

    let rolled_back = |answer: &Answer| {
        steps(&answer.body).last().is_some_and(|last| last == "UPDATE_PRODUCT_INVENTORY ROLLBACK")
    };
    for id in [&short, &declined, &lied] {
        shopper.until(&format!("/purchases/{id}"), SOON, rolled_back).await?;
    }
    assert_eq!((shopper.inventory(&plenty).await?, shopper.inventory(&scarce).await?), (1000, 3));
    assert_eq!(shopper.get(&format!("/payments/{short}")).await?.status, 404);
    let payment = shopper.get(&format!("/payments/{declined}")).await?.body;
    assert_eq!((&payment["status"], &payment["refunded_amount"]), (&json!("voided"), &json!(0)));
    // A provider that refused and still charged is found out.
    let refunded = |answer: &Answer| answer.body["refunded_amount"] == 500;
    shopper.until(&format!("/payments/{lied}"), SOON, refunded).await?;

    let stocked = HashMap::from([(plenty.parse()?, 1000), (scarce.parse()?, 3)]);
    let checked = laws::hold(&souk.data, &stocked, SOON).await?;
    assert_eq!(checked, Checked { failed: 3, ..Checked::default() });
    Ok(())
}

#[tokio::test]
async fn a_provider_that_does_not_know_is_asked_again_and_one_that_never_answers_is_given_up() -> Result<()> {
    // Short limits, so that the test need not wait for the real ones.
    let settings = [("SOUK__ACTORS__PROVIDER_MS", "300"), ("SOUK__ACTORS__RESERVE_MS", "6000")];
    let souk = open_with("unknown", &settings).await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 100).await?;
    let buy = async |token| shopper.buy(&[(&product, 1)], Some(token)).await;
    let (late, slow, never) = tokio::join!(
        buy("tok_timeout_then_success"),
        buy("tok_unknown_for_a_while"),
        buy("tok_never_answers")
    );
    assert_eq!(late?.body["status"], "completed");
    assert_eq!(slow?.body["status"], "completed");
    let never = never?;
    assert_eq!(never.body["failure"]["code"], "deadline_exceeded", "{never:?}");
    let stocked = HashMap::from([(product.parse()?, 100)]);
    let checked = laws::hold(&souk.data, &stocked, SOON).await?;
    assert_eq!(checked, Checked { completed: 2, failed: 1, ..Checked::default() });
    Ok(())
}

#[tokio::test]
async fn one_key_is_one_purchase_however_many_ask() -> Result<()> {
    let souk = open("key").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 100).await?;
    let body = Shopper::order(&[(&product, 4)], None);
    let answers = join_all((0..20).map(|_| place(&shopper, &body, "one"))).await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
    ensure!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    let mut ids: Vec<_> = answers.iter().map(id).collect::<Result<_>>()?;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let first = answers.iter().filter(|answer| !answer.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(first, 1);

    let other = place(&shopper, &Shopper::order(&[(&product, 5)], None), "one").await?;
    assert_eq!((other.status.as_u16(), other.code()), (422, "idempotency_key_reused"));
    let stranger = Shopper::register(&souk.url).await?;
    let theirs = place(&stranger, &body, "one").await?;
    ensure!(theirs.status == 202 && id(&theirs)? != ids[0], "a key is its account's: {theirs:?}");

    // What was withdrawn since does not hide the purchase; a new one is refused, and nothing is made of it.
    let path = format!("/purchases/{}", ids[0]);
    shopper.until(&path, SOON, |answer| answer.body["status"] == "completed").await?;
    let second = id(&theirs)?;
    let is_done = |answer: &Answer| answer.body["status"] == "completed";
    stranger.until(&format!("/purchases/{second}"), SOON, is_done).await?;
    assert_eq!(shopper.delete(&format!("/products/{product}")).await?.status, 204);
    let again = place(&shopper, &body, "one").await?;
    assert_eq!((again.status.as_u16(), again.body["status"].as_str()), (202, Some("completed")));
    let new = place(&shopper, &body, "two").await?;
    assert_eq!((new.status.as_u16(), new.code()), (422, "product_not_found"));
    let listed = shopper.get("/purchases").await?;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_cancel_and_a_completion_never_both_happen() -> Result<()> {
    let souk = open("cancel").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 1000).await?;
    let race = async |delay: u64| -> Result<(String, u16)> {
        let placed = shopper.post("/purchases", &Shopper::order(&[(&product, 1)], None)).await?;
        let id = id(&placed)?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let path = format!("/purchases/{id}/cancel");
        let cancelled = shopper.post(&path, &json!({"reason": "changed my mind"})).await?;
        if cancelled.status == 202 {
            assert_eq!(shopper.post(&path, &json!({})).await?.status, 202);
        }
        Ok((id, cancelled.status.as_u16()))
    };
    let races = join_all((0..60).map(|number| race(number % 12 * 3))).await;
    for raced in races {
        let (id, cancel) = raced?;
        let has_ended = |answer: &Answer| answer.body["status"] != "pending";
        let purchase = shopper.until(&format!("/purchases/{id}"), SOON, has_ended).await?;
        match cancel {
            202 => assert_eq!(purchase.body["status"], "cancelled"),
            409 => assert_eq!(purchase.body["status"], "completed"),
            other => panic!("{other}"),
        }
    }
    let stocked = HashMap::from([(product.parse::<Uuid>()?, 1000)]);
    let checked = laws::hold(&souk.data, &stocked, SOON).await?;
    assert_eq!(checked.completed + checked.cancelled, 60);
    ensure!(checked.cancelled > 0, "no cancel was in time: {checked:?}");
    Ok(())
}

#[tokio::test]
async fn a_hot_product_is_sold_as_often_as_it_is_there() -> Result<()> {
    let souk = open("hot").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 50).await?;
    let one = [(product.as_str(), 1)];
    let bought = join_all((0..120).map(|_| shopper.buy(&one, None))).await;
    let bought: Vec<_> = bought.into_iter().collect::<Result<_>>()?;
    let completed = bought.iter().filter(|answer| answer.body["status"] == "completed").count();
    let short = bought.iter().filter(|answer| answer.body["failure"]["code"] == "insufficient_stock").count();
    assert_eq!((completed, short), (50, 70));
    assert_eq!(shopper.inventory(&product).await?, 0);
    let stocked = HashMap::from([(product.parse()?, 50)]);
    laws::hold(&souk.data, &stocked, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_purchase_can_be_watched_from_any_position() -> Result<()> {
    let souk = open("watch").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 10).await?;
    let placed = shopper.post("/purchases", &Shopper::order(&[(&product, 1)], None)).await?;
    let path = format!("/purchases/{}/events", id(&placed)?);
    let watch = async |last: Option<&str>| -> Result<Vec<(String, String)>> {
        let mut request = shopper.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        // The stream ends by itself when nothing more will happen.
        let text = request.send().await?.text().await?;
        let field = |event: &str, name: &str| {
            let line = event.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let events = text.split("\n\n").filter(|event| event.contains("data:"));
        events
            .map(|event| {
                let data: Value = serde_json::from_str(&field(event, "data:"))?;
                Ok((field(event, "id:"), format!("{} {}", data["step"], data["status"]).replace('"', "")))
            })
            .collect()
    };
    let all = watch(None).await?;
    let ids: Vec<_> = all.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4"]);
    assert_eq!(all[4].1, "CREATE_PAYMENT SUCCESS");
    assert_eq!(watch(Some("2")).await?, all[3..]);
    let wrong = send(shopper.request(Method::GET, &path).header("last-event-id", "x")).await?;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (400, "invalid_header"));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_bought_is_refused_and_nothing_is_made() -> Result<()> {
    let souk = open("refused").await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 10).await?;
    let unknown = Uuid::now_v7().to_string();
    let euros =
        json!({"order_items": [{"product_id": product, "quantity": 1}], "payment": {"currency_code": "EUR"}});
    let lines: Vec<_> = (0..101).map(|_| (unknown.as_str(), 1)).collect();
    for (body, status, code) in [
        (Shopper::order(&[(&unknown, 1)], None), 422, "product_not_found"),
        (euros, 422, "currency_mismatch"),
        (Shopper::order(&[(&product, 1), (&product, 2)], None), 400, "duplicate_product"),
        (Shopper::order(&[(&product, 0)], None), 400, "invalid_quantity"),
        (Shopper::order(&[(&product, 1_000_001)], None), 400, "invalid_quantity"),
        (Shopper::order(&[], None), 400, "invalid_body"),
        (Shopper::order(&lines, None), 400, "invalid_body"),
    ] {
        let answer = shopper.post("/purchases", &body).await?;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{body}");
    }
    let as_text = json!({"order_items": [{"product_id": product, "quantity": "2"}], "payment": {"currency_code": "VND"}});
    assert_eq!(shopper.post("/purchases", &as_text).await?.status, 202);
    let listed = shopper.get("/purchases").await?;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}
