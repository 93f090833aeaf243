//! Access control: of requests (`envoy.filters.http.rbac`) and of connections (`envoy.filters.network.rbac`).

use integration::config::{
    H2_CLUSTER, HttpListener, cluster, file_log, indent, listener_with_filters, tcp_proxy_with_logs,
};
use integration::differential::{Case, Do, H2Request, Setup};

pub(crate) const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|grpc=%GRPC_STATUS_NUMBER%\
|result=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%\
|policy=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%\
|shadow=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%\
|shadow-policy=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%\
|p-result=%DYNAMIC_METADATA(envoy.filters.http.rbac:p_enforced_engine_result)%\
|p-policy=%DYNAMIC_METADATA(envoy.filters.http.rbac:p_enforced_effective_policy_id)%\
|p-shadow=%DYNAMIC_METADATA(envoy.filters.http.rbac:dry.shadow_engine_result)%\
|p-shadow-policy=%DYNAMIC_METADATA(envoy.filters.http.rbac:dry.shadow_effective_policy_id)%\
|q-result=%DYNAMIC_METADATA(envoy.filters.http.rbac:q_enforced_engine_result)%\
|hint=%DYNAMIC_METADATA(envoy.common:access_log_hint)%\\n\"}}";

const ANYBODY: &str = "[{any: true}]";

/// `rules` with policies of one permission and one principal.
fn rules(action: &str, policies: &[(&str, &str, &str)]) -> String {
    let policies: Vec<String> = policies
        .iter()
        .map(|(name, permissions, principals)| {
            format!("\"{name}\": {{permissions: {permissions}, principals: {principals}}}")
        })
        .collect();
    format!("{{action: {action}, policies: {{{}}}}}", policies.join(", "))
}

/// Rules that allow what this permission holds for.
fn may(permission: &str) -> String {
    rules("ALLOW", &[("p", &format!("[{permission}]"), ANYBODY)])
}

/// Rules that allow what these principals do.
fn who(principal: &str) -> String {
    rules("ALLOW", &[("p", ANYBODY, &format!("[{principal}]"))])
}

pub(crate) fn filter(config: &str) -> String {
    format!(
        "- name: rbac\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n{}",
        indent(config, 4)
    )
}

fn listener(name: &str, config: &str) -> HttpListener {
    HttpListener::to_up(name).filters(&filter(config)).logs(&file_log(LOG))
}

fn with_rules(name: &str, rules: &str) -> HttpListener {
    listener(name, &format!("rules: {rules}"))
}

/// Routes with configurations of their own.
fn routes() -> String {
    let own = |prefix: &str, rbac: &str| {
        format!(
            "- match: {{prefix: {prefix}}}\n  route: {{cluster: up}}\n  metadata: {{filter_metadata: {{of.route: {{team: a}}}}}}\n  \
             typed_per_filter_config:\n    rbac:\n      \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute\n      {rbac}\n"
        )
    };
    let denies = rules("DENY", &[("of-route", "[{header: {name: x-bad}}]", ANYBODY)]);
    [
        own("/empty", ""),
        own("/no-rules", "rbac: {}"),
        own("/deny", &format!("rbac: {{rules: {denies}}}")),
        own("/counted", &format!("rbac: {{track_per_rule_stats: true, rules: {denies}}}")),
        own("/prefixed", &format!("rbac: {{rules_stat_prefix: q_, rules: {denies}}}")),
        own("/shadow", &format!("rbac: {{shadow_rules: {denies}}}")),
        own(
            "/of-team",
            "rbac: {rules: {policies: {team: {permissions: [{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: \
             {filter: of.route, path: [{key: team}], value: {string_match: {exact: a}}}}}], principals: [{any: true}]}}}}",
        ),
        own(
            "/of-other-team",
            "rbac: {rules: {policies: {team: {permissions: [{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: \
             {filter: of.route, path: [{key: team}], value: {string_match: {exact: b}}}}}], principals: [{any: true}]}}}}",
        ),
        "- match: {prefix: /off}\n  route: {cluster: up}\n  typed_per_filter_config:\n    rbac: {\"@type\": \
         type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}\n"
            .to_owned(),
        "- match: {prefix: /yes}\n  route: {cluster: up}\n".to_owned(),
    ]
    .concat()
}

fn permissions() -> Vec<HttpListener> {
    let many: Vec<String> =
        (0..20).map(|at| format!("{{url_path: {{path: {{exact: /many/{at}}}}}}}")).collect();
    vec![
        with_rules("header", &may("{header: {name: x-role, string_match: {exact: admin}}}")),
        with_rules(
            "header_deny",
            &rules("DENY", &[("p", "[{header: {name: x-role, string_match: {exact: admin}}}]", ANYBODY)]),
        ),
        with_rules(
            "header_not",
            &may("{header: {name: x-role, string_match: {exact: admin}, invert_match: true}}"),
        ),
        with_rules(
            "header_not_or_missing",
            &may(
                "{header: {name: x-role, string_match: {exact: admin}, invert_match: true, treat_missing_header_as_empty: true}}",
            ),
        ),
        with_rules("header_there", &may("{header: {name: x-role, present_match: true}}")),
        with_rules("header_range", &may("{header: {name: x-level, range_match: {start: 3, end: 7}}}")),
        with_rules(
            "method",
            &may("{header: {name: \":method\", string_match: {safe_regex: {regex: \"GET|PUT\"}}}}"),
        ),
        with_rules("host", &may("{header: {name: host, string_match: {exact: test}}}")),
        with_rules(
            "other_host",
            &rules(
                "DENY",
                &[(
                    "p",
                    "[{header: {name: \":authority\", string_match: {exact: test}, invert_match: true}}]",
                    ANYBODY,
                )],
            ),
        ),
        with_rules("upgrade", &may("{header: {name: upgrade, string_match: {exact: WebSocket}}}"))
            .options("upgrade_configs: [{upgrade_type: websocket}]"),
        with_rules("protocol", &may("{header: {name: \":protocol\", present_match: true}}"))
            .options("upgrade_configs: [{upgrade_type: websocket}]"),
        with_rules("joined", &may("{header: {name: authorization, string_match: {exact: \"a,b\"}}}")),
        with_rules("unnamed", &rules("ALLOW", &[("", "[{header: {name: x-role}}]", ANYBODY)])),
        with_rules("unnamed_deny", &rules("DENY", &[("", "[{header: {name: x-role}}]", ANYBODY)])),
        with_rules(
            "absent_metadata",
            &may("{metadata: {filter: none, path: [{key: a}], value: {present_match: false}}}"),
        ),
        with_rules("path", &may("{url_path: {path: {exact: /a}}}")),
        with_rules("path_prefix", &may("{url_path: {path: {prefix: /a/, ignore_case: true}}}")),
        with_rules("path_deny", &rules("DENY", &[("p", "[{url_path: {path: {prefix: /admin}}}]", ANYBODY)])),
        with_rules(
            "path_normal",
            &rules("DENY", &[("p", "[{url_path: {path: {prefix: /admin}}}]", ANYBODY)]),
        )
        .options("normalize_path: true\nmerge_slashes: true"),
        with_rules("parameters", &rules("DENY", &[("p", "[{url_path: {path: {exact: /admin}}}]", ANYBODY)]))
            .route_config("ignore_path_parameters_in_path_matching: true"),
        with_rules("path_of_header", &may("{header: {name: \":path\", string_match: {exact: \"/a?b=c\"}}}")),
        with_rules("paths", &may(&format!("{{or_rules: {{rules: [{}]}}}}", many.join(", ")))),
        with_rules(
            "template",
            &may(
                "{uri_template: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: \"/v1/{name}/*\"}}}",
            ),
        ),
        with_rules("here", &may("{destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}")),
        with_rules("elsewhere", &may("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}")),
        with_rules("port", &may("{destination_port: 1}")),
        with_rules("ports", &may("{destination_port_range: {start: 1024, end: 65536}}")),
        with_rules("no_name", &may("{requested_server_name: {exact: \"\"}}")),
        with_rules("named", &may("{requested_server_name: {exact: a.test}}")),
        with_rules(
            "metadata",
            &may(
                "{metadata: {filter: nobody, path: [{key: k}], value: {present_match: true}, invert: true}}",
            ),
        ),
        with_rules(
            "sourced",
            &may(
                "{sourced_metadata: {metadata_matcher: {filter: nobody, path: [{key: k}], value: {present_match: true}}}}",
            ),
        ),
        with_rules(
            "all",
            &may(
                "{and_rules: {rules: [{header: {name: x-role}}, {not_rule: {url_path: {path: {exact: /secret}}}}]}}",
            ),
        ),
    ]
}

fn principals() -> Vec<HttpListener> {
    vec![
        with_rules("source", &who("{source_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}")),
        with_rules("direct", &who("{direct_remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}"))
            .options("use_remote_address: true\nxff_num_trusted_hops: 1"),
        with_rules("six", &who("{remote_ip: {address_prefix: \"::\", prefix_len: 0}}"))
            .options("use_remote_address: false"),
        with_rules("remote", &who("{remote_ip: {address_prefix: 1.2.3.0, prefix_len: 24}}"))
            .options("use_remote_address: true\nxff_num_trusted_hops: 1"),
        with_rules("authenticated", &who("{authenticated: {}}")),
        with_rules("authenticated_as", &who("{authenticated: {principal_name: {exact: \"\"}}}")),
        with_rules("who_header", &who("{header: {name: x-user, string_match: {prefix: a}}}")),
        with_rules("who_path", &who("{url_path: {path: {suffix: .txt}}}")),
        with_rules("who_state", &who("{filter_state: {key: nothing, string_match: {exact: a}}}")),
        with_rules(
            "who_not",
            &who(
                "{and_ids: {ids: [{not_id: {header: {name: x-user, string_match: {exact: eve}}}}, {or_ids: {ids: [{any: true}]}}]}}",
            ),
        ),
    ]
}

fn actions() -> Vec<HttpListener> {
    let a_and_b = |action| {
        rules(
            action,
            &[
                ("b of two", "[{header: {name: x-b}}]", ANYBODY),
                ("a", "[{header: {name: x-a}}]", ANYBODY),
                ("Z", "[{header: {name: x-a, string_match: {exact: z}}}]", ANYBODY),
            ],
        )
    };
    vec![
        with_rules("nobody", "{}"),
        with_rules("deny_nobody", "{action: DENY}"),
        listener("no_rules", ""),
        with_rules("order", &a_and_b("ALLOW")),
        with_rules("order_deny", &a_and_b("DENY")),
        with_rules("log", &a_and_b("LOG")),
        listener("log_in_shadow", &format!("shadow_rules: {}", a_and_b("LOG"))),
        listener("shadow", &format!("shadow_rules: {}", a_and_b("DENY"))),
        listener("both", &format!("rules: {}\nshadow_rules: {}", a_and_b("DENY"), a_and_b("ALLOW"))),
        listener(
            "prefixed",
            &format!(
                "rules: {}\nshadow_rules: {}\nrules_stat_prefix: p_\nshadow_rules_stat_prefix: dry.\ntrack_per_rule_stats: true",
                a_and_b("DENY"),
                a_and_b("ALLOW")
            ),
        ),
        listener("counted", &format!("rules: {}\ntrack_per_rule_stats: true", a_and_b("ALLOW"))),
        HttpListener::new("by_route", &routes())
            .filters(&filter(&format!(
                "rules_stat_prefix: p_\nrules: {}",
                may("{url_path: {path: {exact: /yes}}}")
            )))
            .logs(&file_log(LOG)),
        HttpListener::to_up("twice")
            .filters(
                &(filter(&format!("rules: {}", a_and_b("DENY")))
                    + &filter(&format!("rules: {}", a_and_b("LOG"))).replace("rbac\n", "second\n")),
            )
            .logs(&file_log(LOG)),
    ]
}

pub(crate) fn setup() -> Setup {
    let listeners = permissions().into_iter().chain(principals()).chain(actions());
    Setup::new("rbac", listeners.map(|listener| listener.yaml()))
}

/// Behind the router: in a cluster's own chain.
pub(crate) fn upstream_setup() -> Setup {
    let denies = rules("DENY", &[("p", "[{header: {name: x-bad}}]", ANYBODY)]);
    let config = format!("rules: {denies}\nshadow_rules: {}\ntrack_per_rule_stats: true", may("{any: true}"));
    let codec = "- name: codec\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec}\n";
    let own = format!("{H2_CLUSTER}    http_filters:\n{}", indent(&(filter(&config) + codec), 4))
        .replace("http2_protocol_options", "http_protocol_options");
    let log = LOG.replace("envoy.filters.http.rbac:", "envoy.filters.http.upstream_rbac:");
    let listener = HttpListener::new("guarded", "- match: {prefix: /}\n  route: {cluster: guarded}");
    Setup::with_clusters(
        "upstream_rbac",
        [listener.logs(&file_log(&log)).yaml()],
        [cluster("guarded", "up", &own)],
    )
}

pub(crate) fn upstream_cases() -> Vec<Case> {
    vec![
        Case::get("behind the router", "guarded", "/", ""),
        Case::get("behind the router, refused", "guarded", "/", "x-bad: 1\r\n"),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let get = Case::get;
    let mut cases = permission_cases();
    cases.extend([
        get("source address", "source", "/", ""),
        get("direct peer", "direct", "/", "x-forwarded-for: 1.2.3.4\r\n"),
        get("client by x-forwarded-for", "remote", "/", "x-forwarded-for: 1.2.3.4\r\n"),
        get("another client by x-forwarded-for", "remote", "/", "x-forwarded-for: 1.2.4.4\r\n"),
        get("nobody in x-forwarded-for", "remote", "/", ""),
        get("a client with a port", "remote", "/", "x-forwarded-for: 1.2.3.4:80\r\n"),
        get("a client of version 4 in one of 6", "remote", "/", "x-forwarded-for: ::ffff:1.2.3.4\r\n"),
        get("a client of version 4 in one of 6, all of 6", "six", "/", "x-forwarded-for: ::ffff:1.2.3.4\r\n"),
        Case::h2(
            "HTTP/2, x-forwarded-for twice",
            "remote",
            [
                H2Request::get("http://test/")
                    .field("x-forwarded-for", "1.2.3.4")
                    .field("x-forwarded-for", "9.9.9.9"),
                H2Request::get("http://test/")
                    .field("x-forwarded-for", "9.9.9.9")
                    .field("x-forwarded-for", "1.2.3.4"),
            ],
        ),
        Case::h2(
            "HTTP/2, fields of which there is one",
            "joined",
            [
                H2Request::get("http://test/").field("authorization", "a").field("authorization", "b"),
                H2Request::get("http://test/").field("authorization", "a,b"),
                H2Request::get("http://test/")
                    .field("authorization", "b")
                    .field("x-other", "1")
                    .field("x-other", "2"),
            ],
        ),
        Case::send("an empty host", "other_host", "GET / HTTP/1.1\r\nhost:\r\n\r\n"),
        get("the host", "other_host", "/", ""),
        get("an upgrade as it is written", "upgrade", "/", "connection: upgrade\r\nupgrade: WebSocket\r\n")
            .raw("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
        get("an upgrade in lower case", "upgrade", "/", "connection: upgrade\r\nupgrade: websocket\r\n"),
        get("no protocol", "protocol", "/", "connection: upgrade\r\nupgrade: websocket\r\n"),
        get("a policy without a name", "unnamed", "/", "x-role: 1\r\n"),
        get("a policy without a name, no match", "unnamed", "/", ""),
        get("a policy without a name denies", "unnamed_deny", "/", "x-role: 1\r\n"),
        get("a policy without a name denies nothing", "unnamed_deny", "/", ""),
        get("metadata that are absent", "absent_metadata", "/", ""),
        get("no TLS, anybody", "authenticated", "/", ""),
        get("no TLS, a name", "authenticated_as", "/", ""),
        get("principal by header", "who_header", "/", "x-user: ann\r\n"),
        get("principal by header, another", "who_header", "/", "x-user: bob\r\n"),
        get("principal by header, one of two", "who_header", "/", "x-user: bob\r\nx-user: ann\r\n"),
        get("principal by path", "who_path", "/a.txt?b", ""),
        get("principal by path, another", "who_path", "/a?b.txt", ""),
        get("principal by filter state", "who_state", "/", ""),
        get("not this one", "who_not", "/", "x-user: eve\r\n"),
        get("not this one, another", "who_not", "/", "x-user: ann\r\n"),
        get("no policies", "nobody", "/", ""),
        get("no policies to deny", "deny_nobody", "/", ""),
        get("no rules", "no_rules", "/", ""),
        get("first policy by name", "order", "/", "x-a: 1\r\nx-b: 1\r\n"),
    ]);
    cases.extend(action_cases());
    cases
}

fn action_cases() -> Vec<Case> {
    let get = Case::get;
    vec![
        get("upper case before lower case", "order", "/", "x-a: z\r\n"),
        get("second policy", "order", "/", "x-b: 1\r\n"),
        get("no policy", "order", "/", ""),
        get("denied by the first", "order_deny", "/", "x-a: 1\r\nx-b: 1\r\n"),
        get("denied, spaces in the name", "order_deny", "/", "x-b: 1\r\n"),
        get("denied by none", "order_deny", "/", ""),
        get("log", "log", "/", "x-a: 1\r\n"),
        get("log not", "log", "/", ""),
        get("log in the shadow", "log_in_shadow", "/", "x-a: 1\r\n"),
        get("shadow denies", "shadow", "/", "x-b: 1\r\n"),
        get("shadow allows", "shadow", "/", ""),
        get("denied, allowed in the shadow", "both", "/", "x-b: 1\r\n"),
        get("allowed, denied in the shadow", "both", "/", ""),
        get("prefixes, matched", "prefixed", "/", "x-b: 1\r\n"),
        get("prefixes, not matched", "prefixed", "/", ""),
        get("counted by policy", "counted", "/", "x-b: 1\r\n"),
        get("counted by policy, none", "counted", "/", ""),
        get("two filters, refused by the first", "twice", "/", "x-a: 1\r\n"),
        get("two filters", "twice", "/", ""),
        get("a route without configuration", "by_route", "/yes", ""),
        get("no route", "by_route", "/nowhere", ""),
        get("an empty route configuration", "by_route", "/empty", ""),
        get("a route without rules", "by_route", "/no-rules", ""),
        get("a route's rules", "by_route", "/deny", "x-bad: 1\r\n"),
        get("a route's rules, allowed", "by_route", "/deny", ""),
        get("a route's rules, counted", "by_route", "/counted", "x-bad: 1\r\n"),
        get("a route's rules with a prefix", "by_route", "/prefixed", "x-bad: 1\r\n"),
        get("a route's shadow rules", "by_route", "/shadow", "x-bad: 1\r\n"),
        get("metadata of the route", "by_route", "/of-team", ""),
        get("metadata of the route, another", "by_route", "/of-other-team", ""),
        get("off for a route", "by_route", "/off", ""),
        get("a gRPC request", "nobody", "/", "content-type: application/grpc\r\n"),
        Case::send("HEAD", "nobody", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::send(
            "a body that nobody wants",
            "nobody",
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello",
        ),
        Case::h2(
            "HTTP/2, several values",
            "header_deny",
            [
                H2Request::get("http://test/").field("x-role", "user").field("x-role", "admin"),
                H2Request::get("http://test/").field("x-role", "user,admin"),
                H2Request::get("http://test/"),
            ],
        ),
    ]
}

fn permission_cases() -> Vec<Case> {
    let get = Case::get;
    let role = |name, listener, lines| Case::get(name, listener, "/", lines);
    vec![
        role("header", "header", "x-role: admin\r\n"),
        role("header, any case of the name", "header", "X-Role: admin\r\n"),
        role("header, another value", "header", "x-role: Admin\r\n"),
        role("header, missing", "header", ""),
        role("header, several values", "header", "x-role: user\r\nx-role: admin\r\n"),
        role("header, values with a comma", "header", "x-role: user,admin\r\n"),
        role("header, spaces around", "header", "x-role:   admin  \r\n"),
        role("header denied", "header_deny", "x-role: admin\r\n"),
        role("header denied, several values", "header_deny", "x-role: user\r\nx-role: admin\r\n"),
        role("header denied, values with a comma", "header_deny", "x-role: admin, user\r\n"),
        role("header denied, empty before it", "header_deny", "x-role:\r\nx-role: admin\r\n"),
        role("header denied, missing", "header_deny", ""),
        role("header inverted", "header_not", "x-role: user\r\n"),
        role("header inverted, several values", "header_not", "x-role: user\r\nx-role: admin\r\n"),
        role("header inverted, missing", "header_not", ""),
        role("header inverted, missing is empty", "header_not_or_missing", ""),
        role("header present", "header_there", "x-role:\r\n"),
        role("header absent", "header_there", ""),
        role("number in range", "header_range", "x-level: 3\r\n"),
        role("number out of range", "header_range", "x-level: 7\r\n"),
        role("no number", "header_range", "x-level: 3a\r\n"),
        role("method", "method", ""),
        Case::send("another method", "method", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"),
        role("host", "host", ""),
        Case::send("another host", "host", "GET / HTTP/1.1\r\nhost: other\r\n\r\n"),
        get("path", "path", "/a", ""),
        get("path, with a query", "path", "/a?b=c", ""),
        get("path, with a fragment", "path", "/a#b", ""),
        get("path, more of it", "path", "/a/", ""),
        get("path, a parameter", "path", "/a;x", ""),
        get("path, in upper case", "path", "/A", ""),
        get("path, encoded", "path", "/%61", ""),
        get("path prefix in any case", "path_prefix", "/A/b", ""),
        get("path prefix, another", "path_prefix", "/ab", ""),
        get("path denied", "path_deny", "/admin", ""),
        get("path denied, with dots", "path_deny", "/x/../admin", ""),
        get("path denied, twice a slash", "path_deny", "//admin", ""),
        get("path denied, encoded", "path_deny", "/%61dmin", ""),
        get("path without its parameters", "parameters", "/admin;a", ""),
        get("path without parameters inside", "parameters", "/admin;a/x", ""),
        get("path without its parameters, more of it", "parameters", "/admin/;a", ""),
        get("path normal, with dots", "path_normal", "/x/../admin", ""),
        get("path normal, encoded dots", "path_normal", "/x/%2e%2e/admin", ""),
        get("path normal, twice a slash", "path_normal", "//admin", ""),
        get("path normal, encoded", "path_normal", "/%61dmin", ""),
        get("path normal, backslash", "path_normal", "/x\\..\\admin", ""),
        get("path with query as header", "path_of_header", "/a?b=c", ""),
        get("path without query as header", "path_of_header", "/a", ""),
        get("one of many paths", "paths", "/many/7?x", ""),
        get("none of many paths", "paths", "/many/20", ""),
        get("template", "template", "/v1/a/b?c/d", ""),
        get("template, another", "template", "/v1/a", ""),
        get("own address", "here", "/", ""),
        get("another address", "elsewhere", "/", ""),
        get("another port", "port", "/", ""),
        get("port in range", "ports", "/", ""),
        get("no server name", "no_name", "/", ""),
        get("a server name", "named", "/", ""),
        get("no metadata, inverted", "metadata", "/", ""),
        get("no metadata", "sourced", "/", ""),
        get("all of two", "all", "/", "x-role: 1\r\n"),
        get("not all of two", "all", "/secret", "x-role: 1\r\n"),
    ]
}

const TCP_LOG: &str = "log_format: {text_format_source: {inline_string: \"flags=%RESPONSE_FLAGS%\
|termination=%CONNECTION_TERMINATION_DETAILS%|rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%|reason=%DOWNSTREAM_LOCAL_CLOSE_REASON%\
|result=%DYNAMIC_METADATA(envoy.filters.network.rbac:enforced_engine_result)%\
|shadow=%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)%\
|shadow-policy=%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)%\
|p-shadow=%DYNAMIC_METADATA(envoy.filters.network.rbac:dry_shadow_engine_result)%\
|hint=%DYNAMIC_METADATA(envoy.common:access_log_hint)%\\n\"}}";

fn network_filter(name: &str, config: &str) -> String {
    format!(
        "- name: rbac\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC\n    stat_prefix: tcp.{name}\n{}",
        indent(config, 4)
    )
}

pub(crate) fn network(name: &str, config: &str) -> String {
    network_to(name, config, "cluster: echo")
}

fn network_to(name: &str, config: &str, proxy: &str) -> String {
    let logs = format!("access_log:\n{}", file_log(TCP_LOG));
    listener_with_filters(name, &(network_filter(name, config) + &tcp_proxy_with_logs(name, &logs, proxy)))
}

/// Before the connection manager.
fn network_before_http(name: &str, config: &str) -> String {
    let filters = format!("  - filters:\n{}", indent(&network_filter(name, config), 4));
    HttpListener::to_up(name).yaml().replace("  - filters:\n", &filters)
}

fn terminal(name: &str, message: &str) -> String {
    format!(
        "- name: {name}\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.{message}}}\n"
    )
}

pub(crate) fn network_setup() -> Setup {
    let rules = |name: &str, rules: &str| network(name, &format!("rules: {rules}"));
    let by_port = |action, port: &str| {
        self::rules(action, &[("by port", &format!("[{{destination_port_range: {port}}}]"), ANYBODY)])
    };
    let (all, none) = ("{start: 1, end: 65536}", "{start: 1, end: 2}");
    Setup::new(
        "network_rbac",
        [
            rules("allowed", &by_port("ALLOW", all)),
            rules("allowed_to_none", &by_port("ALLOW", none)),
            rules("denied", &by_port("DENY", all)),
            rules("denied_to_none", &by_port("DENY", none)),
            rules("logged", &by_port("LOG", all)),
            rules("path", &may("{url_path: {path: {prefix: /}}}")),
            rules("not_path", &may("{not_rule: {url_path: {path: {prefix: /}}}}")),
            rules("source", &who("{direct_remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}")),
            rules("remote", &who("{remote_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}")),
            rules("no_name", &may("{requested_server_name: {exact: \"\"}}")),
            rules("authenticated", &who("{authenticated: {}}")),
            network("shadow", &format!("shadow_rules: {}", by_port("DENY", all))),
            network(
                "shadow_prefix",
                &format!("shadow_rules: {}\nshadow_rules_stat_prefix: dry_", by_port("DENY", none)),
            ),
            network("continuous", &format!("rules: {}\nenforcement_type: CONTINUOUS", by_port("DENY", all))),
            network("delayed", &format!("rules: {}\ndelay_deny: 0.1s", by_port("DENY", all))),
            network("no_rules", ""),
            network(
                "continuous_to_all",
                &format!("rules: {}\nenforcement_type: CONTINUOUS", by_port("ALLOW", all)),
            ),
            network("delayed_later", &format!("rules: {}\ndelay_deny: 0.3s", by_port("DENY", all))),
            network_to("refused_host", &format!("rules: {}", by_port("DENY", all)), "cluster: refused"),
            network_to("slow_host", &format!("rules: {}", by_port("DENY", all)), "cluster: blackhole"),
            network_to(
                "idle",
                &format!("rules: {}", by_port("DENY", all)),
                "cluster: echo\nidle_timeout: 0.15s",
            ),
            listener_with_filters(
                "twice",
                &(network_filter("twice", &format!("rules: {}", by_port("ALLOW", all)))
                    + &network_filter("twice_again", &format!("rules: {}", by_port("DENY", all)))
                    + &tcp_proxy_with_logs("twice", "", "cluster: echo")),
            ),
            listener_with_filters(
                "answered",
                &(network_filter("answered", &format!("rules: {}", by_port("DENY", all)))
                    + &terminal("direct", "direct_response.v3.Config, response: {inline_string: hello}")),
            ),
            listener_with_filters(
                "echoed",
                &(network_filter("echoed", &format!("rules: {}", by_port("ALLOW", all)))
                    + &terminal("echo", "echo.v3.Echo")),
            ),
            listener_with_filters(
                "echoed_not",
                &(network_filter("echoed_not", &format!("rules: {}", by_port("DENY", all)))
                    + &terminal("echo", "echo.v3.Echo")),
            ),
            network_before_http("http", &format!("rules: {}", by_port("ALLOW", all))),
            network_before_http(
                "http_continuous",
                &format!("rules: {}\nenforcement_type: CONTINUOUS", by_port("ALLOW", all)),
            ),
            network_before_http("http_not", &format!("rules: {}", by_port("DENY", all))),
            network_before_http(
                "http_delayed",
                &format!("rules: {}\ndelay_deny: 0.1s", by_port("DENY", all)),
            ),
            network_before_http("http_shadow", &format!("shadow_rules: {}", by_port("DENY", all))),
        ],
    )
}

/// A client that says something and gets it back, or is refused.
pub(crate) fn network_case(name: &'static str, listener: &'static str, is_allowed: bool) -> Case {
    let hello = Do::Send(b"hello".to_vec());
    if is_allowed {
        return Case::steps(name, listener, [hello, Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(1);
    }
    Case::steps(name, listener, [hello, Do::AwaitEnd]).tcp(1)
}

pub(crate) fn network_cases() -> Vec<Case> {
    let passes = |name, listener| network_case(name, listener, true);
    let refused = |name, listener| network_case(name, listener, false);
    vec![
        passes("allowed by a policy", "allowed"),
        refused("allowed by no policy", "allowed_to_none"),
        refused("denied by a policy", "denied"),
        passes("denied by no policy", "denied_to_none"),
        passes("connection logged", "logged"),
        refused("a connection has no path", "path"),
        passes("a connection has no path, inverted", "not_path"),
        passes("direct peer of the connection", "source"),
        refused("client of the connection", "remote"),
        passes("no server name of the connection", "no_name"),
        refused("no TLS of the connection", "authenticated"),
        passes("connection denied in the shadow", "shadow"),
        passes("connection allowed in the shadow, prefix", "shadow_prefix"),
        refused("continuous enforcement", "continuous"),
        refused("connection denied after a delay", "delayed"),
        passes("connection without rules", "no_rules"),
    ]
    .into_iter()
    .chain(first_bytes())
    .collect()
}

/// When the decision falls.
fn first_bytes() -> Vec<Case> {
    let send = |text: &str| Do::Send(text.as_bytes().to_vec());
    let tcp = |name, listener, steps: Vec<Do>, lines| Case::steps(name, listener, steps).tcp(lines);
    let twice =
        || vec![send("hello"), Do::Bytes(5), send("again"), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd];
    let get = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    vec![
        tcp("decided once", "allowed", twice(), 1),
        tcp("decided again and again", "continuous_to_all", twice(), 1),
        tcp("nothing but an end, allowed", "allowed", vec![Do::HalfClose, Do::AwaitEnd], 1),
        tcp("nothing but an end, refused", "denied", vec![Do::HalfClose, Do::AwaitEnd], 1),
        tcp("nothing but an end, again and again", "continuous_to_all", vec![Do::HalfClose, Do::AwaitEnd], 1),
        tcp("silence is not decided about", "idle", vec![Do::AwaitEnd], 1),
        tcp(
            "more while the refusal waits",
            "delayed_later",
            vec![send("a"), send("b"), Do::HalfClose, Do::AwaitEnd],
            1,
        )
        .varies("log[0].rx", "What comes after the first bytes may come with them."),
        tcp("a host that refuses comes first", "refused_host", vec![send("hello"), Do::AwaitEnd], 1),
        tcp("a host that does not answer comes first", "slow_host", vec![send("hello"), Do::AwaitEnd], 1),
        tcp("the second filter refuses", "twice", vec![send("hello"), Do::AwaitEnd], 0),
        tcp("what speaks first is heard", "answered", vec![Do::AwaitEnd], 0),
        tcp("before an echo", "echoed", twice(), 0),
        tcp("before an echo, refused", "echoed_not", vec![send("hello"), Do::AwaitEnd], 0),
        tcp("before an echo, nothing but an end", "echoed_not", vec![Do::HalfClose, Do::AwaitEnd], 0),
        Case::get("before HTTP", "http", "/", ""),
        Case::get("before HTTP, in the shadow", "http_shadow", "/", ""),
        Case::steps(
            "before HTTP, two requests",
            "http_continuous",
            [send(get), Do::Response("GET"), send(get), Do::Response("GET"), Do::HalfClose, Do::AwaitEnd],
        ),
        tcp("before HTTP, refused", "http_not", vec![send(get), Do::AwaitEnd], 0),
        tcp("before HTTP, refused later", "http_delayed", vec![send(get), Do::AwaitEnd], 0),
        tcp("before HTTP, nothing but an end", "http_not", vec![Do::HalfClose, Do::AwaitEnd], 0),
    ]
}
