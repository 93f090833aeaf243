//! Traffic under what istiod sends: requests, bytes, greetings, callers with and without a sidecar, policies; and what Istio's
//! metrics say of it.

use std::net::SocketAddr;

use integration::expect::{SOON, eventually};
use integration::mesh::pod::Pod;
use integration::mesh::programs::Program;
use integration::mesh::{Mesh, Mode, Protocol, Service};

use super::{Agent, injected_with};
use crate::{mesh, url};

/// What a scraper outside of the mesh gets of a pod's metrics.
fn scraped(mesh: &Mesh, pod: &str) -> String {
    let ip = mesh.get(pod).unwrap().addresses.v4;
    mesh.get("stranger").unwrap().curl(&[&format!("http://{ip}:15090/stats/prometheus")]).unwrap()
}

/// Waits for a sample of a metric with all of these labels.
async fn counted(mesh: &Mesh, pod: &str, metric: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let found = eventually(metric, SOON, async || {
        let text = scraped(mesh, pod);
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
        let line = lines.find(|line| wanted.iter().all(|label| line.contains(label)))?;
        line.rsplit(' ').next()?.parse().ok()
    });
    found.await.unwrap_or_else(|error| {
        let text = scraped(mesh, pod);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(metric)).collect();
        panic!("{error}: {labels:?} in {lines:#?}")
    })
}

fn by(pod: &str) -> String {
    format!("URI=spiffe://cluster.local/ns/default/sa/{pod}|")
}

/// A mesh with these services besides `web`, under agents.
async fn with(mode: Mode, prepare: impl FnOnce(&mut Mesh)) -> (Mesh, Service, [Agent; 2]) {
    let (mut mesh, _) = mesh().await;
    mesh.mode = mode;
    prepare(&mut mesh);
    let web = mesh.services[0].clone();
    let (mesh, agents) = injected_with(mesh);
    (mesh, web, agents)
}

fn hears(pod: &Pod, at: SocketAddr) -> String {
    pod.hear(at).unwrap()
}

/// A request passes both sidecars by mutual TLS, which tell each other who they are and count it by that; other hosts are passed on to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_are_carried_and_counted() {
    let (mesh, web, _agents) = with(Mode::Strict, |mesh| {
        mesh.pod("legacy").unwrap().run(Program::Nginx, 8090).unwrap();
        mesh.serve(Service::new("legacy", Protocol::Http, 8080, &["legacy"]).target(8090));
    })
    .await;
    let client = mesh.get("client").unwrap();
    for at in web.at() {
        let answer = client.curl(&["--header", "x-envoy-peer-metadata-id: forged", &url(at)]).unwrap();
        assert!(answer.contains(&by("client")) && answer.ends_with("|200"), "{answer}");
    }
    // By name, as workloads do; the route is the same.
    let answer = client.curl(&["--header", "host: web.default:8080", &url(web.at()[0])]).unwrap();
    assert!(answer.ends_with("|200"), "{answer}");
    let common = [
        ("source_workload", "client"),
        ("source_principal", "spiffe://cluster.local/ns/default/sa/client"),
        ("destination_workload", "web"),
        ("destination_service", "web.default.svc.cluster.local"),
        ("request_protocol", "http"),
        ("response_code", "200"),
    ];
    let (here, there) = (
        [&common[..], &[("reporter", "source")]].concat(),
        [&common[..], &[("reporter", "destination"), ("connection_security_policy", "mutual_tls")]].concat(),
    );
    assert!(counted(&mesh, "client", "istio_requests_total", &here).await >= 1);
    assert!(counted(&mesh, "web", "istio_requests_total", &there).await >= 1);
    // One without a sidecar is spoken to plainly: its endpoint does not say that it speaks TLS.
    let legacy = mesh.services[1].at()[0];
    let answer = client.curl(&[&url(legacy)]).unwrap();
    assert!(answer.starts_with("8090|") && answer.contains("||") && answer.ends_with("|200"), "{answer}");
    // What no service has on that port is HTTP that is passed on to where it was going.
    let own = mesh.get("legacy").unwrap().addresses.v4;
    assert!(client.curl(&[&url((own, 8090).into())]).unwrap().ends_with("|200"));
}

/// Bytes between sidecars that told each other who they are; servers that speak first, on a port that is looked at and on one that
/// is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_and_greetings_are_carried_and_counted() {
    let (mesh, _, _agents) = with(Mode::Permissive, |mesh| {
        let pod = mesh.get_mut("web").unwrap();
        pod.run(Program::Echo, 7000).unwrap();
        pod.run(Program::Greeting("220 ready\\r\\n"), 2525).unwrap();
        mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["web"]));
        mesh.serve(Service::new("mail", Protocol::Tcp, 2525, &["web"]));
    })
    .await;
    let client = mesh.get("client").unwrap();
    let (echo, mail) = (mesh.services[1].at()[0], mesh.services[2].at()[0]);
    assert_eq!(client.ask(echo, "bytes\n").unwrap(), "bytes\n");
    assert_eq!(hears(client, mail), "220 ready\r\n");
    let labels = [
        ("source_workload", "client"),
        ("destination_workload", "web"),
        ("destination_service", "echo.default.svc.cluster.local"),
        ("request_protocol", "tcp"),
    ];
    for (pod, reporter) in [("client", "source"), ("web", "destination")] {
        let labels = [&labels[..], &[("reporter", reporter)]].concat();
        let labels = if reporter == "source" {
            labels
        } else {
            labels.into_iter().filter(|(name, _)| *name != "destination_service").collect()
        };
        assert!(counted(&mesh, pod, "istio_tcp_connections_opened_total", &labels).await >= 1);
    }
}

/// Where the mode permits it, who has no sidecar is let in plainly, HTTP and bytes; where it does not, nobody is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_without_a_sidecar() {
    for mode in [Mode::Permissive, Mode::Strict] {
        let (mesh, _, _agents) = with(mode, |mesh| {
            mesh.get_mut("web").unwrap().run(Program::Echo, 7000).unwrap();
            mesh.get_mut("web").unwrap().run(Program::Nginx, 9090).unwrap();
            mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["web"]));
        })
        .await;
        let stranger = mesh.get("stranger").unwrap();
        let own = mesh.get("web").unwrap().addresses;
        for ip in own.each() {
            let answer = stranger.curl(&[&url((ip, 8080).into())]).unwrap();
            let bytes = stranger.ask((ip, 7000).into(), "bytes\n");
            // A port that no service has.
            let other = stranger.curl(&[&url((ip, 9090).into())]).unwrap();
            match mode {
                Mode::Permissive => {
                    assert!(answer.starts_with("8080|") && answer.ends_with("|200"), "{answer}");
                    assert!(!answer.contains("spiffe"), "{answer}");
                    assert_eq!(bytes.unwrap(), "bytes\n");
                    assert!(other.starts_with("9090|") && other.ends_with("|200"), "{other}");
                }
                Mode::Strict => {
                    assert_eq!(answer, "|000");
                    assert!(!matches!(&bytes, Ok(text) if !text.is_empty()), "{bytes:?}");
                    assert_eq!(other, "|000");
                }
            }
        }
        if mode == Mode::Permissive {
            let labels = [
                ("reporter", "destination"),
                ("connection_security_policy", "none"),
                ("source_workload", "unknown"),
            ];
            counted(&mesh, "web", "istio_requests_total", &labels).await;
        }
    }
}

/// Who may call is enforced for requests and for bytes, and what is only tried is counted and let through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn policies_are_enforced_and_tried() {
    let (mesh, web, _agents) = with(Mode::Strict, |mesh| {
        mesh.services.clear();
        mesh.get_mut("web").unwrap().run(Program::Echo, 7000).unwrap();
        mesh.serve(Service::new("web", Protocol::Http, 8080, &["web"]).allow(&["client"]));
        mesh.serve(Service::new("closed", Protocol::Tcp, 7000, &["web"]).allow(&["nobody"]));
    })
    .await;
    let client = mesh.get("client").unwrap();
    assert!(client.curl(&[&url(web.at()[0])]).unwrap().ends_with("|200"));
    let trial = format!("http://{}/trial", web.at()[0]);
    assert!(client.curl(&["--output", "/dev/null", &trial]).unwrap().contains('|'));
    let answer = client.ask(mesh.services[1].at()[0], "bytes\n");
    assert!(!matches!(&answer, Ok(text) if !text.is_empty()), "{answer:?}");
    let server = mesh.get("web").unwrap();
    assert_eq!(server.stat("http.inbound_0.0.0.0_8080;.rbac.allowed").unwrap(), 2);
    assert_eq!(server.stat("http.inbound_0.0.0.0_8080;.rbac.istio_dry_run_deny_.shadow_denied").unwrap(), 1);
    mesh.until("web", "tcp.rbac.denied", 1).await.unwrap();
}

/// Metrics are compressed for who takes that, by the filters of the agent's bootstrap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn metrics_are_compressed_for_who_takes_that() {
    let (mesh, ..) = with(Mode::Strict, |_| {}).await;
    let at = format!("http://{}:15090/stats/prometheus", mesh.get("web").unwrap().addresses.v4);
    for coding in ["gzip", "br", "zstd"] {
        let accepts = format!("accept-encoding: {coding}");
        let words = ["--header", &accepts, "--dump-header", "-", "--output", "/dev/null", &at];
        let head = mesh.get("stranger").unwrap().curl(&words).unwrap().to_lowercase();
        assert!(head.contains(&format!("content-encoding: {coding}")), "{head}");
    }
}
