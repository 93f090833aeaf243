//! The end-to-end scenarios of Open Service Mesh that concern the data plane, with its own shapes of configuration (`shapes`).
//!
//! Not here, because Outrigger cannot do it: the metrics of `lua` and `wasm`; and because OSM cannot: IPv6.

mod addresses;
mod bootstrap;
mod identities;
mod services;
mod shapes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use integration::config::{
    bootstrap as static_bootstrap, cluster, fill, indent, listener_with_filters, port, tcp_proxy,
};
use integration::expect::{SOON, eventually};
use integration::mesh::load::Load;
use integration::mesh::programs::Program;
use integration::mesh::wire::Wire;
use integration::mesh::{Mesh, OUTSIDE, Resources};
use integration::netns::User;
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, Identity, Wanted, downstream, inline};
use tempfile::TempDir;
use tokio::runtime::Handle;

use self::shapes::{Catalog, Egress, Service};
use crate::url;

/// Whose OSM's sidecars are.
const PROXY: User = User::new(1500);
const CONTROLLER: u16 = 15128;

/// A mesh under OSM's controller.
struct Osm {
    mesh: Mesh,
    catalog: Catalog,
    roots: Vec<Authority>,
    identities: BTreeMap<String, Identity>,
    version: u64,
    /// The secrets of the bootstrap.
    dir: TempDir,
    /// Sidecars do not wait for the controller as long as they do otherwise.
    is_impatient: bool,
    /// Ends the controller's TLS, which the management server does not speak.
    guard: Proxy,
}

impl Osm {
    /// With these pods.
    async fn new(pods: &[&str]) -> Self {
        let mut mesh = Mesh::new(&Binary::subject().unwrap()).await.unwrap();
        let root = Authority::new("osm-ca.openservicemesh.io").unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_secrets(&root, &dir);
        let guard = guard(&mesh, &root, "TLSv1_2");
        for pod in pods {
            mesh.pod(pod).unwrap();
        }
        let (catalog, identities) = (Catalog::default(), BTreeMap::new());
        Self { mesh, catalog, roots: vec![root], identities, version: 0, dir, is_impatient: false, guard }
    }

    fn pod_ip(&self, pod: &str) -> IpAddr {
        self.mesh.get(pod).unwrap().addresses.v4.into()
    }

    /// A service, at an address of its own, which is given.
    fn serve(
        &mut self,
        name: &'static str,
        protocol: &'static str,
        port: u16,
        pods: &[&str],
        allowed: &[&str],
    ) -> SocketAddr {
        let ip = Ipv4Addr::new(10, 96, 1, u8::try_from(self.catalog.services.len() + 1).unwrap()).into();
        self.serve_at(ip, name, protocol, port, pods, allowed)
    }

    /// A service at this address.
    fn serve_at(
        &mut self,
        ip: IpAddr,
        name: &'static str,
        protocol: &'static str,
        port: u16,
        pods: &[&str],
        allowed: &[&str],
    ) -> SocketAddr {
        let namespace = self.catalog.namespace(pods);
        let pods = pods.iter().map(|pod| (pod.to_string(), self.pod_ip(pod))).collect();
        let allowed = allowed.iter().map(|pod| self.catalog.principal(pod)).collect();
        self.catalog.services.push(Service {
            name,
            namespace,
            protocol,
            port,
            ip,
            headless: false,
            pods,
            allowed,
            paths: None,
            limits: (None, None),
            split: Vec::new(),
        });
        SocketAddr::new(ip, port)
    }

    /// Issues a pod's certificate anew.
    fn identify(&mut self, pod: &str) {
        self.identify_by(0, pod);
    }

    /// Has the authority of that number issue it.
    fn identify_by(&mut self, root: usize, pod: &str) {
        let name = self.catalog.principal(pod);
        let san = if self.catalog.spiffe { format!("uri:{name}") } else { format!("dns:{name}") };
        let serial = self.identities.get(pod).map_or(1, |identity| identity.serial + 1);
        let wanted = Wanted { common_name: &name, sans: &[&san], serial, ..Wanted::default() };
        self.identities.insert(pod.to_owned(), self.roots[root].issue(&wanted).unwrap());
    }

    /// The controller broadcasts everything to everybody.
    fn push(&mut self) {
        self.version += 1;
        let names: Vec<String> = self.mesh.pods.iter().map(|pod| pod.name.clone()).collect();
        for name in names {
            if !self.identities.contains_key(&name) {
                self.identify(&name);
            }
            let resources = Resources {
                clusters: self.catalog.clusters(&name),
                endpoints: self.catalog.endpoints(),
                listeners: self.catalog.listeners(&name),
                routes: self.catalog.routes(&name),
                secrets: self.catalog.secrets(&name, &self.identities[&name], &self.roots),
            };
            self.mesh.hand_out(&name, &self.version.to_string(), &resources).unwrap();
        }
    }

    /// Injects the sidecar into these pods.
    fn inject(&mut self, pods: &[&str]) {
        self.push();
        for name in pods {
            self.mesh.get(name).unwrap().redirect("--preset osm").unwrap();
            self.start(name, "TLSv1_3").unwrap();
        }
    }

    fn start(&mut self, name: &str, highest_tls: &str) -> anyhow::Result<()> {
        let port =
            self.catalog.services.iter().find(|service| service.pods.iter().any(|(pod, _)| pod == name));
        let port = port.map_or(1, |service| service.port);
        let controller = SocketAddr::new(self.mesh.controller().ip(), CONTROLLER);
        let dir = self.dir.path().to_str().unwrap();
        let mut bootstrap = bootstrap::bootstrap(name, controller, dir, port, highest_tls);
        if self.is_impatient {
            bootstrap = bootstrap.replace("\"ads\":{},", "\"ads\":{},\"initial_fetch_timeout\":\"2s\",");
        }
        let shapes::Account { name: account, namespace } = self.catalog.account(name);
        let service_cluster = format!("{account}.{namespace}");
        let (binary, words) = (self.mesh.binary().clone(), ["--service-cluster", &service_cluster]);
        self.mesh.get_mut(name)?.start_proxy(&binary, &bootstrap, PROXY, &words)
    }

    fn curl(&self, pod: &str, words: &[&str]) -> String {
        self.mesh.get(pod).unwrap().curl(words).unwrap()
    }

    /// Waits until a request of a pod is answered like that.
    async fn until(&self, pod: &str, to: &str, wanted: &str) {
        let seen = async || self.curl(pod, &["--output", "/dev/null", to]).ends_with(wanted).then_some(());
        eventually(wanted, SOON, seen).await.unwrap();
    }
}

/// The bootstrap's secrets in files, as responses of discovery.
fn write_secrets(root: &Authority, dir: &TempDir) {
    let folder = dir.path();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let identity = root
        .issue(&Wanted { common_name: "bootstrap", sans: &["dns:sidecar"], ..Wanted::default() })
        .unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    put("sds_cert.pem", &identity.chain);
    put("sds_key.pem", &identity.key);
    put("cacert.pem", &root.pem);
    let at = folder.display();
    let head =
        "resources:\n  - '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n";
    put(
        "tls_certificate_sds_secret.yaml",
        &format!(
            "{head}    name: tls_sds\n    tls_certificate:\n      certificate_chain: {{filename: {at}/sds_cert.pem}}\n      private_key: {{filename: {at}/sds_key.pem}}\n"
        ),
    );
    put(
        "validation_context_sds_secret.yaml",
        &format!(
            "{head}    name: validation_context_sds\n    validation_context:\n      trusted_ca: {{filename: {at}/cacert.pem}}\n"
        ),
    );
}

/// A proxy on the node that speaks TLS for the controller, of this version at least.
fn guard(mesh: &Mesh, root: &Authority, lowest: &str) -> Proxy {
    let server = root.issue(&Wanted { common_name: "ads", ..Wanted::default() }).unwrap();
    let common = format!(
        "tls_params: {{tls_minimum_protocol_version: {lowest}, tls_maximum_protocol_version: TLSv1_3}}\ntls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}\nalpn_protocols: [h2]",
        server.inline(),
        inline(&root.pem)
    );
    let listener = listener_with_filters("tls", &tcp_proxy("guard", "cluster: up"))
        .replace("127.0.0.1, port_value: 0", &format!("0.0.0.0, port_value: {CONTROLLER}"))
        + &indent(&downstream(&common, "require_client_certificate: true"), 4);
    let up = fill(&cluster("up", "up", ""), [("up", port(mesh.controller()))])
        .replace("127.0.0.1", &mesh.controller().ip().to_string());
    let config = static_bootstrap(&[listener], &[up], "");
    let handle = Handle::current();
    let start = || handle.block_on(Proxy::start(&Binary::outrigger().unwrap(), &config));
    tokio::task::block_in_place(|| mesh.node.within(start)).unwrap().unwrap()
}

/// HTTP between services; a workload that only one path of is allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http_client_and_server_and_traffic_targets() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.serve("client", "http", 14002, &["client"], &["server"]);
    osm.catalog.services[0].paths = Some(("GET|HEAD", "/allowed.*"));
    osm.inject(&["client", "stranger", "server"]);
    let mut wire = Wire::watch(&osm.mesh.node).unwrap();
    let allowed = format!("http://{server}/allowed");
    let answer = osm.curl("client", &[&allowed]);
    assert!(answer.starts_with("14001|127.0.0.1||") && answer.ends_with("|200"), "{answer}");
    assert_eq!(osm.curl("stranger", &[&allowed]), "RBAC: access denied|403");
    assert!(osm.curl("client", &["--request", "POST", &allowed]).ends_with("|404"), "another method");
    assert!(osm.curl("client", &[&url(server)]).ends_with("|404"), "another path");
    // The workload itself, by OSM's rules, is called without its proxy where it is its own client.
    assert!(osm.curl("server", &["http://127.0.0.1:14001/"]).ends_with("|200"));
    assert!(!wire.saw(b"GET /allowed").unwrap());
    let sent = wire.on(14001).unwrap().by_clients;
    assert!(sent.iter().all(|stream| stream.starts_with(&[22, 3])), "{}", sent.len());
    // HTTP/2 between sidecars only where the client speaks it.
    let client = osm.mesh.get("client").unwrap();
    assert_eq!(client.stat("cluster.test/server|14001.upstream_cx_http2_total").unwrap(), 0);
}

/// `UpstreamTrafficSetting`: a service takes so many requests, its routes fewer or more, whoever calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rates_of_a_service_and_of_its_routes() {
    let mut osm = Osm::new(&["client", "other", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client", "other"]);
    osm.catalog.services[0].limits.0 = Some(3);
    osm.inject(&["client", "other", "server"]);
    let status = |osm: &Osm, pod| osm.curl(pod, &["--output", "/dev/null", &url(server)]);
    let answers = ["client", "other", "client", "other", "client"].map(|pod| status(&osm, pod));
    assert_eq!(answers, ["|200", "|200", "|200", "|429", "|429"]);
    let stat = |osm: &Osm, name: &str| {
        let name = format!("http_local_rate_limiter.http_local_rate_limit.{name}");
        osm.mesh.get("server").unwrap().stat(&name).unwrap()
    };
    assert_eq!(["enabled", "ok", "enforced"].map(|name| stat(&osm, name)), [5, 3, 2]);
    // What the route says takes the place of what the service says.
    osm.catalog.services[0].limits.1 = Some(4);
    osm.push();
    osm.until("client", &url(server), "|200").await;
    let answers = ["other", "client", "other", "client"].map(|pod| status(&osm, pod));
    assert_eq!(answers, ["|200", "|200", "|200", "|429"]);
}

/// A rate limit service counts for all: what is over the limit is answered 429.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_service_counts_the_requests_of_all() {
    let mut osm = Osm::new(&["client", "other", "server", "limiter"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    osm.mesh.get_mut("limiter").unwrap().run(Program::RateLimits("3"), 8081).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client", "other"]);
    osm.catalog.limiter = Some(SocketAddr::new(osm.pod_ip("limiter"), 8081));
    osm.inject(&["client", "other", "server"]);
    let answers = ["client", "other", "client", "other", "client", "other", "client", "other"]
        .map(|pod| osm.curl(pod, &["--output", "/dev/null", &url(server)]));
    assert_eq!(answers, ["|200", "|200", "|200", "|429", "|429", "|429", "|429", "|429"]);
    let name = "cluster.test/server|14001|local.ratelimit.over_limit";
    assert_eq!(osm.mesh.get("server").unwrap().stat(name).unwrap(), 5);
}

/// Bytes: allowed, denied; a server that speaks first, whose port nothing looks at; out of the mesh.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tcp_client_and_server_and_server_first_and_egress() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    let server = osm.mesh.get_mut("server").unwrap();
    server.run(Program::Echo, 6000).unwrap();
    server.run(Program::Greeting("220 ready\\r\\n"), 2525).unwrap();
    osm.mesh.outside().unwrap().run(Program::Greeting("outside\\n"), 2526).unwrap();
    let echo = osm.serve("echo", "tcp", 6000, &["server"], &["client"]);
    let smtp = osm.serve("smtp", "tcp-server-first", 2525, &["server"], &["client"]);
    osm.catalog.egress = true;
    osm.inject(&["client", "stranger", "server"]);
    let client = osm.mesh.get("client").unwrap();
    // (Who closes at once would be closed by listener filters, which want to see more.)
    assert_eq!(client.ask(echo, "bytes\n").unwrap(), "bytes\n");
    assert_eq!(client.hear(smtp).unwrap(), "220 ready\r\n");
    assert_eq!(client.ask((OUTSIDE.v4, 2526).into(), "bytes\n").unwrap(), "outside\n");
    let stranger = osm.mesh.get("stranger").unwrap();
    let answer = stranger.ask(echo, "bytes\n");
    assert!(!matches!(&answer, Ok(text) if !text.is_empty()), "{answer:?}");
    // RBAC decides at the first byte of a client, so a greeting may come before; what the client says gets nowhere.
    let answer = stranger.ask(smtp, "bytes\n");
    assert!(!matches!(&answer, Ok(text) if !text.is_empty() && text != "220 ready\r\n"), "{answer:?}");
    osm.mesh.until("server", "RBAC.rbac.denied", 2).await.unwrap();
}

/// Everybody may, then only who is allowed, then everybody again: nothing fails that is allowed all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn permissive_mode_and_back_under_load() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.catalog.permissive = true;
    osm.inject(&["client", "stranger", "server"]);
    let load = Load::start(osm.mesh.get("client").unwrap(), &[server], "server", 2).unwrap();
    for wanted in ["|200", "|403", "|200", "|403"] {
        osm.catalog.permissive = wanted == "|200";
        osm.push();
        osm.until("stranger", &url(server), wanted).await;
        load.more(40).await.unwrap();
    }
    load.end().unwrap();
}

/// Traffic goes on while the controller is away, and changes come through when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_controller_restarts() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.inject(&["client", "stranger", "server"]);
    let load = Load::start(osm.mesh.get("client").unwrap(), &[server], "server", 2).unwrap();
    osm.mesh.stop_management();
    let client = osm.mesh.get("client").unwrap();
    let gone = async || (client.stat("control_plane.connected_state").ok()? == 0).then_some(());
    eventually("the loss of the controller", SOON, gone).await.unwrap();
    load.more(100).await.unwrap();
    let stranger = osm.catalog.principal("stranger");
    osm.catalog.services[0].allowed.push(stranger);
    osm.mesh.start_management().unwrap();
    osm.push();
    osm.until("stranger", &url(server), "|200").await;
    load.end().unwrap();
}

/// A service that stands for two others, by weight; HTTP and bytes; one of them is itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn traffic_split() {
    let mut osm = Osm::new(&["client", "one", "two"]).await;
    for (pod, greeting) in [("one", "one\\n"), ("two", "two\\n")] {
        let pod = osm.mesh.get_mut(pod).unwrap();
        pod.run(Program::Nginx, 14001).unwrap();
        pod.run(Program::Greeting(greeting), 6000).unwrap();
    }
    let http = osm.serve("root-http", "http", 14001, &["one"], &["client"]);
    osm.serve("other-http", "http", 14001, &["two"], &["client"]);
    let tcp = osm.serve("root-tcp", "tcp", 6000, &["one"], &["client"]);
    osm.serve("other-tcp", "tcp", 6000, &["two"], &["client"]);
    osm.catalog.services[0].split = vec![("root-http", 50), ("other-http", 50)];
    osm.catalog.services[2].split = vec![("root-tcp", 50), ("other-tcp", 50)];
    // Routes of one port are in one configuration: the other service is not called by its own name here.
    osm.catalog.services[1].split = osm.catalog.services[0].split.clone();
    osm.inject(&["client", "one", "two"]);
    let mut heard = BTreeMap::new();
    for _ in 0..40 {
        // (Who stays silent is waited for here: the port does not say that its server speaks first.)
        assert!(osm.curl("client", &["--header", "host: root-http", &url(http)]).ends_with("|200"));
        *heard.entry(osm.mesh.get("client").unwrap().ask(tcp, "hi\n").unwrap()).or_insert(0) += 1;
    }
    let client = osm.mesh.get("client").unwrap();
    for cluster in
        ["test/root-http|14001", "test/other-http|14001", "test/root-tcp|6000", "test/other-tcp|6000"]
    {
        let name = format!("cluster.{cluster}.upstream_cx_total");
        assert!(client.stat(&name).unwrap() > 0, "{name}");
    }
    assert_eq!(heard.keys().map(String::as_str).collect::<Vec<_>>(), ["one\n", "two\n"], "{heard:?}");
}

/// A client of gRPC, whose calls are routed as HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn grpc_by_routes() {
    let mut osm = Osm::new(&["client", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Grpc, 50051).unwrap();
    let server = osm.serve("server", "http", 50051, &["server"], &["client"]);
    osm.catalog.services[0].paths = Some(("POST", "/echo.Echo/Say"));
    osm.inject(&["client", "server"]);
    let client = osm.mesh.get("client").unwrap();
    assert_eq!(client.grpc(server, "words").unwrap(), "words|");
    assert!(client.stat("cluster.test/server|50051.upstream_cx_http2_total").unwrap() > 0);
}

/// Out of the mesh: everything, nothing, or what policies name by host and path, by server name, by address.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn egress_on_and_off_and_by_policy() {
    let mut osm = Osm::new(&["client"]).await;
    let outside = osm.mesh.outside().unwrap();
    outside.run(Program::Nginx, 8080).unwrap();
    outside.run(Program::Echo, 8443).unwrap();
    outside.run(Program::Echo, 9000).unwrap();
    let at = |port: u16| SocketAddr::new(OUTSIDE.v4.into(), port);
    osm.catalog.egress = true;
    osm.inject(&["client"]);
    assert!(osm.curl("client", &[&url(at(8080))]).ends_with("|200"));
    osm.catalog.egress = false;
    osm.push();
    osm.until("client", &url(at(8080)), "|000").await;

    osm.catalog.policies = vec![
        Egress::Http { host: "httpbin.test".into(), path: "/status/200", to: at(8080) },
        Egress::Https { server_name: "allowed.test", to: at(8443) },
        Egress::Tcp { to: at(9000) },
    ];
    osm.push();
    let host = ["--header", "host: httpbin.test"];
    let path = |path: &str| format!("http://{}{path}", at(8080));
    let seen = async || {
        osm.curl("client", &[host[0], host[1], &path("/status/200")]).ends_with("|200").then_some(())
    };
    eventually("the policy", SOON, seen).await.unwrap();
    assert!(osm.curl("client", &[host[0], host[1], &path("/status/201")]).ends_with("|404"));
    assert!(osm.curl("client", &[&path("/status/200")]).ends_with("|404"), "another host");
    let client = osm.mesh.get("client").unwrap();
    // A hello with a name is sent back by what is behind the name's chain; one with another name is closed.
    for (name, passes) in [("allowed.test", true), ("other.test", false)] {
        let hello = hello(name);
        let answer = client.bytes(at(8443), &hello).unwrap_or_default();
        assert_eq!(answer == hello, passes, "{name}");
    }
    assert_eq!(client.ask(at(9000), "bytes\n").unwrap(), "bytes\n");
    assert!(client.tcp(at(9001), b"bytes").is_ok_and(|answer| answer.is_empty()), "no policy");
}

/// What a client of TLS says first.
fn hello(name: &str) -> Vec<u8> {
    let config = integration::tls::ClientOptions::default().config().unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// Ports and ranges that are excluded go past the sidecar.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn excluded_ports_and_ranges_go_past_the_sidecar() {
    for flags in ["-o 8080", "-x 203.0.113.0/24"] {
        let mut osm = Osm::new(&["client"]).await;
        let outside = osm.mesh.outside().unwrap();
        outside.run(Program::Nginx, 8080).unwrap();
        osm.push();
        osm.mesh.get("client").unwrap().redirect(&format!("--preset osm {flags}")).unwrap();
        osm.start("client", "TLSv1_3").unwrap();
        // Egress is off: only who goes past the sidecar gets there.
        let answer = osm.curl("client", &[&url((OUTSIDE.v4, 8080).into())]);
        assert!(answer.ends_with("|200"), "{flags}: {answer}");
        assert_eq!(
            osm.mesh.get("client").unwrap().stat("listener.0.0.0.0_15001.downstream_cx_total").unwrap(),
            0
        );
    }
}

/// The sidecar's highest version of TLS against the controller's lowest: equal, above, below, which cannot be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_of_tls_of_sidecar_and_controller() {
    for (highest, lowest, works) in
        [("TLSv1_2", "TLSv1_2", true), ("TLSv1_3", "TLSv1_2", true), ("TLSv1_2", "TLSv1_3", false)]
    {
        let mut osm = Osm::new(&["client"]).await;
        osm.guard.signal(rustix::process::Signal::KILL).unwrap();
        osm.guard.ended(SOON).await.err();
        osm.guard = guard(&osm.mesh, &osm.roots[0], lowest);
        osm.is_impatient = true;
        osm.push();
        osm.mesh.get("client").unwrap().redirect("--preset osm").unwrap();
        osm.start("client", highest).unwrap();
        let client = osm.mesh.get("client").unwrap();
        let name =
            if works { "cluster_manager.cds.update_success" } else { "cluster_manager.cds.update_failure" };
        let seen = async || (client.stat(name).ok()? >= 1).then_some(());
        eventually(name, SOON, seen).await.unwrap();
        assert_eq!(
            client.stat("cluster_manager.cds.update_success").unwrap() > 0,
            works,
            "{highest} {lowest}"
        );
    }
}

/// Names of SPIFFE in the place of DNS names, and certificates and roots that change under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn spiffe_names_and_rotation_under_load() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    osm.catalog.spiffe = true;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.inject(&["client", "stranger", "server"]);
    assert_eq!(osm.curl("stranger", &[&url(server)]), "RBAC: access denied|403");
    let load = Load::start(osm.mesh.get("client").unwrap(), &[server], "server", 2).unwrap();
    let updated = |osm: &Osm, pod: &str, secret: &str| {
        osm.mesh.get(pod).unwrap().stat(&format!("sds.{}.update_success", secret.replace(':', "_"))).unwrap()
    };
    for round in 0..4 {
        let before: Vec<_> =
            ["client", "server"].map(|pod| updated(&osm, pod, &format!("service-cert:test/{pod}"))).to_vec();
        if round == 2 {
            // Two roots from here on.
            osm.roots.push(Authority::new("next").unwrap());
        }
        for pod in ["client", "server"] {
            osm.identify(pod);
        }
        osm.push();
        for (pod, before) in ["client", "server"].into_iter().zip(before) {
            let seen =
                async || (updated(&osm, pod, &format!("service-cert:test/{pod}")) > before).then_some(());
            eventually("the new certificate", SOON, seen).await.unwrap();
        }
        load.more(40).await.unwrap();
    }
    load.end().unwrap();
}
