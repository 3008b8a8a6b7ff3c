//! A cluster of a test's own: a database server, nodes, and a balancer before them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::process::{Data, Process};
use crate::relay::Relay;
use crate::shopper::Shopper;

/// How long a node of a test keeps its shards that says nothing.
pub const LEASE: Duration = Duration::from_secs(3);
/// What opens the admin API.
pub const TOKEN: &str = "the operators of this test";
const COOKIE: &str = "a cookie of more than thirty-two bytes";
const READY_MAX: Duration = Duration::from_secs(60);

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Through all its starts.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Where it is reached by other nodes.
    pub link: SocketAddr,
    data: Arc<Data>,
}

impl Node {
    /// Where its API is, without a path.
    pub fn url(&self) -> &str {
        &self.process.url
    }
}

/// A cluster, until it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes that were not killed or stopped.
    pub nodes: Vec<Node>,
    /// Spreads requests over the nodes.
    pub balancer: Relay,
    settings: Vec<(String, String)>,
    server: String,
    data: Arc<Data>,
    postgres: Process,
}

impl Cluster {
    /// Starts `count` nodes over one server in `data`, and waits until every shard is served.
    pub async fn start(data: &Arc<Data>, count: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let postgres = Process::postgres(data).await?;
        let server = postgres.url.clone();
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let balancer = Relay::to(Vec::new()).await?;
        let data = Arc::clone(data);
        let mut cluster = Self { nodes: Vec::new(), balancer, settings, server, data, postgres };
        for number in 1..=count {
            cluster.join(&format!("node-{number}"), &[]).await?;
        }
        cluster.settled(count).await?;
        Ok(cluster)
    }

    /// Where the balancer is.
    pub fn url(&self) -> String {
        format!("http://{}", self.balancer.address)
    }

    /// The URL of the database server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What it runs over.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// One more node, with settings of its own.
    pub async fn join(&mut self, name: &str, own: &[(&str, &str)]) -> Result<()> {
        let data = Data::new(name)?;
        let link = free_address()?;
        let (lease, listen) = (LEASE.as_millis().to_string(), link.to_string());
        let mut settings = vec![
            ("SOUK__DATABASE__URL", self.server.as_str()),
            ("SOUK__CLUSTER__LISTEN", &listen),
            ("SOUK__CLUSTER__COOKIE", COOKIE),
            ("SOUK__CLUSTER__NAME", name),
            ("SOUK__CLUSTER__LEASE_MS", &lease),
            ("SOUK__ADMIN__TOKEN", TOKEN),
        ];
        settings.extend(self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        settings.extend(own);
        let process = Process::serve(&data, &settings).await?;
        self.nodes.push(Node { name: name.to_owned(), process, link, data });
        self.aim()
    }

    /// Settings of nodes that join from now on, beside those that all have.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Takes a node out, for whoever kills or stops it.
    pub fn take(&mut self, name: &str) -> Result<Node> {
        let place = self.nodes.iter().position(|node| node.name == name).context("no such node")?;
        let node = self.nodes.remove(place);
        self.aim()?;
        Ok(node)
    }

    /// A node.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).context("no such node")
    }

    fn aim(&self) -> Result<()> {
        let addresses: Result<_> = self.nodes.iter().map(|node| node.process.address()).collect();
        self.balancer.aim(addresses?);
        Ok(())
    }

    /// The cluster as the first node that answers sees it.
    pub async fn status(&self) -> Result<Value> {
        let mut last = None;
        for node in &self.nodes {
            let operator = Shopper::stranger(node.url())?.with_token(TOKEN, "");
            match tokio::time::timeout(Duration::from_secs(2), operator.get("/admin/cluster")).await {
                Ok(Ok(answer)) if answer.status == 200 => return Ok(answer.body),
                other => last = Some(format!("{other:?}")),
            }
        }
        anyhow::bail!("no node tells how the cluster is: {last:?}")
    }

    /// Waits until every shard is had by one of `count` live nodes, none of which has much more than its part.
    pub async fn settled(&self, count: usize) -> Result<Value> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let status = self.status().await;
            if let Ok(status) = &status
                && is_settled(status, count)
            {
                return Ok(status.clone());
            }
            ensure!(Instant::now() < deadline, "the cluster does not settle: {status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The sum of a counter over all nodes, by the beginning of its line in `/metrics`.
    pub async fn counted(&self, counter: &str) -> Result<f64> {
        let mut sum = 0.0;
        for node in &self.nodes {
            sum += counted(node.url(), counter).await?;
        }
        Ok(sum)
    }

    /// Kills everything.
    pub async fn kill(self) -> Result<()> {
        for node in self.nodes {
            node.process.kill().await?;
        }
        self.postgres.stop().await?;
        Ok(())
    }

    /// Stops every node in order: the worst exit code.
    pub async fn stop(self) -> Result<i32> {
        let mut worst = 0;
        for node in self.nodes {
            worst = worst.max(node.process.stop().await?);
            drop(node.data);
        }
        worst = worst.max(self.postgres.stop().await?);
        Ok(worst)
    }

    /// Restarts the database server as an operator would: shut down fast, started again.
    pub fn shut_database_down(&self) -> Result<()> {
        let pid_file = std::fs::read_to_string(self.data.path().join("postgres/postmaster.pid"))?;
        let pid = pid_file.lines().next().context("postmaster.pid names a process")?.parse()?;
        // `souk postgres` watches its server, and starts it again.
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT)?)
    }
}

/// A port that is free, and that the system gives nobody in the meantime: it gives from 32768 on.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let number = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(20_000 + number % 10_000)?));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no port is free")
}

fn is_settled(status: &Value, count: usize) -> bool {
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let live: Vec<_> = nodes.iter().filter(|node| node["state"] == "live").collect();
    let fair = 64_usize.div_ceil(count.max(1)) as u64;
    let is_fair =
        live.iter().all(|node| node["shards"].as_u64().is_some_and(|shards| (1..=fair).contains(&shards)));
    live.len() == count && nodes.len() == count && status["unowned"] == 0 && is_fair
}

/// The sum of a counter of one node.
pub async fn counted(url: &str, counter: &str) -> Result<f64> {
    let text = reqwest::get(format!("{url}/metrics")).await?.text().await?;
    let lines = text.lines().filter(|line| line.starts_with(counter));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.fold(0.0, |sum, count| sum + count))
}
