//! The cluster that a route names: known as soon as the route is, to filters before the router and to the access log of what
//! they answer.

use integration::config::{HttpListener, cluster, indent};
use integration::differential::{Case, Setup};

const CLUSTER: &str = "%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %CLUSTER_METADATA(ns:key)%";

const ROUTES: &str = r#"
- match: {prefix: /direct}
  direct_response: {status: 200, body: {inline_string: direct}}
- match: {prefix: /redirect}
  redirect: {path_redirect: /there}
- match: {prefix: /weighted}
  route: {weighted_clusters: {clusters: [{name: up, weight: 0}, {name: named, weight: 1}]}}
- match: {prefix: /header}
  route: {cluster_header: x-cluster}
- match: {prefix: /unknown}
  route: {cluster: unknown}
- match: {prefix: /refused}
  route: {cluster: refused}
- match: {prefix: /}
  route: {cluster: named}
"#;

const CORS: &str = r#"- name: envoy.filters.http.cors
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
"#;

const HEALTH_CHECK: &str = r#"- name: envoy.filters.http.health_check
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
    pass_through_mode: false
    headers: [{name: ":path", string_match: {exact: /health}}]
"#;

fn mutation() -> String {
    format!(
        r#"- name: mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
    mutations:
      request_mutations:
      - append: {{header: {{key: x-info, value: "{CLUSTER}"}}}}
      - append: {{header: {{key: x-cluster, value: up}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}
      response_mutations: [{{append: {{header: {{key: x-info, value: "{CLUSTER}"}}}}}}]
"#
    )
}

pub(crate) fn setup() -> Setup {
    let host = format!(
        "- name: all\n  domains: [\"*.test\", test]\n  typed_per_filter_config:\n    envoy.filters.http.cors:\n      \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy\n      \
         allow_origin_string_match: [{{exact: \"http://origin.test\"}}]\n  routes:\n{}",
        indent(ROUTES.trim_start(), 2)
    );
    let more = "alt_stat_name: alternative\nmetadata: {filter_metadata: {ns: {key: of the cluster}}}\n";
    let filters = [mutation(), CORS.to_owned(), HEALTH_CHECK.to_owned()].concat();
    Setup::with_clusters(
        "clusters",
        [
            HttpListener::with_virtual_hosts("clusters", &host)
                .route_config("validate_clusters: false")
                .filters(&filters)
                .yaml(),
            HttpListener::with_virtual_hosts("upgrades", &host)
                .route_config("validate_clusters: false")
                .options("upgrade_configs: [{upgrade_type: websocket}]")
                .filters(&filters)
                .yaml(),
        ],
        [cluster("named", "up", more)],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, target, lines| Case::get(name, "clusters", target, lines);
    let preflight = "OPTIONS /a HTTP/1.1\r\nhost: test\r\norigin: http://origin.test\r\n\
                     access-control-request-method: GET\r\n\r\n";
    let astray = "GET / HTTP/1.1\r\nhost: elsewhere\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    vec![
        get("cluster by name", "/", ""),
        get("cluster by weight", "/weighted", ""),
        get("cluster by header, which a filter changes", "/header", "x-cluster: named\r\n"),
        get("cluster by header, which a filter adds", "/header", ""),
        get("cluster by header, unknown", "/header", "x-cluster: unknown\r\n"),
        get("cluster that is unknown", "/unknown", ""),
        get("cluster that refuses", "/refused", ""),
        get("cluster of a direct response", "/direct", ""),
        get("cluster of a redirect", "/redirect", ""),
        Case::send("cluster without a route", "clusters", "GET / HTTP/1.1\r\nhost: elsewhere\r\n\r\n"),
        Case::send("cluster of a preflight that a filter answers", "clusters", preflight),
        get("cluster of a health check that a filter answers", "/health", ""),
        get("cluster of an upgrade that is refused", "/", upgrade),
        get("unknown cluster of an upgrade that is refused", "/unknown", upgrade),
        Case::send("upgrade that is refused, without a route", "clusters", astray),
        Case::send("upgrade without a route", "upgrades", astray),
        Case::get("upgrade to an unknown cluster", "upgrades", "/unknown", upgrade),
        Case::get("upgrade of a direct response", "upgrades", "/direct", upgrade),
    ]
}
