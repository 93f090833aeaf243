//! Messages of every type of the API, as a control plane may send them: the first two octets choose the type, the rest is
//! the message. No panic in checking, enforcing, printing or building.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proxy_core::config::BuildCx;
use proxy_engine::http::config::ConnectionManager;
use proxy_engine::listener::config::Listener;
use proxy_engine::router::RouteTable;
use proxy_engine::upstream::cluster::Cluster;
use xds_api::envoy::config::{cluster, endpoint, listener, route};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_api::schema::Message;
use xds_api::write::{JsonOptions, to_json};

type Build = dyn Fn(&[u8], &mut BuildCx<'_>);

fuzz_target!(|input: &[u8]| {
    let Some(([high, low], bytes)) = input.split_first_chunk::<2>() else { return };
    let registered = registered();
    let chosen = usize::from(u16::from_be_bytes([*high, *low]));
    let (name, build) = match registered.get(chosen) {
        Some((name, build)) => (*name, Some(build)),
        None => {
            let all = Message::all();
            let index = (chosen - registered.len()) % all.len();
            let Some(message) = Message::all().nth(index) else { return };
            (message.full_name(), None)
        }
    };
    let type_url = format!("type.googleapis.com/{name}");
    let (errors, _) = proxy::fields::enforce(&type_url, bytes);
    assert!(errors.iter().all(|error| !error.reason.is_empty()));
    let _ = to_json(&type_url, bytes, &JsonOptions::default(), &mut String::new());
    if let Some(build) = build {
        let env = outrigger_fuzz::env();
        build(bytes, &mut BuildCx::new(&env));
    }
});

/// Every type that something is built from.
fn registered() -> Vec<(&'static str, Box<Build>)> {
    let mut types: Vec<(&'static str, Box<Build>)> = vec![
        (
            "envoy.config.listener.v3.Listener",
            Box::new(|bytes, cx| {
                let _ =
                    listener::v3::Listener::decode(bytes).map(|proto| Listener::build(&proto, cx).map(drop));
            }),
        ),
        (
            "envoy.config.cluster.v3.Cluster",
            Box::new(|bytes, cx| {
                let _ = cluster::v3::Cluster::decode(bytes).map(|proto| Cluster::build(&proto, cx).map(drop));
            }),
        ),
        (
            "envoy.config.route.v3.RouteConfiguration",
            Box::new(|bytes, cx| {
                let _ = route::v3::RouteConfiguration::decode(bytes)
                    .map(|proto| RouteTable::build(&proto, cx).map(drop));
            }),
        ),
        (
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Box::new(|bytes, cx| {
                let mut proto =
                    cluster::v3::Cluster { name: "c".to_owned(), ..cluster::v3::Cluster::default() };
                proto.load_assignment = endpoint::v3::ClusterLoadAssignment::decode(bytes).ok();
                let _ = Cluster::build(&proto, cx).map(drop);
            }),
        ),
        (
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            Box::new(|bytes, cx| {
                let _ = HttpConnectionManager::decode(bytes)
                    .map(|proto| ConnectionManager::build(&proto, cx).map(drop));
            }),
        ),
    ];
    for factory in proxy_extensions::LISTENER_FILTERS {
        types.push((factory.descriptor().message, Box::new(|bytes, cx| drop(factory.build(bytes, cx)))));
    }
    for factory in proxy_extensions::UPSTREAM_NETWORK_FILTERS {
        types.push((factory.descriptor().message, Box::new(|bytes, cx| drop(factory.build(bytes, cx)))));
    }
    for factory in proxy_extensions::NETWORK_FILTERS {
        types.push((factory.descriptor().message, Box::new(|bytes, cx| drop(factory.build(bytes, cx)))));
    }
    for factory in proxy_extensions::ACCESS_LOGS {
        types.push((factory.descriptor().message, Box::new(|bytes, cx| drop(factory.build(bytes, cx)))));
    }
    for factory in proxy_extensions::HTTP_FILTERS {
        types.push((factory.descriptor().message, Box::new(|bytes, cx| drop(factory.build(bytes, cx)))));
        if let Some(message) = factory.route_message() {
            types.push((message, Box::new(|bytes, cx| drop(factory.build_route(bytes, cx)))));
        }
    }
    types
}
