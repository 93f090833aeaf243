//! What becomes of every field of a retry policy.

use crate::config::FieldUse::{Rejected, Used};
use crate::config::MessageFields;

pub(super) const NO_OPTIONS: &str = "there is no extension of this kind";

pub(super) const ANY_HOST: &str = "a call is made again to whichever host is picked";

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.route.v3.RetryPolicy",
        &[
            ("retry_on", Used),
            ("num_retries", Used),
            ("per_try_timeout", Used),
            ("per_try_idle_timeout", Used),
            ("retry_priority", Used),
            ("retry_host_predicate", Used),
            ("retry_options_predicates", Rejected(NO_OPTIONS)),
            ("host_selection_retry_max_attempts", Used),
            ("retriable_status_codes", Used),
            ("retry_back_off", Used),
            ("rate_limited_retry_back_off", Used),
            ("retriable_headers", Used),
            ("retriable_request_headers", Used),
            ("refresh_cluster_on_retry", Used),
        ],
    ),
    (
        "envoy.config.core.v3.RetryPolicy",
        &[
            ("retry_back_off", Used),
            ("num_retries", Used),
            ("retry_on", Used),
            ("retry_priority", Rejected(ANY_HOST)),
            ("retry_host_predicate", Rejected(ANY_HOST)),
            ("host_selection_retry_max_attempts", Rejected(ANY_HOST)),
        ],
    ),
    ("envoy.config.core.v3.BackoffStrategy", &[("base_interval", Used), ("max_interval", Used)]),
    ("envoy.config.route.v3.RetryPolicy.RetryPriority", &[("name", Used), ("typed_config", Used)]),
    ("envoy.config.route.v3.RetryPolicy.RetryHostPredicate", &[("name", Used), ("typed_config", Used)]),
    ("envoy.config.route.v3.RetryPolicy.RetryBackOff", &[("base_interval", Used), ("max_interval", Used)]),
    ("envoy.config.route.v3.RetryPolicy.ResetHeader", &[("name", Used), ("format", Used)]),
    (
        "envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff",
        &[("reset_headers", Used), ("max_interval", Used)],
    ),
    ("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]),
    ("envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate", &[]),
    ("envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig", &[("metadata_match", Used)]),
    (
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        &[("update_frequency", Used)],
    ),
];
