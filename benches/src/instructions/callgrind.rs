//! Running programs under callgrind, and reading what it counted.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::pieces::Piece;
use super::traffic::Row;

/// Requests of the shorter of two runs; the longer has three times as many.
const REQUESTS: usize = 640;
/// Calls of a piece.
const CALLS: usize = 2_000;

/// Instructions of one request or call, by function.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    functions: BTreeMap<String, f64>,
}

impl Profile {
    /// All of them.
    pub(crate) fn total(&self) -> f64 {
        self.functions.values().sum()
    }

    /// The functions with the most instructions, most first.
    pub(crate) fn top(&self) -> Vec<(&str, f64)> {
        let mut functions: Vec<_> =
            self.functions.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        functions.sort_by(|one, other| other.1.total_cmp(&one.1));
        functions
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn from_pairs<const N: usize>(pairs: [(&str, f64); N]) -> Self {
        Self { functions: pairs.map(|(name, count)| (name.to_owned(), count)).into() }
    }

    /// Those of one function.
    pub(crate) fn of(&self, function: &str) -> f64 {
        self.functions.get(function).copied().unwrap_or_default()
    }

    /// For people: what makes up nearly all of it.
    pub(crate) fn table(&self) -> String {
        let total = self.total();
        let mut text = String::new();
        let mut sum = 0.0;
        for (name, count) in self.top() {
            sum += count;
            // a string takes everything
            let _ = writeln!(
                text,
                "{count:9.1} {:5.1} % {:5.1} %  {name}",
                100.0 * count / total,
                100.0 * sum / total
            );
            if sum > 0.98 * total {
                break;
            }
        }
        text
    }

    /// Reads the file of callgrind: self cost by function. The line after `calls=` is the cost of the callee, and not self.
    fn read(text: &str) -> Result<Self> {
        let mut functions: BTreeMap<String, f64> = BTreeMap::new();
        let mut current = None;
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                current = Some(name);
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                if std::mem::take(&mut is_call) {
                    continue;
                }
                let name = current.context("a cost before any function")?;
                let count: f64 = line.split_whitespace().nth(1).context("a line without cost")?.parse()?;
                *functions.entry(name_of(name)).or_default() += count;
            }
        }
        ensure!(!functions.is_empty(), "callgrind counted nothing");
        Ok(Self { functions })
    }

    /// What `self` has beyond `other`, of one of `count`.
    fn beyond(mut self, other: &Self, count: usize) -> Self {
        for (name, cost) in &mut self.functions {
            *cost = (*cost - other.of(name)) / count as f64;
        }
        self
    }
}

/// A name without what changes from build to build: hashes and the marks of recursion.
fn name_of(name: &str) -> String {
    let name = name.split("'2").next().unwrap_or(name);
    let name = match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => path,
        _ => name,
    };
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    // crates carry a hash in brackets
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        match after.split_once(']') {
            Some((hash, after)) if hash.len() > 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                rest = after
            }
            _ => {
                text.push('[');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// The words before the program.
fn valgrind(out: &Path) -> Vec<String> {
    let mut words: Vec<String> =
        ["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--quiet"]
            .map(str::to_owned)
            .into();
    words.push(format!("--callgrind-out-file={}", out.display()));
    words
}

/// Counts one call of a piece of the proxy.
pub(crate) fn piece(piece: Piece, keep: Option<&Path>) -> Result<Profile> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let output = Command::new("valgrind")
        .args(valgrind(&out))
        // every function of that name, in whatever crate a compiler puts it
        .arg("--toggle-collect=*measured*")
        .arg(std::env::current_exe()?)
        .args(["--piece", piece.name(), &CALLS.to_string()])
        .output()
        .context("cannot run valgrind")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(read_file(&out, piece.name(), keep)?.beyond(&Profile::default(), CALLS))
}

/// Counts one request through the whole proxy.
pub(crate) fn requests(row: Row, outrigger: &Path, keep: Option<&Path>) -> Result<Profile> {
    let few = run(row, outrigger, REQUESTS, None)?;
    let many = run(row, outrigger, 3 * REQUESTS, keep)?;
    Ok(many.beyond(&few, 2 * REQUESTS))
}

/// Starts the proxy under callgrind, sends `count` requests through it and ends it.
fn run(row: Row, outrigger: &Path, count: usize, keep: Option<&Path>) -> Result<Profile> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    row.run(wrapper(&dir, outrigger, &out)?, count)?;
    read_file(&out, row.name(), keep)
}

fn read_file(out: &Path, name: &str, keep: Option<&Path>) -> Result<Profile> {
    if let Some(folder) = keep {
        std::fs::copy(out, folder.join(format!("callgrind.out.{name}")))?;
    }
    Profile::read(&std::fs::read_to_string(out)?)
}

/// A program that takes the proxy's command line and runs it under callgrind.
fn wrapper(dir: &TempDir, outrigger: &Path, out: &Path) -> Result<std::path::PathBuf> {
    let path = dir.path().join("outrigger");
    let words = valgrind(out).join(" ");
    std::fs::write(&path, format!("#!/bin/sh\nexec valgrind {words} {} \"$@\"\n", outrigger.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_cost_is_summed_without_that_of_callees() {
        let text = "events: Ir\nfl=a.rs\nfn=a::b::h0123456789abcdef\n1 10\n2 5\ncfn=c\ncalls=2 7\n3 1000\n+1 1\n\nfn=c\n7 1000\n";
        let profile = Profile::read(text).unwrap();
        assert_eq!(profile.top(), [("c", 1000.0), ("a::b", 16.0)]);
        let twice = Profile::read(&text.replace("7 1000", "7 1600")).unwrap();
        assert!((twice.beyond(&profile, 2).of("c") - 300.0).abs() < 1e-9);
    }

    #[test]
    fn names_do_not_depend_on_the_build() {
        assert_eq!(name_of("core[0123456789abcdef]::ptr::drop::<[u8]>'2"), "core::ptr::drop::<[u8]>");
    }
}
