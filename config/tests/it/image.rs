//! The image that Souk's services run.

use crate::stack::{stack, text};

/// Instructions and what they say, of the stage that is run.
fn last_stage() -> Vec<(String, String)> {
    let mut stages = instructions().into_iter().rev();
    let mut stage: Vec<_> = stages.by_ref().take_while(|(name, _)| name != "FROM").collect();
    stage.reverse();
    stage
}

fn instructions() -> Vec<(String, String)> {
    let text = text("Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let joined = lines.replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.split_once(' '));
    instructions.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// What the image itself sets.
pub fn environment() -> Vec<(String, String)> {
    let variables = last_stage().into_iter().filter(|(name, _)| name == "ENV").map(|(_, rest)| rest);
    let apart = |variable: String| {
        let (name, value) = variable.split_once('=').expect("ENV NAME=value");
        (name.to_owned(), value.to_owned())
    };
    variables.map(apart).collect()
}

#[test]
fn the_image_runs_as_the_user_that_the_services_do() {
    let stage = last_stage();
    let user = stage.iter().rfind(|(name, _)| name == "USER").map(|(_, user)| user);
    for (name, node) in stack().nodes() {
        assert_eq!(node.user.as_ref(), user, "{name}");
    }
}

#[test]
fn what_it_is_built_from_has_versions() {
    let from: Vec<_> = instructions().into_iter().filter(|(name, _)| name == "FROM").collect();
    assert_eq!(from.len(), 2, "what builds is not in what runs");
    for (_, image) in from {
        let tag =
            image.split_whitespace().next().and_then(|image| image.rsplit_once(':')).map(|(_, tag)| tag);
        let tag = tag.unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(tag.starts_with(|c: char| c.is_ascii_digit()) && tag.contains('.'), "{image}");
    }
}

/// As on a machine where it is not built in a container.
#[test]
fn it_is_built_with_the_packages_that_every_build_needs() {
    let packages = text(".ci/packages");
    let of_every_build: Vec<_> = packages
        .lines()
        .take_while(|line| !line.contains("command -v curl"))
        .filter_map(|line| line.split_once("missing=\"$missing ")?.1.strip_suffix('"'))
        .flat_map(str::split_whitespace)
        .collect();
    assert!(of_every_build.contains(&"g++"), "{of_every_build:?}");
    let (_, installed) = instructions().into_iter().find(|(name, _)| name == "RUN").expect("it installs");
    for package in of_every_build {
        assert!(installed.split_whitespace().any(|word| word == package), "{package}: {installed}");
    }
}

#[test]
fn one_service_builds_it_and_nobody_looks_for_it_elsewhere() {
    let stack = stack();
    let policies = |builds: bool| {
        let nodes = stack.nodes().filter(move |(_, node)| node.build.is_some() == builds);
        nodes.map(|(_, node)| node.pull_policy.as_deref().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!((policies(true), policies(false)), (vec!["build"], vec!["never"; 3]));
}

#[test]
fn secrets_and_data_are_not_sent_to_the_builder() {
    let ignored = text(".dockerignore");
    let untracked = text(".gitignore");
    let untracked = untracked.lines().map(|line| line.trim_start_matches('/'));
    for name in untracked.chain([".git", "data", "secrets", "services", "target"]) {
        assert!(ignored.lines().any(|line| line == name), "{name}");
    }
}
