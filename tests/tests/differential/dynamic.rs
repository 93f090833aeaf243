//! Dynamic forward proxies: requests and connections go to the hosts that they name, as far as DNS knows these.
//!
//! The port of the upstreams is left in the filter state, or said by a route: clients cannot know it.

use integration::config::{
    H2_CLUSTER, HttpListener, LOG_FORMAT, file_log, indent, listener_with_filters, tcp_proxy_with_logs,
};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::Reply;
use integration::upstream::h2::H2Reply;

const CACHE: &str = r#"{name: NAME, dns_lookup_family: V4_ONLY, dns_refresh_rate: 300s, dns_min_refresh_rate: 300s, MORE
  typed_dns_resolver_config: {name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: 127.0.0.1, port_value: {{dns}}}}], dns_resolver_options: {no_default_search_domain: true}, query_timeout_seconds: 1, query_tries: 1}}}"#;

/// A TCP proxy to this cluster, with the log of the cases here.
pub(crate) fn stream_proxy(name: &str, cluster: &str) -> String {
    let logs = format!("access_log:\n{}", logs());
    tcp_proxy_with_logs(name, &logs, &format!("cluster: {cluster}"))
}

/// The caches, and what they say of themselves.
const CACHES: &[(&str, &str)] = &[
    ("open", ""),
    ("bare", ""),
    ("plain", ""),
    ("unheeded", ""),
    ("secured", ""),
    ("h2", ""),
    ("alone", "max_hosts: 1,"),
    ("bare_alone", "max_hosts: 1,"),
    ("busy", "dns_cache_circuit_breaker: {max_pending_requests: 0},"),
    ("bare_busy", "dns_cache_circuit_breaker: {max_pending_requests: 0},"),
    ("denied", "resolved_address_filter: {ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]},"),
    ("quick", "dns_query_timeout: 0.1s,"),
    ("known", "preresolve_hostnames: [{address: up.test, port_value: {{up}}}],"),
    ("stream", "preresolve_hostnames: [{address: 127.0.0.1, port_value: {{echo}}}],"),
];

pub(crate) fn cache(name: &str) -> String {
    let more = CACHES.iter().find(|(known, _)| *known == name).map_or("", |(_, more)| more);
    CACHE.replace("NAME", name).replace("MORE", more)
}

/// A cluster with the cache of its name.
pub(crate) fn cluster(name: &str, fields: &str, config: &str) -> String {
    format!(
        "- name: {name}\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n{}  cluster_type:\n    name: envoy.clusters.dynamic_forward_proxy\n    \
         typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n{}{}",
        indent(fields, 2),
        indent(config, 6),
        indent(&format!("dns_cache_config: {}", cache(name)), 6),
    )
}

/// The filter with the cache of this name.
fn filter(name: &str, fields: &str) -> String {
    format!(
        "- name: dfp\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig\n{}{}",
        indent(fields, 4),
        indent(&format!("dns_cache_config: {}", cache(name)), 4),
    )
}

const HEEDS: &str = "allow_dynamic_host_from_filter_state: true";

/// Leaves the port of the upstream in the filter state, and the host that a request's header says.
fn state(port: &str) -> String {
    format!(
        r#"- name: s
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
    on_request_headers:
    - {{object_key: envoy.upstream.dynamic_port, format_string: {{text_format_source: {{inline_string: "{port}"}}}}}}
    - {{object_key: envoy.upstream.dynamic_host, format_string: {{text_format_source: {{inline_string: "%REQ(x-dynamic)%"}}, omit_empty_values: true}}, skip_if_empty: true}}
"#
    )
}

const PER_ROUTE: &str = "typed_per_filter_config: {dfp: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig, WHAT}}";

fn routes(cluster: &str) -> String {
    let per_route = |path: &str, what: &str| {
        format!(
            "- match: {{prefix: /{path}}}\n  route: {{cluster: {cluster}}}\n  {}\n",
            PER_ROUTE.replace("WHAT", what)
        )
    };
    [
        per_route("literal", "host_rewrite_literal: \"other.test:{{up}}\""),
        per_route("nowhere", "host_rewrite_literal: absent.test"),
        per_route("header", "host_rewrite_header: X-Host"),
        per_route("nothing", "host_rewrite_literal: \"\""),
        format!("- match: {{prefix: /auto}}\n  route: {{cluster: {cluster}, auto_host_rewrite: true}}\n"),
        format!("- match: {{prefix: /rewritten}}\n  route: {{cluster: {cluster}, host_rewrite_literal: third.test}}\n"),
        format!("- match: {{prefix: /again}}\n  route: {{cluster: {cluster}, retry_policy: {{retry_on: 5xx, num_retries: 1, retry_back_off: {{base_interval: 0.001s}}}}}}\n"),
        format!("- match: {{prefix: /weighted}}\n  route: {{weighted_clusters: {{clusters: [{{name: {cluster}, weight: 1}}]}}}}\n"),
        "- match: {prefix: /direct}\n  direct_response: {status: 200}\n".to_owned(),
        "- match: {prefix: /static}\n  route: {cluster: up}\n".to_owned(),
        "- match: {prefix: /gone}\n  route: {cluster_header: x-cluster}\n".to_owned(),
        "- match: {prefix: /unsecured}\n  route: {cluster: secured}\n".to_owned(),
        "- match: {prefix: /h2}\n  route: {cluster: h2}\n".to_owned(),
        format!("- match: {{prefix: /}}\n  route: {{cluster: {cluster}}}\n"),
    ]
    .concat()
}

fn logs() -> String {
    let format = LOG_FORMAT.replace(
        "\\n",
        "|host=%UPSTREAM_HOST%|hostname=%UPSTREAM_HOST_NAME%|saved=%FILTER_STATE(envoy.stream.upstream_address:PLAIN)%\
         |dynamic=%FILTER_STATE(envoy.upstream.dynamic_host:PLAIN)%\\n",
    );
    file_log(&format!("log_format: {{text_format_source: {{inline_string: \"{format}\"}}}}"))
}

fn http(name: &str, cluster: &str, filters: &str) -> String {
    HttpListener::new(name, &routes(cluster)).filters(filters).logs(&logs()).yaml()
}

const TLS: &str = "transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}";
const NAMES: &str = "    upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}\n";

fn stream() -> String {
    let state = r#"- name: s
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config
    on_new_connection:
    - {object_key: envoy.upstream.dynamic_port, format_string: {text_format_source: {inline_string: "{{echo}}"}}}
    - {object_key: envoy.upstream.dynamic_host, format_string: {text_format_source: {inline_string: HOST}}}
"#;
    let proxy = |name: &str| stream_proxy(name, "stream");
    let listener = |name: &str, host: &str| {
        listener_with_filters(name, &format!("{}{}", state.replace("HOST", host), proxy(name)))
    };
    let nameless = listener_with_filters("nameless", &proxy("nameless"));
    [
        listener("stream", "127.0.0.1"),
        listener("stream_by_name", "up.test"),
        listener("lost", "absent.test"),
        nameless,
    ]
    .concat()
}

pub(crate) fn setup() -> Setup {
    let up = state("{{up}}");
    let listeners = [
        http(
            "http",
            "open",
            &(up.clone() + &filter("open", &format!("{HEEDS}\nsave_upstream_address: true"))),
        ),
        http("unported", "plain", &filter("plain", "")),
        http("unheeded", "unheeded", &(up.clone() + &filter("unheeded", ""))),
        http("bare", "bare", &up),
        http("alone", "alone", &(up.clone() + &filter("alone", HEEDS))),
        http("bare_alone", "bare_alone", &up),
        http("busy", "busy", &(up.clone() + &filter("busy", HEEDS))),
        http("bare_busy", "bare_busy", &up),
        http("denied", "denied", &(up.clone() + &filter("denied", HEEDS))),
        http("quick", "quick", &(up.clone() + &filter("quick", HEEDS))),
        http("known", "known", &(up.clone() + &filter("known", HEEDS))),
        http("refused", "plain", &(state("{{refused}}") + &filter("plain", HEEDS))),
        http("h2", "h2", &(state("{{h2up}}") + &filter("h2", HEEDS))),
        stream(),
    ];
    let names_of_h2 = H2_CLUSTER.to_owned() + NAMES;
    let clusters = CACHES.iter().map(|(name, _)| match *name {
        "secured" => cluster(name, TLS, "allow_insecure_cluster_options: true"),
        "h2" => cluster(name, &names_of_h2, ""),
        name => cluster(name, "", ""),
    });
    Setup::with_clusters("dynamic", listeners, clusters)
}

fn request(name: &'static str, listener: &'static str, target: &str, host: &str, lines: &str) -> Case {
    Case::send(name, listener, format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n"))
}

fn get(name: &'static str, listener: &'static str, target: &str, host: &str, lines: &str) -> Case {
    request(name, listener, target, host, lines).reply(Reply::ok())
}

/// A case whose request names no host.
fn nameless(case: Case) -> Case {
    case.differs("log[0].authority", "an empty host is none to access logs")
}

fn failing() -> Vec<Case> {
    let get = |name, listener, host| get(name, listener, "/", host, "");
    [("http", 0), ("bare", 1)]
        .into_iter()
        .flat_map(|(listener, at)| {
            [
                ["a name that there is not", "a name that there is not, found out by the cluster"],
                ["that name again", "that name again, for the cluster"],
                ["a name without addresses", "a name without addresses, found out by the cluster"],
                ["a name of the other family", "a name of the other family, found out by the cluster"],
                ["a server that fails", "a server that fails the cluster"],
                ["a server that refuses", "a server that refuses the cluster"],
                ["a server that is silent", "a server that is silent to the cluster"],
                ["what is no name", "what is no name for the cluster"],
                ["an address of the other family", "an address of the other family for the cluster"],
                ["no host", "no host for the cluster"],
            ]
            .into_iter()
            .zip([
                "absent.test",
                "absent.test",
                "nothing.test",
                "six.test",
                "fails.test",
                "refuses.test",
                "silent.test",
                "a,b.test",
                "[::1]",
                "",
            ])
            .map(move |(names, host)| match host {
                "" => nameless(get(names[at], listener, host)),
                host => get(names[at], listener, host),
            })
        })
        .collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let named = |host: &str| Do::Send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes());
    let both = [named("up.test"), Do::Response("GET"), named("third.test"), Do::Response("GET")];
    let mut cases = vec![
        get("a name", "http", "/", "up.test", ""),
        get("a name that is known", "http", "/", "up.test", ""),
        Case::steps("two requests of one connection", "http", both).reply(Reply::ok()).reply(Reply::ok()),
        get("an address", "http", "/", "127.0.0.1", ""),
        get("the name of this host", "http", "/", "localhost", ""),
        get("a name in capitals", "http", "/", "OTHER.test", ""),
        get("a name with a dot behind", "http", "/", "up.test.", ""),
        get("a name with two addresses", "http", "/", "two.test", ""),
        get("a port that is none", "http", "/", "up.test:99999", ""),
        get("a host of the filter state", "http", "/", "absent.test", "x-dynamic: third.test\r\n"),
        get(
            "a host of the filter state that there is not",
            "http",
            "/",
            "up.test",
            "x-dynamic: absent.test\r\n",
        ),
        get("a host that a route says", "http", "/literal", "absent.test", ""),
        get("a host that a route says, which there is not", "http", "/nowhere", "up.test", ""),
        get(
            "the host that a header says",
            "http",
            "/header",
            "absent.test",
            "x-host: up.test\r\nx-host: absent.test\r\n",
        ),
        get("the host of a header that is not there", "http", "/header", "up.test", ""),
        nameless(get("the host of an empty header", "http", "/header", "up.test", "x-host:\r\n")),
        get("a route that says nothing", "http", "/nothing", "up.test", ""),
        get("a host that gets its name", "http", "/auto", "up.test", ""),
        get("a host that the router renames", "http", "/rewritten", "up.test", ""),
        get("weighted clusters", "http", "/weighted", "up.test", ""),
        get("a cluster of another type", "http", "/static", "absent.test", ""),
        get("no cluster", "http", "/gone", "absent.test", ""),
        get("a route that answers", "http", "/direct", "absent.test", ""),
        nameless(get("a route that answers, without a host", "http", "/direct", "", "")),
        request("a host that fails and is tried again", "http", "/again", "up.test", "")
            .raw("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
            .reply(Reply::ok()),
        get("the usual port", "unported", "/", "up.test", ""),
        get("the usual port of TLS", "unported", "/unsecured", "up.test", ""),
        get("port 0", "unported", "/", "up.test:0", ""),
        get("a host that refuses", "refused", "/", "up.test", ""),
        get("filter state that the filter does not heed", "unheeded", "/", "up.test", ""),
        get(
            "a host of the filter state that the filter does not heed",
            "unheeded",
            "/",
            "up.test",
            "x-dynamic: other.test\r\n",
        ),
        get(
            "a host of the filter state that hides what there is not",
            "unheeded",
            "/",
            "absent.test",
            "x-dynamic: other.test\r\n",
        ),
        get("a name that the cluster finds", "bare", "/", "up.test", ""),
        get("a name that the cluster knows", "bare", "/", "up.test", ""),
        get("an address for the cluster", "bare", "/", "127.0.0.1", ""),
        get("one host", "alone", "/", "up.test", ""),
        get("one host again", "alone", "/", "up.test", ""),
        get("a host too many", "alone", "/", "other.test", ""),
        get("one host of the cluster", "bare_alone", "/", "up.test", ""),
        get("a host too many for the cluster", "bare_alone", "/", "other.test", ""),
        get("a request too many", "busy", "/", "up.test", ""),
        get("a request too many for the cluster", "bare_busy", "/", "up.test", ""),
        get("an address that is not gone to", "denied", "/", "private.test", ""),
        get("an address that is, of two", "denied", "/", "mixed.test", ""),
        get("a name that takes too long", "quick", "/", "silent.test", ""),
        get("a name that was known before", "known", "/", "up.test", ""),
        Case::h2("a name over HTTP/2", "h2", [H2Request::get("http://up.test/")])
            .h2_reply(H2Reply::new(200, "hello")),
        Case::h2("a name that there is not, over HTTP/2", "h2", [H2Request::get("http://absent.test/")]),
    ];
    cases.extend(failing());
    let hello = || [Do::Send(b"hello".to_vec()), Do::Bytes(5), Do::Leave];
    let lost = || [Do::Send(b"hello".to_vec()), Do::AwaitEnd];
    cases.extend([
        Case::steps("a connection to an address", "stream", hello()).tcp(1),
        Case::steps("a connection to a name that nobody asked for", "stream_by_name", hello())
            .tcp(1)
            .differs("*", "the connection waits until the name is known; Envoy refuses the first one"),
        // (Envoy refuses the connection before the answer comes, and counts that now or with the next case.)
        Case::steps("a connection to a name that there is not", "lost", lost())
            .tcp(1)
            .varies("counter dns_cache.stream.dns_query_*", "the answer comes when it likes"),
        Case::steps("a connection to nobody", "nameless", lost())
            .tcp(1)
            .varies("counter dns_cache.stream.dns_query_*", "that of the name before may come here"),
    ]);
    cases
}
