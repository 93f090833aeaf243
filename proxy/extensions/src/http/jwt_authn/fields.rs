//! How the fields of the configuration of `jwt_authn` are used.

use proxy_core::config::{FieldUse, MessageFields};

use FieldUse::{Ignored, Used};

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        &[
            ("providers", Used),
            ("rules", Used),
            ("filter_state_rules", Used),
            ("bypass_cors_preflight", Used),
            ("requirement_map", Used),
            ("strip_failure_response", Used),
            ("stat_prefix", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
        &[
            ("issuer", Used),
            ("audiences", Used),
            ("subjects", Used),
            ("require_expiration", Used),
            ("max_lifetime", Used),
            ("remote_jwks", Used),
            ("local_jwks", Used),
            ("forward", Used),
            ("from_headers", Used),
            ("from_params", Used),
            ("from_cookies", Used),
            ("forward_payload_header", Used),
            ("pad_forward_payload_header", Used),
            ("payload_in_metadata", Used),
            ("normalize_payload_in_metadata", Used),
            ("header_in_metadata", Used),
            ("failed_status_in_metadata", Used),
            ("clock_skew_seconds", Used),
            ("jwt_cache_config", Used),
            ("claim_to_headers", Used),
            ("clear_route_cache", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks",
        &[("http_uri", Used), ("cache_duration", Used), ("async_fetch", Used), ("retry_policy", Used)],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch",
        &[
            ("fast_listener", Ignored("a listener begins at once; a request that needs keys waits for them")),
            ("failed_refetch_duration", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.ExtractOnlyWithoutValidation",
        &[("verification_status_header", Used)],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload",
        &[("space_delimited_claims", Used)],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtCacheConfig",
        &[("jwt_cache_size", Used), ("jwt_max_token_size", Used)],
    ),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtHeader", &[("name", Used), ("value_prefix", Used)]),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader",
        &[("header_name", Used), ("claim_name", Used), ("claim_path", Used)],
    ),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader.PathSegment", &[("key", Used)]),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences",
        &[("provider_name", Used), ("audiences", Used)],
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement",
        &[
            ("provider_name", Used),
            ("provider_and_audiences", Used),
            ("requires_any", Used),
            ("requires_all", Used),
            ("allow_missing_or_failed", Used),
            ("allow_missing", Used),
            ("extract_only_without_validation", Used),
        ],
    ),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList", &[("requirements", Used)]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList", &[("requirements", Used)]),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.RequirementRule",
        &[("match", Used), ("requires", Used), ("requirement_name", Used)],
    ),
    ("envoy.extensions.filters.http.jwt_authn.v3.FilterStateRule", &[("name", Used), ("requires", Used)]),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        &[("disabled", Used), ("requirement_name", Used)],
    ),
];
