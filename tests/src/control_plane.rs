//! A proxy under a management server: the bootstrap that leads to it, and resources from YAML.

use std::net::SocketAddr;

use anyhow::Result;
use prost::{Message, Name};
use prost_types::Any;
use xds::fake::Served;
use xds_api::read::{Options, Source, read};

use crate::config::{H2_CLUSTER, indent};

/// The aggregated stream as a `ConfigSource`.
pub const ADS: &str = "{resource_api_version: V3, ads: {}}";

/// A message from YAML, packed.
pub fn any<M: Message + Name + Default>(yaml: &str) -> Result<Any> {
    let message = read::<M>(&Source::yaml("test", yaml.as_bytes()), &Options::default())?.message;
    Ok(Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() })
}

/// A resource from YAML, for the server.
pub fn served<M: Message + Name + Default>(yaml: &str) -> Result<Served> {
    Ok(Served::new(any::<M>(yaml)?))
}

/// `{socket_address: ..}` as YAML.
pub fn socket(addr: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", addr.ip(), addr.port())
}

/// A static cluster `m` that leads to the management server at an address (YAML).
pub fn management_cluster(address: &str) -> String {
    let endpoint = format!("{{endpoint: {{address: {address}}}}}");
    format!(
        "- name: m\n  type: STATIC\n  connect_timeout: 1s\n{}  load_assignment: {{cluster_name: m, endpoints: [{{lb_endpoints: [{endpoint}]}}]}}\n",
        indent(H2_CLUSTER, 2)
    )
}

/// A bootstrap that takes listeners and clusters over one aggregated stream.
pub fn bootstrap(management: SocketAddr, api_type: &str) -> String {
    bootstrap_with(&management_cluster(&socket(management)), api_type, ADS)
}

/// [`bootstrap`] with the sources of listeners and clusters as given.
pub fn bootstrap_with(clusters: &str, api_type: &str, source: &str) -> String {
    let resources = format!("lds_config: {source}\ncds_config: {source}\n");
    bootstrap_of(&resources, &[], clusters, api_type)
}

/// A bootstrap with an aggregated stream over the cluster `m`, these other fields of `dynamic_resources`, and static listeners
/// and clusters.
pub fn bootstrap_of(dynamic: &str, listeners: &[String], clusters: &str, api_type: &str) -> String {
    format!(
        "
node: {{id: test, cluster: test}}
stats_flush_interval: 0.1s
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources:
  ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m}}}}]}}
{}static_resources:
  listeners:
{}  clusters:
{}",
        indent(dynamic, 2),
        indent(&listeners.concat(), 2),
        indent(clusters, 2)
    )
}
