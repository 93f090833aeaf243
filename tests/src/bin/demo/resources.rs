//! What the management server of the demonstration serves.

use std::net::SocketAddr;

use prost::{Message, Name};
use prost_types::Any;
use xds::fake::Served;
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use xds_api::envoy::config::core::v3::address::Address as AddressKind;
use xds_api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_api::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_api::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use xds_api::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_api::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use xds_api::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use xds_api::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use xds_api::envoy::config::route::v3::route::Action;
use xds_api::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;
use xds_api::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use xds_api::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use xds_api::envoy::extensions::filters::http::router::v3::Router;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType as HttpFilterConfig;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use xds_api::envoy::r#type::matcher::v3::RegexMatcher;

/// Everything but the way to the management server comes from it.
pub(crate) fn bootstrap(management: SocketAddr) -> String {
    include_str!("bootstrap.yaml").replace("{{management}}", &management.port().to_string())
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn aggregated() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn address(addr: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: addr.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(addr.port().into())),
        ..SocketAddress::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket)) }
}

/// EDS clusters of these names.
pub(crate) fn clusters(names: &[&str]) -> Vec<Served> {
    let cluster = |name: &&str| Cluster {
        name: (*name).to_owned(),
        connect_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(aggregated()),
            ..EdsClusterConfig::default()
        }),
        ..Cluster::default()
    };
    names.iter().map(|name| Served::new(any(&cluster(name)))).collect()
}

/// The hosts of a cluster.
pub(crate) fn endpoints(cluster: &str, hosts: &[SocketAddr]) -> Served {
    let endpoint = |addr: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(*addr)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: hosts.iter().map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    Served::new(any(&assignment))
}

/// The listener `demo` on a port that the kernel chooses, with its routes from ADS.
pub(crate) fn listener() -> Served {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(HttpFilterConfig::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    let rds = Rds { config_source: Some(aggregated()), route_config_name: "routes".to_owned() };
    let manager = HttpConnectionManager {
        stat_prefix: "demo".to_owned(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(FilterConfig::TypedConfig(any(&manager))),
    };
    let listener = Listener {
        name: "demo".to_owned(),
        address: Some(address(SocketAddr::from(([127, 0, 0, 1], 0)))),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    };
    Served::new(any(&listener))
}

/// What the route configuration says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Routes {
    /// Everything to one cluster.
    To(&'static str),
    /// Half to blue, half to green.
    Split,
    /// A regular expression that is none: must be rejected.
    Wrong,
}

impl Routes {
    pub(crate) fn served(self) -> Served {
        let specifier = match self {
            Self::To(cluster) => ClusterSpecifier::Cluster(cluster.to_owned()),
            Self::Split | Self::Wrong => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: ["blue", "green"].map(half).into(),
                ..WeightedCluster::default()
            }),
        };
        let path = match self {
            Self::Wrong => PathSpecifier::SafeRegex(RegexMatcher {
                regex: "/(unclosed".to_owned(),
                ..RegexMatcher::default()
            }),
            Self::To(_) | Self::Split => PathSpecifier::Prefix("/".to_owned()),
        };
        let route = Route {
            r#match: Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(specifier),
                ..RouteAction::default()
            })),
            ..Route::default()
        };
        let host = VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..VirtualHost::default()
        };
        let routes = RouteConfiguration {
            name: "routes".to_owned(),
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        };
        Served::new(any(&routes))
    }
}

fn half(name: &str) -> ClusterWeight {
    ClusterWeight { name: name.to_owned(), weight: Some(50), ..ClusterWeight::default() }
}
