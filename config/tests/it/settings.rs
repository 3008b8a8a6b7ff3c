//! Souk's settings as its containers get them.

use std::path::Path;

use serde_json::Value;
use souk_config::{Overrides, Role, Settings, SettingsError};

use crate::image;
use crate::secrets::Secrets;
use crate::stack::{Service, Stack, stack, text};

/// What the node in the container reads, but for where the engine puts secrets.
fn load(stack: &Stack, node: &Service, secrets: &Secrets) -> Result<Settings, SettingsError> {
    let environment = node.environment.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = match Path::new(&value).strip_prefix("/run/secrets") {
            Ok(secret) => {
                let secret = secret.to_str().expect("Unicode");
                assert!(
                    node.secrets.contains(secret),
                    "{name} names {secret}, which the service does not get"
                );
                secrets.file(&stack.secrets[secret].file).display().to_string()
            }
            Err(_) => value,
        };
        (name.clone(), value)
    });
    Settings::load(None, image::environment().into_iter().chain(environment), Overrides::default())
}

#[test]
fn every_node_is_given_settings_that_it_knows() {
    let secrets = Secrets::new("settings");
    let stack = stack();
    assert!(stack.nodes().count() >= 3, "a cluster");
    for (name, node) in stack.nodes() {
        let settings = load(&stack, node, &secrets).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(settings.cluster.listen.is_some(), "{name} is alone");
        assert!(settings.token.key.is_some(), "{name}");
        assert!(!settings.gateway.listen.ip().is_loopback(), "{name} cannot be reached");
        let url = settings.database.url.expect("a server");
        assert!(url.reveal().contains("@postgres:5432/"), "{name}: {url:?}");
    }
}

#[test]
fn a_setting_that_is_not_known_is_found() {
    let secrets = Secrets::new("misspelt");
    let compose = text("docker-compose.yml").replace("SOUK__TOKEN__KEY_FILE", "SOUK__TOKEN__SEAL_FILE");
    let stack = Stack::parse(&compose);
    for (_, node) in stack.nodes() {
        let error = load(&stack, node, &secrets).expect_err("unknown").to_string();
        assert!(error.contains("seal"), "{error}");
    }
}

#[test]
fn a_node_is_known_and_reached_by_the_name_of_its_service() {
    let secrets = Secrets::new("names");
    let stack = stack();
    for (name, node) in stack.nodes() {
        let Settings { gateway, cluster, .. } = load(&stack, node, &secrets).expect("loads");
        let listen = cluster.listen.expect("it is in a cluster");
        assert_eq!(cluster.name.as_ref(), Some(name));
        assert_eq!(cluster.advertise, Some(format!("{name}:{}", listen.port())));
        assert_eq!(cluster.http, Some(format!("http://{name}:{}", gateway.listen.port())));
        let health = node.healthcheck.as_ref().expect("a health check").test.join(" ");
        let port = gateway.listen.port();
        assert!(health.contains(&format!("/dev/tcp/127.0.0.1/{port} ")), "{name}: {health}");
    }
}

/// Where clients' requests can be answered: the services and their addresses.
pub fn doors(stack: &Stack) -> Vec<(String, String)> {
    let secrets = Secrets::new("doors");
    let doors = stack.nodes().map(|(name, node)| (name, load(stack, node, &secrets).expect("loads")));
    let doors = doors.filter(|(_, settings)| settings.cluster.role != Role::Worker);
    doors
        .map(|(name, settings)| (name.clone(), format!("{name}:{}", settings.gateway.listen.port())))
        .collect()
}
