//! Routes and clusters that matcher trees choose (`VirtualHost.matcher`, cluster specifier plugins).

use integration::config::{HttpListener, cluster};
use integration::differential::{Case, H2Request, Setup};

use crate::rbac_matcher::{
    custom, custom_tree, domains, header, is, list, map, network_input, otherwise, ranges, tree,
};

fn action(message: &str) -> String {
    format!("{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/{message}}}}}}}")
}

/// A route that answers with its name.
fn answers(name: &str) -> String {
    route(name, "{prefix: /}", "")
}

/// A route that answers with its name if a request fits.
fn route(name: &str, fits: &str, more: &str) -> String {
    format!(
        "name: \"{name}\", match: {fits}, direct_response: {{status: 200, body: {{inline_string: \"{name}\"}}}}{more}"
    )
}

/// A route to a cluster.
fn forwards(name: &str, to: &str, more: &str) -> String {
    format!("name: \"{name}\", match: {{prefix: /}}, route: {{{to}}}{more}")
}

fn to(route: &str) -> String {
    action(&format!("envoy.config.route.v3.Route, {route}"))
}

fn to_first_of(routes: &[String]) -> String {
    let routes: Vec<String> = routes.iter().map(|route| format!("{{{route}}}")).collect();
    action(&format!("envoy.config.route.v3.RouteList, routes: [{}]", routes.join(", ")))
}

fn to_cluster(name: &str) -> String {
    action(&format!("envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: {name}"))
}

/// A virtual host for all domains with a tree.
fn host(matcher: &str, more: &str) -> String {
    format!("- name: all\n  domains: [\"*\"]\n  matcher: {{{matcher}}}\n{more}")
}

fn listener(name: &str, matcher: &str) -> HttpListener {
    HttpListener::with_virtual_hosts(name, &host(matcher, ""))
}

fn plugin(name: &str, matcher: &str) -> String {
    format!(
        "extension: {{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier, cluster_matcher: {{{matcher}}}}}}}"
    )
}

/// A filter of a connection that sets a value which routes may look at.
const STATE: &str = r#"- name: state
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
    on_request_headers:
    - {object_key: "mine", factory_key: envoy.string, format_string: {text_format_source: {inline_string: "%REQ(x-state)%"}}}
    clear_route_cache: true
"#;

/// A plugin that nobody knows.
const OPTIONAL: &str = "extension: {name: optional, typed_config: {\"@type\": type.googleapis.com/envoy.config.route.v3.NonForwardingAction}}, is_optional: true";

const MUTATION: &str = r#"- name: mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
    mutations: {request_mutations: [{append: {header: {key: x-to, value: two}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}
"#;

fn lists_and_maps() -> Vec<HttpListener> {
    let role = |value: &str| is(&header("x-role"), value);
    let service = list(&[
        (role("{exact: admin}"), to(&answers("admins"))),
        (
            role("{prefix: a}"),
            to_first_of(&[
                route("first", "{path: /first}", ""),
                route("asked", "{prefix: /, headers: [{name: x-ask, present_match: true}]}", ""),
                route(
                    "get",
                    "{prefix: /get, headers: [{name: \":method\", string_match: {exact: GET}}]}",
                    "",
                ),
            ]),
        ),
        (
            role("{prefix: c}"),
            to(&route(
                "conditional",
                "{prefix: /c, query_parameters: [{name: q, string_match: {exact: \"1\"}}]}",
                "",
            )),
        ),
        (role("{contains: a}"), to(&answers("contains a"))),
    ]);
    let by_method = map(
        "exact_match_map",
        &header(":method"),
        &[
            ("GET", to(&answers("gets"))),
            ("POST", to(&forwards("posts", "cluster: one", ""))),
            (
                "PUT",
                tree(&otherwise(
                    &list(&[(role("{exact: admin}"), to(&answers("admin puts")))]),
                    &to(&answers("puts")),
                )),
            ),
            ("DELETE", tree(&list(&[(role("{exact: admin}"), to(&answers("admin deletes")))]))),
        ],
    );
    let by_path = map(
        "prefix_match_map",
        &header(":path"),
        &[
            ("/a", to(&answers("/a"))),
            ("/a/b", to(&route("/a/b", "{path: /a/b/c}", ""))),
            ("/a/x", tree(&list(&[(role("{exact: admin}"), to(&answers("/a/x of admins")))]))),
        ],
    );
    let by_range = ranges(&[
        ("{address_prefix: 10.0.0.0, prefix_len: 8}", "", to(&answers("ten"))),
        (
            "{address_prefix: 10.1.0.0, prefix_len: 16}",
            "",
            tree(&list(&[(role("{exact: admin}"), to(&answers("ten one")))])),
        ),
    ]);
    let by_domain = domains(&[
        ("one.test", to(&answers("one.test"))),
        ("\"*.test\"", to(&answers("*.test"))),
        ("\"*\"", to(&answers("any"))),
    ]);
    let many: Vec<String> = (0..12)
        .map(|number| route(&format!("route {number}"), &format!("{{prefix: /{number}}}"), ""))
        .collect();
    vec![
        listener("list", &service),
        listener("method", &otherwise(&by_method, &to(&answers("otherwise")))),
        listener("path", &by_path),
        listener("range", &custom_tree(&header("x-ip"), &by_range)),
        listener("domain", &custom_tree(&header(":authority"), &by_domain)),
        listener(
            "state",
            &map(
                "exact_match_map",
                &network_input("FilterStateInput, key: mine"),
                &[("red", to(&answers("red"))), ("blue", to(&answers("blue")))],
            ),
        )
        .filters(STATE),
        listener("many", &list(&[(role("{exact: many}"), to_first_of(&many))])),
        listener("nothing", ""),
        listener("only_otherwise", &format!("on_no_match: {}", to(&answers("always")))),
        listener(
            "ip",
            &list(&[(
                custom(
                    &header("x-ip"),
                    "{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: ip, cidr_ranges: [{address_prefix: 1.2.3.0, prefix_len: 24}]}",
                ),
                to(&answers("near")),
            )]),
        ),
    ]
}

/// What a virtual host says besides.
fn around() -> Vec<HttpListener> {
    let named = |name: &str| is(&header("x-to"), &format!("{{exact: {name}}}"));
    let more = r#"  require_tls: EXTERNAL_ONLY
  virtual_clusters:
  - {name: gets, headers: [{name: ":method", string_match: {exact: GET}}]}
  request_headers_to_add: [{header: {key: x-of, value: host}}]
  response_headers_to_add: [{header: {key: x-host, value: "yes"}}]
  include_request_attempt_count: true
  retry_policy: {retry_on: 5xx, num_retries: 1}
  typed_per_filter_config:
    fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 418, percentage: {numerator: 100}}, headers: [{name: x-fault, present_match: true}]}
"#;
    let fault = "- name: fault\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}\n";
    let off = ", typed_per_filter_config: {fault: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}";
    let added = ", response_headers_to_add: [{header: {key: x-route, value: \"yes\"}}], request_headers_to_remove: [x-gone], stat_prefix: counted";
    let matcher = list(&[
        (named("one"), to(&forwards("to one", "cluster: one, prefix_rewrite: /new/", added))),
        (named("calm"), to(&forwards("without fault", "cluster: two", off))),
        (named("away"), to("name: away, match: {prefix: /}, redirect: {host_redirect: other.test}")),
        (named("unknown"), to(&forwards("unknown", "cluster: unknown", ""))),
        (
            named("weighted"),
            to(&forwards(
                "weighted",
                "weighted_clusters: {clusters: [{name: one, weight: 0}, {name: two, weight: 1}]}",
                "",
            )),
        ),
    ]);
    let hosts = host(&matcher, more);
    vec![
        HttpListener::with_virtual_hosts("around", &hosts).filters(fault),
        HttpListener::with_virtual_hosts("internal", &hosts.replace("require_tls: EXTERNAL_ONLY", "require_tls: NONE"))
            .filters(fault)
            .route_config("request_headers_to_add: [{header: {key: x-of, value: table}}]\nmost_specific_header_mutations_wins: true"),
    ]
}

fn clusters() -> Vec<HttpListener> {
    let by_name = map(
        "exact_match_map",
        &header("x-to"),
        &[("one", to_cluster("one")), ("two", to_cluster("two")), ("unknown", to_cluster("unknown"))],
    );
    let otherwise_up = otherwise(&by_name, &to_cluster("up"));
    let other_tree = list(&[(is(&header(":path"), "{prefix: /two}"), to_cluster("two"))]);
    let routes = [
        "- match: {prefix: /listed}\n  route: {cluster_specifier_plugin: listed}",
        "- match: {prefix: /other}\n  route: {cluster_specifier_plugin: other, cluster_not_found_response_code: NOT_FOUND}",
        "- match: {prefix: /optional}\n  route: {cluster_specifier_plugin: optional}",
        &format!(
            "- match: {{prefix: /inline}}\n  route: {{inline_cluster_specifier_plugin: {{{OPTIONAL}}}}}"
        ),
        &format!("- name: own\n  match: {{prefix: /}}\n  route: {{prefix_rewrite: /two, inline_cluster_specifier_plugin: {{{}}}}}", plugin("own", &otherwise_up)),
    ]
    .join("\n");
    let listed = format!(
        "cluster_specifier_plugins:\n- {{{}}}\n- {{{}}}\n- {{{}}}\n- {{{OPTIONAL}}}",
        plugin("listed", &by_name),
        plugin("other", &other_tree),
        plugin("other", &format!("on_no_match: {}", to_cluster("one"))),
    );
    let by_cluster = HttpListener::new("clusters", &routes).route_config(&listed);
    let of_plugin =
        |plugin: &str| to(&forwards("both", &format!("inline_cluster_specifier_plugin: {{{plugin}}}"), ""));
    let tree_of_both = list(&[
        (is(&header("x-tree"), "{exact: \"1\"}"), of_plugin(&plugin("own", &by_name))),
        (is(&header("x-tree"), "{exact: \"2\"}"), of_plugin(OPTIONAL)),
    ]);
    vec![
        by_cluster,
        HttpListener::new("mutated", &routes).route_config(&listed).filters(MUTATION),
        listener("both", &tree_of_both),
    ]
}

pub(crate) fn setup() -> Setup {
    let all = [lists_and_maps(), around(), clusters()].concat();
    let further = ["one", "two"].map(|name| cluster(name, "up", ""));
    Setup::with_clusters("route_trees", all.iter().map(HttpListener::yaml), further)
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, target: &str, lines: &str| Case::get(name, listener, target, lines);
    let method = |name, method: &str, lines: &str| {
        Case::send(
            name,
            "method",
            format!("{method} / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n{lines}\r\n"),
        )
    };
    let domain =
        |name, host: &str| Case::send(name, "domain", format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    let named = |name, listener, target: &str, to: &str| {
        Case::get(name, listener, target, &format!("x-to: {to}\r\n"))
    };
    vec![
        get("a tree leads to a route", "list", "/", "x-role: admin\r\n"),
        get("a tree leads to several routes, the first", "list", "/first", "x-role: ann\r\n"),
        get("a tree leads to several routes, the second", "list", "/x", "x-role: ann\r\nx-ask: 1\r\n"),
        get("a tree leads to several routes, the last", "list", "/get", "x-role: ann\r\n"),
        get("a tree leads to several routes, none of which fits", "list", "/x", "x-role: ann\r\n"),
        get("a tree leads to a route that fits", "list", "/c?q=1", "x-role: c\r\n"),
        get("a tree leads to a route that does not fit", "list", "/c?q=2", "x-role: ca\r\n"),
        get("a tree leads nowhere", "list", "/", "x-role: x\r\n"),
        get("a tree has nothing to go by", "list", "/", ""),
        get("values of a repeated header are joined", "list", "/", "x-role: x\r\nx-role: a\r\n"),
        method("a map of methods", "GET", ""),
        method("a map of methods, forwarded", "POST", ""),
        method("a map of methods, nested", "PUT", "x-role: admin\r\n"),
        method("a map of methods, nested, otherwise", "PUT", ""),
        method("a map of methods, nested, nothing", "DELETE", ""),
        method("a map of methods, otherwise", "OPTIONS", ""),
        get("a map of prefixes", "path", "/a/c", ""),
        get("a map of prefixes, the longest", "path", "/a/b/c", ""),
        get("a map of prefixes, the longest has a route that does not fit", "path", "/a/b", ""),
        get("a map of prefixes, the longest leads nowhere", "path", "/a/x", ""),
        get("a map of prefixes, the longest leads somewhere", "path", "/a/x", "x-role: admin\r\n"),
        get("a map of prefixes, none", "path", "/b", ""),
        get("a range of addresses", "range", "/", "x-ip: 10.2.0.1\r\n"),
        get("a longer range of addresses", "range", "/", "x-ip: 10.1.0.1\r\nx-role: admin\r\n"),
        get("a longer range of addresses that leads nowhere", "range", "/", "x-ip: 10.1.0.1\r\n"),
        get("no range of addresses", "range", "/", "x-ip: 11.1.0.1\r\n"),
        get("no address", "range", "/", "x-ip: here\r\n"),
        domain("a domain", "one.test"),
        domain("a domain below", "two.test"),
        domain("any domain", "elsewhere"),
        get("filter state chooses", "state", "/", "x-state: red\r\n"),
        get("other filter state chooses", "state", "/", "x-state: blue\r\n"),
        get("filter state chooses nothing", "state", "/", ""),
        get("many routes of one action", "many", "/7", "x-role: many\r\n"),
        get("many routes of one action, the first of two", "many", "/11", "x-role: many\r\n"),
        get("many routes of one action, none", "many", "/x", "x-role: many\r\n"),
        get("a tree without anything", "nothing", "/", ""),
        get("a tree with nothing to ask", "only_otherwise", "/", ""),
        get("an address in a header", "ip", "/", "x-ip: 1.2.3.4\r\n"),
        get("another address in a header", "ip", "/", "x-ip: 1.2.4.4\r\n"),
        Case::h2(
            "a tree, HTTP/2",
            "list",
            [
                H2Request::get("http://test/").field("x-role", "admin"),
                H2Request::get("http://test/").field("x-role", "x"),
                H2Request::get("http://test/first").field("x-role", "ann"),
            ],
        ),
        named("TLS is demanded before a tree is asked", "around", "/", "one"),
        get(
            "TLS is not demanded of internal requests",
            "around",
            "/",
            "x-to: one\r\nx-envoy-internal: true\r\nx-forwarded-proto: https\r\n",
        ),
        named("what surrounds a tree holds", "internal", "/old", "one"),
        get("a filter of a tree's host has its say", "internal", "/", "x-to: one\r\nx-fault: 1\r\n"),
        get("a filter is off for a route of a tree", "internal", "/", "x-to: calm\r\nx-fault: 1\r\n"),
        named("a route of a tree redirects", "internal", "/", "away"),
        named("a route of a tree leads to no cluster", "internal", "/", "unknown"),
        named("a route of a tree has weights", "internal", "/", "weighted"),
        get(
            "a tree leads nowhere, where a filter has its say",
            "internal",
            "/",
            "x-to: nowhere\r\nx-fault: 1\r\n",
        ),
        named("a plugin of the table chooses a cluster", "clusters", "/listed", "one"),
        named("a plugin of the table chooses another cluster", "clusters", "/listed", "two"),
        named("a plugin chooses a cluster that there is not", "clusters", "/listed", "unknown"),
        named("a plugin chooses nothing", "clusters", "/listed", "x"),
        get("the first of two plugins with one name", "clusters", "/other", ""),
        get("an optional plugin that is not known", "clusters", "/optional", ""),
        get("an optional plugin of the route that is not known", "clusters", "/inline", ""),
        get("an optional plugin of the only route that a tree leads to", "both", "/", "x-tree: 2\r\n"),
        named("a plugin of the route chooses a cluster", "clusters", "/x", "two"),
        named("a plugin of the route chooses what is left", "clusters", "/x", "x"),
        named("a plugin looks at a request before filters change it", "mutated", "/listed", "one"),
        get("a plugin looks at the path before it is rewritten", "clusters", "/other/two", ""),
        get("a tree leads to a route with a plugin", "both", "/", "x-tree: 1\r\nx-to: two\r\n"),
        get("a tree leads to a route with a plugin that chooses nothing", "both", "/", "x-tree: 1\r\n"),
    ]
}
