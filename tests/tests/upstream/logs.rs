//! The router's own log: an entry for each stream to a host.

use anyhow::{Result, ensure};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, file_log, fill, port};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Kind, Proxy};
use integration::upstream::h2::{H2Reply, H2Upstream};

use super::get;

const FORMAT: &str = r#"log_format: {text_format_source: {inline_string: "%ACCESS_LOG_TYPE% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS%\n"}}"#;

#[tokio::test]
async fn every_attempt_has_an_entry_of_its_own() -> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // It sends a refused stream again only where a retry policy says so.
        return Ok(());
    }
    const REFUSED_STREAM: u32 = 7;
    let h2 = H2Upstream::start().await?;
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: c}")
        .logs(&file_log(FORMAT))
        .router(&format!("upstream_log:\n{}", file_log(FORMAT)));
    let clusters = fill(&cluster("c", "up", H2_CLUSTER), [("up", port(h2.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener.yaml()], &[clusters], "")).await?;
    h2.script([H2Reply::refuse(REFUSED_STREAM), H2Reply::refuse(REFUSED_STREAM), H2Reply::new(200, "done")]);
    ensure!(get(&proxy, "/again").await?.body == b"done");
    ensure!(get(&proxy, "/once").await?.head.status()? == 200);
    let lines = eventually("the log", SOON, async || {
        let lines = whole_lines(&proxy.dir().join("access.log"));
        (lines.iter().filter(|line| line.contains("DownstreamEnd")).count() == 2).then_some(lines)
    })
    .await?;
    let expected = [
        "UpstreamEnd /again 0 UR",
        "UpstreamEnd /again 0 UR",
        "UpstreamEnd /again 200 -",
        "DownstreamEnd /again 200 -",
        "UpstreamEnd /once 200 -",
        "DownstreamEnd /once 200 -",
    ];
    ensure!(lines == expected, "{lines:#?}");
    proxy.stop().await
}
