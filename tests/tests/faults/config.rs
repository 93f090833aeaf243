//! Configuration that is meant to be expensive (T14, T16, T17), to the reader of files and over xDS.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::config::{HttpListener, bootstrap, cluster, fill};
use integration::expect::SOON;
use integration::process::{Binary, Verdict};

use crate::rig::{Setup, size};

/// How long a refusal may take.
const PROMPT: Duration = Duration::from_secs(1);

/// Whether a bootstrap is refused in time, and without taking much memory for it.
fn refused(yaml: &str, because: &str) -> Result<Verdict> {
    let (verdict, took, most) = validated(yaml)?;
    ensure!(!verdict.accepted, "accepted");
    ensure!(verdict.code == Some(1), "it ended with {:?}: {}", verdict.code, verdict.text);
    ensure!(verdict.text.contains(because), "{because:?} is not in {}", shown(&verdict.text));
    // what is wrong is shown, so the reasons are as long as that
    let length = verdict.text.len();
    ensure!(length < 4 * yaml.len() + 4_096, "{length} bytes of reasons for {} bytes", yaml.len());
    ensure!(took < PROMPT, "it took {took:?}");
    ensure!(most < 200 << 10, "it took {most} KiB");
    Ok(verdict)
}

fn shown(text: &str) -> String {
    text.chars().take(500).collect()
}

/// The verdict, how long it took at best, and how many KiB at most.
fn validated(yaml: &str) -> Result<(Verdict, Duration, u64)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bootstrap.yaml");
    std::fs::write(&path, yaml)?;
    let binary = Binary::subject()?;
    let mut best = Duration::MAX;
    let mut verdict = None;
    for _ in 0..5 {
        let start = Instant::now();
        verdict = Some(binary.validate_file(&path)?);
        best = best.min(start.elapsed());
        // the machine may be busy
        if best < PROMPT {
            break;
        }
    }
    let limited = limited(&binary, &path)?;
    verdict.map(|verdict| (verdict, best, limited)).ok_or_else(|| anyhow::anyhow!("not run"))
}

/// The most memory that reading a file takes, in KiB.
fn limited(binary: &Binary, path: &std::path::Path) -> Result<u64> {
    let mut child = std::process::Command::new(&binary.path)
        .args(["--mode", "validate", "--disable-hot-restart", "-c"])
        .arg(path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut most = 0;
    while child.try_wait()?.is_none() {
        most = most.max(integration::cost::memory(child.id(), "VmHWM:").unwrap_or(0) / 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(most)
}

fn with_regex(regex: &str) -> String {
    let route = format!(
        "- match: {{safe_regex: {{regex: '{regex}'}}}}\n  route: {{cluster: up}}\n- match: {{prefix: /}}\n  route: {{cluster: up}}"
    );
    let listener = HttpListener::new("http", &route).yaml();
    fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", "1".to_owned())])
}

#[test]
fn t14_regex_that_compiles_to_too_much() -> Result<()> {
    refused(&with_regex("a{1000}{1000}"), "regex").map(drop)
}

#[test]
fn t14_regex_that_is_too_long() -> Result<()> {
    // Envoy's limit is a program size of 100 instructions by default; here it is memory
    refused(&with_regex(&format!("({})", "[a-z0-9]{50}|".repeat(5_000))), "regex").map(drop)
}

#[test]
fn t14_regex_that_nests_without_end() -> Result<()> {
    refused(&with_regex(&format!("{}a{}", "(".repeat(50_000), ")".repeat(50_000))), "regex").map(drop)
}

/// What backtracks elsewhere takes the time of its text here.
#[tokio::test]
async fn t14_regex_that_would_backtrack() -> Result<()> {
    let routes = "- match: {safe_regex: {regex: '/(a+)+$'}}\n  direct_response: {status: 204}\n- match: {prefix: /}\n  route: {cluster: up}";
    let mut rig = Setup::of(HttpListener::new("http", routes)).start().await?;
    let mut client = rig.connect().await?;
    for _ in 0..size(200, 2_000) {
        let request = format!("GET /{}! HTTP/1.1\r\nhost: t\r\n\r\n", "a".repeat(20_000));
        rig.send(&mut client, request.as_bytes()).await?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 200);
    }
    rig.send(&mut client, b"GET /aaaa HTTP/1.1\r\nhost: t\r\n\r\n").await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 204);
    drop(client);
    rig.passes("t14_regex_that_would_backtrack").await
}

/// Metadata may nest as it likes: `google.protobuf.Struct` has no other depth than what readers allow.
fn nested(open: &str, close: &str, depth: usize) -> String {
    let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
    format!("node: {{id: a, cluster: b, metadata: {{deep: {value}}}}}\n")
}

#[test]
fn t15_yaml_that_nests_100_000_deep() -> Result<()> {
    refused(&nested("[", "]", 100_000), "").map(drop)?;
    refused(&nested("{a: ", "}", 100_000), "").map(drop)
}

#[test]
fn t15_json_that_nests_100_000_deep() -> Result<()> {
    let text = nested("{\"a\": ", "}", 100_000);
    let json = format!("{{{}}}", text.trim_end().replace("node:", "\"node\":"));
    refused(&json, "").map(drop)
}

/// Nine lists of nine times the one before.
#[test]
fn t17_billion_laughs() -> Result<()> {
    let mut yaml = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for n in 1..12 {
        let before = format!("*a{}, ", n - 1).repeat(9);
        yaml.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    yaml.push_str("node: {id: a, cluster: b, metadata: {laugh: *a11}}\n");
    refused(&yaml, "").map(drop)
}

/// A bootstrap of 10 MiB that is wrong at its end.
#[test]
fn t17_ten_mebibytes() -> Result<()> {
    let mut yaml = String::from("node: {id: a, cluster: b, metadata: {");
    for n in 0..(10 << 20) / 40 {
        yaml.push_str(&format!("k{n:08}: \"{:024}\", ", n));
    }
    yaml.push_str("end: 1}}\nno_such_field: 1\n");
    let (verdict, took, most) = validated(&yaml)?;
    ensure!(!verdict.accepted && verdict.text.contains("no_such_field"), "{}", shown(&verdict.text));
    // in a build for development every byte costs more
    let limit = if cfg!(debug_assertions) { 8 } else { 1 };
    ensure!(took < PROMPT * limit, "it took {took:?}");
    ensure!(most < 200 << 10, "it took {most} KiB");
    Ok(())
}
