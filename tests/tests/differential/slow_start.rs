//! Slow start (`slow_start_config`): how much hosts get that are new, again or for the first time, beside others that are not.
//!
//! With an `aggression` of 0.1 a host has its least weight, a quarter, until most of its window is over, so that the shares of round
//! robin are a schedule: 4 to 4 to 1.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

const WINDOW: Duration = Duration::from_secs(5);
/// Until then a quarter is more than `(age / window) ^ 10`.
const LEAST: f64 = 0.87;
/// Ten turns of the schedule.
const REQUESTS: usize = 90;
const SLOWLY: &str = "slow_start_config: {slow_start_window: 5s, aggression: {default_value: 0.1, runtime_key: none}, min_weight_percent: {value: 25}}";
const CHECK: &str = "health_checks: [{timeout: 60s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /check}}]";
const OUTLIERS: &str = "outlier_detection: {consecutive_5xx: 3, enforcing_consecutive_5xx: 100, enforcing_success_rate: 0, consecutive_gateway_failure: 1000, interval: 0.05s, base_ejection_time: 0.05s, max_ejection_time_jitter: 0s, max_ejection_percent: 50}";

/// A cluster each, and a route that is called like it.
const CLUSTERS: [(&str, &str); 3] = [("checked", CHECK), ("delivered", ""), ("ejected", OUTLIERS)];

fn answer(status: &str, body: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// Delivers hosts to a cluster; the third one as ill, if it is there at all.
fn deliver(dir: &Path, cluster: &str, hosts: &[&Upstream], third: &str) -> Result<()> {
    let mut text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: {cluster}\n  endpoints:\n  - lb_endpoints:\n"
    );
    for (number, host) in hosts.iter().enumerate() {
        let port = host.addr().port();
        let health = if number == 2 { third } else { "HEALTHY" };
        text.push_str(&format!(
            "    - {{health_status: {health}, endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}\n"
        ));
    }
    let path = dir.join(format!("{cluster}.yaml"));
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

struct Rig {
    proxy: Proxy,
    hosts: Vec<Upstream>,
    client: Client,
    facts: Vec<String>,
}

impl Rig {
    async fn start(binary: &Binary, dir: &Path) -> Result<Self> {
        let mut hosts = Vec::new();
        for number in 0..3 {
            let host = Upstream::start().await?;
            host.answer(answer("200 OK", &number.to_string()));
            hosts.push(host);
        }
        let all: Vec<&Upstream> = hosts.iter().collect();
        let (mut clusters, mut routes) = (Vec::new(), String::new());
        for (name, more) in CLUSTERS {
            let hosts = if name == "delivered" { &all[..2] } else { &all };
            deliver(dir, name, hosts, "HEALTHY")?;
            clusters.push(format!(
                "- name: {name}\n  type: EDS\n  connect_timeout: 1s\n  eds_cluster_config: {{eds_config: {{path_config_source: {{path: {}}}}}}}\n  round_robin_lb_config: {{{SLOWLY}}}\n  common_lb_config: {{update_merge_window: 0s}}\n  {more}\n",
                dir.join(format!("{name}.yaml")).display()
            ));
            routes.push_str(&format!("- match: {{prefix: /{name}}}\n  route: {{cluster: {name}}}\n"));
        }
        let listener = HttpListener::new("http", &routes).yaml();
        let text = bootstrap(&[listener], &clusters, "node: {id: a, cluster: b}\n");
        let proxy = Proxy::start(binary, &text).await?;
        let client = Client::connect(proxy.listener("http")?).await?;
        Ok(Self { proxy, hosts, client, facts: Vec::new() })
    }

    async fn healthy(&self, cluster: &str, count: i64) -> Result<()> {
        self.until(&format!("cluster.{cluster}.membership_healthy"), count).await
    }

    async fn until(&self, stat: &str, value: i64) -> Result<()> {
        let reached = async || (self.proxy.admin().stat(stat).await.ok()? == value).then_some(());
        eventually(&format!("{stat} of {value} after {:?}", self.facts), SOON, reached).await
    }

    /// Sends a request; which host it went to.
    async fn ask(&mut self, cluster: &str) -> Result<usize> {
        self.client.send(format!("GET /{cluster} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
        let response = self.client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 200, "{cluster}: {:?} after {:?}", response.head, self.facts);
        Ok(String::from_utf8_lossy(&response.body).parse()?)
    }

    /// How many of the requests of ten turns each host gets.
    async fn shares(&mut self, cluster: &str) -> Result<[usize; 3]> {
        let mut shares = [0; 3];
        for _ in 0..REQUESTS {
            *shares.get_mut(self.ask(cluster).await?).context("no such host")? += 1;
        }
        Ok(shares)
    }

    /// Takes down which schedule it is, give or take one where that begins.
    async fn note(&mut self, what: &str, cluster: &str) -> Result<()> {
        let shares = self.shares(cluster).await?;
        let is_near = |expected: [usize; 3]| {
            shares.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 1)
        };
        let schedule = match () {
            () if is_near([30, 30, 30]) => "all the same".to_owned(),
            () if is_near([40, 40, 10]) => "the third has a quarter".to_owned(),
            () if is_near([45, 45, 0]) => "the third has nothing".to_owned(),
            () => format!("{shares:?}"),
        };
        self.facts.push(format!("{cluster}, {what}: {schedule}"));
        Ok(())
    }

    /// The same where nobody is new any more; a host may still have to wait for its turn of the schedule before.
    async fn note_old(&mut self, what: &str, cluster: &str) -> Result<()> {
        for _ in 0..12 {
            self.ask(cluster).await?;
        }
        self.note(what, cluster).await
    }

    /// The same of a host that is new since it was well, which is after `since`.
    async fn note_new(&mut self, what: &str, cluster: &str, since: Instant) -> Result<()> {
        self.note(what, cluster).await?;
        let age = since.elapsed();
        ensure!(age.as_secs_f64() < LEAST * WINDOW.as_secs_f64(), "{REQUESTS} requests took {age:?}");
        Ok(())
    }

    /// Checks of the third host fail, and pass again.
    async fn fails_and_recovers(&mut self, what: &str) -> Result<()> {
        self.hosts[2].answer_at("/check", answer("503 No", ""));
        self.healthy("checked", 2).await?;
        self.note("ill", "checked").await?;
        let since = Instant::now();
        self.hosts[2].answer_at("/check", answer("200 OK", ""));
        self.healthy("checked", 3).await?;
        self.note_new(what, "checked", since).await
    }
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let mut rig = Rig::start(binary, dir.path()).await?;
    rig.healthy("checked", 3).await?;
    rig.note("all are new", "checked").await?;
    // Time is what is tested: of a host that is no longer new.
    tokio::time::sleep(WINDOW).await;
    rig.note_old("nobody is new", "checked").await?;
    rig.fails_and_recovers("it recovers").await?;
    rig.fails_and_recovers("it recovers while it is new").await?;

    let since = Instant::now();
    deliver(dir.path(), "delivered", &rig.hosts.iter().collect::<Vec<_>>(), "HEALTHY")?;
    rig.healthy("delivered", 3).await?;
    rig.note_new("a third one comes", "delivered", since).await?;
    let later = Instant::now();

    rig.note_old("nobody is new", "ejected").await?;
    rig.hosts[2].answer_at("/ejected", answer("500 No", ""));
    let out = async |rig: &mut Rig| {
        rig.client.send(b"GET /ejected HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        rig.client.response("GET", SOON).await
    };
    let ejections = "cluster.ejected.outlier_detection.ejections_enforced_total";
    for _ in 0..9 {
        out(&mut rig).await?;
    }
    rig.until(ejections, 1).await?;
    rig.hosts[2].answer_at("/ejected", answer("200 OK", "2"));
    rig.healthy("ejected", 3).await?;
    rig.note("let back in", "ejected").await?;

    // What was new is not any more.
    tokio::time::sleep((later + WINDOW).saturating_duration_since(Instant::now())).await;
    rig.note_old("the third is old", "delivered").await?;
    rig.note_old("the third is old", "checked").await?;
    for health in ["UNHEALTHY", "HEALTHY"] {
        deliver(dir.path(), "delivered", &rig.hosts.iter().collect::<Vec<_>>(), health)?;
        rig.healthy("delivered", if health == "HEALTHY" { 3 } else { 2 }).await?;
        rig.note(&format!("called {health}"), "delivered").await?;
    }
    rig.proxy.stop().await?;
    Ok(rig.facts)
}

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(run(reference), run(subject))?;
    expect_same(&wanted, &found)?;
    let quarters = wanted.iter().filter(|fact| fact.ends_with("a quarter")).count();
    ensure!(quarters == 3 && wanted.iter().all(|fact| !fact.ends_with(']')), "{wanted:#?}");
    Ok(())
}
