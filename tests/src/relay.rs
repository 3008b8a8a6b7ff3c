//! A TCP relay: spreads connections over several addresses, or stands between two that a test cuts off from
//! each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For so long what nobody listens to is taken.
const LINGER: Duration = Duration::from_secs(1);

/// A relay, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    targets: watch::Sender<Arc<Vec<SocketAddr>>>,
    cut: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Spreads connections over `targets`, one after the other; one that refuses is passed over.
    pub async fn to(targets: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (targets, targeted) = watch::channel(Arc::new(targets));
        let (cut, is_cut) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, targeted, is_cut));
        Ok(Self { address, targets, cut, accepting })
    }

    /// From now on new connections go to these.
    pub fn aim(&self, targets: Vec<SocketAddr>) {
        self.targets.send_replace(Arc::new(targets));
    }

    /// Lets nothing through any more, without a word to either side; or lets new connections through again.
    pub fn cut(&self, is_cut: bool) {
        self.cut.send_replace(is_cut);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<Arc<Vec<SocketAddr>>>,
    is_cut: watch::Receiver<bool>,
) {
    let next = Arc::new(AtomicUsize::new(0));
    // A listener that fails is the end of the test.
    while let Ok((client, _)) = listener.accept().await {
        let targets = Arc::clone(&targets.borrow());
        tokio::spawn(carry(client, targets, Arc::clone(&next), is_cut.clone()));
    }
}

async fn carry(
    mut client: TcpStream,
    targets: Arc<Vec<SocketAddr>>,
    next: Arc<AtomicUsize>,
    mut is_cut: watch::Receiver<bool>,
) {
    let first = next.fetch_add(1, Ordering::Relaxed);
    let carrying = async {
        for offset in 0..targets.len() {
            let target = targets[(first + offset) % targets.len()];
            if let Ok(mut server) = TcpStream::connect(target).await {
                // Errors are the endpoints' to see.
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                both_ways(&mut client, &mut server).await;
                return;
            }
        }
    };
    tokio::pin!(carrying);
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
        () = &mut carrying => return,
    }
    // Kept, and not carried on: neither side hears anything, not even an end, until the cut heals.
    let _ = is_cut.wait_for(|is_cut| !*is_cut).await;
}

/// Carries each direction to its own end: whoever is not listened to any more is still answered, and what it goes on
/// saying is taken, as a server behind no relay does by lingering.
async fn both_ways(client: &mut TcpStream, server: &mut TcpStream) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = async {
        // Errors are the endpoints' to see.
        let _ = copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        let _ = copy(&mut from_client, &mut sink()).await;
    };
    let back = async {
        let _ = copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::pin!(there);
    tokio::pin!(back);
    tokio::select! {
        () = &mut there => back.await,
        () = &mut back => drop(timeout(LINGER, there).await),
    }
}
