//! How long it is from one active health check to the next: each interval is the one that is short in a case of its own, where all
//! others are a minute.
//!
//! Until a cluster has had a connection for traffic its checks come at `no_traffic_interval`: after the first one there is time for a request,
//! and the second is the one after which the interval in question counts.

use anyhow::{Context, Result};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

/// Results that come soon, and would not at any other interval.
const RESULTS: i64 = 20;

struct Case {
    name: &'static str,
    /// What the first check finds, and what all others do; 0 is a connection that ends. (A bad status is believed whatever the threshold is.)
    finds: [u16; 2],
    /// Thresholds and the short interval.
    check: &'static str,
}

const CASES: &[Case] = &[
    Case { name: "interval", finds: [200, 200], check: "interval: 0.01s, unhealthy_interval: 60s" },
    Case { name: "unhealthy_interval", finds: [500, 500], check: "interval: 60s, unhealthy_interval: 0.01s" },
    Case { name: "interval_of_both", finds: [500, 500], check: "interval: 0.01s" },
    Case {
        name: "unhealthy_edge_interval",
        finds: [200, 0],
        check: "unhealthy_threshold: 100, interval: 60s, unhealthy_interval: 60s, unhealthy_edge_interval: 0.01s",
    },
    Case {
        name: "unhealthy_interval_at_the_edge",
        finds: [200, 0],
        check: "unhealthy_threshold: 100, interval: 60s, unhealthy_interval: 0.01s",
    },
    Case {
        name: "healthy_edge_interval",
        finds: [500, 200],
        check: "healthy_threshold: 100, interval: 60s, unhealthy_interval: 60s, healthy_edge_interval: 0.01s",
    },
    Case {
        name: "interval_at_the_edge",
        finds: [500, 200],
        check: "healthy_threshold: 100, interval: 0.01s, unhealthy_interval: 60s",
    },
];

fn cluster(case: &Case, host: &Upstream, checked: &Upstream) -> String {
    let name = case.name;
    let threshold =
        |field: &str| match case.check.contains(&format!(" {field}")) || case.check.starts_with(field) {
            true => String::new(),
            false => format!("{field}: 1, "),
        };
    format!(
        "- name: {name}\n  connect_timeout: 1s\n  common_lb_config: {{update_merge_window: 0s}}\n  health_checks: [{{timeout: 60s, no_traffic_interval: 2s, no_traffic_healthy_interval: 2s, {}{}{}, http_health_check: {{path: /check}}}}]\n  load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{health_check_config: {{port_value: {}}}, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
        threshold("healthy_threshold"),
        threshold("unhealthy_threshold"),
        case.check,
        checked.addr().port(),
        host.addr().port()
    )
}

fn says(status: u16) -> Reply {
    match status {
        0 => Reply::steps([Step::Close]),
        status => Reply::raw(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")),
    }
}

/// Waits until the checks of all cases have come often.
async fn run(binary: &Binary) -> Result<()> {
    let host = Upstream::start().await?;
    let (mut checked, mut clusters, mut routes) = (Vec::new(), Vec::new(), String::new());
    for case in CASES {
        let [first, others] = case.finds.map(says);
        let upstream = Upstream::start().await?;
        // (More than there will be.)
        upstream.script(std::iter::once(first).chain(std::iter::repeat_n(others, 5000)));
        clusters.push(cluster(case, &host, &upstream));
        checked.push(upstream);
        routes += &format!("- match: {{path: /{0}}}\n  route: {{cluster: {0}}}\n", case.name);
    }
    let proxy =
        Proxy::start(binary, &bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, "")).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for case in CASES {
        // (Whom all hosts fail panics: requests are sent all the same.)
        client.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", case.name).as_bytes()).await?;
        client.response("GET", SOON).await.with_context(|| case.name)?;
    }
    for case in CASES {
        let often = async || {
            let stats = proxy.admin().stats(&format!("^cluster.{}.health_check", case.name)).await.ok()?;
            let stat = |stat: &str| stats.get(&format!("cluster.{}.health_check.{stat}", case.name)).copied();
            (stat("success")? + stat("failure")? >= RESULTS).then_some(())
        };
        eventually(&format!("{RESULTS} results with a short {}", case.name), SOON, often).await?;
    }
    proxy.stop().await
}

pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    run(reference).await.context("Envoy")?;
    run(subject).await.context("here")
}
