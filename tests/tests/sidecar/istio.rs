//! A sidecar as Istio's agent starts it: the agent's bootstrap and command line, resources by delta over one unix socket in the shapes
//! that istiod gives them (`shapes`), secrets over another, readiness and drain as the agent asks for them; what such a sidecar does
//! with traffic (`traffic`).

mod shapes;
mod traffic;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use integration::expect::{SOON, eventually, within};
use integration::mesh::pod::{PROXY, Pod};
use integration::mesh::programs::Program;
use integration::mesh::resources::{HEALTH, typed};
use integration::mesh::{Mesh, Resources, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use xds::TypeUrl;
use xds::fake::ManagementServer;

use crate::{mesh, url};

const BOOTSTRAP: &str = include_str!("istio/bootstrap.json");

/// What stands for the agent of a pod.
struct Agent {
    xds: ManagementServer,
    sds: ManagementServer,
    dir: TempDir,
}

impl Agent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let listen = |name: &str| {
            let path = dir.path().join(name);
            let server = ManagementServer::listen_unix(&path).unwrap();
            open(&path, 0o777);
            server
        };
        let (xds, sds) = (listen("XDS"), listen("socket"));
        open(dir.path(), 0o755);
        Self { xds, sds, dir }
    }

    /// Secrets are told over the one socket, all else over the other.
    fn push(&self, version: &str, resources: &Resources) {
        for (type_url, version, served) in resources.kinds(version).unwrap() {
            let server = if type_url == TypeUrl::SECRET { &self.sds } else { &self.xds };
            server.set(&type_url, version, served);
        }
    }

    fn bootstrap(&self, pod: &Pod) -> String {
        let node = format!("sidecar~{}~{}.default~default.svc.cluster.local", pod.addresses.v4, pod.name);
        let socket = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let text = BOOTSTRAP.replace("XDS_SOCKET", &socket("XDS")).replace("SDS_SOCKET", &socket("socket"));
        text.replace("NODE", &node).replace("POD_NAME", &pod.name)
    }
}

/// The command line of the agent, without what every start of the tests says.
const WORDS: [&str; 13] = [
    "--drain-time-s",
    "45",
    "--drain-strategy",
    "immediate",
    "--local-address-ip-version",
    "v4",
    "--allow-unknown-static-fields",
    "-l",
    "warning",
    "--component-log-level",
    "misc:error",
    "--concurrency",
    "2",
];

/// Pods whose agents, and so whose sidecars, are there.
async fn injected() -> (Mesh, Service, [Agent; 2]) {
    let (mesh, web) = mesh().await;
    let (mesh, agents) = injected_with(mesh);
    (mesh, web, agents)
}

/// The agents, and the sidecars, of a mesh as it is now.
fn injected_with(mut mesh: Mesh) -> (Mesh, [Agent; 2]) {
    let agents = ["client", "web"].map(|name| {
        let agent = Agent::new();
        let pod = mesh.get_mut(name).unwrap();
        // Its status server, which says that all is well.
        pod.run(Program::Nginx, 15020).unwrap();
        pod.redirect("--preset istio --ip-families both").unwrap();
        let pod = mesh.get(name).unwrap();
        agent.push("1", &shapes::resources(&mesh, pod));
        let (bootstrap, binary) = (agent.bootstrap(pod), mesh.binary().clone());
        mesh.get_mut(name).unwrap().start_proxy(&binary, &bootstrap, PROXY, &WORDS).unwrap();
        agent
    });
    (mesh, agents)
}

/// The values that a request of the agent finds, as the agent reads them: each line has a name and a number.
fn asked(pod: &Pod, filter: &str) -> Vec<(String, i64)> {
    let path = format!("/stats?usedonly&filter={filter}");
    let text = pod.admin(async |admin| admin.get(&path).await).unwrap().unwrap();
    let parts = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    parts
        .map(|parts| {
            let [name, value] = parts[..] else { panic!("{text}") };
            (name.to_owned(), value.trim().parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn starts_from_the_agents_bootstrap() {
    let (mesh, web, agents) = injected().await;
    for name in ["client", "web"] {
        let pod = mesh.get(name).unwrap();
        let ready = r"^(server\.state|listener_manager\.workers_started)";
        let state = async || {
            (asked(pod, ready)
                == [("listener_manager.workers_started".into(), 1), ("server.state".into(), 0)])
            .then_some(())
        };
        eventually("readiness", SOON, state).await.unwrap();
        let updates =
            asked(pod, r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$");
        for success in ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"] {
            assert!(updates.iter().any(|(name, value)| name == success && *value > 0), "{updates:?}");
        }
        let ip = pod.addresses.v4;
        let stranger = mesh.get("stranger").unwrap();
        assert!(stranger.curl(&[&format!("http://{ip}:{HEALTH}/healthz/ready")]).unwrap().ends_with("|200"));
        let metrics = stranger.curl(&[&format!("http://{ip}:15090/stats/prometheus")]).unwrap();
        assert!(metrics.contains("\nenvoy_server_state") && metrics.ends_with("|200"), "{metrics}");
    }
    for at in web.at() {
        let answer = mesh.get("client").unwrap().curl(&[&url(at)]).unwrap();
        assert!(
            answer.contains("URI=spiffe://cluster.local/ns/default/sa/client|") && answer.ends_with("|200"),
            "{answer}"
        );
    }
    let recorded = agents[1].xds.recorded();
    let first = recorded[0].node().unwrap();
    assert!(first.id.starts_with("sidecar~10.42.0.12~web.default~"), "{first:?}");
    let metadata = first.metadata.as_ref().unwrap();
    assert!(metadata.fields.contains_key("ISTIO_VERSION") && metadata.fields.contains_key("PROXY_CONFIG"));
    assert!(recorded[1..].iter().all(|one| one.node().is_none()), "the node is told once");
    assert!(recorded.iter().all(|one| matches!(one.request, xds::Request::Delta(_)) && one.stream == 1));
    let secrets = agents[1].sds.recorded();
    assert!(secrets.iter().all(|one| matches!(one.request, xds::Request::StateOfTheWorld(_))));
    assert_eq!(agents[1].sds.streams(), 2, "one for each secret");
}

/// The agent loses istiod and ends the sidecar's stream; it comes back, and another certificate is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_agents_streams_end_and_certificates_change() {
    let (mut mesh, web, agents) = injected().await;
    agents.iter().for_each(|agent| agent.xds.close_streams());
    for agent in &agents {
        within("another stream", 3 * SOON, agent.xds.streams_opened(2)).await.unwrap();
    }
    mesh.identify("web").unwrap();
    let pod = mesh.get("web").unwrap();
    agents[1].push("2", &shapes::resources(&mesh, pod));
    let serial = format!("\"serial_number\": \"{:02x}\"", mesh.identities["web"].serial);
    let shown = async || {
        let certs = pod.admin(async |admin| admin.get("/certs").await).ok()?.ok()?;
        (certs.contains(&serial) || certs.contains(&serial.replace("\"0", "\""))).then_some(())
    };
    eventually("the new certificate", SOON, shown).await.unwrap();
    assert!(mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap().ends_with("|200"));
}

/// A listener with a filter that is not known here is refused by name; all others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_extension_that_is_not_known_is_refused_and_nothing_else() {
    let (mesh, web, agents) = injected().await;
    let pod = mesh.get("client").unwrap();
    let mut resources = shapes::resources(&mesh, pod);
    let unknown: Value = json!({"name": "istio.nobodys", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/istio.nobodys.Filter", "value": {}}});
    let proxy = typed(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": "a", "cluster": "BlackHoleCluster"}),
    );
    let at = json!({"socket_address": {"address": "10.96.9.9", "port_value": 80}});
    resources.listeners.push(json!({"name": "10.96.9.9_80", "address": at, "bind_to_port": false, "filter_chains": [{"filters": [unknown, proxy]}]}));
    agents[0].push("2", &resources);
    let rejected = within("a rejection", SOON, agents[0].xds.rejected(&TypeUrl::LISTENER)).await.unwrap();
    let reason = rejected.error().unwrap().message.clone();
    assert!(reason.contains("'istio.nobodys'") && reason.contains("10.96.9.9_80"), "{reason}");
    for at in web.at() {
        assert!(pod.curl(&[&url(at)]).unwrap().ends_with("|200"));
    }
    let rejections = asked(pod, r"^listener_manager\.lds\.update_rejected$");
    assert_eq!(rejections, [("listener_manager.lds.update_rejected".to_owned(), 1)]);
}

/// The agent asks its sidecar to drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drains_as_the_agent_asks() {
    let (mesh, web, _agents) = injected().await;
    let pod = mesh.get("web").unwrap();
    assert!(mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap().ends_with("|200"));
    let answer = pod
        .admin(async |admin| admin.request("POST", "/drain_listeners?inboundonly&graceful&skip_exit").await);
    assert_eq!(answer.unwrap().unwrap().status, 200);
    // Connections are told to end while they are drained: requests go on.
    assert!(mesh.get("client").unwrap().curl(&[&url(web.at()[0])]).unwrap().ends_with("|200"));
    assert!(pod.proxy().unwrap().admin().addr().port() == 15000);
}
