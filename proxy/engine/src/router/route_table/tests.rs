use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method};
use proxy_core::address::Address;
use proxy_core::config::{BuildEnv, ConfigError, NodeInfo};
use proxy_core::extension::Extensions;
use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::filter_state::FilterState;
use proxy_core::metadata::DynamicMetadata;
use proxy_core::names::Names;
use proxy_core::stats::Registry;
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::config::route::v3::route::Action as RouteProto;
use xds_api::envoy::config::route::v3::route_action;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;

use super::*;

struct NoFiles;

impl LogFiles for NoFiles {
    fn open(&self, _path: &str) -> std::io::Result<Arc<dyn LogFile>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn env() -> BuildEnv {
    BuildEnv {
        extensions: Extensions::default(),
        clusters: Names::default(),
        routes: Names::default(),
        runtime: Arc::default(),
        stats: Registry::new(1),
        node: NodeInfo::default(),
        concurrency: 1,
        log_files: Arc::new(NoFiles),
    }
}

fn build(proto: &proto::RouteConfiguration) -> Result<Arc<RouteTable>, Vec<ConfigError>> {
    let env = env();
    let mut cx = BuildCx::new(&env);
    RouteTable::build(proto, &mut cx).map_err(|Rejected| cx.into_errors())
}

fn info() -> StreamInfo {
    let now = Instant::now();
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let connection = ConnectionInfo {
        secure: false,
        id: 0,
        start: now,
        direct_remote: address.clone(),
        remote: address.clone(),
        local: address.clone(),
        direct_local: address,
        local_restored: false,
        server_name: None,
        application_protocols: Vec::new(),
        transport_protocol: "raw_buffer",
        listener: "".into(),
        listener_metadata: Metadata::default(),
        filter_chain: "".into(),
        filter_chain_metadata: Metadata::default(),
        metadata: DynamicMetadata::default(),
        filter_state: FilterState::default(),
    };
    StreamInfo::new(Rc::new(connection), now, SystemTime::now())
}

fn get(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: path.into(),
        upgrade: None,
        headers: HeaderMap::new(),
    }
}

fn to_cluster(path: PathSpecifier, cluster: &str) -> proto::Route {
    proto::Route {
        r#match: Some(proto::RouteMatch { path_specifier: Some(path), ..Default::default() }),
        action: Some(RouteProto::Route(proto::RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<proto::Route>) -> proto::VirtualHost {
    proto::VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes,
        ..Default::default()
    }
}

fn table(virtual_hosts: Vec<proto::VirtualHost>) -> proto::RouteConfiguration {
    proto::RouteConfiguration { name: "rc".to_owned(), virtual_hosts, ..Default::default() }
}

fn cluster_of(table: &RouteTable, request: &RequestHead) -> Option<String> {
    let matched = table.route(request, &info(), &Runtime::default(), 0)?;
    match table.selected(matched)?.cluster(request) {
        ClusterChoice::Named(name) => Some(name.as_str().to_owned()),
        ClusterChoice::FromHeader(name) => Some(format!("header:{name}")),
        ClusterChoice::None => None,
    }
}

#[test]
fn the_first_matching_route_of_the_best_virtual_host_wins() {
    let table = build(&table(vec![
        host("default", &["*"], vec![to_cluster(PathSpecifier::Prefix("/".to_owned()), "default")]),
        host(
            "a",
            &["a.example"],
            vec![
                to_cluster(PathSpecifier::Path("/x".to_owned()), "exact"),
                to_cluster(PathSpecifier::Prefix("/x".to_owned()), "prefix"),
            ],
        ),
    ]))
    .unwrap();
    for (host, path, cluster) in [
        ("A.Example", "/x?q", Some("exact")),
        ("a.example", "/xy", Some("prefix")),
        ("a.example", "/", None),
        ("b.example", "/x", Some("default")),
    ] {
        assert_eq!(cluster_of(&table, &get(host, path)).as_deref(), cluster, "{host}{path}");
    }
}
