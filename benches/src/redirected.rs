//! What it takes to set up a connection that the kernel redirects: a client connects to an address that `iptables` hands to the proxy, which
//! asks where it was meant to go, finds the filter chain of that address, and connects to the backend.
//!
//! All of them are in a network namespace, which takes root.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::netns::Netns;

use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Process, fill, folder, free_ports};
use crate::proc::Cpu;
use crate::report::Report;
use crate::say;

/// Where the client believes to go.
const MEANT: &str = "10.9.9.9:80";

/// Adds a sample per round and peer.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let netns = Netns::new()?;
    netns.command("ip addr add 10.9.9.9/32 dev lo")?;
    netns.within(|| -> Result<()> {
        let backend = Backend::start()?;
        let running: Vec<(Peer, Process, u16)> = [Peer::Outrigger, Peer::Envoy]
            .into_iter()
            .filter(|peer| options.peers.contains(peer))
            .map(|peer| start(peer, options, &backend))
            .collect::<Result<_>>()?;
        for _ in 0..options.rounds {
            for (peer, process, port) in &running {
                let rule = format!("-t nat -A OUTPUT -p tcp -d 10.9.9.9 -j REDIRECT --to-ports {port}");
                let sample = netns
                    .command(&format!("iptables -t nat -F && iptables {rule}"))
                    .and_then(|_| run(process, options));
                report.add_all(Measure::Redirected, *peer, sample);
            }
        }
        Ok(())
    })??;
    say("redirected done");
    Ok(())
}

fn start(peer: Peer, options: &Options, backend: &Backend) -> Result<(Peer, Process, u16)> {
    let dir = folder()?;
    let [port, admin] = free_ports()?;
    let values =
        [("PORT", port.to_string()), ("ADMIN", admin.to_string()), ("BACKEND_H1", backend.h1.to_string())];
    let path = dir.path().join("redirected.yaml");
    std::fs::write(&path, fill(include_str!("../configs/redirected.yaml"), &values))?;
    let path = path.display().to_string();
    let mut process = peer.spawn(dir, &path, 1, options)?;
    process.answers(admin, "/ready")?;
    Ok((peer, process, port))
}

fn run(process: &Process, options: &Options) -> Result<Vec<(Part, f64)>> {
    let before = Cpu::of(process.pid())?;
    let (start, length) = (Instant::now(), Duration::from_secs(options.seconds.into()));
    let meant: SocketAddr = MEANT.parse()?;
    let mut latencies = Vec::new();
    while start.elapsed() < length {
        let begun = Instant::now();
        ask(&meant).with_context(|| format!("connection {}", latencies.len()))?;
        latencies.push(begun.elapsed());
    }
    let used = Cpu::of(process.pid())?.since(before);
    latencies.sort_unstable();
    let median = latencies.get(latencies.len() / 2).context("no connections")?;
    Ok(vec![
        (Part::Main, used.total().as_secs_f64() * 1e6 / latencies.len() as f64),
        (Part::Median, median.as_secs_f64() * 1e3),
    ])
}

/// One request on a connection of its own.
fn ask(meant: &SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(meant, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}
