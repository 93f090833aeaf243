//! What becomes of every field of the messages of access control.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

pub(super) const AUDIT: &str = "no audit logger is available";
const MACROS: &str = "comprehensions, which macros over lists become, are disabled, as in Envoy";
const OPTIONAL: &str = "optional values are not available";
const MESSAGES: &str = "messages cannot be made";
const TYPES: &str = "types are found out when an expression is evaluated";
pub(super) const MATCHER: &str =
    "no matcher extension is available: nothing here tells the address of a host in advance";

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.config.rbac.v3.RBAC", &[("action", Used), ("policies", Used), ("audit_logging_options", Used)]),
    (
        "envoy.config.rbac.v3.RBAC.AuditLoggingOptions",
        &[("audit_condition", Ignored("no logger is there to be told")), ("logger_configs", Used)],
    ),
    (
        "envoy.config.rbac.v3.RBAC.AuditLoggingOptions.AuditLoggerConfig",
        &[
            ("audit_logger", Ignored("none is available: one that is not optional is refused")),
            ("is_optional", Used),
        ],
    ),
    (
        "envoy.config.rbac.v3.Policy",
        &[
            ("permissions", Used),
            ("principals", Used),
            ("condition", Used),
            ("checked_condition", Used),
            ("cel_config", Used),
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
            ("custom", Used),
        ],
    ),
    (
        "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config",
        &[("san_matcher", Used), ("any_validated_client_certificate", Used)],
    ),
    ("envoy.config.rbac.v3.Principal.Set", &[("ids", Used)]),
    ("envoy.config.rbac.v3.Principal.Authenticated", &[("principal_name", Used)]),
    ("envoy.config.rbac.v3.Action", &[("name", Used), ("action", Used)]),
    ("envoy.config.rbac.v3.SourcedMetadata", &[("metadata_matcher", Used), ("metadata_source", Used)]),
    (
        "envoy.config.core.v3.CelExpressionConfig",
        &[
            ("enable_string_conversion", Used),
            ("enable_string_concat", Used),
            ("enable_string_functions", Used),
        ],
    ),
    (
        "google.api.expr.v1alpha1.CheckedExpr",
        &[
            ("reference_map", Ignored(TYPES)),
            ("type_map", Ignored(TYPES)),
            ("source_info", Ignored("it is about the text")),
            ("expr_version", Ignored("it is about who checked")),
            ("expr", Used),
        ],
    ),
    (
        "google.api.expr.v1alpha1.Expr",
        &[
            ("id", Ignored("it is about the text")),
            ("const_expr", Used),
            ("ident_expr", Used),
            ("select_expr", Used),
            ("call_expr", Used),
            ("list_expr", Used),
            ("struct_expr", Used),
            ("comprehension_expr", Rejected(MACROS)),
        ],
    ),
    (
        "google.api.expr.v1alpha1.Constant",
        &[
            ("null_value", Used),
            ("bool_value", Used),
            ("int64_value", Used),
            ("uint64_value", Used),
            ("double_value", Used),
            ("string_value", Used),
            ("bytes_value", Used),
            ("duration_value", Used),
            ("timestamp_value", Used),
        ],
    ),
    ("google.api.expr.v1alpha1.Expr.Ident", &[("name", Used)]),
    ("google.api.expr.v1alpha1.Expr.Select", &[("operand", Used), ("field", Used), ("test_only", Used)]),
    ("google.api.expr.v1alpha1.Expr.Call", &[("target", Used), ("function", Used), ("args", Used)]),
    (
        "google.api.expr.v1alpha1.Expr.CreateList",
        &[("elements", Used), ("optional_indices", Rejected(OPTIONAL))],
    ),
    (
        "google.api.expr.v1alpha1.Expr.CreateStruct",
        &[("message_name", Rejected(MESSAGES)), ("entries", Used)],
    ),
    (
        "google.api.expr.v1alpha1.Expr.CreateStruct.Entry",
        &[
            ("id", Ignored("it is about the text")),
            ("field_key", Rejected(MESSAGES)),
            ("map_key", Used),
            ("value", Used),
            ("optional_entry", Rejected(OPTIONAL)),
        ],
    ),
];
