//! With TPROXY the workload sees its clients' addresses.

use integration::mesh::Mode;

use crate::{mesh, url};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_workload_sees_its_clients_addresses() {
    let (mut mesh, web) = mesh().await;
    mesh.tproxy = true;
    mesh.mode = Mode::Permissive;
    mesh.inject(&["client", "web"]).unwrap();
    let from = |pod: &str| mesh.get(pod).unwrap().addresses;
    // By mutual TLS: the service has its pod's IPv4 address, by whichever the client comes.
    for at in web.at() {
        let answer = mesh.get("client").unwrap().curl(&[&url(at)]).unwrap();
        assert!(answer.starts_with(&format!("8080|{}|By=", from("client").v4)), "{answer}");
    }
    // Plainly, by both.
    for (own, seen) in from("web").each().into_iter().zip(from("stranger").each()) {
        let answer = mesh.get("stranger").unwrap().curl(&[&url((own, 8080).into())]).unwrap();
        assert!(answer.starts_with(&format!("8080|{seen}||")) && answer.ends_with("|200"), "{answer}");
    }
}

/// By IPv6 all the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_workload_sees_its_clients_ipv6_addresses() {
    let (mut mesh, web) = mesh().await;
    mesh.tproxy = true;
    mesh.services[0].over_v6 = true;
    mesh.inject(&["client", "web"]).unwrap();
    for at in web.at() {
        let answer = mesh.get("client").unwrap().curl(&[&url(at)]).unwrap();
        let client = mesh.get("client").unwrap().addresses.v6;
        assert!(answer.starts_with(&format!("8080|{client}|By=")), "{answer}");
    }
}
