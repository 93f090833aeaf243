//! Several health checks of one cluster: who gets traffic when they do not agree, what each counts, and what all of them.

use std::collections::BTreeMap;

use anyhow::Result;
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use serde_json::Value;

const OFTEN: &str =
    "timeout: 60s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1";
const SELDOM: &str =
    "timeout: 60s, interval: 60s, no_traffic_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1";
const LOG: &str = "event_logger: [{name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, event_log_path: \"{{dir}}/events.log\"}}]";

fn says(head: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n"))
}

/// A check that passes with 200 and this status.
fn check(name: &str, status: u16) -> String {
    format!(
        "{{name: {name}, {OFTEN}, {LOG}, http_health_check: {{path: /, expected_statuses: [{{start: 200, end: 201}}, {{start: {status}, end: {}}}]}}}}",
        status + 1
    )
}

fn cluster(name: &str, checks: &str, host: &Upstream, checked: &Upstream) -> String {
    format!(
        "- name: {name}\n  connect_timeout: 1s\n  health_checks: [{checks}]\n  load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{health_check_config: {{port_value: {}}}, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
        checked.addr().port(),
        host.addr().port()
    )
}

struct Rig {
    proxy: Proxy,
    facts: Vec<String>,
}

impl Rig {
    async fn until(&self, stats: &[(&str, i64)]) -> Result<()> {
        for (stat, value) in stats {
            let stat = format!("cluster.{stat}");
            let reached = async || (self.proxy.admin().stat(&stat).await.ok()? == *value).then_some(());
            eventually(&format!("{stat} of {value} after {:#?}", self.facts), SOON, reached).await?;
        }
        Ok(())
    }

    async fn note(&mut self, what: &str) -> Result<()> {
        let shown = "^cluster.(both|last|one).(health_check.*(healthy|degraded|passive_failure)|membership_)";
        let stats: BTreeMap<String, i64> = self.proxy.admin().stats(shown).await?;
        let clusters = self.proxy.admin().get("/clusters").await?;
        let flags = clusters.lines().filter_map(|line| {
            let (host, flags) = line.split_once("::health_flags::")?;
            Some(format!("{} {flags}", host.split_once("::")?.0))
        });
        let mut flags: Vec<String> = flags.collect();
        flags.sort();
        self.facts.push(format!("{what}: {flags:?} {stats:#?}"));
        Ok(())
    }
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let (host, checked, well) =
        (Upstream::start().await?, Upstream::start().await?, Upstream::start().await?);
    host.answer(says("200 OK\r\nx-envoy-immediate-health-check-fail: true"));
    checked.answer(says("200 OK"));
    well.answer(says("200 OK"));
    let (a, b) = (check("a", 201), check("b", 202));
    let last = format!("{a}, {{name: t, {SELDOM}, tcp_health_check: {{}}}}");
    let clusters = [
        cluster("both", &format!("{a}, {b}"), &host, &checked),
        cluster("last", &last, &host, &well),
        cluster("one", &check("only", 201), &host, &well),
    ];
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: last}");
    let proxy = Proxy::start(binary, &bootstrap(&[listener.yaml()], &clusters, "")).await?;
    let mut rig = Rig { proxy, facts: Vec::new() };
    rig.until(&[
        ("both.membership_healthy", 1),
        ("last.membership_healthy", 1),
        ("one.membership_healthy", 1),
    ])
    .await?;
    rig.note("all are well").await?;
    let (a, b) = ("both.health_check.name.a.healthy", "both.health_check.name.b.healthy");
    for (head, wanted) in [
        ("201 Only a", [(a, 1), (b, 0)]),
        ("500 None", [(a, 0), (b, 0)]),
        ("202 Only b", [(a, 0), (b, 1)]),
        ("200 Both", [(a, 1), (b, 1)]),
    ] {
        checked.answer(says(head));
        rig.until(&wanted).await?;
        rig.note(head).await?;
    }
    checked.answer(says("200 OK\r\nx-envoy-degraded: true"));
    let degraded = ["both.health_check.name.a.degraded", "both.health_check.name.b.degraded"];
    rig.until(&degraded.map(|stat| (stat, 1))).await?;
    rig.note("degraded").await?;
    // What an answer to a request says counts for the last check.
    let mut client = Client::connect(rig.proxy.listener("http")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    client.response("GET", SOON).await?;
    rig.until(&[("last.health_check.name.t.passive_failure", 1)]).await?;
    rig.note("an answer").await?;
    let exposed = rig.proxy.admin().get("/stats/prometheus?filter=health_check.*healthy").await?;
    let mut exposed: Vec<&str> = exposed.lines().filter(|line| line.contains("cluster")).collect();
    exposed.sort_unstable();
    rig.facts.push(format!("{exposed:#?}"));
    let path = rig.proxy.dir().join("events.log");
    let all = async || {
        let events =
            whole_lines(&path).into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        Some(events.collect::<Vec<_>>()).filter(|events| events.len() >= EVENTS)
    };
    let mut events: Vec<String> = Vec::new();
    for mut event in eventually("all events", SOON, all).await? {
        for varies in ["timestamp", "host"] {
            event[varies] = Value::Null;
        }
        events.push(event.to_string());
    }
    events.sort();
    rig.facts.push(format!("{events:#?}"));
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// Four checks that pass at first, two that fail, two that pass again, and two that find the host degraded.
const EVENTS: usize = 4 + 2 + 2 + 2;

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(run(reference), run(subject))?;
    expect_same(&wanted, &found)
}
