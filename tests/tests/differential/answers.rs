//! What is counted of answers: at their host, apart for canaries, and where they end before their end.

use anyhow::{Context, Result};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

/// An answer, and the request that it is for.
struct Case {
    name: &'static str,
    path: &'static str,
    grpc: bool,
    reply: Reply,
}

fn case(name: &'static str, reply: &str) -> Case {
    Case { name, path: "/plain/", grpc: false, reply: Reply::raw(reply) }
}

fn grpc(name: &'static str, reply: &str) -> Case {
    Case { grpc: true, ..case(name, reply) }
}

fn then(name: &'static str, is_grpc: bool, begin: &str, step: Step) -> Case {
    let reply = Reply::steps([Step::Send(begin.as_bytes().to_vec()), step]);
    Case { name, path: "/plain/", grpc: is_grpc, reply }
}

/// With a timeout that is reached.
fn late(case: Case) -> Case {
    Case { path: "/plain/late", ..case }
}

const BEGUN: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";

fn cases() -> Vec<Case> {
    let chunked = |trailers: &str| format!("{BEGUN}0\r\n{trailers}\r\n");
    let empty = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n");
    vec![
        case("plain", &empty("")),
        case("plain error", "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"),
        case("plain, not found", "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"),
        case("a status of gRPC that nobody asked for", &empty("grpc-status: 14\r\n")),
        grpc("a status in the head", &empty("grpc-status: 0\r\n")),
        grpc("a failure in the head", &empty("grpc-status: 14\r\n")),
        grpc("a refusal in the head", &empty("grpc-status: 7\r\n")),
        grpc("no status", &empty("")),
        grpc("a status that is none", &empty("grpc-status: x\r\n")),
        grpc("an error", "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"),
        grpc("an error with a status", "HTTP/1.1 503 X\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n"),
        grpc("a status in trailers", &chunked("grpc-status: 0\r\n")),
        grpc("a failure in trailers", &chunked("grpc-status: 13\r\n")),
        grpc("no status in trailers", &chunked("x: 0\r\n")),
        grpc("a body and no trailers", &chunked("")),
        grpc("a body of known length", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
        grpc(
            "a status in the head of a body",
            "HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: 3\r\n\r\nabc",
        ),
        then("broken off", false, BEGUN, Step::Close),
        then("broken off over gRPC", true, BEGUN, Step::Close),
        then("reset over gRPC", true, BEGUN, Step::Reset),
        late(then("late over gRPC", true, BEGUN, Step::Stall)),
        late(then("late", false, BEGUN, Step::Stall)),
        late(then("never", false, "", Step::Stall)),
        then("closed", false, "", Step::Close),
        case("a canary by its word", &empty("x-envoy-upstream-canary: true\r\n")),
        case("no canary by its word", &empty("x-envoy-upstream-canary: false\r\n")),
        case("a canary in capitals", &empty("x-envoy-upstream-canary: TRUE\r\n")),
        case(
            "a canary that fails",
            "HTTP/1.1 500 X\r\nx-envoy-upstream-canary: true\r\ncontent-length: 0\r\n\r\n",
        ),
        Case { path: "/canary/", ..case("a canary by its labels", &empty("")) },
        Case {
            path: "/canary/",
            ..case("a canary that denies it", &empty("x-envoy-upstream-canary: false\r\n"))
        },
        Case { path: "/canary/late", ..then("a canary that is late", false, "", Step::Stall) },
        // (After that on a connection of its own: here a request is sent again that meets the end of one that was idle.)
        Case { path: "/canary/", ..then("a canary that is closed", false, "", Step::Close) },
        Case {
            path: "/canary/again",
            ..case("a canary that is asked again", "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
        },
        case("plain again", &empty("")),
    ]
}

const ROUTES: &str = "- match: {prefix: /canary/again}
  route: {cluster: canary, retry_policy: {retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}}}
- match: {prefix: /canary/late}
  route: {cluster: canary, timeout: 0.3s}
- match: {prefix: /canary/}
  route: {cluster: canary}
- match: {prefix: /plain/late}
  route: {cluster: plain, timeout: 0.3s}
- match: {prefix: /}
  route: {cluster: plain}
";
const SHOWN: &str = "canary\\.upstream_rq_|upstream_rq_(rx_reset|timeout|completed|5xx)$|canary\\.upstream_rq_[0-9]|rq_reset_after";

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    let host = Upstream::start().await?;
    let of = |name: &str, fields: &str| {
        format!(
            "- {{name: {name}, connect_timeout: 1s, http_protocol_options: {{enable_trailers: true}}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}{fields}}}]}}]}}}}\n",
            host.addr().port()
        )
    };
    let clusters =
        [of("plain", ""), of("canary", ", metadata: {filter_metadata: {envoy.lb: {canary: true}}}")];
    let proxy =
        Proxy::start(binary, &bootstrap(&[HttpListener::new("http", ROUTES).yaml()], &clusters, "")).await?;
    let mut seen = Vec::new();
    for Case { name, path, grpc, reply } in cases() {
        host.script([reply]);
        let mut client = Client::connect(proxy.listener("http")?).await?;
        let kind = if grpc { "application/grpc" } else { "text/plain" };
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
        client.send(head.as_bytes()).await?;
        client.end_within(SOON).await;
        let idle = async || {
            let active = proxy.admin().stats("upstream_rq_active$").await.ok()?;
            active.values().all(|count| *count == 0).then_some(())
        };
        eventually("the end of the request", SOON, idle).await.context(name)?;
        let stats = proxy.admin().stats(SHOWN).await?;
        let stats: Vec<String> = stats
            .iter()
            .filter(|(_, value)| **value != 0)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let text = proxy.admin().get("/clusters").await?;
        let at_host = text.lines().filter(|line| line.contains("::rq_"));
        let at_host = at_host.map(|line| line.replace(&host.addr().to_string(), "host"));
        let mut at_host: Vec<String> = at_host.filter(|line| !line.ends_with("::0")).collect();
        // (Clusters are in no order at Envoy.)
        at_host.sort();
        seen.push(format!("{name}: {} {}", stats.join(" "), at_host.join(" ")));
    }
    proxy.stop().await?;
    Ok(seen)
}

/// What is counted.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(observe(reference), observe(subject))?;
    expect_same(&wanted, &found)
}
