//! A management server, an upstream and a proxy that takes its configuration from the one and sends to the other; and the
//! resources that tests deliver.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use xds::TypeUrl;
use xds::fake::{ManagementServer, Recorded, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::config::route::v3::RouteConfiguration;

pub use integration::control_plane::{ADS, bootstrap, bootstrap_with, management_cluster, served, socket};

pub const CDS: TypeUrl = TypeUrl::CLUSTER;
pub const EDS: TypeUrl = TypeUrl::CLUSTER_LOAD_ASSIGNMENT;
pub const LDS: TypeUrl = TypeUrl::LISTENER;
pub const RDS: TypeUrl = TypeUrl::ROUTE_CONFIGURATION;

/// The proxy under test.
pub fn binary() -> Result<Binary> {
    Binary::subject()
}

/// A cluster whose endpoints come from `source`.
pub fn cluster_from(name: &str, source: &str, extra: &str) -> Result<Served> {
    served::<Cluster>(&format!(
        "{{name: {name}, connect_timeout: 1s, type: EDS, eds_cluster_config: {{eds_config: {source}}}{extra}}}"
    ))
}

/// A cluster whose endpoints come over the aggregated stream.
pub fn cluster(name: &str) -> Result<Served> {
    cluster_from(name, ADS, "")
}

/// A cluster that names its endpoint itself.
pub fn static_cluster(name: &str, addr: SocketAddr) -> Result<Served> {
    served::<Cluster>(&format!(
        "{{name: {name}, connect_timeout: 1s, type: STATIC, load_assignment: {}}}",
        assignment(name, &[addr])
    ))
}

fn assignment(cluster: &str, addrs: &[SocketAddr]) -> String {
    let hosts: Vec<String> =
        addrs.iter().map(|addr| format!("{{endpoint: {{address: {}}}}}", socket(*addr))).collect();
    format!("{{cluster_name: {cluster}, endpoints: [{{lb_endpoints: [{}]}}]}}", hosts.join(", "))
}

/// The endpoints of a cluster.
pub fn endpoints(cluster: &str, addrs: &[SocketAddr]) -> Result<Served> {
    served::<ClusterLoadAssignment>(&assignment(cluster, addrs))
}

/// Where a listener under test listens: a port of the kernel's choice.
pub const ANY_PORT: &str = "{socket_address: {address: 127.0.0.1, port_value: 0}}";

/// An HTTP filter chain whose routes (`rds: ..` or `route_config: ..`) are given.
pub fn http_chain(stat_prefix: &str, routes: &str) -> String {
    format!(
        "
  filters:
  - name: hcm
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {stat_prefix}
      {routes}
      http_filters:
      - {{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
"
    )
}

/// The `rds` of a connection manager.
pub fn rds(name: &str, source: &str) -> String {
    format!("rds: {{route_config_name: {name}, config_source: {source}}}")
}

/// A listener with one filter chain.
pub fn listener_with(name: &str, address: &str, chain: &str) -> Result<Served> {
    served::<Listener>(&format!("name: {name}\naddress: {address}\nfilter_chains:\n-{}\n", indented(chain)))
}

fn indented(chain: &str) -> String {
    chain.trim_start_matches('\n').strip_prefix(' ').unwrap_or(chain).to_owned()
}

/// An HTTP listener on any port whose routes come over the aggregated stream.
pub fn listener(name: &str, routes: &str) -> Result<Served> {
    listener_with(name, ANY_PORT, &http_chain("p", &rds(routes, ADS)))
}

/// Routes that say in `x-mark` which of them served a request, and lead to a cluster.
pub fn routes(name: &str, cluster: &str, mark: &str) -> Result<Served> {
    served::<RouteConfiguration>(&format!(
        "{{name: {name}, response_headers_to_add: [{{header: {{key: x-mark, value: '{mark}'}}}}], virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    ))
}

/// Routes with a mistake: two virtual hosts cannot have the same domain.
pub fn bad_routes(name: &str) -> Result<Served> {
    served::<RouteConfiguration>(&format!(
        "{{name: {name}, virtual_hosts: [{{name: v, domains: ['*', '*']}}]}}"
    ))
}

/// A cluster with a mistake that its constraints do not tell: endpoints are to be discovered, from nowhere.
pub fn bad_cluster(name: &str) -> Result<Served> {
    served::<Cluster>(&format!("{{name: {name}, connect_timeout: 1s, type: EDS}}"))
}

/// An upstream that answers with `body`.
pub async fn upstream(body: &str) -> Result<Upstream> {
    let upstream = Upstream::start().await?;
    let length = body.len();
    upstream.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")));
    Ok(upstream)
}

/// The status, mark and body of one request.
pub async fn get(connection: &mut Client) -> Result<(u16, String, String)> {
    connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let response = connection.response("GET", SOON).await?;
    let mark = integration::http1::field(&response.head.fields, "x-mark").unwrap_or_default().to_owned();
    Ok((response.head.status()?, mark, String::from_utf8(response.body)?))
}

/// The mark of the routes that served one request, which has to succeed.
pub async fn mark(connection: &mut Client) -> Result<String> {
    let (status, mark, body) = get(connection).await?;
    ensure!(status == 200, "{status} {body}");
    Ok(mark)
}

/// Requests until one is served by the routes with that mark; all have to succeed.
pub async fn until_mark(connection: &mut Client, wanted: &str) -> Result<()> {
    within(&format!("routes {wanted:?}"), SOON, async {
        while mark(connection).await? != wanted {}
        anyhow::Ok(())
    })
    .await?
}

/// A management server with one listener `l`, routes `r`, an EDS cluster `c` and one upstream behind it; and the proxy.
pub struct Rig {
    pub management: ManagementServer,
    pub upstream: Upstream,
    pub proxy: Proxy,
}

impl Rig {
    /// Over one aggregated stream.
    pub async fn start(api_type: &str) -> Result<Self> {
        Self::start_with(api_type, &[]).await
    }

    /// [`Rig::start`] with further words for the command line.
    pub async fn start_with(api_type: &str, extra: &[&str]) -> Result<Self> {
        let upstream = upstream("hello").await?;
        let management = ManagementServer::start().await?;
        management.set(&CDS, "1", [cluster("c")?]);
        management.set(&EDS, "1", [endpoints("c", &[upstream.addr()])?]);
        management.set(&LDS, "1", [listener("l", "r")?]);
        management.set(&RDS, "1", [routes("r", "c", "1")?]);
        let proxy = Proxy::start_with(&binary()?, &bootstrap(management.address(), api_type), extra).await?;
        Ok(Self { management, upstream, proxy })
    }

    /// A connection to a listener, wherever it listens now.
    pub async fn connect(&self, listener: &str) -> Result<Client> {
        Client::connect(self.address(listener).await?).await
    }

    /// Where a listener accepts, once it does.
    pub async fn address(&self, listener: &str) -> Result<SocketAddr> {
        let admin = self.proxy.admin();
        eventually(&format!("listener {listener}"), SOON, async || {
            admin.listeners().await.ok()?.get(listener).copied()
        })
        .await
    }

    /// Waits until a counter or gauge has that value.
    pub async fn stat(&self, name: &str, value: i64) -> Result<()> {
        stat(&self.proxy, name, value).await
    }

    /// The answer to the response of a type that was sent last with that version.
    pub async fn acknowledged(&self, type_url: &TypeUrl, version: &str) -> Result<Recorded> {
        let what = format!("{version} of {type_url} acknowledged");
        within(&what, SOON, self.management.acknowledged(type_url, version)).await
    }

    /// The first rejection of a response of this type.
    pub async fn rejected(&self, type_url: &TypeUrl) -> Result<Recorded> {
        within(&format!("a rejection of {type_url}"), SOON, self.management.rejected(type_url)).await
    }
}

/// Waits until a counter or gauge of a proxy has that value.
pub async fn stat(proxy: &Proxy, name: &str, value: i64) -> Result<()> {
    let mut last = None;
    let waited = eventually(&format!("{name} = {value}"), SOON, async || {
        last = proxy.admin().stat(name).await.ok();
        (last == Some(value)).then_some(())
    })
    .await;
    waited.map_err(|error| anyhow::anyhow!("{error:#}, but {last:?}"))
}
