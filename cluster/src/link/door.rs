//! How connections come about: accepted, or dialled. Until the other side has shown the cookie a connection is a
//! stranger's, of whom there are few at once and none for long.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ractor::ActorRef;
use ractor_cluster::{ClusterBidiStream, NodeServerMessage};
use souk_persistence::chance;
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::host::Switchboard;
use super::tls::{Tls, server_name};
use super::transport::{Patience, Transport};

const CONNECT_MAX: Duration = Duration::from_secs(3);
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(2);
/// Whoever did not fit is looked at again: it may have been started anew.
const REFUSED_AGAIN: Duration = Duration::from_secs(5);
/// Whether a stranger is known by now.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The listener cannot accept for want of something: files, memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Door {
    pub switchboard: Arc<Switchboard>,
    pub server: ActorRef<NodeServerMessage>,
    pub tls: Option<Tls>,
}

/// When somebody is dialled next.
struct Attempt {
    next: Instant,
    wait: Duration,
}

impl Door {
    /// Accepts, until the listener is dropped.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let strangers = Arc::new(Semaphore::new(self.switchboard.settings.strangers_max));
        loop {
            // A full house: the next one waits in the kernel's queue.
            let Ok(place) = Arc::clone(&strangers).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "another node cannot be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let door = Arc::clone(&self);
            tokio::spawn(async move {
                let limit = door.switchboard.settings.introduction_timeout;
                match timeout(limit, door.welcome(stream)).await.unwrap_or_else(late) {
                    Ok(is_known) => {
                        // Until it has shown the cookie, or is cut off for not having done so.
                        let cut_off = Instant::now() + limit;
                        // Nobody else has it: the connection has ended.
                        let is_stranger =
                            || !is_known.load(Ordering::Acquire) && Arc::strong_count(&is_known) > 1;
                        while is_stranger() && Instant::now() < cut_off {
                            tokio::time::sleep(LOOK_AGAIN).await;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "whoever connected was not let in"),
                }
                drop(place);
            });
        }
    }

    async fn welcome(&self, stream: TcpStream) -> io::Result<Arc<AtomicBool>> {
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => self.hand_over(tls.acceptor.accept(stream).await?, true),
            None => self.hand_over(stream, true),
        }
    }

    /// Dials those that are missing, again and again.
    pub async fn dial(self: Arc<Self>) {
        let mut attempts: HashMap<Uuid, Attempt> = HashMap::new();
        loop {
            let missing = self.switchboard.missing();
            attempts.retain(|peer, _| missing.iter().any(|(missing, _, _)| missing == peer));
            let now = Instant::now();
            for (peer, address, is_refused) in missing {
                let attempt = attempts.entry(peer).or_insert(Attempt { next: now, wait: AGAIN_FIRST });
                if attempt.next > now {
                    continue;
                }
                let wait = if is_refused { REFUSED_AGAIN } else { attempt.wait };
                // Half to once and a half, so that nodes that were cut off together do not come back together.
                attempt.next =
                    now + wait.mul_f64(0.5 + f64::from(chance::draw::<u32>()) / f64::from(u32::MAX));
                attempt.wait = (attempt.wait * 2).min(AGAIN_LAST);
                let door = Arc::clone(&self);
                tokio::spawn(async move {
                    if let Err(error) =
                        timeout(CONNECT_MAX, door.connect(&address)).await.unwrap_or_else(late)
                    {
                        tracing::debug!(%peer, address, %error, "a node cannot be reached");
                    }
                });
            }
            let next = attempts.values().map(|attempt| attempt.next).min();
            let pause = next.map_or(AGAIN_LAST, |next| next.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
                () = self.switchboard.changed.notified() => {}
            }
        }
    }

    async fn connect(&self, address: &str) -> io::Result<Arc<AtomicBool>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => self.hand_over(tls.connector.connect(server_name(address)?, stream).await?, false),
            None => self.hand_over(stream, false),
        }
    }

    fn hand_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        is_server: bool,
    ) -> io::Result<Arc<AtomicBool>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let label = format!("connection-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let settings = &self.switchboard.settings;
        let patience = Patience {
            idle: settings.idle_timeout,
            introduction: settings.introduction_timeout,
            stall: settings.stall_timeout,
        };
        let is_known = self.switchboard.admit(&label);
        let stream: Box<dyn ClusterBidiStream> =
            Box::new(Transport { stream, label, patience, is_known: Arc::clone(&is_known) });
        let opened = NodeServerMessage::ConnectionOpenedExternal { stream, is_server };
        self.server.cast(opened).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(is_known)
    }
}

fn late<T>(_: tokio::time::error::Elapsed) -> io::Result<T> {
    Err(io::ErrorKind::TimedOut.into())
}
