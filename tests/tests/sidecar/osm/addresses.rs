//! Services without an address of their own, and workloads that listen at one address only.

use integration::mesh::programs::Program;
use integration::mesh::wire::Wire;

use super::Osm;
use crate::url;

/// The addresses of a headless service are those of its pods: calls of any of them go through the mesh.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_headless_service_is_called_at_its_pods_addresses() {
    const SERVERS: [&str; 2] = ["one", "two"];
    let mut osm = Osm::new(&["client", "stranger", "one", "two"]).await;
    for pod in SERVERS {
        let pod = osm.mesh.get_mut(pod).unwrap();
        pod.run(Program::Nginx, 14001).unwrap();
        pod.run(Program::Echo, 6000).unwrap();
    }
    osm.serve("http", "http", 14001, &SERVERS, &["client"]);
    osm.serve("echo", "tcp", 6000, &SERVERS, &["client"]);
    for service in &mut osm.catalog.services {
        service.headless = true;
    }
    osm.inject(&["client", "stranger", "one", "two"]);
    let mut wire = Wire::watch(&osm.mesh.node).unwrap();
    let client = osm.mesh.get("client").unwrap();
    for pod in SERVERS.repeat(5) {
        let ip = osm.pod_ip(pod);
        let called = format!("http://{ip}:14001/called");
        assert!(osm.curl("client", &[&called]).ends_with("|200"), "{pod}");
        assert!(osm.curl("client", &["--header", "host: http.test", &called]).ends_with("|200"), "{pod}");
        assert!(osm.curl("stranger", &[&called]).ends_with("|403"), "{pod}");
        assert_eq!(client.ask((ip, 6000).into(), "bytes\n").unwrap(), "bytes\n");
    }
    assert!(!wire.saw(b"GET /called").unwrap() && !wire.saw(b"bytes\n").unwrap());
    // Whichever is called, all of its pods take part.
    for pod in SERVERS {
        let served =
            osm.mesh.get(pod).unwrap().stat("cluster.test/http|14001|local.upstream_rq_total").unwrap();
        assert!(served > 0, "{pod}");
    }
}

/// A workload that listens at its pod's address only is reached where the rules say so (`--pod-ip`): sidecars connect to 127.0.0.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_workload_that_listens_at_its_pods_address_only() {
    for (is_said, wanted) in [(true, "|200"), (false, "|503")] {
        let mut osm = Osm::new(&["client", "server"]).await;
        let server = osm.mesh.get_mut("server").unwrap();
        let ip = server.addresses.v4;
        server.run(Program::HttpServerAt(ip), 14001).unwrap();
        let at = osm.serve("server", "http", 14001, &["server"], &["client"]);
        osm.inject(&["client"]);
        let flag = if is_said { format!("--pod-ip {ip}") } else { String::new() };
        let server = osm.mesh.get("server").unwrap();
        server.redirect(&format!("--preset osm {flag}")).unwrap();
        osm.start("server", "TLSv1_3").unwrap();
        let answer = osm.curl("client", &["--output", "/dev/null", &url(at)]);
        assert_eq!(answer, wanted, "{flag}");
        assert_eq!(osm.curl("server", &["http://127.0.0.1:14001/"]), "|000", "the workload is not there");
    }
}
