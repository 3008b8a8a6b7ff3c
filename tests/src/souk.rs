//! A shop of a test's own: one node, or three behind a balancer where `SOUK_TEST_NODES` says so, so that the same
//! tests meet both.

use std::sync::Arc;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::process::{Data, Process};

/// How many nodes shops of tests have.
pub const NODES: &str = "SOUK_TEST_NODES";

/// A running Souk.
#[derive(Debug)]
pub struct Souk {
    nodes: Nodes,
    /// Where its API is, without a path.
    pub url: String,
    /// What it runs over.
    pub data: Arc<Data>,
}

#[derive(Debug)]
enum Nodes {
    One(Process),
    Many(Cluster),
}

impl Souk {
    /// Starts it and waits until it is open.
    pub async fn start(data: &Arc<Data>, settings: &[(&str, &str)]) -> Result<Self> {
        let count = std::env::var(NODES).ok().and_then(|count| count.parse().ok()).unwrap_or(1);
        let (nodes, url) = match count {
            1 => {
                let node = Process::serve(data, settings).await?;
                let url = node.url.clone();
                (Nodes::One(node), url)
            }
            count => {
                let cluster = Cluster::start(data, count, settings).await?;
                let url = cluster.url();
                (Nodes::Many(cluster), url)
            }
        };
        Ok(Self { nodes, url, data: Arc::clone(data) })
    }

    /// The process id, where it is one.
    pub fn pid(&self) -> Option<u32> {
        match &self.nodes {
            Nodes::One(node) => node.pid(),
            Nodes::Many(_) => None,
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(self) -> Result<()> {
        match self.nodes {
            Nodes::One(node) => node.kill().await,
            Nodes::Many(cluster) => cluster.kill().await,
        }
    }

    /// SIGTERM, and waits for its end: the exit code.
    pub async fn stop(self) -> Result<i32> {
        match self.nodes {
            Nodes::One(node) => node.stop().await,
            Nodes::Many(cluster) => cluster.stop().await,
        }
    }
}
