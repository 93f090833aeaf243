//! What istiod sends a sidecar: its listeners, filter chains, filters, clusters and routes in its names, order and quirks (JSON,
//! which is YAML). Recorded from Istio of 2026; only what telemetry, policies and services of the test need is filled in.

use std::net::SocketAddr;

use integration::mesh::pod::Pod;
use integration::mesh::resources::{address, typed};
use integration::mesh::{Mesh, Mode, Protocol, Resources, Service};
use serde_json::{Value, json};

const INBOUND: u16 = 15006;
const OUTBOUND: u16 = 15001;
/// What is offered by who speaks HTTP within, and by who speaks anything.
const HTTP_ALPN: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const TCP_ALPN: [&str; 2] = ["istio-peer-exchange", "istio"];
const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];
/// The last two take a key exchange by RSA, which is not spoken here.
const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// All of it.
pub fn resources(mesh: &Mesh, pod: &Pod) -> Resources {
    let mut resources = mesh.resources(pod);
    let own: Vec<&Service> =
        mesh.services.iter().filter(|service| service.pods.contains(&pod.name)).collect();
    resources.listeners = vec![virtual_outbound(), virtual_inbound(mesh, &own)];
    resources.listeners.extend(outbound_listeners(mesh));
    resources.routes = routes(mesh);
    resources.clusters = vec![
        passthrough("PassthroughCluster"),
        from_loopback("InboundPassthroughCluster"),
        json!({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"}),
    ];
    resources.clusters.extend(own.iter().map(|service| {
        let mut cluster = from_loopback(&format!("inbound|{}||", service.target));
        cluster["metadata"] = services(service);
        cluster
    }));
    resources.clusters.extend(mesh.services.iter().map(|service| outbound_cluster(mesh, service)));
    resources.endpoints = mesh.services.iter().map(|service| endpoints(mesh, service)).collect();
    resources
}

/// A message by its name within a struct, as Istio sends what Envoy's API does not know.
fn struct_of(name: &str, message: &str, value: Value) -> Value {
    let any = "type.googleapis.com/udpa.type.v1.TypedStruct";
    let config = json!({"@type": any, "type_url": format!("type.googleapis.com/{message}"), "value": value});
    json!({"name": name, "typed_config": config})
}

fn stats() -> Value {
    json!({"name": "istio.stats", "typed_config": {"@type": "type.googleapis.com/stats.PluginConfig"}})
}

fn exchange_over_tcp() -> Value {
    let value = json!({"protocol": "istio-peer-exchange", "enable_discovery": true});
    struct_of("istio.metadata_exchange", "envoy.tcp.metadataexchange.config.MetadataExchange", value)
}

fn exchange(inbound: bool) -> Value {
    let found = json!([{"istio_headers": {}}, {"workload_discovery": {}}]);
    let value = match inbound {
        true => json!({"downstream_discovery": found, "downstream_propagation": [{"istio_headers": {}}]}),
        false => {
            json!({"upstream_discovery": found, "upstream_propagation": [{"istio_headers": {"skip_external_clusters": true}}]})
        }
    };
    struct_of("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", value)
}

fn filter(kind: &str, message: &str, fields: Value) -> Value {
    typed(
        &format!("envoy.filters.http.{kind}"),
        &format!("extensions.filters.http.{kind}.v3.{message}"),
        fields,
    )
}

fn tcp_proxy(cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": cluster, "cluster": cluster}),
    )
}

fn alpn() -> Value {
    let message = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
    let of = |upstream: &str, first: &[&str]| {
        let last = if upstream == "HTTP2" { "h2" } else { "http/1.1" };
        let all: Vec<&str> = first.iter().copied().chain(["istio", last]).collect();
        json!({"upstream_protocol": upstream, "alpn_override": all})
    };
    let all =
        [of("HTTP10", &["istio-http/1.0"]), of("HTTP11", &["istio-http/1.1"]), of("HTTP2", &["istio-h2"])];
    json!({"name": "istio.alpn", "typed_config": {"@type": format!("type.googleapis.com/{message}"), "alpn_override": all}})
}

/// The connection manager, with filters in istiod's order.
fn manager(stat_prefix: &str, inbound: bool, policies: Vec<Value>, routes: Value) -> Value {
    let mut filters = vec![exchange(inbound)];
    filters.extend(policies);
    filters.push(filter(
        "grpc_stats",
        "FilterConfig",
        json!({"emit_filter_state": true, "stats_for_all_methods": false}),
    ));
    if !inbound {
        filters.push(alpn());
    }
    filters.push(filter("fault", "HTTPFault", json!({})));
    filters.push(filter("cors", "Cors", json!({})));
    filters.push(stats());
    filters.push(filter("router", "Router", json!({})));
    let percent = |value: f64| json!({"value": value});
    let dry_run = |action: &str| {
        let path = json!([{"key": format!("istio_dry_run_{action}_shadow_effective_policy_id")}]);
        let key = json!({"key": "envoy.filters.http.rbac", "path": path});
        json!({"tag": format!("istio.authorization.dry_run.{action}_policy.name"), "metadata": {"kind": {"request": {}}, "metadata_key": key}})
    };
    let tags = json!([
        dry_run("allow"), dry_run("deny"),
        {"tag": "istio.canonical_revision", "literal": {"value": "latest"}},
        {"tag": "istio.mesh_id", "literal": {"value": "cluster.local"}},
    ]);
    let format = json!({"text_format_source": {"inline_string": "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"}});
    let log = typed(
        "envoy.access_loggers.file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        json!({"path": "/dev/stdout", "log_format": format}),
    );
    let request_id = "extensions.request_id.uuid.v3.UuidRequestIdConfig";
    let mut fields = json!({
        "codec_type": "AUTO", "stat_prefix": stat_prefix, "http_filters": filters, "access_log": [log],
        "use_remote_address": false, "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED", "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "request_id_extension": {"typed_config": typed("", request_id, json!({"use_request_id_for_trace_sampling": true}))["typed_config"]},
        "tracing": {"client_sampling": percent(100.0), "random_sampling": percent(1.0), "overall_sampling": percent(100.0), "custom_tags": tags},
    });
    if inbound {
        fields["server_name"] = json!("istio-envoy");
        fields["forward_client_cert_details"] = json!("APPEND_FORWARD");
        fields["set_current_client_cert_details"] = json!({"subject": true, "dns": true, "uri": true});
    }
    if let (Value::Object(fields), Value::Object(routes)) = (&mut fields, routes) {
        fields.extend(routes);
    }
    let message = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    typed("envoy.filters.network.http_connection_manager", message, fields)
}

fn secret(name: &str) -> Value {
    let service = json!([{"envoy_grpc": {"cluster_name": "sds-grpc"}}]);
    let api = json!({"api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true, "grpc_services": service});
    json!({"name": name, "sds_config": {"api_config_source": api, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}})
}

fn common_tls(alpn: &[&str], names: &[Value]) -> Value {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3", "cipher_suites": SUITES},
        "alpn_protocols": alpn,
        "tls_certificate_sds_secret_configs": [secret("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": names},
            "validation_context_sds_secret_config": secret("ROOTCA"),
        },
    })
}

/// Mutual TLS of clients, for HTTP or for anything.
fn mutual(http: bool) -> Value {
    let alpn: &[&str] = if http { &["h2", "http/1.1"] } else { &["istio-peer-exchange", "h2", "http/1.1"] };
    let common = common_tls(alpn, &[json!({"prefix": "spiffe://cluster.local/"})]);
    let fields = json!({"require_client_certificate": true, "common_tls_context": common});
    typed("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext", fields)
}

fn virtual_outbound() -> Value {
    let blackhole = json!([stats(), tcp_proxy("BlackHoleCluster")]);
    json!({
        "name": "virtualOutbound", "traffic_direction": "OUTBOUND", "use_original_dst": true,
        "address": address(SocketAddr::from(([0; 4], OUTBOUND))),
        "additional_addresses": [{"address": address(SocketAddr::from(([0_u16; 8], OUTBOUND)))}],
        "max_connections_to_accept_per_socket_event": 1,
        "filter_chains": [
            {"name": "virtualOutbound-blackhole", "filter_chain_match": {"destination_port": OUTBOUND}, "filters": blackhole},
            {"name": "virtualOutbound-catchall-tcp", "filters": [stats(), tcp_proxy("PassthroughCluster")]},
        ],
    })
}

fn virtual_inbound(mesh: &Mesh, own: &[&Service]) -> Value {
    let listener = |kind: &str, message: &str| {
        let message = format!("extensions.filters.listener.{kind}.v3.{message}");
        typed(&format!("envoy.filters.listener.{kind}"), &message, json!({}))
    };
    // (Ports that are known to be HTTP, or excluded, are not looked at; here it is one that nobody uses.)
    let except = json!({"destination_port_range": {"start": 15_099, "end": 15_100}});
    let mut http_inspector = listener("http_inspector", "HttpInspector");
    http_inspector["filter_disabled"] = except.clone();
    let mut tls_inspector = listener("tls_inspector", "TlsInspector");
    tls_inspector["filter_disabled"] = except;
    let blackhole = json!([exchange_over_tcp(), stats(), tcp_proxy("BlackHoleCluster")]);
    let mut chains = vec![
        json!({"name": "virtualInbound-blackhole", "filter_chain_match": {"destination_port": INBOUND}, "filters": blackhole}),
    ];
    chains.extend(sniffed(mesh, None));
    for service in own {
        chains.extend(match service.protocol {
            Protocol::Http | Protocol::Http2 => of_http(mesh, service),
            Protocol::Tcp => sniffed(mesh, Some(service)),
        });
    }
    json!({
        "name": "virtualInbound", "traffic_direction": "INBOUND",
        "address": address(SocketAddr::from(([0; 4], INBOUND))),
        "additional_addresses": [{"address": address(SocketAddr::from(([0_u16; 8], INBOUND)))}],
        "listener_filters": [listener("original_dst", "OriginalDst"), tls_inspector, http_inspector],
        "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true,
        "max_connections_to_accept_per_socket_event": 1, "filter_chains": chains,
    })
}

/// The inbound filters of a port by whether it is HTTP: its service's, or those of whatever has none.
fn inbound_filters(service: Option<&Service>, mesh: &Mesh, http: bool) -> Value {
    let cluster = service
        .map_or("InboundPassthroughCluster".to_owned(), |service| format!("inbound|{}||", service.target));
    let rules = service.and_then(|service| service.allowed.as_ref()).map(|allowed| {
        let principal =
            |name: &String| json!({"authenticated": {"principal_name": {"exact": mesh.spiffe(name)}}});
        let principals: Vec<Value> = allowed.iter().map(principal).collect();
        let rule = json!({"permissions": [{"and_rules": {"rules": [{"any": true}]}}], "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": principals}}]}}]});
        json!({"action": "ALLOW", "policies": {"ns[default]-policy[callers]-rule[0]": rule}})
    });
    if http {
        let policies = rules.map(|rules| {
            // One that is tried without being enforced stands beside it.
            let deny = json!({"action": "DENY", "policies": {"ns[default]-policy[trial]-rule[0]": {"permissions": [{"url_path": {"path": {"exact": "/trial"}}}], "principals": [{"any": true}]}}});
            let tried = json!({"shadow_rules": deny, "shadow_rules_stat_prefix": "istio_dry_run_deny_"});
            let enforced = json!({"rules": rules, "shadow_rules_stat_prefix": "istio_dry_run_allow_"});
            vec![filter("rbac", "RBAC", tried), filter("rbac", "RBAC", enforced)]
        });
        let route = json!({
            "name": "default", "match": {"prefix": "/"},
            "decorator": {"operation": format!("{cluster}/*")},
            "route": {"cluster": cluster, "timeout": "0s", "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}},
        });
        let hosts = json!([{"name": format!("inbound|http|{}", service.map_or(0, |service| service.port)), "domains": ["*"], "routes": [route]}]);
        let routes =
            json!({"route_config": {"name": cluster, "virtual_hosts": hosts, "validate_clusters": false}});
        let prefix = format!("inbound_0.0.0.0_{};", service.map_or(0, |service| service.target));
        return json!([exchange_over_tcp(), manager(&prefix, true, policies.unwrap_or_default(), routes)]);
    }
    let mut filters = vec![exchange_over_tcp()];
    filters.extend(rules.map(|rules| {
        let message = "extensions.filters.network.rbac.v3.RBAC";
        typed("envoy.filters.network.rbac", message, json!({"stat_prefix": "tcp.", "rules": rules}))
    }));
    filters.extend([stats(), tcp_proxy(&cluster)]);
    json!(filters)
}

/// The chains of a port of which it is not known what is spoken on it; without one, of all that no service has.
fn sniffed(mesh: &Mesh, service: Option<&Service>) -> Vec<Value> {
    let (http_name, tcp_name) = match service {
        Some(service) => [(); 2].map(|()| format!("0.0.0.0_{}", service.target)).into(),
        None => ("virtualInbound-catchall-http".to_owned(), "virtualInbound".to_owned()),
    };
    let chain = |name: &str, mut of: Value, tls: bool, http: bool| {
        if let Some(service) = service {
            of["destination_port"] = json!(service.target);
        }
        let mut chain =
            json!({"name": name, "filter_chain_match": of, "filters": inbound_filters(service, mesh, http)});
        if tls {
            chain["transport_socket"] = mutual(http);
        }
        chain
    };
    let matching = |protocol: &str, alpn: &[&str]| match alpn.is_empty() {
        true => json!({"transport_protocol": protocol}),
        false => json!({"transport_protocol": protocol, "application_protocols": alpn}),
    };
    let mut chains = vec![
        chain(&http_name, matching("tls", &HTTP_ALPN), true, true),
        chain(&tcp_name, matching("tls", &TCP_ALPN), true, false),
    ];
    if mesh.mode == Mode::Permissive {
        chains.extend([
            chain(&http_name, matching("raw_buffer", &PLAIN_HTTP), false, true),
            chain(&tcp_name, matching("raw_buffer", &[]), false, false),
            chain(&tcp_name, matching("tls", &[]), false, false),
        ]);
    }
    chains
}

/// The chains of a port of HTTP.
fn of_http(mesh: &Mesh, service: &Service) -> Vec<Value> {
    let name = format!("0.0.0.0_{}", service.target);
    let filters = inbound_filters(Some(service), mesh, true);
    let chain = |transport: &str, alpn: Option<Vec<&str>>| {
        let mut of = json!({"destination_port": service.target, "transport_protocol": transport});
        if let Some(alpn) = alpn {
            of["application_protocols"] = json!(alpn);
        }
        json!({"name": name, "filter_chain_match": of, "filters": filters})
    };
    let all: Vec<&str> = ["istio", "istio-peer-exchange"].into_iter().chain(HTTP_ALPN).collect();
    let of_mode = if mesh.mode == Mode::Permissive { Some(all) } else { None };
    let mut tls = chain("tls", of_mode);
    tls["transport_socket"] = mutual(true);
    match mesh.mode {
        Mode::Permissive => vec![tls, chain("raw_buffer", None)],
        Mode::Strict => vec![tls],
    }
}

/// Services of HTTP share a listener for each port, and those of TCP have one at each address.
fn outbound_listeners(mesh: &Mesh) -> Vec<Value> {
    let mut ports: Vec<u16> = mesh
        .services
        .iter()
        .filter(|service| service.protocol != Protocol::Tcp)
        .map(|service| service.port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let mut listeners: Vec<Value> = ports.into_iter().flat_map(of_port).collect();
    for service in mesh.services.iter().filter(|service| service.protocol == Protocol::Tcp) {
        for at in service.at() {
            listeners.push(json!({
                "name": format!("{}_{}", at.ip(), at.port()), "address": address(at), "bind_to_port": false,
                "traffic_direction": "OUTBOUND",
                "filter_chains": [{"filters": [stats(), tcp_proxy(&service.cluster())]}],
            }));
        }
    }
    listeners
}

/// The listeners of a port of HTTP, which look whether that is what is spoken.
fn of_port(port: u16) -> [Value; 2] {
    let look = |kind: &str, message: &str| {
        let message = format!("extensions.filters.listener.{kind}.v3.{message}");
        typed(&format!("envoy.filters.listener.{kind}"), &message, json!({}))
    };
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let rds = json!({"rds": {"route_config_name": port.to_string(), "config_source": source}});
    let http = manager(&format!("outbound_0.0.0.0_{port};"), false, Vec::new(), rds);
    let any = [("0.0.0.0", SocketAddr::from(([0; 4], port))), ("::", SocketAddr::from(([0_u16; 8], port)))];
    any.map(|(ip, at)| {
        json!({
            "name": format!("{ip}_{port}"), "address": address(at), "bind_to_port": false, "traffic_direction": "OUTBOUND",
            "listener_filters": [look("tls_inspector", "TlsInspector"), look("http_inspector", "HttpInspector")],
            "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true,
            "filter_chains": [{"filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": PLAIN_HTTP}, "filters": [http]}],
            "default_filter_chain": {"name": "PassthroughFilterChain", "filters": [stats(), tcp_proxy("PassthroughCluster")]},
        })
    })
}

/// A configuration for each port, with all services on it.
fn routes(mesh: &Mesh) -> Vec<Value> {
    let mut ports: Vec<u16> = mesh.services.iter().map(|service| service.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let config = |port: u16| {
        let host = |service: &Service| {
            let (name, [v4, v6]) = (service.name, service.addresses.each());
            let full = format!("{name}.default.svc.cluster.local");
            let retry = json!({
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": 2, "host_selection_retry_max_attempts": "5",
                "retry_host_predicate": [typed("envoy.retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}))],
            });
            let route = json!({
                "name": "default", "match": {"prefix": "/"}, "decorator": {"operation": format!("{full}:{port}/*")},
                "route": {"cluster": service.cluster(), "timeout": "0s", "retry_policy": retry, "max_grpc_timeout": "0s"},
            });
            json!({
                "name": format!("{full}:{port}"), "include_request_attempt_count": true, "routes": [route],
                "domains": [full, format!("{full}."), name, format!("{name}.default.svc"), format!("{name}.default"), v4.to_string(), format!("[{v6}]")],
            })
        };
        let mut hosts: Vec<Value> = mesh
            .services
            .iter()
            .filter(|service| service.port == port && service.protocol != Protocol::Tcp)
            .map(host)
            .collect();
        let any = json!({"name": "allow_any", "match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster", "timeout": "0s", "max_grpc_timeout": "0s"}});
        hosts.push(json!({"name": "allow_any", "domains": ["*"], "routes": [any], "include_request_attempt_count": true}));
        json!({
            "name": port.to_string(), "virtual_hosts": hosts, "validate_clusters": false,
            "max_direct_response_body_size_bytes": 1_048_576, "ignore_port_in_host_matching": true,
        })
    };
    ports.into_iter().map(config).collect()
}

/// What a cluster says of the service that it is.
fn services(service: &Service) -> Value {
    let host = format!("{}.default.svc.cluster.local", service.name);
    json!({"filter_metadata": {"istio": {"services": [{"host": host, "name": service.name, "namespace": "default"}]}}})
}

fn http_options(config: Value) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut all = json!({"@type": format!("type.googleapis.com/{options}")});
    if let (Value::Object(all), Value::Object(config)) = (&mut all, config) {
        all.extend(config);
    }
    json!({options: all})
}

fn as_clients_speak() -> Value {
    http_options(
        json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {"max_concurrent_streams": 1_073_741_824}}}),
    )
}

fn unlimited() -> Value {
    let all = u32::MAX;
    json!({"thresholds": [{"max_connections": all, "max_pending_requests": all, "max_requests": all, "max_retries": all, "track_remaining": true}]})
}

fn passthrough(name: &str) -> Value {
    json!({
        "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
        "circuit_breakers": unlimited(), "typed_extension_protocol_options": as_clients_speak(),
        "filters": [exchange_over_tcp()],
    })
}

fn from_loopback(name: &str) -> Value {
    let from = |ip: &str| json!({"address": ip, "port_value": 0});
    let mut cluster = passthrough(name);
    cluster["cleanup_interval"] = json!("60s");
    cluster["upstream_bind_config"] =
        json!({"source_address": from("127.0.0.6"), "extra_source_addresses": [{"address": from("::6")}]});
    cluster.as_object_mut().unwrap().remove("filters");
    cluster
}

fn outbound_cluster(mesh: &Mesh, service: &Service) -> Value {
    let names: Vec<Value> = service.pods.iter().map(|pod| json!({"exact": mesh.spiffe(pod)})).collect();
    let alpn: &[&str] = match service.protocol {
        Protocol::Http2 => &["istio-peer-exchange", "istio", "h2"],
        Protocol::Http | Protocol::Tcp => &["istio-peer-exchange", "istio"],
    };
    let sni = format!("outbound_.{}_._.{}.default.svc.cluster.local", service.port, service.name);
    let mut metadata = services(service);
    metadata["filter_metadata"]["istio"]["default_original_port"] = json!(service.port);
    let tls = typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        json!({"sni": sni, "common_tls_context": common_tls(alpn, &names)}),
    );
    let raw = typed(
        "envoy.transport_sockets.raw_buffer",
        "extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        json!({}),
    );
    let options = match service.protocol {
        Protocol::Http2 => http_options(
            json!({"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1_073_741_824}}}),
        ),
        Protocol::Http | Protocol::Tcp => as_clients_speak(),
    };
    json!({
        "name": service.cluster(), "type": "EDS", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
        "eds_cluster_config": {"service_name": service.cluster(), "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}},
        "circuit_breakers": unlimited(), "common_lb_config": {"locality_weighted_lb_config": {}}, "metadata": metadata,
        "filters": [exchange_over_tcp()], "typed_extension_protocol_options": options,
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": tls},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": raw},
        ],
    })
}

/// The hosts of a service. Those that have a sidecar say that they speak mutual TLS.
fn endpoints(mesh: &Mesh, service: &Service) -> Value {
    let pods = mesh.pods.iter().filter(|pod| service.pods.contains(&pod.name));
    let host = |pod: &Pod| {
        let at = SocketAddr::new(pod.addresses.v4.into(), service.target);
        let mut metadata = json!({"istio": {"workload": format!("{0};default;{0};v1;Kubernetes", pod.name)}});
        if pod.name != "legacy" {
            metadata["envoy.transport_socket_match"] = json!({"tlsMode": "istio"});
        }
        json!({"endpoint": {"address": address(at)}, "load_balancing_weight": 1, "metadata": {"filter_metadata": metadata}})
    };
    let hosts: Vec<Value> = pods.map(host).collect();
    let locality = json!({"locality": {"region": "here", "zone": "a"}, "lb_endpoints": hosts, "load_balancing_weight": 1});
    json!({"cluster_name": service.cluster(), "endpoints": [locality]})
}
