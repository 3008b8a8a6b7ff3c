//! Every setting, its default and its reason.
//!
//! Default < file (`--config`, else `souk.toml` where Souk is started) < environment
//! (`SOUK__SECTION__KEY`, or `SOUK__SECTION__KEY_FILE`, which names a file that holds the value) < flag. A key
//! that is not known is an error: a typing error must not become a default.

mod cluster;
mod files;
mod kafka;
mod secret;
mod urls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use cluster::{Cluster, Role};
pub use kafka::{Kafka, SaslMechanism, Security};
pub use secret::{Secret, SecretUrl};
pub use urls::SecretUrls;

/// Read if it is there and no other file is named.
const FILE: &str = "souk.toml";
/// The most databases of a service: each has connections of its own on every node.
const DATABASES_MAX: usize = 64;

/// Every setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where Souk keeps what is its own: the embedded database, keys, the sandbox's books.
    pub data: PathBuf,
    /// HTTP.
    pub gateway: Gateway,
    /// PostgreSQL.
    pub database: Database,
    /// Entities and sagas.
    pub actors: Actors,
    /// Other nodes.
    pub cluster: Cluster,
    /// Kafka.
    pub kafka: Kafka,
    /// Operators.
    pub admin: Admin,
    /// Access and refresh tokens.
    pub token: Token,
    /// Password hashing.
    pub password: Password,
    /// Whoever moves the money.
    pub payment: Payment,
    /// What is logged, and how.
    pub log: Log,
    /// Threads.
    pub runtime: Runtime,
    /// How Souk ends.
    pub shutdown: Shutdown,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: "data".into(),
            gateway: Gateway::default(),
            database: Database::default(),
            actors: Actors::default(),
            cluster: Cluster::default(),
            kafka: Kafka::default(),
            admin: Admin::default(),
            token: Token::default(),
            password: Password::default(),
            payment: Payment::default(),
            log: Log::default(),
            runtime: Runtime::default(),
            shutdown: Shutdown::default(),
        }
    }
}

/// HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Where to listen. Loopback: who wants more says so.
    pub listen: SocketAddr,
    /// The largest body of a request, in bytes. The largest order there can be has 12 kB.
    pub body_limit_bytes: usize,
    /// The largest head of a request, in bytes.
    pub header_limit_bytes: usize,
    /// How long a request may take, from its head to the head of the answer. Above `Prefer: wait=30`.
    pub request_timeout_ms: u64,
    /// How long the head of a request may take to arrive.
    pub header_timeout_ms: u64,
    /// The most connections at once.
    pub connections_max: usize,
    /// The most requests at once; more are answered 503.
    pub requests_max: usize,
    /// The currency of a product that names none. VND has no minor unit.
    pub shop_currency: String,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            body_limit_bytes: 64 * 1024,
            header_limit_bytes: 16 * 1024,
            request_timeout_ms: 35_000,
            header_timeout_ms: 5_000,
            connections_max: 4_096,
            requests_max: 4_096,
            shop_currency: "VND".to_owned(),
        }
    }
}

/// PostgreSQL, 15 or newer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// A server; the databases of the services are made on it. None here and below: Souk starts a server of
    /// its own.
    pub url: Option<SecretUrl>,
    /// The accounts' database, if it is elsewhere, or several, each with a part of the slots.
    #[serde(skip_serializing_if = "SecretUrls::is_empty")]
    pub account_url: SecretUrls,
    /// The products' database, if it is elsewhere, or several, each with a part of the slots.
    #[serde(skip_serializing_if = "SecretUrls::is_empty")]
    pub product_url: SecretUrls,
    /// The orders' database, if it is elsewhere, or several, each with a part of the slots.
    #[serde(skip_serializing_if = "SecretUrls::is_empty")]
    pub order_url: SecretUrls,
    /// The payments' database, if it is elsewhere, or several, each with a part of the slots.
    #[serde(skip_serializing_if = "SecretUrls::is_empty")]
    pub payment_url: SecretUrls,
    /// The cluster's database, if it is elsewhere.
    pub cluster_url: Option<SecretUrl>,
    /// The most connections of readers, for each database. The writer has one of its own.
    pub pool_size: u32,
    /// The folder of `initdb` and `postgres`, if they are not found by themselves.
    pub binaries: Option<PathBuf>,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            account_url: SecretUrls::default(),
            product_url: SecretUrls::default(),
            order_url: SecretUrls::default(),
            payment_url: SecretUrls::default(),
            cluster_url: None,
            pool_size: 8,
            binaries: None,
        }
    }
}

impl Database {
    /// No database is named: Souk starts a server of its own.
    pub fn is_embedded(&self) -> bool {
        [&self.url, &self.cluster_url].iter().all(|url| url.is_none())
            && self.service_urls().iter().all(|(_, urls)| urls.is_empty())
    }

    fn service_urls(&self) -> [(&'static str, &SecretUrls); 4] {
        [
            ("database.account_url", &self.account_url),
            ("database.product_url", &self.product_url),
            ("database.order_url", &self.order_url),
            ("database.payment_url", &self.payment_url),
        ]
    }
}

/// Entities and sagas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Actors {
    /// The most entities of a kind in memory; 10 kB each and their state.
    pub residents_max: usize,
    /// The most purchases under way on this node; more are answered 503. Below it the limit follows what the
    /// node has done lately: as many as end in half of reserve_ms, so that they do not run into deadlines.
    pub purchases_max: usize,
    /// The most commands before one entity.
    pub mailbox_max: usize,
    /// How long an entity stays in memory that nobody asks.
    pub idle_ms: u64,
    /// How long a purchase may take to have its stock reserved and its money charged.
    pub reserve_ms: u64,
    /// How long one ask of an entity may take.
    pub ask_ms: u64,
    /// How long one call of the payment provider may take.
    pub provider_ms: u64,
    /// How often each product is told what is sold.
    pub settle_interval_ms: u64,
    /// The most completed orders that wait for that; the sweep finds the rest.
    pub settle_max: usize,
    /// How often what is owed is looked for.
    pub sweep_interval_ms: u64,
}

impl Default for Actors {
    fn default() -> Self {
        Self {
            residents_max: 200_000,
            purchases_max: 10_000,
            mailbox_max: 4_096,
            idle_ms: 300_000,
            reserve_ms: 10_000,
            ask_ms: 2_000,
            provider_ms: 5_000,
            settle_interval_ms: 1_000,
            settle_max: 100_000,
            sweep_interval_ms: 5_000,
        }
    }
}

/// Operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// What opens /api/v1/admin, as a bearer token of 16 bytes or more. None: it is closed.
    pub token: Option<Secret>,
}

/// Access and refresh tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Token {
    /// 64 hexadecimal digits: the key that tokens are sealed with. None: a lone node makes one and keeps it in
    /// the data folder; nodes of a cluster make it from the cookie.
    pub key: Option<Secret>,
    /// How long an access token is valid. Short: it is not looked up.
    pub access_ttl_s: u64,
    /// How long a session lives that nobody refreshes.
    pub refresh_ttl_s: u64,
}

impl Default for Token {
    fn default() -> Self {
        Self { key: None, access_ttl_s: 600, refresh_ttl_s: 30 * 24 * 3600 }
    }
}

/// Password hashing: 19 MiB and about 30 ms of a core each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Password {
    /// The most hashes at once, so that logins cannot starve purchases.
    pub concurrency: usize,
    /// The most that wait; more are answered 429.
    pub waiting_max: usize,
}

impl Default for Password {
    fn default() -> Self {
        Self { concurrency: 2, waiting_max: 64 }
    }
}

/// Whoever moves the money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payment {
    /// `sandbox`: the one there is yet.
    pub provider: Provider,
    /// Where the sandbox keeps its books; None: `sandbox` in the data folder.
    pub sandbox_folder: Option<PathBuf>,
}

impl Default for Payment {
    fn default() -> Self {
        Self { provider: Provider::Sandbox, sandbox_folder: None }
    }
}

/// A payment provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// In process, with documented test tokens.
    Sandbox,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// In the syntax of tracing's EnvFilter. Actors open a span each, as long as they live; ractor=warn
    /// leaves them out.
    pub filter: String,
    /// `auto`: readable on a terminal, JSON otherwise.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info,ractor=warn,ractor_cluster=warn,sqlx=warn".to_owned(), format: LogFormat::Auto }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Worker threads; 0: half of the cores, at least one. The rest is PostgreSQL's.
    pub worker_threads: usize,
}

/// How Souk ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long purchases under way may take to end before they are left to the next start.
    pub drain_ms: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_ms: 15_000 }
    }
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--data`.
    pub data: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not readable, not TOML, an unknown key, a value of the wrong type.
    #[error("settings cannot be read: {0}")]
    Unreadable(#[from] config::ConfigError),
    /// The file that a variable names cannot be read.
    #[error("{name}_FILE names {}, which cannot be read: {error}", path.display())]
    File {
        /// The variable that would hold the value itself.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Which of the two values holds?
    #[error("{name} and {name}_FILE are both set")]
    Twice {
        /// The variable.
        name: String,
    },
    /// A value that makes no sense.
    #[error("{key} must be {must}")]
    Invalid {
        /// The setting.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

impl Settings {
    /// Reads all layers. `environment`: every variable; those of other programs are passed over.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, SettingsError> {
        let file = match file {
            Some(file) => File::from(file).format(FileFormat::Toml).required(true),
            None => File::from(Path::new(FILE)).format(FileFormat::Toml).required(false),
        };
        let variables = files::read(environment)?;
        let environment =
            Environment::with_prefix("SOUK").prefix_separator("__").separator("__").source(Some(variables));
        let mut settings: Self =
            Config::builder().add_source(file).add_source(environment).build()?.try_deserialize()?;
        settings.gateway.listen = overrides.listen.unwrap_or(settings.gateway.listen);
        settings.data = overrides.data.unwrap_or(settings.data);
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), SettingsError> {
        let Self { gateway, database, actors, cluster, kafka, admin, token, password, runtime, .. } = self;
        let is_currency = |code: &str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let is_key = |key: &Secret| {
            key.reveal().len() == 64 && key.reveal().bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let is_long = |secret: &Secret| secret.reveal().len() >= 16;
        let checks = [
            ("token.key", "64 hexadecimal digits", token.key.as_ref().is_none_or(is_key)),
            ("token.access_ttl_s", "1 to 86400", (1..=86_400).contains(&token.access_ttl_s)),
            ("token.refresh_ttl_s", "60 to 31536000", (60..=31_536_000).contains(&token.refresh_ttl_s)),
            ("database.pool_size", "1 to 100", (1..=100).contains(&database.pool_size)),
            (
                "gateway.body_limit_bytes",
                "1024 to 16777216",
                (1_024..=16 << 20).contains(&gateway.body_limit_bytes),
            ),
            (
                "gateway.header_limit_bytes",
                "8192 to 1048576",
                (8_192..=1 << 20).contains(&gateway.header_limit_bytes),
            ),
            ("gateway.request_timeout_ms", "at least 1000", gateway.request_timeout_ms >= 1_000),
            ("gateway.header_timeout_ms", "at least 100", gateway.header_timeout_ms >= 100),
            ("gateway.connections_max", "at least 1", gateway.connections_max >= 1),
            ("gateway.requests_max", "at least 1", gateway.requests_max >= 1),
            (
                "gateway.shop_currency",
                "three capital letters of ISO 4217, such as VND",
                is_currency(&gateway.shop_currency),
            ),
            ("actors.residents_max", "at least 100", actors.residents_max >= 100),
            ("actors.purchases_max", "at least 1", actors.purchases_max >= 1),
            ("actors.mailbox_max", "at least 16", actors.mailbox_max >= 16),
            ("actors.reserve_ms", "100 to 600000", (100..=600_000).contains(&actors.reserve_ms)),
            ("actors.ask_ms", "at least 10", actors.ask_ms >= 10),
            ("actors.provider_ms", "at least 10", actors.provider_ms >= 10),
            ("actors.settle_interval_ms", "at least 10", actors.settle_interval_ms >= 10),
            ("actors.settle_max", "at least 1", actors.settle_max >= 1),
            ("actors.sweep_interval_ms", "at least 100", actors.sweep_interval_ms >= 100),
            (
                "database.url",
                "set where cluster.listen is: nodes share a server",
                cluster.listen.is_none() || !database.is_embedded(),
            ),
            ("admin.token", "at least 16 bytes", admin.token.as_ref().is_none_or(is_long)),
            ("password.concurrency", "1 to 64", (1..=64).contains(&password.concurrency)),
            ("runtime.worker_threads", "0 to 1024", runtime.worker_threads <= 1_024),
        ];
        let counted = |(key, urls): (_, &SecretUrls)| (key, "at most 64 URLs", urls.len() <= DATABASES_MAX);
        let counts = database.service_urls().map(counted);
        match cluster
            .checks()
            .into_iter()
            .chain(kafka.checks())
            .chain(checks)
            .chain(counts)
            .find(|(_, _, holds)| !holds)
        {
            Some((key, must, _)) => Err(SettingsError::Invalid { key, must }),
            None => Ok(()),
        }
    }

    /// The settings in force, as a file would say them; secrets are masked.
    pub fn masked_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }
}

/// Milliseconds as a duration.
pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::load(None, variables, Overrides::default())
    }

    #[test]
    fn without_anything_the_defaults_hold() {
        assert_eq!(load(&[("HOME", "/")]).expect("loads"), Settings::default());
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_a_file() {
        let file = std::env::temp_dir().join(format!("souk-config-{}.toml", std::process::id()));
        std::fs::write(&file, "data = \"file\"\n[actors]\nask_ms = 7000\nidle_ms = 8000\n").expect("a file");
        let variables = [("SOUK__DATA", "environment"), ("SOUK__ACTORS__ASK_MS", "9000")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let overrides = Overrides { data: Some("flag".into()), listen: None };
        let settings = Settings::load(Some(&file), variables, overrides).expect("loads");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(settings.data, Path::new("flag"));
        assert_eq!((settings.actors.ask_ms, settings.actors.idle_ms), (9_000, 8_000));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = load(&[("SOUK__ACTORS__ASK_MSS", "1")]).expect_err("unknown").to_string();
        assert!(error.contains("ask_mss"), "{error}");
        let error = load(&[("SOUK__ACTOR__ASK_MS", "1")]).expect_err("unknown").to_string();
        assert!(error.contains("actor"), "{error}");
    }

    #[test]
    fn a_value_out_of_bounds_is_an_error_that_names_it() {
        for (variable, value, key) in [
            ("SOUK__TOKEN__KEY", "short", "token.key"),
            ("SOUK__DATABASE__POOL_SIZE", "0", "database.pool_size"),
            ("SOUK__ACTORS__ASK_MS", "1", "actors.ask_ms"),
            ("SOUK__GATEWAY__SHOP_CURRENCY", "dong", "gateway.shop_currency"),
            ("SOUK__CLUSTER__LISTEN", "127.0.0.1:7000", "cluster.cookie"),
            ("SOUK__CLUSTER__TLS_KEY", "key.pem", "cluster.tls_certificate"),
            ("SOUK__ADMIN__TOKEN", "short", "admin.token"),
            ("SOUK__RUNTIME__WORKER_THREADS", "1000000", "runtime.worker_threads"),
        ] {
            let error = load(&[(variable, value)]).expect_err("out of bounds").to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn the_examples_are_read() {
        let example = |name: &str, variables: &[(&str, &str)]| {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Settings::load(Some(&file), variables, Overrides::default()).expect("loads")
        };
        assert_eq!(example("souk.example.toml", &[]).data, Path::new("/var/lib/souk"));
        let secrets = [
            ("SOUK__DATABASE__URL", "postgres://db/postgres"),
            ("SOUK__CLUSTER__COOKIE", "thirty-two bytes or more, they say"),
        ];
        assert_eq!(example("cluster.example.toml", &secrets).cluster.name.as_deref(), Some("node-1"));
    }

    #[test]
    fn a_service_has_one_database_or_several() {
        let reveal = |settings: Settings| {
            settings.database.order_url.iter().map(|url| url.reveal().to_owned()).collect::<Vec<_>>()
        };
        let both = ["postgres://a/x", "postgres://b/y"];
        let listed = load(&[("SOUK__DATABASE__ORDER_URL", "postgres://a/x,postgres://b/y")]).expect("loads");
        assert!(!listed.database.is_embedded());
        assert!(listed.masked_toml().contains(r#""postgres://b/y""#), "{}", listed.masked_toml());
        assert_eq!(reveal(listed), both);
        let one = load(&[("SOUK__DATABASE__ORDER_URL", both[0])]).expect("loads");
        assert!(one.masked_toml().contains(r#"order_url = "postgres://a/x""#), "{}", one.masked_toml());
        assert_eq!(reveal(one), both[..1]);
        let file = std::env::temp_dir().join(format!("souk-urls-{}.toml", std::process::id()));
        std::fs::write(&file, format!("[database]\norder_url = {both:?}\n")).expect("a file");
        let settings = Settings::load(Some(&file), [], Overrides::default()).expect("loads");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(reveal(settings), both);
    }

    #[test]
    fn what_is_shown_holds_no_secret_and_reads_back() {
        let key = "canary00".repeat(8).replace(|c: char| !c.is_ascii_hexdigit(), "a");
        let settings = load(&[
            ("SOUK__TOKEN__KEY", &key),
            ("SOUK__DATABASE__URL", "postgres://souk:canary@127.0.0.1/postgres"),
        ])
        .expect("loads");
        let shown = settings.masked_toml();
        assert!(!shown.contains("canary") && !shown.contains(&key), "{shown}");
        assert!(shown.contains("postgres://souk:***@127.0.0.1/postgres"), "{shown}");
        assert!(toml::from_str::<toml::Table>(&shown).is_ok());
    }
}
