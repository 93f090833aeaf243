//! Memory per static cluster, and the time until a proxy with many of them is ready.

use std::fmt::Write;
use std::time::Instant;

use anyhow::Result;

use crate::options::{Measure, Options, Part};
use crate::peers::{Peer, Process, free_ports};
use crate::report::Report;
use crate::{proc, say};

/// Compares a bootstrap of one cluster with one of many.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let count = options.many_clusters();
    for _ in 0..options.starts() {
        for peer in [Peer::Outrigger, Peer::Envoy].into_iter().filter(|peer| options.peers.contains(peer)) {
            let sample = || -> Result<_> {
                let (one, _) = start(peer, options, 1)?;
                let (many, ready) = start(peer, options, count)?;
                let each = (many - one) / (count - 1) as f64;
                Ok([(Part::Main, each), (Part::Ready, ready), (Part::Count, count as f64)])
            };
            report.add_all(Measure::Clusters, peer, sample());
        }
    }
    say("clusters done");
    Ok(())
}

/// Resident KiB, and milliseconds to ready, of a proxy with that many clusters.
fn start(peer: Peer, options: &Options, count: usize) -> Result<(f64, f64)> {
    let [admin, http] = free_ports()?;
    let dir = tempfile::Builder::new().prefix("outrigger-bench-").tempdir()?;
    let path = dir.path().join("bootstrap.yaml");
    std::fs::write(&path, bootstrap(admin, http, count))?;
    let path = path.display().to_string();
    let start = Instant::now();
    let args = ["-c", &path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
    let mut process = Process::spawn(dir, &peer.binary(options)?, &args)?;
    process.answers(admin, "/ready")?;
    let ready = start.elapsed().as_secs_f64() * 1e3;
    Ok((proc::resident_kib(process.pid())? as f64, ready))
}

/// N clusters of three hosts, one virtual host each with two routes.
fn bootstrap(admin: u16, http: u16, count: usize) -> String {
    let mut hosts = String::new();
    let mut clusters = String::new();
    for n in 0..count {
        let _ = writeln!(
            hosts,
            "            - {{name: host{n}, domains: [\"host{n}.test\"], routes: [{{match: {{prefix: /a}}, route: {{cluster: cluster{n}}}}}, {{match: {{prefix: /}}, route: {{cluster: cluster{n}}}}}]}}"
        );
        let endpoints: Vec<String> = (1..=3)
            .map(|host| {
                let (high, low) = (n / 250, n % 250 + 1);
                format!("{{endpoint: {{address: {{socket_address: {{address: 10.{host}.{high}.{low}, port_value: 80}}}}}}}}")
            })
            .collect();
        let _ = writeln!(
            clusters,
            "  - {{name: cluster{n}, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: cluster{n}, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            endpoints.join(", ")
        );
    }
    format!(
        r#"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 127.0.0.1, port_value: {http}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
{hosts}  clusters:
{clusters}"#
    )
}
