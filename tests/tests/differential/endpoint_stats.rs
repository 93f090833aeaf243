//! Statistics of single hosts (`track_cluster_stats.per_endpoint_stats`): their names, labels and values, wherever statistics are shown.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Gate, Reply, Upstream};
use tokio::net::TcpSocket;

fn endpoint(port: u16, hostname: &str) -> String {
    format!(
        "{{endpoint: {{hostname: '{hostname}', address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
    )
}

fn cluster(name: &str, fields: &str, endpoints: &str) -> String {
    format!(
        "- name: '{name}'\n  connect_timeout: 5s\n  track_cluster_stats: {{per_endpoint_stats: true}}\n  {fields}\n  load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}\n"
    )
}

struct Rig {
    proxy: Proxy,
    /// What ports are called that the kernel chose.
    ports: Vec<(SocketAddr, &'static str)>,
    facts: Vec<String>,
}

impl Rig {
    /// Notes the lines of a page that are about hosts.
    async fn note(&mut self, path: &str) -> Result<()> {
        let mut page = self.proxy.admin().get(path).await?;
        for (address, name) in &self.ports {
            page = page.replace(&address.port().to_string(), name);
        }
        // (JSON is one line, in no order of names.)
        let page = page.replace("},{", "},\n{").replace("[{", "[\n{").replace("}]", "}\n]");
        let lines: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.contains("endpoint"))
            .map(|line| line.trim_end_matches(','))
            .collect();
        self.facts.push(format!("{path}: {lines:#?}"));
        Ok(())
    }

    async fn until(&self, stat: &str, value: i64) -> Result<()> {
        let reached = async || (self.proxy.admin().stat(stat).await.ok()? == value).then_some(());
        eventually(&format!("{stat} of {value}"), SOON, reached).await
    }
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let (host, slow) = (Upstream::start().await?, Upstream::start().await?);
    let gate = Gate::default();
    slow.answer(Reply::behind(&gate, "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"));
    // A port that is taken, so that nobody else listens there.
    let taken = TcpSocket::new_v4()?;
    taken.bind("127.0.0.1:0".parse()?)?;
    let nowhere = taken.local_addr()?;
    let clusters = [
        cluster(
            "a:b",
            "health_checks: [{timeout: 60s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}]",
            &endpoint(host.addr().port(), "some.host"),
        ),
        cluster("refused", "alt_stat_name: other.name", &endpoint(nowhere.port(), "")),
        cluster(
            "slow",
            "circuit_breakers: {thresholds: [{max_connections: 1}]}",
            &endpoint(slow.addr().port(), ""),
        ),
        cluster("idle", "", "{endpoint: {address: {pipe: {path: /nowhere/at.all}}}}"),
    ];
    let routes = ["a:b", "refused", "slow"].map(|name| {
        format!("- match: {{headers: [{{name: x-to, string_match: {{exact: '{name}'}}}}], prefix: /}}\n  route: {{cluster: '{name}'}}\n")
    });
    let listener = HttpListener::new("ing", &routes.concat());
    let rest = "stats_config: {stats_matcher: {exclusion_list: {patterns: [{suffix: endpoint.rq_total}]}}, stats_tags: [{tag_name: fixed, fixed_value: x}]}\n";
    let proxy = Proxy::start(binary, &bootstrap(&[listener.yaml()], &clusters, rest)).await?;
    let ports = vec![(host.addr(), "HOST"), (slow.addr(), "SLOW"), (nowhere, "NOWHERE")];
    let mut rig = Rig { proxy, ports, facts: Vec::new() };
    let address = rig.proxy.listener("ing")?;
    rig.until("cluster.a_b.membership_healthy", 1).await?;
    let mut client = Client::connect(address).await?;
    for to in ["a:b", "a:b", "refused"] {
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-to: {to}\r\n\r\n").as_bytes()).await?;
        let status = client.response("GET", SOON).await?.head.status()?;
        rig.facts.push(format!("{to}: {status}"));
    }
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nx-to: slow\r\n\r\n";
    let (mut one, mut other) = (Client::connect(address).await?, Client::connect(address).await?);
    one.send(request).await?;
    rig.until("cluster.slow.upstream_rq_active", 1).await?;
    other.send(request).await?;
    rig.until("cluster.slow.upstream_rq_pending_active", 1).await?;
    for path in [
        "/stats?filter=endpoint",
        "/stats?filter=endpoint&usedonly",
        "/stats?filter=endpoint&type=Gauges",
        "/stats?filter=endpoint&format=json",
        "/stats/prometheus",
    ] {
        rig.note(path).await?;
    }
    gate.open();
    for client in [&mut one, &mut other] {
        client.response("GET", SOON).await?;
    }
    rig.until("cluster.slow.upstream_rq_active", 0).await?;
    rig.note("/stats?filter=slow.endpoint").await?;
    rig.proxy.admin().request("POST", "/reset_counters").await?;
    rig.note("/stats?filter=endpoint.*_total").await?;
    rig.proxy.stop().await?;
    Ok(rig.facts)
}

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(run(reference), run(subject))?;
    expect_same(&wanted, &found)
}
