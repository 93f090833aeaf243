//! The resources of a simulation: few names, so that they meet; some that cannot be taken.

use prost::Message;
use prost_types::Any;
use xds_api::envoy::config::cluster::v3 as cluster;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_api::envoy::config::endpoint::v3 as endpoint;
use xds_api::envoy::config::listener::v3 as listener;
use xds_api::envoy::config::route::v3 as route;
use xds_api::envoy::extensions::filters::http::router::v3::Router;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;

use super::{Delivered, Facts, Kind, Resource};

/// One of the names of a kind.
pub(super) fn name(kind: Kind, number: u8) -> String {
    let number = number % 3;
    match kind {
        Kind::Cluster => format!("c{number}"),
        Kind::Endpoints => format!("s{}", number % 2),
        Kind::Listener => format!("l{number}"),
        Kind::Routes => format!("r{}", number % 2),
        Kind::Secret => unreachable!("no secret is delivered here"),
    }
}

/// The resources and removals of a response.
pub(super) fn delivery(kind: Kind, how: u8, more: u8) -> (Vec<Resource>, Vec<String>) {
    let first = resource(kind, name(kind, how), how >> 2);
    let mut upserts = Vec::new();
    let mut removed = Vec::new();
    match more % 8 {
        0 => removed.push(name(kind, how)),
        1 => {
            upserts.push(first);
            removed.push(name(kind, how.wrapping_add(1)));
        }
        2 => {
            let other = name(kind, how.wrapping_add(1));
            upserts.push(first);
            if upserts[0].name() != other {
                upserts.push(resource(kind, other, more >> 3));
            }
        }
        // What is held and taken away at once comes back.
        3 => {
            upserts.push(first);
            removed.push(name(kind, how));
        }
        _ => upserts.push(first),
    }
    (upserts, removed)
}

fn resource(kind: Kind, name: String, form: u8) -> Resource {
    let (value, facts) = match kind {
        Kind::Cluster => cluster(&name, form),
        Kind::Endpoints => endpoints(&name, form),
        Kind::Listener => listener(&name, form),
        Kind::Routes => routes(&name, form),
        Kind::Secret => unreachable!("no secret is delivered here"),
    };
    let any = Any { type_url: kind.type_url().to_owned(), value };
    Resource { delivered: Delivered { name, version: "1".to_owned(), any }, facts }
}

fn ads() -> core::ConfigSource {
    let specifier = ConfigSourceSpecifier::Ads(core::AggregatedConfigSource::default());
    core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() }
}

fn cluster(name: &str, form: u8) -> (Vec<u8>, Facts) {
    let seconds = i64::from(form % 2) + 1;
    let kind = if form % 8 < 2 { DiscoveryType::Static } else { DiscoveryType::Eds };
    let service = format!("s{}", (form >> 1) % 2);
    let mut proto = cluster::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        ..Default::default()
    };
    let facts = match (form % 8, kind) {
        (7, _) => {
            proto.connect_timeout = Some(prost_types::Duration::default());
            Facts::Invalid
        }
        (6, _) => Facts::Unbuildable,
        (_, DiscoveryType::Static) => Facts::Cluster { service: None },
        _ => {
            let eds_config = Some(ads());
            proto.eds_cluster_config = Some(EdsClusterConfig { eds_config, service_name: service.clone() });
            Facts::Cluster { service: Some(service) }
        }
    };
    (proto.encode_to_vec(), facts)
}

fn endpoints(name: &str, form: u8) -> (Vec<u8>, Facts) {
    let ports: Vec<u16> = match form % 8 {
        0 => Vec::new(),
        1..=3 => vec![80],
        4 | 5 => vec![80, 81],
        6 => vec![82],
        _ => vec![80],
    };
    let endpoint = |port: &u16| {
        let socket = core::SocketAddress {
            address: "127.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(*port))),
            ..Default::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
        let endpoint = endpoint::Endpoint { address: Some(address), ..Default::default() };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        }
    };
    let is_invalid = form % 8 == 7;
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: ports.iter().map(endpoint).collect(),
        // At most 128.
        priority: if is_invalid { 200 } else { 0 },
        ..Default::default()
    };
    let proto = endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![locality],
        ..Default::default()
    };
    (proto.encode_to_vec(), if is_invalid { Facts::Invalid } else { Facts::Endpoints { ports } })
}

fn listener(name: &str, form: u8) -> (Vec<u8>, Facts) {
    let port = u16::from(form % 3) + 2;
    let table = |cluster: &str| table("inline", &["*"], cluster);
    let (specifier, routes, cluster) = match (form >> 2) % 4 {
        0 | 1 => {
            let name = format!("r{}", (form >> 2) % 2);
            let rds = hcm::Rds { config_source: Some(ads()), route_config_name: name.clone() };
            (RouteSpecifier::Rds(rds), Some(name), None)
        }
        2 => (RouteSpecifier::RouteConfig(table("xds")), None, Some("xds".to_owned())),
        _ => (RouteSpecifier::RouteConfig(table("c0")), None, Some("c0".to_owned())),
    };
    let router = any(&Router::default());
    let manager = hcm::HttpConnectionManager {
        stat_prefix: format!("p{}", (form >> 4) % 2),
        route_specifier: Some(specifier),
        http_filters: vec![hcm::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(router)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let socket = core::SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    };
    let filter = listener::Filter {
        name: "hcm".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
    };
    let proto = listener::Listener {
        name: name.to_owned(),
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }),
        filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    };
    (proto.encode_to_vec(), Facts::Listener { port, routes, cluster })
}

fn routes(name: &str, form: u8) -> (Vec<u8>, Facts) {
    match form % 8 {
        // Domains must be unique.
        6 => (table(name, &["*", "*"], "c0").encode_to_vec(), Facts::Unbuildable),
        // A virtual host must have a domain.
        7 => (table(name, &[], "c0").encode_to_vec(), Facts::Invalid),
        form => (table(name, &["*"], &format!("c{}", form % 3)).encode_to_vec(), Facts::Routes),
    }
}

fn table(name: &str, domains: &[&str], cluster: &str) -> route::RouteConfiguration {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    let matched = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let route = route::Route {
        r#match: Some(matched),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    let virtual_host = route::VirtualHost {
        name: "v".to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes: vec![route],
        ..Default::default()
    };
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![virtual_host],
        ..Default::default()
    }
}

fn any<M: Message + prost::Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}
