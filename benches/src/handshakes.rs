//! Connections that do nothing but shake hands: how many of them a second of the proxy's CPU time is good for.
//!
//! A client ends its side as soon as the handshake is done and reads until the proxy has ended, too: so each is counted whole,
//! with the tickets that it brought. One client after the other: what waits meanwhile is not the proxy.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::tls::ClientOptions;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::mesh::Mesh;
use crate::options::{Measure, Options, Part};
use crate::proc::Cpu;

const PATIENCE: Duration = Duration::from_secs(5);

/// Full handshakes, then resumed ones, each for as long as a load takes.
pub(crate) fn run(measure: Measure, mesh: &Mesh, options: &Options) -> Result<Vec<(Part, f64)>> {
    // One group, so that nobody asks for another; and the suite that sidecars agree on, of either kind.
    let as_sidecars = |options: &ClientOptions| ClientOptions {
        groups: vec!["X25519"],
        suites: vec!["TLS13_AES_128_GCM_SHA256"],
        ..options.clone()
    };
    let nobody = ClientOptions::default();
    let (port, client) = match measure {
        Measure::HandshakesMtls => (mesh.in_h1, &mesh.client),
        Measure::HandshakesRsa => (mesh.tls_rsa, &nobody),
        _ => (mesh.tls_ecdsa, &nobody),
    };
    let resuming = as_sidecars(client).config()?;
    let mut full = (*resuming).clone();
    full.resumption = Resumption::disabled();
    // The first has nothing to resume.
    shake(port, &resuming)?;
    Ok(vec![
        (Part::Main, per_cpu_second(mesh, port, &Arc::new(full), HandshakeKind::Full, options)?),
        (Part::Resumed, per_cpu_second(mesh, port, &resuming, HandshakeKind::Resumed, options)?),
    ])
}

fn per_cpu_second(
    mesh: &Mesh,
    port: u16,
    config: &Arc<ClientConfig>,
    wanted: HandshakeKind,
    options: &Options,
) -> Result<f64> {
    let before = Cpu::of(mesh.pid())?;
    let (start, length) = (Instant::now(), Duration::from_secs(options.seconds.into()));
    let mut count = 0.0;
    while start.elapsed() < length {
        let kind = shake(port, config).with_context(|| format!("handshake {count}"))?;
        ensure!(kind == wanted, "handshake {count} is {kind:?}");
        count += 1.0;
    }
    Ok(count / Cpu::of(mesh.pid())?.since(before).total().as_secs_f64())
}

fn shake(port: u16, config: &Arc<ClientConfig>) -> Result<HandshakeKind> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let session = ClientConnection::new(config.clone(), ServerName::try_from("a.test")?)?;
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock)?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        // no last words
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        other => anyhow::bail!("instead of the end: {other:?}"),
    }
    stream.conn.handshake_kind().context("no handshake")
}
