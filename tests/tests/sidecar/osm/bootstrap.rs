//! The bootstrap that OSM's injector writes. Names of filters and sockets are not Envoy's; types alone say what they are.

use std::net::SocketAddr;

use integration::mesh::resources::{address, typed};
use serde_json::json;

use super::shapes::{ads, any, tcp_proxy};

/// The bootstrap of a pod: the controller by its address over mutual TLS with secrets from files in `dir`, and listeners for the
/// probes of a container on `port`.
pub fn bootstrap(pod: &str, controller: SocketAddr, dir: &str, port: u16, highest_tls: &str) -> String {
    let probe = |kind: &str, at: u16| {
        let cluster = format!("{pod}_{kind}_cluster");
        let route = json!({"match": {"prefix": format!("/osm-{kind}-probe/{pod}")}, "route": {"cluster": cluster, "prefix_rewrite": "/", "timeout": "1s"}});
        let fields = json!({
            "stat_prefix": "health_probes_http", "codec_type": "AUTO",
            "route_config": {"name": "local_route", "virtual_hosts": [{"name": "local_service", "domains": ["*"], "routes": [route]}]},
            "http_filters": [typed("http_router", "extensions.filters.http.router.v3.Router", json!({}))],
        });
        let manager = typed(
            "http_connection_manager",
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            fields,
        );
        let host = json!([{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]);
        let assignment = json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": host}]});
        (
            json!({"name": format!("{kind}_listener"), "address": any(at), "filter_chains": [{"filters": [manager]}]}),
            json!({"name": cluster, "type": "STATIC", "load_assignment": assignment}),
        )
    };
    let (live, live_cluster) = probe("liveness", 15901);
    let (ready, ready_cluster) = probe("readiness", 15902);
    // A probe over TLS keeps its path, and is carried as it is.
    let start_cluster = format!("{pod}_startup_cluster");
    let carried = tcp_proxy("health_probes_https", &[(start_cluster.clone(), 100)]);
    let start =
        json!({"name": "startup_listener", "address": any(15903), "filter_chains": [{"filters": [carried]}]});
    let start_cluster = json!({"name": start_cluster, "type": "STATIC", "load_assignment": {"cluster_name": start_cluster, "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}});
    let file = |name: &str| json!({"name": name, "sds_config": {"path": format!("{dir}/{}_secret.yaml", name.replace("tls_sds", "tls_certificate_sds"))}});
    let common = json!({
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": highest_tls},
        "tls_certificate_sds_secret_configs": [file("tls_sds")],
        "validation_context_sds_secret_config": file("validation_context_sds"),
    });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let host = json!([{"endpoint": {"address": address(controller)}}]);
    let controller = json!({
        "name": "osm-controller", "type": "LOGICAL_DNS",
        "load_assignment": {"cluster_name": "osm-controller", "endpoints": [{"lb_endpoints": host}]},
        "typed_extension_protocol_options": {options: {"@type": format!("type.googleapis.com/{options}"), "explicit_http_config": {"http2_protocol_options": {}}}},
        "transport_socket": typed("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.UpstreamTlsContext", json!({"common_tls_context": common})),
    });
    let log = typed(
        "envoy.access_loggers.stream",
        "extensions.access_loggers.stream.v3.StdoutAccessLog",
        json!({}),
    );
    json!({
        "admin": {"access_log": [log], "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "dynamic_resources": {
            "ads_config": {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "osm-controller"}}], "set_node_on_first_message_only": true, "transport_api_version": "V3"},
            "cds_config": ads(), "lds_config": ads(),
        },
        "node": {"id": pod},
        "static_resources": {"clusters": [controller, live_cluster, ready_cluster, start_cluster], "listeners": [live, ready, start]},
    })
    .to_string()
}
