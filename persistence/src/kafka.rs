//! Kafka, through librdkafka: what is written ([`publisher`]), what is read ([`consumer`]), and the topics themselves.
//!
//! librdkafka has threads of its own and calls that wait; all of them are made on threads where nobody else waits, and
//! no client is dropped where somebody would wait for it.

mod consumer;
mod incoming;
mod member;
mod offsets;
mod publisher;
mod reader;
mod topics;

use std::fmt;
use std::path::PathBuf;

use rdkafka::ClientConfig;

pub use consumer::{ConsumerSettings, Handler, KafkaConsumer};
pub use incoming::Incoming;
pub use publisher::{KafkaPublisher, is_too_large};
pub use rdkafka::error::KafkaError;
pub use reader::{fold_back, read_back, read_places};
pub use topics::{NewTopic, TopicsError, make_topics};

/// Where brokers are and how they are spoken with.
#[derive(Clone)]
pub struct Brokers {
    /// `host:port,host:port`.
    pub addresses: String,
    /// What goes across is encrypted.
    pub tls: bool,
    /// Name and password, and how they are shown: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl: Option<Sasl>,
    /// Who signs the brokers' certificates; `None`: whom the system trusts.
    pub authority: Option<PathBuf>,
    /// This side's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How this side shows who it is.
#[derive(Clone)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Sasl {
    pub mechanism: &'static str,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("Brokers").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Brokers {
    /// In the open, as on loopback.
    pub fn plain(addresses: impl Into<String>) -> Self {
        Self { addresses: addresses.into(), tls: false, sasl: None, authority: None, identity: None }
    }

    /// What every client of these brokers has in common.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.addresses)
            .set("client.id", "souk")
            .set(
                "security.protocol",
                match (self.tls, &self.sasl) {
                    (false, None) => "plaintext",
                    (true, None) => "ssl",
                    (false, Some(_)) => "sasl_plaintext",
                    (true, Some(_)) => "sasl_ssl",
                },
            )
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            // A broker that is away is a warning of ours, once; not a line for each attempt.
            .set("log.connection.close", "false");
        if let Some(Sasl { mechanism, username, password }) = &self.sasl {
            config
                .set("sasl.mechanism", *mechanism)
                .set("sasl.username", username)
                .set("sasl.password", password);
        }
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        if let Some(authority) = &self.authority {
            config.set("ssl.ca.location", path(authority));
        }
        if let Some((certificate, key)) = &self.identity {
            config.set("ssl.certificate.location", path(certificate)).set("ssl.key.location", path(key));
        }
        config
    }
}
