//! What becomes of every field of the messages of access control.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

pub(super) const AUDIT: &str = "audit loggers are not available";
pub(super) const CONDITION: &str = "conditions in CEL are not available";
pub(super) const MATCHER: &str =
    "no matcher extension is available: nothing here tells the address of a host in advance";
pub(super) const CUSTOM: &str = "principal extensions are not available";

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.rbac.v3.RBAC",
        &[("action", Used), ("policies", Used), ("audit_logging_options", Rejected(AUDIT))],
    ),
    (
        "envoy.config.rbac.v3.Policy",
        &[
            ("permissions", Used),
            ("principals", Used),
            ("condition", Rejected(CONDITION)),
            ("checked_condition", Rejected(CONDITION)),
            ("cel_config", Ignored("it is about conditions, which are refused")),
        ],
    ),
    (
        "envoy.config.rbac.v3.Permission",
        &[
            ("and_rules", Used),
            ("or_rules", Used),
            ("any", Used),
            ("header", Used),
            ("url_path", Used),
            ("destination_ip", Used),
            ("destination_port", Used),
            ("destination_port_range", Used),
            ("metadata", Used),
            ("not_rule", Used),
            ("requested_server_name", Used),
            ("matcher", Rejected(MATCHER)),
            ("uri_template", Used),
            ("sourced_metadata", Used),
        ],
    ),
    ("envoy.config.rbac.v3.Permission.Set", &[("rules", Used)]),
    (
        "envoy.config.rbac.v3.Principal",
        &[
            ("and_ids", Used),
            ("or_ids", Used),
            ("any", Used),
            ("authenticated", Used),
            ("source_ip", Used),
            ("direct_remote_ip", Used),
            ("remote_ip", Used),
            ("header", Used),
            ("url_path", Used),
            ("metadata", Used),
            ("filter_state", Used),
            ("not_id", Used),
            ("sourced_metadata", Used),
            ("custom", Rejected(CUSTOM)),
        ],
    ),
    ("envoy.config.rbac.v3.Principal.Set", &[("ids", Used)]),
    ("envoy.config.rbac.v3.Principal.Authenticated", &[("principal_name", Used)]),
    ("envoy.config.rbac.v3.Action", &[("name", Used), ("action", Used)]),
    ("envoy.config.rbac.v3.SourcedMetadata", &[("metadata_matcher", Used), ("metadata_source", Used)]),
];
