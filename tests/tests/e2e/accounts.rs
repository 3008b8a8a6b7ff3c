use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use souk_tests::shopper::{Answer, Shopper};

use crate::open;

fn text(answer: &Answer, name: &str) -> Result<String> {
    Ok(answer.body[name].as_str().with_context(|| format!("{name} in {answer:?}"))?.to_owned())
}

#[tokio::test]
async fn somebody_registers_logs_in_and_says_who_they_are() -> Result<()> {
    let souk = open("accounts").await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let body = json!({"email": " An@Example.COM ", "password": "correct horse", "first_name": "An"});
    let registered = stranger.post("/account/register", &body).await?;
    assert_eq!(registered.status, 201);
    let account = &registered.body["account"];
    assert_eq!((&account["email"], &account["active"]), (&json!("an@example.com"), &json!(false)));
    let again = stranger.post("/account/register", &body).await?;
    assert_eq!((again.status.as_u16(), again.code()), (409, "email_taken"));

    let login = async |email: &str, password: &str| {
        stranger.post("/account/login", &json!({"email": email, "password": password})).await
    };
    let session = login("an@example.com", "correct horse").await?;
    assert_eq!(session.status, 200);
    let wrong = login("an@example.com", "wrong horse").await?;
    let unknown = login("nobody@example.com", "correct horse").await?;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (401, "invalid_credentials"));
    assert_eq!((unknown.status, &unknown.body), (wrong.status, &wrong.body), "they look the same");

    let an = stranger.with_token(&text(&session, "access_token")?, "");
    let changed = an.put("/account/customer/personal", &json!({"last_name": "Binh"})).await?;
    assert_eq!(changed.body["account"]["last_name"], "Binh");
    let read = an.get("/account/customer/personal").await?;
    let name = |answer: &Answer, part: &str| answer.body["account"][part].clone();
    assert_eq!((name(&read, "first_name"), name(&read, "last_name")), (json!("An"), json!("Binh")));
    // Today's clients send an empty string with it.
    let with_body =
        an.request(reqwest::Method::GET, "/account/customer/personal").json(&json!("")).send().await?;
    assert_eq!(with_body.status(), 200);
    for body in
        [json!({"email": "x", "password": "12345678"}), json!({"email": "a@b", "password": "1234567"})]
    {
        let answer = stranger.post("/account/register", &body).await?;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "invalid_body"));
    }
    Ok(())
}

#[tokio::test]
async fn of_many_who_register_one_address_one_has_it() -> Result<()> {
    let souk = open("address").await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let bodies: Vec<_> = (0..12)
        .map(|number| json!({"email": "one@example.com", "password": format!("password {number}")}))
        .collect();
    let answers = join_all(bodies.iter().map(|body| stranger.post("/account/register", body))).await;
    let mut made: Vec<Value> = Vec::new();
    for (answer, body) in answers.into_iter().zip(bodies) {
        let answer = answer?;
        match answer.status.as_u16() {
            201 => made.push(body),
            409 => {}
            other => anyhow::bail!("{other}: {answer:?}"),
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(stranger.post("/account/login", &made[0]).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn sessions_rotate_and_a_stolen_token_ends_them() -> Result<()> {
    let souk = open("sessions").await?;
    let stranger = Shopper::stranger(&souk.url)?;
    let body = json!({"email": "an@example.com", "password": "correct horse"});
    let registered = stranger.post("/account/register", &body).await?;
    let refresh =
        async |token: &str| stranger.post("/account/refresh", &json!({"refresh_token": token})).await;
    let first = text(&registered, "refresh_token")?;
    let second = refresh(&first).await?;
    ensure!(second.status == 200, "{second:?}");
    // The answer may have been lost: the same token is answered with the same number again.
    let repeated = refresh(&first).await?;
    ensure!(repeated.status == 200 && repeated.body["session_id"] == second.body["session_id"]);
    let third = refresh(&text(&second, "refresh_token")?).await?;
    let fourth = refresh(&text(&third, "refresh_token")?).await?;
    ensure!(fourth.status == 200, "{fourth:?}");
    let stolen = refresh(&first).await?;
    assert_eq!((stolen.status.as_u16(), stolen.code()), (401, "invalid_refresh_token"));
    assert_eq!(refresh(&text(&fourth, "refresh_token")?).await?.status, 401);

    let access = text(&registered, "access_token")?;
    assert_eq!(refresh(&access).await?.status, 401);
    let as_access = stranger.with_token(&text(&registered, "refresh_token")?, "");
    assert_eq!(as_access.get("/account/customer/personal").await?.code(), "unauthenticated");
    Ok(())
}
