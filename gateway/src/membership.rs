//! The node's part in a cluster, as its settings say.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use souk_cluster::link::TlsFiles;
use souk_cluster::map::Role;
use souk_cluster::register::migrations;
use souk_cluster::{ClusterSettings, Joining};
use souk_config::{Settings, millis};
use souk_persistence::databases::{DatabaseUrls, prepare};
use souk_persistence::migrate::migrate_by;
use sqlx::postgres::PgConnectOptions;

/// Finds the cluster that the settings name, or makes it. `None`: this node is alone.
pub async fn begin(settings: &Settings, urls: &DatabaseUrls, http: SocketAddr) -> Result<Option<Joining>> {
    let cluster = &settings.cluster;
    let (Some(listen), Some(cookie)) = (cluster.listen, &cluster.cookie) else { return Ok(None) };
    let tls = match (&cluster.tls_certificate, &cluster.tls_key, &cluster.tls_authority) {
        (Some(certificate), Some(key), Some(authority)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            authority: authority.clone(),
        }),
        (_, _, _) => None,
    };
    let settings = ClusterSettings {
        register: register(urls).await?,
        listen,
        advertise: cluster.advertise.clone(),
        name: cluster.name.clone(),
        http: cluster.http.clone().unwrap_or_else(|| format!("http://{http}")),
        role: role(cluster.role),
        cookie: cookie.reveal().to_owned(),
        tls,
        shards: cluster.shards,
        lease: millis(cluster.lease_ms),
    };
    Ok(Some(Joining::begin(settings).await?))
}

/// `cluster_db`, made where it is missing, and migrated.
pub async fn register(urls: &DatabaseUrls) -> Result<PgConnectOptions> {
    let options = prepare("cluster_db", urls.cluster.as_deref(), urls.server.as_deref())
        .await
        .context("open the register of the cluster")?;
    migrate_by(migrations(), &options).await.context("migrate the register of the cluster")?;
    Ok(options)
}

/// What a node does.
pub fn role(role: souk_config::Role) -> Role {
    match role {
        souk_config::Role::Gateway => Role::Gateway,
        souk_config::Role::Worker => Role::Worker,
        souk_config::Role::Both => Role::Both,
    }
}
