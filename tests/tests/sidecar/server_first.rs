//! Servers that speak first, through two sidecars: the twelve cases of Istio's matrix, by whether the port is declared to be TCP,
//! what the client's sidecar speaks, and what the server's takes. All are greeted but those whose TLS does not match.
//!
//! Where a port is not declared both sides look for HTTP, and where TLS is optional the server's side looks for that: Envoy waits for
//! the client there. Those that look do so for longer than any test waits where a greeting is expected.

use std::net::SocketAddr;

use integration::mesh::programs::Program;
use integration::mesh::resources::{http, typed};
use integration::mesh::{Mesh, Mode, Protocol, Resources, Service};
use integration::process::Binary;
use serde_json::{Value, json};

const SMTP: &str = "220 mail.example ESMTP\r\n";
/// The handshake of version 10, up to its first zero byte behind the name of the version.
const MYSQL: &str = "J\0\0\0\n";

/// What is known of a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Nothing: who serves it looks for HTTP.
    Auto,
    /// That it is TCP.
    Tcp,
}

/// What the client's sidecar speaks (a `DestinationRule`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Disable,
    Mutual,
}

/// What the server's sidecar takes (a `PeerAuthentication`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Disable,
    Permissive,
    Strict,
}

/// A case of the matrix.
struct Case {
    port: Port,
    client: Client,
    server: Server,
    is_greeted: bool,
}

impl Case {
    /// How long listener filters wait.
    fn patience(&self) -> &'static str {
        if self.is_greeted { "60s" } else { "0.5s" }
    }

    fn inspectors(&self, looks_for_tls: bool) -> Vec<Value> {
        let filter = |kind: &str, message: &str| {
            typed(
                &format!("envoy.filters.listener.{kind}"),
                &format!("extensions.filters.listener.{kind}.v3.{message}"),
                json!({}),
            )
        };
        let tls = looks_for_tls.then(|| filter("tls_inspector", "TlsInspector"));
        let http = (self.port == Port::Auto).then(|| filter("http_inspector", "HttpInspector"));
        tls.into_iter().chain(http).collect()
    }

    fn at_the_client(&self, resources: &mut Resources, service: &Service) {
        if self.client == Client::Disable {
            let cluster = resources.clusters.iter_mut().find(|cluster| cluster["name"] == service.cluster());
            cluster.unwrap().as_object_mut().unwrap().remove("transport_socket");
        }
        if self.port == Port::Tcp {
            return;
        }
        for at in service.at() {
            let name = format!("{}_{}", at.ip(), at.port());
            let listener = resources.listeners.iter_mut().find(|one| one["name"] == name).unwrap();
            let rest = listener["filter_chains"].take()[0].take();
            listener["default_filter_chain"] = rest;
            listener["filter_chains"] = json!([http_chain(json!({}))]);
            listener["listener_filters"] = json!(self.inspectors(true));
            listener["listener_filters_timeout"] = json!(self.patience());
            listener["continue_on_listener_filters_timeout"] = json!(true);
        }
    }

    fn at_the_server(&self, resources: &mut Resources, service: &Service) {
        let inbound = resources.listeners.iter_mut().find(|one| one["name"] == "virtualInbound").unwrap();
        let mut filters = inbound["listener_filters"].as_array().unwrap()[..1].to_vec();
        filters.extend(self.inspectors(self.server != Server::Disable));
        inbound["listener_filters"] = json!(filters);
        inbound["listener_filters_timeout"] = json!(self.patience());
        let chains = inbound["filter_chains"].as_array_mut().unwrap();
        if self.server == Server::Disable {
            chains.retain(|chain| chain.get("transport_socket").is_none());
        }
        if self.port == Port::Auto && self.server != Server::Strict {
            let of = json!({"destination_port": service.target, "transport_protocol": "raw_buffer"});
            chains.push(http_chain(of));
        }
    }

    async fn plays(&self) {
        let mut mesh = Mesh::new(&Binary::subject().unwrap()).await.unwrap();
        mesh.mode = if self.server == Server::Strict { Mode::Strict } else { Mode::Permissive };
        mesh.pod("client").unwrap();
        let pod = mesh.pod("server").unwrap();
        pod.run(Program::Greeting("220 mail.example ESMTP\\r\\n"), 2525).unwrap();
        pod.run(Program::Greeting("J\\0\\0\\0\\n8.0.36\\0"), 3306).unwrap();
        let smtp = mesh.serve(Service::new("smtp", Protocol::Tcp, 2525, &["server"]));
        let mysql = mesh.serve(Service::new("mysql", Protocol::Tcp, 3306, &["server"]));
        mesh.push().unwrap();
        let services = mesh.services.clone();
        for name in ["client", "server"] {
            let mut resources = mesh.resources(mesh.get(name).unwrap());
            for service in &services {
                match name {
                    "client" => self.at_the_client(&mut resources, service),
                    _ => self.at_the_server(&mut resources, service),
                }
            }
            mesh.hand_out(name, "2", &resources).unwrap();
            mesh.get(name).unwrap().redirect("--preset istio --ip-families both").unwrap();
            mesh.start_proxy(name, &[]).unwrap();
        }
        self.hears(&mesh, smtp[0], SMTP);
        self.hears(&mesh, mysql[0], MYSQL);
    }

    fn hears(&self, mesh: &Mesh, at: SocketAddr, greeting: &str) {
        match mesh.get("client").unwrap().hear(at) {
            Ok(line) if self.is_greeted => assert_eq!(line, greeting),
            Ok(line) => assert_eq!(line, "", "through TLS that does not match"),
            Err(error) => {
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                assert!(!self.is_greeted && kind == Some(std::io::ErrorKind::ConnectionReset), "{error:#}");
            }
        }
    }
}

/// For those that speak HTTP, and match this as well.
fn http_chain(mut of: Value) -> Value {
    of["application_protocols"] = json!(["http/1.0", "http/1.1", "h2c"]);
    let answer = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}});
    let hosts = json!([{"name": "any", "domains": ["*"], "routes": [answer]}]);
    let manager = http("http", Vec::new(), json!({"route_config": {"virtual_hosts": hosts}}));
    json!({"name": format!("http{of}"), "filter_chain_match": of, "filters": [manager]})
}

macro_rules! matrix {
    ($($name:ident: $port:ident, $client:ident to $server:ident, $is_greeted:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let (port, client, server) = (Port::$port, Client::$client, Server::$server);
            Case { port, client, server, is_greeted: $is_greeted }.plays().await;
        }
    )*};
}

matrix! {
    auto_disable_to_disable: Auto, Disable to Disable, true;
    auto_disable_to_permissive: Auto, Disable to Permissive, true;
    auto_disable_to_strict: Auto, Disable to Strict, false;
    auto_mutual_to_disable: Auto, Mutual to Disable, false;
    auto_mutual_to_permissive: Auto, Mutual to Permissive, true;
    auto_mutual_to_strict: Auto, Mutual to Strict, true;
    tcp_disable_to_disable: Tcp, Disable to Disable, true;
    tcp_disable_to_permissive: Tcp, Disable to Permissive, true;
    tcp_disable_to_strict: Tcp, Disable to Strict, false;
    tcp_mutual_to_disable: Tcp, Mutual to Disable, false;
    tcp_mutual_to_permissive: Tcp, Mutual to Permissive, true;
    tcp_mutual_to_strict: Tcp, Mutual to Strict, true;
}
