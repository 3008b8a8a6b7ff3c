//! What the specification leaves open, and the engine finds out at the start or never.

use crate::stack::{Service, Stack, stack, text};

/// Published to others than this machine.
const PROXY: &str = "proxy";

/// Every rule that is broken, in words.
fn broken(stack: &Stack) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, service) in &stack.services {
        let rules = [
            waiting(stack, service),
            declared(stack, service),
            open(name, service),
            pinned(service),
            healthy(service),
        ];
        broken.extend(rules.into_iter().flatten().map(|rule| format!("{name} {rule}")));
    }
    for (name, node) in stack.nodes() {
        broken.extend(confined(node).map(|rule| format!("{name} {rule}")));
    }
    broken
}

fn waiting(stack: &Stack, service: &Service) -> Vec<String> {
    let mut broken = Vec::new();
    for (other, needed) in &service.depends_on {
        let Some(found) = stack.services.get(other) else {
            broken.push(format!("waits for {other}, which is no service"));
            continue;
        };
        if needed.condition == "service_healthy" && found.healthcheck.is_none() {
            broken.push(format!("waits for the health of {other}, which nobody checks"));
        }
        if service.networks.is_disjoint(&found.networks) {
            broken.push(format!("waits for {other}, and shares no network with it"));
        }
    }
    broken
}

fn declared(stack: &Stack, service: &Service) -> Vec<String> {
    let volumes = service.volumes.iter().filter_map(|volume| volume.split(':').next());
    // What begins so is a folder of the machine.
    let volumes = volumes.filter(|volume| !volume.starts_with(['.', '/', '~']));
    let configs = service.configs.iter().map(|config| config.source.as_str());
    let missing = |kind: &'static str, name: &str| format!("wants the {kind} {name}, which is not declared");
    let volumes =
        volumes.filter(|name| !stack.volumes.contains_key(*name)).map(|name| missing("volume", name));
    let configs =
        configs.filter(|name| !stack.configs.contains_key(*name)).map(|name| missing("config", name));
    let networks = service.networks.iter().filter(|name| !stack.networks.contains_key(*name));
    let networks = networks.map(|name| missing("network", name));
    let secrets = service.secrets.iter().filter(|name| !stack.secrets.contains_key(*name));
    let secrets = secrets.map(|name| missing("secret", name));
    volumes.chain(configs).chain(networks).chain(secrets).collect()
}

fn open(name: &str, service: &Service) -> Vec<String> {
    let everywhere = service.ports.iter().filter(|port| name != PROXY && !port.starts_with("127.0.0.1:"));
    let ports = everywhere.map(|port| format!("is published to everybody: {port}"));
    // The machine's own network: every port that it listens on would be published.
    ports.chain(service.network_mode.iter().map(|mode| format!("has the network of {mode}"))).collect()
}

fn pinned(service: &Service) -> Vec<String> {
    let is_pinned = service
        .image
        .rsplit_once(':')
        .is_some_and(|(_, tag)| tag.starts_with(|c: char| c.is_ascii_digit()) && tag.contains('.'));
    (!is_pinned).then(|| format!("has an image without a version: {}", service.image)).into_iter().collect()
}

fn healthy(service: &Service) -> Vec<String> {
    let is_checked = service
        .healthcheck
        .as_ref()
        .is_some_and(|health| health.test.first().is_some_and(|kind| kind != "NONE"));
    (!is_checked).then(|| "has no health check".to_owned()).into_iter().collect()
}

/// Only of ours: what strangers' images must be allowed is theirs to say.
fn confined(node: &Service) -> impl Iterator<Item = &'static str> {
    let is_root = node.user.as_deref().is_none_or(|user| user.split(':').any(|id| !is_other(id)));
    let rules = [
        (is_root, "may run as root"),
        (!node.read_only, "may write to its root file system"),
        (!node.cap_drop.contains("ALL"), "keeps capabilities"),
        (node.privileged, "is privileged"),
    ];
    rules.into_iter().filter_map(|(is_broken, rule)| is_broken.then_some(rule))
}

/// The number of a user or group that is not root. A name could be anybody's.
fn is_other(id: &str) -> bool {
    id.parse::<u32>().is_ok_and(|id| id != 0)
}

#[test]
fn no_rule_is_broken() {
    assert_eq!(broken(&stack()), [] as [String; 0]);
}

#[test]
fn only_the_proxy_is_published() {
    let stack = stack();
    let published = |service: &Service| service.ports.iter().any(|port| !port.starts_with("127.0.0.1:"));
    let published: Vec<_> = stack
        .services
        .iter()
        .filter(|(_, service)| published(service))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(published, [PROXY]);
}

#[test]
fn our_images_have_the_version_of_what_is_in_them() {
    for (name, node) in stack().nodes() {
        assert_eq!(node.image, concat!("souk:", env!("CARGO_PKG_VERSION")), "{name}");
    }
}

#[test]
fn a_broken_rule_is_found() {
    let compose = text("docker-compose.yml");
    for (right, wrong, rule) in [
        ("      worker-2: {", "      worker-3: {", "gateway-1 waits for worker-3, which is no service"),
        (
            "    healthcheck:\n      test: [\"CMD\", \"pg_isready\"",
            "    x-healthcheck:\n      test: [\"CMD\", \"pg_isready\"",
            "worker-1 waits for the health of postgres, which nobody checks",
        ),
        (
            "    networks: [edge]\n",
            "    networks: [consoles]\n",
            "proxy waits for gateway-1, and shares no network with it",
        ),
        (
            "- postgres:/var/lib",
            "- database:/var/lib",
            "postgres wants the volume database, which is not declared",
        ),
        (
            "source: haproxy_souk,",
            "source: haproxy,",
            "proxy wants the config haproxy, which is not declared",
        ),
        (
            "[consoles, inside]",
            "[console, inside]",
            "kafdrop wants the network console, which is not declared",
        ),
        ("[postgres_password]", "[password]", "postgres wants the secret password, which is not declared"),
        ("\"127.0.0.1:9000:9000\"", "\"9000:9000\"", "kafdrop is published to everybody: 9000:9000"),
        ("    shm_size: 256mb", "    network_mode: host", "postgres has the network of host"),
        (
            "kafdrop:4.2.0",
            "kafdrop:latest",
            "kafdrop has an image without a version: obsidiandynamics/kafdrop:latest",
        ),
        (
            "    image: haproxy:3.2.22-alpine",
            "    image: haproxy",
            "proxy has an image without a version: haproxy",
        ),
        ("\"CMD\", \"wget\"", "\"NONE\", \"wget\"", "proxy has no health check"),
        ("  user: \"10001:10001\"\n", "", "worker-1 may run as root"),
        ("  user: \"10001:10001\"", "  user: \"10001:0\"", "worker-2 may run as root"),
        ("  user: \"10001:10001\"", "  user: souk", "gateway-1 may run as root"),
        ("  read_only: true\n  #", "  read_only: false\n  #", "gateway-2 may write to its root file system"),
        ("  cap_drop: [ALL]", "  cap_drop: [NET_RAW]", "worker-1 keeps capabilities"),
        ("  read_only: true\n  #", "  read_only: true\n  privileged: true\n  #", "worker-1 is privileged"),
    ] {
        assert!(compose.contains(right), "{right}");
        let broken = broken(&Stack::parse(&compose.replacen(right, wrong, 1)));
        assert!(broken.iter().any(|found| found == rule), "{rule}: {broken:?}");
    }
}
