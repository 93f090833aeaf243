//! `--mode validate`: both programs accept, or both reject.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::process::Binary;

/// One configuration: what Envoy says about it, and its text.
struct Config<'a> {
    name: &'a str,
    accepted: bool,
    text: String,
}

/// The configurations of `tests/cases/validate.yaml`. Each starts with a line `#: accept NAME` or `#: reject NAME`; a text
/// that has no top-level key of a bootstrap is wrapped: `listener:`, `filters:`, `routes:`, `cluster:`, `manager:`, `http:` (filters before
/// the router) and `router:` say where.
fn configs(text: &str) -> Result<Vec<Config<'_>>> {
    text.split("\n#: ")
        .skip(1)
        .map(|part| {
            let (line, body) = part.split_once('\n').context("a case without a body")?;
            let (verdict, name) = line.split_once(' ').context("a case without a name")?;
            ensure!(matches!(verdict, "accept" | "reject"), "{line}: neither accept nor reject");
            Ok(Config { name, accepted: verdict == "accept", text: wrap(body) })
        })
        .collect()
}

fn wrap(body: &str) -> String {
    use integration::config::{HttpListener, bootstrap, indent, listener_with_filters};
    let (key, rest) = body.split_once(":\n").unwrap_or(("", body));
    let up = integration::config::cluster("up", "up", "").replace("{{up}}", "80");
    let inside = |columns| indent(rest, columns);
    let dedented = || {
        rest.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect::<Vec<_>>().join("\n") + "\n"
    };
    match key {
        "listener" => bootstrap(&[dedented()], &[up], ""),
        "filters" => bootstrap(&[listener_with_filters("l", &dedented())], &[up], ""),
        "routes" => bootstrap(&[HttpListener::new("l", &dedented()).yaml()], &[up], ""),
        "hosts" => bootstrap(&[HttpListener::with_virtual_hosts("l", &dedented()).yaml()], &[up], ""),
        "manager" => bootstrap(&[HttpListener::to_up("l").options(&dedented()).yaml()], &[up], ""),
        "http" => bootstrap(&[HttpListener::to_up("l").filters(&dedented()).yaml()], &[up], ""),
        "router" => bootstrap(&[HttpListener::to_up("l").router(&dedented()).yaml()], &[up], ""),
        "cluster" => bootstrap(&[], &[dedented()], ""),
        _ => format!("{key}{}{}", if key.is_empty() { "" } else { ":\n" }, inside(0)),
    }
}

pub(crate) fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let text = include_str!("../../cases/validate.yaml");
    let only = std::env::var("CASE").unwrap_or_default();
    let mut failures = String::new();
    let mut count = 0;
    for config in configs(text)?.iter().filter(|config| config.name.contains(&only)) {
        count += 1;
        let word = |accepted| if accepted { "accepts" } else { "rejects" };
        for binary in [reference, subject] {
            let verdict = binary.validate(&config.text)?;
            let crashed = !verdict.accepted && verdict.code != Some(1);
            if verdict.accepted != config.accepted || crashed {
                let last = verdict.text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
                let said = format!("{:?} {} (code {:?})", binary.kind, word(verdict.accepted), verdict.code);
                let _ = writeln!(failures, "{}: {said}: {last}", config.name);
            }
        }
    }
    ensure!(failures.is_empty(), "of {count} configurations:\n{failures}");
    Ok(())
}
