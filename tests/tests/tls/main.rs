//! TLS of clients and of hosts: what is accepted, what is refused, and that the real Envoy does the same.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod alpn;
mod client_cert;
mod downstream;
mod dynamic;
mod encrypted_keys;
mod filter_state;
mod health;
mod istio;
mod istio_tcp;
mod key_log;
mod ocsp;
mod odd_certificates;
mod odd_hellos;
mod parameters;
mod pkcs12;
mod principals;
mod proxy_protocol;
mod request_names;
mod rotation;
mod scan;
mod secrets;
mod spiffe;
mod tickets;
mod tools;
mod trust_bundles;
mod two_uses;
mod upstream;
mod watched;
mod wire;

use integration::config::{bootstrap, cluster, fill, port};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;

/// Routes that need no cluster.
const DIRECT: &str = "- match: {prefix: /}\n  direct_response: {status: 200}";
const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";

/// A proxy with these listeners, and a cluster `up` whose host is plain.
async fn start(binary: &Binary, listeners: &[String]) -> (Proxy, Upstream) {
    let upstream = Upstream::start().await.unwrap();
    let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
    (Proxy::start(binary, &bootstrap(listeners, &[up], "")).await.unwrap(), upstream)
}

/// The real Envoy and the one under test.
fn both() -> [Binary; 2] {
    [Binary::envoy().unwrap(), Binary::subject().unwrap()]
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let suites = provider.cipher_suites.iter().filter_map(|suite| suite.tls13());
    let mut hashes = suites.map(|suite| suite.common.hash_provider).filter(|hash| hash.output_len() == 32);
    hashes.next().unwrap().hash(bytes).as_ref().try_into().unwrap()
}

fn hex_sha256(bytes: &[u8]) -> String {
    sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64_sha256(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in sha256(bytes).chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
