//! The door closes in order.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::door::{Bounds, Door, PATIENCE};

const WAITS: &str = "GET /waits HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_request_under_way_is_answered_and_then_the_connection_closes() {
    let mut door = Door::open().await;
    let inside = door.raw(WAITS).await;
    door.one_waits().await;
    door.stop();
    // Idle connections, and new ones, are not served any more.
    let closed = async {
        while TcpStream::connect(door.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the listener closes");
    assert!(!door.served.is_finished());
    door.let_go_on();
    assert!(inside.rest().await.ends_with("waited"));
    timeout(PATIENCE, door.served).await.expect("in time").expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_end_is_cut_off_when_the_time_to_drain_is_over() {
    let bounds = Bounds { request_timeout: Duration::from_secs(600), ..Bounds::default() };
    let mut door = Door::bounded(bounds).await;
    let inside = door.raw(WAITS).await;
    door.one_waits().await;
    let started = Instant::now();
    door.stop();
    timeout(PATIENCE, &mut door.served).await.expect("in time").expect("no panic");
    assert_eq!(inside.rest().await, "");
    assert!(started.elapsed() <= bounds.drain + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn over_http2_too_a_request_under_way_is_answered_or_cut_off_in_the_end() {
    for is_let_go in [true, false] {
        let drain = if is_let_go { PATIENCE } else { Duration::from_millis(50) };
        let mut door = Door::bounded(Bounds { drain, ..Bounds::default() }).await;
        let mut client = door.http2().await;
        let request = Request::get(door.url("/waits")).body(Body::empty()).expect("a request");
        let inside = tokio::spawn(client.send_request(request));
        door.one_waits().await;
        door.stop();
        if is_let_go {
            door.let_go_on();
        }
        assert_eq!(inside.await.expect("joined").is_ok(), is_let_go);
        timeout(PATIENCE, door.served).await.expect("in time").expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_does_not_hold_up_the_end() {
    let mut door = Door::open().await;
    let idle = door.raw("").await;
    let half = door.raw("GET /wai").await;
    assert!(door.says_to("GET /livez HTTP/1.0\r\n\r\n").await.ends_with("ok\n"));
    door.stop();
    let started = Instant::now();
    timeout(PATIENCE, door.served).await.expect("in time").expect("no panic");
    assert!(started.elapsed() <= Bounds::default().drain);
    assert_eq!(idle.rest().await + &half.rest().await, "");
}
