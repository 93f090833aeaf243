//! Requests that another cluster gets a copy of. The route's own cluster speaks HTTP/2 here, the copies go to the HTTP/1 upstream.

use std::time::Duration;

use integration::config::{HttpListener, cluster, indent};
use integration::differential::{Case, Do, Setup};

/// (What marks the end of a case is not copied: whether its copy is counted in time is a race.)
const ROUTES: &str = r#"
- match: {prefix: /, headers: [{name: x-sentinel, present_match: true}]}
  direct_response: {status: 200}
- match: {prefix: /off}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up, runtime_fraction: {default_value: {numerator: 0}}}]}
- match: {prefix: /always}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up, runtime_fraction: {default_value: {numerator: 100}}}]}
- match: {prefix: /same}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up, disable_shadow_host_suffix_append: true}]}
- match: {prefix: /literal}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up, host_rewrite_literal: other.example}]}
- match: {prefix: /mutated-other}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up, host_rewrite_literal: other.example, request_headers_mutations: [{append: {header: {key: x-seen, value: "%REQ(:authority)%"}}}]}, {cluster: refused}]}
- match: {prefix: /mutated-refused}
  route: {cluster: refused, request_mirror_policies: [{cluster: up, request_headers_mutations: [{append: {header: {key: x-seen, value: "%UPSTREAM_CLUSTER%"}}}]}]}
- match: {prefix: /mutated}
  route:
    cluster: h2up
    request_mirror_policies:
    - cluster: up
      request_headers_mutations:
      - append: {header: {key: x-seen, value: "%REQ(x-who)%|%REQ(:authority)%|%REQ(:path)%|%REQ(x-added)%|%UPSTREAM_CLUSTER%|%ROUTE_NAME%|%REQ(x-envoy-expected-rq-timeout-ms)%|%REQ(x-envoy-internal)%|%RESPONSE_CODE%"}}
      - append: {header: {key: x-who, value: copy}}
      - append: {header: {key: x-after, value: "%REQ(x-who)%,%REQ(x-seen)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
      - append: {header: {key: x-none, value: "%REQ(x-absent)%"}}
      - append: {header: {key: x-kept, value: "%REQ(x-absent)%"}, keep_empty_value: true}
      - append: {header: {key: x-here, value: added}, append_action: ADD_IF_ABSENT}
      - remove: x-gone
      - remove: x-request-id
      - remove: x-forwarded-proto
      - remove: x-envoy-expected-rq-timeout-ms
      - remove_on_match: {key_matcher: {prefix: x-private-}}
  request_headers_to_add: [{header: {key: x-added, value: "yes"}}]
- match: {prefix: /header}
  route: {cluster: h2up, request_mirror_policies: [{cluster_header: x-mirror}]}
- match: {prefix: /dead}
  route: {cluster: h2up, request_mirror_policies: [{cluster: refused}]}
- match: {prefix: /rewritten}
  route: {cluster: h2up, prefix_rewrite: /new, host_rewrite_literal: rewritten, timeout: 3s, request_mirror_policies: [{cluster: up}]}
  request_headers_to_add: [{header: {key: x-added, value: "yes"}}]
- match: {prefix: /of-cluster}
  route: {cluster: mirrored, request_mirror_policies: [{cluster: refused}]}
- match: {prefix: /small}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up}]}
  request_body_buffer_limit: 2
- match: {prefix: /none}
  route: {cluster: nobody, request_mirror_policies: [{cluster: up}]}
- match: {prefix: /dropped}
  route: {cluster: dropping, request_mirror_policies: [{cluster: up}]}
- match: {prefix: /full}
  route: {cluster: full, request_mirror_policies: [{cluster: up}]}
- match: {prefix: /refused-twice}
  route: {cluster: refused, request_mirror_policies: [{cluster: up}], retry_policy: {retry_on: connect-failure}}
- match: {prefix: /refused}
  route: {cluster: refused, request_mirror_policies: [{cluster: up}]}
- match: {prefix: /of-host}
  route: {cluster: h2up}
- match: {prefix: /}
  route: {cluster: h2up, request_mirror_policies: [{cluster: up}]}
"#;

pub(crate) fn setup() -> Setup {
    let routes = indent(ROUTES.trim_start_matches('\n'), 2);
    let host =
        |more: &str| format!("- name: all\n  domains: [\"*\"]\n{}  routes:\n{routes}", indent(more, 2));
    let of_host = host("request_mirror_policies: [{cluster: up}]\n");
    let http2 = integration::config::H2_CLUSTER;
    let mirrored = format!("{http2}    request_mirror_policies: [{{cluster: up}}]\n");
    Setup::with_clusters(
        "mirror",
        [
            HttpListener::with_virtual_hosts("plain", &host("")).yaml(),
            HttpListener::with_virtual_hosts("of_host", &of_host).yaml(),
            HttpListener::with_virtual_hosts("of_table", &host(""))
                .route_config("request_mirror_policies: [{cluster: up}]")
                .yaml(),
        ],
        [
            cluster("mirrored", "h2up", &mirrored),
            "- name: nobody\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment: {cluster_name: nobody}\n".to_owned(),
            cluster("dropping", "h2up", "").replace(
                "    endpoints:",
                "    policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 100}}]}\n    endpoints:",
            ),
            cluster("full", "up", "circuit_breakers: {thresholds: [{max_pending_requests: 0}]}"),
        ],
    )
}

/// `count` copies of this request arrive.
fn case(name: &'static str, listener: &'static str, bytes: String, count: usize) -> Case {
    Case::steps(
        name,
        listener,
        [
            Do::Send(bytes.into_bytes()),
            Do::Response("GET"),
            Do::AwaitUpstream(count),
            // What the copy's answer counts, or that there is none.
            Do::Pause(Duration::from_millis(100)),
        ],
    )
}

fn get(name: &'static str, listener: &'static str, target: &str, lines: &str, count: usize) -> Case {
    case(name, listener, format!("GET {target} HTTP/1.1\r\n{lines}\r\n"), count)
}

fn post(name: &'static str, target: &str, lines: &str, body: &str) -> Case {
    case(name, "plain", format!("POST {target} HTTP/1.1\r\nhost: test\r\n{lines}\r\n{body}"), 1)
}

pub(crate) fn cases() -> Vec<Case> {
    let host = "host: test\r\n";
    vec![
        get("copied", "plain", "/x", host, 1),
        get("host with a port", "plain", "/x", "host: test:80\r\n", 1),
        get("host that is an address", "plain", "/x", "host: 1.2.3.4:80\r\n", 1),
        get("host that is an IPv6 address", "plain", "/x", "host: [::1]\r\n", 1),
        get("never", "plain", "/off", host, 0),
        get("always", "plain", "/always", host, 1),
        get("same host", "plain", "/same", host, 1),
        get("another host", "plain", "/literal", host, 1),
        get("other headers", "plain", "/mutated", host, 1),
        get(
            "other headers than those that are there",
            "plain",
            "/mutated",
            "host: test:80\r\nx-who: me\r\nx-after: no\r\nx-here: it\r\nx-gone: 1\r\nx-gone: 2\r\nx-private-a: 1\r\nx-private-b: 2\r\n",
            1,
        ),
        get("other headers and another host", "plain", "/mutated-other", host, 1),
        get("other headers for a copy whose request's host refuses", "plain", "/mutated-refused", host, 1),
        post("other headers and a body", "/mutated", "content-length: 4\r\n", "body"),
        get("cluster of a header", "plain", "/header", "host: test\r\nx-mirror: up\r\n", 1),
        get("unknown cluster of a header", "plain", "/header", "host: test\r\nx-mirror: nope\r\n", 0),
        get("no header", "plain", "/header", host, 0),
        get("rewritten", "plain", "/rewritten/x", host, 1),
        get("forwarded for others", "plain", "/x", "host: test\r\nx-forwarded-for: 9.9.9.9\r\n", 1),
        get("policy of the cluster", "plain", "/of-cluster", host, 1),
        get("policy of the virtual host", "of_host", "/of-host", host, 1),
        get("policy of the route over its host's", "of_host", "/off", host, 0),
        get("policy of the table", "of_table", "/of-host", host, 1),
        get("copy to a host that refuses", "plain", "/dead", host, 0),
        get("no copy without a host", "plain", "/none", host, 0),
        get("no copy of what is dropped", "plain", "/dropped", host, 0),
        get("no copy of what is too much", "plain", "/full", host, 0),
        get("copied though its host refuses", "plain", "/refused", host, 1),
        post("body longer than what is kept", "/small", "content-length: 4\r\n", "body"),
        Case::steps(
            "given up in its body",
            "plain",
            [
                Do::Send(b"POST /x HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nbody".to_vec()),
                Do::Pause(Duration::from_millis(100)),
                Do::Leave,
                Do::AwaitH2Upstream(1),
            ],
        ),
        post("body", "/x", "content-length: 4\r\n", "body"),
        post("body of unknown length", "/x", "transfer-encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"),
        post("body whose host refuses", "/refused", "content-length: 4\r\n", "body"),
        post(
            "body in chunks whose host refuses",
            "/refused",
            "transfer-encoding: chunked\r\n",
            "4\r\nbody\r\n0\r\n\r\n",
        ),
        post("body whose host refuses again", "/refused-twice", "content-length: 4\r\n", "body"),
        post("trailers", "/x", "transfer-encoding: chunked\r\n", "4\r\nbody\r\n0\r\nx-last: 1\r\n\r\n"),
        case("CONNECT", "plain", "CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n".into(), 0),
    ]
}
