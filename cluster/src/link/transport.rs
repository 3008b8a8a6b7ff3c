//! A socket that notices when nobody is at its other end.
//!
//! The stock transport of `ractor_cluster` waits for ever: a peer that is stopped, or behind a cut, is noticed by
//! nobody, and what is sent to it piles up. Here a link on which nothing was read for a while is an error, and so is
//! a write that makes no progress. Pings, every few seconds, keep one alive that has nothing to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// One `recv` then serves many frames.
const READ_BUFFER: usize = 64 * 1024;

/// How long silence may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Nothing read.
    pub idle: Duration,
    /// Nothing read before the other side has shown the cookie.
    pub introduction: Duration,
    /// No progress of a write.
    pub stall: Duration,
}

/// A connected stream, for `ractor_cluster`.
pub(crate) struct Transport<S> {
    pub stream: S,
    /// Names the connection among those of this process.
    pub label: String,
    pub patience: Patience,
    /// Turns true when the other side has shown the cookie.
    pub is_known: Arc<AtomicBool>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ClusterBidiStream for Transport<S> {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let Self { stream, patience, is_known, .. } = *self;
        let (reader, writer) = tokio::io::split(stream);
        let reader = Watched::new(reader, patience.idle);
        let reader = Introduced { inner: reader, is_known, until: Box::pin(sleep(patience.introduction)) };
        let writer = Watched::new(writer, patience.stall);
        (Box::new(BufReader::with_capacity(READ_BUFFER, reader)), Box::new(writer))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

/// Fails where it has waited for `limit` without anything having happened.
struct Watched<T> {
    inner: T,
    limit: Duration,
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<T> Watched<T> {
    fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, silence: Box::pin(sleep(limit)), is_waiting: false }
    }

    /// What the inner half said, unless it has said nothing for too long.
    fn judge<R>(&mut self, context: &mut Context<'_>, said: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if said.is_ready() {
            self.is_waiting = false;
            return said;
        }
        // What passed before somebody waits is no silence of the other side.
        if !self.is_waiting {
            self.silence.as_mut().reset(Instant::now() + self.limit);
            self.is_waiting = true;
        }
        ready!(self.silence.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.judge(context, said)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(context, said)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(context, said)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge(context, said)
    }
}

/// Fails where the other side has not shown the cookie in time, however much it says.
struct Introduced<T> {
    inner: T,
    is_known: Arc<AtomicBool>,
    until: Pin<Box<Sleep>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Introduced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_known.load(Ordering::Acquire) && self.until.as_mut().poll(context).is_ready() {
            tracing::debug!("whoever connected has not shown the cookie");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(8),
        introduction: Duration::from_secs(5),
        stall: Duration::from_secs(4),
    };

    fn halves(is_known: bool) -> ((BoxRead, BoxWrite), tokio::io::DuplexStream) {
        let (ours, theirs) = duplex(1024);
        let is_known = Arc::new(AtomicBool::new(is_known));
        let transport = Transport { stream: ours, label: "it".to_owned(), patience: PATIENCE, is_known };
        (Box::new(transport).split(), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_after_a_while_and_not_before() {
        let ((mut reader, _writer), mut theirs) = halves(true);
        tokio::time::sleep(Duration::from_secs(7)).await;
        theirs.write_all(b"ping").await.expect("is heard");
        let mut heard = [0; 4];
        reader.read_exact(&mut heard).await.expect("is in time");
        let begun = Instant::now();
        let error = reader.read_exact(&mut heard).await.expect_err("nobody speaks");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_is_an_error_and_a_pause_before_it_is_not() {
        let ((_reader, mut writer), theirs) = halves(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        writer.write_all(&[0; 1024]).await.expect("is taken");
        let begun = Instant::now();
        let error = writer.write_all(&[0; 1024]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 4));
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn who_talks_without_the_cookie_is_cut_off() {
        let ((mut reader, _writer), mut theirs) = halves(false);
        let talking = tokio::spawn(async move {
            while theirs.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let begun = Instant::now();
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.expect_err("it is a stranger");
        assert_eq!(begun.elapsed().as_secs(), 5);
        drop(reader);
        talking.abort();
    }
}
