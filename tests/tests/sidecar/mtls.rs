//! Who speaks plainly is carried by mutual TLS: what is on the wire between pods, and who the workload is told that its client is.

use integration::mesh::pod::PROXY;
use integration::mesh::programs::Program;
use integration::mesh::wire::{Wire, contains, handshake_messages};
use integration::mesh::{Protocol, Service};

use crate::{mesh, url};

/// Types of handshake messages (RFC 5246, 7.4).
const CERTIFICATE: u8 = 11;
const CERTIFICATE_REQUEST: u8 = 13;

/// Words that are sent, and must not be seen.
const SECRET: &str = "the-workloads-own-words";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn plain_clients_and_servers_speak_mutual_tls_on_the_wire() {
    let (mut mesh, web) = mesh().await;
    mesh.inject(&["client", "web"]).unwrap();
    let mut wire = Wire::watch(&mesh.node).unwrap();
    let client = mesh.get("client").unwrap();
    for at in web.at() {
        let answer = client.curl(&["--header", &format!("x-words: {SECRET}"), &url(at)]).unwrap();
        let xfcc = "By=spiffe://cluster.local/ns/default/sa/web;Hash=";
        assert!(answer.starts_with(&format!("8080|127.0.0.6|{xfcc}")), "{answer}");
        assert!(answer.contains("URI=spiffe://cluster.local/ns/default/sa/client|"), "{answer}");
        assert!(answer.ends_with("|200"), "{answer}");
    }
    let spoken = wire.on(8080).unwrap();
    assert!(!spoken.by_clients.is_empty() && !spoken.by_servers.is_empty(), "nothing was on the wire");
    for stream in spoken.by_clients.iter().chain(&spoken.by_servers) {
        // Each begins with a handshake record of TLS.
        assert!(stream.starts_with(&[22, 3]), "{:?}", &stream[..stream.len().min(40)]);
    }
    assert!(!wire.saw(SECRET.as_bytes()).unwrap() && !wire.saw(b"GET /").unwrap());
    for pod in ["client", "web"] {
        // Each proxy is its own user's, who is not root and not the workload's.
        let pid = mesh.get(pod).unwrap().proxy().unwrap().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("\nUid:\t{}\t", PROXY.uid)), "{status}");
    }
}

/// What the test above does not see can be seen: without proxies the words are on the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_proxies_the_words_are_on_the_wire() {
    let (mesh, _) = mesh().await;
    let mut wire = Wire::watch(&mesh.node).unwrap();
    for ip in mesh.get("web").unwrap().addresses.each() {
        let words = format!("x-words: {SECRET}");
        let answer =
            mesh.get("client").unwrap().curl(&["--header", &words, &url((ip, 8080).into())]).unwrap();
        assert!(answer.ends_with("|200"), "{answer}");
    }
    let streams = wire.streams().unwrap();
    let seen = streams.values().filter(|stream| contains(stream, SECRET.as_bytes())).count();
    assert_eq!(seen, 2, "once by each IP version");
}

/// TLS 1.2 shows certificates in the clear: both pods' are on the wire, and the server asks for the client's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_pods_show_their_certificates() {
    let (mut mesh, web) = mesh().await;
    mesh.highest_tls = "TLSv1_2";
    mesh.inject(&["client", "web"]).unwrap();
    let mut wire = Wire::watch(&mesh.node).unwrap();
    let answer = mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap();
    assert!(answer.ends_with("|200"), "{answer}");
    let spoken = wire.on(8080).unwrap();
    let (sent, received) = (spoken.by_clients.concat(), spoken.by_servers.concat());
    for (pod, stream) in [("client", &sent), ("web", &received)] {
        let shown = handshake_messages(stream, CERTIFICATE).unwrap().concat();
        assert!(contains(&shown, &mesh.identities[pod].der), "{pod} did not show its certificate");
    }
    assert_eq!(handshake_messages(&received, CERTIFICATE_REQUEST).unwrap().len(), 1);
}

/// A client of gRPC and a server of it, and what a raw connection carries.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn grpc_and_bytes_are_carried_too() {
    let (mut mesh, _) = mesh().await;
    for (name, program, port) in [("grpc", Program::Grpc, 50051), ("echo", Program::Echo, 7000)] {
        mesh.pod(name).unwrap().run(program, port).unwrap();
    }
    mesh.get_mut("web").unwrap().run(Program::HttpServer, 8000).unwrap();
    let grpc = mesh.serve(Service::new("grpc", Protocol::Http2, 50051, &["grpc"]));
    let echo = mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["echo"]).over_v6());
    let python = mesh.serve(Service::new("python", Protocol::Http, 80, &["web"]).target(8000));
    mesh.inject(&["client", "web", "grpc", "echo"]).unwrap();
    let mut wire = Wire::watch(&mesh.node).unwrap();
    let client = mesh.get("client").unwrap();
    for version in [0, 1] {
        let answer = client.grpc(grpc[version], SECRET).unwrap();
        assert!(
            answer.starts_with(&format!("{SECRET}|By=spiffe://cluster.local/ns/default/sa/grpc;")),
            "{answer}"
        );
        assert_eq!(client.tcp(echo[version], SECRET.as_bytes()).unwrap(), SECRET);
        let answer = client.curl(&[&url(python[version])]).unwrap();
        assert!(answer.contains("Directory listing") && answer.ends_with("|200"), "{answer}");
    }
    for port in [50051, 7000, 8000] {
        let sent = wire.on(port).unwrap().by_clients;
        assert!(!sent.is_empty() && sent.iter().all(|stream| stream.starts_with(&[22, 3])), "{port}");
    }
    assert!(!wire.saw(SECRET.as_bytes()).unwrap());
}
