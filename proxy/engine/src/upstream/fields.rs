//! What is done with each field of the messages that make a cluster.

use proxy_core::config::{FieldUse, MessageFields};
use proxy_core::dns_cache::NO_SUB_CLUSTERS;

use FieldUse::{Ignored, Rejected, Used};

use super::checks::NO_PROXY_PROTOCOL;
use super::dns::NO_STORE;

const NO_REPORTS: FieldUse = Ignored("no load reports are sent; traffic is as without");
const NO_HTTP3: FieldUse = Rejected("HTTP/3 is not available");

/// Every field of the messages that this module reads.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.cluster.v3.Cluster",
        &[
            ("transport_socket_matches", Used),
            ("transport_socket_matcher", Rejected("use transport_socket_matches")),
            ("name", Used),
            ("alt_stat_name", Used),
            ("stats_matcher", Rejected("statistics are filtered by the bootstrap's stats_config only")),
            ("type", Used),
            ("cluster_type", Used),
            ("eds_cluster_config", Used),
            ("connect_timeout", Used),
            ("per_connection_buffer_limit_bytes", Used),
            (
                "per_connection_buffer_high_watermark_timeout",
                Rejected("not built; `timeout` and `idle_timeout` of routes end who waits for a slow host"),
            ),
            ("lb_policy", Used),
            ("load_assignment", Used),
            ("health_checks", Used),
            ("max_requests_per_connection", Used),
            ("circuit_breakers", Used),
            ("upstream_http_protocol_options", Used),
            ("common_http_protocol_options", Used),
            ("http_protocol_options", Used),
            ("http2_protocol_options", Used),
            ("typed_extension_protocol_options", Used),
            ("dns_refresh_rate", Used),
            ("dns_jitter", Used),
            ("dns_failure_refresh_rate", Used),
            ("respect_dns_ttl", Used),
            ("dns_lookup_family", Used),
            ("dns_resolvers", Used),
            ("use_tcp_for_dns_lookups", Used),
            ("dns_resolution_config", Used),
            ("typed_dns_resolver_config", Used),
            ("wait_for_warm_on_init", Used),
            ("outlier_detection", Used),
            ("cleanup_interval", Used),
            ("upstream_bind_config", Used),
            ("lb_subset_config", Used),
            ("ring_hash_lb_config", Used),
            ("maglev_lb_config", Used),
            ("original_dst_lb_config", Used),
            ("least_request_lb_config", Used),
            ("round_robin_lb_config", Used),
            ("common_lb_config", Used),
            ("transport_socket", Used),
            ("metadata", Used),
            ("protocol_selection", Used),
            ("upstream_connection_options", Used),
            ("close_connections_on_host_health_failure", Used),
            ("ignore_health_on_host_removal", Used),
            ("filters", Used),
            ("load_balancing_policy", Used),
            ("lrs_server", NO_REPORTS),
            ("lrs_report_endpoint_metrics", NO_REPORTS),
            ("track_timeout_budgets", Used),
            ("upstream_config", Used),
            ("track_cluster_stats", Used),
            ("preconnect_policy", Used),
            ("connection_pool_per_downstream_connection", Used),
            (
                "queuing_policies",
                Rejected("not built; `max_pending_requests` of the circuit breakers limits who waits"),
            ),
        ],
    ),
    (
        "envoy.config.cluster.v3.Filter",
        &[
            ("name", Used),
            ("typed_config", Used),
            ("config_discovery", Rejected("extension discovery is not available")),
        ],
    ),
    (
        "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        &[("name", Used), ("match", Used), ("transport_socket", Used)],
    ),
    (
        "envoy.config.cluster.v3.Cluster.PreconnectPolicy",
        &[
            ("per_upstream_preconnect_ratio", Used),
            ("predictive_preconnect_ratio", Used),
            ("preconnect_enabled_metadata", Used),
        ],
    ),
    (
        "envoy.config.cluster.v3.OutlierDetection",
        &[
            ("consecutive_5xx", Used),
            ("interval", Used),
            ("base_ejection_time", Used),
            ("max_ejection_percent", Used),
            ("enforcing_consecutive_5xx", Used),
            ("enforcing_success_rate", Used),
            ("success_rate_minimum_hosts", Used),
            ("success_rate_request_volume", Used),
            ("success_rate_stdev_factor", Used),
            ("consecutive_gateway_failure", Used),
            ("enforcing_consecutive_gateway_failure", Used),
            ("split_external_local_origin_errors", Used),
            ("consecutive_local_origin_failure", Used),
            ("enforcing_consecutive_local_origin_failure", Used),
            ("enforcing_local_origin_success_rate", Used),
            ("failure_percentage_threshold", Used),
            ("enforcing_failure_percentage", Used),
            ("enforcing_failure_percentage_local_origin", Used),
            ("failure_percentage_minimum_hosts", Used),
            ("failure_percentage_request_volume", Used),
            ("max_ejection_time", Used),
            ("max_ejection_time_jitter", Used),
            ("successful_active_health_check_uneject_host", Used),
            ("monitors", Rejected("monitors that are extensions are not available")),
            ("always_eject_one_host", Used),
            ("detect_degraded_hosts", Used),
        ],
    ),
    ("envoy.config.cluster.v3.Cluster.CustomClusterType", &[("name", NAMES), ("typed_config", Used)]),
    ("envoy.extensions.clusters.aggregate.v3.ClusterConfig", &[("clusters", Used)]),
    (
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
        &[
            ("dns_cache_config", Used),
            ("sub_clusters_config", Rejected(NO_SUB_CLUSTERS)),
            ("allow_insecure_cluster_options", Used),
            (
                "allow_coalesced_connections",
                Ignored("each host has connections of its own: there are more of them"),
            ),
        ],
    ),
    (
        "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig",
        &[
            ("name", Used),
            ("dns_lookup_family", Used),
            ("dns_refresh_rate", Used),
            ("dns_min_refresh_rate", Used),
            ("host_ttl", Used),
            ("max_hosts", Used),
            ("disable_dns_refresh_on_failure", Used),
            ("dns_failure_refresh_rate", Used),
            ("dns_cache_circuit_breaker", Used),
            ("use_tcp_for_dns_lookups", Used),
            ("dns_resolution_config", Used),
            ("typed_dns_resolver_config", Used),
            ("preresolve_hostnames", Used),
            ("dns_query_timeout", Used),
            ("key_value_config", Rejected(NO_STORE)),
            ("resolved_address_filter", Used),
        ],
    ),
    (
        "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers",
        &[("max_pending_requests", Used)],
    ),
    ("envoy.config.cluster.v3.Cluster.EdsClusterConfig", &[("eds_config", Used), ("service_name", Used)]),
    (
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
        &[
            ("fallback_policy", Used),
            ("default_subset", Used),
            ("subset_selectors", Used),
            ("locality_weight_aware", Used),
            ("scale_locality_weight", Used),
            ("panic_mode_any", Used),
            ("list_as_any", Used),
            ("metadata_fallback_policy", Used),
        ],
    ),
    (
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
        &[
            ("keys", Used),
            ("single_host_per_subset", Used),
            ("fallback_policy", Used),
            ("fallback_keys_subset", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.subset.v3.Subset",
        &[
            ("fallback_policy", Used),
            ("default_subset", Used),
            ("subset_selectors", Used),
            ("allow_redundant_keys", Used),
            ("locality_weight_aware", Used),
            ("scale_locality_weight", Used),
            ("panic_mode_any", Used),
            ("list_as_any", Used),
            ("metadata_fallback_policy", Used),
            ("subset_lb_policy", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector",
        &[
            ("keys", Used),
            ("single_host_per_subset", Used),
            ("fallback_policy", Used),
            ("fallback_keys_subset", Used),
        ],
    ),
    ("envoy.config.cluster.v3.Cluster.RoundRobinLbConfig", &[("slow_start_config", Used)]),
    (
        "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
        &[("choice_count", Used), ("active_request_bias", Used), ("slow_start_config", Used)],
    ),
    ("envoy.config.cluster.v3.Cluster.RefreshRate", &[("base_interval", Used), ("max_interval", Used)]),
    (
        "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        &[
            ("healthy_panic_threshold", Used),
            ("zone_aware_lb_config", Used),
            ("locality_weighted_lb_config", Used),
            ("update_merge_window", Ignored("updates take effect at once")),
            ("ignore_new_hosts_until_first_hc", Used),
            ("close_connections_on_host_set_change", Used),
            ("consistent_hashing_lb_config", Used),
            ("override_host_status", Used),
        ],
    ),
    ("envoy.config.core.v3.HealthStatusSet", &[("statuses", Used)]),
    (
        "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
        &[("routing_enabled", Used), ("min_cluster_size", Used), ("fail_traffic_on_panic", Used)],
    ),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig", &[]),
    (
        "envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig",
        &[("use_hostname_for_hashing", Used), ("hash_balance_factor", Used)],
    ),
    (
        "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
        &[("minimum_ring_size", Used), ("hash_function", Used), ("maximum_ring_size", Used)],
    ),
    (
        "envoy.config.cluster.v3.Cluster.SlowStartConfig",
        &[("slow_start_window", Used), ("aggression", Used), ("min_weight_percent", Used)],
    ),
    ("envoy.config.cluster.v3.Cluster.MaglevLbConfig", &[("table_size", Used)]),
    ("envoy.config.cluster.v3.CircuitBreakers", &[("thresholds", Used), ("per_host_thresholds", Used)]),
    (
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        &[
            ("priority", Used),
            ("max_connections", Used),
            ("max_pending_requests", Used),
            ("max_requests", Used),
            ("max_retries", Used),
            ("retry_budget", Used),
            ("track_remaining", Used),
            ("max_connection_pools", Used),
        ],
    ),
    (
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
        &[("budget_percent", Used), ("budget_interval", Used), ("min_retry_concurrency", Used)],
    ),
    ("envoy.config.cluster.v3.LoadBalancingPolicy", &[("policies", Used)]),
    ("envoy.config.cluster.v3.LoadBalancingPolicy.Policy", &[("typed_extension_config", Used)]),
    (
        "envoy.config.cluster.v3.TrackClusterStats",
        &[("timeout_budgets", Used), ("request_response_sizes", Used), ("per_endpoint_stats", Used)],
    ),
    (
        "envoy.config.cluster.v3.UpstreamConnectionOptions",
        &[
            ("tcp_keepalive", Used),
            (
                "set_local_interface_name_on_upstream_connections",
                Rejected("not built; `%UPSTREAM_LOCAL_ADDRESS%` tells the local address"),
            ),
            ("happy_eyeballs_config", Used),
        ],
    ),
    (
        "envoy.config.cluster.v3.UpstreamConnectionOptions.HappyEyeballsConfig",
        &[("first_address_family_version", Used), ("first_address_family_count", Used)],
    ),
    (
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        &[
            ("cluster_name", Used),
            ("endpoints", Used),
            ("named_endpoints", Rejected("named endpoints are not available")),
            ("policy", Used),
        ],
    ),
    (
        "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
        &[
            ("drop_overloads", Used),
            ("overprovisioning_factor", Used),
            ("endpoint_stale_after", Used),
            ("weighted_priority_health", Used),
        ],
    ),
    (
        "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload",
        &[
            ("category", Ignored("names the drop in load reports, which are not sent")),
            ("drop_percentage", Used),
        ],
    ),
    (
        "envoy.config.endpoint.v3.LocalityLbEndpoints",
        &[
            ("locality", Used),
            ("metadata", Used),
            ("lb_endpoints", Used),
            ("load_balancer_endpoints", Rejected("lists of endpoints are not available")),
            ("leds_cluster_locality_config", Rejected("LEDS is not available")),
            ("load_balancing_weight", Used),
            ("priority", Used),
            ("proximity", Ignored("Envoy does not read it either")),
        ],
    ),
    (
        "envoy.config.endpoint.v3.LbEndpoint",
        &[
            ("endpoint", Used),
            ("endpoint_name", Rejected("named endpoints are not available")),
            ("health_status", Used),
            ("metadata", Used),
            ("load_balancing_weight", Used),
        ],
    ),
    (
        "envoy.config.endpoint.v3.Endpoint",
        &[
            ("address", Used),
            ("health_check_config", Used),
            ("hostname", Used),
            ("additional_addresses", Used),
            ("observability_name", Ignored("names statistics of single hosts, which are refused")),
        ],
    ),
    (
        "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
        &[("port_value", Used), ("hostname", Used), ("address", Used), ("disable_active_health_check", Used)],
    ),
    (
        "envoy.config.core.v3.HealthCheck",
        &[
            ("name", Used),
            ("timeout", Used),
            ("interval", Used),
            ("initial_jitter", Used),
            ("interval_jitter", Used),
            ("interval_jitter_percent", Used),
            ("unhealthy_threshold", Used),
            ("healthy_threshold", Used),
            ("alt_port", Ignored("Envoy does not read it either; endpoints have health_check_config")),
            ("reuse_connection", Used),
            ("http_health_check", Used),
            ("tcp_health_check", Used),
            ("grpc_health_check", Used),
            ("custom_health_check", Rejected("custom health checks are not available")),
            ("no_traffic_interval", Used),
            ("no_traffic_healthy_interval", Used),
            ("unhealthy_interval", Used),
            ("unhealthy_edge_interval", Used),
            ("healthy_edge_interval", Used),
            ("event_log_path", Used),
            ("event_logger", Used),
            ("event_service", Rejected("events are written to files only")),
            ("always_log_health_check_failures", Used),
            ("always_log_health_check_success", Used),
            ("tls_options", Used),
            ("transport_socket_match_criteria", Used),
        ],
    ),
    (
        "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
        &[
            ("host", Used),
            ("path", Used),
            ("send", Used),
            ("receive", Used),
            ("response_buffer_size", Used),
            ("request_headers_to_add", Used),
            ("request_headers_to_remove", Used),
            ("expected_statuses", Used),
            ("retriable_statuses", Used),
            ("codec_client_type", Used),
            ("use_alpn_protocol", Used),
            ("service_name_matcher", Used),
            ("method", Used),
        ],
    ),
    (
        "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
        &[("send", Used), ("receive", Used), ("proxy_protocol_config", Rejected(NO_PROXY_PROTOCOL))],
    ),
    (
        "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
        &[("service_name", Used), ("authority", Used), ("initial_metadata", Used)],
    ),
    ("envoy.config.core.v3.HealthCheck.Payload", &[("text", Used), ("binary", Used)]),
    ("envoy.config.core.v3.HealthCheck.TlsOptions", &[("alpn_protocols", Used)]),
    (
        "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
        &[("event_log_path", Used)],
    ),
    ("envoy.config.endpoint.v3.Endpoint.AdditionalAddress", &[("address", Used)]),
    ("envoy.config.core.v3.Locality", &[("region", Used), ("zone", Used), ("sub_zone", Used)]),
    ("envoy.config.core.v3.TransportSocket", &[("name", NAMES), ("typed_config", Used)]),
    ("envoy.config.core.v3.RuntimeDouble", &[("default_value", Used), ("runtime_key", Used)]),
    (
        "envoy.config.core.v3.BindConfig",
        &[
            ("source_address", Used),
            ("freebind", Used),
            ("socket_options", Used),
            ("extra_source_addresses", Used),
            ("additional_source_addresses", Used),
            ("local_address_selector", Used),
            ("validate_network_namespaces", Rejected("network namespaces are not available")),
        ],
    ),
    ("envoy.config.core.v3.ExtraSourceAddress", &[("address", Used), ("socket_options", Used)]),
    ("envoy.config.core.v3.SocketOptionsOverride", &[("socket_options", Used)]),
    (
        "envoy.config.core.v3.SocketOption",
        &[
            ("description", Ignored("is a comment")),
            ("level", Used),
            ("name", Used),
            ("int_value", Used),
            ("buf_value", Used),
            ("state", Used),
            ("type", Used),
            ("ip_version", Used),
        ],
    ),
    ("envoy.config.core.v3.SocketOption.SocketType", &[("stream", Used), ("datagram", Used)]),
    ("envoy.config.core.v3.SocketOption.SocketType.Stream", &[]),
    ("envoy.config.core.v3.SocketOption.SocketType.Datagram", &[]),
    (
        "envoy.config.core.v3.TcpKeepalive",
        &[("keepalive_probes", Used), ("keepalive_time", Used), ("keepalive_interval", Used)],
    ),
    (
        "envoy.extensions.clusters.dns.v3.DnsCluster",
        &[
            ("dns_refresh_rate", Used),
            ("dns_failure_refresh_rate", Used),
            ("respect_dns_ttl", Used),
            ("dns_jitter", Used),
            ("typed_dns_resolver_config", Used),
            ("dns_lookup_family", Used),
            ("all_addresses_in_single_endpoint", Used),
            ("dns_min_refresh_rate", Used),
        ],
    ),
    (
        "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
        &[
            ("use_http_header", Used),
            ("http_header_name", Used),
            ("upstream_port_override", Used),
            ("metadata_key", Used),
        ],
    ),
    (
        "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster",
        &[
            ("use_http_header", Used),
            ("http_header_name", Used),
            ("upstream_port_override", Used),
            ("metadata_key", Used),
        ],
    ),
    ("envoy.type.metadata.v3.MetadataKey", &[("key", Used), ("path", Used)]),
    (
        "envoy.type.metadata.v3.MetadataKey.PathSegment",
        &[("key", Used), ("index", Rejected("lists are not looked into"))],
    ),
    (
        "envoy.extensions.clusters.dns.v3.DnsCluster.RefreshRate",
        &[("base_interval", Used), ("max_interval", Used)],
    ),
    ("envoy.config.core.v3.DnsResolutionConfig", &[("resolvers", Used), ("dns_resolver_options", Used)]),
    (
        "envoy.config.core.v3.DnsResolverOptions",
        &[("use_tcp_for_dns_lookups", Used), ("no_default_search_domain", Used)],
    ),
    (
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        &[
            ("resolvers", Used),
            ("use_resolvers_as_fallback", Used),
            ("filter_unroutable_families", Rejected("not available")),
            ("dns_resolver_options", Used),
            ("udp_max_queries", OWN_SOCKET),
            ("query_timeout_seconds", Used),
            ("query_tries", Used),
            ("rotate_nameservers", Used),
            ("edns0_max_payload_size", Ignored("the resolver chooses a size that is not fragmented")),
            ("max_udp_channel_duration", OWN_SOCKET),
            ("reinit_channel_on_timeout", OWN_SOCKET),
            ("qcache_max_ttl", Used),
        ],
    ),
    (
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
        &[
            ("num_retries", Ignored("a failed lookup is repeated at the failure refresh rate")),
            ("num_resolver_threads", OWN_THREADS),
        ],
    ),
    (
        "envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig",
        &[
            ("resolvers", Used),
            ("dns_over_tls", Rejected("DNS over TLS is not available")),
            ("dns_over_https", Rejected("DNS over HTTPS is not available")),
            ("enable_dnssec", Rejected("DNSSEC is not available")),
            ("cache_size", Used),
            ("num_resolver_threads", OWN_THREADS),
            ("use_system_config", Used),
            ("query_timeout", Used),
            ("query_tries", Used),
        ],
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        &[
            ("common_http_protocol_options", Used),
            ("upstream_http_protocol_options", Used),
            ("explicit_http_config", Used),
            ("use_downstream_protocol_config", Used),
            ("auto_config", Used),
            ("http_filters", Used),
            ("header_validation_config", Rejected("header validators are not available")),
            ("outlier_detection", Used),
            ("request_mirror_policies", Used),
            ("hash_policy", Rejected("hash policies are those of routes and of load balancing policies")),
            ("retry_policy", Used),
        ],
    ),
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.OutlierDetection", &[("error_matcher", Used)]),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
        &[
            ("http_protocol_options", Used),
            ("http2_protocol_options", Used),
            ("http3_protocol_options", NO_HTTP3),
        ],
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
        &[
            ("http_protocol_options", Used),
            ("http2_protocol_options", Used),
            ("http3_protocol_options", NO_HTTP3),
            ("alternate_protocols_cache_options", NO_HTTP3),
        ],
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
        &[
            ("http_protocol_options", Used),
            ("http2_protocol_options", Used),
            ("http3_protocol_options", NO_HTTP3),
        ],
    ),
    (
        "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
        &[("idle_timeout", Ignored("connections for TCP are made when needed, none is idle in a pool"))],
    ),
    ("envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided", &[]),
    (
        "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        &[("slow_start_config", Used), ("locality_lb_config", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        &[
            ("choice_count", Used),
            ("active_request_bias", Used),
            ("slow_start_config", Used),
            ("locality_lb_config", Used),
            ("enable_full_scan", Used),
            ("selection_method", Used),
        ],
    ),
    ("envoy.extensions.load_balancing_policies.random.v3.Random", &[("locality_lb_config", Used)]),
    (
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        &[
            ("hash_function", Used),
            ("minimum_ring_size", Used),
            ("maximum_ring_size", Used),
            ("use_hostname_for_hashing", Used),
            ("hash_balance_factor", Used),
            ("consistent_hashing_lb_config", Used),
            ("locality_weighted_lb_config", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        &[
            ("table_size", Used),
            ("consistent_hashing_lb_config", Used),
            ("locality_weighted_lb_config", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig",
        &[("slow_start_window", Used), ("aggression", Used), ("min_weight_percent", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig",
        &[("use_hostname_for_hashing", Used), ("hash_balance_factor", Used), ("hash_policy", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        &[("override_host_sources", Used), ("selected_host_key", Used), ("fallback_policy", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost.OverrideHostSource",
        &[("header", Used), ("metadata", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
        &[("endpoint_picking_policy", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
        &[
            ("enable_oob_load_report", Used),
            ("oob_reporting_period", Used),
            ("blackout_period", Used),
            ("weight_expiration_period", Used),
            ("weight_update_period", Used),
            ("error_utilization_penalty", Used),
            ("metric_names_for_computing_utilization", Used),
            ("slow_start_config", Used),
            ("oob_reporting_config", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.OrcaOobReportingConfig",
        &[("port_value", Used), ("authority", Used), ("transport_socket_match_criteria", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig",
        &[("zone_aware_lb_config", Used), ("locality_weighted_lb_config", Used)],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig",
        &[
            ("routing_enabled", Used),
            ("min_cluster_size", Used),
            ("fail_traffic_on_panic", Used),
            ("force_locality_direct_routing", Used),
            ("force_local_zone", Used),
            ("locality_basis", Used),
        ],
    ),
    (
        "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig.ForceLocalZone",
        &[("min_size", Used)],
    ),
    ("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig", &[]),
    (
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        &[
            ("config", Used),
            ("transport_socket", Used),
            ("allow_unspecified_address", Used),
            ("tlv_as_pool_key", Ignored("connections are never shared between clients of different TLVs")),
        ],
    ),
    (
        "envoy.config.core.v3.ProxyProtocolConfig",
        &[("version", Used), ("pass_through_tlvs", Used), ("added_tlvs", Used)],
    ),
    ("envoy.config.core.v3.ProxyProtocolPassThroughTLVs", &[("match_type", Used), ("tlv_type", Used)]),
    ("envoy.config.core.v3.PerHostConfig", &[("added_tlvs", Used)]),
    ("envoy.config.core.v3.TlvEntry", &[("type", Used), ("value", Used), ("format_string", Used)]),
    (
        "envoy.config.core.v3.UpstreamHttpProtocolOptions",
        &[("auto_sni", Used), ("auto_san_validation", Used), ("override_auto_sni_header", Used)],
    ),
    (
        "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat",
        &[("proper_case_words", Used), ("stateful_formatter", Used)],
    ),
    ("envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords", &[]),
    (
        "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        &[("forward_reason_phrase", Used), ("formatter_type_on_envoy_headers", Used)],
    ),
];

const NAMES: FieldUse = Ignored("extensions are found by type, not by name");
const OWN_SOCKET: FieldUse = Ignored("every query has a socket of its own");
const OWN_THREADS: FieldUse = Ignored("lookups run on the process's own threads");

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;

    fn collect(prefix: &str, message: &DescriptorProto, all: &mut BTreeMap<String, Vec<String>>) {
        let name = format!("{prefix}.{}", message.name());
        for nested in &message.nested_type {
            collect(&name, nested, all);
        }
        all.insert(name, message.field.iter().map(|field| field.name().to_owned()).collect());
    }

    #[test]
    fn every_field_of_a_listed_message_is_classified_once() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xds/api/descriptors/envoy-1.40.binpb");
        let set = FileDescriptorSet::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let mut all = BTreeMap::new();
        for file in &set.file {
            for message in &file.message_type {
                collect(file.package(), message, &mut all);
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for (message, fields) in FIELDS {
            assert!(seen.insert(message), "{message} is listed twice");
            let mut listed: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
            let mut wanted: Vec<&str> = all[*message].iter().map(String::as_str).collect();
            listed.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(listed, wanted, "{message}");
        }
    }
}
