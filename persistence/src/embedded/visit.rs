//! A look at the databases of a data folder by somebody who is not their Souk.

use std::path::PathBuf;
use std::sync::Mutex;

use tokio::time::Instant;

use super::cluster::{self, Place};
use super::{Doing, Embedded, EmbeddedError, EmbeddedSettings, LOG, READY_MAX, Server, binaries, process};

/// A server to read from: as it runs, or started for this visit alone.
#[derive(Debug)]
pub struct Visit {
    url: String,
    started: Option<Embedded>,
}

impl Visit {
    /// Begins a visit. A server that runs, under a Souk or left by one that was killed, is left as it is; one
    /// that does not is started, with the lock of the folder, so that no Souk adopts what will be stopped.
    /// `None`: no server was ever made there, and none is made.
    pub async fn begin(settings: &EmbeddedSettings) -> Result<Option<Self>, EmbeddedError> {
        let data = std::path::absolute(&settings.data).doing("find", &settings.data)?;
        let user = binaries::unprivileged()?;
        let place = Place::of(&data, user.as_ref())?;
        if place.made_by.is_none() {
            return Ok(None);
        }
        if let Some((process, port)) = process::server_of(&place.cluster) {
            let server = Server {
                // It is not started from here.
                binaries: PathBuf::new(),
                cluster: place.cluster,
                log: data.join(LOG),
                password: cluster::password(&data, true)?,
                port,
                user,
                process: Mutex::new(process),
            };
            match server.ready(Instant::now() + READY_MAX).await {
                Ok(()) => return Ok(Some(Self { url: server.url(), started: None })),
                Err(error) if process.is_alive() => return Err(error),
                // It was just stopping.
                Err(_) => {}
            }
        }
        let embedded = Embedded::start(settings).await?;
        let url = embedded.url();
        // One that a Souk has left meanwhile is for the next one to adopt.
        let started = Some(embedded).filter(|embedded| !embedded.is_adopted());
        Ok(Some(Self { url, started }))
    }

    /// `postgres://souk:…@127.0.0.1:port/postgres`: holds the password.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The server runs for this visit alone.
    pub fn is_alone(&self) -> bool {
        self.started.is_some()
    }

    /// Ends the visit: a server that was started for it is stopped.
    pub async fn end(self) {
        if let Some(started) = self.started {
            started.stop().await;
        }
    }
}
