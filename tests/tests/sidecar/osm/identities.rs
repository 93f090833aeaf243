//! Who calls and who is called: service accounts of several namespaces, one account of several pods, a caller that is in no service, and
//! certificates of another provider.

use integration::expect::{SOON, eventually};
use integration::mesh::load::Load;
use integration::mesh::programs::Program;
use integration::mesh::wire::Wire;
use integration::tls::Authority;

use super::Osm;
use super::shapes::Account;
use crate::url;

/// A target in one namespace, its source in another; accounts and services of one name in several namespaces are several.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_whose_source_is_in_another_namespace() {
    let mut osm = Osm::new(&["client", "namesake", "server", "near"]).await;
    osm.catalog.accounts.insert("namesake", Account { name: "client", namespace: "other" });
    osm.catalog.accounts.insert("server", Account { name: "server", namespace: "far" });
    let server = osm.mesh.get_mut("server").unwrap();
    server.run(Program::Nginx, 14001).unwrap();
    server.run(Program::Echo, 6000).unwrap();
    osm.mesh.get_mut("near").unwrap().run(Program::Nginx, 14001).unwrap();
    let far = osm.serve("server", "http", 14001, &["server"], &["client"]);
    let echo = osm.serve("echo", "tcp", 6000, &["server"], &["client"]);
    let near = osm.serve("server", "http", 14001, &["near"], &["namesake"]);
    osm.inject(&["client", "namesake", "server", "near"]);
    for (from, to, wanted) in [
        ("client", far, "|200"),
        ("namesake", far, "|403"),
        ("client", near, "|403"),
        ("namesake", near, "|200"),
    ] {
        let answer = osm.curl(from, &[&url(to)]);
        assert!(answer.ends_with(wanted), "{from} {to}: {answer}");
    }
    // The name alone is that of the service in the caller's own namespace, which `namesake` has none in.
    for (from, host, wanted) in [
        ("client", "server.far", "|200"),
        ("client", "server", "|403"),
        ("namesake", "server.test.svc.cluster.local", "|200"),
        ("namesake", "server", "|404"),
    ] {
        let answer = osm.curl(from, &["--header", &format!("host: {host}"), &url(far)]);
        assert!(answer.ends_with(wanted), "{from} {host}: {answer}");
    }
    assert_eq!(osm.mesh.get("client").unwrap().ask(echo, "bytes\n").unwrap(), "bytes\n");
    let answer = osm.mesh.get("namesake").unwrap().ask(echo, "bytes\n");
    assert!(!matches!(&answer, Ok(text) if !text.is_empty()), "{answer:?}");
    osm.mesh.until("server", "RBAC.rbac.denied", 1).await.unwrap();
    let stat = |pod: &str, name: &str| osm.mesh.get(pod).unwrap().stat(name).unwrap();
    assert_eq!(stat("client", "cluster.far/server|14001.upstream_rq_total"), 2);
    assert_eq!(stat("client", "cluster.test/server|14001.upstream_rq_total"), 2);
    assert!(stat("namesake", "sds.service-cert_other/client.update_success") >= 1);
}

/// Traffic split between two services whose pods have one service account.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn traffic_split_between_services_of_one_account() {
    let mut osm = Osm::new(&["client", "stranger", "one", "two"]).await;
    for pod in ["one", "two"] {
        osm.catalog.accounts.insert(pod, Account { name: "backend", namespace: "test" });
        osm.mesh.get_mut(pod).unwrap().run(Program::Nginx, 14001).unwrap();
    }
    let root = osm.serve("root", "http", 14001, &["one"], &["client"]);
    osm.serve("other", "http", 14001, &["two"], &["client"]);
    for service in [0, 1] {
        osm.catalog.services[service].split = vec![("root", 50), ("other", 50)];
    }
    osm.inject(&["client", "stranger", "one", "two"]);
    let host = ["--header", "host: root"];
    for _ in 0..40 {
        let answer = osm.curl("client", &[host[0], host[1], &url(root)]);
        assert!(answer.ends_with("|200"), "{answer}");
    }
    assert!(osm.curl("stranger", &[host[0], host[1], &url(root)]).ends_with("|403"));
    for (pod, service) in [("one", "root"), ("two", "other")] {
        let pod = osm.mesh.get(pod).unwrap();
        let served = pod.stat(&format!("cluster.test/{service}|14001|local.upstream_rq_total")).unwrap();
        assert!(served > 0, "{service}");
        assert!(pod.stat("sds.service-cert_test/backend.update_success").unwrap() >= 1);
    }
}

/// A pod that is in no service calls all the same, and takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_without_a_service() {
    let mut osm = Osm::new(&["client", "server", "outsider"]).await;
    let server = osm.mesh.get_mut("server").unwrap();
    server.run(Program::Nginx, 14001).unwrap();
    server.run(Program::Echo, 6000).unwrap();
    osm.mesh.get_mut("client").unwrap().run(Program::Nginx, 14001).unwrap();
    let http = osm.serve("server", "http", 14001, &["server"], &["client"]);
    let echo = osm.serve("echo", "tcp", 6000, &["server"], &["client"]);
    let of_client = url((osm.pod_ip("client"), 14001).into());
    assert!(osm.curl("outsider", &[&of_client]).ends_with("|200"), "before it has a sidecar");
    osm.inject(&["client", "server"]);
    let mut wire = Wire::watch(&osm.mesh.node).unwrap();
    assert!(osm.curl("client", &[&format!("http://{http}/called")]).ends_with("|200"));
    assert_eq!(osm.mesh.get("client").unwrap().ask(echo, "bytes\n").unwrap(), "bytes\n");
    assert!(!wire.saw(b"GET /called").unwrap() && !wire.saw(b"bytes\n").unwrap());
    // It has no inbound listener: whatever comes is redirected to nobody.
    let client = osm.mesh.get("client").unwrap();
    let listeners = client.admin(async |admin| admin.get("/listeners").await).unwrap().unwrap();
    assert!(
        listeners.contains("outbound-listener") && !listeners.contains("inbound-listener"),
        "{listeners}"
    );
    assert_eq!(osm.curl("outsider", &[&of_client]), "|000");
}

/// Another provider of certificates: first all believe both roots, then each gets its certificate of the new one, then the old root
/// goes. No request fails meanwhile, and afterwards a certificate of the old root is refused by servers and by clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_old_root_goes_when_the_provider_is_switched() {
    let mut osm = Osm::new(&["client", "server", "late", "relic"]).await;
    osm.mesh.get_mut("server").unwrap().run(Program::Nginx, 14001).unwrap();
    osm.mesh.get_mut("relic").unwrap().run(Program::Nginx, 14002).unwrap();
    let server = osm.serve("server", "http", 14001, &["server"], &["client", "late"]);
    let relic = osm.serve("relic", "http", 14002, &["relic"], &["client"]);
    // Handshakes take place all the time.
    osm.catalog.requests_per_connection = Some(5);
    osm.inject(&["client", "server"]);
    let load = Load::start(osm.mesh.get("client").unwrap(), &[server], "server", 2).unwrap();
    load.more(40).await.unwrap();

    osm.roots.push(Authority::new("next").unwrap());
    push_and_wait(&mut osm, ["root-cert-for-mtls-outbound:test/server", "root-cert-for-mtls-inbound"]).await;
    load.more(40).await.unwrap();

    osm.roots.rotate_left(1);
    for pod in ["client", "server"] {
        osm.identify(pod);
    }
    push_and_wait(&mut osm, ["service-cert:test/client", "service-cert:test/server"]).await;
    load.more(40).await.unwrap();

    // These have been asleep since.
    for pod in ["late", "relic"] {
        osm.identify_by(1, pod);
    }
    osm.roots.truncate(1);
    push_and_wait(&mut osm, ["root-cert-for-mtls-outbound:test/server", "root-cert-for-mtls-inbound"]).await;
    load.more(40).await.unwrap();
    load.end().unwrap();
    let stat = |osm: &Osm, pod: &str, name: &str| osm.mesh.get(pod).unwrap().stat(name).unwrap();
    assert!(stat(&osm, "client", "cluster.test/server|14001.ssl.handshake") > 20);
    for (pod, of) in [("client", "cluster.test/server|14001"), ("server", "listener.0.0.0.0_15003")] {
        for name in ["connection_error", "fail_verify_error", "fail_verify_san"] {
            assert_eq!(stat(&osm, pod, &format!("{of}.ssl.{name}")), 0, "{pod} {name}");
        }
    }

    osm.inject(&["late", "relic"]);
    osm.until("late", &url(server), "|503").await;
    osm.mesh.until("server", "listener.0.0.0.0_15003.ssl.fail_verify_error", 1).await.unwrap();
    osm.until("client", &url(relic), "|503").await;
    osm.mesh.until("client", "cluster.test/relic|14002.ssl.fail_verify_error", 1).await.unwrap();
    for pod in ["late", "relic"] {
        osm.identify(pod);
    }
    osm.push();
    osm.until("late", &url(server), "|200").await;
    osm.until("client", &url(relic), "|200").await;
}

/// Pushes, and waits until the client and the server have these secrets anew.
async fn push_and_wait(osm: &mut Osm, secrets: [&str; 2]) {
    let updates = |osm: &Osm| {
        let stat = |(pod, secret): (&str, &str)| {
            let name = format!("sds.{}.update_success", secret.replace(':', "_"));
            osm.mesh.get(pod).unwrap().stat(&name).unwrap()
        };
        ["client", "server"].into_iter().zip(secrets).map(stat).collect::<Vec<_>>()
    };
    let before = updates(osm);
    osm.push();
    let seen = async || updates(osm).iter().zip(&before).all(|(now, before)| now > before).then_some(());
    eventually(&secrets.join(" and "), SOON, seen).await.unwrap();
}
