//! Latency where one host of ten is slow, with the least request balancer: of Outrigger and Envoy, side by side, in turns.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Process, fill, folder, free_ports};
use crate::report::Report;
use crate::{endpoints, open_loop, say};

const CONNECTIONS: usize = 64;
/// Requests per second: of the slow host's share each waits 50 ms, which 64 connections carry.
const RATE: f64 = 4000.0;
const DELAY: Duration = Duration::from_millis(50);

/// Adds one sample per round and peer.
pub(crate) fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    let slow = endpoints::answering("slowly, from the backend\n", DELAY)?;
    let peers = [Peer::Outrigger, Peer::Envoy].into_iter().filter(|peer| options.peers.contains(peer));
    let running: Vec<(Peer, Process, u16)> =
        peers.map(|peer| start(peer, options, backend, slow)).collect::<Result<_>>()?;
    for _ in 0..options.rounds {
        for (peer, _process, port) in &running {
            report.add_all(Measure::SlowHost, *peer, run(*port, options));
        }
    }
    say("slowhost done");
    Ok(())
}

fn start(peer: Peer, options: &Options, backend: &Backend, slow: u16) -> Result<(Peer, Process, u16)> {
    let dir = folder()?;
    let [admin, http] = free_ports()?;
    let fast = (1..=Backend::ADDRESSES).map(|at| (format!("127.0.0.{at}"), backend.h1));
    let hosts: Vec<String> = fast
        .chain([("127.0.0.1".to_owned(), slow)])
        .map(|(address, port)| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}"
            )
        })
        .collect();
    let values = [("ADMIN", admin.to_string()), ("HTTP", http.to_string()), ("HOSTS", hosts.join(", "))];
    let path = dir.path().join("slow_host.yaml");
    std::fs::write(&path, fill(include_str!("../configs/slow_host.yaml"), &values))?;
    let path = path.display().to_string();
    let mut process = peer.spawn(dir, &path, 1, options)?;
    process.answers(admin, "/ready")?;
    Ok((peer, process, http))
}

fn run(port: u16, options: &Options) -> Result<Vec<(Part, f64)>> {
    let duration = Duration::from_secs(options.seconds.into());
    let mut latencies = open_loop::run(port, CONNECTIONS, RATE, duration)?;
    latencies.sort_unstable();
    let percentile = |share: f64| -> Result<f64> {
        let at = (latencies.len() as f64 * share) as usize;
        Ok(latencies.get(at).context("no answers")?.as_secs_f64() * 1e3)
    };
    Ok(vec![(Part::Main, percentile(0.99)?), (Part::Median, percentile(0.5)?)])
}
