//! The server and the layers of the gateway around a few routes of their own, and clients to knock.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, StreamExt};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use souk_actors::admission::Gate;
use souk_gateway::body::{self, BodyLimit, OptionalBody, integer};
use souk_gateway::layers::{RequestLimits, layers};
use souk_gateway::params::{IdempotencyKey, PathId, Query};
use souk_gateway::problem::Problem;
use souk_gateway::server::{ServerLimits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes, so that a test that waits in vain ends.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const BODY_MAX: usize = 1_000;
/// More than the buffers of a socket hold.
pub const BIG: usize = 64 << 20;

/// What a test may set.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub requests: usize,
    pub connections: usize,
    pub request_timeout: Duration,
    pub header_timeout: Duration,
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            requests: 100,
            connections: 100,
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(5),
        }
    }
}

#[derive(Clone)]
struct Shared {
    /// A permit for each request that has begun to wait.
    begun: Arc<Semaphore>,
    /// A permit for each that may go on.
    go_on: Arc<Semaphore>,
}

impl FromRef<Shared> for BodyLimit {
    fn from_ref(_shared: &Shared) -> Self {
        Self(BODY_MAX)
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
    #[serde(deserialize_with = "integer")]
    price: i64,
    #[serde(default)]
    parts: Vec<Thing>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    _name: Option<String>,
}

fn routes() -> Router<Shared> {
    Router::new()
        .route("/things", post(async |body: body::Body<Thing>| Json(body.value)))
        .route("/things/{id}", get(async |PathId(id): PathId| id.to_string()))
        .route("/maybe", post(async |OptionalBody(thing): OptionalBody<Thing>| Json(thing)))
        .route("/search", get(async |Query(_): Query<Filter>| "found"))
        .route("/keyed", post(async |IdempotencyKey(key): IdempotencyKey| key.unwrap_or_default()))
        .route("/panics", get(panics))
        .route("/unknown", get(async || Problem::unknown().at("/things/1".to_owned())))
        .route("/waits", get(waits))
        .route("/streams", get(streams))
        .route("/big", get(async || vec![b'x'; BIG]))
        .route("/livez", get(async || "ok\n"))
        .route("/cached", get(async || ([("cache-control", "max-age=60")], "kept")))
}

/// Says two things, and between them nothing until it may go on.
async fn streams(State(shared): State<Shared>) -> Body {
    let said = stream::once(async { Ok::<_, Infallible>("begun, ") });
    Body::from_stream(said.chain(stream::once(async move {
        waits(State(shared)).await;
        Ok("ended")
    })))
}

async fn panics() -> &'static str {
    panic!("the secret ingredient is cinnamon")
}

async fn waits(State(shared): State<Shared>) -> &'static str {
    shared.begun.add_permits(1);
    shared.go_on.acquire().await.expect("never closed").forget();
    "waited"
}

/// An open door.
pub struct Door {
    pub address: SocketAddr,
    shared: Shared,
    stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<()>,
}

impl Door {
    pub async fn open() -> Self {
        Self::bounded(Bounds::default()).await
    }

    pub async fn bounded(bounds: Bounds) -> Self {
        Self::around(routes(), bounds).await
    }

    async fn around(routes: Router<Shared>, bounds: Bounds) -> Self {
        let shared = Shared { begun: Arc::new(Semaphore::new(0)), go_on: Arc::new(Semaphore::new(0)) };
        let gate = Gate::new(bounds.requests);
        let app = layers(routes, RequestLimits { gate, timeout: bounds.request_timeout });
        let limits = ServerLimits {
            header_timeout: bounds.header_timeout,
            header_bytes: 16_384,
            connections: bounds.connections,
            drain: bounds.drain,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let app = app.with_state(shared.clone());
        let served = tokio::spawn(serve(listener, app, limits, async {
            // Dropped or sent: the test is over.
            let _ = stopped.await;
        }));
        Self { address, shared, stop: Some(stop), served }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(self.url(path)).await.expect("answered")
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = reqwest::Client::new().post(self.url(path)).body(body);
        request.header("content-type", "application/json").send().await.expect("answered")
    }

    /// Resolves when one more request waits inside.
    pub async fn one_waits(&self) {
        let begun = timeout(PATIENCE, self.shared.begun.acquire()).await;
        begun.expect("a request came").expect("never closed").forget();
    }

    /// Lets one request go on that waits inside.
    pub fn let_go_on(&self) {
        self.shared.go_on.add_permits(1);
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// A connection that speaks HTTP/2 from its first byte.
    pub async fn http2(&self) -> SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.expect("accepted");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("spoken");
        tokio::spawn(connection);
        sender
    }

    /// A connection that says `text` and nothing more.
    pub async fn raw(&self, text: impl AsRef<[u8]>) -> Raw {
        let mut stream = TcpStream::connect(self.address).await.expect("accepted");
        stream.write_all(text.as_ref()).await.expect("taken");
        Raw(stream)
    }

    /// What the door says to `text`, until it closes the connection.
    pub async fn says_to(&self, text: impl AsRef<[u8]>) -> String {
        self.raw(text).await.rest().await
    }
}

/// A connection without a client's manners.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Everything until the end, however that comes.
    pub async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let mut piece = [0; 65_536];
        let read = async {
            while let Ok(length @ 1..) = self.0.read(&mut piece).await {
                bytes.extend_from_slice(&piece[..length]);
            }
        };
        timeout(PATIENCE * 2, read).await.expect("the connection ends");
        String::from_utf8(bytes).expect("text")
    }
}

/// A problem, as it came.
pub async fn problem(response: reqwest::Response) -> serde_json::Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status().as_u16();
    let body: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(body["status"], status);
    let code = body["code"].as_str().expect("a code");
    assert_eq!(body["type"], format!("/docs/problems#{code}"));
    body
}
