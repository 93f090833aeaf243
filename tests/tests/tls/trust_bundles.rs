//! Trust bundles of the SPIFFE validator in a file that changes: for clients and for hosts, of contexts and of secrets.

use std::path::{Path, PathBuf};

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, indent, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{
    Authority, ClientOptions, Identity, Session, TlsServer, Wanted, converse, downstream, upstream,
};
use integration::upstream::Upstream;
use rcgen::KeyUsagePurpose::DigitalSignature;
use xds::fake::ManagementServer;

use crate::secrets::{SDS, put, secret, source_of};
use crate::{GET, both};

/// Two authorities of one trust domain, one after the other, and whom they vouch for.
struct Rig {
    old: Authority,
    new: Authority,
    server: Identity,
    of_old: Identity,
    of_new: Identity,
}

impl Rig {
    fn new() -> Self {
        let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
        let wanted = Wanted {
            sans: &["dns:a.test", "uri:spiffe://one.test/a"],
            usages: &[DigitalSignature],
            ..Wanted::default()
        };
        Self {
            server: old.issue(&wanted).unwrap(),
            of_old: old.issue(&wanted).unwrap(),
            of_new: new.issue(&wanted).unwrap(),
            old,
            new,
        }
    }
}

/// A bundle map of one domain.
fn bundles(authorities: &[&Authority]) -> String {
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let keys: Vec<String> = authorities
        .iter()
        .map(|one| format!(r#"{{"use": "x509-svid", "kty": "EC", "x5c": ["{}"]}}"#, body(&one.pem)))
        .collect();
    format!(r#"{{"trust_domains": {{"one.test": {{"keys": [{}]}}}}}}"#, keys.join(", "))
}

/// A validation context that takes its bundles from a file. (Envoy wants `trust_domains` as well, and does not look at them.)
fn validation(file: &Path, directory: Option<&Path>, rig: &Rig) -> String {
    let directory = directory
        .map(|path| format!(", watched_directory: {{path: {}}}", path.display()))
        .unwrap_or_default();
    let unused = integration::tls::inline(&rig.old.pem);
    format!(
        "custom_validator_config:\n  name: envoy.tls.cert_validator.spiffe\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig\n    trust_domains: [{{name: unused.test, trust_bundle: {unused}}}]\n    trust_bundles: {{filename: {}{directory}}}\n",
        file.display()
    )
}

fn listener(rig: &Rig, validation: &str) -> String {
    let common = format!("tls_certificates: [{}]\n{validation}", rig.server.inline());
    HttpListener::to_up("l").chain(&downstream(&common, "require_client_certificate: true\n")).yaml()
}

async fn is_let_in(proxy: &Proxy, client: &Identity) -> bool {
    let options = ClientOptions::with(client);
    let outcome = converse(proxy.listener("l").unwrap(), &options, GET, "").await.unwrap();
    outcome.answer.starts_with("HTTP/1.1 200")
}

async fn until_let_in(proxy: &Proxy, client: &Identity) {
    let wait = eventually("a client that is trusted now", SOON, async || {
        is_let_in(proxy, client).await.then_some(())
    });
    let seen = wait.await;
    assert!(seen.is_ok(), "{}", proxy.log_tail());
}

/// What a file is changed by.
type Change = fn(&Path, &str);

/// Written where it is.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// The bundles of clients change twice, with something that is none in between.
async fn follows(proxy: &Proxy, rig: &Rig, file: &Path, change: Change) {
    assert!(is_let_in(proxy, &rig.of_old).await, "{}", proxy.log_tail());
    assert!(!is_let_in(proxy, &rig.of_new).await);
    let mut kept = Session::open(proxy.listener("l").unwrap(), &ClientOptions::with(&rig.of_old)).unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
    assert_eq!(kept.request(request).unwrap(), "HTTP/1.1 200 OK");
    change(file, &bundles(&[&rig.new]));
    until_let_in(proxy, &rig.of_new).await;
    assert!(!is_let_in(proxy, &rig.of_old).await, "who is trusted no longer");
    // What is no bundle changes nothing, nor does one that is gone.
    change(file, "{\"trust_domains\": {}}");
    eventually("the refusal", SOON, async || proxy.log().contains("No trust domains found").then_some(()))
        .await
        .unwrap();
    assert!(is_let_in(proxy, &rig.of_new).await && !is_let_in(proxy, &rig.of_old).await);
    change(file, &bundles(&[&rig.old, &rig.new]));
    until_let_in(proxy, &rig.of_old).await;
    assert!(is_let_in(proxy, &rig.of_new).await);
    assert_eq!(kept.request(request).unwrap(), "HTTP/1.1 200 OK", "a connection outlives its bundle");
}

async fn started(binary: &Binary, yaml: &str, more: &str) -> (Proxy, Upstream) {
    let host = Upstream::start().await.unwrap();
    let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
    let config = bootstrap(&[yaml.to_owned()], &[up], "") + more;
    (Proxy::start(binary, &config).await.unwrap(), host)
}

fn folder(rig: &Rig) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundles.json");
    std::fs::write(&file, bundles(&[&rig.old])).unwrap();
    (dir, file)
}

/// A file that nothing is said of is followed as well, whether it is replaced or written to. (Envoy 1.40 reads it once.)
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_held_to_what_the_file_says_now() {
    let rig = Rig::new();
    let subject = Binary::subject().unwrap();
    for change in [write as Change, put] {
        let (_dir, file) = folder(&rig);
        let context = format!("validation_context:\n{}", indent(&validation(&file, None, &rig), 2));
        let (proxy, _host) = started(&subject, &listener(&rig, &context), "").await;
        follows(&proxy, &rig, &file, change).await;
    }
}

/// As Kubernetes does it: the file is a link through a directory that is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_directory_tells_of_changes() {
    use std::os::unix::fs::symlink;
    fn mount(file: &Path, text: &str) {
        let dir = file.parent().unwrap();
        let version = tempfile::Builder::new().prefix("version").tempdir_in(dir).unwrap().keep();
        std::fs::write(version.join("bundles.json"), text).unwrap();
        symlink(&version, dir.join("new")).unwrap();
        std::fs::rename(dir.join("new"), dir.join("..data")).unwrap();
    }
    let rig = Rig::new();
    for binary in both() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bundles.json");
        mount(&file, &bundles(&[&rig.old]));
        symlink("..data/bundles.json", &file).unwrap();
        let validation = validation(&file, Some(dir.path()), &rig);
        let context = format!("validation_context:\n{}", indent(&validation, 2));
        let (proxy, _host) = started(&binary, &listener(&rig, &context), "").await;
        follows(&proxy, &rig, &file, mount).await;
    }
}

/// Of secrets: one of the bootstrap, and one that is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_secrets_are_followed_too() {
    let rig = Rig::new();
    for binary in both() {
        let (dir, file) = folder(&rig);
        let of_bootstrap = format!(
            "  secrets:\n  - name: bundles\n    validation_context:\n{}",
            indent(&validation(&file, Some(dir.path()), &rig), 6)
        );
        let context = "validation_context_sds_secret_config: {name: bundles}\n";
        let (proxy, _host) = started(&binary, &listener(&rig, context), &of_bootstrap).await;
        follows(&proxy, &rig, &file, put).await;

        let (dir, file) = folder(&rig);
        let management = ManagementServer::start().await.unwrap();
        let delivered = format!(
            "name: bundles\nvalidation_context:\n{}",
            indent(&validation(&file, Some(dir.path()), &rig), 2)
        );
        management.set(&SDS, "1", [secret(&delivered)]);
        let context =
            format!("validation_context_sds_secret_config: {{name: bundles{}}}\n", source_of("GRPC", ""));
        let host = Upstream::start().await.unwrap();
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let config = bootstrap_of("", &[listener(&rig, &context)], &clusters, "GRPC");
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        follows(&proxy, &rig, &file, put).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_held_to_what_the_file_says_now() {
    let rig = Rig::new();
    for binary in both() {
        let (dir, file) = folder(&rig);
        let of_new = TlsServer::start(&rig.of_new, None, &[], rustls::ALL_VERSIONS).unwrap();
        let context =
            format!("validation_context:\n{}", indent(&validation(&file, Some(dir.path()), &rig), 2));
        let up = fill(&cluster("up", "up", &upstream(&context, "")), [("up", port(of_new.addr))]);
        let config = bootstrap(&[HttpListener::to_up("l").yaml()], &[up], "");
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        let get = async || {
            let mut client = Client::connect(proxy.listener("l").unwrap()).await.unwrap();
            client.send(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
            client.response("GET", SOON).await.unwrap().head.status().unwrap()
        };
        assert_eq!(get().await, 503);
        put(&file, &bundles(&[&rig.new]));
        eventually("the new bundle", SOON, async || (get().await == 200).then_some(())).await.unwrap();
    }
}
