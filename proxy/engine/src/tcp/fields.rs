//! What becomes of every field of the TCP proxy's messages.

use proxy_core::config::FieldUse::{Rejected, Used};
use proxy_core::config::MessageFields;

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[
            ("stat_prefix", Used),
            ("cluster", Used),
            ("weighted_clusters", Used),
            ("on_demand", Rejected("on-demand clusters are not available")),
            ("metadata_match", Used),
            ("idle_timeout", Used),
            (
                "downstream_idle_timeout",
                Rejected("not available, nor does Envoy 1.40 act on it; use idle_timeout"),
            ),
            (
                "upstream_idle_timeout",
                Rejected("not available, nor does Envoy 1.40 act on it; use idle_timeout"),
            ),
            ("access_log", Used),
            ("max_connect_attempts", Used),
            ("backoff_options", Rejected("not available")),
            ("hash_policy", Used),
            ("tunneling_config", Rejected("tunnelling is not available")),
            ("max_downstream_connection_duration", Used),
            ("max_downstream_connection_duration_jitter_percentage", Used),
            ("access_log_flush_interval", Used),
            ("flush_access_log_on_connected", Used),
            ("access_log_options", Used),
            ("proxy_protocol_tlvs", Used),
            ("proxy_protocol_tlv_merge_policy", Used),
            ("upstream_connect_mode", Rejected("only IMMEDIATE is available")),
            ("max_early_data_bytes", Rejected("not available")),
            ("check_drain_close", Rejected("not available")),
        ],
    ),
    ("envoy.type.v3.HashPolicy", &[("source_ip", Used), ("filter_state", Used)]),
    ("envoy.type.v3.HashPolicy.SourceIp", &[]),
    ("envoy.type.v3.HashPolicy.FilterState", &[("key", Used)]),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster", &[("clusters", Used)]),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        &[("name", Used), ("weight", Used), ("metadata_match", Used)],
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TcpAccessLogOptions",
        &[
            ("access_log_flush_interval", Used),
            ("flush_access_log_on_connected", Used),
            ("flush_access_log_on_start", Used),
        ],
    ),
];
