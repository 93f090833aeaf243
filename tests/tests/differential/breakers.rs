//! Circuit breakers under held requests: each resource at both priorities, retries by number and by budget, limits of one host,
//! connections made ahead, and what the runtime says of all of these while the proxy runs.
//!
//! A scene is a cluster of its own. After each step all that is shown of its breakers is compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, listener_with_filters, tcp_proxy};
use integration::expect::{SOON, eventually, whole_lines};
use integration::http1::field;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

/// The statistics of a cluster that are compared after each step.
const SHOWN: &str = "(circuit_breakers\\..*|upstream_cx_(overflow|pool_overflow|active|total|preconnect_skipped|none_healthy)|upstream_rq_(pending_overflow|active_overflow|pending_active|pending_total|active|total|retry|retry_overflow|retry_limit_exceeded|retry_success|maintenance_mode|503))";

const RUNTIME: &str = "layered_runtime: {layers: [{name: s, static_layer: {circuit_breakers.ruled-at-start.default.max_requests: 1, circuit_breakers.ruled-at-start.high.max_requests: 0, upstream.maintenance_mode.maintained-at-start: 100}}, {name: a, admin_layer: {}}]}\n";

/// Clusters: name, fields besides those of its hosts, and how many hosts.
const CLUSTERS: &[(&str, &str, usize)] = &[
    (
        "connections",
        "circuit_breakers: {thresholds: [{max_connections: 1, track_remaining: true}, {priority: HIGH, max_connections: 1, track_remaining: true}]}",
        1,
    ),
    (
        "pending",
        "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1, track_remaining: true}, {priority: HIGH, max_connections: 1, max_pending_requests: 1, track_remaining: true}]}",
        1,
    ),
    (
        "requests",
        "circuit_breakers: {thresholds: [{max_requests: 2, track_remaining: true}, {priority: HIGH, max_requests: 2, track_remaining: true}]}",
        1,
    ),
    (
        "retries",
        "circuit_breakers: {thresholds: [{max_retries: 1, track_remaining: true}, {priority: HIGH, max_retries: 1, track_remaining: true}]}",
        1,
    ),
    (
        "pools",
        "circuit_breakers: {thresholds: [{max_connection_pools: 1, track_remaining: true}, {priority: HIGH, max_connection_pools: 1, track_remaining: true}]}",
        2,
    ),
    (
        "untracked",
        "circuit_breakers: {thresholds: [{max_requests: 2}, {priority: HIGH, max_requests: 2}]}",
        1,
    ),
    ("usual", "", 1),
    ("no-connections", "circuit_breakers: {thresholds: [{max_connections: 0, track_remaining: true}]}", 1),
    ("no-pending", "circuit_breakers: {thresholds: [{max_pending_requests: 0, track_remaining: true}]}", 1),
    ("no-requests", "circuit_breakers: {thresholds: [{max_requests: 0, track_remaining: true}]}", 1),
    ("no-retries", "circuit_breakers: {thresholds: [{max_retries: 0, track_remaining: true}]}", 1),
    ("no-pools", "circuit_breakers: {thresholds: [{max_connection_pools: 0, track_remaining: true}]}", 1),
    (
        "host",
        "circuit_breakers: {thresholds: [{track_remaining: true}], per_host_thresholds: [{max_connections: 1}]}",
        1,
    ),
    (
        "two-hosts",
        "circuit_breakers: {thresholds: [{track_remaining: true}], per_host_thresholds: [{max_connections: 1}]}",
        2,
    ),
    ("host-high", "circuit_breakers: {per_host_thresholds: [{priority: HIGH, max_connections: 1}]}", 1),
    (
        "budget-half",
        "circuit_breakers: {thresholds: [{track_remaining: true, retry_budget: {budget_percent: {value: 50}, min_retry_concurrency: 0}}]}",
        1,
    ),
    ("budget-usual", "circuit_breakers: {thresholds: [{track_remaining: true, retry_budget: {}}]}", 1),
    (
        "budget-third",
        "circuit_breakers: {thresholds: [{max_retries: 0, retry_budget: {budget_percent: {value: 33.4}, min_retry_concurrency: 1}}]}",
        1,
    ),
    (
        "budget-high",
        "circuit_breakers: {thresholds: [{priority: HIGH, retry_budget: {budget_percent: {value: 25}, min_retry_concurrency: 0}}]}",
        1,
    ),
    (
        "budget-pending",
        "circuit_breakers: {thresholds: [{max_connections: 1, retry_budget: {budget_percent: {value: 50}, min_retry_concurrency: 0}}]}",
        1,
    ),
    (
        "budget-recent",
        "circuit_breakers: {thresholds: [{track_remaining: true, retry_budget: {budget_percent: {value: 20}, min_retry_concurrency: 0, budget_interval: 1000s}}]}",
        1,
    ),
    (
        "budget-no-interval",
        "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 50}, min_retry_concurrency: 0, budget_interval: 0.0009s}}]}",
        1,
    ),
    (
        "ahead",
        "preconnect_policy: {per_upstream_preconnect_ratio: 1.5}, circuit_breakers: {thresholds: [{track_remaining: true}]}",
        1,
    ),
    (
        "ahead-limited",
        "preconnect_policy: {per_upstream_preconnect_ratio: 3}, circuit_breakers: {thresholds: [{max_connections: 2, track_remaining: true}]}",
        1,
    ),
    (
        "ruled",
        "circuit_breakers: {thresholds: [{track_remaining: true}, {priority: HIGH, track_remaining: true}]}",
        1,
    ),
    ("ruled-retries", "circuit_breakers: {thresholds: [{track_remaining: true}]}", 1),
    ("ruled-budget", "circuit_breakers: {thresholds: [{max_retries: 1, track_remaining: true}]}", 1),
    ("ruled-pools", "circuit_breakers: {thresholds: [{track_remaining: true}]}", 2),
    ("ruled-at-start", "circuit_breakers: {thresholds: [{track_remaining: true}]}", 1),
    ("maintained", "", 1),
    ("maintained-at-start", "alt_stat_name: maintained-other", 1),
    ("streams", "circuit_breakers: {thresholds: [{max_connections: 2, track_remaining: true}]}", 1),
];

fn failed() -> Reply {
    Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
}

fn never() -> Reply {
    Reply::steps([Step::Stall])
}

/// The path of the last request.
const LAST: &str = "/usual/last";

fn configuration(hosts: &[Upstream]) -> String {
    let mut routes = String::new();
    let mut clusters = Vec::new();
    let retry = "retry_policy: {retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}}";
    for (name, fields, count) in CLUSTERS {
        for (path, more) in [
            ("high/again", format!("priority: HIGH, {retry}")),
            ("high", "priority: HIGH".to_owned()),
            ("again", retry.to_owned()),
            ("", "timeout: 60s".to_owned()),
        ] {
            let _ =
                writeln!(routes, "- match: {{prefix: /{name}/{path}}}\n  route: {{cluster: {name}, {more}}}");
        }
        let endpoints: Vec<String> = hosts[..*count]
            .iter()
            .map(|host| {
                format!(
                    "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
                    host.addr().port()
                )
            })
            .collect();
        clusters.push(format!(
            "- {{name: {name}, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}, {fields}}}\n",
            endpoints.join(", ")
        ));
    }
    let listeners = [
        HttpListener::new("http", &routes).yaml(),
        listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: streams")),
    ];
    bootstrap(&listeners, &clusters, RUNTIME)
}

/// One proxy, its hosts, and what was seen so far.
struct Stage<'s> {
    proxy: &'s Proxy,
    hosts: &'s [Upstream],
    seen: Vec<String>,
}

/// One cluster at work.
struct Scene<'s, 't> {
    stage: &'t mut Stage<'s>,
    cluster: &'static str,
    /// What requests are sent to.
    path: String,
    held: Vec<Client>,
}

impl<'s> Stage<'s> {
    fn scene(&mut self, cluster: &'static str, priority: &str) -> Scene<'s, '_> {
        Scene { stage: self, cluster, path: format!("/{cluster}/{priority}"), held: Vec::new() }
    }
}

impl Scene<'_, '_> {
    fn tell(&mut self, what: String) {
        self.stage.seen.push(format!("{}: {what}", self.path));
    }

    /// Waits until a statistic of the cluster has a value; that it never has is seen, too.
    async fn until(&mut self, stat: &str, value: i64) -> Result<()> {
        let name = format!("cluster.{}.{stat}", self.cluster);
        let proxy = self.stage.proxy;
        let reached = async || (proxy.admin().stat(&name).await.ok()? == value).then_some(());
        if eventually(&name, SOON, reached).await.is_err() {
            let is = proxy.admin().stat(&name).await?;
            self.tell(format!("{stat} is never {value} but {is}"));
        }
        Ok(())
    }

    async fn note(&mut self, what: &str) -> Result<()> {
        let shown = format!("^cluster\\.{}\\.{SHOWN}$", self.cluster);
        let stats: BTreeMap<String, i64> = self.stage.proxy.admin().stats(&shown).await?;
        let prefix = format!("cluster.{}.", self.cluster);
        let mut text = format!("{what}:");
        // (What the runtime leaves is shown at once; in Envoy when something is taken or given back.)
        let is_late = |name: &str| self.cluster.starts_with("ruled") && name.contains("remaining");
        for (name, value) in stats.iter().filter(|(name, value)| **value != 0 && !is_late(name)) {
            let _ = write!(text, " {}={value}", name.strip_prefix(&prefix).unwrap_or(name));
        }
        self.tell(text);
        Ok(())
    }

    /// What `/clusters` says of the limits.
    async fn note_limits(&mut self) -> Result<()> {
        let text = self.stage.proxy.admin().get("/clusters").await?;
        let prefix = format!("{}::", self.cluster);
        let limits = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let limits: Vec<&str> = limits.filter(|line| line.contains("_priority::")).collect();
        self.tell(limits.join(" "));
        Ok(())
    }

    /// Begins a request that ends when it is released.
    async fn hold(&mut self) -> Result<()> {
        let mut client = Client::connect(self.stage.proxy.listener("http")?).await?;
        let head = format!("POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n", self.path);
        client.send(head.as_bytes()).await?;
        self.held.push(client);
        Ok(())
    }

    /// The same, when the request is on its way: so many are then.
    async fn hold_active(&mut self, count: i64) -> Result<()> {
        self.hold().await?;
        self.until("upstream_rq_active", count).await
    }

    async fn hold_pending(&mut self, count: i64) -> Result<()> {
        self.hold().await?;
        self.until("upstream_rq_pending_active", count).await
    }

    /// Ends the first of the requests that are held.
    async fn release(&mut self) -> Result<()> {
        let mut client = self.held.remove(0);
        client.send(b"ab").await?;
        let response = client.response("POST", SOON).await;
        let response =
            response.with_context(|| format!("{}: release after {:?}", self.path, self.stage.seen.last()))?;
        let status = response.head.status()?;
        self.tell(format!("released: {status}"));
        Ok(())
    }

    async fn release_all(&mut self) -> Result<()> {
        while !self.held.is_empty() {
            self.release().await?;
        }
        self.until("upstream_rq_active", 0).await
    }

    /// A request that is answered at once.
    async fn ask(&mut self) -> Result<()> {
        self.ask_at("").await
    }

    async fn ask_at(&mut self, below: &str) -> Result<()> {
        let mut client = Client::connect(self.stage.proxy.listener("http")?).await?;
        let head = format!("GET {}{below} HTTP/1.1\r\nhost: a\r\n\r\n", self.path);
        client.send(head.as_bytes()).await?;
        let response = client.response("GET", SOON).await;
        let response =
            response.with_context(|| format!("{}: after {:?}", self.path, self.stage.seen.last()))?;
        let overloaded = field(&response.head.fields, "x-envoy-overloaded");
        let body = String::from_utf8_lossy(&response.body);
        let text = format!("asked{below}: {} {overloaded:?} {body}", response.head.status()?);
        self.tell(text);
        Ok(())
    }

    /// Retries until no more are allowed; they go on until the clients leave.
    async fn retry(&mut self, below: &str, tries: usize) -> Result<()> {
        let (proxy, host) = (self.stage.proxy, &self.stage.hosts[0]);
        let counts = format!("^cluster\\.{}\\.upstream_rq_retry(_overflow)?$", self.cluster);
        let mut clients = Vec::new();
        for _ in 0..tries {
            let before = proxy.admin().stats(&counts).await?;
            let received = host.received().len();
            host.script([failed(), never()]);
            let mut client = Client::connect(proxy.listener("http")?).await?;
            client.send(format!("GET {}{below} HTTP/1.1\r\nhost: a\r\n\r\n", self.path).as_bytes()).await?;
            let decided = async || proxy.admin().stats(&counts).await.ok().filter(|counts| *counts != before);
            let after = eventually("a decision about a retry", SOON, decided).await?;
            let is_retried = after
                .iter()
                .any(|(name, count)| name.ends_with("upstream_rq_retry") && Some(count) != before.get(name));
            self.tell(format!("retried: {is_retried}"));
            if is_retried {
                let again = async || (host.received().len() == received + 2).then_some(());
                eventually("the retry at the host", SOON, again).await?;
                clients.push(client);
            } else {
                client.response("GET", SOON).await?;
            }
            host.script([]);
        }
        self.note("retried").await?;
        drop(clients);
        self.until("upstream_rq_active", i64::try_from(self.held.len())?).await?;
        self.note("no longer").await
    }

    /// The runtime says something else from now on.
    async fn rule(&mut self, changes: &str) -> Result<()> {
        let answer = self.stage.proxy.admin().request("POST", &format!("/runtime_modify?{changes}")).await?;
        ensure!(answer.status == 200, "{}", answer.body);
        self.tell(format!("the runtime says {changes}"));
        Ok(())
    }
}

const PRIORITIES: [&str; 2] = ["", "high"];

async fn numbers(stage: &mut Stage<'_>) -> Result<()> {
    for priority in PRIORITIES {
        let mut scene = stage.scene("connections", priority);
        scene.note("nothing").await?;
        scene.hold_active(1).await?;
        scene.note("one").await?;
        scene.hold_pending(1).await?;
        scene.note("two").await?;
        scene.release_all().await?;
        scene.note("none again").await?;

        let mut scene = stage.scene("pending", priority);
        scene.hold_active(1).await?;
        scene.hold_pending(1).await?;
        scene.note("one waits").await?;
        scene.ask().await?;
        scene.note("one more was refused").await?;
        scene.release_all().await?;
        scene.note("none again").await?;

        for cluster in ["requests", "untracked"] {
            let mut scene = stage.scene(cluster, priority);
            scene.hold_active(1).await?;
            scene.note("one").await?;
            scene.hold_active(2).await?;
            scene.note("two").await?;
            scene.ask().await?;
            scene.note("three were too many").await?;
            scene.release().await?;
            scene.until("upstream_rq_active", 1).await?;
            scene.note("one less").await?;
            scene.release_all().await?;
            scene.note("none again").await?;
        }

        let mut scene = stage.scene("pools", priority);
        scene.hold_active(1).await?;
        scene.note("one host").await?;
        scene.ask().await?;
        scene.note("the other").await?;
        scene.release_all().await?;
        scene.note("none again").await?;
    }
    for (cluster, priority) in [("host", ""), ("two-hosts", ""), ("host-high", "high"), ("host-high", "")] {
        let mut scene = stage.scene(cluster, priority);
        let hosts =
            if cluster == "two-hosts" || priority.is_empty() && cluster == "host-high" { 2 } else { 1 };
        for count in 1..=hosts {
            scene.hold_active(count).await?;
        }
        if (cluster, priority) == ("host-high", "") {
            scene.note("not limited").await?;
        } else {
            scene.hold_pending(1).await?;
            scene.note("one waits for a host").await?;
        }
        scene.release_all().await?;
        scene.note("none again").await?;
    }
    Ok(())
}

async fn limits_of_nothing(stage: &mut Stage<'_>) -> Result<()> {
    for cluster in ["no-connections", "no-pending", "no-requests", "no-pools"] {
        let mut scene = stage.scene(cluster, "");
        scene.note("nothing").await?;
        scene.ask().await?;
        scene.note("asked").await?;
    }
    let mut scene = stage.scene("no-retries", "");
    scene.stage.hosts[0].script([failed()]);
    scene.ask_at("again").await?;
    scene.note("not again").await?;
    let mut scene = stage.scene("usual", "");
    scene.hold_active(1).await?;
    scene.note("one").await?;
    scene.note_limits().await?;
    scene.release_all().await
}

async fn retries(stage: &mut Stage<'_>) -> Result<()> {
    for priority in PRIORITIES {
        let below = if priority.is_empty() { "again" } else { "/again" };
        stage.scene("retries", priority).retry(below, 2).await?;
    }
    for (cluster, requests, tries) in [
        ("budget-half", 0, 1),
        ("budget-half", 3, 3),
        ("budget-usual", 2, 4),
        ("budget-third", 5, 3),
        ("budget-third", 0, 2),
        ("budget-high", 7, 3),
        ("budget-recent", 2, 7),
        ("budget-recent", 0, 9),
        ("budget-recent", 5, 5),
        ("budget-no-interval", 3, 3),
    ] {
        let priority = if cluster == "budget-high" { "high" } else { "" };
        let mut scene = stage.scene(cluster, priority);
        for count in 1..=requests {
            scene.hold_active(count).await?;
        }
        let below = if priority.is_empty() { "again" } else { "/again" };
        scene.retry(below, tries).await?;
        scene.release_all().await?;
        scene.note("none again").await?;
    }
    Ok(())
}

async fn ahead(stage: &mut Stage<'_>) -> Result<()> {
    let mut scene = stage.scene("ahead", "");
    for (requests, connections) in [(1, 2), (2, 3), (3, 5)] {
        scene.hold_active(requests).await?;
        scene.until("upstream_cx_active", connections).await?;
        scene.note("made ahead").await?;
    }
    scene.release_all().await?;
    let mut scene = stage.scene("ahead-limited", "");
    scene.hold_active(1).await?;
    scene.until("upstream_cx_active", 2).await?;
    scene.note("made ahead as far as allowed").await?;
    scene.hold_active(2).await?;
    scene.note("no more").await?;
    scene.release_all().await?;
    Ok(())
}

async fn runtime(stage: &mut Stage<'_>) -> Result<()> {
    for (priority, name) in [("", "default"), ("high", "high")] {
        let of = |limit: &str| format!("circuit_breakers.ruled.{name}.{limit}");
        let mut scene = stage.scene("ruled", priority);
        scene.hold_active(1).await?;
        scene.rule(&format!("{}=1", of("max_requests"))).await?;
        scene.note_limits().await?;
        scene.ask().await?;
        scene.note("one request").await?;
        scene.rule(&format!("{}=2", of("max_requests"))).await?;
        scene.ask().await?;
        scene.note("two requests").await?;
        scene
            .rule(&format!(
                "{}=&{}=1&{}=1",
                of("max_requests"),
                of("max_connections"),
                of("max_pending_requests")
            ))
            .await?;
        scene.note_limits().await?;
        scene.hold().await?;
        scene.until("upstream_rq_active", 2).await?;
        scene.hold_pending(1).await?;
        scene.note("connections and who waits").await?;
        scene.ask().await?;
        scene.note("one more").await?;
        scene.rule(&format!("{}=&{}=", of("max_connections"), of("max_pending_requests"))).await?;
        scene.release_all().await?;
        scene.ask().await?;
        scene.note("as before").await?;
        scene.note_limits().await?;
    }
    let mut scene = stage.scene("ruled-retries", "");
    scene.rule("circuit_breakers.ruled-retries.default.max_retries=1").await?;
    scene.note_limits().await?;
    scene.retry("again", 2).await?;
    let mut scene = stage.scene("ruled-budget", "");
    scene.hold_active(1).await?;
    scene.hold_active(2).await?;
    scene.hold_active(3).await?;
    scene.rule("circuit_breakers.ruled-budget.default.retry_budget.budget_percent=50&circuit_breakers.ruled-budget.default.retry_budget.min_retry_concurrency=0").await?;
    scene.note_limits().await?;
    scene.retry("again", 3).await?;
    scene.rule("circuit_breakers.ruled-budget.default.retry_budget.budget_percent=&circuit_breakers.ruled-budget.default.retry_budget.min_retry_concurrency=").await?;
    scene.note_limits().await?;
    scene.release_all().await?;
    let mut scene = stage.scene("ruled-pools", "");
    scene.rule("circuit_breakers.ruled-pools.default.max_connection_pools=1").await?;
    scene.hold_active(1).await?;
    scene.ask().await?;
    scene.note("one pool").await?;
    scene.release_all().await?;
    let mut scene = stage.scene("ruled-at-start", "");
    scene.note_limits().await?;
    scene.hold_active(1).await?;
    scene.ask().await?;
    scene.note("one request").await?;
    scene.release_all().await?;
    let mut scene = stage.scene("ruled-at-start", "high");
    scene.ask().await?;
    scene.note("none").await
}

async fn maintenance(stage: &mut Stage<'_>) -> Result<()> {
    let mut scene = stage.scene("maintained", "");
    for share in ["100", "0", "100", "", "%7Bnumerator:100%7D", "1000"] {
        scene.rule(&format!("upstream.maintenance_mode.maintained={share}")).await?;
        scene.ask().await?;
    }
    scene.ask_at("again").await?;
    scene.note("maintained").await?;
    scene.rule("upstream.maintenance_mode.maintained=").await?;
    stage.scene("maintained-at-start", "").ask().await?;
    let stats = stage
        .proxy
        .admin()
        .stats("upstream_rq_maintenance_mode$|maintained.*upstream_rq_(503|5xx|completed|total)$")
        .await?;
    stage.seen.push(format!("{:?}", stats.into_iter().filter(|(_, value)| *value != 0).collect::<Vec<_>>()));
    Ok(())
}

/// Connections of clients that are no requests.
async fn streams(stage: &mut Stage<'_>) -> Result<()> {
    let proxy = stage.proxy;
    let mut scene = stage.scene("streams", "");
    let mut clients = Vec::new();
    for count in 1..=2 {
        clients.push(Client::connect(proxy.listener("tcp")?).await?);
        scene.until("upstream_cx_active", count).await?;
        scene.note("connected").await?;
    }
    let mut client = Client::connect(proxy.listener("tcp")?).await?;
    let end = client.end_within(SOON).await;
    scene.tell(format!("a third one: {end:?}"));
    scene.note("three").await?;
    drop(clients);
    scene.until("upstream_cx_active", 0).await?;
    scene.note("none").await
}

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    // (They answer when a request is complete.)
    let hosts = [Upstream::start().await?, Upstream::start().await?];
    let proxy = Proxy::start(binary, &configuration(&hosts)).await?;
    let mut stage = Stage { proxy: &proxy, hosts: &hosts, seen: Vec::new() };
    numbers(&mut stage).await.context("numbers")?;
    limits_of_nothing(&mut stage).await.context("limits of nothing")?;
    retries(&mut stage).await.context("retries")?;
    ahead(&mut stage).await.context("ahead")?;
    runtime(&mut stage).await.context("runtime")?;
    maintenance(&mut stage).await.context("maintenance")?;
    streams(&mut stage).await.context("streams")?;
    stage.scene("usual", "").ask_at("last").await?;
    let mut seen = stage.seen;
    let path = proxy.dir().join("access.log");
    let is_there = async || {
        let lines = whole_lines(&path);
        lines.iter().any(|line| line.contains(LAST)).then_some(lines)
    };
    let lines = eventually("the last request in the log", SOON, is_there).await?;
    seen.extend(lines.into_iter().filter(|line| line.contains("maintenance_mode")));
    proxy.stop().await?;
    Ok(seen)
}

/// What is refused, and what is shown of it.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(async { observe(reference).await.context("Envoy") }, async {
        observe(subject).await.context("here")
    })?;
    let mut differences = String::new();
    let mut rest = found.iter();
    for wanted in &wanted {
        let found = rest.next();
        if found != Some(wanted) {
            let _ =
                writeln!(differences, "Envoy {wanted}\nhere  {}", found.map_or("nothing", String::as_str));
        }
    }
    ensure!(differences.is_empty() && wanted.len() == found.len(), "{differences}");
    Ok(())
}
