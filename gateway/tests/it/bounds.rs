//! Nothing that a client leaves open stays open. Time is stopped where a bound is waited for: it goes on
//! by itself, from one timer to the next, when nobody has anything to do.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use tokio::time::Instant;

use crate::door::{BIG, Bounds, Door};

const SHORT: &str = "GET /cached HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_whole_is_cut_off() {
    let door = Door::open().await;
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\n", "GET", "GET /cached HTTP/1.1\r\nhost: a\r\nx-slow: "]
    {
        let started = Instant::now();
        let said = door.says_to(beginning).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{beginning:?}: {said}");
        // Once before the protocol is known, and once after it.
        let bound = Bounds::default().header_timeout * 2 + Duration::from_secs(1);
        assert!(started.elapsed() <= bound, "{beginning:?}: {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_head_may_wait_longer_for_its_answer_than_a_head_may_take() {
    let door = Door::open().await;
    let waiting = door.raw("GET /waits HTTP/1.0\r\n\r\n").await;
    door.one_waits().await;
    tokio::time::sleep(Bounds::default().header_timeout + Duration::from_secs(1)).await;
    door.let_go_on();
    assert!(waiting.rest().await.ends_with("\r\n\r\nwaited"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_and_not_used_is_closed() {
    let door = Door::open().await;
    let started = Instant::now();
    let said = door.says_to("GET /cached HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(said.ends_with("kept"), "{said}");
    assert!(started.elapsed() <= Bounds::default().header_timeout + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_whole_is_answered_503_in_time() {
    let door = Door::open().await;
    let started = Instant::now();
    let slow = door.says_to("POST /things HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"na").await;
    assert!(slow.starts_with("HTTP/1.1 503 ") && slow.contains("\"timeout\""), "{slow}");
    assert!(slow.contains("\"same-key\"") && slow.contains("retry-after: 1"), "{slow}");
    assert!(started.elapsed() <= Bounds::default().request_timeout + Bounds::default().header_timeout * 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_says_nothing_for_long_is_not_cut_off() {
    let door = Door::open().await;
    let stream = door.raw("GET /streams HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    door.one_waits().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    door.let_go_on();
    assert!(stream.rest().await.contains("ended"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let door = Door::bounded(Bounds { connections: 1, ..Bounds::default() }).await;
    let greedy = door.raw("GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // Served only once the first is gone.
    let started = Instant::now();
    assert!(door.says_to(SHORT).await.ends_with("kept"));
    let waited = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(60)).contains(&waited), "{waited:?}");
    assert!(greedy.rest().await.len() < BIG);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let door = Door::open().await;
    let long = format!("GET /cached HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(40_000));
    assert!(door.says_to(long).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET /cached HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(door.says_to(many).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn over_http2_a_head_that_is_too_large_is_refused_and_the_connection_serves_on() {
    let door = Door::open().await;
    let mut client = door.http2().await;
    for (length, status) in [(20_000, 431), (10, 200)] {
        let request = Request::get(door.url("/cached")).header("x-long", "x".repeat(length));
        let answer = client.send_request(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.expect("answered").status(), status);
    }
}

#[tokio::test]
async fn a_request_of_two_lengths_is_refused() {
    let door = Door::open().await;
    for lengths in
        ["content-length: 3\r\ncontent-length: 4", "content-length: +3", "transfer-encoding: chunked, x"]
    {
        let said =
            door.says_to(format!("POST /maybe HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\n\"\"\r\n")).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{lengths}: {said}");
    }
}

#[tokio::test]
async fn more_connections_than_allowed_wait_outside() {
    let door = Door::bounded(Bounds { connections: 1, ..Bounds::default() }).await;
    let first = door.raw("GET /waits HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    door.one_waits().await;
    let second = door.raw(SHORT).await;
    let outside = tokio::time::timeout(Duration::from_millis(100), second.0.readable()).await;
    assert!(outside.is_err(), "served beside the first");
    door.let_go_on();
    assert!(first.rest().await.ends_with("waited"));
    assert!(second.rest().await.ends_with("kept"));
}
