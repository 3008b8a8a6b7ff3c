//! What is wrong with a body is said exactly.

use serde_json::{Value, json};

use crate::door::{BODY_MAX, Door, problem};

/// (status, code, pointer of the first error)
async fn refusal(door: &Door, body: impl Into<reqwest::Body>) -> (u64, String, Value) {
    let problem = problem(door.post("/things", body).await).await;
    assert_eq!(problem["instance"], "/things");
    assert_eq!(problem["retry"], "no");
    let code = problem["code"].as_str().expect("a code").to_owned();
    (problem["status"].as_u64().expect("a status"), code, problem["errors"][0]["pointer"].clone())
}

#[tokio::test]
async fn a_body_that_fits_is_taken_with_numbers_as_numbers_or_strings() {
    let door = Door::open().await;
    let answer = door.post("/things", r#"{"name":"lamp","price":"125"}"#).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.json::<Value>().await.expect("JSON"),
        json!({"name": "lamp", "price": 125, "parts": []})
    );
}

#[tokio::test]
async fn each_fault_has_its_code_and_its_place() {
    let door = Door::open().await;
    for (body, code, pointer) in [
        ("{not json", "invalid_json", Value::Null),
        ("", "invalid_json", Value::Null),
        (r#"{"name":"a","price":1} x"#, "invalid_json", Value::Null),
        (r#"{"name":"a","price":1,"nmae":2}"#, "unknown_field", json!("/nmae")),
        (r#"{"name":"a","price":1,"pr`ice":2}"#, "unknown_field", json!("/pr`ice")),
        (
            r#"{"name":"a","price":1,"parts":[{"name":"b","price":2,"x/y":1}]}"#,
            "unknown_field",
            json!("/parts/0/x~1y"),
        ),
        (r#"{"name":"a"}"#, "missing_field", json!("/price")),
        (r#"{"name":"a","price":1,"parts":[{"name":"b"}]}"#, "missing_field", json!("/parts/0/price")),
        (r#"{"name":7,"price":1}"#, "invalid_type", json!("/name")),
        (r#"{"name":"a","price":1.5}"#, "invalid_type", json!("/price")),
        (r#"{"name":"a","price":9223372036854775808}"#, "invalid_type", json!("/price")),
        (r#"{"name":"a","price":1e309}"#, "invalid_json", Value::Null),
        (r#"{"name":"a","name":"b","price":1}"#, "invalid_body", json!("/name")),
        (r#"[]"#, "invalid_type", json!("")),
        (r#"{"name":"a\u0000","price":1}"#, "invalid_string", Value::Null),
        (r#"{"name":"a\ud800","price":1}"#, "invalid_json", Value::Null),
    ] {
        assert_eq!(refusal(&door, body).await, (400, code.to_owned(), pointer), "{body}");
    }
    let is_not_utf8 = b"{\"name\":\"\xff\",\"price\":1}".to_vec();
    assert_eq!(refusal(&door, is_not_utf8).await.1, "invalid_json");
}

#[tokio::test]
async fn a_body_nested_too_deeply_is_refused_and_overflows_no_stack() {
    let door = Door::open().await;
    assert_eq!(refusal(&door, "[".repeat(BODY_MAX)).await.1, "invalid_type");
    let nested = r#"{"parts":["#.repeat(BODY_MAX / 10);
    assert_eq!(refusal(&door, nested).await.1, "invalid_json");
}

#[tokio::test]
async fn a_refusal_does_not_repeat_a_long_value() {
    let door = Door::open().await;
    let body = format!(r#"{{"name":"a","price":"{}"}}"#, "z".repeat(900));
    let problem = problem(door.post("/things", body).await).await;
    assert!(problem.to_string().len() < 800, "{problem}");
}

#[tokio::test]
async fn a_body_may_be_left_out_where_it_says_so() {
    let door = Door::open().await;
    for nothing in ["", "  \n", "\"\"", "{\"name\":\"\",\"price\":0}"] {
        let answer = door.post("/maybe", nothing).await;
        assert_eq!(answer.json::<Value>().await.expect("JSON")["name"], "", "{nothing:?}");
    }
    assert_eq!(problem(door.post("/maybe", "\" \"").await).await["code"], "invalid_type");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_not() {
    let door = Door::open().await;
    let body = |length: usize| format!("{:length$}", r#"{"name":"a","price":1}"#);
    assert_eq!(door.post("/things", body(BODY_MAX)).await.status(), 200);
    assert_eq!(refusal(&door, body(BODY_MAX + 1)).await, (413, "body_too_large".to_owned(), Value::Null));
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413_before_its_end() {
    let door = Door::open().await;
    let head = "POST /things HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    // A chunk of 4 GB is announced, and a little of it sent.
    let answer = door.says_to(format!("{head}ffffffff\r\n{}", "x".repeat(BODY_MAX + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn a_body_of_another_media_type_is_415() {
    let door = Door::open().await;
    for (kind, status) in [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
        ("", 415),
    ] {
        let request = reqwest::Client::new().post(door.url("/things")).header("content-type", kind);
        let answer = request.body(r#"{"name":"a","price":1}"#).send().await.expect("answered");
        assert_eq!(answer.status(), status, "{kind}");
        if status == 415 {
            assert_eq!(problem(answer).await["code"], "unsupported_media_type");
        }
    }
    let untyped = reqwest::Client::new().post(door.url("/things")).body(r#"{"name":"a","price":1}"#);
    assert_eq!(untyped.send().await.expect("answered").status(), 200);
}
