//! Active health checks of hosts and clusters that come and go: delivered by files that change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{bootstrap, listener_with_filters, tcp_proxy};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::{EchoServer, Reply, Step, Upstream};

const CLUSTERS: [(&str, &str); 3] = [
    ("stays", ""),
    ("leaves", "ignore_health_on_host_removal: true"),
    ("excludes", "common_lb_config: {ignore_new_hosts_until_first_hc: true}"),
];

const NODE: &str = "node: {id: a, cluster: b}\n";
const CHECK: &str = "health_checks: [{timeout: 60s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}]";

fn ok() -> Reply {
    Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
}

fn bad() -> Reply {
    Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
}

/// Puts a file in place of another, as who delivers configuration does.
fn deliver(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

/// Delivers these hosts to all clusters, each of which has a file of its own in `dir`.
fn deliver_hosts(dir: &Path, hosts: &[&Upstream]) -> Result<()> {
    for (name, _) in CLUSTERS {
        let mut text = format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: {name}\n  endpoints:\n  - lb_endpoints:\n"
        );
        for host in hosts {
            let _ = writeln!(
                text,
                "    - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}",
                host.addr().port()
            );
        }
        deliver(&dir.join(format!("{name}.yaml")), &text)?;
    }
    Ok(())
}

struct Rig<'r> {
    proxy: &'r Proxy,
    hosts: [&'r Upstream; 2],
    facts: Vec<String>,
}

impl Rig<'_> {
    /// Waits until a statistic of all these clusters has a value.
    async fn until(&self, clusters: &[&str], stat: &str, value: i64) -> Result<()> {
        for cluster in clusters {
            let name = format!("cluster.{cluster}.{stat}");
            let reached = async || (self.proxy.admin().stat(&name).await.ok()? == value).then_some(());
            eventually(&format!("{name} of {value} after {:?}", self.facts.last()), SOON, reached).await?;
        }
        Ok(())
    }

    async fn note(&mut self, what: &str) -> Result<()> {
        let shown = "^cluster.(stays|leaves|excludes).(membership|health_check.(healthy|passive))";
        let stats: BTreeMap<String, i64> = self.proxy.admin().stats(shown).await?;
        let clusters = self.proxy.admin().get("/clusters").await?;
        let mut flags = Vec::new();
        for (name, _) in CLUSTERS {
            for (number, host) in self.hosts.iter().enumerate() {
                let prefix = format!("{name}::{}::health_flags::", host.addr());
                let found = clusters.lines().find_map(|line| line.strip_prefix(&prefix));
                flags.push(format!("{name} {number} {}", found.unwrap_or("is gone")));
            }
        }
        self.facts.push(format!("{what}: {flags:#?} {stats:#?}"));
        Ok(())
    }
}

const ALL: &[&str] = &["stays", "leaves", "excludes"];

async fn hosts_of(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let (a, b) = (Upstream::start().await?, Upstream::start().await?);
    a.answer(ok());
    b.answer(ok());
    deliver_hosts(dir.path(), &[&a, &b])?;
    let clusters: Vec<String> = CLUSTERS
        .iter()
        .map(|(name, extra)| {
            format!(
                "- name: {name}\n  type: EDS\n  connect_timeout: 1s\n  eds_cluster_config: {{eds_config: {{path_config_source: {{path: {}}}}}}}\n  {CHECK}\n  {extra}\n",
                dir.path().join(format!("{name}.yaml")).display()
            )
        })
        .collect();
    let proxy = Proxy::start(binary, &bootstrap(&[], &clusters, NODE)).await?;
    let mut rig = Rig { proxy: &proxy, hosts: [&a, &b], facts: Vec::new() };
    rig.until(ALL, "membership_healthy", 2).await?;
    rig.note("both are well").await?;
    deliver_hosts(dir.path(), &[&a])?;
    rig.until(ALL, "update_success", 2).await?;
    rig.note("one is not delivered any more").await?;
    b.answer(bad());
    rig.until(ALL, "membership_total", 1).await?;
    rig.note("and is not well").await?;
    deliver_hosts(dir.path(), &[&a, &b])?;
    rig.until(ALL, "membership_total", 2).await?;
    let failed = async || {
        let clusters = proxy.admin().get("/clusters").await.ok()?;
        (!clusters.contains("pending_active_hc")).then_some(())
    };
    eventually("a check of the host that is back", SOON, failed).await?;
    rig.note("it is back").await?;
    b.answer(ok());
    rig.until(ALL, "membership_healthy", 2).await?;
    rig.note("and well").await?;
    deliver_hosts(dir.path(), &[&a])?;
    rig.until(ALL, "update_success", 4).await?;
    deliver_hosts(dir.path(), &[&a, &b])?;
    rig.until(ALL, "update_success", 5).await?;
    rig.until(ALL, "membership_healthy", 2).await?;
    rig.note("gone and back").await?;
    // New ones whose first check is not answered.
    let (c, d) = (Upstream::start().await?, Upstream::start().await?);
    for host in [&c, &d] {
        host.answer(Reply::steps([Step::Stall]));
    }
    rig.hosts = [&c, &d];
    deliver_hosts(dir.path(), &[&a, &c, &d])?;
    rig.until(ALL, "update_success", 6).await?;
    rig.note("two new ones").await?;
    let facts = rig.facts;
    proxy.stop().await?;
    Ok(facts)
}

/// Hosts that come and go.
pub async fn compare_hosts(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(hosts_of(reference), hosts_of(subject))?;
    expect_same(&wanted, &found)
}

async fn warming_of(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("cds.yaml");
    let host = Upstream::start().await?;
    host.answer(Reply::steps([Step::Stall]));
    let cluster = |name: &str, timeout: &str| {
        format!(
            "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  connect_timeout: {timeout}\n  {}\n  load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
            CHECK.replace("timeout: 60s", "timeout: 1s"),
            host.addr().port()
        )
    };
    deliver(&path, "resources: []\n")?;
    let rest = format!(
        "{NODE}dynamic_resources: {{cds_config: {{path_config_source: {{path: {}}}}}}}\n",
        path.display()
    );
    let proxy = Proxy::start(binary, &bootstrap(&[], &[], &rest)).await?;
    let stats = async || proxy.admin().stats("^cluster_manager.(warming|active)_clusters$").await;
    let warming = async |count: i64| {
        let reached = async || {
            let warming = proxy.admin().stat("cluster_manager.warming_clusters").await.ok()?;
            (warming == count).then_some(())
        };
        eventually(&format!("{count} that warm"), SOON, reached).await
    };
    let mut facts = Vec::new();
    deliver(&path, &format!("resources:\n{}", cluster("one", "1s")))?;
    warming(1).await?;
    facts.push(format!("one warms: {:?}", stats().await?));
    // One that did not answer in time was checked, too.
    warming(0).await?;
    facts.push(format!("it is there: {:?}", stats().await?));
    facts.push(format!("unwell: {}", proxy.admin().stat("cluster.one.membership_healthy").await?));
    deliver(&path, &format!("resources:\n{}", cluster("one", "2s")))?;
    warming(1).await?;
    facts.push(format!("its next form warms: {:?}", stats().await?));
    host.forget();
    host.answer(ok());
    warming(0).await?;
    let well = async || (proxy.admin().stat("cluster.one.membership_healthy").await.ok()? == 1).then_some(());
    eventually("it is well", SOON, well).await?;
    proxy.stop().await?;
    Ok(facts)
}

async fn closing_of(binary: &Binary, extra: &str) -> Result<String> {
    let checked = Upstream::start().await?;
    checked.answer(ok());
    let echo = EchoServer::start().await?;
    let cluster = format!(
        "- name: up\n  connect_timeout: 1s\n  {CHECK}\n  {extra}\n  load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{{endpoint: {{health_check_config: {{port_value: {}}}, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
        checked.addr().port(),
        echo.server().addr().port(),
    );
    let listener = listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: up"));
    let proxy = Proxy::start(binary, &bootstrap(&[listener], &[cluster], "")).await?;
    let mut client = Client::connect(proxy.listener("tcp")?).await?;
    client.send(b"hello").await?;
    ensure!(client.at_least(5, SOON).await? == b"hello");
    checked.answer(bad());
    let unwell =
        async || (proxy.admin().stat("cluster.up.membership_healthy").await.ok()? == 0).then_some(());
    eventually("it fails", SOON, unwell).await?;
    if extra.is_empty() {
        client.send(b"again").await?;
        client.at_least(5, SOON).await?;
        proxy.stop().await?;
        return Ok("it stays".to_owned());
    }
    let end = client.end_within(SOON).await;
    let path = proxy.dir().join("access.log");
    let logged = async || whole_lines(&path).first().cloned();
    let line = eventually("a line", SOON, logged).await?;
    let stats = proxy.admin().stats("^cluster.up.upstream_(cx_destroy|rq_active|cx_active)").await?;
    proxy.stop().await?;
    Ok(format!("{end:?} {line} {stats:#?}"))
}

/// Streams of bytes that end with the health of their host, or do not.
pub async fn compare_closing(reference: &Binary, subject: &Binary) -> Result<()> {
    for extra in ["", "close_connections_on_host_health_failure: true"] {
        let (wanted, found) = tokio::try_join!(closing_of(reference, extra), closing_of(subject, extra))?;
        ensure!(wanted == found, "Envoy {wanted}, here {found}");
    }
    Ok(())
}

/// Clusters that wait for the first checks of their hosts.
pub async fn compare_warming(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(warming_of(reference), warming_of(subject))?;
    ensure!(wanted == found, "Envoy {wanted:#?}, here {found:#?}");
    Ok(())
}
