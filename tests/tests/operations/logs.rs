//! Access logs on the standard streams, and the format of the proxy's own log.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use serde_json::Value;

const SENTINEL: &str = "- match: {prefix: /}\n  direct_response: {status: 204}";

/// An access log on a standard stream, `StdoutAccessLog` or `StderrAccessLog`.
fn stream_log(message: &str, format: &str) -> String {
    format!(
        "- name: log\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.{message}\n    log_format: {{{format}}}\n"
    )
}

#[tokio::test]
async fn standard_streams_take_access_logs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = [
        stream_log("StdoutAccessLog", "text_format_source: {inline_string: \"to-out %REQ(:PATH)% %RESPONSE_CODE%\\n\"}"),
        stream_log("StderrAccessLog", "json_format: {to: err, path: \"%REQ(:PATH)%\", code: \"%RESPONSE_CODE%\", none: \"%REQ(x-none)%\"}"),
    ]
    .concat();
    let listener = HttpListener::new("in", SENTINEL).logs(&logs).yaml();
    let [config, out, err, admin] = ["b.yaml", "out", "err", "admin"].map(|name| folder.path().join(name));
    std::fs::write(&config, bootstrap(&[listener], &[], ""))?;
    let mut child = Command::new(Binary::subject()?.path)
        .arg("-c")
        .arg(&config)
        .arg("--admin-address-path")
        .arg(&admin)
        .args(["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "5"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out)?)
        .stderr(std::fs::File::create(&err)?)
        .spawn()?;
    let outcome = async {
        let addr = eventually("the admin address", SOON, async || {
            std::fs::read_to_string(&admin).ok()?.trim().parse().ok()
        })
        .await?;
        let admin = integration::admin::Admin::new(addr);
        eventually("readiness", SOON, async || admin.live().await.then_some(())).await?;
        let listener = *admin.listeners().await?.get("in").context("no listener")?;
        let mut client = Client::connect(listener).await?;
        for path in ["/a", "/b"] {
            client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await?;
            client.response("GET", SOON).await?;
        }
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        eventually("both lines on both streams", SOON, async || {
            (text(&out).contains("/b") && text(&err).contains("/b")).then_some(())
        })
        .await?;
        // the proxy's own log goes to the standard error
        ensure!(text(&out) == "to-out /a 204\nto-out /b 204\n", "{}", text(&out));
        let lines: Vec<Value> =
            text(&err).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let line = |path: &str| serde_json::json!({"to": "err", "path": path, "code": 204, "none": null});
        ensure!(lines == [line("/a"), line("/b")], "{lines:?}");
        ensure!(text(&err).contains("starting main dispatch loop") && !text(&err).contains("to-out"));
        anyhow::Ok(())
    };
    let outcome = outcome.await;
    child.kill()?;
    child.wait()?;
    outcome
}

#[tokio::test]
async fn the_log_has_the_text_format_of_the_bootstrap() -> Result<()> {
    let rest = "application_log_config: {log_format: {text_format: 'here <%l> (%n) %v'}}\n";
    let listener = HttpListener::new("in", SENTINEL).yaml();
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener], &[], rest)).await?;
    let log = proxy.log();
    let wanted = "here <info> (main) starting main dispatch loop";
    ensure!(log.lines().any(|line| line == wanted), "{log}");
    ensure!(
        log.lines().filter(|line| line.contains("dispatch")).all(|line| line.starts_with("here <")),
        "{log}"
    );
    proxy.stop().await
}

#[tokio::test]
async fn the_log_is_json_if_the_bootstrap_says_so() -> Result<()> {
    let rest = "application_log_config: {log_format: {json_format: {Level: '%l', Text: '%j', Logger: '%n', fixed: here}}}\n";
    let listener = HttpListener::new("in", SENTINEL).yaml();
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener], &[], rest)).await?;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("starting main dispatch loop")).context(log.clone())?;
    let expected = serde_json::json!({"Level": "info", "Text": "starting main dispatch loop", "Logger": "main", "fixed": "here"});
    ensure!(serde_json::from_str::<Value>(line)? == expected, "{line}");
    proxy.stop().await
}
