//! Kafka: what the shop says to the world, and what it is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// Brokers to begin with, `host:port,host:port`. None: nothing is said and nothing heard.
    pub brokers: Option<String>,
    /// How brokers are spoken with.
    pub security: Security,
    /// How Souk shows who it is, with `sasl_plaintext` and `sasl_tls`.
    pub sasl_mechanism: SaslMechanism,
    /// As whom.
    pub username: Option<String>,
    /// See above.
    pub password: Option<Secret>,
    /// Who signs the brokers' certificates, a PEM file. None: whom the system trusts.
    pub tls_authority: Option<PathBuf>,
    /// This side's certificate chain, a PEM file, where brokers want one.
    pub tls_certificate: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Before the name of every topic and consumer group: several shops may share brokers.
    pub prefix: String,
    /// How many partitions a topic has that Souk makes.
    pub partitions: i32,
    /// How many copies of it there are; 0: what brokers do by default.
    pub replication: i32,
    /// How often the journals are read for news where there was none: what a record is late at least.
    pub relay_interval_ms: u64,
    /// The most rows of a database that are told in a second: what is caught up with must not starve purchases.
    pub relay_rows_per_second: u32,
    /// Topics of what Souk is told that are believed whoever wrote the record, `purchase,reply`: only where nobody but
    /// friends can write. On the others a record must be signed.
    pub trusted: String,
    /// Who may buy, by the `ce_source` of their records: the key of their signatures, 32 bytes or more.
    pub purchase_signers: BTreeMap<String, Secret>,
    /// Who may answer for stock, in the same way. Each signs only what it is here for.
    pub inventory_signers: BTreeMap<String, Secret>,
    /// Who may answer for money, in the same way.
    pub payment_signers: BTreeMap<String, Secret>,
    /// Participants of purchases that live outside and are asked on their topics, `inventory,payment`. An order keeps those
    /// that it began with.
    pub outside: String,
    /// The most records of a topic at once whose effect is awaited.
    pub consumer_in_flight: usize,
    /// A consumer that is behind and has heard nothing for so long is made anew.
    pub consumer_silence_ms: u64,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: None,
            security: Security::Plaintext,
            sasl_mechanism: SaslMechanism::ScramSha512,
            username: None,
            password: None,
            tls_authority: None,
            tls_certificate: None,
            tls_key: None,
            prefix: String::new(),
            partitions: 10,
            replication: 0,
            relay_interval_ms: 50,
            relay_rows_per_second: 20_000,
            trusted: String::new(),
            purchase_signers: BTreeMap::new(),
            inventory_signers: BTreeMap::new(),
            payment_signers: BTreeMap::new(),
            outside: String::new(),
            consumer_in_flight: 512,
            consumer_silence_ms: 30_000,
        }
    }
}

impl Kafka {
    /// The names of trusted topics.
    pub fn trusted_topics(&self) -> impl Iterator<Item = &str> {
        listed(&self.trusted)
    }

    /// Whether a participant, `inventory` or `payment`, lives outside.
    pub fn is_outside(&self, participant: &str) -> bool {
        listed(&self.outside).any(|outside| outside == participant)
    }

    /// Keys, what they must be, and whether they are.
    pub(crate) fn checks(&self) -> [(&'static str, &'static str, bool); 19] {
        let uses_sasl = matches!(self.security, Security::SaslPlaintext | Security::SaslTls);
        let are_keys = |keys: &BTreeMap<String, Secret>| keys.values().all(|key| key.reveal().len() >= 32);
        let can_answer = |participant: &str, signers: &BTreeMap<String, Secret>| {
            let is_trusted = self.trusted_topics().any(|topic| topic == "reply");
            !self.is_outside(participant) || is_trusted || !signers.is_empty()
        };
        let is_name = |name: &str| {
            name.len() <= 100 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        [
            (
                "kafka.username",
                "set with kafka.password where kafka.security is sasl_plaintext or sasl_tls",
                !uses_sasl || (self.username.is_some() && self.password.is_some()),
            ),
            (
                "kafka.security",
                "sasl_plaintext or sasl_tls where kafka.username or kafka.password is set: they would not be shown",
                uses_sasl || (self.username.is_none() && self.password.is_none()),
            ),
            (
                "kafka.brokers",
                "host:port,host:port, or not set",
                self.brokers.as_ref().is_none_or(|brokers| brokers.split(',').all(|one| one.contains(':'))),
            ),
            (
                "kafka.tls_authority",
                "a file, as kafka.tls_certificate and kafka.tls_key are",
                [&self.tls_authority, &self.tls_certificate, &self.tls_key]
                    .into_iter()
                    .flatten()
                    .all(|path| path.is_file()),
            ),
            (
                "kafka.tls_certificate",
                "set with kafka.tls_key, or neither",
                self.tls_certificate.is_some() == self.tls_key.is_some(),
            ),
            ("kafka.prefix", "at most 100 of A-Z a-z 0-9 . _ -", is_name(&self.prefix)),
            ("kafka.partitions", "1 to 1000", (1..=1_000).contains(&self.partitions)),
            ("kafka.replication", "0 to 15", (0..=15).contains(&self.replication)),
            ("kafka.relay_interval_ms", "1 or more", self.relay_interval_ms >= 1),
            (
                "kafka.relay_rows_per_second",
                "100 to 1000000",
                (100..=1_000_000).contains(&self.relay_rows_per_second),
            ),
            (
                "kafka.trusted",
                "of purchase and reply, with commas",
                self.trusted_topics().all(|topic| ["purchase", "reply"].contains(&topic)),
            ),
            ("kafka.purchase_signers", "keys of at least 32 bytes", are_keys(&self.purchase_signers)),
            ("kafka.inventory_signers", "keys of at least 32 bytes", are_keys(&self.inventory_signers)),
            ("kafka.payment_signers", "keys of at least 32 bytes", are_keys(&self.payment_signers)),
            (
                "kafka.outside",
                "of inventory and payment, with commas, and only with kafka.brokers",
                listed(&self.outside).all(|one| ["inventory", "payment"].contains(&one))
                    && (self.brokers.is_some() || self.outside.is_empty()),
            ),
            (
                "kafka.inventory_signers",
                "set, or kafka.trusted with reply, where kafka.outside names inventory: nobody could answer",
                can_answer("inventory", &self.inventory_signers),
            ),
            (
                "kafka.payment_signers",
                "set, or kafka.trusted with reply, where kafka.outside names payment: nobody could answer",
                can_answer("payment", &self.payment_signers),
            ),
            ("kafka.consumer_in_flight", "1 to 10000", (1..=10_000).contains(&self.consumer_in_flight)),
            // Whether it is behind is known every five seconds.
            ("kafka.consumer_silence_ms", "10000 or more", self.consumer_silence_ms >= 10_000),
        ]
    }
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// How brokers are spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// In the open.
    Plaintext,
    /// Encrypted.
    Tls,
    /// In the open, with a name and a password.
    SaslPlaintext,
    /// Encrypted, with a name and a password.
    SaslTls,
}

/// How a name and a password are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the mechanism of its name")]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn signers(source: &str, key: &str) -> BTreeMap<String, Secret> {
        [(source.to_owned(), key.to_owned().into())].into()
    }

    fn broken(kafka: &Kafka) -> Vec<&'static str> {
        kafka.checks().iter().filter(|(_, _, holds)| !holds).map(|(key, _, _)| *key).collect()
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(broken(&Kafka::default()).is_empty());
        let sasl =
            Kafka { security: Security::SaslTls, username: Some("souk".to_owned()), ..Kafka::default() };
        assert_eq!(broken(&sasl), ["kafka.username"]);
        let trusting = Kafka { trusted: "purchase, orders".to_owned(), ..Kafka::default() };
        assert_eq!(broken(&trusting), ["kafka.trusted"]);
        let open = Kafka { password: Some("secret".to_owned().into()), ..Kafka::default() };
        assert_eq!(broken(&open), ["kafka.security"]);
        let signers = signers("shopfront", "short");
        let short = Kafka { purchase_signers: signers.clone(), payment_signers: signers, ..Kafka::default() };
        assert_eq!(broken(&short), ["kafka.purchase_signers", "kafka.payment_signers"]);
        let nowhere = Kafka { brokers: Some(String::new()), ..Kafka::default() };
        assert_eq!(broken(&nowhere), ["kafka.brokers"]);
        let unread = Kafka { tls_authority: Some("/nowhere/ca.pem".into()), ..Kafka::default() };
        assert_eq!(broken(&unread), ["kafka.tls_authority"]);
        let hasty = Kafka { relay_interval_ms: 0, consumer_silence_ms: 999, ..Kafka::default() };
        assert_eq!(broken(&hasty), ["kafka.relay_interval_ms", "kafka.consumer_silence_ms"]);
    }

    #[test]
    fn who_lives_outside_can_answer() {
        let outside = Kafka {
            brokers: Some("127.0.0.1:9092".to_owned()),
            outside: "inventory,payment".to_owned(),
            purchase_signers: signers("shopfront", KEY),
            ..Kafka::default()
        };
        assert_eq!(broken(&outside), ["kafka.inventory_signers", "kafka.payment_signers"]);
        let signed = Kafka { payment_signers: signers("payments", KEY), ..outside.clone() };
        assert_eq!(broken(&signed), ["kafka.inventory_signers"]);
        assert!(broken(&Kafka { trusted: "reply".to_owned(), ..outside }).is_empty());
    }

    #[test]
    fn topics_are_listed_with_commas() {
        let kafka = Kafka { trusted: " purchase,reply ,".to_owned(), ..Kafka::default() };
        assert_eq!(kafka.trusted_topics().collect::<Vec<_>>(), ["purchase", "reply"]);
    }
}
