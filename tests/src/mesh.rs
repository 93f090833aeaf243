//! A mesh on one machine: pods in network namespaces, a node that routes between them, a management server.
//!
//! Each pod has workloads that know nothing of it all, the rules of `outrigger-iptables`, and a proxy under its own user. The
//! node's namespace has the management server, and sees every packet between pods. What is outside of the mesh is a pod
//! without proxy. All of it ends when the mesh is dropped.
//!
//! A router and cables are all that the kernel needs for it, no bridge.

pub mod load;
pub mod pod;
pub mod programs;
pub mod resources;
pub mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use prost::{Message, Name};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::config::route::v3::RouteConfiguration;
use xds_api::envoy::extensions::transport_sockets::tls::v3::Secret;

use self::pod::{Addresses, PROXY, Pod, TRANSPARENT_PROXY, share};
use crate::control_plane::{management_cluster, served, socket};
use crate::expect::{SOON, eventually};
use crate::netns::Netns;
use crate::process::Binary;
use crate::tls::{Authority, Identity, Wanted};

const NODE: Addresses =
    Addresses { v4: Ipv4Addr::new(10, 42, 0, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 1) };

/// What is outside of the mesh, and part of no range that its pods know.
pub const OUTSIDE: Addresses =
    Addresses { v4: Ipv4Addr::new(203, 0, 113, 7), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 7) };

/// What is spoken on a port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Http2,
    Tcp,
}

/// Whether workloads are reached without TLS as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Strict,
    Permissive,
}

/// What becomes of connections to what is no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    AllowAny,
    RegistryOnly,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    pub protocol: Protocol,
    pub port: u16,
    /// The workload's port.
    pub target: u16,
    pub pods: Vec<String>,
    /// Has no addresses but those of its pods.
    pub headless: bool,
    /// Its pods are reached at their IPv6 addresses.
    pub over_v6: bool,
    /// Who may use it, by their pods' names; everybody if `None`.
    pub allowed: Option<Vec<String>>,
    pub addresses: Addresses,
}

impl Service {
    /// One that leads to the same port of these pods. The mesh gives it addresses.
    pub fn new(name: &'static str, protocol: Protocol, port: u16, pods: &[&str]) -> Self {
        let pods = pods.iter().map(ToString::to_string).collect();
        let (headless, over_v6, allowed, addresses) = (false, false, None, NODE);
        Self { name, protocol, port, target: port, pods, headless, over_v6, allowed, addresses }
    }

    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    #[must_use]
    pub fn target(mut self, port: u16) -> Self {
        self.target = port;
        self
    }

    #[must_use]
    pub fn over_v6(mut self) -> Self {
        self.over_v6 = true;
        self
    }

    /// Only these pods may use it.
    #[must_use]
    pub fn allow(mut self, pods: &[&str]) -> Self {
        self.allowed = Some(pods.iter().map(ToString::to_string).collect());
        self
    }

    fn host(&self) -> String {
        format!("{}.default.svc.cluster.local", self.name)
    }

    /// Its cluster, by Istio's name.
    pub fn cluster(&self) -> String {
        format!("outbound|{}||{}", self.port, self.host())
    }

    fn sni(&self) -> String {
        format!("outbound_.{}_._.{}", self.port, self.host())
    }

    fn route(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// Where clients find it, at IPv4 and at IPv6.
    pub fn at(&self) -> [SocketAddr; 2] {
        self.addresses.each().map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// What a proxy is sent.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub clusters: Vec<Value>,
    pub endpoints: Vec<Value>,
    pub listeners: Vec<Value>,
    pub routes: Vec<Value>,
    pub secrets: Vec<Value>,
}

impl Resources {
    /// As management servers take them.
    pub fn kinds<'v>(&self, version: &'v str) -> Result<[(TypeUrl, &'v str, Vec<Served>); 5]> {
        Ok([
            (TypeUrl::CLUSTER, version, all::<Cluster>(&self.clusters)?),
            (TypeUrl::CLUSTER_LOAD_ASSIGNMENT, version, all::<ClusterLoadAssignment>(&self.endpoints)?),
            (TypeUrl::LISTENER, version, all::<Listener>(&self.listeners)?),
            (TypeUrl::ROUTE_CONFIGURATION, version, all::<RouteConfiguration>(&self.routes)?),
            (TypeUrl::SECRET, version, all::<Secret>(&self.secrets)?),
        ])
    }
}

/// See the module's documentation.
pub struct Mesh {
    pub node: Netns,
    pub management: Option<ManagementServer>,
    management_at: SocketAddr,
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    pub mode: Mode,
    pub egress: Egress,
    /// Where proxies ask for secrets.
    pub sds_cluster: &'static str,
    /// Inbound connections are diverted and not redirected.
    pub tproxy: bool,
    /// `TLSv1_3`, or less.
    pub highest_tls: &'static str,
    pub trust_domain: String,
    /// Of these, servers' names are expected as well.
    pub also_trusted: Vec<String>,
    /// Whom all believe. The first issues certificates.
    pub roots: Vec<Authority>,
    pub identities: BTreeMap<String, Identity>,
    binary: Binary,
    version: u64,
    _programs: TempDir,
}

impl Mesh {
    /// A node with a management server, and no pods yet.
    ///
    /// # Errors
    /// This takes root.
    pub async fn new(binary: &Binary) -> Result<Self> {
        let node = Netns::new()?;
        node.command("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        node.command(&format!("ip address add {}/32 dev lo", NODE.v4))?;
        let at = SocketAddr::new(NODE.v4.into(), 15010);
        let management = Some(listen(&node, at)?);
        let programs = tempfile::Builder::new().prefix("outrigger-mesh-").tempdir()?;
        std::fs::set_permissions(programs.path(), PermissionsExt::from_mode(0o755))?;
        let path = share(&binary.path, programs.path())?;
        Ok(Self {
            node,
            management,
            management_at: at,
            pods: Vec::new(),
            services: Vec::new(),
            mode: Mode::Strict,
            egress: Egress::AllowAny,
            sds_cluster: "m",
            tproxy: false,
            highest_tls: "TLSv1_3",
            trust_domain: "cluster.local".to_owned(),
            also_trusted: Vec::new(),
            roots: vec![Authority::new("root")?],
            identities: BTreeMap::new(),
            binary: Binary { kind: binary.kind, path },
            version: 0,
            _programs: programs,
        })
    }

    /// Adds a pod without workloads, rules or proxy.
    pub fn pod(&mut self, name: &str) -> Result<&mut Pod> {
        let number = u8::try_from(self.pods.len() + 10)?;
        let addresses = Addresses {
            v4: Ipv4Addr::new(10, 42, 0, number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, number.into()),
        };
        let netns = Netns::new()?;
        let cable = format!("pod{number}");
        self.node.cable(&cable, &netns, "eth0")?;
        let (v4, v6) = (addresses.v4, addresses.v6);
        self.node.command(&format!(
            "ip route add {v4} dev {cable}; ip -6 address add {n}/128 dev {cable} nodad; ip -6 route add {v6} dev {cable}",
            n = NODE.v6
        ))?;
        netns.command(&format!(
            "ip address add {v4}/32 dev eth0; ip -6 address add {v6}/128 dev eth0 nodad
             ip route add {n4} dev eth0; ip route add default via {n4}
             ip -6 route add {n6} dev eth0; ip -6 route add default via {n6} dev eth0",
            n4 = NODE.v4,
            n6 = NODE.v6
        ))?;
        self.pods.push(Pod { name: name.to_owned(), addresses, netns, workloads: Vec::new(), proxy: None });
        self.identify(name)?;
        self.pods.last_mut().context("a pod")
    }

    /// Adds a pod that stands for the world outside: it has [`OUTSIDE`]'s addresses as well.
    pub fn outside(&mut self) -> Result<&mut Pod> {
        let pod = self.pod("outside")?;
        let (v4, v6) = (pod.addresses.v4, pod.addresses.v6);
        pod.netns.command(&format!(
            "ip address add {}/32 dev lo; ip -6 address add {}/128 dev lo",
            OUTSIDE.v4, OUTSIDE.v6
        ))?;
        self.node.command(&format!(
            "ip route add {} via {v4} onlink dev pod{n}; ip -6 route add {} via {v6} dev pod{n}",
            OUTSIDE.v4,
            OUTSIDE.v6,
            n = v4.octets()[3]
        ))?;
        self.get_mut("outside")
    }

    /// The pod of that name.
    pub fn get(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    /// The pod of that name.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Pod> {
        self.pods.iter_mut().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    /// Adds a service, which gets addresses of its own, and gives those.
    pub fn serve(&mut self, mut service: Service) -> [SocketAddr; 2] {
        let number =
            self.services.iter().position(|other| other.name == service.name).unwrap_or(self.services.len());
        let number = u8::try_from(number + 1).unwrap_or(u8::MAX);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x96, 0, 0, 0, 0, number.into());
        service.addresses = Addresses { v4: Ipv4Addr::new(10, 96, 0, number), v6 };
        let at = service.at();
        self.services.push(service);
        at
    }

    /// What a pod is called in certificates.
    pub fn spiffe(&self, pod: &str) -> String {
        spiffe(&self.trust_domain, pod)
    }

    /// What a server may be called.
    fn expected(&self, pod: &str) -> Vec<String> {
        let domains = self.also_trusted.iter().chain([&self.trust_domain]);
        domains.map(|domain| spiffe(domain, pod)).collect()
    }

    /// Issues a pod's certificate anew.
    pub fn identify(&mut self, pod: &str) -> Result<()> {
        let name = format!("uri:{}", self.spiffe(pod));
        let serial = self.identities.get(pod).map_or(1, |identity| identity.serial + 1);
        let wanted = Wanted { common_name: "", sans: &[&name], serial, ..Wanted::default() };
        let identity = self.roots.first().context("a root")?.issue(&wanted)?;
        self.identities.insert(pod.to_owned(), identity);
        Ok(())
    }

    /// Sends every proxy its configuration as it is now.
    pub fn push(&mut self) -> Result<()> {
        self.version += 1;
        let version = self.version.to_string();
        let Some(management) = &self.management else { return Ok(()) };
        for pod in &self.pods {
            management.set_all_of(&pod.name, self.resources(pod).kinds(&version)?);
        }
        Ok(())
    }

    /// What the proxy of a pod is sent.
    pub fn resources(&self, pod: &Pod) -> Resources {
        Resources {
            clusters: self.clusters(pod),
            endpoints: self.endpoints(),
            listeners: self.listeners(pod),
            routes: self.routes(),
            secrets: self.secrets(pod),
        }
    }

    /// Sends the proxy of a pod these resources in place of the mesh's own.
    pub fn hand_out(&self, pod: &str, version: &str, resources: &Resources) -> Result<()> {
        if let Some(management) = &self.management {
            management.set_all_of(pod, resources.kinds(version)?);
        }
        Ok(())
    }

    /// Where the management server is.
    pub fn controller(&self) -> SocketAddr {
        self.management_at
    }

    /// The program of proxies, where each of their users finds it.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// The management server's process ends, with all of its connections.
    pub fn stop_management(&mut self) {
        self.management = None;
    }

    /// It begins anew, and knows what the mesh is now.
    pub fn start_management(&mut self) -> Result<()> {
        self.management = Some(listen(&self.node, self.management_at)?);
        self.push()
    }

    /// Sets up redirection in these pods and starts their proxies, in the order of an injected pod. (The other way round the kernel
    /// would take the proxies' connections to the management server, which it did not follow before, for redirected ones.)
    pub fn inject(&mut self, pods: &[&str]) -> Result<()> {
        self.push()?;
        for name in pods {
            let mode = if self.tproxy { "-m TPROXY" } else { "" };
            self.get(name)?.redirect(&format!("--preset istio {mode} --ip-families both"))?;
            self.start_proxy(name, &[])?;
        }
        Ok(())
    }

    /// Starts the proxy of a pod.
    pub fn start_proxy(&mut self, name: &str, words: &[&str]) -> Result<()> {
        let binary = self.binary.clone();
        let user = if self.tproxy { TRANSPARENT_PROXY } else { PROXY };
        let bootstrap = self.bootstrap(name);
        self.get_mut(name)?.start_proxy(&binary, &bootstrap, user, words)
    }

    /// Waits until a counter or gauge of a proxy has this value at least.
    pub async fn until(&self, pod: &str, name: &str, at_least: i64) -> Result<()> {
        let pod = self.get(pod)?;
        let what = format!("{} of {}", name, pod.name);
        let seen = eventually(&what, SOON, async || (pod.stat(name).ok()? >= at_least).then_some(())).await;
        seen.with_context(|| pod.proxy.as_ref().map(crate::process::Proxy::log_tail).unwrap_or_default())
    }

    fn bootstrap(&self, pod: &str) -> String {
        let health = format!(
            "name: 0.0.0.0_15021\n    address: {{socket_address: {{address: 0.0.0.0, port_value: {}}}}}",
            resources::HEALTH
        );
        let routes = "{virtual_hosts: [{name: backend, domains: ['*'], routes: [{match: {prefix: /healthz/ready}, route: {cluster: agent}}]}]}";
        let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        format!(
            "node: {{id: {pod}, cluster: mesh}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 15000}}}}}}
stats_flush_interval: 0.1s
dynamic_resources:
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m}}}}]}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  listeners:
  - {health}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config: {{\"@type\": {manager}, stat_prefix: agent, route_config: {routes}, http_filters: [{{name: envoy.filters.http.router, typed_config: {{\"@type\": {router}}}}}]}}
  clusters:
{}  - name: agent
    type: STATIC
    connect_timeout: 1s
    load_assignment: {{cluster_name: agent, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
",
            crate::config::indent(&management_cluster(&socket(self.management_at)), 2),
            self.services.iter().find(|service| service.pods.iter().any(|name| name == pod)).map_or(1, |service| service.target),
        )
    }
}

fn spiffe(trust_domain: &str, pod: &str) -> String {
    format!("spiffe://{trust_domain}/ns/default/sa/{pod}")
}

fn all<M: Message + Name + Default>(resources: &[Value]) -> Result<Vec<Served>> {
    resources.iter().map(|resource| served::<M>(&resource.to_string())).collect()
}

/// A management server in a namespace.
fn listen(netns: &Netns, at: SocketAddr) -> Result<ManagementServer> {
    let handle = Handle::current();
    let server =
        tokio::task::block_in_place(|| netns.within(|| handle.block_on(ManagementServer::listen(at))))?;
    server.with_context(|| format!("a management server on {at}"))
}
