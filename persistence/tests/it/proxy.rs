//! A proxy in front of PostgreSQL that can swallow an answer: it forwards a request whole, and cuts both
//! connections before the first byte of the answer has come back. Or it says nothing ever after, as a
//! network does that drops everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request that carries this is one whose answer may be swallowed.
const MARK: &[u8] = b"swallow";

pub struct Proxy {
    pub port: u16,
    to_swallow: Arc<AtomicUsize>,
    silence: watch::Sender<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let to_swallow = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&to_swallow);
        let (silence, is_silenced) = watch::channel(());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let mut is_silenced = is_silenced.clone();
                is_silenced.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server");
                    // An error is a cut connection, which is what a proxy is here for.
                    tokio::select! {
                        _ = pass(&mut client, &mut server, &shared) => {}
                        // Both ends stay open, and hear nothing.
                        Ok(()) = is_silenced.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, to_swallow, silence }
    }

    /// The answers to the next `count` requests that carry the mark are swallowed.
    pub fn swallow(&self, count: usize) {
        self.to_swallow.store(count, Ordering::SeqCst);
    }

    pub fn left(&self) -> usize {
        self.to_swallow.load(Ordering::SeqCst)
    }

    /// Connections that are open now pass nothing any more; new ones do.
    pub fn silence(&self) {
        self.silence.send_replace(());
    }
}

async fn pass(
    client: &mut TcpStream,
    server: &mut TcpStream,
    to_swallow: &AtomicUsize,
) -> std::io::Result<()> {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_swallowing = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read? {
                0 => return Ok(()),
                read => {
                    let is_marked = up[..read].windows(MARK.len()).any(|window| window == MARK);
                    if is_marked && to_swallow.load(Ordering::SeqCst) > 0 {
                        to_swallow.fetch_sub(1, Ordering::SeqCst);
                        is_swallowing = true;
                    }
                    server.write_all(&up[..read]).await?;
                }
            },
            read = server.read(&mut down) => match read? {
                0 => return Ok(()),
                // The server has answered, so it has worked; nobody shall know.
                _ if is_swallowing => return Ok(()),
                read => client.write_all(&down[..read]).await?,
            },
        }
    }
}
