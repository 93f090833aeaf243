//! Secrets that change under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Identity, Session, TlsServer};
use xds::fake::ManagementServer;

use crate::secrets::{
    Certificates, SDS, authority, certificate, file_of, files_in, mesh, put, secret, source_of, stats,
    until_shown,
};

/// Clients, and how often each of them sends a request: 500 a second together.
const CLIENTS: u32 = 4;
const PERIOD: Duration = Duration::from_millis(8);
/// Requests on one connection, so that some connections are open when secrets change, and some begin.
const REQUESTS: usize = 50;
const ROUNDS: usize = 40;
/// Requests between two changes.
const BETWEEN: usize = 25;

struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    /// What failed.
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr, identity: &Identity) -> Self {
        let (stop, requests): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let client = |_| {
            let (stop, requests, options) = (stop.clone(), requests.clone(), ClientOptions::with(identity));
            std::thread::spawn(move || send(address, &options, &stop, &requests))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, requests, clients }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

fn send(
    address: SocketAddr,
    options: &ClientOptions,
    stop: &AtomicBool,
    requests: &AtomicUsize,
) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut connection = Session::open(address, options).unwrap();
        for _ in 0..REQUESTS {
            let next = Instant::now() + PERIOD;
            match connection.request("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n") {
                Ok(status) if status == "HTTP/1.1 200 OK" => {}
                other => failed.push(format!("{other:?}")),
            }
            requests.fetch_add(1, Ordering::Relaxed);
            // The pace of the load.
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    failed
}

/// Requests on new connections and on old ones, mutually authenticated on both sides, while every secret is changed again and
/// again by `change` (the certificate of each side, and the authorities): none fails, and new connections have the newest.
async fn rotates(proxy: &Proxy, host: &TlsServer, c: &Certificates, change: impl Fn(usize, [String; 3])) {
    let mut bundle = Authority::new("more").unwrap();
    bundle.pem.insert_str(0, &c.root.pem);
    let load = Load::start(proxy.listener("l").unwrap(), &c.client);
    for round in 1..=ROUNDS {
        let (server, client) = (&c.servers[round % 3], [&c.client, &c.other][round % 2]);
        let trusted = [&c.root, &bundle][round % 2];
        change(
            round,
            [certificate("server", server), certificate("client", client), authority("root", trusted)],
        );
        until_shown(proxy, "l", c, server).await;
        eventually("more requests", SOON, async || {
            (load.requests.load(Ordering::Relaxed) >= round * BETWEEN).then_some(())
        })
        .await
        .unwrap();
    }
    let failed = tokio::task::spawn_blocking(|| load.end()).await.unwrap();
    assert!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
    for name in [
        "listener.l.ssl.connection_error",
        "cluster.up.ssl.connection_error",
        "cluster.up.upstream_cx_connect_fail",
    ] {
        assert_eq!(stats(proxy, name).await, 0, "{name}");
    }
    let seen = host.seen();
    assert!(seen.iter().all(|seen| seen.handshake == "ok"));
    for identity in [&c.client, &c.other] {
        assert!(seen.iter().any(|seen| seen.client == identity.der), "one certificate was never shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_by_a_stream_fails_no_handshake_and_drops_no_connection() {
    let c = Certificates::new();
    let host = TlsServer::start(&c.servers[3], Some(&c.root), &[], rustls::ALL_VERSIONS).unwrap();
    let management = ManagementServer::start().await.unwrap();
    let change = |round: usize, secrets: [String; 3]| {
        management.set(&SDS, &round.to_string(), secrets.iter().map(|yaml| secret(yaml)));
    };
    change(0, first(&c));
    let proxy = mesh(&Binary::subject().unwrap(), &management, &host, &source_of("GRPC", "")).await;
    rotates(&proxy, &host, &c, change).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_by_files_fails_no_handshake_and_drops_no_connection() {
    let c = Certificates::new();
    let host = TlsServer::start(&c.servers[3], Some(&c.root), &[], rustls::ALL_VERSIONS).unwrap();
    let management = ManagementServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let change = |_, secrets: [String; 3]| {
        for (name, yaml) in ["server", "client", "root"].iter().zip(secrets) {
            put(&dir.path().join(format!("{name}.yaml")), &file_of(&yaml));
        }
    };
    change(0, first(&c));
    let proxy = mesh(&Binary::subject().unwrap(), &management, &host, &files_in(dir.path())).await;
    rotates(&proxy, &host, &c, change).await;
}

fn first(c: &Certificates) -> [String; 3] {
    [certificate("server", &c.servers[0]), certificate("client", &c.client), authority("root", &c.root)]
}
