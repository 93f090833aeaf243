//! How the fields of the configuration are used.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::MessageFields;

/// The message.
pub const MESSAGE: &str = "stats.PluginConfig";
pub(super) const DEFINITIONS: &str = "metrics of one's own are not available";
const EXPIRY: &str = "Istio's own proxy does nothing by it any more";

/// How the fields of the messages are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("disable_host_header_fallback", Used),
            ("tcp_reporting_duration", Used),
            ("metrics", Used),
            ("definitions", Rejected(DEFINITIONS)),
            ("reporter", Used),
            ("rotation_interval", Ignored(EXPIRY)),
            ("graceful_deletion_interval", Ignored(EXPIRY)),
        ],
    ),
    (
        "stats.MetricConfig",
        &[
            ("dimensions", Used),
            ("name", Used),
            ("tags_to_remove", Used),
            ("match", Ignored("Istio's own proxy does not read it either")),
            ("drop", Used),
        ],
    ),
];
