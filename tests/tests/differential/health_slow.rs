//! Several health checks of one cluster of which one is slow: what a host waits for, what excludes it, and when its connections end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::upstream::{Gate, Reply, Upstream};

const OFTEN: &str =
    "timeout: 60s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1";
const IMMEDIATE: &str = "\r\nx-envoy-immediate-health-check-fail: true";

/// Two clusters of the same hosts.
const CLUSTERS: [(&str, &str); 2] =
    [("counts", ""), ("excludes", "common_lb_config: {ignore_new_hosts_until_first_hc: true}")];

fn head(says: &str) -> String {
    format!("HTTP/1.1 {says}\r\ncontent-length: 0\r\n\r\n")
}

fn checks() -> String {
    let check = |name: &str| format!("{{name: {name}, {OFTEN}, http_health_check: {{path: /{name}}}}}");
    format!("health_checks: [{}, {}]", check("a"), check("b"))
}

/// How a host answers a check from now on.
fn says(host: &Upstream, check: &str, says: &str) {
    host.answer_at(check, Reply::raw(head(says)));
}

/// A check that waits for its answer, and then goes on waiting for the next one.
struct Slow<'h> {
    host: &'h Upstream,
    gate: Gate,
}

impl<'h> Slow<'h> {
    /// From now on, the next answer is this one.
    fn begin(host: &'h Upstream, says: &str) -> Self {
        let gate = Gate::default();
        host.answer_at("/b", Reply::behind(&gate, head(says)));
        Self { host, gate }
    }

    /// Until so many requests wait.
    async fn waits(&self, count: usize) -> Result<()> {
        within("a check that waits", SOON, self.gate.reached_by(count)).await
    }

    /// Answers what waits; what comes then waits for this answer.
    fn next(self, says: &str) -> Self {
        let next = Self::begin(self.host, says);
        self.gate.open();
        next
    }

    /// Answers what waits, and what comes then at once.
    fn end(self, says_then: &str) {
        says(self.host, "/b", says_then);
        self.gate.open();
    }
}

struct Rig {
    proxy: Proxy,
    facts: Vec<String>,
}

impl Rig {
    /// Waits until a statistic of these clusters has a value.
    async fn until(&self, clusters: &[&str], stat: &str, value: i64) -> Result<()> {
        for cluster in clusters {
            let name = format!("cluster.{cluster}.{stat}");
            let reached = async || (self.proxy.admin().stat(&name).await.ok()? == value).then_some(());
            eventually(&format!("{name} of {value} after {:#?}", self.facts), SOON, reached).await?;
        }
        Ok(())
    }

    async fn note(&mut self, what: &str, hosts: &[&Upstream]) -> Result<()> {
        let shown =
            "^cluster.[a-z]*.(health_check.(name.[ab].)?healthy|membership_|upstream_cx_(total|destroy)$)";
        let stats: BTreeMap<String, i64> = self.proxy.admin().stats(shown).await?;
        let clusters = self.proxy.admin().get("/clusters").await?;
        let mut flags = Vec::new();
        for line in clusters.lines() {
            let Some((host, found)) = line.split_once("::health_flags::") else { continue };
            let number = hosts.iter().position(|one| host.ends_with(&format!("::{}", one.addr())));
            let cluster = host.split_once("::").map_or("", |(cluster, _)| cluster);
            flags.push(format!("{cluster} {number:?} {found}"));
        }
        flags.sort();
        self.facts.push(format!("{what}: {flags:#?} {stats:#?}"));
        Ok(())
    }
}

/// Delivers these hosts to all clusters.
fn deliver(dir: &Path, hosts: &[&Upstream]) -> Result<()> {
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
        let path = dir.join(format!("{name}.yaml"));
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(fresh, path)?;
    }
    Ok(())
}

const BOTH: &[&str] = &["counts", "excludes"];

/// Hosts that come and go while a check of them is slow.
async fn coming_and_going(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let (first, other) = (Upstream::start().await?, Upstream::start().await?);
    for host in [&first, &other] {
        says(host, "/a", "200 OK");
        says(host, "/b", "200 OK");
    }
    let hosts = [&first, &other];
    deliver(dir.path(), &[&first])?;
    let clusters = CLUSTERS.map(|(name, extra)| {
        format!(
            "- name: {name}\n  type: EDS\n  connect_timeout: 1s\n  eds_cluster_config: {{eds_config: {{path_config_source: {{path: {}}}}}}}\n  {}\n  {extra}\n",
            dir.path().join(format!("{name}.yaml")).display(),
            checks()
        )
    });
    let proxy = Proxy::start(binary, &bootstrap(&[], &clusters, "node: {id: a, cluster: b}\n")).await?;
    let mut rig = Rig { proxy, facts: Vec::new() };
    rig.until(BOTH, "membership_healthy", 1).await?;
    let slow = Slow::begin(&other, "500 No");
    deliver(dir.path(), &hosts)?;
    rig.until(BOTH, "health_check.name.a.healthy", 2).await?;
    slow.waits(2).await?;
    rig.note("one check passed, the other one waits", &hosts).await?;
    says(&other, "/a", "500 No");
    rig.until(BOTH, "health_check.name.a.healthy", 1).await?;
    rig.note("one failed, the other one waits", &hosts).await?;
    says(&other, "/a", "200 OK");
    rig.until(BOTH, "health_check.name.a.healthy", 2).await?;
    let slow = slow.next("200 OK");
    rig.until(BOTH, "health_check.name.b.failure", 1).await?;
    rig.until(BOTH, "membership_excluded", 0).await?;
    rig.note("the other one failed", &hosts).await?;
    slow.end("200 OK");
    rig.until(BOTH, "membership_healthy", 2).await?;
    rig.note("both passed", &hosts).await?;
    let slow = Slow::begin(&other, "200 OK");
    slow.waits(2).await?;
    deliver(dir.path(), &[&first])?;
    rig.until(BOTH, "update_success", 3).await?;
    rig.note("not delivered any more, one waits", &hosts).await?;
    says(&other, "/a", "500 No");
    rig.until(BOTH, "membership_total", 1).await?;
    rig.note("and one failed", &hosts).await?;
    rig.proxy.stop().await?;
    Ok(rig.facts)
}

/// Requests while checks change.
async fn requests(binary: &Binary) -> Result<Vec<String>> {
    let (host, checked) = (Upstream::start().await?, Upstream::start().await?);
    host.answer(Reply::raw(head("200 OK")));
    says(&checked, "/a", "200 OK");
    says(&checked, "/b", "200 OK");
    let cluster = format!(
        "- name: c\n  connect_timeout: 1s\n  {}\n  load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{health_check_config: {{port_value: {}}}, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
        checks(),
        checked.addr().port(),
        host.addr().port()
    );
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: c}");
    let proxy = Proxy::start(binary, &bootstrap(&[listener.yaml()], &[cluster], "")).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let mut rig = Rig { proxy, facts: Vec::new() };
    let mut request = async || {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        client.response("GET", SOON).await
    };
    let (a, b) = ("health_check.name.a.healthy", "health_check.name.b.healthy");
    let hosts = [&host];
    rig.until(&["c"], "membership_healthy", 1).await?;
    request().await?;
    says(&checked, "/b", "500 No");
    rig.until(&["c"], b, 0).await?;
    rig.until(&["c"], "upstream_cx_destroy", 1).await?;
    // What the other check finds ends no connection from now on.
    for _ in 0..3 {
        request().await?;
        says(&checked, "/a", "500 No");
        rig.until(&["c"], a, 0).await?;
        request().await?;
        says(&checked, "/a", "200 OK");
        rig.until(&["c"], a, 1).await?;
    }
    request().await?;
    rig.note("one fails, and the other one now and then", &hosts).await?;
    says(&checked, "/b", "200 OK");
    rig.until(&["c"], "membership_healthy", 1).await?;
    // An answer to a request says that checks fail: that is for the last one to take back.
    let slow = Slow::begin(&checked, "200 OK");
    slow.waits(1).await?;
    host.answer(Reply::raw(head(&format!("200 OK{IMMEDIATE}"))));
    request().await?;
    rig.until(&["c"], "membership_excluded", 1).await?;
    // (The workers end the connection when they are told.)
    rig.until(&["c"], "upstream_cx_destroy", 2).await?;
    rig.note("an answer", &hosts).await?;
    for (answer, healthy) in [("500 No", 0), ("200 OK", 1), ("500 No", 0)] {
        says(&checked, "/a", answer);
        rig.until(&["c"], a, healthy).await?;
        rig.note("the other check", &hosts).await?;
    }
    slow.end("200 OK");
    rig.until(&["c"], b, 1).await?;
    rig.note("the last one passes, the other one does not", &hosts).await?;
    says(&checked, "/a", "200 OK");
    rig.until(&["c"], "membership_healthy", 1).await?;
    rig.note("both pass", &hosts).await?;
    says(&checked, "/a", &format!("503 No{IMMEDIATE}"));
    rig.until(&["c"], "membership_healthy", 0).await?;
    rig.note("a check is answered so", &hosts).await?;
    rig.proxy.stop().await?;
    Ok(rig.facts)
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let mut facts = coming_and_going(binary).await?;
    facts.extend(requests(binary).await?);
    Ok(facts)
}

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(run(reference), run(subject))?;
    expect_same(&wanted, &found)
}
