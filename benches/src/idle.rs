//! Memory per idle HTTP/1 connection: connections that made one request each and stay.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::options::{Measure, Options};
use crate::peers::{Backend, Peer, Running};
use crate::report::Report;
use crate::{proc, say};

/// Adds one sample per peer, each of a process of its own.
pub(crate) fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    let count = if options.quick { 2_000 } else { 4_000 };
    for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
        let sample = || -> Result<f64> {
            let proxy = Running::start(peer, options, backend)?;
            // what the first requests cost once is not the cost of a connection
            let warm = open(proxy.h1, 50)?;
            let before = proc::resident_kib(proxy.pid())?;
            let connections = open(proxy.h1, count)?;
            let after = proc::resident_kib(proxy.pid())?;
            drop((warm, connections));
            Ok((after as f64 - before as f64) / count as f64)
        };
        match sample() {
            Ok(kib) => report.add(Measure::Idle, peer, kib),
            Err(error) => report.fail(format!("{} idle: {error:#}", peer.name())),
        }
    }
    say("idle done");
    Ok(())
}

fn open(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|at| one(port).with_context(|| format!("connection {at}"))).collect()
}

fn one(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    while !answer.ends_with(b"from the backend\n") {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
    Ok(stream)
}
