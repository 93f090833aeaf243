//! `key_log`: what is written is what the client has for its secrets, and it is written only of the connections that are named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, TlsServer, Wanted, downstream, talk, upstream};
use rustls::version::{TLS12, TLS13};

use crate::{GET, both};

/// Listeners by name, and the ranges of their logs.
const RANGES: [(&str, &str, bool); 6] = [
    ("everything", "", true),
    ("local", "local_address_range: [{address_prefix: 127.0.0.0, prefix_len: 8}]", true),
    ("elsewhere", "local_address_range: [{address_prefix: 10.0.0.0, prefix_len: 8}]", false),
    (
        "remote",
        "remote_address_range: [{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: 127.0.0.1, prefix_len: 32}]",
        true,
    ),
    ("nobody", "remote_address_range: [{address_prefix: '::', prefix_len: 0}]", false),
    (
        "both",
        "local_address_range: [{address_prefix: 127.0.0.0, prefix_len: 8}], remote_address_range: [{address_prefix: 10.0.0.0, prefix_len: 8}]",
        false,
    ),
];

/// What a client has for the secrets of its sessions.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeSet<String>>);

impl rustls::KeyLog for Known {
    fn log(&self, label: &str, random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.0.lock().unwrap().insert(format!("{label} {} {}", hex(random), hex(secret)));
    }
}

fn lines(path: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Labels of what was written by each listener, how often; each line is one that the client has, too.
async fn observe(binary: &Binary) -> BTreeMap<String, Vec<String>> {
    let root = Authority::new("root").unwrap();
    let server = root.issue(&Wanted::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<String> = RANGES
        .iter()
        .map(|(name, ranges, _)| {
            let path = dir.path().join(name).display().to_string();
            let common =
                format!("tls_certificates: [{}]\nkey_log: {{path: \"{path}\", {ranges}}}", server.inline());
            HttpListener::to_up(name).chain(&downstream(&common, "")).yaml()
        })
        .collect();
    let (proxy, _upstream) = crate::start(binary, &listeners).await;
    let mut written = BTreeMap::new();
    for (name, _, is_logged) in RANGES {
        for version in [&TLS12, &TLS13] {
            let known = Arc::new(Known::default());
            let options = ClientOptions { versions: vec![version], ..ClientOptions::default() };
            let mut config = (*options.config().unwrap()).clone();
            config.key_log = known.clone();
            let (addr, config) = (proxy.listener(name).unwrap(), Arc::new(config));
            let outcome =
                tokio::task::spawn_blocking(move || talk(addr, &config, "a.test", GET.as_bytes(), ""));
            assert_eq!(outcome.await.unwrap().unwrap().handshake, "ok");
            let known = known.0.lock().unwrap().clone();
            let path = dir.path().join(name);
            if is_logged {
                let all = eventually("all to be written", SOON, async || {
                    known.is_subset(&lines(&path)).then_some(())
                });
                all.await.unwrap();
            }
            let mine: BTreeSet<String> = known.intersection(&lines(&path)).cloned().collect();
            let labels = mine.iter().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
            written.insert(format!("{name} {:?}", version.version), labels);
        }
    }
    proxy.stop().await.unwrap();
    // Whatever was kept back is written by now.
    for (name, _, is_logged) in RANGES {
        let path = dir.path().join(name);
        assert_eq!(lines(&path).is_empty(), !is_logged, "{name}");
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_connections_that_are_named() {
    let [envoy, subject] = both();
    let (expected, actual) = (observe(&envoy).await, observe(&subject).await);
    assert_eq!(actual, expected);
    assert!(expected["everything TLSv1_2"] == ["CLIENT_RANDOM"], "{expected:?}");
    assert!(expected["everything TLSv1_3"].len() >= 4, "{expected:?}");
}

/// Of hosts, and into a file that only its owner reads; one that cannot be opened is refused.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_connections_to_hosts() {
    use std::os::unix::fs::PermissionsExt;
    let root = Authority::new("root").unwrap();
    let host =
        TlsServer::start(&root.issue(&Wanted::default()).unwrap(), None, &[], rustls::ALL_VERSIONS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, binary) in ["envoy", "subject"].into_iter().zip(both()) {
        let path = dir.path().join(name);
        let config = |path: &Path| {
            let tls = upstream(&format!("key_log: {{path: \"{}\"}}", path.display()), "sni: a.test\n");
            let up = fill(&cluster("up", "up", &tls), [("up", port(host.addr))]);
            bootstrap(&[HttpListener::to_up("l").yaml()], &[up], "")
        };
        let proxy = Proxy::start(&binary, &config(&path)).await.unwrap();
        let mut client = Client::connect(proxy.listener("l").unwrap()).await.unwrap();
        client.send(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
        let response = client.response("GET", SOON).await.unwrap();
        assert_eq!(response.head.status().unwrap(), 200);
        let written = eventually("the secret to be written", SOON, async || {
            lines(&path).iter().any(|line| line.starts_with("CLIENT_RANDOM ")).then_some(())
        });
        written.await.unwrap();
        if name == "subject" {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let verdict = binary.validate(&config(Path::new("/nowhere/at/all"))).unwrap();
        assert!(!verdict.accepted, "{}", verdict.text);
    }
}
