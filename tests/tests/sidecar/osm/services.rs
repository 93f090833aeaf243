//! Services of several shapes, who comes in from outside, probes, and requests that are sent again.

use std::net::SocketAddr;

use integration::mesh::programs::Program;
use integration::tls::Wanted;

use super::Osm;
use crate::url;

/// Many clients of one server; several ports of a service; several services of a pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_several_ports_and_several_services_of_a_pod() {
    let clients = ["one", "two", "three", "four", "five"];
    let mut osm = Osm::new(&[&clients[..], &["server"]].concat()).await;
    let server = osm.mesh.get_mut("server").unwrap();
    for port in [14001, 14002, 14003] {
        server.run(Program::Nginx, port).unwrap();
    }
    let first = osm.serve("server", "http", 14001, &["server"], &clients);
    // The second port is one of the same service, so at the same address.
    let second = osm.serve_at(first.ip(), "server", "http", 14002, &["server"], &clients);
    let third = osm.serve("other", "http", 14003, &["server"], &clients[..1]);
    osm.inject(&[&clients[..], &["server"]].concat());
    for client in clients {
        for (to, wanted) in
            [(first, "|200"), (second, "|200"), (third, if client == "one" { "|200" } else { "|403" })]
        {
            let answer = osm.curl(client, &[&url(to)]);
            assert!(answer.ends_with(wanted), "{client} {to}: {answer}");
            assert!(
                wanted == "|403" || answer.starts_with(&format!("{}|", to.port())),
                "{client} {to}: {answer}"
            );
        }
    }
}

/// Members of a set find each other by the addresses of their pods, each a service of its own, and each calls all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_of_a_stateful_set_reach_each_other() {
    const MEMBERS: [&str; 3] = ["zk-0", "zk-1", "zk-2"];
    let mut osm = Osm::new(&MEMBERS).await;
    let mut at = Vec::new();
    for member in MEMBERS {
        osm.mesh.get_mut(member).unwrap().run(Program::Echo, 2888).unwrap();
        at.push(osm.serve_at(osm.pod_ip(member), member, "tcp", 2888, &[member], &MEMBERS));
    }
    osm.inject(&MEMBERS);
    for from in MEMBERS {
        for (to, name) in at.iter().zip(MEMBERS) {
            let said = format!("{from} to {name}\n");
            assert_eq!(osm.mesh.get(from).unwrap().ask(*to, &said).unwrap(), said);
        }
    }
    // Every call of another's went through both sidecars.
    for member in MEMBERS {
        let name = format!("cluster.test/{member}|2888|local.upstream_cx_total");
        assert!(osm.mesh.get(member).unwrap().stat(&name).unwrap() >= 2, "{name}");
    }
}

/// In permissive mode bytes and split traffic need no policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn permissive_bytes_and_split() {
    let mut osm = Osm::new(&["client", "one", "two"]).await;
    for pod in ["one", "two"] {
        let pod = osm.mesh.get_mut(pod).unwrap();
        pod.run(Program::Nginx, 14001).unwrap();
        pod.run(Program::Echo, 6000).unwrap();
    }
    osm.catalog.permissive = true;
    let http = osm.serve("root", "http", 14001, &["one"], &[]);
    osm.serve("other", "http", 14001, &["two"], &[]);
    let echo = osm.serve("echo", "tcp", 6000, &["one", "two"], &[]);
    for service in [0, 1] {
        osm.catalog.services[service].split = vec![("root", 50), ("other", 50)];
    }
    osm.inject(&["client", "one", "two"]);
    let client = osm.mesh.get("client").unwrap();
    for _ in 0..40 {
        assert!(osm.curl("client", &["--header", "host: root", &url(http)]).ends_with("|200"));
        assert_eq!(client.ask(echo, "bytes\n").unwrap(), "bytes\n");
    }
    for cluster in ["test/root|14001", "test/other|14001"] {
        assert!(client.stat(&format!("cluster.{cluster}.upstream_rq_total")).unwrap() > 0, "{cluster}");
    }
}

/// A client of gRPC that speaks TLS itself: sidecars carry its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn grpc_over_its_own_tls_is_bytes() {
    let mut osm = Osm::new(&["client", "stranger", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::GrpcOverTls, 50051).unwrap();
    let server = osm.serve("server", "tcp", 50051, &["server"], &["client"]);
    osm.inject(&["client", "stranger", "server"]);
    assert_eq!(osm.mesh.get("client").unwrap().grpc_over_tls(server, "words").unwrap(), "words|");
    assert_eq!(osm.mesh.get("stranger").unwrap().grpc_over_tls(server, "words").unwrap(), "");
}

/// Who is outside comes in plainly where an `IngressBackend` names its address, and nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ingress_by_address() {
    let mut osm = Osm::new(&["client", "server", "gateway", "stranger"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.catalog.ingress = Some(osm.pod_ip("gateway"));
    osm.inject(&["client", "server"]);
    let own = url((osm.pod_ip("server"), 14001).into());
    assert!(osm.curl("gateway", &[&own]).ends_with("|200"));
    assert_eq!(osm.curl("stranger", &[&own]), "|000");
    assert!(osm.curl("client", &[&url(server)]).ends_with("|200"));
}

/// Who comes in over mutual TLS may if its certificate has the name that an `IngressBackend` has.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ingress_by_name_over_mutual_tls() {
    let mut osm = Osm::new(&["client", "server", "gateway"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.catalog.ingress_principal = Some("ingress.gateway.cluster.local".into());
    osm.inject(&["client", "server"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let own = format!("https://{}/", SocketAddr::new(osm.pod_ip("server"), 14001));
    for (name, wanted) in [("ingress.gateway.cluster.local", "|200"), ("other.gateway.cluster.local", "|403")]
    {
        let sans = [&*format!("dns:{name}")];
        let identity =
            osm.roots[0].issue(&Wanted { common_name: name, sans: &sans, ..Wanted::default() }).unwrap();
        let [chain, key] = ["pem", "key"].map(|kind| format!("{}/{name}.{kind}", dir.path().display()));
        std::fs::write(&chain, &identity.chain).unwrap();
        std::fs::write(&key, &identity.key).unwrap();
        let answer = osm.curl("gateway", &["--insecure", "--cert", &chain, "--key", &key, &own]);
        assert!(answer.ends_with(wanted), "{name}: {answer}");
    }
    assert_eq!(osm.curl("gateway", &["--insecure", &own]), "|000", "no certificate");
    assert_eq!(osm.curl("gateway", &[&own.replace("https", "http")]), "|000", "no TLS");
    assert!(osm.curl("client", &[&url(server)]).ends_with("|200"));
}

/// Probes of HTTP are rewritten to the sidecar's ports, which are not redirected.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn health_probes() {
    let mut osm = Osm::new(&["server", "kubelet"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    osm.serve("server", "http", 14001, &["server"], &["nobody"]);
    osm.inject(&["server"]);
    let own = osm.pod_ip("server");
    let probe = |osm: &Osm, port: u16, kind: &str| {
        osm.curl(
            "kubelet",
            &["--output", "/dev/null", &format!("http://{own}:{port}/osm-{kind}-probe/server")],
        )
    };
    for (port, kind) in [(15901, "liveness"), (15902, "readiness")] {
        assert_eq!(probe(&osm, port, kind), "|200", "{kind}");
    }
    osm.mesh.get_mut("server").unwrap().workloads.clear();
    assert_eq!(probe(&osm, 15902, "readiness"), "|503");
}

/// Probes over TLS are carried to the workload, and those of TCP go to a helper, which tells a port that nobody listens on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn probes_over_tls_and_of_tcp() {
    let mut osm = Osm::new(&["server", "kubelet"]).await;
    let server = osm.mesh.get_mut("server").unwrap();
    server.run(Program::HttpsServer, 14001).unwrap();
    server.run(Program::TcpProbe, 15904).unwrap();
    osm.serve("server", "tcp", 14001, &["server"], &["nobody"]);
    osm.inject(&["server"]);
    let own = osm.pod_ip("server");
    let secure = format!("https://{own}:15903/");
    assert!(osm.curl("kubelet", &["--insecure", "--output", "/dev/null", &secure]).ends_with("|200"));
    let helper = format!("http://{own}:15904/osm-healthcheck");
    for (port, wanted) in [(14001, "|200"), (14009, "|404")] {
        let header = format!("Original-Tcp-Port: {port}");
        assert_eq!(osm.curl("kubelet", &["--header", &header, &helper]), wanted, "{port}");
    }
}

/// A request that fails is sent again as often as its policy says, with pauses; without a policy it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retry_policy_on_and_off() {
    let mut osm = Osm::new(&["client", "server"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client"]);
    osm.inject(&["client", "server"]);
    let failing = format!("http://{server}/status/503");
    let counters =
        ["upstream_rq_retry", "upstream_rq_retry_limit_exceeded", "upstream_rq_retry_backoff_exponential"];
    for (retries, wanted) in [(None, [0, 0, 0]), (Some(5), [5, 1, 5])] {
        osm.catalog.retries = retries;
        osm.push();
        let updates = if retries.is_some() { 2 } else { 1 };
        osm.mesh
            .until(
                "client",
                "http.mesh-http-conn-manager.rds-outbound.14001.rds.rds-outbound.14001.update_success",
                updates,
            )
            .await
            .unwrap();
        assert!(osm.curl("client", &["--output", "/dev/null", &failing]).ends_with("|503"));
        let client = osm.mesh.get("client").unwrap();
        let seen = counters.map(|name| client.stat(&format!("cluster.test/server|14001.{name}")).unwrap());
        assert_eq!(seen, wanted, "{retries:?}");
    }
}
