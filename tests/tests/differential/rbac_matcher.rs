//! Access control by the matching API: trees in place of policies.

use integration::config::{HttpListener, file_log};
use integration::differential::{Case, H2Request, Setup};

use crate::rbac::{LOG, filter, network, network_case};

/// An action that is reached.
fn then(action: &str, name: &str) -> String {
    format!(
        "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: \"{name}\", action: {action}}}}}}}"
    )
}

pub(crate) fn input(message: &str) -> String {
    format!("{{name: i, typed_config: {{\"@type\": type.googleapis.com/{message}}}}}")
}

pub(crate) fn header(name: &str) -> String {
    input(&format!("envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: \"{name}\""))
}

pub(crate) fn network_input(name: &str) -> String {
    input(&format!("envoy.extensions.matching.common_inputs.network.v3.{name}"))
}

pub(crate) fn ssl_input(name: &str) -> String {
    input(&format!("envoy.extensions.matching.common_inputs.ssl.v3.{name}"))
}

pub(crate) fn is(input: &str, value: &str) -> String {
    format!("{{single_predicate: {{input: {input}, value_match: {value}}}}}")
}

pub(crate) fn custom(input: &str, matcher: &str) -> String {
    format!("{{single_predicate: {{input: {input}, custom_match: {{name: m, typed_config: {matcher}}}}}}}")
}

/// A list of matchers.
pub(crate) fn list(matchers: &[(String, String)]) -> String {
    let matchers: Vec<String> = matchers
        .iter()
        .map(|(predicate, on_match)| format!("{{predicate: {predicate}, on_match: {on_match}}}"))
        .collect();
    format!("matcher_list: {{matchers: [{}]}}", matchers.join(", "))
}

pub(crate) fn map(kind: &str, input: &str, entries: &[(&str, String)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, to)| format!("\"{key}\": {to}")).collect();
    format!("matcher_tree: {{input: {input}, {kind}: {{map: {{{}}}}}}}", entries.join(", "))
}

pub(crate) fn custom_tree(input: &str, matcher: &str) -> String {
    format!("matcher_tree: {{input: {input}, custom_match: {{name: m, typed_config: {matcher}}}}}")
}

pub(crate) fn tree(matcher: &str) -> String {
    format!("{{matcher: {{{matcher}}}}}")
}

pub(crate) fn otherwise(matcher: &str, to: &str) -> String {
    format!("{matcher}, on_no_match: {to}")
}

fn allow(name: &str) -> String {
    then("ALLOW", name)
}

fn deny(name: &str) -> String {
    then("DENY", name)
}

fn listener(name: &str, config: &str) -> HttpListener {
    HttpListener::to_up(name).filters(&filter(config)).logs(&file_log(LOG))
}

fn by(name: &str, matcher: &str) -> HttpListener {
    listener(name, &format!("matcher: {{{matcher}}}"))
}

pub(crate) fn ranges(list: &[(&str, &str, String)]) -> String {
    let ranges: Vec<String> = list
        .iter()
        .map(|(ranges, options, to)| format!("{{ranges: [{ranges}], on_match: {to}{options}}}"))
        .collect();
    format!(
        "{{\"@type\": type.googleapis.com/xds.type.matcher.v3.IPMatcher, range_matchers: [{}]}}",
        ranges.join(", ")
    )
}

pub(crate) fn domains(list: &[(&str, String)]) -> String {
    let domains: Vec<String> =
        list.iter().map(|(domains, to)| format!("{{domains: [{domains}], on_match: {to}}}")).collect();
    format!(
        "{{\"@type\": type.googleapis.com/xds.type.matcher.v3.ServerNameMatcher, domain_matchers: [{}]}}",
        domains.join(", ")
    )
}

fn lists() -> Vec<HttpListener> {
    let role = |value: &str| is(&header("x-role"), value);
    let ip = "{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: ip, \
              cidr_ranges: [{address_prefix: 1.2.3.0, prefix_len: 24}]}";
    vec![
        by(
            "list",
            &list(&[
                (role("{exact: admin}"), allow("admins")),
                (role("{prefix: a}"), deny("a's")),
                (role("{suffix: z, ignore_case: true}"), allow("z's")),
                (role("{safe_regex: {google_re2: {}, regex: \"b+\"}}"), allow("b's")),
                (role("{contains: \",\"}"), allow("several")),
            ]),
        ),
        by(
            "predicates",
            &list(&[(
                format!(
                    "{{or_matcher: {{predicate: [{}, {{and_matcher: {{predicate: [{}, {{not_matcher: {}}}]}}}}]}}}}",
                    role("{exact: admin}"),
                    is(&header(":method"), "{exact: GET}"),
                    is(&header(":path"), "{prefix: /private}")
                ),
                allow("p"),
            )]),
        ),
        by(
            "nested",
            &otherwise(
                &list(&[
                    (
                        role("{prefix: a}"),
                        tree(&list(&[(is(&header("x-level"), "{exact: \"1\"}"), allow("first level"))])),
                    ),
                    (role("{exact: ann}"), allow("ann")),
                ]),
                &allow("no match"),
            ),
        ),
        by(
            "logged",
            &list(&[
                (role("{exact: log}"), then("LOG", "logged")),
                (role("{exact: pass}"), allow("passed")),
                (role("{exact: stop}"), deny("stopped")),
            ]),
        ),
        by("ip", &list(&[(custom(&header("x-ip"), ip), allow("near"))])),
        by(
            "port",
            &list(&[(
                is(
                    &network_input("SourcePortInput"),
                    "{safe_regex: {google_re2: {}, regex: \"[1-9][0-9]*\"}}",
                ),
                allow("port"),
            )]),
        ),
        by(
            "state",
            &otherwise(
                &list(&[(is(&network_input("FilterStateInput, key: nothing"), "{exact: a}"), allow("a"))]),
                &deny("no state"),
            ),
        ),
        by(
            "no_name",
            &otherwise(
                &list(&[(is(&network_input("ServerNameInput"), "{exact: \"\"}"), allow("empty"))]),
                &allow("none"),
            ),
        ),
    ]
}

/// What is asked of certificates without TLS.
fn unknown() -> Vec<HttpListener> {
    let role = |value: &str| is(&header("x-role"), value);
    vec![
        by(
            "no_tls",
            &otherwise(
                &list(&[(is(&ssl_input("UriSanInput"), "{prefix: spiffe}"), allow("tls"))]),
                &allow("none"),
            ),
        ),
        by(
            "no_tls_or",
            &otherwise(
                &list(&[(
                    format!(
                        "{{or_matcher: {{predicate: [{}, {}]}}}}",
                        is(&ssl_input("SubjectInput"), "{prefix: CN}"),
                        role("{exact: admin}")
                    ),
                    allow("either"),
                )]),
                &allow("none"),
            ),
        ),
        by(
            "no_tls_and",
            &otherwise(
                &list(&[(
                    format!(
                        "{{and_matcher: {{predicate: [{}, {}]}}}}",
                        role("{exact: admin}"),
                        is(&ssl_input("DnsSanInput"), "{prefix: a}")
                    ),
                    allow("both"),
                )]),
                &allow("none"),
            ),
        ),
    ]
}

fn trees() -> Vec<HttpListener> {
    let source = |name| network_input(name);
    let by_range = ranges(&[
        ("{address_prefix: 1.0.0.0, prefix_len: 8}", "", deny("eight")),
        (
            "{address_prefix: 1.2.0.0, prefix_len: 16}, {address_prefix: 9.9.9.9, prefix_len: 32}",
            "",
            tree(&map("exact_match_map", &header("x-role"), &[("admin", allow("sixteen"))])),
        ),
        ("{address_prefix: 1.2.3.4, prefix_len: 32}", ", exclusive: true", allow("alone")),
        ("{address_prefix: 2.0.0.0, prefix_len: 8}", ", exclusive: true", allow("exclusive")),
        (
            "{address_prefix: 2.2.0.0, prefix_len: 16}",
            "",
            tree(&map("exact_match_map", &header("x-role"), &[("admin", allow("tree"))])),
        ),
    ]);
    vec![
        by(
            "exact",
            &otherwise(
                &map(
                    "exact_match_map",
                    &header("x-user"),
                    &[("ann", allow("ann")), ("eve", deny("eve")), ("bob", tree(&map("exact_match_map", &header("x-role"), &[("admin", allow("bob"))])))],
                ),
                &allow("others"),
            ),
        ),
        by(
            "prefix",
            &map(
                "prefix_match_map",
                &header(":path"),
                &[
                    ("/a", allow("a")),
                    ("/a/b", deny("a/b")),
                    ("/a/b/c", tree(&map("exact_match_map", &header("x-user"), &[("ann", allow("a/b/c"))]))),
                ],
            ),
        ),
        by("range", &otherwise(&custom_tree(&source("SourceIPInput"), &by_range), &deny("no range")))
            .options("use_remote_address: true\nxff_num_trusted_hops: 1"),
        by("direct", &custom_tree(&source("DirectSourceIPInput"), &ranges(&[("{address_prefix: 127.0.0.0, prefix_len: 8}", "", allow("loopback"))])))
            .options("use_remote_address: true\nxff_num_trusted_hops: 1"),
        by("destination", &map("exact_match_map", &source("DestinationIPInput"), &[("127.0.0.1", allow("here"))])),
        by(
            "domain",
            &otherwise(
                &custom_tree(
                    &header(":authority"),
                    &domains(&[
                        ("a.test", tree(&map("exact_match_map", &header("x-role"), &[("admin", allow("tree"))]))),
                        ("\"*.test\"", allow("test")),
                        ("\"*.b.test\"", deny("b.test")),
                        ("\"*\"", deny("any")),
                    ]),
                ),
                &allow("none"),
            ),
        ),
        by("empty", ""),
        by("only_no_match", &format!("on_no_match: {}", allow("all"))),
        listener(
            "in_place_of_rules",
            &format!("rules: {{action: DENY}}\nmatcher: {{on_no_match: {}}}", deny("matcher")),
        ),
        listener("in_shadow", &format!("shadow_matcher: {{on_no_match: {}}}", deny("shadow"))),
        listener("logged_in_shadow", &format!("shadow_matcher: {{on_no_match: {}}}", then("LOG", "shadow"))),
        listener("prefixed", &format!("rules_stat_prefix: p_\ntrack_per_rule_stats: true\nmatcher: {{on_no_match: {}}}", allow("of all"))),
        HttpListener::to_up("by_metadata").filters(&(filter(&format!("shadow_matcher: {{{}}}", map("exact_match_map", &header("x-user"), &[("ann", allow("ann")), ("eve", deny("eve"))]))) + &filter(&format!("matcher: {{{}}}", list(&[(custom(
            &input("envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput, filter: envoy.filters.http.rbac, path: [{key: shadow_effective_policy_id}]"),
            "{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata, value: {string_match: {exact: ann}}}",
        ), allow("told"))]))).replace("rbac\n", "second\n"))).logs(&file_log(LOG)),
        HttpListener::to_up("by_metadata_rule").filters(&(filter(&format!("shadow_matcher: {{{}}}", map("exact_match_map", &header("x-user"), &[("ann", allow("ann"))]))) + &filter("rules: {policies: {told: {permissions: [{any: true}], principals: [{sourced_metadata: {metadata_matcher: {filter: envoy.filters.http.rbac, path: [{key: shadow_effective_policy_id}], value: {string_match: {prefix: an}}}}}]}}}").replace("rbac\n", "second\n"))).logs(&file_log(LOG)),
    ]
}

pub(crate) fn setup() -> Setup {
    let listeners = lists().into_iter().chain(unknown()).chain(trees());
    Setup::new("rbac_matcher", listeners.map(|listener| listener.yaml()))
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, lines: &str| Case::get(name, listener, "/", lines);
    let path = |name, target| Case::get(name, "prefix", target, "");
    let from = |name, listener, address: &str, more: &str| {
        Case::get(name, listener, "/", &format!("x-forwarded-for: {address}\r\n{more}"))
    };
    let host =
        |name, host: &str| Case::send(name, "domain", format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    vec![
        get("list, first", "list", "x-role: admin\r\n"),
        get("list, second", "list", "x-role: ann\r\n"),
        get("list, any case", "list", "x-role: bZ\r\n"),
        get("list, expression", "list", "x-role: bbb\r\n"),
        get("list, several values", "list", "x-role: c\r\nx-role: d\r\n"),
        get("list, several values, the second fits", "list", "x-role: c\r\nx-role: admin\r\n"),
        get("list, none", "list", "x-role: c\r\n"),
        get("list, missing", "list", ""),
        get("predicates, first", "predicates", "x-role: admin\r\n"),
        get("predicates, second", "predicates", ""),
        Case::get("predicates, not", "predicates", "/private", ""),
        Case::h2(
            "predicates, HTTP/2",
            "predicates",
            [
                H2Request::get("http://test/private").field("x-role", "admin"),
                H2Request::get("http://test/private"),
            ],
        ),
        get("nested, found", "nested", "x-role: admin\r\nx-level: 1\r\n"),
        get("nested, not found, the next", "nested", "x-role: ann\r\n"),
        get("nested, not found", "nested", "x-role: admin\r\n"),
        get("matcher logs", "logged", "x-role: log\r\n"),
        get("matcher does not log", "logged", "x-role: pass\r\n"),
        get("matcher denies, does not log", "logged", "x-role: stop\r\n"),
        get("matcher has no match, does not log", "logged", ""),
        get("address in a header", "ip", "x-ip: 1.2.3.4\r\n"),
        get("another address in a header", "ip", "x-ip: 1.2.4.4\r\n"),
        get("no address in a header", "ip", "x-ip: here\r\n"),
        get("a port as text", "port", ""),
        get("no filter state to match", "state", ""),
        get("no server name to match", "no_name", ""),
        get("a name of TLS without TLS", "no_tls", ""),
        get("either, one cannot be known", "no_tls_or", "x-role: admin\r\n"),
        get("either, one cannot be known, the other is not", "no_tls_or", ""),
        get("both, one cannot be known", "no_tls_and", "x-role: admin\r\n"),
        get("both, one cannot be known, the other is not", "no_tls_and", ""),
        get("map, allowed", "exact", "x-user: ann\r\n"),
        get("map, denied", "exact", "x-user: eve\r\n"),
        get("map, another", "exact", "x-user: joe\r\n"),
        get("map, missing", "exact", ""),
        get("map, nested", "exact", "x-user: bob\r\nx-role: admin\r\n"),
        get("map, nested, not found", "exact", "x-user: bob\r\n"),
        path("prefix, none", "/"),
        path("prefix, short", "/a/x"),
        path("prefix, longer", "/a/b/x"),
        path("prefix, longest finds nothing", "/a/b/c"),
        Case::get("prefix, longest", "prefix", "/a/b/c", "x-user: ann\r\n"),
        from("range, the shortest", "range", "1.3.0.0", ""),
        from("range, longer", "range", "1.2.9.9", "x-role: admin\r\n"),
        from("range, longer finds nothing", "range", "1.2.9.9", ""),
        from("range, alone", "range", "1.2.3.4", "x-role: admin\r\n"),
        from("range, another of the same", "range", "9.9.9.9", "x-role: admin\r\n"),
        from("range, exclusive is not the best", "range", "2.2.2.2", ""),
        from("range, exclusive is the best", "range", "2.1.2.2", ""),
        from("range, none", "range", "3.3.3.3", ""),
        from("the peer itself", "direct", "1.2.3.4", ""),
        get("where it connected to", "destination", ""),
        host("domain, exact finds nothing", "a.test"),
        host("domain, wildcard", "c.test"),
        host("domain, longer wildcard", "x.b.test"),
        host("domain, deep", "x.y.test"),
        host("domain, any", "x.org"),
        get("an empty matcher", "empty", ""),
        get("nothing but no match", "only_no_match", ""),
        get("a matcher in place of rules", "in_place_of_rules", ""),
        get("a matcher in the shadow", "in_shadow", ""),
        get("a matcher in the shadow, logging", "logged_in_shadow", ""),
        get("a matcher with a prefix", "prefixed", ""),
        get("metadata matched", "by_metadata", "x-user: ann\r\n"),
        get("metadata not matched", "by_metadata", "x-user: eve\r\n"),
        get("no metadata to match", "by_metadata", ""),
        get("metadata matched by a rule", "by_metadata_rule", "x-user: ann\r\n"),
        get("metadata not matched by a rule", "by_metadata_rule", ""),
    ]
}

pub(crate) fn network_setup() -> Setup {
    let by = |name: &str, matcher: &str| network(name, &format!("matcher: {{{matcher}}}"));
    let state = network_input("FilterStateInput, key: nothing");
    Setup::new(
        "network_rbac_matcher",
        [
            by(
                "range",
                &custom_tree(
                    &network_input("SourceIPInput"),
                    &ranges(&[("{address_prefix: 127.0.0.0, prefix_len: 8}", "", allow("loopback"))]),
                ),
            ),
            by(
                "elsewhere",
                &map("exact_match_map", &network_input("DestinationIPInput"), &[("10.0.0.1", allow("a"))]),
            ),
            by("state", &otherwise(&list(&[(is(&state, "{exact: a}"), allow("a"))]), &deny("no state"))),
            by(
                "no_tls",
                &otherwise(
                    &list(&[(is(&ssl_input("UriSanInput"), "{exact: a}"), allow("a"))]),
                    &allow("none"),
                ),
            ),
            by("logged", &format!("on_no_match: {}", then("LOG", "all"))),
            network("shadow", &format!("shadow_matcher: {{on_no_match: {}}}", deny("all"))),
        ],
    )
}

pub(crate) fn network_cases() -> Vec<Case> {
    vec![
        network_case("connection in a range", "range", true),
        network_case("connection to another address", "elsewhere", false),
        network_case("no filter state of the connection", "state", false),
        network_case("a name of TLS without TLS, connection", "no_tls", false),
        network_case("matcher logs a connection", "logged", true),
        network_case("matcher in the shadow of a connection", "shadow", true),
    ]
}
