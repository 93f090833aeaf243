//! Reports of load on streams of their own (`enable_oob_load_report`): what hosts are asked, what comes of what they say, and who gets requests then.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, fill, indent, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::talk::{Command, TalkService};
use prost::Message as _;
use xds_api::xds::data::orca::v3::OrcaLoadReport;
use xds_api::xds::service::orca::v3::OrcaLoadReportRequest;

/// What is counted of the streams.
const COUNTED: [&str; 5] =
    ["active_sessions", "report_errors", "reports_received", "stream_failures", "stream_terminated"];

/// How many requests say who gets how many, once there are weights.
const REQUESTS: usize = 200;
/// How far two counts may be apart: a schedule begins anywhere.
const STEPS: usize = 4;

/// A cluster of two hosts whose policy has these fields.
fn cluster(policy: &str) -> String {
    format!(
        "- name: up
  connect_timeout: 1s
{}  load_balancing_policy: {{policies: [{{typed_extension_config: {{name: p, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin, enable_oob_load_report: true, blackout_period: 0s, weight_update_period: 0.1s, {policy}}}}}}}]}}
  load_assignment:
    cluster_name: up
    endpoints:
    - lb_endpoints:
      - endpoint: {{hostname: first.test, address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{first}}}}}}}}}}
      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{second}}}}}}}}}}
",
        indent(H2_CLUSTER, 2)
    )
}

fn report(rate: f64) -> Command {
    let report = OrcaLoadReport { rps_fractional: rate, cpu_utilization: 0.5, ..Default::default() };
    Command::Say(report.encode_to_vec())
}

/// Two hosts and a proxy.
struct Bed {
    proxy: Proxy,
    hosts: [TalkService; 2],
    facts: Vec<String>,
}

impl Bed {
    async fn start(binary: &Binary, policy: &str) -> Result<Self> {
        let hosts = [TalkService::start().await?, TalkService::start().await?];
        let yaml = bootstrap(&[HttpListener::to_up("ing").yaml()], &[cluster(policy)], "");
        let ports = [("first", port(hosts[0].addr())), ("second", port(hosts[1].addr()))];
        let proxy = Proxy::start(binary, &fill(&yaml, ports)).await?;
        Ok(Self { proxy, hosts, facts: Vec::new() })
    }

    /// Waits until a host has had so many streams, and says how the last began.
    async fn begun(&mut self, host: usize, count: usize) -> Result<()> {
        let stream = eventually(&format!("stream {count} of host {host}"), SOON, async || {
            let streams = self.hosts[host].streams();
            streams.get(count - 1).filter(|stream| !stream.messages.is_empty()).cloned()
        })
        .await?;
        let request = OrcaLoadReportRequest::decode(&stream.messages[0][..])?;
        let fields: BTreeMap<_, _> = stream
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        self.facts.push(format!("host {host}: {} {fields:?} {request:?}", stream.path));
        Ok(())
    }

    /// Waits until the streams were counted so.
    async fn is(&self, name: &str, value: i64) -> Result<()> {
        eventually(&format!("{name} {value}"), SOON, async || {
            let stat = self.proxy.admin().stat(&format!("cluster.up.lb_orca_oob.{name}")).await.ok()?;
            (stat == value).then_some(())
        })
        .await
    }

    /// The same, and what else was counted then.
    async fn counts(&mut self, name: &str, value: i64) -> Result<()> {
        self.is(name, value).await?;
        for name in COUNTED {
            let value = self.proxy.admin().stat(&format!("cluster.up.lb_orca_oob.{name}")).await?;
            self.facts.push(format!("{name}: {value}"));
        }
        Ok(())
    }

    /// Waits until the first host gets about this share of requests.
    async fn shares(&self, expected: usize) -> Result<()> {
        let mut client = Client::connect(self.proxy.listener("ing")?).await?;
        let mut last = 0;
        for _ in 0..50 {
            let before = self.hosts[0].others();
            for _ in 0..REQUESTS {
                client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
                ensure!(client.response("GET", SOON).await?.head.status()? == 200, "no answer");
            }
            last = self.hosts[0].others() - before;
            if last.abs_diff(expected) <= STEPS {
                return Ok(());
            }
        }
        anyhow::bail!("{last} of {REQUESTS} requests to the first host, not {expected}")
    }
}

/// What hosts are asked, and what comes of what they say.
async fn reports(binary: &Binary) -> Result<Vec<String>> {
    let mut bed = Bed::start(binary, "oob_reporting_period: 3s").await?;
    bed.begun(0, 1).await?;
    bed.hosts[0].command(report(300.0))?;
    bed.counts("reports_received", 1).await?;
    bed.hosts[0].command(Command::Say(OrcaLoadReport::default().encode_to_vec()))?;
    bed.hosts[0].command(report(0.0))?;
    bed.counts("report_errors", 1).await?;
    Ok(bed.facts)
}

/// Streams that end, in each way.
async fn ends(binary: &Binary) -> Result<Vec<String>> {
    let mut bed =
        Bed::start(binary, "oob_reporting_period: 3s, oob_reporting_config: {authority: load.test}").await?;
    bed.begun(0, 1).await?;
    bed.begun(1, 1).await?;
    let compressed = b"\x01\0\0\0\x01a".to_vec();
    let huge = [&[0, 0, 2, 0, 0][..], &[0; 70_000]].concat();
    let ways = [
        Command::Say(vec![0xff]),
        Command::Send(compressed),
        Command::Send(huge),
        Command::Reset,
        Command::End(0),
        Command::End(5),
    ];
    for (number, way) in (1..).zip(ways) {
        // (A report makes pauses short again.)
        bed.hosts[0].command(report(300.0))?;
        bed.hosts[1].command(report(100.0))?;
        bed.counts("reports_received", 2 * number).await?;
        bed.hosts[0].command(way)?;
        bed.counts("stream_failures", number).await?;
        bed.begun(0, usize::try_from(number)? + 1).await?;
    }
    bed.shares(REQUESTS * 3 / 4).await?;
    bed.hosts[1].command(report(300.0))?;
    bed.shares(REQUESTS / 2).await?;
    bed.hosts[1].command(Command::End(12))?;
    bed.is("stream_terminated", 1).await?;
    bed.is("active_sessions", 1).await?;
    Ok(bed.facts)
}

/// A host that says nothing is asked again.
async fn silence(binary: &Binary) -> Result<Vec<String>> {
    let mut bed = Bed::start(binary, "oob_reporting_period: 0.1s").await?;
    bed.begun(0, 2).await?;
    bed.begun(1, 2).await?;
    Ok(bed.facts)
}

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    let (reports, ends, silence) = tokio::join!(reports(binary), ends(binary), silence(binary));
    Ok([reports.context("reports")?, ends.context("ends")?, silence.context("silence")?].concat())
}

pub(crate) async fn compare() -> Result<()> {
    let (envoy, subject) = (Binary::envoy()?, Binary::subject()?);
    let (left, right) = tokio::join!(observe(&envoy), observe(&subject));
    let (left, right) = (left.context("Envoy")?, right.context("Outrigger")?);
    let without_port = |fact: &String| match fact.split_once("127.0.0.1:") {
        Some((before, after)) => {
            format!("{before}ADDRESS{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => fact.clone(),
    };
    let (left, right): (Vec<_>, Vec<_>) =
        (left.iter().map(without_port).collect(), right.iter().map(without_port).collect());
    ensure!(left == right, "Envoy:     {left:#?}\nOutrigger: {right:#?}");
    Ok(())
}
