//! HAProxy's files and the services that they name.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::settings::doors;
use crate::stack::{beside, stack, text};

const FILES: [&str; 2] = ["config/haproxy.cfg", "config/haproxy.compose.cfg"];

/// The lines that begin with this word, without it.
fn lines(keyword: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines = text(FILES[1]).lines().map(words).collect::<Vec<_>>().into_iter();
    lines
        .filter(|words| words.first().is_some_and(|word| word == keyword))
        .map(|words| words[1..].to_vec())
        .collect()
}

#[test]
fn the_proxy_knows_every_service_that_takes_requests_and_no_other() {
    let servers: Vec<_> =
        lines("server").into_iter().map(|words| (words[0].clone(), words[1].clone())).collect();
    assert_eq!(servers, doors(&stack()));
}

#[test]
fn the_proxy_listens_where_it_is_published() {
    let bound: Vec<_> = lines("bind").concat();
    let ports = &stack().services["proxy"].ports;
    let inner = ports.iter().filter_map(|port| port.rsplit(':').next());
    assert_eq!(bound, inner.map(|port| format!(":{port}")).collect::<Vec<_>>());
}

#[test]
fn the_proxy_reads_its_files_in_their_order() {
    let stack = stack();
    let proxy = &stack.services["proxy"];
    let mut read = Vec::new();
    for words in proxy.command.windows(2).filter(|words| words[0] == "-f") {
        let config = proxy.configs.iter().find(|config| config.target == words[1]).expect("it gets the file");
        read.push(stack.configs[&config.source].file.as_path());
    }
    assert_eq!(read, FILES.map(Path::new));
}

#[test]
fn haproxy_takes_its_files() {
    let mut command = Command::new("haproxy");
    // Debian's is not in everybody's path.
    if Path::new("/usr/sbin/haproxy").exists() {
        command = Command::new("/usr/sbin/haproxy");
    }
    for file in FILES {
        command.arg("-f").arg(beside(file));
    }
    match command.arg("-c").output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        // Past the test's own capture, so that the summary counts it.
        Err(_) => writeln!(std::io::stderr(), "skipped: HAProxy reads its files: it is not installed")
            .expect("stderr"),
    }
}
