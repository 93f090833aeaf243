//! The process under a control plane: everything but the way to the management server comes from it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, within};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use prost::{Message, Name};
use prost_types::Any;
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::config::route::v3::RouteConfiguration;
use xds_api::read::{Options, Source, read};

fn served<M: Message + Name + Default>(yaml: &str) -> Result<Served> {
    let message = read::<M>(&Source::yaml("test", yaml.as_bytes()), &Options::default())?.message;
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    Ok(Served::new(Any { type_url, value: message.encode_to_vec() }))
}

fn bootstrap(management: SocketAddr, api_type: &str) -> String {
    format!(
        "
node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources:
  ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m}}}}]}}
  lds_config: {{resource_api_version: V3, ads: {{}}}}
  cds_config: {{resource_api_version: V3, ads: {{}}}}
static_resources:
  clusters:
  - name: m
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: m
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
",
        management.port()
    )
}

fn cluster() -> Result<Served> {
    served::<Cluster>(
        "{name: c, connect_timeout: 1s, type: EDS, eds_cluster_config: {eds_config: {resource_api_version: V3, ads: {}}}}",
    )
}

fn endpoints(addr: SocketAddr) -> Result<Served> {
    served::<ClusterLoadAssignment>(&format!(
        "{{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}",
        addr.port()
    ))
}

fn listener() -> Result<Served> {
    served::<Listener>(
        "
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: p
      rds: {route_config_name: r, config_source: {resource_api_version: V3, ads: {}}}
      http_filters:
      - {name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
",
    )
}

/// Routes that say which of them served a request.
fn routes(mark: &str) -> Result<Served> {
    served::<RouteConfiguration>(&format!(
        "{{name: r, response_headers_to_add: [{{header: {{key: x-mark, value: '{mark}'}}}}], virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]}}]}}"
    ))
}

/// Two virtual hosts cannot have the same domain.
fn bad_routes() -> Result<Served> {
    served::<RouteConfiguration>("{name: r, virtual_hosts: [{name: v, domains: ['*', '*']}]}")
}

/// The mark of the routes that served one request.
async fn mark(connection: &mut Client) -> Result<String> {
    connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let response = connection.response("GET", SOON).await?;
    ensure!(response.head.status()? == 200, "{:?}", response.head);
    Ok(integration::http1::field(&response.head.fields, "x-mark").unwrap_or_default().to_owned())
}

async fn serves_through_everything(api_type: &str) -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [cluster()?]);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(upstream.addr())?]);
    management.set(&TypeUrl::LISTENER, "1", [listener()?]);
    management.set(&TypeUrl::ROUTE_CONFIGURATION, "1", [routes("first")?]);
    let proxy = Proxy::start(&Binary::outrigger()?, &bootstrap(management.address(), api_type)).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "first");

    for n in 0..200 {
        management.set(&TypeUrl::ROUTE_CONFIGURATION, &format!("swap {n}"), [routes(&n.to_string())?]);
        mark(&mut connection).await?;
    }
    let until = async |connection: &mut Client, wanted: &str| {
        within("the new routes", SOON, async {
            while mark(connection).await? != wanted {}
            anyhow::Ok(())
        })
        .await?
    };
    until(&mut connection, "199").await?;

    management.set(&TypeUrl::ROUTE_CONFIGURATION, "bad", [bad_routes()?]);
    within("the rejection", SOON, management.rejected(&TypeUrl::ROUTE_CONFIGURATION)).await?;
    ensure!(mark(&mut connection).await? == "199", "the last good routes serve");

    let address = management.address();
    management.close_streams();
    drop(management);
    ensure!(mark(&mut connection).await? == "199", "they serve without a management server");
    let management = ManagementServer::listen(address).await?;
    management.set(&TypeUrl::CLUSTER, "2", [cluster()?]);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [endpoints(upstream.addr())?]);
    management.set(&TypeUrl::LISTENER, "2", [listener()?]);
    management.set(&TypeUrl::ROUTE_CONFIGURATION, "2", [routes("again")?]);
    until(&mut connection, "again").await?;
    proxy.stop().await
}

#[tokio::test]
async fn serves_through_everything_by_state_of_the_world() -> Result<()> {
    serves_through_everything("GRPC").await
}

#[tokio::test]
async fn serves_through_everything_by_delta() -> Result<()> {
    serves_through_everything("DELTA_GRPC").await
}
