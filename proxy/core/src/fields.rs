//! What becomes of every field of the messages that many parts of a configuration share.

use crate::config::FieldUse::{Ignored, Rejected, Used};
use crate::config::MessageFields;

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.core.v3.Address",
        &[
            ("socket_address", Used),
            ("pipe", Used),
            ("envoy_internal_address", Rejected("internal addresses are not available")),
        ],
    ),
    (
        "envoy.config.core.v3.SocketAddress",
        &[
            ("protocol", Used),
            ("address", Used),
            ("port_value", Used),
            ("named_port", Used),
            ("resolver_name", Used),
            ("ipv4_compat", Used),
            ("network_namespace_filepath", Rejected("network namespaces are not available")),
        ],
    ),
    ("envoy.config.core.v3.Pipe", &[("path", Used), ("mode", Used)]),
    (
        "envoy.config.core.v3.DataSource",
        &[
            ("filename", Used),
            ("inline_bytes", Used),
            ("inline_string", Used),
            ("environment_variable", Used),
            ("watched_directory", Rejected("files are read once, but for `trust_bundles`")),
        ],
    ),
    (
        "envoy.config.core.v3.WatchedDirectory",
        &[("path", Used), ("watch_modify", Rejected("files must be moved into place"))],
    ),
    (
        "envoy.config.core.v3.Metadata",
        &[
            ("filter_metadata", Used),
            (
                "typed_filter_metadata",
                Ignored("none is read but `envoy.transport_sockets.proxy_protocol` of endpoints"),
            ),
        ],
    ),
    (
        "envoy.config.core.v3.TypedExtensionConfig",
        &[("name", Ignored("extensions are found by type, not by name")), ("typed_config", Used)],
    ),
    ("envoy.config.core.v3.RuntimeFractionalPercent", &[("default_value", Used), ("runtime_key", Used)]),
    ("envoy.config.core.v3.HttpUri", &[("uri", Used), ("cluster", Used), ("timeout", Used)]),
    ("envoy.config.core.v3.RuntimeFeatureFlag", &[("default_value", Used), ("runtime_key", Used)]),
    ("envoy.config.core.v3.RuntimeUInt64", &[("default_value", Used), ("runtime_key", Used)]),
    ("envoy.config.core.v3.RuntimePercent", &[("default_value", Used), ("runtime_key", Used)]),
    ("envoy.type.v3.HttpStatus", &[("code", Used)]),
    ("envoy.type.v3.Percent", &[("value", Used)]),
    ("envoy.type.v3.FractionalPercent", &[("numerator", Used), ("denominator", Used)]),
    ("envoy.type.v3.Int32Range", &[("start", Used), ("end", Used)]),
    ("envoy.type.v3.Int64Range", &[("start", Used), ("end", Used)]),
    ("envoy.type.v3.DoubleRange", &[("start", Used), ("end", Used)]),
    (
        "envoy.config.core.v3.ConfigSource",
        &[
            ("authorities", Rejected("xdstp names are not available")),
            ("path", Used),
            ("path_config_source", Used),
            ("api_config_source", Used),
            ("ads", Used),
            ("self", Rejected("is not available: name the source")),
            ("initial_fetch_timeout", Used),
            ("resource_api_version", Used),
        ],
    ),
    (
        "envoy.config.core.v3.PathConfigSource",
        &[
            ("path", Used),
            ("watched_directory", Used),
            ("poll_interval", Rejected("files are watched, not polled")),
        ],
    ),
    (
        "envoy.config.core.v3.ApiConfigSource",
        &[
            ("api_type", Used),
            ("transport_api_version", Used),
            ("cluster_names", Used),
            ("grpc_services", Used),
            ("refresh_delay", Used),
            ("request_timeout", Used),
            ("rate_limit_settings", Used),
            ("set_node_on_first_message_only", Used),
            ("config_validators", Rejected("validators are not available")),
        ],
    ),
    ("envoy.config.core.v3.AggregatedConfigSource", &[]),
    ("envoy.config.core.v3.RateLimitSettings", &[("max_tokens", Used), ("fill_rate", Used)]),
    (
        "envoy.config.core.v3.GrpcService",
        &[
            ("envoy_grpc", Used),
            ("google_grpc", Rejected("use envoy_grpc")),
            ("timeout", Used),
            ("initial_metadata", Used),
            ("retry_policy", Used),
        ],
    ),
    (
        "envoy.config.core.v3.GrpcService.EnvoyGrpc",
        &[
            ("cluster_name", Used),
            ("authority", Used),
            ("retry_policy", Rejected("it is of streams to a control plane: use that of the service")),
            ("max_receive_message_length", Used),
            ("skip_envoy_headers", Used),
        ],
    ),
];
