//! What every answer has, and how failures look.

use serde_json::json;
use souk_gateway::telemetry;

use crate::door::{Bounds, Door, problem};

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let door = Door::open().await;
    let answer = door.get("/panics").await;
    assert_eq!(answer.status(), 500);
    let text = problem(answer).await.to_string();
    for inside in ["cinnamon", "secret", "panicked", ".rs"] {
        assert!(!text.contains(inside), "{text}");
    }
    assert_eq!(door.get("/cached").await.status(), 200);
}

#[tokio::test]
async fn an_unknown_path_or_method_is_a_problem() {
    let door = Door::open().await;
    let nowhere = problem(door.get("/nowhere").await).await;
    assert_eq!((&nowhere["code"], &nowhere["instance"]), (&json!("not_found"), &json!("/nowhere")));
    let answer = door.get("/things").await;
    assert_eq!(answer.headers()["allow"], "POST");
    assert_eq!(problem(answer).await["code"], "method_not_allowed");
    for odd in ["TRACE", "FROBNICATE"] {
        let answer =
            door.says_to(format!("{odd} /things HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("method_not_allowed"), "{answer}");
    }
}

#[tokio::test]
async fn a_problem_says_whether_and_when_to_try_again() {
    let door = Door::open().await;
    let answer = door.get("/unknown").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["location"], "/things/1");
    assert_eq!(problem(answer).await["retry"], "same-key");
}

#[tokio::test]
async fn a_malformed_id_query_or_header_is_400() {
    let door = Door::open().await;
    let id = "0192f0c1-2345-7abc-8def-0123456789ab";
    assert_eq!(door.get(&format!("/things/{id}")).await.text().await.expect("text"), id);
    for wrong in ["7", &id.replace('-', ""), &format!("{{{id}}}"), &format!("{id}%00"), "%ff"] {
        let answer = door.get(&format!("/things/{wrong}")).await;
        assert_eq!(problem(answer).await["code"], "invalid_id", "{wrong}");
    }
    for (query, code) in
        [("x=1", "invalid_query"), ("_name=a&_name=b", "invalid_query"), ("_name=a%00", "invalid_string")]
    {
        assert_eq!(problem(door.get(&format!("/search?{query}")).await).await["code"], code, "{query}");
    }
    for keys in [vec![""], vec!["ключ"], vec!["a", "b"], vec!["x".repeat(256).as_str()]] {
        let mut request = reqwest::Client::new().post(door.url("/keyed"));
        for key in &keys {
            request = request.header("idempotency-key", *key);
        }
        let answer = request.send().await.expect("answered");
        assert_eq!(problem(answer).await["code"], "invalid_header", "{keys:?}");
    }
}

#[tokio::test]
async fn a_trace_is_continued_by_a_span_of_our_own() {
    let door = Door::open().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = reqwest::Client::new().get(door.url("/cached")).header("traceparent", trace);
    let answer = request.send().await.expect("answered");
    let ours = answer.headers()["traceparent"].to_str().expect("text").to_owned();
    assert!(ours.starts_with(&trace[..36]) && ours.ends_with("-01") && ours != trace, "{ours}");

    let request = reqwest::Client::new().get(door.url("/cached")).header("traceparent", "00-bogus-01");
    let fresh = request.send().await.expect("answered").headers()["traceparent"].clone();
    assert_eq!(fresh.len(), trace.len());
}

#[tokio::test]
async fn a_request_id_is_given_back_or_given() {
    let door = Door::open().await;
    let ask = async |id: &str| {
        let request = reqwest::Client::new().get(door.url("/nowhere")).header("x-request-id", id);
        let answer = request.send().await.expect("answered");
        answer.headers()["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(ask("abc-1").await, "abc-1");
    for not_taken in [String::new(), "x".repeat(129), "ключ".to_owned()] {
        assert_eq!(ask(&not_taken).await.len(), 16, "{not_taken}");
    }
}

#[tokio::test]
async fn an_answer_is_not_sniffed_and_not_kept_unless_it_says_so() {
    let door = Door::open().await;
    for (path, kept) in [("/nowhere", "no-store"), ("/panics", "no-store"), ("/cached", "max-age=60")] {
        let answer = door.get(path).await;
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["cache-control"], kept, "{path}");
    }
}

#[tokio::test]
async fn what_is_counted_has_few_labels_whatever_is_asked() {
    let metrics = telemetry::record().expect("nobody records yet");
    let door = Door::open().await;
    for n in 0..20 {
        door.get(&format!("/nowhere/{n}")).await;
        door.says_to(format!("METHOD{n} /things HTTP/1.0\r\n\r\n")).await;
    }
    door.get("/cached").await;
    let text = metrics.render();
    let all = |name: &str| text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let requests = all("souk_http_requests_total{");
    let line = |method: &str, route: &str, status: u16| {
        format!("souk_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} ")
    };
    for (method, route, status) in
        [("GET", "unmatched", 404), ("other", "/things", 405), ("GET", "/cached", 200)]
    {
        let line = line(method, route, status);
        assert!(requests.iter().any(|found| found.starts_with(&line)), "{line} in {requests:?}");
    }
    assert!(!text.contains("METHOD") && !text.contains("/nowhere/"), "{text}");
    assert!(!all("souk_http_request_seconds_bucket{").is_empty(), "{text}");
    assert_eq!(all("souk_http_requests_under_way ").len(), 1, "{text}");
}

#[tokio::test]
async fn one_request_too_many_is_503_at_once_while_health_is_still_told() {
    let door = Door::bounded(Bounds { requests: 1, ..Bounds::default() }).await;
    let inside = tokio::spawn(reqwest::get(door.url("/waits")));
    door.one_waits().await;
    let answer = door.get("/cached").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let problem = problem(answer).await;
    assert_eq!((&problem["code"], &problem["retry"]), (&json!("overloaded"), &json!("safe")));
    assert_eq!(door.get("/livez").await.status(), 200);
    door.let_go_on();
    assert_eq!(inside.await.expect("joined").expect("answered").status(), 200);
    assert_eq!(door.get("/cached").await.status(), 200);
}
