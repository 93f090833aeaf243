//! Redirects of hosts that the proxy follows itself: which, how often, with what, and what is counted.

use std::time::Duration;

use integration::config::{HttpListener, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /plain}
  name: plain
  route: {cluster: up}
- match: {prefix: /follow}
  name: follow
  route: {cluster: up, internal_redirect_policy: {}}
- match: {prefix: /old}
  name: old
  route: {cluster: up, internal_redirect_action: HANDLE_INTERNAL_REDIRECT, max_internal_redirects: 2}
- match: {prefix: /many}
  name: many
  route: {cluster: up, internal_redirect_policy: {max_internal_redirects: 3, redirect_response_codes: [301, 302, 303, 307, 308]}}
- match: {prefix: /none}
  name: none
  route: {cluster: up, internal_redirect_policy: {max_internal_redirects: 0}}
- match: {prefix: /odd}
  name: odd
  route: {cluster: up, internal_redirect_policy: {redirect_response_codes: [304, 300]}}
- match: {prefix: /cross}
  name: cross
  route: {cluster: up, internal_redirect_policy: {allow_cross_scheme_redirect: true}}
- match: {prefix: /safe}
  name: safe
  route: {cluster: up, internal_redirect_policy: {allow_cross_scheme_redirect: true, predicates: [{name: s, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig}}]}}
- match: {prefix: /listed}
  name: listed
  route: {cluster: up, internal_redirect_policy: {max_internal_redirects: 5, predicates: [{name: l, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig, allowed_route_names: [follow, listed]}}]}}
- match: {prefix: /previous}
  name: previous
  route: {cluster: up, internal_redirect_policy: {max_internal_redirects: 5, predicates: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig}}]}}
- match: {prefix: /absent}
  name: absent
  route: {cluster: up, internal_redirect_policy: {predicates: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig, redirect_enabled_key: nothing}}]}}
- match: {prefix: /if-absent}
  name: if-absent
  route: {cluster: up, internal_redirect_policy: {predicates: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig, redirect_enabled_key: nothing, redirect_if_absent: true}}]}}
- match: {prefix: /allowed}
  name: allowed
  route: {cluster: up, internal_redirect_policy: {max_internal_redirects: 2, predicates: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig, redirect_enabled_key: may}}]}}
- match: {prefix: /text}
  name: text
  route: {cluster: up, internal_redirect_policy: {predicates: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig, redirect_enabled_key: text, redirect_if_absent: true}}]}}
- match: {prefix: /copies}
  name: copies
  route: {cluster: up, internal_redirect_policy: {response_headers_to_copy: [x-one, x-two, X-Three]}}
- match: {prefix: /small}
  name: small
  route: {cluster: up, internal_redirect_policy: {redirect_response_codes: [302, 307]}}
  request_body_buffer_limit: 8
- match: {prefix: /again}
  name: again
  route: {cluster: up, internal_redirect_policy: {redirect_response_codes: [302, 307]}, retry_policy: {retry_on: 5xx}}
- match: {prefix: /retried}
  name: retried
  route: {cluster: up, internal_redirect_policy: {}, retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [302]}}
- match: {prefix: /rewritten}
  name: rewritten
  route: {cluster: up, prefix_rewrite: /new, host_rewrite_literal: other, internal_redirect_policy: {}}
  request_headers_to_add: [{header: {key: x-added, value: first}}]
  response_headers_to_add: [{header: {key: x-response, value: first}}]
- match: {prefix: /counted}
  name: counted
  stat_prefix: counted
  route: {cluster: up, internal_redirect_policy: {}}
- match: {prefix: /h2}
  name: h2
  route: {cluster: h2up, internal_redirect_policy: {redirect_response_codes: [302, 307]}}
- match: {prefix: /direct}
  name: direct
  direct_response: {status: 200, body: {inline_string: direct}}
- match: {prefix: /upgrade}
  name: upgrade
  route: {cluster: up, internal_redirect_policy: {}, upgrade_configs: [{upgrade_type: websocket}]}
- match: {path: /shown}
  name: shown
  route: {cluster: up}
  response_headers_to_add: [{header: {key: x-state, value: "%FILTER_STATE(num_internal_redirects:PLAIN)% %FILTER_STATE(may:PLAIN)%"}}]
- match: {path: /target}
  name: target
  route: {cluster: up}
  request_headers_to_add: [{header: {key: x-target, value: "1"}}]
"#;

/// Filters that say by header whether redirects may be followed.
const STATE: &str = r#"
- name: envoy.filters.http.set_filter_state
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
    on_request_headers:
    - {object_key: may, factory_key: envoy.bool, format_string: {text_format_source: {inline_string: "%REQ(x-may)%"}}, skip_if_empty: true}
    - {object_key: text, factory_key: envoy.string, format_string: {text_format_source: {inline_string: "true"}}}
"#;

fn listener(name: &str, options: &str, domains: &str) -> String {
    let routes = indent(ROUTES.trim_start_matches('\n'), 2);
    let hosts = format!("- name: all\n  domains: {domains}\n  routes:\n{routes}");
    HttpListener::with_virtual_hosts(name, &hosts).options(options).yaml()
}

fn listener_with(name: &str, filters: &str) -> String {
    let routes = indent(ROUTES.trim_start_matches('\n'), 2);
    let hosts = format!("- name: all\n  domains: [\"*\"]\n  routes:\n{routes}");
    HttpListener::with_virtual_hosts(name, &hosts).filters(filters.trim_start_matches('\n')).yaml()
}

pub(crate) fn setup() -> Setup {
    Setup::new(
        "redirects",
        [
            listener("plain", "", r#"["*"]"#),
            listener("named", "", r#"["test"]"#),
            listener_with("state", STATE),
            listener(
                "edge",
                "use_remote_address: true\nnormalize_path: true\nmerge_slashes: true",
                r#"["*"]"#,
            ),
            listener("trusting", "xff_num_trusted_hops: 0\nstrip_any_host_port: true", r#"["*"]"#),
        ],
    )
}

/// A redirect, after which the host ends the connection: in Envoy it would not be free when the request begins anew.
fn to(status: &str, location: &str) -> Reply {
    Reply::raw_then_close(format!(
        "HTTP/1.1 {status} X\r\nlocation: {location}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    ))
}

fn found(location: &str) -> Reply {
    to("302", location)
}

fn get(name: &'static str, target: &str) -> Case {
    Case::get(name, "plain", target, "")
}

fn post(name: &'static str, listener: &'static str, target: &str, body: &str) -> Case {
    let length = body.len();
    Case::send(
        name,
        listener,
        format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"),
    )
}

/// Why a connection less is needed.
const FREE: &str = "The host's connection is back in its pool before the request begins anew.";

/// Why the log says the route and the cluster that answered.
const ANSWERED: &str = "A redirect that is not followed leaves the request with its route; Envoy logs the target's, if there is one.";

/// Why a redirect counts as one without a location.
const STRICT: &str = "A URL of another scheme than http and https is none to go to.";

const TARGET: &str = "http://elsewhere/target?a=b";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        get("no policy", "/plain").reply(found(TARGET)),
        get("followed", "/follow?x").reply(found(TARGET)),
        get("followed with a body that nobody gets", "/follow").reply(Reply::raw(format!(
            "HTTP/1.1 302 X\r\nlocation: {TARGET}\r\ncontent-length: 5\r\n\r\nhello"
        ))),
        get("another status", "/follow").reply(to("301", TARGET)),
        get("a status that is none of a redirect", "/odd").reply(to("304", TARGET)),
        get("no status that is one of a redirect", "/odd").reply(found(TARGET)),
        get("twice where one may be", "/follow").reply(found("http://a/follow")).reply(found(TARGET)),
        get("to a route that follows none", "/follow").reply(found("http://a/plain")).reply(found(TARGET)),
        get("three", "/many")
            .reply(to("301", "http://a/many"))
            .reply(to("307", "http://b/many"))
            .reply(to("308", TARGET)),
        get("four where three may be", "/many")
            .reply(to("301", "http://a/many"))
            .reply(to("307", "http://b/many"))
            .reply(to("308", "http://c/many"))
            .reply(found(TARGET)),
        get("none may be", "/none").reply(found(TARGET)),
        get("the old way to say it", "/old").reply(found("http://a/old")).reply(found(TARGET)),
        get("to a direct response", "/follow").reply(found("http://a/direct")),
        get("to where there is no route, by path", "/follow")
            .reply(found("http://a/nowhere"))
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        Case::get("to where there is no route, by host", "named", "/follow", "")
            .reply(found(TARGET))
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        Case::send("HEAD", "plain", "HEAD /follow HTTP/1.1\r\nhost: test\r\n\r\n").reply(found(TARGET)),
        get("state is shown", "/follow").reply(found("http://a/shown")),
        get("statistics of the route", "/counted").reply(found(TARGET)),
        get("two requests on a connection", "/follow").reply(found(TARGET)).reply(Reply::ok()),
        Case::send(
            "pipelined requests",
            "plain",
            "GET /follow HTTP/1.1\r\nhost: test\r\n\r\nGET /plain HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .and_response("GET")
        .reply(found(TARGET)),
        get("connection that stays", "/follow")
            .raw(format!("HTTP/1.1 302 X\r\nlocation: {TARGET}\r\ncontent-length: 0\r\n\r\n"))
            .differs("counter cluster.up.upstream_cx_*", FREE)
            .differs("counter cluster.up.upstream_rq_pending_total", FREE)
            .differs("upstream.connections", FREE),
    ]
    .into_iter()
    .chain(location_cases())
    .chain(predicate_cases())
    .chain(header_cases())
    .chain(body_cases())
    .chain(h2_cases())
    .collect()
}

fn location_cases() -> Vec<Case> {
    let at = |name, location: &str| get(name, "/follow").reply(found(location));
    vec![
        get("no location", "/follow").raw("HTTP/1.1 302 X\r\ncontent-length: 0\r\n\r\n"),
        at("empty location", ""),
        at("relative location", "/target"),
        at("relative location without slash", "target"),
        at("location without scheme", "//elsewhere/target"),
        at("location with a port", "http://elsewhere:8080/target"),
        at("location with the default port", "http://elsewhere:80/target"),
        at("location without path", "http://elsewhere")
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        at("location with a query alone", "http://elsewhere?a")
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        at("location with a fragment", "http://elsewhere/target?a#b"),
        at("location with a user", "http://user@elsewhere/target"),
        at("location with capitals", "HTTP://ELSEWHERE/target"),
        at("location of IPv6", "http://[::1]:80/target"),
        at("location with a space", "http://elsewhere/tar get"),
        at("location of another scheme", "https://elsewhere/target"),
        at("location of a scheme that is none", "ftp://elsewhere/target").differs("counter http.plain.passthrough_*", STRICT),
        get("cross-scheme location", "/cross").reply(found("https://elsewhere/target")),
        get("two locations", "/follow").raw(
            "HTTP/1.1 302 X\r\nlocation: http://a/target\r\nlocation: http://b/plain\r\ncontent-length: 0\r\n\r\n",
        )
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        Case::get("path is normalised", "edge", "/follow", "").reply(found("http://a/x/..//target"))
            .differs("log[0].cluster", ANSWERED)
            .differs("log[0].route", ANSWERED),
        Case::get("port is stripped", "trusting", "/follow", "").reply(found("http://a:81/target")),
    ]
}

fn predicate_cases() -> Vec<Case> {
    let state =
        |name, target: &str, lines: &str| Case::get(name, "state", target, lines).reply(found(TARGET));
    vec![
        get("safe scheme", "/safe").reply(found(TARGET)),
        get("unsafe scheme", "/safe")
            .reply(found("https://elsewhere/target"))
            .differs("log[0].route", ANSWERED),
        get("listed route", "/listed").reply(found("http://a/follow")),
        get("route that is not listed", "/listed").reply(found(TARGET)).differs("log[0].route", ANSWERED),
        get("itself, listed", "/listed").reply(found("http://a/listed")).reply(found("http://b/listed")),
        get("route for the first time", "/previous").reply(found(TARGET)),
        get("route for the second time", "/previous")
            .reply(found("http://a/previous"))
            .reply(found("http://b/previous")),
        get("state that is not there", "/absent").reply(found(TARGET)).differs("log[0].route", ANSWERED),
        get("state that need not be there", "/if-absent").reply(found(TARGET)),
        state("state says yes", "/allowed", "x-may: true\r\n"),
        state("state says no", "/allowed", "x-may: false\r\n").differs("log[0].route", ANSWERED),
        state("state of another kind", "/text", "").differs("log[0].route", ANSWERED),
        Case::get("state after the redirect", "state", "/allowed", "x-may: true\r\n")
            .reply(found("http://a/allowed"))
            .reply(found("http://a/shown")),
    ]
}

fn header_cases() -> Vec<Case> {
    vec![
        get("rewritten", "/rewritten/x").reply(found(TARGET)),
        get("rewritten, and not followed", "/rewritten/x").reply(found("http://a/nowhere else")),
        Case::get("headers stay", "plain", "/follow", "x-mine: 1\r\nx-forwarded-for: 192.0.2.7\r\n")
            .reply(found(TARGET)),
        Case::get("headers at the edge", "edge", "/follow", "x-envoy-original-url: http://lie/\r\n")
            .reply(found(TARGET)),
        Case::get("headers are copied", "plain", "/copies", "x-one: a\r\nx-two: b\r\nx-other: c\r\n").raw(
            format!(
                "HTTP/1.1 302 X\r\nlocation: {TARGET}\r\nx-one: 1\r\nx-one: 2\r\nx-three: 3\r\nx-four: 4\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ),
        ),
        Case::get("timeout asked for", "plain", "/follow", "x-envoy-upstream-rq-timeout-ms: 5000\r\n")
            .reply(found(TARGET)),
    ]
}

fn body_cases() -> Vec<Case> {
    let early = || {
        Reply::early([
            Step::Send(
                format!("HTTP/1.1 302 X\r\nlocation: {TARGET}\r\ncontent-length: 0\r\n\r\n").into_bytes(),
            ),
            Step::ReadBody,
        ])
    };
    let long = "x".repeat(100_000);
    vec![
        post("body", "plain", "/many", "hello").reply(to("307", TARGET)),
        post("body of 302", "plain", "/many", "hello").reply(found(TARGET)),
        post("body of 303", "plain", "/many", "hello").reply(to("303", TARGET)),
        post("long body", "plain", "/many", &long).reply(to("307", TARGET)),
        post("body of exactly the limit", "plain", "/small", "12345678").reply(to("307", TARGET)),
        Case::send(
            "chunked body",
            "plain",
            "POST /many HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-end: 1\r\n\r\n",
        )
        .reply(to("307", TARGET)),
        Case::send(
            "chunked body of 303",
            "plain",
            "POST /many HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .reply(to("303", TARGET)),
        post("no body of 303", "plain", "/many", "").reply(to("303", TARGET)),
        Case::steps(
            "body in two parts over the limit",
            "plain",
            [
                Do::Send(b"POST /small HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
                Do::Pause(Duration::from_millis(100)),
                Do::Send(b"world".to_vec()),
                Do::Response("POST"),
            ],
        )
        .reply(to("307", TARGET)),
        Case::steps(
            "redirect before the body",
            "plain",
            [
                Do::Send(b"POST /follow HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
                Do::AwaitUpstream(1),
                Do::Response("POST"),
            ],
        )
        .reply(early()),
        post("body, retried and followed", "plain", "/again", "hello")
            .raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
            .reply(to("307", TARGET)),
        get("redirect is retried", "/retried").reply(found(TARGET)),
        get("redirect is retried, then followed", "/retried").reply(found(TARGET)).reply(found(TARGET)),
        get("failure after a redirect", "/again").reply(found("http://a/again")).raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"),
        get("host hangs up after a redirect", "/follow")
            .reply(found(TARGET))
            .reply(Reply::steps([Step::Close])),
    ]
}

fn h2_cases() -> Vec<Case> {
    vec![
        Case::h2("HTTP/2 client", "plain", [H2Request::get("http://test/follow")]).reply(found(TARGET)),
        Case::h2("HTTP/2 client, body", "plain", [H2Request::post("http://test/many", "hello")])
            .reply(to("307", TARGET)),
        Case::h2(
            "HTTP/2 client, trailers",
            "plain",
            [H2Request::post("http://test/many", "hello").trailer("x-end", "1")],
        )
        .reply(to("307", TARGET)),
        Case::h2(
            "HTTP/2 client, two requests",
            "plain",
            [H2Request::get("http://test/follow"), H2Request::get("http://test/follow")],
        )
        .reply(found(TARGET))
        .reply(Reply::ok())
        .reply(found(TARGET)),
        get("HTTP/2 host", "/h2").h2_reply(H2Reply::new(302, "").field("location", "http://a/h2")),
        Case::h2("HTTP/2 everywhere", "plain", [H2Request::post("http://test/h2", "hello")])
            .h2_reply(H2Reply::new(307, "").field("location", "http://a/h2")),
    ]
}
