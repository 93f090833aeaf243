//! What becomes of each field of the configuration.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        &[
            ("grpc_service", Used),
            ("http_service", Used),
            ("transport_api_version", Used),
            ("failure_mode_allow", Used),
            ("failure_mode_allow_header_add", Used),
            ("with_request_body", Used),
            ("clear_route_cache", Used),
            ("clear_route_cache_headers", Used),
            ("status_on_error", Used),
            ("validate_mutations", Used),
            ("metadata_context_namespaces", Used),
            ("typed_metadata_context_namespaces", Ignored("nothing that is available sets typed metadata")),
            ("route_metadata_context_namespaces", Used),
            ("route_typed_metadata_context_namespaces", Rejected("typed metadata of routes is not kept")),
            ("filter_enabled", Used),
            ("filter_enabled_metadata", Used),
            ("deny_at_disable", Used),
            ("include_peer_certificate", Used),
            ("stat_prefix", Used),
            ("bootstrap_metadata_labels_key", Used),
            ("allowed_headers", Used),
            ("disallowed_headers", Used),
            ("include_tls_session", Used),
            ("charge_cluster_response_stats", Used),
            ("encode_raw_headers", Used),
            ("decoder_header_mutation_rules", Used),
            ("enable_dynamic_metadata_ingestion", Used),
            ("filter_metadata", Ignored("no log and no condition shows it, in Envoy neither")),
            ("emit_filter_state_stats", Used),
            ("max_denied_response_body_bytes", Used),
            ("enforce_response_header_limits", Used),
            ("shadow_mode", Used),
            (
                "emit_client_span",
                Ignored("calls of filters have no spans; the span of the request has their time in it"),
            ),
        ],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.BufferSettings",
        &[("max_request_bytes", Used), ("allow_partial_message", Used), ("pack_as_bytes", Used)],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.HttpService",
        &[
            ("server_uri", Used),
            ("path_prefix", Used),
            ("path_override", Used),
            ("authorization_request", Used),
            ("authorization_response", Used),
            ("retry_policy", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest",
        &[("allowed_headers", Used), ("headers_to_add", Used)],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse",
        &[
            ("allowed_upstream_headers", Used),
            ("allowed_upstream_headers_to_append", Used),
            ("allowed_client_headers", Used),
            ("allowed_client_headers_on_success", Used),
            ("dynamic_metadata_from_headers", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        &[("disabled", Used), ("check_settings", Used)],
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.CheckSettings",
        &[
            ("context_extensions", Used),
            ("disable_request_body_buffering", Used),
            ("with_request_body", Used),
            (
                "emit_client_span",
                Ignored("calls of filters have no spans; the span of the request has their time in it"),
            ),
            ("grpc_service", Used),
            ("http_service", Used),
        ],
    ),
    (
        "envoy.config.common.mutation_rules.v3.HeaderMutationRules",
        &[
            ("allow_all_routing", Used),
            ("allow_envoy", Used),
            ("disallow_system", Used),
            ("disallow_all", Used),
            ("allow_expression", Used),
            ("disallow_expression", Used),
            ("disallow_is_error", Used),
        ],
    ),
];
