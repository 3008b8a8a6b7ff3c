//! The specification's schema.

use serde_json::Value;

use crate::stack::text;

fn violations(compose: &str) -> Vec<String> {
    let schema = text("config/tests/compose-spec/compose-spec.json");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let compose: Value = serde_saphyr::from_str(compose).expect("YAML");
    validator.iter_errors(&compose).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_file_is_what_the_specification_says() {
    assert_eq!(violations(&text("docker-compose.yml")), [] as [String; 0]);
}

#[test]
fn what_the_specification_does_not_know_is_refused() {
    let compose = text("docker-compose.yml");
    for (right, wrong, place) in [
        ("    shm_size:", "    shared_size:", "/services/postgres"),
        ("condition: service_healthy", "condition: healthy", "/services/worker-1/depends_on"),
        ("  read_only: true", "  read_only: [always]", "/services/worker-1/read_only"),
    ] {
        assert!(compose.contains(right), "{right}");
        let violations = violations(&compose.replace(right, wrong));
        assert!(violations.iter().any(|violation| violation.starts_with(place)), "{violations:?}");
    }
}
