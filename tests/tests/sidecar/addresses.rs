//! The ways to a workload, and out of the mesh: services, pods, oneself, other ports, elsewhere; by both IP versions.

use integration::mesh::pod::Pod;
use integration::mesh::programs::Program;
use integration::mesh::resources::{HEALTH, INBOUND, OUTBOUND};
use integration::mesh::wire::Wire;
use integration::mesh::{Egress, Mode, OUTSIDE, Protocol, Service};

use crate::{mesh, url};

fn of(pod: &str) -> String {
    format!("URI=spiffe://cluster.local/ns/default/sa/{pod}|")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_calls_itself() {
    let (mut mesh, web) = mesh().await;
    mesh.inject(&["web"]).unwrap();
    let pod = mesh.get("web").unwrap();
    for (version, at) in web.at().into_iter().enumerate() {
        // By its service: out through its own proxy and in again, as its own client.
        let answer = pod.curl(&[&url(at)]).unwrap();
        assert!(answer.contains(&of("web")) && answer.ends_with("|200"), "{answer}");
        // By its own address and by localhost: nobody is between.
        let own = pod.addresses.each()[version];
        let answer = pod.curl(&[&url((own, 8080).into())]).unwrap();
        assert_eq!(answer, format!("8080|{own}||{}\n|200", host(own)), "its own address");
    }
    assert_eq!(pod.curl(&["http://127.0.0.1:8080/"]).unwrap(), "8080|127.0.0.1||127.0.0.1\n|200");
    assert_eq!(pod.curl(&["http://[::1]:8080/"]).unwrap(), "8080|::1||[::1]\n|200");
}

fn host(ip: std::net::IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// A service without an address: each pod of it is reached at its own, by mutual TLS. A pod's address that no service is known by
/// is passed on to as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn headless_services_and_the_addresses_of_pods() {
    let (mut mesh, _) = mesh().await;
    mesh.services.clear();
    mesh.pod("web2").unwrap().run(Program::Nginx, 8080).unwrap();
    mesh.get_mut("web").unwrap().run(Program::Echo, 7000).unwrap();
    mesh.serve(Service::new("headless", Protocol::Http, 8080, &["web", "web2"]).headless());
    mesh.serve(Service::new("echo", Protocol::Tcp, 7000, &["web"]));
    mesh.mode = Mode::Permissive;
    mesh.inject(&["client", "web", "web2"]).unwrap();
    let mut wire = Wire::watch(&mesh.node).unwrap();
    let client = mesh.get("client").unwrap();
    for name in ["web", "web2"] {
        for ip in mesh.get(name).unwrap().addresses.each() {
            let answer = client.curl(&[&url((ip, 8080).into())]).unwrap();
            assert!(answer.contains(&format!("By=spiffe://cluster.local/ns/default/sa/{name};")), "{answer}");
            assert!(answer.contains(&of("client")) && answer.ends_with("|200"), "{answer}");
        }
    }
    assert!(!wire.saw(b"GET / HTTP").unwrap());
    for ip in mesh.get("web").unwrap().addresses.each() {
        assert_eq!(client.tcp((ip, 7000).into(), b"as it is").unwrap(), "as it is");
    }
    assert!(wire.saw(b"as it is").unwrap());
    assert_eq!(client.stat("cluster.PassthroughCluster.upstream_cx_total").unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_ports_of_a_service_and_several_services_of_a_pod() {
    let (mut mesh, web) = mesh().await;
    let pod = mesh.get_mut("web").unwrap();
    pod.run(Program::Nginx, 8081).unwrap();
    pod.run(Program::Nginx, 8082).unwrap();
    let second = mesh.serve(Service::new("web", Protocol::Http, 80, &["web"]).target(8081));
    let other = mesh.serve(Service::new("other", Protocol::Http, 8080, &["web"]).target(8082));
    assert_eq!(second[0].ip(), web.at()[0].ip());
    mesh.inject(&["client", "web"]).unwrap();
    let client = mesh.get("client").unwrap();
    for (port, at) in [(8080, web.at()), (8081, second), (8082, other)] {
        for at in at {
            let answer = client.curl(&[&url(at)]).unwrap();
            assert!(answer.starts_with(&format!("{port}|127.0.0.6|By=")), "{at}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_outside_is_passed_on_to_or_nowhere() {
    let (mut mesh, _) = mesh().await;
    let outside = mesh.outside().unwrap();
    outside.run(Program::Nginx, 8080).unwrap();
    outside.run(Program::Greeting("hello\\n"), 2525).unwrap();
    mesh.inject(&["client"]).unwrap();
    let all = OUTSIDE.each();
    let (http, greeting) = (all.map(|ip| url((ip, 8080).into())), all.map(|ip| (ip, 2525).into()));
    let client = mesh.get("client").unwrap();
    for version in [0, 1] {
        let answer = client.curl(&[&http[version]]).unwrap();
        let seen = client.addresses.each()[version];
        assert_eq!(answer, format!("8080|{seen}||{}\n|200", host(all[version])));
        // A server that speaks first is heard: nothing looks at what a client sends.
        assert_eq!(client.tcp(greeting[version], b"hi").unwrap(), "hello\nhi");
    }
    assert_eq!(client.stat("cluster.PassthroughCluster.upstream_cx_total").unwrap(), 4);

    mesh.egress = Egress::RegistryOnly;
    mesh.push().unwrap();
    mesh.until("client", "listener_manager.listener_in_place_updated", 1).await.unwrap();
    let client = mesh.get("client").unwrap();
    for version in [0, 1] {
        assert_eq!(client.curl(&[&http[version]]).unwrap(), "|000");
        let answer = client.tcp(greeting[version], b"hi");
        assert!(!matches!(&answer, Ok(text) if !text.is_empty()), "{answer:?}");
    }
    assert_eq!(client.stat("cluster.PassthroughCluster.upstream_cx_total").unwrap(), 4);
    assert_eq!(client.stat("cluster.BlackHoleCluster.upstream_cx_none_healthy").unwrap(), 4);
}

/// The proxy's own ports lead nowhere, from inside and from outside of the pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_proxys_ports_are_no_way_in() {
    let (mut mesh, _) = mesh().await;
    mesh.mode = Mode::Permissive;
    mesh.inject(&["client", "web"]).unwrap();
    let web = mesh.get("web").unwrap();
    let closed = |pod: &Pod, ip, port| {
        let answer = pod.curl(&[&url((ip, port).into())]).unwrap();
        assert_eq!(answer, "|000", "{port} from {}", pod.name);
    };
    for ip in web.addresses.each() {
        closed(mesh.get("stranger").unwrap(), ip, INBOUND);
        closed(mesh.get("stranger").unwrap(), ip, OUTBOUND);
    }
    for ip in OUTSIDE.each() {
        closed(web, ip, OUTBOUND);
    }
}

/// Who probes a pod's health has no certificate. The port for that is not redirected, and says whether the workload answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn probes_of_health_need_no_certificate() {
    let (mut mesh, _) = mesh().await;
    mesh.inject(&["web"]).unwrap();
    // The node's agent is not part of the mesh; `stranger` stands for it.
    let probe = |mesh: &integration::mesh::Mesh, port: u16, path: &str| {
        let web = mesh.get("web").unwrap().addresses.v4;
        mesh.get("stranger")
            .unwrap()
            .curl(&["--output", "/dev/null", &format!("http://{web}:{port}{path}")])
            .unwrap()
    };
    assert_eq!(probe(&mesh, HEALTH, "/healthz/ready"), "|200");
    assert_eq!(probe(&mesh, HEALTH, "/elsewhere"), "|404");
    assert_eq!(probe(&mesh, 8080, "/"), "|000", "the workload itself wants mutual TLS");
    mesh.get_mut("web").unwrap().workloads.clear();
    assert_eq!(probe(&mesh, HEALTH, "/healthz/ready"), "|503");
    mesh.get_mut("web").unwrap().run(Program::Nginx, 8080).unwrap();
    assert_eq!(probe(&mesh, HEALTH, "/healthz/ready"), "|200");
}
