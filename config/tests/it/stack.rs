//! docker-compose.yml as the tests see it. Another form of what is read here, such as a port in many lines, is
//! refused: the tests would pass it over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// What is declared.
#[derive(Debug, Deserialize)]
pub struct Stack {
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, Value>,
    pub volumes: BTreeMap<String, Value>,
    pub configs: BTreeMap<String, Source>,
    pub secrets: BTreeMap<String, Source>,
}

/// A config or a secret: a file beside docker-compose.yml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub file: PathBuf,
}

/// A service.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub build: Option<String>,
    pub pull_policy: Option<String>,
    pub image: String,
    pub user: Option<String>,
    pub privileged: bool,
    pub read_only: bool,
    pub cap_drop: BTreeSet<String>,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, Value>,
    pub ports: Vec<String>,
    pub network_mode: Option<String>,
    pub networks: BTreeSet<String>,
    pub volumes: Vec<String>,
    pub configs: Vec<Mounted>,
    pub secrets: BTreeSet<String>,
    pub depends_on: BTreeMap<String, Needed>,
    pub healthcheck: Option<Health>,
}

/// A config in a container.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mounted {
    pub source: String,
    pub target: String,
}

/// Another service that must be there before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needed {
    pub condition: String,
}

/// A health check.
#[derive(Debug, Deserialize)]
pub struct Health {
    pub test: Vec<String>,
}

impl Stack {
    /// As the engine would read it, but for `${…}`, of which there are none.
    pub fn parse(text: &str) -> Self {
        serde_saphyr::from_str(text).expect("docker-compose.yml in the forms that the tests know")
    }

    /// The services that run Souk.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &Service)> {
        self.services.iter().filter(|(_, service)| service.image.starts_with("souk:"))
    }
}

/// A file beside docker-compose.yml.
pub fn beside(name: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// What is in it.
pub fn text(name: impl AsRef<Path>) -> String {
    let path = beside(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// docker-compose.yml.
pub fn stack() -> Stack {
    Stack::parse(&text("docker-compose.yml"))
}
