//! Many nodes.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Other nodes: they share the databases and act as one shop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Where to listen for other nodes. None: this node is alone, and has the databases for itself.
    pub listen: Option<SocketAddr>,
    /// What other nodes connect to, `host:port`. None: `listen`.
    pub advertise: Option<String>,
    /// Where clients reach this node, for those who look at the cluster. None: where it listens.
    pub http: Option<String>,
    /// This node's name through all its starts: it decides which shards fall to it. None: what it advertises.
    pub name: Option<String>,
    /// `both`, `gateway` (takes requests, has no shards) or `worker` (has shards, takes no requests).
    pub role: Role,
    /// What nodes know each other by, 32 bytes or more, the same on all of them. Tokens are sealed with a key
    /// that is made from it, unless token.key is set.
    pub cookie: Option<Secret>,
    /// How long a node keeps its shards that says nothing: what it had serves again a moment later.
    pub lease_ms: u64,
    /// How many parts the shop has when a cluster is made; never changed afterwards.
    pub shards: u16,
    /// This node's certificate chain, its key, and who signs those of all nodes: PEM files. With them both ends
    /// of every link show a certificate, and what crosses is encrypted.
    pub tls_certificate: Option<PathBuf>,
    /// See above.
    pub tls_key: Option<PathBuf>,
    /// See above.
    pub tls_authority: Option<PathBuf>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: None,
            http: None,
            name: None,
            role: Role::Both,
            cookie: None,
            lease_ms: 10_000,
            shards: 64,
            tls_certificate: None,
            tls_key: None,
            tls_authority: None,
        }
    }
}

impl Cluster {
    /// Keys, what they must be, and whether they are.
    pub(crate) fn checks(&self) -> [(&'static str, &'static str, bool); 6] {
        let is_long = |cookie: &Secret| cookie.reveal().len() >= 32;
        let has_name = |name: &Option<String>| {
            name.as_ref().is_none_or(|name| (1..=100).contains(&name.len()) && name.is_ascii())
        };
        let certificates = [&self.tls_certificate, &self.tls_key, &self.tls_authority];
        [
            (
                "cluster.cookie",
                "at least 32 bytes where cluster.listen is set",
                self.cookie.as_ref().map_or(self.listen.is_none(), is_long),
            ),
            ("cluster.lease_ms", "1000 to 600000", (1_000..=600_000).contains(&self.lease_ms)),
            ("cluster.shards", "1 to 4096", (1..=4_096).contains(&self.shards)),
            ("cluster.name", "1 to 100 ASCII characters", has_name(&self.name)),
            ("cluster.advertise", "host:port", has_name(&self.advertise)),
            (
                "cluster.tls_certificate",
                "set with cluster.tls_key and cluster.tls_authority, or none of them",
                certificates.iter().all(|file| file.is_some())
                    || certificates.iter().all(|file| file.is_none()),
            ),
        ]
    }
}

/// What a node of a cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes requests and has no shards.
    Gateway,
    /// Has shards and takes no requests of clients.
    Worker,
    /// Both.
    Both,
}
