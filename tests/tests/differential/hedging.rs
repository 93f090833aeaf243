//! Tries that take too long and go on beside the next: who wins, what becomes of the others, and what is counted.

use std::time::Duration;

use integration::config::{HttpListener, cluster, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};

/// Why a connection is not waited for.
const CONNECTS: &str = "A connection that nobody wants any more is not made; Envoy goes on with it.";

/// Why the time that is left differs where it is less than that of all.
const LEFT: &str = "The first try is over a random pause before the second.";

/// How long a try may take.
const TRY: u64 = 200;

const ROUTES: &str = r#"
- match: {prefix: /hedge}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /twice}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /short}
  route: {cluster: up, timeout: 0.7s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /connect-failure}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: connect-failure, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /no-condition}
  route: {cluster: up, timeout: 5s, retry_policy: {per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /none-left}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, num_retries: 0, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /open}
  route: {cluster: no_retries, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /budget}
  route: {cluster: no_budget, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /one-request}
  route: {cluster: one_request, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /idle}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_idle_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /pause}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s, retry_back_off: {base_interval: 60s, max_interval: 60s}}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /elsewhere}
  route: {cluster: priorities, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s, retry_priority: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /small}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
  request_body_buffer_limit: 8
- match: {prefix: /counted}
  stat_prefix: counted
  route: {cluster: up, timeout: 0.7s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /redirected}
  route: {cluster: up, timeout: 5s, internal_redirect_policy: {}, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /h2}
  route: {cluster: h2up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {hedge_on_per_try_timeout: true}}
- match: {prefix: /of-host}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}}
- match: {prefix: /not}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}, hedge_policy: {}}
- match: {prefix: /}
  route: {cluster: up}
"#;

fn listener(name: &str, options: &str, virtual_host: &str) -> String {
    let routes = indent(ROUTES.trim_start_matches('\n'), 2);
    let hosts = format!("- name: all\n  domains: [\"*\"]\n{}  routes:\n{routes}", indent(virtual_host, 2));
    HttpListener::with_virtual_hosts(name, &hosts).options(options).yaml()
}

pub(crate) fn setup() -> Setup {
    let breakers = |thresholds: &str| format!("circuit_breakers: {{thresholds: [{thresholds}]}}\n");
    let internal = "use_remote_address: true\ninternal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";
    let counted = "include_request_attempt_count: true\ninclude_attempt_count_in_response: true\ninclude_is_timeout_retry_header: true\n";
    Setup::with_clusters(
        "hedging",
        [
            listener("plain", "", ""),
            listener("internal", internal, ""),
            listener("counted", "", counted),
            listener("of_host", "", "hedge_policy: {hedge_on_per_try_timeout: true}\n"),
        ],
        [
            cluster("no_retries", "up", &breakers("{max_retries: 0}")),
            cluster(
                "no_budget",
                "up",
                &breakers("{retry_budget: {budget_percent: {value: 0}, min_retry_concurrency: 0}}"),
            ),
            cluster("one_request", "up", &breakers("{max_requests: 1}")),
            priorities(),
        ],
    )
}

/// A host, and another one that never answers a connection.
fn priorities() -> String {
    let at = |priority: u32, port: &str| {
        format!(
            "    - priority: {priority}\n      lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{{port}}}}}}}}}}}\n"
        )
    };
    format!(
        "- name: priorities\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: priorities\n    endpoints:\n{}{}",
        at(0, "up"),
        at(1, "blackhole")
    )
}

fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An answer after so many milliseconds.
fn after(pause: u64, status: &str, body: &str) -> Reply {
    Reply::steps([Step::Pause(Duration::from_millis(pause)), Step::Send(response(status, body))])
}

fn hangs_up_after(pause: u64) -> Reply {
    Reply::steps([Step::Pause(Duration::from_millis(pause)), Step::Close])
}

fn stalls() -> Reply {
    Reply::steps([Step::Stall])
}

fn get(name: &'static str, target: &str) -> Case {
    Case::get(name, "plain", target, "")
}

fn post(name: &'static str, target: &str, body: &str) -> Case {
    let length = body.len();
    Case::send(
        name,
        "plain",
        format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"),
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let late = 2 * TRY + 100;
    vec![
        get("answer in time", "/hedge").reply(after(0, "200 OK", "first")),
        get("failure in time", "/hedge").reply(after(0, "503 X", "")),
        get("the first answers late", "/hedge").reply(after(late, "200 OK", "first")).reply(stalls()),
        get("the second answers", "/hedge").reply(stalls()).reply(after(0, "200 OK", "second")),
        get("the second answers, and has a body", "/hedge").reply(stalls()).reply(after(
            50,
            "200 OK",
            &"x".repeat(100_000),
        )),
        get("the third answers", "/twice").reply(stalls()).reply(stalls()).reply(after(0, "200 OK", "third")),
        get("the first of three answers", "/twice")
            .reply(after(3 * TRY + 200, "200 OK", "first"))
            .reply(stalls())
            .reply(stalls()),
        get("the second of three answers", "/twice")
            .reply(stalls())
            .reply(after(late, "200 OK", "second"))
            .reply(stalls()),
        get("none answers", "/short")
            .reply(stalls())
            .reply(stalls())
            .varies("upstream[1].header.x-envoy-expected-rq-timeout-ms", LEFT),
        get("none answers, counted for the route", "/counted")
            .reply(stalls())
            .reply(stalls())
            .varies("upstream[1].header.x-envoy-expected-rq-timeout-ms", LEFT),
        get("a late failure beside the second", "/hedge")
            .reply(after(TRY + 150, "503 X", ""))
            .reply(after(late, "200 OK", "second")),
        get("a late failure after the second's", "/hedge")
            .reply(after(late, "503 X", "first"))
            .reply(after(0, "502 X", "second")),
        get("the second's failure after a late one", "/hedge")
            .reply(after(TRY + 150, "503 X", "first"))
            .reply(after(late, "502 X", "second")),
        get("the second fails, the first answers", "/hedge")
            .reply(after(late, "200 OK", "first"))
            .reply(after(0, "503 X", "")),
        get("the second fails, the third answers", "/twice")
            .reply(stalls())
            .reply(after(0, "503 X", ""))
            .reply(after(0, "200 OK", "third")),
        get("a failure that nobody minds", "/connect-failure")
            .reply(after(TRY + 150, "503 X", "first"))
            .reply(stalls()),
        get("the first hangs up", "/hedge")
            .reply(hangs_up_after(TRY + 150))
            .reply(after(late, "200 OK", "second")),
        get("the second hangs up", "/hedge").reply(after(late, "200 OK", "first")).reply(hangs_up_after(0)),
        get("both hang up", "/hedge").reply(hangs_up_after(TRY + 150)).reply(hangs_up_after(late)),
        get("both hang up, the second first", "/hedge").reply(hangs_up_after(late)).reply(hangs_up_after(0)),
        get("an answer that breaks off", "/hedge")
            .reply(stalls())
            .reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")),
    ]
    .into_iter()
    .chain(limit_cases())
    .chain(other_cases())
    .chain(h2_cases())
    .collect()
}

fn limit_cases() -> Vec<Case> {
    let late = 2 * TRY + 100;
    vec![
        get("no condition", "/no-condition").reply(after(late, "200 OK", "first")),
        get("no retries", "/none-left").reply(after(late, "200 OK", "first")),
        get("no retries, and a failure", "/none-left").reply(after(late, "503 X", "first")),
        get("breaker open", "/open").reply(after(late, "200 OK", "first")),
        get("no budget", "/budget").reply(after(late, "200 OK", "first")),
        get("breaker of requests open", "/one-request").reply(after(late, "200 OK", "first")),
        get("nothing moves", "/idle")
            .reply(after(late, "200 OK", "first"))
            .reply(after(late, "200 OK", "second")),
        get("answer in the pause", "/pause").reply(after(late, "200 OK", "first")),
        Case::steps(
            "answer while the next connects",
            "plain",
            [
                Do::Send(b"GET /elsewhere HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::Response("GET"),
                Do::Pause(Duration::from_millis(1000)),
            ],
        )
        .reply(after(late, "200 OK", "first"))
        .differs("counter cluster.priorities.upstream_cx_connect_timeout", CONNECTS),
        get("policy of the virtual host, which this is not", "/of-host")
            .reply(after(late, "200 OK", "first"))
            .reply(after(0, "200 OK", "second")),
        Case::get("policy of the virtual host", "of_host", "/of-host", "")
            .reply(after(late, "200 OK", "first"))
            .reply(after(late, "200 OK", "second")),
        Case::get("policy of the route before the virtual host's", "of_host", "/not", "")
            .reply(after(late, "200 OK", "first"))
            .reply(after(0, "200 OK", "second")),
        Case::get("asked for", "internal", "/not", "x-envoy-hedge-on-per-try-timeout: true\r\n")
            .reply(after(late, "200 OK", "first"))
            .reply(after(late, "200 OK", "second")),
        Case::get("not asked for", "internal", "/hedge", "x-envoy-hedge-on-per-try-timeout: false\r\n")
            .reply(after(late, "200 OK", "first"))
            .reply(after(0, "200 OK", "second")),
        Case::get("asked for in other words", "internal", "/not", "x-envoy-hedge-on-per-try-timeout: 1\r\n")
            .reply(after(late, "200 OK", "first"))
            .reply(after(0, "200 OK", "second")),
    ]
}

fn other_cases() -> Vec<Case> {
    let late = 2 * TRY + 100;
    let long = "x".repeat(100_000);
    vec![
        post("body", "/hedge", "hello").reply(stalls()).reply(after(0, "200 OK", "second")),
        post("long body", "/hedge", &long).reply(after(late, "200 OK", "first")).reply(stalls()),
        post("body over the limit", "/small", "123456789").reply(after(late, "200 OK", "first")),
        post("body of exactly the limit", "/small", "12345678").reply(stalls()).reply(after(0, "200 OK", "second")),
        Case::steps(
            "a body that takes its time",
            "plain",
            [
                Do::Send(b"POST /hedge HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
                Do::Pause(Duration::from_millis(TRY + 100)),
                Do::Send(b"world".to_vec()),
                Do::Response("POST"),
            ],
        )
        .reply(stalls())
        .reply(after(0, "200 OK", "second")),
        Case::get("attempts counted, the first answers", "counted", "/hedge", "")
            .reply(after(late, "200 OK", "first"))
            .reply(stalls()),
        Case::get("attempts counted, the second answers", "counted", "/hedge", "")
            .reply(stalls())
            .reply(after(0, "200 OK", "second")),
        get("a redirect that is followed", "/redirected")
            .reply(Reply::steps([
                Step::Pause(Duration::from_millis(late)),
                Step::Send(b"HTTP/1.1 302 X\r\nlocation: http://a/x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec()),
                Step::Close,
            ]))
            .reply(stalls())
            .reply(after(0, "200 OK", "third")),
        Case::steps(
            "the client leaves",
            "plain",
            [
                Do::Send(b"GET /hedge HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::AwaitUpstream(2),
                Do::Leave,
            ],
        )
        .reply(stalls())
        .reply(stalls()),
        Case::send(
            "the connection goes on",
            "plain",
            "GET /hedge HTTP/1.1\r\nhost: test\r\n\r\nGET /other HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .and_response("GET")
        .reply(stalls())
        .reply(after(0, "200 OK", "second"))
        .reply(after(0, "200 OK", "third")),
    ]
}

fn h2_cases() -> Vec<Case> {
    vec![
        Case::h2("HTTP/2 client", "plain", [H2Request::get("http://test/hedge")])
            .reply(stalls())
            .reply(after(0, "200 OK", "second")),
        get("HTTP/2 host, the second answers", "/h2")
            .h2_reply(H2Reply::stall())
            .h2_reply(H2Reply::new(200, "second")),
        get("HTTP/2 host, the second refuses", "/h2").h2_reply(H2Reply::stall()).h2_reply(H2Reply::refuse(7)),
    ]
}
