//! Which route, and what it does.

use integration::config::{HttpListener, cluster};
use integration::differential::{Case, Setup};

const ROUTES: &str = r#"
- name: exact
  match: {path: /exact}
  direct_response: {status: 200, body: {inline_string: exact}}
- match: {prefix: /caseless, case_sensitive: false}
  direct_response: {status: 200, body: {inline_string: caseless}}
- match: {path_separated_prefix: /sep}
  direct_response: {status: 200, body: {inline_string: sep}}
- match: {safe_regex: {regex: "/re/[0-9]+"}}
  direct_response: {status: 200, body: {inline_string: regex}}
- match:
    prefix: /h
    headers:
    - {name: x-exact, string_match: {exact: one}}
    - {name: x-absent, present_match: true, invert_match: true}
  direct_response: {status: 200, body: {inline_string: headers}}
- match: {prefix: /h, headers: [{name: x-num, range_match: {start: 5, end: 10}}]}
  direct_response: {status: 200, body: {inline_string: range}}
- match: {prefix: /q, query_parameters: [{name: a, string_match: {prefix: b}}, {name: c, present_match: true}]}
  direct_response: {status: 200, body: {inline_string: query}}
- match: {prefix: /grpc, grpc: {}}
  direct_response: {status: 200, body: {inline_string: grpc}}
- match: {prefix: /redirect/host}
  redirect: {host_redirect: elsewhere.test, response_code: FOUND}
- match: {prefix: /redirect/path}
  redirect: {path_redirect: /new, strip_query: true}
- match: {prefix: /redirect/prefix}
  redirect: {prefix_rewrite: /p, port_redirect: 8443, https_redirect: true, response_code: PERMANENT_REDIRECT}
- match: {prefix: /redirect/regex}
  redirect: {regex_rewrite: {pattern: {regex: "^/redirect/regex/(.*)$"}, substitution: "/r/\\1"}}
- match: {prefix: /direct/teapot}
  direct_response: {status: 418, body: {inline_string: short and stout}}
  response_headers_to_add: [{header: {key: x-added, value: "yes"}}]
- match: {prefix: /direct/empty}
  direct_response: {status: 204}
- match: {prefix: /direct/created}
  direct_response: {status: 201, body: {inline_string: made}}
- match: {prefix: /direct/moved}
  direct_response: {status: 302}
- match: {prefix: /direct/unchanged}
  direct_response: {status: 304}
- match: {prefix: /direct/elsewhere}
  direct_response: {status: 307}
  response_headers_to_add: [{header: {key: location, value: /there}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
- match: {prefix: /rewrite/prefix/}
  route: {cluster: up, prefix_rewrite: /}
- match: {prefix: /rewrite/regex}
  route: {cluster: up, regex_rewrite: {pattern: {regex: "/rewrite/regex/([a-z]+)/([a-z]+)"}, substitution: "/\\2/\\1"}}
- match: {prefix: /rewrite/host}
  route: {cluster: up, host_rewrite_literal: new.test}
- match: {prefix: /rewrite/header}
  route: {cluster: up, host_rewrite_header: x-host}
- match: {prefix: /rewrite/path}
  route: {cluster: up, host_rewrite_path_regex: {pattern: {regex: "^/rewrite/path/(.+)$"}, substitution: "\\1.test"}}
- match: {prefix: /rewrite/format}
  route: {cluster: up, path_rewrite: "/x/%REQ(x-a)%%PATH(NQ)%", host_rewrite: "%REQ(x-a)%.test"}
- match: {prefix: /rewrite/maybe}
  route: {cluster: up, path_rewrite: "%REQ(x-a)%", host_rewrite: "%REQ(x-a)%"}
- match: {prefix: /rewrite/query}
  route: {cluster: up, path_rewrite: "/new?a=%REQ(x-a)%"}
- match: {prefix: /redirect/format}
  redirect: {path_rewrite: "/r/%REQ(x-a)%"}
- match: {prefix: /weighted}
  route:
    weighted_clusters:
      clusters:
      - {name: refused, weight: 0}
      - {name: up, weight: 100, request_headers_to_add: [{header: {key: x-weighted, value: "1"}}]}
- match: {prefix: /by-header}
  route: {cluster_header: x-cluster}
- match: {prefix: /missing}
  route: {cluster: missing, cluster_not_found_response_code: NOT_FOUND}
- match: {prefix: /missing-default}
  route: {cluster: missing}
- match: {prefix: /refused}
  route: {cluster: refused}
- match: {prefix: /empty}
  route: {cluster: empty}
- match: {prefix: /up}
  route: {cluster: up}
"#;

const HOSTS: &str = r#"
- name: exact
  domains: [exact.test, "ported.test:81"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: exact}}}]
- name: suffix
  domains: ["*.suffix.test"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: suffix}}}]
- name: longer
  domains: ["*.longer.suffix.test"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: longer}}}]
- name: prefix
  domains: ["prefix.*"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: prefix}}}]
- name: secure
  domains: [secure.test]
  require_tls: ALL
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: secure}}}]
"#;

pub(crate) fn setup() -> Setup {
    Setup::with_clusters(
        "routing",
        [
            HttpListener::new("routes", ROUTES).route_config("validate_clusters: false").yaml(),
            HttpListener::with_virtual_hosts("hosts", HOSTS).yaml(),
            HttpListener::with_virtual_hosts("portless", HOSTS).options("strip_any_host_port: true").yaml(),
        ],
        [cluster("empty", "up", "")
            .lines()
            .take_while(|line| !line.contains("load_assignment"))
            .map(|line| format!("{line}\n"))
            .collect()],
    )
}

fn get(name: &'static str, target: &str) -> Case {
    Case::get(name, "routes", target, "")
}

fn with(name: &'static str, target: &str, lines: &str) -> Case {
    Case::get(name, "routes", target, lines)
}

fn host(name: &'static str, listener: &'static str, host: &str) -> Case {
    Case::send(name, listener, format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n"))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        get("path matches", "/exact?q=1"),
        get("path does not match longer ones", "/exact/"),
        get("prefix without case", "/CaseLess/x"),
        get("separated prefix", "/sep/x"),
        get("separated prefix does not match inside a segment", "/sepx"),
        get("regex matches whole paths", "/re/123?x"),
        get("regex does not match a part", "/re/123/x"),
        with("header matchers", "/h", "x-exact: one\r\n"),
        with("header matchers see repeated values joined", "/h", "x-exact: one\r\nx-exact: two\r\n"),
        with("inverted header matcher", "/h", "x-exact: one\r\nx-absent: 1\r\n"),
        with("range matcher", "/h", "x-num: 9\r\n"),
        with("range matcher excludes its end", "/h", "x-num: 10\r\n"),
        get("query matchers", "/q?c&a=bcd"),
        get("query matchers that fail", "/q?a=xb&c=1"),
        with("gRPC matcher", "/grpc", "content-type: application/grpc+proto\r\n"),
        with("gRPC matcher that fails", "/grpc", "content-type: application/json\r\n"),
        get("redirect host", "/redirect/host/a?b=c"),
        get("redirect path", "/redirect/path/a?b=c"),
        get("redirect prefix, port and scheme", "/redirect/prefix/a?b=c"),
        get("redirect by regex", "/redirect/regex/a/b?c"),
        get("direct response", "/direct/teapot"),
        get("direct response of what was created", "/direct/created?a=b"),
        get("direct response elsewhere", "/direct/moved"),
        get("direct response, not modified", "/direct/unchanged"),
        get("direct response with a location of its own", "/direct/elsewhere"),
        get("direct response without body", "/direct/empty"),
        Case::send("direct response to HEAD", "routes", "HEAD /direct/teapot HTTP/1.1\r\nhost: test\r\n\r\n"),
        get("prefix rewrite", "/rewrite/prefix/a?b=c"),
        get("regex rewrite", "/rewrite/regex/one/two?b=c"),
        get("host rewrite", "/rewrite/host"),
        with("host rewrite from a header", "/rewrite/header", "x-host: from-header.test\r\n"),
        get("host rewrite from the path", "/rewrite/path/abc?d"),
        with("formatted rewrites", "/rewrite/format/p?b=c", "x-a: one\r\n"),
        get("formatted rewrites of what is missing", "/rewrite/format/p?b=c"),
        with("formatted path without a slash", "/rewrite/maybe?b=c", "x-a: one\r\n"),
        get("formatted path that is empty", "/rewrite/maybe?b=c"),
        with("formatted path with a query", "/rewrite/query?b=c", "x-a: one\r\n"),
        with("formatted redirect", "/redirect/format?b=c", "x-a: one\r\n"),
        get("weighted clusters", "/weighted"),
        with("cluster from a header", "/by-header", "x-cluster: up\r\n"),
        with("cluster from a header that names none", "/by-header", "x-cluster: nobody\r\n"),
        get("cluster from an absent header", "/by-header"),
        get("missing cluster", "/missing"),
        get("missing cluster, default code", "/missing-default"),
        get("connection refused", "/refused"),
        get("cluster without hosts", "/empty"),
        get("no route", "/nowhere"),
        host("host exact, whatever case", "hosts", "EXACT.test"),
        host("host with port", "hosts", "ported.test:81"),
        host("host with another port", "hosts", "exact.test:82"),
        host("host with its port stripped", "portless", "exact.test:82"),
        host("host suffix", "hosts", "a.suffix.test"),
        host("host longest suffix", "hosts", "a.longer.suffix.test"),
        host("host prefix", "hosts", "prefix.example"),
        host("no virtual host", "hosts", "nobody.test"),
        host("TLS required", "hosts", "secure.test"),
    ]
}
