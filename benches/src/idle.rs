//! Memory per idle connection: connections that made one request each and stay.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Running};
use crate::report::Report;
use crate::{proc, say};

/// Preface, SETTINGS, and HEADERS of stream 1: `GET /` of `http://t` from the static table (RFC 7541, appendix A).
const H2_REQUEST: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01t";
/// ACK of the settings of the other side.
const H2_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
const H2_HEADER: usize = 9;

/// Adds one sample per round and peer, each of a process of its own.
pub(crate) fn measure(
    measure: Measure,
    options: &Options,
    backend: &Backend,
    report: &mut Report,
) -> Result<()> {
    let count = if options.quick { 2_000 } else { 4_000 };
    for _ in 0..options.starts() {
        for peer in Peer::ALL.into_iter().filter(|peer| options.peers.contains(peer)) {
            let sample = || -> Result<_> {
                let proxy = Running::start(peer, options, backend, 1)?;
                // what the first requests cost once is not the cost of a connection
                let warm = open(measure, &proxy, 50)?;
                let before = proc::resident_kib(proxy.pid())?;
                let connections = open(measure, &proxy, count)?;
                let after = proc::resident_kib(proxy.pid())?;
                drop((warm, connections));
                Ok([(Part::Main, (after as f64 - before as f64) / count as f64)])
            };
            report.add_all(measure, peer, sample());
        }
    }
    say(&format!("{} done", measure.name()));
    Ok(())
}

fn open(measure: Measure, proxy: &Running, count: usize) -> Result<Vec<TcpStream>> {
    let open = |at| {
        match measure {
            Measure::IdleH2 => http2(proxy.ports.h2_to_h1),
            _ => http1(proxy.ports.h1),
        }
        .with_context(|| format!("connection {at}"))
    };
    (0..count).map(open).collect()
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn http1(port: u16) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"from the backend\n") {
        receive(&mut stream, &mut answer)?;
    }
    Ok(stream)
}

/// A connection whose first stream has ended, and whose settings are acknowledged.
fn http2(port: u16) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.write_all(H2_REQUEST)?;
    let mut answer = Vec::new();
    loop {
        receive(&mut stream, &mut answer)?;
        while let Some((kind, flags, length)) = frame(&answer)
            && answer.len() >= length
        {
            answer.drain(..length);
            match (kind, flags & 1) {
                (4, 0) => stream.write_all(H2_ACK)?,
                // DATA with END_STREAM
                (0, 1) => return Ok(stream),
                (3 | 7, _) => anyhow::bail!("frame of type {kind}"),
                _ => {}
            }
        }
    }
}

/// Type, flags and whole length of the frame that begins here.
fn frame(bytes: &[u8]) -> Option<(u8, u8, usize)> {
    let [high, middle, low, kind, flags] = *bytes.first_chunk()?;
    let length = u32::from_be_bytes([0, high, middle, low]);
    Some((kind, flags, H2_HEADER + length as usize))
}

fn receive(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 2048];
    let length = stream.read(&mut buffer)?;
    ensure!(length > 0, "closed after {:?}", String::from_utf8_lossy(answer));
    answer.extend_from_slice(&buffer[..length]);
    Ok(())
}
