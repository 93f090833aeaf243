//! Who may use whom: the crates of the workspace among each other and outside, and the modules of the engine.
//!
//! The compiler keeps the direction between crates only as long as nobody adds a line to a `Cargo.toml`; this test is what
//! stands behind it. `deny.toml` says the same to those who run `cargo deny`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Modules of the engine from the top down. A module uses those of lower lines.
const ENGINE: &[&[&str]] = &[
    &["worker"],
    &["state"],
    &["listener"],
    &["http", "tcp"],
    &["context"],
    &["router"],
    &["upstream"],
    &["codec"],
    &["tls"],
    &["net"],
    &["local", "log_file"],
];

/// What a crate must never depend on, and why it would be wrong.
const NEVER: &[(&str, &[&str])] = &[
    ("xds-api", &["xds", "proxy-core", "proxy-engine", "proxy-extensions", "proxy", "tokio"]),
    ("xds", &["proxy-core", "proxy-engine", "proxy-extensions", "proxy"]),
    (
        "proxy-core",
        &[
            "xds",
            "proxy-engine",
            "proxy-extensions",
            "proxy",
            "hyper",
            "h2",
            "rustls",
            "socket2",
            "tonic",
            "tower",
        ],
    ),
    (
        "proxy-engine",
        &["xds", "proxy-extensions", "proxy", "hyper", "hyper-util", "tonic", "tower", "prometheus"],
    ),
    (
        "proxy-extensions",
        &[
            "xds",
            "proxy-engine",
            "proxy",
            "hyper",
            "h2",
            "rustls",
            "tokio-rustls",
            "socket2",
            "tonic",
            "tower",
        ],
    ),
    (
        "outrigger-iptables",
        &["xds-api", "xds", "proxy-core", "proxy-engine", "proxy-extensions", "proxy", "tokio", "socket2"],
    ),
];

/// Crates that must not be in the tree at all.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "rustables", "serde_yaml", "async-std"];

/// Crates that ours must not depend on: std or the language has it. (What others do with them is their business.)
const BANNED_HERE: &[&str] = &["lazy_static", "once_cell", "async-trait"];

/// Licences that may be linked into an Apache-2.0 program without conditions on its source.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "0BSD",
    "MIT-0",
    "OpenSSL",
    "CDLA-Permissive-2.0",
];

fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(ROOT)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn crates_depend_only_downward() {
    let metadata = metadata().unwrap();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let layered: BTreeMap<&str, &[&str]> = NEVER.iter().copied().collect();
    for package in array(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap();
        let ours = package["source"].is_null();
        for dependency in
            array(&package["dependencies"]).iter().filter(|dependency| dependency["kind"].is_null())
        {
            let on = dependency["name"].as_str().unwrap();
            if layered.get(name).is_some_and(|never| ours && never.contains(&on)) {
                wrong.push(format!("{name} must not depend on {on}"));
            }
            // the benches stand on the rigs of the tests
            if ours && ["integration", "benches", "simulate"].contains(&on) && name != "benches" {
                wrong.push(format!("{name} must not depend on {on}: it is proof, not product"));
            }
            if ours && BANNED_HERE.contains(&on) {
                wrong.push(format!("{name}: no need for {on}"));
            }
            if ours && on == "proxy" && !["integration", "benches"].contains(&name) {
                wrong.push(format!("{name} must not depend on the process"));
            }
        }
        if ours {
            seen.insert(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in layered.keys() {
        assert!(seen.contains(name), "{name}: no such crate any more; change this test");
    }
}

#[test]
fn dependencies_come_from_the_registry_under_licences_that_fit() {
    let metadata = metadata().unwrap();
    let mut wrong = Vec::new();
    for package in array(&metadata["packages"]) {
        let (name, version) = (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        if BANNED.contains(&name) {
            wrong.push(format!("{name} is banned"));
        }
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
            wrong.push(format!("{name} {version} comes from {}", package["source"]));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        if !fits(licence) {
            wrong.push(format!("{name} {version}: licence {licence:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether an SPDX expression can be fulfilled with the list: one side of every `OR`, both sides of every `AND`.
fn fits(expression: &str) -> bool {
    // `a/b` is how `a OR b` was once written
    let expression = expression.replace('/', " OR ");
    let (out, inner) = strip_parentheses(&expression);
    out.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| match licence.trim().strip_prefix('#') {
            Some(number) => {
                number.parse().ok().and_then(|at: usize| inner.get(at)).is_some_and(|inner| fits(inner))
            }
            None => LICENCES.contains(&licence.trim()),
        })
    })
}

/// Replaces each parenthesis by `#N` and gives the N texts.
fn strip_parentheses(expression: &str) -> (String, Vec<String>) {
    let (mut out, mut inner, mut depth) = (String::new(), Vec::new(), 0);
    for letter in expression.chars() {
        match letter {
            '(' => {
                depth += 1;
                if depth == 1 {
                    out += &format!("#{}", inner.len());
                    inner.push(String::new());
                    continue;
                }
            }
            ')' => depth -= 1,
            _ => {}
        }
        match inner.last_mut() {
            Some(text) if depth > 0 => text.push(letter),
            _ if letter != ')' => out.push(letter),
            _ => {}
        }
    }
    (out, inner)
}

#[test]
fn licence_expressions_are_understood() {
    assert!(fits("MIT OR Apache-2.0"));
    assert!(fits("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(fits("MIT/Apache-2.0"));
    assert!(fits("ISC AND (Apache-2.0 OR ISC) AND OpenSSL"));
    assert!(!fits("GPL-3.0"));
    assert!(!fits("MIT AND GPL-3.0"));
    assert!(!fits(""));
}

#[test]
fn engine_modules_use_only_lower_ones() {
    let source = Path::new(ROOT).join("proxy/engine/src");
    let rank = |module: &str| ENGINE.iter().position(|line| line.contains(&module));
    let mut wrong = Vec::new();
    let mut files = 0;
    for path in rust_files(&source).unwrap() {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if first == "lib" {
            continue;
        }
        files += 1;
        let Some(own) = rank(first) else {
            wrong.push(format!(
                "{first}: not in the order of modules; give it a place in tests/tests/layers.rs"
            ));
            continue;
        };
        for used in used_modules(&std::fs::read_to_string(&path).unwrap()) {
            match rank(&used) {
                Some(rank) if rank > own || used == first => {}
                _ => wrong.push(format!("{} uses crate::{used}", inside.display())),
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(files > 0, "no engine under {}", source.display());
    assert!(wrong.is_empty(), "modules may use only those below them: {wrong:#?}");
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The first segments of every `crate::...` in code, groups (`crate::{a, b::c}`) included.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let heads: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => top_level_items(group),
            None => vec![rest],
        };
        for head in heads {
            let word: String =
                head.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // types and functions of lib.rs itself are nobody's layer
            if word.chars().next().is_some_and(char::is_lowercase) {
                modules.insert(word);
            }
        }
    }
    modules
}

fn top_level_items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn uses_are_found_in_groups_and_paths() {
    let text = "use crate::net::{a, b};\nuse crate::{local::x::{y, z}, tls};\n// crate::worker\nlet a = crate::codec::f();";
    let expected = ["codec", "local", "net", "tls"].map(str::to_owned).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(used_modules(text), expected);
}

/// Tests aside, a file has at most 800 lines and aims at 400.
#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for folder in ["proxy", "xds/src", "tests", "benches/src", "iptables/src"] {
        for path in rust_files(&Path::new(ROOT).join(folder)).unwrap() {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().count();
            let is_test = path.components().any(|part| part.as_os_str() == "tests.rs");
            if lines > 800 && !is_test {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
