//! The listener: HTTP/1.1 and HTTP/2, with a bound on everything that a client can leave open.
//!
//! `axum::serve` sets no time-out on a request's head, so connections are served through hyper-util here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};

/// A client that takes nothing of its answer for so long is cut off.
const WRITE_STALL_MAX: Duration = Duration::from_secs(20);
/// How HTTP/2 begins; HTTP/1 differs from it within a few bytes.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS_MAX: usize = 100;
const STREAMS_MAX: u32 = 100;
const PING_EVERY: Duration = Duration::from_secs(20);
/// Out of file descriptors, and the like: it passes.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// How long the head of a request may take, and how long a connection may idle.
    pub header_timeout: Duration,
    /// The largest head, in bytes.
    pub header_bytes: usize,
    /// The most connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long requests under way may take once the listener is closed.
    pub drain: Duration,
}

/// Serves until `shutdown` resolves, then lets requests under way end, and cuts off those that do not.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ServerLimits,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let (cut_off, _) = watch::channel(false);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.header_bytes.max(8_192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            // Taken before accepting, so that who is not served yet waits outside.
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection cannot be accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // Small answers must not wait for the client's acknowledgement.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let service = TowerToHyperService::new(app.clone());
        let guarded = TokioIo::new(Guarded::new(stream, limits.header_timeout));
        let connection = builder.serve_connection(guarded, service).into_owned();
        let connection = graceful.watch(connection);
        let mut is_cut_off = cut_off.subscribe();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                // A client that misbehaves or goes away is its own affair.
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error, "connection ended");
                },
                _ = is_cut_off.wait_for(|is_cut_off| *is_cut_off) => {}
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the time to drain was over");
        cut_off.send_replace(true);
        cut_off.closed().await;
    }
}

/// A connection whose client must say something first and take what it is sent.
struct Guarded {
    stream: TcpStream,
    /// Until the protocol is known: from then on hyper has time-outs of its own.
    silence: Option<Pin<Box<Sleep>>>,
    /// So many bytes came that are the beginning of [`PREFACE`].
    prefaced: usize,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(stream: TcpStream, silence: Duration) -> Self {
        Self { stream, silence: Some(Box::pin(sleep(silence))), prefaced: 0, stall: None }
    }

    /// Looks at what came while the protocol was not known.
    fn recognise(&mut self, came: &[u8]) {
        let expected = &PREFACE[self.prefaced..];
        match expected.strip_prefix(came) {
            Some([]) | None => self.silence = None,
            Some(_rest) => self.prefaced += came.len(),
        }
    }

    /// The result of a write, or an error once it has been pending for too long.
    fn stalled<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(silence) = &mut self.silence else { return read };
        if read.is_pending() {
            ready!(silence.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.recognise(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.stalled(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.stalled(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.stalled(context, closed)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
