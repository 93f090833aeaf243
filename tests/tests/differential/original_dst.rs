//! ORIGINAL_DST clusters: where a request or connection says that it goes, without a kernel that redirects it. A header of
//! the PROXY protocol restores a destination as well, and its port is replaced by the upstream's.

use integration::config::{HttpListener, cluster, indent, listener_with_filters, tcp_proxy};
use integration::differential::{Case, Do, Setup};

/// A cluster without hosts of its own.
fn original_dst(name: &str, config: &str) -> String {
    let yaml =
        cluster(name, name, "lb_policy: CLUSTER_PROVIDED\n").replace("type: STATIC", "type: ORIGINAL_DST");
    let (head, rest) = yaml.split_once("  load_assignment").unwrap_or((&yaml, ""));
    let tail = rest.split_once("  lb_policy").map_or("", |(_, tail)| tail);
    format!("{head}  lb_policy{tail}{}", indent(config, 2))
}

/// A cluster of the type that is an extension.
fn typed(name: &str, config: &str) -> String {
    let cluster_type = format!(
        "cluster_type:\n  name: envoy.cluster.original_dst\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.clusters.original_dst.v3.OriginalDstCluster\n{}",
        indent(config, 4)
    );
    original_dst(name, &cluster_type).replace("  type: ORIGINAL_DST\n", "")
}

/// Has what a header of the PROXY protocol says stand for the destination, with text of type 2 in the metadata.
fn proxied(name: &str, cluster: &str) -> String {
    format!(
        "{}  listener_filters:\n  - name: f\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol\n      allow_requests_without_proxy_protocol: true\n      rules: [{{tlv_type: 2, on_tlv_present: {{metadata_namespace: ns, key: to}}}}]\n",
        listener_with_filters(name, &tcp_proxy(name, &format!("cluster: {cluster}")))
    )
}

const ROUTES: &str = r#"
- match: {prefix: /added}
  request_headers_to_add:
  - {header: {key: x-envoy-original-dst-host, value: "127.0.0.1:{{up}}"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  route: {cluster: by_header}
- match: {prefix: /host}
  request_headers_to_add:
  - {header: {key: x-envoy-original-dst-host, value: "127.0.0.1:{{up}}"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  route: {cluster: by_header, auto_host_rewrite: true}
- match: {prefix: /refused}
  request_headers_to_add:
  - {header: {key: x-to, value: "127.0.0.1:{{refused}}"}}
  route: {cluster: by_named_header}
- match: {prefix: /six}
  request_headers_to_add:
  - {header: {key: x-to, value: "[::ffff:127.0.0.1]:{{up}}"}}
  route: {cluster: by_named_header}
- match: {prefix: /named}
  route: {cluster: by_named_header}
- match: {prefix: /authority}
  route: {cluster: by_authority}
- match: {prefix: /port}
  route: {cluster: with_port}
- match: {prefix: /none}
  route: {cluster: by_connection}
- match: {prefix: /}
  route: {cluster: by_header}
"#;

pub(crate) fn setup() -> Setup {
    let header = "original_dst_lb_config: {use_http_header: true}";
    Setup::with_clusters(
        "original_dst",
        [
            HttpListener::new("http", ROUTES).yaml(),
            proxied("tcp", "to_echo"),
            proxied("by_metadata", "by_metadata"),
        ],
        [
            original_dst("by_header", header),
            typed("by_named_header", "use_http_header: true\nhttp_header_name: X-To"),
            typed("by_authority", "use_http_header: true\nhttp_header_name: \":authority\""),
            original_dst(
                "with_port",
                "original_dst_lb_config: {use_http_header: true, upstream_port_override: {{up}}}",
            ),
            original_dst("by_connection", ""),
            typed("to_echo", "upstream_port_override: {{echo}}"),
            original_dst(
                "by_metadata",
                "original_dst_lb_config: {metadata_key: {key: ns, path: [{key: to}]}, upstream_port_override: {{echo}}}",
            ),
        ],
    )
}

/// A header of the PROXY protocol to that address of the loopback, with text of type 2.
fn header(last: u8, to: Option<&str>) -> Vec<u8> {
    let mut body = vec![127, 0, 0, 1, 127, 0, 0, last, 3, 232, 0, 9];
    if let Some(to) = to {
        body.extend([2, 0, to.len() as u8]);
        body.extend(to.bytes());
    }
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".as_slice(), &[body.len() as u8], &body].concat()
}

fn connection(name: &'static str, listener: &'static str, header: &[u8]) -> Case {
    let sent = [header, b"hello"].concat();
    Case::steps(name, listener, [Do::Send(sent), Do::Bytes(5), Do::Leave]).tcp(1)
}

fn refused(name: &'static str, listener: &'static str, header: &[u8]) -> Case {
    Case::steps(name, listener, [Do::Send(header.to_vec()), Do::AwaitEnd]).tcp(1)
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, target, lines| Case::get(name, "http", target, lines);
    vec![
        get("host of a header that the route adds", "/added", ""),
        get(
            "host of a header that the route overwrites",
            "/added",
            "x-envoy-original-dst-host: 127.0.0.1:1\r\n",
        ),
        get("host of a header, whose name the request gets", "/host", ""),
        get("host that refuses", "/refused", ""),
        get("IPv4 host in an IPv6 address", "/six", ""),
        get("no host", "/", ""),
        get("no host, asked for by HTTP/1.1 without a restored destination", "/none", ""),
        get("host of a name", "/", "x-envoy-original-dst-host: localhost:80\r\n"),
        get("host without a port", "/", "x-envoy-original-dst-host: 127.0.0.1\r\n"),
        get("host of an empty header", "/", "x-envoy-original-dst-host:\r\n"),
        get("host with a port that is none", "/", "x-envoy-original-dst-host: 127.0.0.1:99999\r\n"),
        get("host with IPv6 without brackets", "/", "x-envoy-original-dst-host: ::1:80\r\n"),
        get("host that is a path", "/", "x-envoy-original-dst-host: /tmp/socket\r\n"),
        get(
            "host of another header",
            "/named",
            "x-to: nonsense\r\nx-envoy-original-dst-host: 127.0.0.1:1\r\n",
        ),
        get("host of the authority, which is none", "/authority", ""),
        get("host with another port", "/port", "x-envoy-original-dst-host: 127.0.0.1:1\r\n"),
        get("host with another port and spaces", "/port", "x-envoy-original-dst-host:  127.0.0.1:080  \r\n"),
        connection("restored destination", "tcp", &header(1, None)),
        connection(
            "restored destination that metadata do not replace",
            "tcp",
            &header(1, Some("127.0.0.2:1")),
        ),
        connection("destination of metadata", "by_metadata", &header(2, Some("127.0.0.1:1"))),
        connection("destination of metadata that are none", "by_metadata", &header(1, Some("nonsense"))),
        connection("destination without metadata", "by_metadata", &header(1, None)),
        refused("connection without a restored destination", "tcp", b"hello, who is there?"),
    ]
}
