//! What becomes of every field of a listener's messages.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.listener.v3.Listener",
        &[
            ("name", Used),
            ("address", Used),
            ("additional_addresses", Used),
            ("stat_prefix", Used),
            ("stats_matcher", Rejected("statistics are filtered by the bootstrap's stats_config only")),
            ("filter_chains", Used),
            ("fcds_config", Rejected("filter chain discovery is not available")),
            ("filter_chain_matcher", Used),
            ("use_original_dst", Used),
            ("default_filter_chain", Used),
            ("per_connection_buffer_limit_bytes", Used),
            (
                "per_connection_buffer_high_watermark_timeout",
                Rejected(
                    "not built; `stream_idle_timeout` and the `idle_timeout` of the TCP proxy end who does not read",
                ),
            ),
            ("metadata", Used),
            ("deprecated_v1", Used),
            ("drain_type", Used),
            ("listener_filters", Used),
            ("listener_filters_timeout", Used),
            ("continue_on_listener_filters_timeout", Used),
            ("transparent", Used),
            ("freebind", Used),
            ("socket_options", Used),
            ("tcp_fast_open_queue_length", Used),
            ("traffic_direction", Used),
            ("udp_listener_config", Rejected("UDP is not available")),
            ("api_listener", Rejected("API listeners are not available")),
            ("connection_balance_config", Used),
            ("reuse_port", Rejected("use enable_reuse_port")),
            ("enable_reuse_port", Used),
            ("access_log", Used),
            ("tcp_backlog_size", Used),
            (
                "max_connections_to_accept_per_socket_event",
                Ignored("connections are accepted one by one, between which other work goes on"),
            ),
            ("bind_to_port", Used),
            ("internal_listener", Rejected("internal listeners are not available")),
            ("enable_mptcp", Rejected("MPTCP is not available")),
            ("ignore_global_conn_limit", Used),
            ("bypass_overload_manager", Used),
            ("tcp_keepalive", Used),
        ],
    ),
    ("envoy.config.listener.v3.Listener.DeprecatedV1", &[("bind_to_port", Used)]),
    (
        "envoy.config.listener.v3.Listener.ConnectionBalanceConfig",
        &[
            ("exact_balance", Used),
            ("extend_balance", Rejected("only exact_balance is available")),
            ("cpu_locality_balance", Rejected("only exact_balance is available")),
        ],
    ),
    ("envoy.config.listener.v3.Listener.ConnectionBalanceConfig.ExactBalance", &[]),
    (
        "envoy.config.listener.v3.AdditionalAddress",
        &[
            ("address", Used),
            ("socket_options", Used),
            ("tcp_keepalive", Rejected("the listener's own tcp_keepalive applies to all its addresses")),
        ],
    ),
    (
        "envoy.config.listener.v3.FilterChain",
        &[
            ("filter_chain_match", Used),
            ("filters", Used),
            ("use_proxy_proto", Rejected("use the proxy_protocol listener filter")),
            ("metadata", Used),
            ("transport_socket", Used),
            ("transport_socket_connect_timeout", Used),
            ("name", Used),
        ],
    ),
    (
        "envoy.config.listener.v3.FilterChainMatch",
        &[
            ("destination_port", Used),
            ("prefix_ranges", Used),
            ("address_suffix", Rejected("is not implemented, nor is it in Envoy")),
            ("suffix_len", Rejected("is not implemented, nor is it in Envoy")),
            ("direct_source_prefix_ranges", Used),
            ("source_type", Used),
            ("source_prefix_ranges", Used),
            ("source_ports", Used),
            ("server_names", Used),
            ("transport_protocol", Used),
            ("application_protocols", Used),
        ],
    ),
    (
        "envoy.config.listener.v3.Filter",
        &[
            ("name", Ignored("extensions are found by type, not by name")),
            ("typed_config", Used),
            ("config_discovery", Rejected("extension discovery is not available")),
        ],
    ),
    (
        "envoy.config.listener.v3.ListenerFilter",
        &[
            ("name", Ignored("extensions are found by type, not by name")),
            ("typed_config", Used),
            ("config_discovery", Rejected("extension discovery is not available")),
            ("filter_disabled", Used),
        ],
    ),
    (
        "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
        &[
            ("or_match", Used),
            ("and_match", Used),
            ("not_match", Used),
            ("any_match", Used),
            ("destination_port_range", Used),
        ],
    ),
    ("envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet", &[("rules", Used)]),
    ("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
];
