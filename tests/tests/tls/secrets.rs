//! Secrets that are not part of a context: static ones, those in files, those that a management server hands out; how they
//! change, how they fail, and that the real Envoy does the same.

use std::collections::BTreeSet;
use std::path::Path;

use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{ADS, bootstrap_of, management_cluster, served, socket};
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::tls::{
    Authority, ClientOptions, Identity, Outcome, TlsServer, Wanted, converse, downstream, inline, upstream,
};
use integration::upstream::Upstream;
use xds::TypeUrl;
use xds::fake::{ManagementServer, Recorded, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::extensions::transport_sockets::tls::v3::Secret;

use crate::{GET, both};

/// Envoy takes no secret without it.
const NODE: &str = "node: {id: test, cluster: test}\n";

pub const SDS: TypeUrl = TypeUrl::SECRET;

/// Identities of one authority: servers, and clients whose names are asked for or not.
pub struct Certificates {
    pub root: Authority,
    pub servers: Vec<Identity>,
    pub client: Identity,
    pub other: Identity,
}

impl Certificates {
    pub fn new() -> Self {
        let root = Authority::new("root").unwrap();
        let of = |sans, serial| root.issue(&Wanted { sans, serial, ..Wanted::default() }).unwrap();
        Self {
            servers: (1..=4).map(|serial| of(&["dns:a.test"], serial)).collect(),
            client: of(&["uri:spiffe://td/client"], 10),
            other: of(&["uri:spiffe://elsewhere/client"], 11),
            root,
        }
    }
}

const CLIENTS: &str =
    "{match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: \"spiffe://td/\"}}]}";

/// An `SdsSecretConfig`, from `source` (`, sds_config: ..` or nothing), in which `NAME` is that of the secret.
fn named(name: &str, source: &str) -> String {
    format!("{{name: {name}{}}}", source.replace("NAME", name))
}

/// A listener whose certificate and authority are secrets from `source`.
pub fn listener(name: &str, certificate: &str, authority: &str, source: &str) -> String {
    let (certificate, authority) = (named(certificate, source), named(authority, source));
    let common = format!(
        "tls_certificate_sds_secret_configs: [{certificate}]\ncombined_validation_context:\n  default_validation_context: {CLIENTS}\n  validation_context_sds_secret_config: {authority}\n"
    );
    HttpListener::to_up(name)
        .route_config("validate_clusters: false")
        .chain(&downstream(&common, "require_client_certificate: true\n"))
        .listener(&format!("stat_prefix: {name}"))
        .yaml()
}

pub fn certificate(name: &str, identity: &Identity) -> String {
    format!("{{name: {name}, tls_certificate: {}}}", identity.inline())
}

pub fn authority(name: &str, authority: &Authority) -> String {
    format!("{{name: {name}, validation_context: {{trusted_ca: {}}}}}", inline(&authority.pem))
}

pub fn secret(yaml: &str) -> Served {
    served::<Secret>(yaml).unwrap()
}

async fn get(proxy: &Proxy, name: &str, client: &Identity) -> Outcome {
    converse(proxy.listener(name).unwrap(), &ClientOptions::with(client), GET, "\r\n\r\n").await.unwrap()
}

/// Waits until clients are shown this certificate; no handshake fails until then.
pub async fn until_shown(proxy: &Proxy, name: &str, c: &Certificates, wanted: &Identity) {
    eventually("the new certificate", SOON, async || {
        let outcome = get(proxy, name, &c.client).await;
        assert_eq!(outcome.handshake, "ok", "{}", proxy.log_tail());
        (outcome.certificate == wanted.der).then_some(())
    })
    .await
    .unwrap();
}

pub async fn stats(proxy: &Proxy, name: &str) -> i64 {
    proxy.admin().stat(name).await.unwrap_or(-1)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_bootstrap_are_those_of_envoy() {
    let c = Certificates::new();
    let host = Upstream::start().await.unwrap();
    let secrets = format!(
        "  secrets:\n  - {}\n  - {}\n",
        certificate("server", &c.servers[0]),
        authority("root", &c.root)
    );
    let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
    let mut told = Vec::new();
    for binary in both() {
        let config =
            bootstrap(&[listener("l", "server", "root", "")], std::slice::from_ref(&up), "") + &secrets;
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        let good = get(&proxy, "l", &c.client).await;
        assert_eq!((good.handshake.as_str(), &good.certificate), ("ok", &c.servers[0].der));
        let bad = get(&proxy, "l", &c.other).await;
        let san = stats(&proxy, "listener.l.ssl.fail_verify_san").await;
        let dump = proxy.admin().get("/config_dump").await.unwrap();
        let dump = dump.split("SecretsConfigDump").nth(1).unwrap().to_owned();
        assert!(!dump.contains(c.servers[0].key.lines().nth(1).unwrap()), "{dump}");
        assert!(proxy.admin().get("/certs").await.unwrap().contains("serial_number"));
        let expiration =
            stats(&proxy, "listener.l.ssl.certificate.server.expiration_unix_time_seconds").await;
        let days = stats(&proxy, "server.days_until_first_cert_expiring").await;
        assert!((1..40_000).contains(&days), "{days} days");
        told.push((bad.handshake, san, dump, expiration, days));
        let unknown = config.replace("name: server}", "name: nobody}");
        let verdict = binary.validate(&unknown).unwrap();
        assert!(
            !verdict.accepted && verdict.text.contains("Unknown static secret: nobody"),
            "{}",
            verdict.text
        );
        let unknown = config.replace("name: root}", "name: nobody}");
        let verdict = binary.validate(&unknown).unwrap();
        let reason = "Unknown static certificate validation context: nobody";
        assert!(!verdict.accepted && verdict.text.contains(reason), "{}", verdict.text);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[1].1, 1);
}

/// A secret that nobody here takes is shown as by Envoy, without what is in it, and breaks nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_generic_secret_is_kept_and_not_told() {
    let mut told = Vec::new();
    for binary in both() {
        let secrets =
            "  secrets:\n  - {name: token, generic_secret: {secret: {inline_string: nobody-sees-it}}}\n";
        let proxy = Proxy::start(&binary, &(bootstrap(&[], &[], "") + secrets)).await.unwrap();
        let dump = proxy.admin().get("/config_dump?resource=static_secrets").await.unwrap();
        let mut dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        assert!(!dump.to_string().contains("nobody-sees-it"), "{dump}");
        told.push(dump["configs"][0]["secret"].take());
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[1]["name"], "token");
}

/// What a management server was asked and told.
fn heard(management: &ManagementServer) -> Vec<(TypeUrl, Vec<String>, Option<String>)> {
    let recorded = management.recorded();
    let error = |one: &Recorded| one.error().map(|error| error.message.clone());
    recorded.iter().map(|one| (one.type_url(), one.names().to_vec(), error(one))).collect()
}

/// An element of a list as a message of its own.
fn resource(element: &str) -> String {
    element.replacen("- ", "  ", 1).replace("{{dir}}/access.log", "/dev/null")
}

/// A source of secrets: a stream of its own for each, by one protocol or the other, or the aggregated stream.
pub fn source_of(api_type: &str, timeout: &str) -> String {
    let source = match api_type {
        "ADS" => "resource_api_version: V3, ads: {}".to_owned(),
        api_type => format!(
            "resource_api_version: V3, api_config_source: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m}}}}]}}"
        ),
    };
    format!(", sds_config: {{{source}{timeout}}}")
}

/// Files as a source of secrets: each in one that has its name.
pub fn files_in(folder: &Path) -> String {
    let folder = folder.display();
    format!(", sds_config: {{resource_api_version: V3, path_config_source: {{path: {folder}/NAME.yaml}}}}")
}

/// A proxy that takes the certificate of its clients' side, that of its hosts' side, and the authorities of both from a
/// management server.
pub async fn mesh(binary: &Binary, management: &ManagementServer, host: &TlsServer, source: &str) -> Proxy {
    let common = format!(
        "tls_certificate_sds_secret_configs: [{}]\nvalidation_context_sds_secret_config: {}\n",
        named("client", source),
        named("root", source)
    );
    // So that new connections are made all the time.
    let options = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    common_http_protocol_options: {max_requests_per_connection: 5}\n    explicit_http_config: {http_protocol_options: {}}\n";
    let extra = upstream(&common, "sni: a.test\n") + options;
    let up = fill(&cluster("up", "up", &extra), [("up", port(host.addr))]);
    let mut clusters = management_cluster(&socket(management.address()));
    let mut dynamic = String::new();
    if source.contains("ads:") {
        // Envoy 1.40 dies of a static cluster whose secrets come over the aggregated stream.
        management.set(&TypeUrl::CLUSTER, "1", [served::<Cluster>(&resource(&up)).unwrap()]);
        dynamic = format!("cds_config: {ADS}\n");
    } else {
        clusters += &up;
    }
    let config = bootstrap_of(&dynamic, &[listener("l", "server", "root", source)], &clusters, "GRPC");
    Proxy::start_with(binary, &config, &["--concurrency", "2"]).await.unwrap()
}

async fn secrets_are_handed_out(binary: &Binary, api_type: &str) -> Vec<(String, i64)> {
    let c = Certificates::new();
    let host = TlsServer::start(&c.servers[3], Some(&c.root), &[], rustls::ALL_VERSIONS).unwrap();
    let management = ManagementServer::start().await.unwrap();
    let with = |server: &Identity, client: &Identity| {
        [
            secret(&certificate("server", server)),
            secret(&certificate("client", client)),
            secret(&authority("root", &c.root)),
        ]
    };
    management.set(&SDS, "1", with(&c.servers[0], &c.client));
    let proxy = mesh(binary, &management, &host, &source_of(api_type, "")).await;
    let first = get(&proxy, "l", &c.client).await;
    assert_eq!((first.handshake.as_str(), &first.certificate), ("ok", &c.servers[0].der), "{}", proxy.log());
    assert!(first.answer.starts_with("HTTP/1.1 200"), "{}", first.answer);
    assert_eq!(host.seen()[0].client, c.client.der);

    management.set(&SDS, "2", with(&c.servers[1], &c.other));
    until_shown(&proxy, "l", &c, &c.servers[1]).await;
    eventually("the host sees the new certificate", SOON, async || {
        get(&proxy, "l", &c.client).await;
        host.seen().last().is_some_and(|seen| seen.client == c.other.der).then_some(())
    })
    .await
    .unwrap();

    // The key of another certificate: refused with the reason, and the last good one stays.
    let wrong = Identity { key: c.servers[2].key.clone(), ..c.servers[0].clone() };
    management.set(&SDS, "3", with(&wrong, &c.other));
    let rejected = within("a rejection", SOON, management.rejected(&SDS)).await.unwrap();
    let reason = rejected.error().map(|error| error.message.clone()).unwrap_or_default();
    assert!(reason.contains("Failed to load private key from <inline>"), "{reason}");
    assert!(reason.contains("KEY_VALUES_MISMATCH"), "{reason}");
    until_shown(&proxy, "l", &c, &c.servers[1]).await;
    management.set(&SDS, "4", with(&c.servers[2], &c.other));
    until_shown(&proxy, "l", &c, &c.servers[2]).await;

    let recorded = management.recorded();
    let streams: BTreeSet<usize> =
        recorded.iter().filter(|one| one.type_url() == SDS).map(|one| one.stream).collect();
    let expected = if api_type == "ADS" { 1 } else { 3 };
    assert_eq!(streams.len(), expected, "a stream for each secret, or one for all");
    let names = [
        "sds.server.update_rejected",
        "sds.server.init_fetch_timeout",
        "sds.server.key_rotation_failed",
        "listener.l.server_ssl_socket_factory.downstream_context_secrets_not_ready",
        "cluster.up.client_ssl_socket_factory.upstream_context_secrets_not_ready",
        "listener.l.ssl.connection_error",
        "listener.l.ssl.certificate.server.expiration_unix_time_seconds",
        "listener.l.ssl.certificate.root.expiration_unix_time_seconds",
        "cluster.up.ssl.certificate.client.expiration_unix_time_seconds",
    ];
    let mut told = Vec::new();
    for name in names {
        told.push((name.to_owned(), stats(&proxy, name).await));
    }
    let dump = proxy.admin().get("/config_dump").await.unwrap();
    let dump = dump.split("SecretsConfigDump").nth(1).unwrap();
    for name in ["server", "client", "root"] {
        assert!(dump.contains(&format!("\"name\": \"{name}\"")), "{dump}");
    }
    assert!(!dump.contains("dynamic_warming_secrets"), "{dump}");
    proxy.stop().await.unwrap();
    told
}

async fn handed_out_as_by_envoy(api_type: &str) {
    let [envoy, subject] = both();
    let told = secrets_are_handed_out(&subject, api_type).await;
    assert_eq!(told, secrets_are_handed_out(&envoy, api_type).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_handed_out_by_state_of_the_world() {
    handed_out_as_by_envoy("GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_handed_out_by_delta() {
    handed_out_as_by_envoy("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_handed_out_over_the_aggregated_stream() {
    handed_out_as_by_envoy("ADS").await;
}

/// An agent on a unix socket, asked for each secret on a stream of its own, as in a service mesh; and names as meshes have them.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_hands_out_secrets_over_a_unix_socket() {
    const NAME: &str = "kubernetes://ns/service-cert:a";
    let c = Certificates::new();
    let mut told = Vec::new();
    for binary in both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let agent = ManagementServer::listen_unix(&path).unwrap();
        agent.set(
            &SDS,
            "1",
            [
                secret(&certificate(&format!("\"{NAME}\""), &c.servers[0])),
                secret(&authority("ROOTCA", &c.root)),
            ],
        );
        let host = Upstream::start().await.unwrap();
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let clusters = management_cluster(&format!("{{pipe: {{path: {}}}}}", path.display())) + &up;
        let source = source_of("GRPC", ", initial_fetch_timeout: 0s");
        let listener = listener("l", &format!("\"{NAME}\""), "ROOTCA", &source);
        let proxy = Proxy::start(&binary, &bootstrap_of("", &[listener], &clusters, "GRPC")).await.unwrap();
        until_shown(&proxy, "l", &c, &c.servers[0]).await;
        let mut of_secrets = proxy.admin().stats("sds.").await.unwrap();
        of_secrets.retain(|name, _| name.starts_with("sds.") && !name.contains("update_time"));
        let certificates = proxy.admin().stats("listener.l.ssl.certificate").await.unwrap();
        let streams: BTreeSet<usize> = agent.recorded().iter().map(|one| one.stream).collect();
        told.push((of_secrets, certificates, streams.len()));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[1].2, 2);
}

/// Whoever comes before the secrets is turned away, at both sides, and served when they have come.
#[tokio::test(flavor = "multi_thread")]
async fn missing_secrets_fail_closed_as_by_envoy() {
    let c = Certificates::new();
    let mut told = Vec::new();
    for binary in both() {
        let host = TlsServer::start(&c.servers[3], Some(&c.root), &[], rustls::ALL_VERSIONS).unwrap();
        let management = ManagementServer::start().await.unwrap();
        management.hold(&SDS);
        let all = [
            secret(&certificate("server", &c.servers[0])),
            secret(&certificate("client", &c.client)),
            secret(&authority("root", &c.root)),
        ];
        management.set(&SDS, "1", all);
        let source = source_of("GRPC", ", initial_fetch_timeout: 0.5s");
        let common = format!("tls_certificate_sds_secret_configs: [{{name: client{source}}}]\n");
        let up = fill(&cluster("up", "up", &upstream(&common, "")), [("up", port(host.addr))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let plain = HttpListener::to_up("plain").yaml();
        let listeners = [listener("l", "server", "root", &source), plain];
        let proxy = Proxy::start(&binary, &bootstrap_of("", &listeners, &clusters, "GRPC")).await.unwrap();

        let refused = get(&proxy, "l", &c.client).await;
        let mut plain = integration::client::Client::connect(proxy.listener("plain").unwrap()).await.unwrap();
        plain.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let response = plain.response("GET", SOON).await.unwrap();
        let body = String::from_utf8(response.body.clone()).unwrap();
        // (Whether the end or a reset comes depends on who was faster.)
        assert!(["UnexpectedEof", "ConnectionReset", "BrokenPipe"].contains(&refused.handshake.as_str()));
        told.push((
            response.head.status().unwrap(),
            body,
            stats(&proxy, "sds.server.init_fetch_timeout").await,
            stats(&proxy, "listener.l.server_ssl_socket_factory.downstream_context_secrets_not_ready").await,
            stats(&proxy, "cluster.up.client_ssl_socket_factory.upstream_context_secrets_not_ready").await,
            proxy.admin().get("/config_dump").await.unwrap().contains("dynamic_warming_secrets"),
        ));
        management.release(&SDS);
        eventually("the secrets", SOON, async || {
            let outcome = get(&proxy, "l", &c.client).await;
            outcome.answer.starts_with("HTTP/1.1 200").then_some(())
        })
        .await
        .unwrap();
    }
    assert_eq!(told[0], told[1]);
    assert_eq!((told[0].0, told[0].3, told[0].4), (503, 1, 1));
}

/// A listener that a management server sends waits for its secrets, and accepts nobody before.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_warms_until_its_secrets_are_there() {
    let c = Certificates::new();
    for binary in both() {
        let host = Upstream::start().await.unwrap();
        let management = ManagementServer::start().await.unwrap();
        management.hold(&SDS);
        let all = [secret(&certificate("server", &c.servers[0])), secret(&authority("root", &c.root))];
        management.set(&SDS, "1", all);
        let source = source_of("ADS", ", initial_fetch_timeout: 0s");
        let yaml = listener("l", "server", "root", &source);
        management.set(&TypeUrl::LISTENER, "1", [served::<Listener>(&resource(&yaml)).unwrap()]);
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let config = bootstrap_of(&format!("lds_config: {ADS}\n"), &[], &clusters, "GRPC");
        let live = std::cell::Cell::new(false);
        let starting = async {
            let proxy = Proxy::start(&binary, &config).await.unwrap();
            live.set(true);
            proxy
        };
        let release = async {
            let asked = management.wait(|recorded| {
                let of_secrets = recorded.iter().filter(|one| one.type_url() == SDS);
                of_secrets.map(|one| one.names().len()).find(|count| *count == 2)
            });
            let asked = within("a request for both secrets", SOON, asked).await;
            assert!(asked.is_ok(), "{:?}", heard(&management));
            assert!(!live.get(), "it is live without its secrets");
            management.release(&SDS);
        };
        let (proxy, ()) = tokio::join!(starting, release);
        assert_eq!(get(&proxy, "l", &c.client).await.handshake, "ok");
    }
}

/// Moves `text` to where `path` is, as one that replaces files does.
pub fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// A file with one secret.
pub fn file_of(resource: &str) -> String {
    let any = "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let fields = resource.strip_prefix('{').unwrap();
    format!("resources: [{{{any}, {fields}]\n")
}

/// A file names the files of the key and the certificate; each kind of change is noticed, and a key without its certificate
/// changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_taken_when_they_are_moved_into_place_as_by_envoy() {
    let c = Certificates::new();
    let mut told = Vec::new();
    for binary in both() {
        let host = Upstream::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        put(&at("chain.pem"), &c.servers[0].chain);
        put(&at("key.pem"), &c.servers[0].key);
        let names = format!(
            "{{name: server, tls_certificate: {{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}}}",
            at("chain.pem").display(),
            at("key.pem").display()
        );
        put(&at("server.yaml"), &file_of(&names));
        put(&at("root.yaml"), &file_of(&authority("root", &c.root)));
        let yaml = listener("l", "server", "root", &files_in(dir.path()));
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let proxy = Proxy::start(&binary, &bootstrap(&[yaml], &[up], NODE)).await.unwrap();
        until_shown(&proxy, "l", &c, &c.servers[0]).await;

        // The files that the secret names.
        put(&at("chain.pem"), &c.servers[1].chain);
        eventually("the failed rotation", SOON, async || {
            (stats(&proxy, "sds.server.key_rotation_failed").await > 0).then_some(())
        })
        .await
        .unwrap();
        until_shown(&proxy, "l", &c, &c.servers[0]).await;
        put(&at("key.pem"), &c.servers[1].key);
        until_shown(&proxy, "l", &c, &c.servers[1]).await;

        // The secret itself.
        put(&at("server.yaml"), &file_of(&certificate("server", &c.servers[2])));
        eventually("the secret", SOON, async || {
            let updates = stats(&proxy, "sds.server.update_success").await;
            let rejected = stats(&proxy, "sds.server.update_rejected").await;
            (updates + rejected > 1).then_some(())
        })
        .await
        .unwrap();
        until_shown(&proxy, "l", &c, &c.servers[2]).await;
        let names = ["update_success", "update_rejected", "update_failure", "init_fetch_timeout"];
        let mut counts = Vec::new();
        for name in names {
            counts.push(stats(&proxy, &format!("sds.server.{name}")).await);
        }
        counts.push(stats(&proxy, "listener.l.server_ssl_socket_factory.ssl_context_update_by_sds").await);
        told.push(counts);
    }
    assert_eq!(told[0], told[1]);
}

/// As Kubernetes does it: a directory of links is replaced as a whole, the key and its certificate at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_directory_changes_key_and_certificate_at_once() {
    use std::os::unix::fs::symlink;
    let c = Certificates::new();
    for binary in both() {
        let host = Upstream::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mounted = |number: usize, identity: &Identity| {
            let name = format!("version{number}");
            let folder = dir.path().join(&name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("tls.crt"), &identity.chain).unwrap();
            std::fs::write(folder.join("tls.key"), &identity.key).unwrap();
            symlink(&name, dir.path().join("new")).unwrap();
            std::fs::rename(dir.path().join("new"), dir.path().join("..data")).unwrap();
        };
        mounted(0, &c.servers[0]);
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), dir.path().join(file)).unwrap();
        }
        let path = dir.path().display();
        let named = format!(
            "{{name: server, tls_certificate: {{certificate_chain: {{filename: {path}/tls.crt}}, private_key: {{filename: {path}/tls.key}}, watched_directory: {{path: {path}}}}}}}"
        );
        let config = tempfile::tempdir().unwrap();
        put(&config.path().join("server.yaml"), &file_of(&named));
        let source = format!(
            "{{resource_api_version: V3, path_config_source: {{path: {}/server.yaml}}}}",
            config.path().display()
        );
        let common =
            format!("tls_certificate_sds_secret_configs: [{{name: server, sds_config: {source}}}]\n");
        let yaml = HttpListener::to_up("l").chain(&downstream(&common, "")).yaml();
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let proxy = Proxy::start(&binary, &bootstrap(&[yaml], &[up], NODE)).await.unwrap();
        until_shown(&proxy, "l", &c, &c.servers[0]).await;
        for round in 1..=3 {
            mounted(round, &c.servers[round % 4]);
            until_shown(&proxy, "l", &c, &c.servers[round % 4]).await;
        }
        assert_eq!(stats(&proxy, "sds.server.key_rotation_failed").await, 0);
        assert_eq!(stats(&proxy, "sds.server.update_success").await, 1);
    }
}
