//! Network filters without HTTP, and the choice of a filter chain.

use integration::config::{indent, listener_with_filters, tcp_proxy};
use integration::differential::{Case, Do, Setup};
use integration::upstream::{Reply, Step};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

fn direct(text: &str) -> String {
    format!(
        "- name: direct\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config\n    response: {{inline_string: \"{text}\"}}\n"
    )
}

const ECHO: &str = "- name: echo\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}\n";

/// A listener filter that nobody can make wait for long.
fn inspected(name: &str, filter: &str, matches: &[(&str, &str)]) -> String {
    format!(
        "{}  listener_filters_timeout: 0.2s\n  listener_filters:\n  - name: f\n    typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.{filter}}}\n",
        chains(name, matches)
    )
}

fn rate_limit() -> String {
    "- name: limit\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit\n    stat_prefix: limit\n    token_bucket: {max_tokens: 1, fill_interval: 3600s}\n".to_owned()
}

/// The filter with a bucket of one token, whose statistics are named like the listener.
fn limit_of(name: &str, more: &str) -> String {
    rate_limit().replace("stat_prefix: limit", &format!("stat_prefix: {name}{more}"))
}

/// A listener that closes what comes too fast before a chain is chosen.
fn limited_at_once(name: &str, more: &str) -> String {
    let bucket = "token_bucket: {max_tokens: 1, fill_interval: 3600s}";
    let any = chains(name, &[("{}", "passed")]);
    format!(
        "{any}  listener_filters:\n  - name: f\n    typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit, stat_prefix: {name}, {bucket}{more}}}\n"
    )
}

const SOURCES: &[(&str, &str)] =
    &[("{source_prefix_ranges: [{address_prefix: 1.2.3.4, prefix_len: 32}]}", "told"), ("{}", "own")];
const VERSIONS: &[(&str, &str)] = &[
    ("{application_protocols: [h2c]}", "two"),
    ("{application_protocols: [http/1.1]}", "one"),
    ("{application_protocols: [http/1.0]}", "zero"),
];
const TRANSPORTS: &[(&str, &str)] =
    &[("{transport_protocol: tls}", "tls"), ("{transport_protocol: raw_buffer}", "plain")];

/// A listener whose chains differ in what they match.
fn chains(name: &str, matches: &[(&str, &str)]) -> String {
    let mut yaml = format!(
        "- name: {name}\n  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n  filter_chains:\n"
    );
    for (chain_match, text) in matches {
        yaml += &format!("  - filter_chain_match: {chain_match}\n    filters:\n{}", indent(&direct(text), 4));
    }
    yaml
}

pub(crate) fn setup() -> Setup {
    Setup::new(
        "tcp",
        [
            listener_with_filters("proxy", &tcp_proxy("proxy", "cluster: echo")),
            listener_with_filters(
                "refusing",
                &tcp_proxy("refusing", "cluster: refused\nmax_connect_attempts: 2"),
            ),
            listener_with_filters("idle", &tcp_proxy("idle", "cluster: echo\nidle_timeout: 0.15s")),
            listener_with_filters(
                "weighted",
                &tcp_proxy("weighted", "weighted_clusters: {clusters: [{name: echo, weight: 1}]}"),
            ),
            listener_with_filters("direct", &direct("good bye")),
            listener_with_filters("echo_filter", ECHO),
            chains(
                "by_source",
                &[
                    ("{source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}", "ten"),
                    ("{source_prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}", "loopback"),
                    ("{}", "any"),
                ],
            ),
            chains(
                "by_type",
                &[("{source_type: SAME_IP_OR_LOOPBACK}", "local"), ("{source_type: EXTERNAL}", "external")],
            ),
            chains(
                "by_name",
                &[("{server_names: [a.test]}", "named"), ("{transport_protocol: raw_buffer}", "plain")],
            ),
            chains("none", &[("{server_names: [a.test]}", "named")]),
            listener_with_filters("to_up", &tcp_proxy("to_up", "cluster: up")),
            listener_with_filters("nowhere", &tcp_proxy("nowhere", "cluster: missing")),
            listener_with_filters("slow", &tcp_proxy("slow", "cluster: blackhole")),
            listener_with_filters(
                "old",
                &tcp_proxy("old", "cluster: echo\nmax_downstream_connection_duration: 0.15s"),
            ),
            listener_with_filters(
                "shared",
                &(limit_of("shared", "\n    share_key: key") + &direct("passed")),
            ),
            listener_with_filters(
                "sharing",
                &(limit_of("sharing", "\n    share_key: key") + &direct("passed")),
            ),
            listener_with_filters(
                "unlimited",
                &(limit_of("unlimited", "\n    runtime_enabled: {default_value: false, runtime_key: k}")
                    + &direct("passed")),
            ),
            limited_at_once("at_once", ""),
            limited_at_once("never", ", runtime_enabled: {default_value: false, runtime_key: k}"),
            listener_with_filters("limited", &(rate_limit() + &tcp_proxy("limited", "cluster: echo"))),
            inspected("proxied", "proxy_protocol.v3.ProxyProtocol", SOURCES),
            inspected("by_version", "http_inspector.v3.HttpInspector", VERSIONS),
            inspected("by_tls", "tls_inspector.v3.TlsInspector", TRANSPORTS),
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let hello = || Do::Send(b"hello".to_vec());
    let read_all = |name, listener| Case::steps(name, listener, [Do::AwaitEnd]).tcp(0);
    let says = |name, listener, bytes: &[u8]| {
        Case::steps(name, listener, [Do::Send(bytes.to_vec()), Do::AwaitEnd]).tcp(0)
    };
    vec![
        Case::steps("tcp proxy", "proxy", [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(1),
        Case::steps(
            "tcp proxy passes FIN both ways",
            "proxy",
            [hello(), Do::HalfClose, Do::Bytes(5), Do::AwaitEnd],
        )
        .tcp(1),
        Case::steps("tcp proxy, connection refused", "refusing", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("tcp proxy, idle", "idle", [hello(), Do::Bytes(5), Do::AwaitEnd]).tcp(1),
        Case::steps("tcp proxy, weighted", "weighted", [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd])
            .tcp(1),
        read_all("direct response", "direct"),
        Case::steps("echo", "echo_filter", [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(0),
        read_all("chain by source", "by_source"),
        read_all("chain by source type", "by_type"),
        read_all("chain by transport", "by_name"),
        read_all("no chain", "none"),
        Case::steps("tcp proxy, reset by the upstream", "to_up", [Do::Send(GET.to_vec()), Do::AwaitEnd])
            .reply(Reply::steps([Step::Reset]))
            .tcp(1),
        Case::steps("tcp proxy, the upstream ends first", "to_up", [Do::Send(GET.to_vec()), Do::AwaitEnd])
            .reply(Reply::raw_then_close("bye"))
            .tcp(1),
        Case::steps("tcp proxy, no cluster", "nowhere", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("tcp proxy, connect timeout", "slow", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("tcp proxy, too old", "old", [hello(), Do::Bytes(5), Do::AwaitEnd]).tcp(1),
        Case::steps("rate limit admits", "limited", [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd])
            .tcp(1),
        Case::steps("rate limit refuses", "limited", [Do::AwaitEnd]).tcp(1),
        read_all("rate limit, of two listeners", "shared"),
        read_all("rate limit, used up by another listener", "sharing"),
        read_all("rate limit, off", "unlimited"),
        read_all("rate limit, still off", "unlimited"),
        read_all("rate limit of the listener admits", "at_once"),
        read_all("rate limit of the listener refuses", "at_once"),
        read_all("rate limit of the listener, off", "never"),
        read_all("rate limit of the listener, still off", "never"),
        says("PROXY header, version 1", "proxied", b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n"),
        says("PROXY header, unknown", "proxied", b"PROXY UNKNOWN\r\n"),
        says("PROXY header, local", "proxied", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x04\xea\0\x09a"),
        says("PROXY header, wrong", "proxied", b"PROXY TCP5 1.2.3.4 5.6.7.8 1000 2000\r\n"),
        says("PROXY header, missing", "proxied", GET),
        says("PROXY header, too slow", "proxied", b"PROXY TCP4"),
        read_all("PROXY header, silence", "proxied"),
        says("HTTP/2 inspected", "by_version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        says("HTTP/1.1 inspected", "by_version", GET),
        says("HTTP/1.0 inspected", "by_version", b"GET / HTTP/1.0\r\n\r\n"),
        says("not HTTP, inspected", "by_version", b"SSH-2.0-x\r\n"),
        says("not TLS, inspected", "by_tls", GET),
        says("TLS alert, inspected", "by_tls", b"\x15\x03\x01\0\x02\x02\x28"),
    ]
}
