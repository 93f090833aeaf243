//! What a run was made with: when, of which commit, on which machine, and the versions of all programs in it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::options::Options;
use crate::peers::{Peer, program};

/// See the module above. What cannot be found out is `unknown`.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    date: String,
    /// That of the sources; the program under test names its own in its version.
    commit: String,
    cpu: String,
    cores: usize,
    kernel: String,
    /// The proxies, then the load generators. (nginx is the backend, too.)
    versions: Vec<(&'static str, String)>,
}

impl Circumstances {
    pub(crate) fn of(options: &Options) -> Self {
        let peers = options.peers.iter().map(|peer| (peer.name(), peer.binary(options).ok(), flag(*peer)));
        let loads = [("wrk", program("WRK").ok(), "-v"), ("h2load", program("H2LOAD").ok(), "--version")];
        let versions = peers.chain(loads).map(|(name, path, flag)| {
            let said = path.and_then(|path| said(&path, &[flag]));
            (name, said.as_deref().and_then(version).unwrap_or_else(unknown))
        });
        Self {
            date: said(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
            cpu: cpu(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            versions: versions.collect(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let Self { date, commit, cpu, cores, kernel, versions } = self;
        let versions: Vec<String> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!("{date}, commit {commit}; {cores} cores of {cpu}, Linux {kernel}; {}.", versions.join(", "))
    }

    pub(crate) fn json(&self) -> Value {
        let Self { date, commit, cpu, cores, kernel, versions } = self;
        let versions: serde_json::Map<String, Value> =
            versions.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
        json!({"date": date, "commit": commit, "cpu": cpu, "cores": cores, "kernel": kernel, "versions": versions})
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// What has a proxy tell its version.
fn flag(peer: Peer) -> &'static str {
    match peer {
        Peer::Outrigger | Peer::Envoy => "--version",
        Peer::Haproxy | Peer::Nginx => "-v",
    }
}

/// The first line that a program writes, to whichever stream: nginx tells its version on standard error, and wrk fails after it.
fn said(program: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// The word that is a version: it has a digit with a dot behind it. (In front of `version` stands the path of a program.)
fn version(line: &str) -> Option<String> {
    let line = line.split_once("version").map_or(line, |(_, rest)| rest);
    let has_number =
        |word: &&str| word.as_bytes().windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1] == b'.');
    let word = line.split_whitespace().find(has_number)?;
    Some(["nginx/", "nghttp2/"].iter().find_map(|name| word.strip_prefix(name)).unwrap_or(word).to_owned())
}

/// The commit, and whether the sources are other than it says. (The results are written by the run itself.)
fn commit() -> Option<String> {
    let git = |words: &[&str]| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let output = Command::new("git").arg("-C").arg(root).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/results"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit} with changes that are not committed") })
}

fn cpu(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (line, expected) in [
            (
                "/a-1.2.3/envoy  version: 61d9/1.40.0/Clean/RELEASE/BoringSSL",
                Some("61d9/1.40.0/Clean/RELEASE/BoringSSL"),
            ),
            ("HAProxy version 3.0.11-1 2025/07/02 - https://haproxy.org/", Some("3.0.11-1")),
            ("nginx version: nginx/1.26.3", Some("1.26.3")),
            ("wrk debian/4.1.0-4 [epoll] Copyright (C) 2012 Will Glozer", Some("debian/4.1.0-4")),
            ("h2load nghttp2/1.64.0", Some("1.64.0")),
            ("no such option", None),
        ] {
            assert_eq!(version(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_model_of_the_processor_is_one_line() {
        let text = "processor\t: 0\nmodel name\t: A  CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(cpu(text).as_deref(), Some("A  CPU @ 2 GHz"));
        assert_eq!(cpu(""), None);
    }
}
