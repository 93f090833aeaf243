//! What becomes of every field of the route configuration's messages.

use proxy_core::config::FieldUse::{self, Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

const NO_TYPED_RETRIES: FieldUse = Ignored("Envoy has no such extensions, and ignores it too");
const NO_SPECIFIERS: FieldUse = Rejected("route specifiers are not available");
const CORS_FILTER: FieldUse = Rejected("use typed_per_filter_config with envoy.filters.http.cors");

/// Fields by message: the route configuration and everything under it that has no other owner.
pub const FIELDS: &[MessageFields] = &[
    crate::upstream::mirror::FIELDS,
    ROUTE_CONFIGURATION,
    VIRTUAL_HOST,
    ROUTE,
    ("envoy.config.route.v3.RouteList", &[("routes", Used)]),
    ("envoy.config.route.v3.ClusterSpecifierPlugin", &[("extension", Used), ("is_optional", Used)]),
    (
        "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier",
        &[("cluster_matcher", Used)],
    ),
    ("envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction", &[("cluster", Used)]),
    (
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier",
        &[
            ("priority_groups", Used),
            ("override_metadata_namespace", Used),
            ("header_name", Used),
            ("use_hash_policy", Used),
        ],
    ),
    (
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroup",
        &[("name", Used), ("clusters", Used)],
    ),
    (
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.ClusterWeight",
        &[("cluster_name", Used), ("weight", Used)],
    ),
    ROUTE_MATCH,
    ROUTE_ACTION,
    ("envoy.config.route.v3.Decorator", &[("operation", Used), ("propagate", Used)]),
    (
        "envoy.config.route.v3.Tracing",
        &[
            ("client_sampling", Used),
            ("random_sampling", Used),
            ("overall_sampling", Used),
            ("custom_tags", Used),
            ("operation", Used),
            ("upstream_operation", Used),
        ],
    ),
    (
        "envoy.config.route.v3.HedgePolicy",
        &[
            ("initial_requests", Rejected(super::retries::NEITHER)),
            ("additional_request_chance", Rejected(super::retries::NEITHER)),
            ("hedge_on_per_try_timeout", Used),
        ],
    ),
    ("envoy.config.route.v3.RouteMatch.ConnectMatcher", &[]),
    ("envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions", &[]),
    ("envoy.config.route.v3.RouteMatch.TlsContextMatchOptions", &[("presented", Used), ("validated", Used)]),
    (
        "envoy.config.route.v3.RouteAction.UpgradeConfig",
        &[("upgrade_type", Used), ("enabled", Used), ("connect_config", Used)],
    ),
    (
        "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
        &[
            ("proxy_protocol_config", Rejected("the PROXY protocol for CONNECT payloads is not available")),
            ("allow_post", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RouteAction.MaxStreamDuration",
        &[
            ("max_stream_duration", Used),
            ("grpc_timeout_header_max", Used),
            ("grpc_timeout_header_offset", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RedirectAction",
        &[
            ("https_redirect", Used),
            ("scheme_redirect", Used),
            ("host_redirect", Used),
            ("port_redirect", Used),
            ("path_redirect", Used),
            ("prefix_rewrite", Used),
            ("regex_rewrite", Used),
            ("path_rewrite", Used),
            ("response_code", Used),
            ("strip_query", Used),
        ],
    ),
    (
        "envoy.config.route.v3.DirectResponseAction",
        &[("status", Used), ("body", Used), ("body_format", Used)],
    ),
    ("envoy.config.route.v3.NonForwardingAction", &[]),
    (
        "envoy.config.route.v3.WeightedCluster",
        &[
            ("clusters", Used),
            ("total_weight", Ignored("Envoy ignores it too: the sum of the weights counts")),
            ("runtime_key_prefix", Used),
            ("header_name", Used),
            ("use_hash_policy", Used),
        ],
    ),
    CLUSTER_WEIGHT,
    (
        "envoy.config.route.v3.RouteAction.HashPolicy",
        &[
            ("header", Used),
            ("cookie", Used),
            ("connection_properties", Used),
            ("query_parameter", Used),
            ("filter_state", Used),
            ("terminal", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RouteAction.HashPolicy.Header",
        &[("header_name", Used), ("regex_rewrite", Used)],
    ),
    (
        "envoy.config.route.v3.RouteAction.HashPolicy.Cookie",
        &[("name", Used), ("ttl", Used), ("path", Used), ("attributes", Used)],
    ),
    ("envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute", &[("name", Used), ("value", Used)]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties", &[("source_ip", Used)]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter", &[("name", Used)]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.FilterState", &[("key", Used)]),
    ("envoy.config.route.v3.VirtualCluster", &[("headers", Used), ("name", Used)]),
    HEADER_MATCHER,
    (
        "envoy.config.route.v3.QueryParameterMatcher",
        &[("name", Used), ("string_match", Used), ("present_match", Used)],
    ),
    (
        "envoy.config.route.v3.CookieMatcher",
        &[("name", Used), ("string_match", Used), ("invert_match", Used)],
    ),
    ("envoy.config.route.v3.FilterConfig", &[("config", Used), ("is_optional", Used), ("disabled", Used)]),
    (
        "envoy.config.core.v3.HeaderValueOption",
        &[("header", Used), ("append", Used), ("append_action", Used), ("keep_empty_value", Used)],
    ),
    ("envoy.config.core.v3.HeaderValue", &[("key", Used), ("value", Used), ("raw_value", Used)]),
    ("envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", &[("path_template", Used)]),
    (
        "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
        &[("path_template_rewrite", Used)],
    ),
];

const ROUTE_CONFIGURATION: MessageFields = (
    "envoy.config.route.v3.RouteConfiguration",
    &[
        ("name", Used),
        ("virtual_hosts", Used),
        ("vhds", Rejected("virtual host discovery is not available")),
        ("internal_only_headers", Used),
        ("response_headers_to_add", Used),
        ("response_headers_to_remove", Used),
        ("request_headers_to_add", Used),
        ("request_headers_to_remove", Used),
        ("most_specific_header_mutations_wins", Used),
        ("validate_clusters", Used),
        ("max_direct_response_body_size_bytes", Used),
        ("cluster_specifier_plugins", Used),
        ("request_mirror_policies", Used),
        ("ignore_port_in_host_matching", Used),
        ("vhost_header", Used),
        ("ignore_path_parameters_in_path_matching", Used),
        ("typed_per_filter_config", Used),
        ("metadata", Ignored("no part of a request reads the metadata of a route configuration")),
        ("route_specifiers", NO_SPECIFIERS),
    ],
);

const VIRTUAL_HOST: MessageFields = (
    "envoy.config.route.v3.VirtualHost",
    &[
        ("name", Used),
        ("domains", Used),
        ("routes", Used),
        ("matcher", Used),
        ("require_tls", Used),
        ("virtual_clusters", Used),
        ("rate_limits", Used),
        ("request_headers_to_add", Used),
        ("request_headers_to_remove", Used),
        ("response_headers_to_add", Used),
        ("response_headers_to_remove", Used),
        ("cors", CORS_FILTER),
        ("typed_per_filter_config", Used),
        ("include_request_attempt_count", Used),
        ("include_attempt_count_in_response", Used),
        ("retry_policy", Used),
        ("retry_policy_typed_config", NO_TYPED_RETRIES),
        ("hedge_policy", Used),
        ("include_is_timeout_retry_header", Used),
        ("per_request_buffer_limit_bytes", Used),
        ("request_body_buffer_limit", Used),
        ("request_mirror_policies", Used),
        ("metadata", Used),
        ("route_specifiers", NO_SPECIFIERS),
    ],
);

const ROUTE: MessageFields = (
    "envoy.config.route.v3.Route",
    &[
        ("name", Used),
        ("match", Used),
        ("route", Used),
        ("redirect", Used),
        ("direct_response", Used),
        ("filter_action", Rejected("filter actions are not available")),
        ("non_forwarding_action", Used),
        ("metadata", Used),
        ("decorator", Used),
        ("typed_per_filter_config", Used),
        ("request_headers_to_add", Used),
        ("request_headers_to_remove", Used),
        ("response_headers_to_add", Used),
        ("response_headers_to_remove", Used),
        ("tracing", Used),
        ("per_request_buffer_limit_bytes", Used),
        ("stat_prefix", Used),
        ("request_body_buffer_limit", Used),
        ("route_specifiers", NO_SPECIFIERS),
    ],
);

const ROUTE_MATCH: MessageFields = (
    "envoy.config.route.v3.RouteMatch",
    &[
        ("prefix", Used),
        ("path", Used),
        ("safe_regex", Used),
        ("connect_matcher", Used),
        ("path_separated_prefix", Used),
        ("path_match_policy", Used),
        ("case_sensitive", Used),
        ("runtime_fraction", Used),
        ("headers", Used),
        ("query_parameters", Used),
        ("cookies", Used),
        ("grpc", Used),
        ("tls_context", Used),
        ("dynamic_metadata", Used),
        ("filter_state", Used),
    ],
);

const ROUTE_ACTION: MessageFields = (
    "envoy.config.route.v3.RouteAction",
    &[
        ("cluster", Used),
        ("cluster_header", Used),
        ("weighted_clusters", Used),
        ("cluster_specifier_plugin", Used),
        ("inline_cluster_specifier_plugin", Used),
        ("cluster_not_found_response_code", Used),
        ("metadata_match", Used),
        ("prefix_rewrite", Used),
        ("regex_rewrite", Used),
        ("path_rewrite_policy", Used),
        ("path_rewrite", Used),
        ("host_rewrite_literal", Used),
        ("auto_host_rewrite", Used),
        ("host_rewrite_header", Used),
        ("host_rewrite_path_regex", Used),
        ("host_rewrite", Used),
        ("append_x_forwarded_host", Used),
        ("timeout", Used),
        ("idle_timeout", Used),
        ("flush_timeout", Used),
        ("early_data_policy", Rejected("early data is not available")),
        ("retry_policy", Used),
        ("retry_policy_typed_config", NO_TYPED_RETRIES),
        ("request_mirror_policies", Used),
        ("priority", Used),
        ("rate_limits", Used),
        ("include_vh_rate_limits", Used),
        ("hash_policy", Used),
        ("cors", CORS_FILTER),
        ("max_grpc_timeout", Used),
        ("grpc_timeout_offset", Used),
        ("upgrade_configs", Used),
        ("internal_redirect_policy", Used),
        ("internal_redirect_action", Used),
        ("max_internal_redirects", Used),
        ("hedge_policy", Used),
        ("max_stream_duration", Used),
    ],
);

const CLUSTER_WEIGHT: MessageFields = (
    "envoy.config.route.v3.WeightedCluster.ClusterWeight",
    &[
        ("name", Used),
        ("cluster_header", Used),
        ("weight", Used),
        ("metadata_match", Used),
        ("request_headers_to_add", Used),
        ("request_headers_to_remove", Used),
        ("response_headers_to_add", Used),
        ("response_headers_to_remove", Used),
        ("typed_per_filter_config", Used),
        ("host_rewrite_literal", Used),
    ],
);

const HEADER_MATCHER: MessageFields = (
    "envoy.config.route.v3.HeaderMatcher",
    &[
        ("name", Used),
        ("exact_match", Used),
        ("safe_regex_match", Used),
        ("range_match", Used),
        ("present_match", Used),
        ("prefix_match", Used),
        ("suffix_match", Used),
        ("contains_match", Used),
        ("string_match", Used),
        ("invert_match", Used),
        ("treat_missing_header_as_empty", Used),
    ],
);
