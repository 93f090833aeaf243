//! What of Envoy's extensions the engine itself is made of, so that no table takes it out.

/// Names of Envoy 1.40 by their category, former names too; both in alphabetical order.
pub(super) const BUILT_IN: &[(&str, &[&str])] = &[
    ("envoy.access_loggers.extension_filters", &["envoy.access_loggers.extension_filters.cel"]),
    ("envoy.bootstrap", &["envoy.bootstrap.internal_listener"]),
    (
        "envoy.built_in_formatters",
        &[
            "envoy.built_in_formatters.cel",
            "envoy.built_in_formatters.http.default",
            "envoy.built_in_formatters.metadata",
            "envoy.built_in_formatters.stream_info.default",
        ],
    ),
    (
        "envoy.clusters",
        &[
            "envoy.cluster.dns",
            "envoy.cluster.eds",
            "envoy.cluster.logical_dns",
            "envoy.cluster.original_dst",
            "envoy.cluster.static",
            "envoy.cluster.strict_dns",
            "envoy.clusters.aggregate",
            "envoy.clusters.dynamic_forward_proxy",
        ],
    ),
    (
        "envoy.compression.compressor",
        &[
            "envoy.compression.brotli.compressor",
            "envoy.compression.gzip.compressor",
            "envoy.compression.zstd.compressor",
        ],
    ),
    (
        "envoy.config_mux",
        &[
            "envoy.config_mux.delta_grpc_mux_factory",
            "envoy.config_mux.grpc_mux_factory",
            "envoy.config_mux.new_grpc_mux_factory",
            "envoy.config_mux.sotw_grpc_mux_factory",
        ],
    ),
    (
        "envoy.config_subscription",
        &[
            "envoy.config_subscription.ads",
            "envoy.config_subscription.delta_grpc",
            "envoy.config_subscription.filesystem",
            "envoy.config_subscription.grpc",
            "envoy.config_subscription.rest",
        ],
    ),
    ("envoy.connection_handler", &["envoy.connection_handler.default"]),
    ("envoy.filters.http", &["envoy.filters.http.router", "envoy.router"]),
    (
        "envoy.filters.http.upstream",
        &[
            "envoy.filters.http.admission_control",
            "envoy.filters.http.compressor",
            "envoy.filters.http.header_mutation",
            "envoy.filters.http.upstream_codec",
            "envoy.filters.http.upstream_rbac",
        ],
    ),
    (
        "envoy.filters.network",
        &[
            "envoy.filters.network.http_connection_manager",
            "envoy.filters.network.tcp_proxy",
            "envoy.http_connection_manager",
            "envoy.tcp_proxy",
        ],
    ),
    ("envoy.formatter", &["envoy.formatter.metadata", "envoy.formatter.req_without_query"]),
    ("envoy.health_check.event_sinks", &["envoy.health_check.event_sink.file"]),
    (
        "envoy.health_checkers",
        &["envoy.health_checkers.grpc", "envoy.health_checkers.http", "envoy.health_checkers.tcp"],
    ),
    (
        "envoy.http.stateful_header_formatters",
        &["envoy.http.stateful_header_formatters.preserve_case", "preserve_case"],
    ),
    (
        "envoy.http.stateful_session",
        &[
            "envoy.http.stateful_session.cookie",
            "envoy.http.stateful_session.envelope",
            "envoy.http.stateful_session.header",
        ],
    ),
    (
        "envoy.internal_redirect_predicates",
        &[
            "envoy.internal_redirect_predicates.allow_listed_routes",
            "envoy.internal_redirect_predicates.filter_state",
            "envoy.internal_redirect_predicates.previous_routes",
            "envoy.internal_redirect_predicates.safe_cross_scheme",
        ],
    ),
    (
        "envoy.listener_manager_impl",
        &["envoy.listener_manager_impl.default", "envoy.listener_manager_impl.validation"],
    ),
    (
        "envoy.load_balancing_policies",
        &[
            "envoy.load_balancing_policies.client_side_weighted_round_robin",
            "envoy.load_balancing_policies.cluster_provided",
            "envoy.load_balancing_policies.least_request",
            "envoy.load_balancing_policies.maglev",
            "envoy.load_balancing_policies.override_host",
            "envoy.load_balancing_policies.random",
            "envoy.load_balancing_policies.ring_hash",
            "envoy.load_balancing_policies.round_robin",
            "envoy.load_balancing_policies.subset",
            "envoy.load_balancing_policies.wrr_locality",
        ],
    ),
    (
        "envoy.matching.http.custom_matchers",
        &["envoy.matching.custom_matchers.domain_matcher", "envoy.matching.custom_matchers.ip_range_matcher"],
    ),
    (
        "envoy.matching.http.input",
        &[
            "envoy.matching.inputs.destination_ip",
            "envoy.matching.inputs.destination_port",
            "envoy.matching.inputs.direct_source_ip",
            "envoy.matching.inputs.dns_san",
            "envoy.matching.inputs.dynamic_metadata",
            "envoy.matching.inputs.filter_state",
            "envoy.matching.inputs.request_headers",
            "envoy.matching.inputs.server_name",
            "envoy.matching.inputs.source_ip",
            "envoy.matching.inputs.source_port",
            "envoy.matching.inputs.subject",
            "envoy.matching.inputs.uri_san",
        ],
    ),
    (
        "envoy.matching.input_matchers",
        &["envoy.matching.matchers.ip", "envoy.matching.matchers.metadata_matcher"],
    ),
    (
        "envoy.matching.network.custom_matchers",
        &["envoy.matching.custom_matchers.domain_matcher", "envoy.matching.custom_matchers.ip_range_matcher"],
    ),
    (
        "envoy.matching.network.input",
        &[
            "envoy.matching.inputs.application_protocol",
            "envoy.matching.inputs.destination_ip",
            "envoy.matching.inputs.destination_port",
            "envoy.matching.inputs.direct_source_ip",
            "envoy.matching.inputs.dns_san",
            "envoy.matching.inputs.filter_state",
            "envoy.matching.inputs.server_name",
            "envoy.matching.inputs.source_ip",
            "envoy.matching.inputs.source_port",
            "envoy.matching.inputs.source_type",
            "envoy.matching.inputs.subject",
            "envoy.matching.inputs.transport_protocol",
            "envoy.matching.inputs.uri_san",
        ],
    ),
    (
        "envoy.network.dns_resolver",
        &[
            "envoy.network.dns_resolver.cares",
            "envoy.network.dns_resolver.getaddrinfo",
            "envoy.network.dns_resolver.hickory",
        ],
    ),
    ("envoy.path.match", &["envoy.path.match.uri_template.uri_template_matcher"]),
    ("envoy.path.rewrite", &["envoy.path.rewrite.uri_template.uri_template_rewriter"]),
    (
        "envoy.rate_limit_descriptors",
        &["envoy.rate_limit_descriptors.expr", "envoy.rate_limit_descriptors.jwt_claim"],
    ),
    ("envoy.rbac.principals", &["envoy.rbac.principals.mtls_authenticated"]),
    ("envoy.rds_factory", &["envoy.rds_factory.default"]),
    ("envoy.regex_engines", &["envoy.regex_engines.google_re2"]),
    ("envoy.request_id", &["envoy.request_id.uuid"]),
    ("envoy.resolvers", &["envoy.ip"]),
    (
        "envoy.resource_monitors",
        &[
            "envoy.resource_monitors.cgroup_memory",
            "envoy.resource_monitors.cpu_utilization",
            "envoy.resource_monitors.fixed_heap",
            "envoy.resource_monitors.injected_resource",
        ],
    ),
    (
        "envoy.retry_host_predicates",
        &[
            "envoy.retry_host_predicates.omit_canary_hosts",
            "envoy.retry_host_predicates.omit_host_metadata",
            "envoy.retry_host_predicates.previous_hosts",
        ],
    ),
    ("envoy.retry_priorities", &["envoy.retry_priorities.previous_priorities"]),
    ("envoy.route_config_update_requester", &["envoy.route_config_update_requester.default"]),
    (
        "envoy.router.cluster_specifier_plugin",
        &[
            "envoy.router.cluster_specifier_plugin.matcher",
            "envoy.router.cluster_specifier_plugin.priority_group",
        ],
    ),
    ("envoy.ssl.server_context_factory", &["envoy.ssl.server_context_factory.default"]),
    ("envoy.tls.cert_validator", &["envoy.tls.cert_validator.default", "envoy.tls.cert_validator.spiffe"]),
    (
        "envoy.tracers.opentelemetry.resource_detectors",
        &[
            "envoy.tracers.opentelemetry.resource_detectors.environment",
            "envoy.tracers.opentelemetry.resource_detectors.static_config",
        ],
    ),
    (
        "envoy.tracers.opentelemetry.samplers",
        &[
            "envoy.tracers.opentelemetry.samplers.always_on",
            "envoy.tracers.opentelemetry.samplers.parent_based",
            "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        ],
    ),
    (
        "envoy.transport_sockets.downstream",
        &["envoy.transport_sockets.raw_buffer", "envoy.transport_sockets.tls", "raw_buffer", "tls"],
    ),
    (
        "envoy.transport_sockets.upstream",
        &[
            "envoy.transport_sockets.raw_buffer",
            "envoy.transport_sockets.tls",
            "envoy.transport_sockets.upstream_proxy_protocol",
            "raw_buffer",
            "tls",
        ],
    ),
    (
        "envoy.upstream.local_address_selector",
        &["envoy.upstream.local_address_selector.default_local_address_selector"],
    ),
    (
        "envoy.upstream_options",
        &[
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
            "envoy.upstreams.http.http_protocol_options",
            "envoy.upstreams.tcp.tcp_protocol_options",
        ],
    ),
    (
        "envoy.upstreams",
        &["envoy.filters.connection_pools.http.generic", "envoy.filters.connection_pools.tcp.generic"],
    ),
    (
        "filter_state.object",
        &[
            "envoy.bool",
            "envoy.hashable_string",
            "envoy.network.application_protocols",
            "envoy.network.ip",
            "envoy.network.transport_socket.original_dst_address",
            "envoy.network.upstream_server_name",
            "envoy.network.upstream_subject_alt_names",
            "envoy.ratelimit.hits_addend",
            "envoy.string",
            "envoy.tcp_proxy.cluster",
            "envoy.upstream.dynamic_host",
            "envoy.upstream.dynamic_port",
        ],
    ),
    ("network.connection.client", &["default"]),
];

/// Whether the engine is made of it.
pub(super) fn is_built_in(category: &str, name: &str) -> bool {
    BUILT_IN.iter().any(|(of, names)| *of == category && names.contains(&name))
}
