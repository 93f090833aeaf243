//! Listeners and TCP in the running proxy: sockets of every kind, listener filters, filter chains, limits, redirected
//! connections, and bytes carried to an upstream.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod filters;
mod limits;
mod redirect;
mod server_first;
mod sockets;
mod tcp;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use integration::client::{Client, End};
use integration::config::{bootstrap, indent};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};

/// What the access log of a listener tells, as `key=value` fields separated by `|`.
const LOG: &str = "local=%DOWNSTREAM_LOCAL_ADDRESS%|remote=%DOWNSTREAM_REMOTE_ADDRESS%|chain=%FILTER_CHAIN_NAME%\
|flags=%RESPONSE_FLAGS%|details=%RESPONSE_CODE_DETAILS%|closed=%DOWNSTREAM_LOCAL_CLOSE_REASON%\
|termination=%CONNECTION_TERMINATION_DETAILS%|end=%DOWNSTREAM_DETECTED_CLOSE_TYPE%\
|upstream_end=%UPSTREAM_DETECTED_CLOSE_TYPE%|rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%|sni=%REQUESTED_SERVER_NAME%\
|cluster=%UPSTREAM_CLUSTER%|attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%|type=%ACCESS_LOG_TYPE%\
|tlv=%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:id)%|method=%REQ(:METHOD)%|absent=%REQ(x-absent)%\\n";

/// `access_log` into `{{dir}}/<name>.log`.
fn access_log(name: &str) -> String {
    format!(
        "access_log:\n- name: file\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: \"{{{{dir}}}}/{name}.log\"\n    log_format: {{text_format_source: {{inline_string: \"{LOG}\"}}}}\n"
    )
}

/// A listener on a loopback port, with its statistics under its name, further fields, and filter chains (a YAML list).
fn listener(name: &str, more: &str, chains: &str) -> String {
    listener_at(
        name,
        &format!("address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n{more}"),
        chains,
    )
}

/// A listener whose fields, the address included, are `fields`.
fn listener_at(name: &str, fields: &str, chains: &str) -> String {
    format!(
        "- name: {name}\n  stat_prefix: {name}\n{}{}  filter_chains:\n{}",
        indent(fields, 2),
        indent(&access_log(name), 2),
        indent(chains, 2)
    )
}

/// A filter chain of these filters (a YAML list) with a match and a name.
fn chain(name: &str, chain_match: &str, filters: &str) -> String {
    format!("- name: \"{name}\"\n  filter_chain_match: {chain_match}\n  filters:\n{}", indent(filters, 2))
}

/// The filter that sends a text and closes.
fn says(text: &str) -> String {
    format!(
        "- name: says\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config\n    response: {{inline_string: \"{text}\"}}\n"
    )
}

/// A network or listener filter of the short type name, its fields in one line.
fn filter(kind: &str, message: &str, fields: &str) -> String {
    format!(
        "- name: f\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.{kind}.v3.{message}{fields}}}\n"
    )
}

/// Starts the proxy under test with these listeners and clusters.
async fn start(listeners: &[String], clusters: &[String], rest: &str, extra: &[&str]) -> Result<Proxy> {
    Proxy::start_with(&Binary::subject()?, &bootstrap(listeners, clusters, rest), extra).await
}

/// Sends, and reads until the connection ends.
async fn ask(addr: SocketAddr, bytes: &[u8]) -> Result<(String, End)> {
    let mut client = Client::connect(addr).await?;
    client.send(bytes).await?;
    let (answer, end) = client.rest(SOON).await;
    Ok((String::from_utf8_lossy(&answer).into_owned(), end))
}

/// The lines of the access log of that name, once there are `count`.
async fn log_lines(proxy: &Proxy, name: &str, count: usize) -> Result<Vec<String>> {
    let path = proxy.dir().join(format!("{name}.log"));
    eventually(&format!("{count} lines in {name}.log"), SOON, async || {
        let lines = whole_lines(&path);
        (lines.len() >= count).then_some(lines)
    })
    .await
    .with_context(|| format!("{:?}", whole_lines(&path)))
}

/// The value of a field of a line.
fn field<'l>(line: &'l str, key: &str) -> &'l str {
    line.split('|').find_map(|field| field.strip_prefix(key)?.strip_prefix('=')).unwrap_or("no such field")
}

/// The last line of a log that must have `count`, with these fields.
async fn expect_log(proxy: &Proxy, name: &str, count: usize, expected: &[(&str, &str)]) -> Result<()> {
    let lines = log_lines(proxy, name, count).await?;
    assert_eq!(lines.len(), count, "{name}.log: {lines:#?}");
    for (key, value) in expected {
        assert_eq!(field(&lines[count - 1], key), *value, "{key} in {name}.log: {}", lines[count - 1]);
    }
    Ok(())
}

/// Waits until a statistic has that value.
async fn expect_stat(proxy: &Proxy, name: &str, value: i64) -> Result<()> {
    let what = format!("{name} = {value}");
    let reached =
        eventually(&what, SOON, async || (proxy.admin().stat(name).await.ok()? == value).then_some(()));
    match reached.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("it is {}", proxy.admin().stat(name).await?))),
    }
}
