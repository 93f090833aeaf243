//! What becomes of every field of a rate limit.

use crate::config::FieldUse::Used;
use crate::config::MessageFields;

pub(super) const NO_HITS: &str = "is heeded in rate limits of a filter only, as in Envoy, which passes over it in routes and virtual hosts";

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.route.v3.RateLimit",
        &[
            ("stage", Used),
            ("disable_key", Used),
            ("actions", Used),
            ("limit", Used),
            ("hits_addend", Used),
            ("apply_on_stream_done", Used),
            ("x_ratelimit_option", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action",
        &[
            ("source_cluster", Used),
            ("destination_cluster", Used),
            ("request_headers", Used),
            ("query_parameters", Used),
            ("remote_address", Used),
            ("generic_key", Used),
            ("header_value_match", Used),
            ("dynamic_metadata", Used),
            ("metadata", Used),
            ("extension", Used),
            ("masked_remote_address", Used),
            ("query_parameter_value_match", Used),
            ("remote_address_match", Used),
        ],
    ),
    ("envoy.config.route.v3.RateLimit.Action.SourceCluster", &[]),
    ("envoy.config.route.v3.RateLimit.Action.DestinationCluster", &[]),
    ("envoy.config.route.v3.RateLimit.Action.RemoteAddress", &[]),
    (
        "envoy.config.route.v3.RateLimit.Action.RequestHeaders",
        &[("header_name", Used), ("descriptor_key", Used), ("skip_if_absent", Used)],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.QueryParameters",
        &[("query_parameter_name", Used), ("descriptor_key", Used), ("skip_if_absent", Used)],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress",
        &[("v4_prefix_mask_len", Used), ("v6_prefix_mask_len", Used)],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.GenericKey",
        &[("descriptor_value", Used), ("default_value", Used), ("descriptor_key", Used)],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.HeaderValueMatch",
        &[
            ("descriptor_value", Used),
            ("default_value", Used),
            ("descriptor_key", Used),
            ("expect_match", Used),
            ("headers", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch",
        &[
            ("descriptor_value", Used),
            ("default_value", Used),
            ("descriptor_key", Used),
            ("expect_match", Used),
            ("query_parameters", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.RemoteAddressMatch",
        &[
            ("descriptor_value", Used),
            ("descriptor_key", Used),
            ("default_value", Used),
            ("address_matcher", Used),
        ],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.DynamicMetaData",
        &[("descriptor_key", Used), ("metadata_key", Used), ("default_value", Used)],
    ),
    (
        "envoy.config.route.v3.RateLimit.Action.MetaData",
        &[
            ("descriptor_key", Used),
            ("metadata_key", Used),
            ("default_value", Used),
            ("source", Used),
            ("skip_if_absent", Used),
        ],
    ),
    ("envoy.config.route.v3.RateLimit.Override", &[("dynamic_metadata", Used), ("rate_limit", Used)]),
    (
        "envoy.config.route.v3.RateLimit.Override.RateLimitOverride",
        &[("requests_per_unit", Used), ("unit", Used)],
    ),
    ("envoy.config.route.v3.RateLimit.Override.DynamicMetadata", &[("metadata_key", Used)]),
    (
        "envoy.config.route.v3.RateLimit.HitsAddend",
        &[("number", Used), ("format", Used), ("is_negative_hits", Used)],
    ),
    (
        "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor",
        &[("descriptor_key", Used), ("skip_if_error", Used), ("text", Used), ("parsed", Used)],
    ),
    (
        "envoy.extensions.rate_limit_descriptors.jwt_claim.v3.Descriptor",
        &[
            ("descriptor_key", Used),
            ("header_name", Used),
            ("cookie", Used),
            ("value_prefix", Used),
            ("claim_name", Used),
            ("default_value", Used),
            ("skip_if_absent", Used),
        ],
    ),
];
