//! What changes under load: identities, whom everybody believes, the control plane, the proxies themselves. No request fails.

use std::time::{Duration, Instant};

use integration::expect::{SOON, eventually};
use integration::mesh::load::Load;
use integration::mesh::programs::SLOW;
use integration::mesh::{Mesh, Service};
use integration::tls::Authority;
use rustix::process::Signal;

use crate::{mesh, url};

/// Requests between two changes.
const BETWEEN: usize = 60;

/// The certificate that a server shows to one that has none itself; its serial number.
fn shown(mesh: &Mesh, pod: &str) -> String {
    let certs = mesh.get(pod).unwrap().admin(async |admin| admin.get("/certs").await).unwrap().unwrap();
    let certs: serde_json::Value = serde_json::from_str(&certs).unwrap();
    let all = certs["certificates"].as_array().unwrap();
    let serials: Vec<_> =
        all.iter().filter_map(|one| one["cert_chain"][0]["serial_number"].as_str()).collect();
    serials.join(",")
}

async fn rotated(mesh: &Mesh, pod: &str) {
    let serial = format!("{:02x}", mesh.identities[pod].serial);
    let all = async || {
        shown(mesh, pod)
            .split(',')
            .all(|shown| shown.trim_start_matches('0') == serial.trim_start_matches('0'))
            .then_some(())
    };
    eventually(&format!("certificate {serial} of {pod}"), SOON, all).await.unwrap();
}

async fn loaded() -> (Mesh, Service, Load) {
    let (mut mesh, web) = mesh().await;
    mesh.inject(&["client", "web"]).unwrap();
    let load = Load::start(mesh.get("client").unwrap(), &web.at(), "web", 4).unwrap();
    load.more(BETWEEN).await.unwrap();
    (mesh, web, load)
}

/// Every pod gets another certificate, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn certificates_rotate_under_load() {
    let (mut mesh, _, load) = loaded().await;
    for _ in 0..8 {
        for pod in ["client", "web"] {
            mesh.identify(pod).unwrap();
        }
        mesh.push().unwrap();
        for pod in ["client", "web"] {
            rotated(&mesh, pod).await;
        }
        load.more(BETWEEN).await.unwrap();
    }
    let requests = load.end().unwrap();
    assert!(requests >= 9 * BETWEEN);
    for (pod, name) in [
        ("web", "listener.0.0.0.0_15006.ssl.connection_error"),
        ("client", "cluster.outbound|8080||web.default.svc.cluster.local.ssl.connection_error"),
    ] {
        assert_eq!(mesh.get(pod).unwrap().stat(name).unwrap(), 0, "{pod}");
    }
}

/// Another root, another trust domain: first all believe both, then each gets its new certificate, then the old root goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_trust_domain_rotates_under_load() {
    let (mut mesh, web, load) = loaded().await;
    mesh.roots.push(Authority::new("next").unwrap());
    mesh.push().unwrap();
    let attempts = |mesh: &Mesh, pod: &str| mesh.get(pod).unwrap().stat("sds.ROOTCA.update_success").unwrap();
    for pod in ["client", "web"] {
        eventually("both roots", SOON, async || (attempts(&mesh, pod) >= 2).then_some(())).await.unwrap();
    }
    load.more(BETWEEN).await.unwrap();
    // From now on certificates are of the new root. The client expects either name of the server while they come.
    mesh.roots.rotate_left(1);
    mesh.also_trusted = vec![mesh.trust_domain.clone()];
    mesh.trust_domain = "next.local".to_owned();
    mesh.push().unwrap();
    mesh.until("client", "cluster_manager.cluster_modified", 1).await.unwrap();
    load.more(BETWEEN).await.unwrap();
    for pod in ["web", "client"] {
        mesh.identify(pod).unwrap();
        mesh.push().unwrap();
        rotated(&mesh, pod).await;
        load.more(BETWEEN).await.unwrap();
    }
    mesh.roots.truncate(1);
    mesh.also_trusted.clear();
    mesh.push().unwrap();
    for pod in ["client", "web"] {
        eventually("one root", SOON, async || (attempts(&mesh, pod) >= 3).then_some(())).await.unwrap();
    }
    load.more(BETWEEN).await.unwrap();
    load.end().unwrap();
    let answer = mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap();
    assert!(answer.contains("By=spiffe://next.local/ns/default/sa/web;"), "{answer}");
    assert!(answer.contains("URI=spiffe://next.local/ns/default/sa/client|"), "{answer}");
}

/// The management server goes: traffic goes on. It comes back: changes come through again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_control_plane_restarts_under_load() {
    let (mut mesh, _, load) = loaded().await;
    for _ in 0..3 {
        mesh.stop_management();
        for pod in ["client", "web"] {
            let gone = async || {
                (mesh.get(pod).unwrap().stat("control_plane.connected_state").ok()? == 0).then_some(())
            };
            eventually("the loss of the control plane", SOON, gone).await.unwrap();
        }
        load.more(BETWEEN).await.unwrap();
        mesh.identify("web").unwrap();
        mesh.start_management().unwrap();
        eventually("the new certificate", 6 * SOON, async || {
            let serial = format!("{:02x}", mesh.identities["web"].serial);
            (shown(&mesh, "web").contains(&serial)).then_some(())
        })
        .await
        .unwrap();
        load.more(BETWEEN).await.unwrap();
    }
    load.end().unwrap();
}

/// A sidecar that is killed takes its connections with it; the next one takes up where it was, with nothing left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sidecar_is_killed_and_started_again() {
    let (mut mesh, web) = mesh().await;
    mesh.inject(&["client", "web"]).unwrap();
    for victim in ["web", "client", "web"] {
        assert!(mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap().ends_with("|200"));
        mesh.get(victim).unwrap().proxy().unwrap().signal(Signal::KILL).unwrap();
        // Without it nothing passes in the clear.
        mesh.get_mut(victim).unwrap().proxy = None;
        let answer = mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap();
        assert!(answer.ends_with("|503") || answer.ends_with("|000"), "{answer}");
        mesh.start_proxy(victim, &[]).unwrap();
        for at in web.at() {
            let answer = mesh.get("client").unwrap().curl(&[&url(at)]).unwrap();
            assert!(answer.ends_with("|200"), "after the restart of {victim}: {answer}");
        }
    }
}

/// The server's sidecar is told to drain, as Istio's agent tells it: what is under way is finished, and connections end
/// with it; then it is told to stop, and does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_under_way_are_finished_at_shutdown() {
    let (mut mesh, web) = mesh().await;
    mesh.push().unwrap();
    for pod in ["client", "web"] {
        mesh.get(pod).unwrap().redirect("--preset istio --ip-families both").unwrap();
        mesh.start_proxy(pod, &["--drain-time-s", "5", "--drain-strategy", "immediate"]).unwrap();
    }
    let slow = format!("http://{}/slow", web.at()[0]);
    let client = mesh.get("client").unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let handle = tokio::runtime::Handle::current();
        let slow = slow.as_str();
        let under_way = scope.spawn(move || {
            let _runtime = handle.enter();
            client.curl(&["--output", "/dev/null", "--write-out", "%{size_download}", slow]).unwrap()
        });
        let server = mesh.get("web").unwrap();
        while server.stat("http.inbound_8080.downstream_rq_active").unwrap() == 0 {
            assert!(begin.elapsed() < SOON);
        }
        server
            .admin(async |admin| admin.request("POST", "/drain_listeners?inboundonly&graceful").await)
            .unwrap()
            .unwrap();
        let answer = under_way.join().unwrap();
        assert!(answer.starts_with(&format!("{}", SLOW.0)), "{answer}");
        assert!(begin.elapsed() > Duration::from_secs(1), "it was under way");
    });
    mesh.get_mut("web").unwrap().stop_proxy().await.unwrap();
}
