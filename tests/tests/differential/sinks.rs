//! Sinks of statistics: what statsd and the metrics service are told of the same requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use integration::client::Client;
use integration::collector::Collector;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use prost::Message as _;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use xds_api::envoy::service::metrics::v3::StreamMetricsMessage;
use xds_api::io::prometheus::client as prometheus;

/// What is compared: what this traffic moves and both count alike, without the prefix of a sink and what is a tag.
const COMPARED: [&str; 30] = [
    "http.downstream_rq_total",
    "http.downstream_rq_completed",
    "http.downstream_rq_xx",
    "http.downstream_rq_time",
    "http.downstream_cx_total",
    "http.downstream_cx_length_ms",
    "http.downstream_cx_rx_bytes_total",
    "listener.http.downstream_rq_xx",
    "cluster.external.upstream_rq",
    "cluster.external.upstream_rq_time",
    "cluster.membership_change",
    "cluster.membership_total",
    "cluster.upstream_cx_active",
    "cluster.upstream_cx_connect_ms",
    "cluster.upstream_rq_time",
    "cluster.upstream_rq_xx",
    "http.ing.downstream_rq_total",
    "http.ing.downstream_rq_completed",
    "http.ing.downstream_rq_2xx",
    "http.ing.downstream_rq_time",
    "http.ing.downstream_cx_total",
    "http.ing.downstream_cx_length_ms",
    "listener.127.0.0.1_0.http.ing.downstream_rq_2xx",
    "cluster.up.external.upstream_rq_200",
    "cluster.up.membership_change",
    "cluster.up.membership_total",
    "cluster.up.upstream_cx_active",
    "cluster.up.upstream_cx_connect_ms",
    "cluster.up.upstream_rq_time",
    "cluster.up.upstream_rq_total",
];

/// Who hears datagrams.
struct Ear {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    hearing: JoinHandle<()>,
}

impl Ear {
    async fn open() -> Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
        // (A flush comes all at once.)
        socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
        let addr = socket.local_addr()?;
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let kept = heard.clone();
        let hearing = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = socket.recv(&mut buffer).await {
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Ok(Self { addr, heard, hearing })
    }

    fn datagrams(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line, and gives all until then.
    async fn lines_until(&self, line: &str) -> Result<Vec<String>> {
        let heard = eventually(line, SOON, async || {
            let datagrams = self.datagrams();
            let lines: Vec<String> =
                datagrams.iter().flat_map(|datagram| datagram.lines().map(str::to_owned)).collect();
            let end = lines.iter().position(|one| one == line)?;
            Some(lines[..end].to_vec())
        });
        heard.await.with_context(|| format!("{:?}", self.datagrams()))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

const TYPES: &str = "type.googleapis.com/envoy";

fn sink(name: &str, message: &str, fields: &str) -> String {
    format!("- name: {name}\n  typed_config: {{\"@type\": {TYPES}.{message}, {fields}}}\n")
}

fn at(ear: &str) -> String {
    format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{{ear}}}}}}}}}")
}

/// A proxy whose sinks are told when the admin interface is asked.
async fn start(binary: &Binary, sinks: &str, ports: &[(&str, SocketAddr)]) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    let listener = HttpListener::to_up("ing").yaml();
    let mut clusters = vec![cluster("up", "up", "")];
    if ports.iter().any(|(name, _)| *name == "service") {
        clusters.push(cluster("service", "service", H2_CLUSTER));
    }
    let rest = format!("node: {{id: me, cluster: mine}}\nstats_flush_on_admin: true\nstats_sinks:\n{sinks}");
    let mut ports: Vec<_> = ports.iter().map(|(name, addr)| (*name, port(*addr))).collect();
    ports.push(("up", port(upstream.addr())));
    let proxy = Proxy::start(binary, &fill(&bootstrap(&[listener], &clusters, &rest), ports)).await?;
    Ok((proxy, upstream))
}

/// Sends `count` requests on one connection, and closes it.
async fn send(proxy: &Proxy, count: usize) -> Result<()> {
    let mut client = Client::connect(proxy.listener("ing")?).await?;
    for _ in 0..count {
        client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        client.response("GET", SOON).await?;
    }
    Ok(())
}

/// The name, kind and tags of a line, and its value; `None` for what is not compared.
fn said_by<'l>(line: &'l str, prefix: &str) -> Option<(String, &'l str, u64)> {
    // (Tags have colons behind the value; neither name nor tags have one before it.)
    let at = line.find("|#").unwrap_or(line.len());
    let (name, rest) = line.split_at(line.get(..at)?.rfind(':')?);
    let name = name.strip_prefix(prefix)?;
    if line.contains("admin") || !COMPARED.contains(&name.split(';').next()?) {
        return None;
    }
    let (value, kind) = rest.strip_prefix(':')?.split_once('|')?;
    let (kind, tags) = kind.split_once('|').unwrap_or((kind, ""));
    Some((format!("{name} {kind} {tags}"), kind, value.parse().ok()?))
}

/// What the lines of one sink say: sums of counters, the last level of gauges, how often something was timed.
fn compared(lines: &[String], prefix: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, kind, value) in lines.iter().filter_map(|line| said_by(line, prefix)) {
        let said = all.entry(name).or_default();
        match kind {
            "c" => *said += value,
            "ms" => *said += 1,
            _ => *said = value,
        }
    }
    all
}

/// What the three sinks of lines are told of three requests and then of nothing.
async fn statsd(binary: &Binary) -> Result<[BTreeMap<String, u64>; 3]> {
    let ears = [Ear::open().await?, Ear::open().await?, Ear::open().await?];
    let sinks = [
        sink("a", "config.metrics.v3.StatsdSink", &at("plain")),
        sink(
            "b",
            "config.metrics.v3.DogStatsdSink",
            &format!("{}, prefix: mine, max_bytes_per_datagram: 600", at("dog")),
        ),
        sink("c", "extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink", &at("graphite")),
    ];
    let ports = [("plain", ears[0].addr), ("dog", ears[1].addr), ("graphite", ears[2].addr)];
    let (proxy, _upstream) = start(binary, &sinks.concat(), &ports).await?;
    send(&proxy, 3).await?;
    eventually("the end of the connection", SOON, async || {
        (proxy.admin().stat("http.ing.downstream_cx_destroy").await.ok()? == 1).then_some(())
    })
    .await?;
    proxy.admin().get("/stats").await?;
    let plain = ears[0].lines_until("envoy.http.ing.downstream_rq_total:0|c").await?;
    let dog =
        ears[1].lines_until("mine.http.downstream_rq_total:0|c|#envoy.http_conn_manager_prefix:ing").await?;
    let graphite =
        ears[2].lines_until("envoy.http.downstream_rq_total;envoy.http_conn_manager_prefix=ing:0|c").await?;
    assert!(ears[0].datagrams().iter().all(|datagram| !datagram.contains('\n')));
    let longest = ears[1].datagrams().iter().map(String::len).max().unwrap_or_default();
    assert!((400..=600).contains(&longest), "{longest}");
    Ok([compared(&plain, "envoy."), compared(&dog, "mine."), compared(&graphite, "envoy.")])
}

#[tokio::test]
async fn statsd_sinks_are_told_what_envoy_tells_them() {
    let left = statsd(&Binary::envoy().unwrap()).await.unwrap();
    let right = statsd(&Binary::subject().unwrap()).await.unwrap();
    for (left, right) in left.iter().zip(&right) {
        assert!(left.len() >= 12, "{left:?}");
        assert_eq!(left, right);
    }
}

const METRICS_SERVICE: &str =
    "grpc_service: {envoy_grpc: {cluster_name: service}}, transport_api_version: V3";

fn service_sink(more: &str) -> String {
    sink("m", "config.metrics.v3.MetricsServiceConfig", &format!("{METRICS_SERVICE}, {more}"))
}

/// Whether the family is one of those that are compared.
fn is_compared(family: &prometheus::MetricFamily) -> bool {
    let is_other = family.metric[0].label.iter().any(|label| ["admin", "service"].contains(&label.value()));
    COMPARED.contains(&family.name()) && !is_other && !family.name().ends_with("cx_length_ms")
}

/// What a family says: its name, kind, labels and what does not vary of its value.
fn said(family: &prometheus::MetricFamily) -> (String, String) {
    let metric = &family.metric[0];
    assert!(metric.timestamp_ms() > 1_600_000_000_000, "{metric:?}");
    let labels: Vec<_> =
        metric.label.iter().map(|label| format!("{}={}", label.name(), label.value())).collect();
    let name = format!("{} {:?} {labels:?}", family.name(), family.r#type());
    let value = match metric {
        prometheus::Metric { counter: Some(counter), .. } => format!("{}", counter.value()),
        prometheus::Metric { gauge: Some(gauge), .. } => format!("{}", gauge.value()),
        prometheus::Metric { summary: Some(summary), .. } => {
            let quantiles: Vec<_> = summary.quantile.iter().map(|one| one.quantile()).collect();
            format!("{} of {quantiles:?}", summary.sample_count())
        }
        prometheus::Metric { histogram: Some(histogram), .. } => {
            let bounds: Vec<_> = histogram.bucket.iter().map(|one| one.upper_bound()).collect();
            format!("{} of {bounds:?}", histogram.sample_count())
        }
        other => format!("{other:?}"),
    };
    (name, value)
}

/// What a service is told of three requests, and then of two more.
async fn metrics(binary: &Binary, more: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let collector = Collector::start().await?;
    let (proxy, _upstream) = start(binary, &service_sink(more), &[("service", collector.addr())]).await?;
    let mut told = Vec::new();
    let log = proxy.dir().join("access.log");
    for (count, all) in [(3, 3), (2, 5)] {
        send(&proxy, count).await?;
        // (Asking for statistics would flush them.)
        eventually("the end of the requests", SOON, async || (whole_lines(&log).len() == all).then_some(()))
            .await?;
        let before = collector.messages().len();
        proxy.admin().get("/stats").await?;
        let message = eventually("a message", SOON, async || collector.messages().get(before).cloned());
        let message = message.await?;
        assert_eq!(message.path, "/envoy.service.metrics.v3.MetricsService/StreamMetrics");
        let message = StreamMetricsMessage::decode(&*message.bytes)?;
        if before == 0 {
            let node =
                message.identifier.as_ref().context("no identifier")?.node.as_ref().context("no node")?;
            assert_eq!((node.id.as_str(), node.cluster.as_str()), ("me", "mine"));
        }
        told.push(message.envoy_metrics.iter().filter(|family| is_compared(family)).map(said).collect());
    }
    Ok(told)
}

#[tokio::test]
async fn the_metrics_service_is_told_what_envoy_tells_it() {
    for more in [
        "report_counters_as_deltas: true",
        "emit_tags_as_labels: true, histogram_emit_mode: HISTOGRAM",
        "histogram_emit_mode: SUMMARY",
    ] {
        let left = metrics(&Binary::envoy().unwrap(), more).await.unwrap();
        let right = metrics(&Binary::subject().unwrap(), more).await.unwrap();
        assert!(left[0].len() >= 10, "{left:?}");
        assert_eq!(left, right, "{more}");
    }
}
