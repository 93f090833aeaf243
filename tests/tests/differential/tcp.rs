//! Network filters without HTTP, and the choice of a filter chain.

use integration::config::{indent, listener_with_filters, tcp_proxy};
use integration::differential::{Case, Do, Setup};

fn direct(text: &str) -> String {
    format!(
        "- name: direct\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config\n    response: {{inline_string: \"{text}\"}}\n"
    )
}

const ECHO: &str = "- name: echo\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}\n";

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
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let hello = || Do::Send(b"hello".to_vec());
    let read_all = |name, listener| Case::steps(name, listener, [Do::AwaitEnd]).tcp(0);
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
    ]
}
