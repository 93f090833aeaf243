//! A sidecar whole: `outrigger-iptables` redirects what a workload sends and is sent, and a proxy with the listeners and
//! clusters that Istio gives to a sidecar takes it on. The same is asked of the real Envoy.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use integration::config::{bootstrap, indent, tcp_proxy_with_logs};
use integration::process::{Binary, Proxy};
use rustix::process::Gid;

use crate::rig::{Pod, User, Version, WORKLOAD};

/// Served by the workload and by the peer.
const PORT: u16 = 8080;
/// The same, with no filter chain of its own.
const UNKNOWN: u16 = 9999;
/// A service of the mesh: nobody listens there.
const SERVICE: u16 = 7070;
/// A service of the mesh that the workload is part of.
const OWN_SERVICE: u16 = 7071;
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
/// Whom the rules leave alone.
const PROXY: User = User { uid: 0, gid: 1337 };

/// What differs between REDIRECT and TPROXY on the inbound side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Redirect,
    Tproxy,
}

fn any_address(port: u16) -> String {
    format!(
        "address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}\nadditional_addresses: [{{address: {{socket_address: {{address: \"::\", port_value: {port}}}}}}}]\n"
    )
}

fn chain(name: &str, chain_match: &str, cluster: &str) -> String {
    let filters = tcp_proxy_with_logs(cluster, "", &format!("cluster: \"{cluster}\""));
    format!("- name: {name}\n  filter_chain_match: {chain_match}\n  filters:\n{}", indent(&filters, 2))
}

fn listener(name: &str, fields: &str, chains: &[String]) -> String {
    format!("- name: {name}\n{}  filter_chains:\n{}", indent(fields, 2), indent(&chains.concat(), 2))
}

fn listener_filter(kind: &str, message: &str, fields: &str) -> String {
    format!(
        "- name: envoy.filters.listener.{kind}\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.{kind}.v3.{message}{fields}}}\n"
    )
}

/// Bound to no port: who meant this address is handed over.
fn service(name: &str, address: IpAddr, port: u16, cluster: &str) -> String {
    let fields = format!(
        "address: {{socket_address: {{address: \"{address}\", port_value: {port}}}}}\nbind_to_port: false\ntraffic_direction: OUTBOUND\n"
    );
    listener(name, &fields, &[chain("service", "{}", cluster)])
}

fn original_dst(name: &str, fields: &str) -> String {
    format!(
        "- name: {name}\n  type: ORIGINAL_DST\n  lb_policy: CLUSTER_PROVIDED\n  connect_timeout: 5s\n{}",
        indent(fields, 2)
    )
}

fn fixed(name: &str, address: IpAddr, port: u16) -> String {
    format!(
        "- name: {name}\n  type: STATIC\n  connect_timeout: 5s\n  load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: \"{address}\", port_value: {port}}}}}}}}}]}}]}}\n"
    )
}

/// Its connections to the workload are told from others by where they come from, so that they are not redirected again.
const FROM_LOOPBACK: &str = "upstream_bind_config:
  source_address: {address: 127.0.0.6, port_value: 0}
  extra_source_addresses: [{address: {address: \"::6\", port_value: 0}}]
";

fn configuration(mode: Mode) -> String {
    let outbound = any_address(OUTBOUND) + "use_original_dst: true\ntraffic_direction: OUTBOUND\n";
    let mut inbound = any_address(INBOUND) + "traffic_direction: INBOUND\n";
    let mut filters = listener_filter("original_dst", "OriginalDst", "");
    if mode == Mode::Tproxy {
        inbound += "transparent: true\n";
        filters += &listener_filter("original_src", "OriginalSrc", ", mark: 1337");
    }
    inbound += &format!("listener_filters:\n{filters}");
    let port = |port: u16| format!("{{destination_port: {port}}}");
    let mut listeners = vec![
        listener(
            "virtualOutbound",
            &outbound,
            &[
                chain("virtualOutbound-blackhole", &port(OUTBOUND), "BlackHoleCluster"),
                chain("virtualOutbound-catchall-tcp", "{}", "PassthroughCluster"),
            ],
        ),
        listener(
            "virtualInbound",
            &inbound,
            &[
                chain("virtualInbound-blackhole", &port(INBOUND), "BlackHoleCluster"),
                chain("workload", &port(PORT), "inbound|8080||"),
                chain("virtualInbound", "{}", "InboundPassthroughCluster"),
            ],
        ),
    ];
    let mut clusters = vec![
        original_dst("PassthroughCluster", ""),
        original_dst("InboundPassthroughCluster", FROM_LOOPBACK),
        original_dst("\"inbound|8080||\"", &format!("{FROM_LOOPBACK}cleanup_interval: 60s\n")),
        "- {name: BlackHoleCluster, type: STATIC, connect_timeout: 5s}\n".to_owned(),
    ];
    for version in Version::BOTH {
        for (name, address, service_port) in
            [("service", version.peer(), SERVICE), ("own_service", version.pod(), OWN_SERVICE)]
        {
            let name = format!("{name}_{}", if version == Version::V4 { 4 } else { 6 });
            listeners.push(service(&name, version.peer(), service_port, &name));
            clusters.push(fixed(&name, address, PORT));
        }
    }
    bootstrap(&listeners, &clusters, "")
}

/// Asks through the proxy and is told who reached whom from where.
struct Sidecar<'p> {
    pod: &'p Pod,
    proxy: Proxy,
    what: String,
}

impl Sidecar<'_> {
    fn expect(&self, answer: &str, start: &str) -> Result<()> {
        ensure!(answer.starts_with(start), "{}: {answer:?} does not begin with {start:?}", self.what);
        Ok(())
    }

    async fn stat(&self, name: &str) -> Result<i64> {
        self.proxy.admin().stat(name).await
    }

    /// What the workload sends.
    async fn outbound(&self, version: Version) -> Result<()> {
        let out = |port| self.pod.ask(WORKLOAD, None, SocketAddr::new(version.peer(), port));
        let peer = SocketAddr::new(version.peer(), PORT);
        let own = SocketAddr::new(version.pod(), 0).to_string();
        let own = own.trim_end_matches('0');
        let passed = "cluster.PassthroughCluster.upstream_cx_total";
        let before = self.stat(passed).await?;
        self.expect(&out(PORT), &format!("peer({peer} of {own}"))?;
        ensure!(self.stat(passed).await? == before + 1, "{}: {passed}", self.what);
        let clusters = self.proxy.admin().get("/clusters").await?;
        ensure!(clusters.contains(&format!("\nPassthroughCluster::{peer}::cx_total::1\n")), "{clusters}");
        // Another service's address is handed over to its own listener.
        self.expect(&out(SERVICE), &format!("peer({peer} of {own}"))?;
        ensure!(self.stat(passed).await? == before + 1, "{}: {passed}", self.what);
        // Nobody gets at the proxy's own port through it.
        let dropped = "cluster.BlackHoleCluster.upstream_cx_none_healthy";
        let before = self.stat(dropped).await?;
        ensure!(!out(OUTBOUND).contains('('), "{}: the proxy's port", self.what);
        ensure!(self.stat(dropped).await? == before + 1, "{}: {dropped}", self.what);
        Ok(())
    }

    /// What the workload is sent; it sees `source`.
    async fn inbound(&self, version: Version, source: IpAddr) -> Result<()> {
        let seen = SocketAddr::new(source, 0).to_string();
        let seen = seen.trim_end_matches('0');
        for (port, cluster) in [(PORT, "inbound|8080||"), (UNKNOWN, "InboundPassthroughCluster")] {
            let to = SocketAddr::new(version.pod(), port);
            let counter = format!("cluster.{cluster}.upstream_cx_total");
            // (The name is no pattern, as the one of this statistic would be.)
            let count = async || {
                let text = self.proxy.admin().get("/stats").await?;
                let line = text.lines().find_map(|line| line.strip_prefix(&format!("{counter}: ")));
                line.context("no such counter")?.parse::<i64>().context("a number")
            };
            let before = count().await?;
            self.expect(&self.pod.ask_from_peer(to), &format!("workload({to} of {seen}"))?;
            ensure!(count().await? == before + 1, "{}: {counter}", self.what);
        }
        let answer = self.pod.ask_from_peer(SocketAddr::new(version.pod(), INBOUND));
        ensure!(!answer.contains('('), "{}: the proxy's port: {answer}", self.what);
        Ok(())
    }

    /// The workload calls a service that it is part of itself: out through the proxy, and in through it.
    async fn to_itself(&self, version: Version) -> Result<()> {
        let own = SocketAddr::new(version.pod(), PORT);
        let answer = self.pod.ask(WORKLOAD, None, SocketAddr::new(version.peer(), OWN_SERVICE));
        self.expect(&answer, &format!("workload({own} of "))
    }
}

fn check(mode: Mode, binary: &Binary) -> Result<()> {
    let pod = Pod::new(&[PORT, UNKNOWN])?;
    let flags = if mode == Mode::Tproxy { "-m TPROXY" } else { "" };
    pod.iptables(&format!("--preset istio {flags} --ip-families both"));
    pod.pod.within(|| {
        // What this thread starts is the proxy's group's.
        let group = Gid::from_raw(PROXY.gid);
        rustix::thread::set_thread_res_gid(group, group, group)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(pass(&pod, mode, binary))
    })?
}

async fn pass(pod: &Pod, mode: Mode, binary: &Binary) -> Result<()> {
    let proxy = Proxy::start(binary, &configuration(mode)).await?;
    let sidecar = Sidecar { pod, proxy, what: format!("{:?} {mode:?}", binary.kind) };
    for version in Version::BOTH {
        let source = match mode {
            Mode::Redirect => version.inbound_source(),
            Mode::Tproxy => version.peer(),
        };
        sidecar.outbound(version).await?;
        sidecar.inbound(version, source).await?;
        sidecar.to_itself(version).await?;
    }
    sidecar.proxy.stop().await
}

#[test]
fn traffic_passes_a_sidecar() -> Result<()> {
    check(Mode::Redirect, &Binary::envoy()?)?;
    check(Mode::Redirect, &Binary::outrigger()?)
}

#[test]
fn the_workload_sees_its_clients() -> Result<()> {
    check(Mode::Tproxy, &Binary::envoy()?)?;
    check(Mode::Tproxy, &Binary::outrigger()?)
}
