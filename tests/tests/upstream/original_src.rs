//! Connections that come from the client's address (`original_src`): clients do not share them. Foreign addresses are in
//! `tests/redirect`; this takes CAP_NET_ADMIN as well.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, file_log, fill, port};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;

use super::fetch;

const FILTER: &str = r#"listener_filters:
- name: envoy.filters.listener.original_src
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, mark: 7}
"#;

#[tokio::test]
async fn clients_do_not_share_connections_in_their_names() -> Result<()> {
    let upstream = Upstream::start().await?;
    let log = file_log(
        "log_format: {text_format_source: {inline_string: \"%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%\\n\"}}",
    );
    let listener = HttpListener::to_up("http").logs(&log).listener(FILTER);
    // The client's address goes before that of the cluster.
    let bind = "upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}";
    let yaml = bootstrap(&[listener.yaml()], &[cluster("up", "up", bind)], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    let addresses = ["127.0.0.2", "127.0.0.3"];
    for _ in 0..2 {
        for address in addresses {
            let from: IpAddr = address.parse()?;
            let mut client = Client::connect_from(from, proxy.listener("http")?).await?;
            ensure!(fetch(&mut client, "/").await?.head.status()? == 200);
        }
    }
    let path = proxy.dir().join("access.log");
    let lines = eventually("four lines", SOON, async || {
        let lines = whole_lines(&path);
        (lines.len() == 4).then_some(lines)
    })
    .await?;
    ensure!(lines == [addresses, addresses].concat(), "{lines:?}");
    ensure!(upstream.opened() == 2, "each client has one connection, which it uses again");
    proxy.stop().await
}
