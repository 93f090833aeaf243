//! What flags of the command line do to a process that starts, or exits at once.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, listener_with_filters};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};

use crate::{ANY, file_log};

const ANSWER: &str = "- match: {prefix: /}\n  direct_response: {status: 204}";
const ECHO: &str = "- {name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}";

/// The exit code of a process that is to end by itself, and what it printed.
fn run(yaml: &str, folder: &Path, words: &[&str]) -> Result<(Option<i32>, String)> {
    let config = folder.join("b.yaml");
    std::fs::write(&config, yaml)?;
    let output = Command::new(Binary::subject()?.path)
        .arg("-c")
        .arg(&config)
        .args(["--concurrency", "1"])
        .args(words)
        .stdin(Stdio::null())
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

fn echo() -> String {
    listener_with_filters("in", ECHO)
}

#[test]
fn init_only_builds_and_binds_and_exits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let admin = folder.path().join("admin");
    let path = admin.to_str().context("a path")?;
    let words = ["--mode", "init_only", "--disable-hot-restart", "--admin-address-path", path];
    let (code, text) = run(&bootstrap(&[echo()], &[], ""), folder.path(), &words)?;
    ensure!(code == Some(0), "{code:?}: {text}");
    ensure!(!text.contains("starting main dispatch loop"), "{text}");
    let address = std::fs::read_to_string(&admin)?;
    ensure!(address.starts_with("127.0.0.1:"), "the admin interface was bound to {address}");

    // An address that somebody has is found out, and validation does not look.
    let held = TcpListener::bind("127.0.0.1:0")?;
    let listener = echo().replace("port_value: 0", &format!("port_value: {}", held.local_addr()?.port()));
    for (mode, expected) in [("init_only", 1), ("validate", 0)] {
        let words = ["--mode", mode, "--disable-hot-restart"];
        let (code, text) = run(&bootstrap(std::slice::from_ref(&listener), &[], ""), folder.path(), &words)?;
        ensure!(code == Some(expected), "{mode}: {code:?}: {text}");
    }
    Ok(())
}

#[test]
fn disabled_extensions_are_unknown() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let yaml = bootstrap(&[echo()], &[], "");
    let unknown = "Didn't find a registered implementation for 'e' with type URL: 'envoy.extensions.filters.network.echo.v3.Echo'";
    for (list, expected) in [
        ("envoy.filters.network/envoy.filters.network.echo", 1),
        ("envoy.tracers/envoy.tracers.zipkin,envoy.filters.network/envoy.filters.network.echo", 1),
        // of another category, without one, and nobody's: nothing is disabled
        ("envoy.filters.http/envoy.filters.network.echo", 0),
        ("envoy.filters.network.echo", 0),
        ("envoy.filters.network/nobody", 0),
    ] {
        let words = ["--mode", "validate", "--disable-extensions", list];
        let (code, text) = run(&yaml, folder.path(), &words)?;
        ensure!(code == Some(expected), "{list}: {code:?}: {text}");
        ensure!(text.contains(unknown) == (expected == 1), "{list}: {text}");
    }
    Ok(())
}

#[test]
fn the_base_id_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("base-id");
    let mut written = Vec::new();
    for dynamic in [&[][..], &["--use-dynamic-base-id"]] {
        let words = ["--mode", "init_only", "--base-id-path", path.to_str().context("a path")?];
        let id = std::process::id().to_string();
        let fixed = ["--base-id", &id];
        let words = [&words[..], if dynamic.is_empty() { &fixed } else { dynamic }].concat();
        let (code, text) = run(&bootstrap(&[echo()], &[], ""), folder.path(), &words)?;
        ensure!(code == Some(0), "{code:?}: {text}");
        written.push(std::fs::read_to_string(&path)?.parse::<u32>()?);
    }
    ensure!(written[0] == std::process::id() && written[0] != written[1], "{written:?}");
    Ok(())
}

/// Until the next flush nobody would wait.
#[tokio::test]
async fn a_log_is_written_when_as_much_is_there_as_the_flag_says() -> Result<()> {
    let log = file_log("access.log", "%RESPONSE_CODE%\\n", ANY);
    let listener = HttpListener::new("in", ANSWER).logs(&log).yaml();
    let extra = ["--file-flush-interval-msec", "100000000", "--file-flush-min-size-kb", "0"];
    let proxy = Proxy::start_with(&Binary::subject()?, &bootstrap(&[listener], &[], ""), &extra).await?;
    let mut client = Client::connect(proxy.listener("in")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    client.response("GET", SOON).await?;
    let path = proxy.dir().join("access.log");
    eventually("the line", SOON, async || (std::fs::read_to_string(&path).ok()? == "204\n").then_some(()))
        .await?;
    proxy.stop().await
}

/// Of Outrigger alone: Envoy has hot restart.
#[tokio::test]
async fn flags_without_effect_are_told_of_once() -> Result<()> {
    let extra = ["--restart-epoch", "1", "--enable-mutex-tracing"];
    let proxy = Proxy::start_with(&Binary::outrigger()?, &bootstrap(&[echo()], &[], ""), &extra).await?;
    for said in [
        "--restart-epoch has no effect: there is no hot restart",
        "--enable-mutex-tracing has no effect: nobody measures who waits for a lock",
    ] {
        ensure!(proxy.log().matches(said).count() == 1, "{said}: {}", proxy.log());
    }
    let admin = proxy.admin();
    ensure!(admin.get("/hot_restart_version").await?.trim() == "disabled");
    let contention = admin.request("GET", "/contention").await?;
    ensure!(
        (contention.status, contention.body.as_str())
            == (501, "The current build does not support contention\n")
    );
    proxy.stop().await
}
