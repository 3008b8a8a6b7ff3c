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

#[test]
fn secrets_and_data_are_not_sent_to_the_builder() {
    let ignored = text(".dockerignore");
    for name in [".git", "data", "secrets", "target"] {
        assert!(ignored.lines().any(|line| line == name), "{name}");
    }
}
