//! Health discovery: what a service is told of the hosts that it wants checked, and what is counted of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::config::{H2_CLUSTER, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::health_service::HealthService;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use xds_api::envoy::config::core::v3::address::Address;
use xds_api::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_api::envoy::config::core::v3::{Locality, SocketAddress};
use xds_api::envoy::config::endpoint::v3::Endpoint;
use xds_api::envoy::service::health::v3::{EndpointHealth, EndpointHealthResponse, HealthCheckSpecifier};
use xds_api::read::{Options, Source, read};

const NODE: &str = "node: {id: me, cluster: mine, metadata: {a: b}, locality: {zone: z}}\n";
const HDS: &str = "hds_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: service}, initial_metadata: [{key: x-a, value: b}]}]}\n";
/// So that each host is checked once and no more.
const ONCE: &str =
    "timeout: 60s, interval: 60s, no_traffic_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1";

fn ok() -> Reply {
    Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
}

fn specifier(text: &str) -> Result<HealthCheckSpecifier> {
    let read = read(&Source::yaml("specifier", text.as_bytes()), &Options::default());
    Ok(read.with_context(|| text.to_owned())?.message)
}

/// A proxy, its service, and hosts of which facts tell by their number.
struct Rig {
    proxy: Proxy,
    service: HealthService,
    hosts: Vec<SocketAddr>,
    facts: Vec<String>,
}

impl Rig {
    async fn start(binary: &Binary, hosts: &[&Upstream]) -> Result<Self> {
        let service = HealthService::start().await?;
        let text = bootstrap(&[], &[cluster("service", "service", H2_CLUSTER)], &format!("{NODE}{HDS}"));
        let proxy = Proxy::start(binary, &fill(&text, [("service", port(service.addr()))])).await?;
        let hosts = hosts.iter().map(|host| host.addr()).collect();
        let rig = Self { proxy, service, hosts, facts: Vec::new() };
        rig.introduced(0).await?;
        Ok(rig)
    }

    /// Waits for a call.
    async fn introduced(&self, call: usize) -> Result<()> {
        let called = async || self.service.introduction(call).map(drop);
        eventually("a call", SOON, called).await
    }

    fn tell(&self, text: &str) -> Result<()> {
        let ports: Vec<(String, String)> =
            self.hosts.iter().enumerate().map(|(number, host)| (format!("h{number}"), port(*host))).collect();
        let ports = ports.iter().map(|(name, port)| (name.as_str(), port.clone()));
        self.service.tell(&specifier(&fill(text, ports))?);
        Ok(())
    }

    /// Waits until a statistic has a value.
    async fn until(&self, stat: &str, value: i64) -> Result<()> {
        let reached = async || (self.proxy.admin().stat(stat).await.ok()? == value).then_some(());
        let reached = eventually(&format!("{stat} of {value} after {:#?}", self.facts), SOON, reached).await;
        reached.with_context(|| self.proxy.log_tail())
    }

    /// The first report from now on that says this.
    async fn report_with(&self, is_wanted: impl Fn(&str) -> bool) -> Result<String> {
        let call = self.service.calls() - 1;
        // (What is under way may be older.)
        let known = self.service.reports(call).len() + 1;
        let told = async || {
            let reports = self.service.reports(call);
            reports.iter().skip(known).map(|report| self.told(report)).find(|report| is_wanted(report))
        };
        let told = eventually("a report", SOON, told).await;
        told.with_context(|| {
            let last = self.service.reports(call).last().map(|report| self.told(report));
            format!("{} after {:#?}", last.unwrap_or_default(), self.facts)
        })
    }

    fn told(&self, report: &Option<EndpointHealthResponse>) -> String {
        let Some(report) = report else { return "nothing".to_owned() };
        let mut lines = Vec::new();
        for cluster in &report.cluster_endpoints_health {
            lines.push(format!("of {:?}", cluster.cluster_name));
            for group in &cluster.locality_endpoints_health {
                let locality = group
                    .locality
                    .as_ref()
                    .map(|Locality { region, zone, sub_zone }| format!("{region}/{zone}/{sub_zone}"));
                lines.push(format!("  {locality:?}"));
                lines.extend(group.endpoints_health.iter().map(|one| format!("    {}", self.of_host(one))));
            }
        }
        #[allow(deprecated)]
        let all: Vec<String> = report.endpoints_health.iter().map(|one| self.of_host(one)).collect();
        lines.push(format!("in all {}", all.join(", ")));
        lines.join("\n")
    }

    fn of_host(&self, health: &EndpointHealth) -> String {
        let mut endpoint = health.endpoint.clone().unwrap_or_default();
        let mut number = None;
        if let Some(address) = endpoint.address.take()
            && let Some(Address::SocketAddress(mut socket)) = address.address
            && let Some(PortSpecifier::PortValue(port)) = socket.port_specifier.take()
            && std::mem::take(&mut socket.address) == "127.0.0.1"
            && socket == SocketAddress::default()
        {
            number = self.hosts.iter().position(|host| u32::from(host.port()) == port);
        }
        let number =
            number.map_or_else(|| format!("{:?}", health.endpoint), |number| format!("host {number}"));
        let rest = if endpoint == Endpoint::default() { String::new() } else { format!("{endpoint:?}") };
        let metadata = health.health_metadata.as_ref();
        let metadata = metadata.map(|metadata| {
            metadata.fields.iter().map(|(name, value)| format!("{name} {:?}", value.kind)).collect::<Vec<_>>()
        });
        format!("{number} {} {metadata:?} {rest}", health.health_status().as_str_name())
    }

    async fn note(&mut self, what: &str, fact: &str) -> Result<()> {
        let stats: BTreeMap<String, i64> =
            self.proxy.admin().stats("^(hds_delegate|cluster\\.(one\\.|two\\.|)\\.?health_check)").await?;
        let stats: BTreeMap<_, _> =
            stats.into_iter().filter(|(name, value)| *value != 0 && !name.ends_with("responses")).collect();
        self.facts.push(format!("{what}:\n{fact}\n{stats:#?}"));
        Ok(())
    }
}

fn endpoint(number: usize) -> String {
    format!("{{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{h{number}}}}}}}}}}}")
}

fn endpoints(numbers: &[usize]) -> String {
    numbers.iter().map(|number| endpoint(*number)).collect::<Vec<_>>().join(", ")
}

/// How a proxy introduces itself, and what it tells of hosts that answer in every way.
async fn first(binary: &Binary) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for _ in 0..6 {
        hosts.push(Upstream::start().await?);
    }
    let says = |text: &str| Reply::raw(format!("HTTP/1.1 {text}\r\ncontent-length: 0\r\n\r\n"));
    hosts[0].answer(ok());
    hosts[1].answer(says("500 X"));
    hosts[2].answer(says("200 OK\r\nx-envoy-degraded: true"));
    hosts[3].answer(Reply::steps([Step::Stall]));
    hosts[4].answer(Reply::steps([Step::Close]));
    let mut rig = Rig::start(binary, &hosts.iter().collect::<Vec<_>>()).await?;
    let introduction = rig.service.introduction(0).context("an introduction")?;
    let node = introduction.node.unwrap_or_default();
    let node = (node.id, node.cluster, node.locality, node.metadata);
    let head = (rig.service.head(0), rig.service.field(0, "x-a"));
    rig.note("it begins", &format!("{head:?} {node:?} {:?}", introduction.capability)).await?;
    let check = ONCE.replace("timeout: 60s", "timeout: 0.5s");
    let text = format!(
        "interval: 0.02s\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{{{check}, http_health_check: {{path: /check}}}}]\n  locality_endpoints:\n  - locality: {{region: r, zone: z, sub_zone: s}}\n    endpoints: [{}]\n  - endpoints: [{}]\n- cluster_name: two\n  health_checks: [{{{check}, tcp_health_check: {{}}}}]\n  locality_endpoints: [{{endpoints: [{}, {{health_check_config: {{port_value: {{{{h4}}}}, hostname: named, disable_active_health_check: true}}, hostname: ignored, {}]}}]\n",
        endpoints(&[0, 1, 2]),
        endpoints(&[3, 4]),
        endpoint(5),
        endpoint(1).trim_start_matches('{'),
    );
    rig.tell(&text)?;
    rig.until("hds_delegate.updates", 1).await?;
    rig.until("cluster.one.health_check.failure", 3).await?;
    rig.until("cluster.one.health_check.success", 2).await?;
    rig.until("cluster.two.health_check.success", 1).await?;
    let report = rig.report_with(|report| report.contains("TIMEOUT")).await?;
    rig.note("all are checked", &report).await?;
    let shown = rig.proxy.admin().stats("^cluster\\.(one|two)\\.").await?;
    rig.facts.push(format!("{:#?}", shown.keys().collect::<Vec<_>>()));
    let clusters = rig.proxy.admin().get("/clusters").await?;
    let dump = rig.proxy.admin().get("/config_dump?include_eds").await?;
    let shows = (clusters.lines().any(|line| line.starts_with("one::")), dump.contains("\"one\""));
    rig.note("where it shows", &format!("{shows:?}")).await?;
    // The same again is no news.
    rig.tell(&text)?;
    rig.until("hds_delegate.requests", 2).await?;
    rig.note("the same again", "").await?;
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// What becomes of hosts, checks and clusters that are named again.
async fn changes(binary: &Binary) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for _ in 0..4 {
        hosts.push(Upstream::start().await?);
        hosts[hosts.len() - 1].answer(ok());
    }
    let mut rig = Rig::start(binary, &hosts.iter().collect::<Vec<_>>()).await?;
    let check = format!("{{{ONCE}, http_health_check: {{path: /check}}}}");
    let one = |interval: &str, checks: &str, endpoints: &str, more: &str| {
        format!(
            "interval: {interval}\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{checks}]\n  locality_endpoints: [{endpoints}]\n{more}"
        )
    };
    rig.tell(&one("0.02s", &check, &format!("{{endpoints: [{}]}}", endpoints(&[0, 1])), ""))?;
    rig.until("cluster.one.health_check.success", 2).await?;
    let report = rig.report_with(|_| true).await?;
    rig.note("two hosts", &report).await?;
    // One stays, one goes, one comes.
    rig.tell(&one("0.03s", &check, &format!("{{endpoints: [{}]}}", endpoints(&[1, 2])), ""))?;
    rig.until("cluster.one.health_check.success", 3).await?;
    let report = rig.report_with(|report| report.contains("host 2 HEALTHY")).await?;
    rig.note("another host", &report).await?;
    // They move to another locality.
    let moved = format!("{{locality: {{zone: z}}, endpoints: [{}]}}", endpoints(&[1, 2]));
    rig.tell(&one("0.03s", &check, &moved, ""))?;
    rig.until("cluster.one.health_check.success", 5).await?;
    let report = rig.report_with(|report| !report.contains("UNHEALTHY")).await?;
    rig.note("another locality", &report).await?;
    // A further check, and another cluster.
    let tcp = format!("{{{ONCE}, tcp_health_check: {{}}}}");
    let two = format!(
        "- cluster_name: two\n  health_checks: [{tcp}]\n  locality_endpoints: [{{endpoints: [{}]}}]\n",
        endpoints(&[3])
    );
    rig.tell(&one("0.02s", &format!("{check}, {tcp}"), &moved, &two))?;
    rig.until("cluster.one.health_check.success", 7).await?;
    rig.until("cluster.two.health_check.success", 1).await?;
    rig.until("hds_delegate.updates", 4).await?;
    let report =
        rig.report_with(|report| !report.contains("UNHEALTHY") && report.contains("of \"two\"")).await?;
    rig.note("another check", &report).await?;
    // One check less, one cluster less.
    rig.tell(&one("0.02s", &tcp, &moved, ""))?;
    rig.until("hds_delegate.updates", 5).await?;
    let report = rig.report_with(|report| !report.contains("of \"two\"")).await?;
    rig.note("less", &report).await?;
    // Names that are there twice, or not at all.
    let nameless = two.replace("cluster_name: two", "cluster_name: ''");
    let again = two.replace("two", "one");
    rig.tell(&one("0.02s", &tcp, &moved, &format!("{nameless}{again}{nameless}")))?;
    rig.until("hds_delegate.updates", 6).await?;
    let report =
        rig.report_with(|report| !report.contains("UNHEALTHY") && report.contains("of \"\"")).await?;
    rig.note("names", &report).await?;
    rig.tell("interval: 0.02s\n")?;
    rig.until("hds_delegate.updates", 7).await?;
    let report = rig.report_with(|report| report == "nothing").await?;
    rig.note("nothing", &report).await?;
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// Two checks of the same host that do not agree.
async fn disagreement(binary: &Binary) -> Result<Vec<String>> {
    let host = Upstream::start().await?;
    host.answer(Reply::steps([Step::Stall]));
    let mut rig = Rig::start(binary, &[&host]).await?;
    let http = ONCE.replace("timeout: 60s", "timeout: 0.5s");
    rig.tell(&format!(
        "interval: 0.02s\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{{{http}, http_health_check: {{path: /}}}}, {{{ONCE}, tcp_health_check: {{}}}}]\n  locality_endpoints: [{{endpoints: [{}]}}]\n",
        endpoint(0)
    ))?;
    rig.until("cluster.one.health_check.success", 1).await?;
    let report = rig.report_with(|report| report.contains(" HEALTHY")).await?;
    rig.note("one passed", &report).await?;
    rig.until("cluster.one.health_check.failure", 1).await?;
    let report = rig.report_with(|report| !report.contains(" HEALTHY")).await?;
    rig.note("the other did not", &report).await?;
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// The statuses that hosts answer with.
async fn statuses(binary: &Binary) -> Result<Vec<String>> {
    let host = Upstream::start().await?;
    host.answer(Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"));
    let mut rig = Rig::start(binary, &[&host]).await?;
    rig.tell(&format!(
        "interval: 0.02s\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{{timeout: 0.2s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{path: /}}}}]\n  locality_endpoints: [{{endpoints: [{}]}}]\n",
        endpoint(0)
    ))?;
    let report = rig.report_with(|report| report.contains("503")).await?;
    rig.facts.push(report);
    host.answer(ok());
    let report = rig.report_with(|report| report.contains(" HEALTHY")).await?;
    rig.facts.push(report);
    host.answer(Reply::steps([Step::Close]));
    let report = rig.report_with(|report| report.contains("UNHEALTHY")).await?;
    rig.facts.push(report);
    host.answer(Reply::steps([Step::Stall]));
    let report = rig.report_with(|report| report.contains("TIMEOUT")).await?;
    rig.facts.push(report);
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// What cannot be taken.
async fn refusals(binary: &Binary) -> Result<Vec<String>> {
    let host = Upstream::start().await?;
    host.answer(ok());
    let mut rig = Rig::start(binary, &[&host]).await?;
    let of = |check: &str| {
        format!(
            "interval: 0.02s\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{check}]\n  locality_endpoints: [{{endpoints: [{}]}}]\n",
            endpoint(0)
        )
    };
    rig.tell(&of(&format!("{{{ONCE}, http_health_check: {{path: /}}}}")))?;
    rig.until("cluster.one.health_check.success", 1).await?;
    for (number, (what, check)) in [
        ("no timeout", "{interval: 1s, tcp_health_check: {}}".to_owned()),
        ("gRPC", format!("{{{ONCE}, grpc_health_check: {{}}}}")),
    ]
    .into_iter()
    .enumerate()
    {
        rig.tell(&of(&check))?;
        rig.until("hds_delegate.requests", 2 + i64::try_from(number)?).await?;
        let report = rig.report_with(|_| true).await?;
        rig.note(what, &report).await?;
    }
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

/// Streams that end.
async fn ends(binary: &Binary) -> Result<Vec<String>> {
    let host = Upstream::start().await?;
    host.answer(ok());
    let mut rig = Rig::start(binary, &[&host]).await?;
    let check = "{timeout: 60s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}";
    let text = format!(
        "interval: 0.02s\ncluster_health_checks:\n- cluster_name: one\n  health_checks: [{check}]\n  locality_endpoints: [{{endpoints: [{}]}}]\n",
        endpoint(0)
    );
    rig.tell(&text)?;
    rig.report_with(|report| report.contains(" HEALTHY")).await?;
    rig.service.end("0");
    rig.until("hds_delegate.errors", 1).await?;
    host.answer(Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"));
    rig.introduced(1).await?;
    rig.until("cluster.one.health_check.healthy", 0).await?;
    rig.facts.push(format!("reports meanwhile: {}", rig.service.reports(1).len()));
    rig.tell(&text)?;
    rig.until("hds_delegate.requests", 2).await?;
    rig.until("hds_delegate.updates", 2).await?;
    let report = rig.report_with(|_| true).await?;
    rig.facts.push(report);
    rig.service.hang_up();
    rig.until("hds_delegate.errors", 2).await?;
    rig.introduced(2).await?;
    rig.service.tell_bytes(b"\xff\xff");
    rig.until("hds_delegate.errors", 3).await?;
    rig.introduced(3).await?;
    rig.facts.push(format!("{:?}", rig.proxy.admin().stats("hds_delegate.(errors|requests|updates)").await?));
    let facts = rig.facts;
    rig.proxy.stop().await?;
    Ok(facts)
}

#[expect(clippy::print_stdout, reason = "SHOW asks for it")]
fn compare_facts(wanted: &[String], found: &[String]) -> Result<()> {
    if std::env::var_os("SHOW").is_some() {
        println!("{}", wanted.join("\n"));
    }
    let mut differences = String::new();
    for (wanted, found) in wanted.iter().zip(found) {
        if wanted != found {
            let _ = writeln!(differences, "Envoy {wanted}\nhere {found}");
        }
    }
    ensure!(differences.is_empty() && wanted.len() == found.len(), "{differences}");
    Ok(())
}

/// Runs the same thing on both.
macro_rules! compared {
    ($($(#[$about:meta])* $name:ident: $run:ident;)*) => {$(
        $(#[$about])*
        pub async fn $name(reference: &Binary, subject: &Binary) -> Result<()> {
            let (wanted, found) = tokio::try_join!($run(reference), $run(subject))?;
            compare_facts(&wanted, &found)
        }
    )*};
}

compared! {
    /// How it begins, and what is told.
    compare_first: first;
    /// What changes.
    compare_changes: changes;
    /// Checks that do not agree.
    compare_disagreement: disagreement;
    /// Statuses of answers.
    compare_statuses: statuses;
    /// What is refused.
    compare_refusals: refusals;
    /// Streams that end.
    compare_ends: ends;
}
