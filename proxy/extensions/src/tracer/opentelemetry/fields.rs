//! What becomes of each field of the configuration.

use proxy_core::config::FieldUse::{Rejected, Used};
use proxy_core::config::MessageFields;

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.trace.v3.OpenTelemetryConfig",
        &[
            ("grpc_service", Used),
            ("http_service", Used),
            ("exporter", Rejected("spans are sent over gRPC or HTTP")),
            ("service_name", Used),
            ("resource_detectors", Used),
            ("sampler", Used),
            ("max_cache_size", Used),
            ("set_telemetry_sdk_resource_attributes", Used),
            ("set_service_name_resource_attribute", Used),
            ("set_instrumentation_scope", Used),
        ],
    ),
    (
        "envoy.config.core.v3.HttpService",
        &[
            ("http_uri", Used),
            ("request_headers_to_add", Used),
            ("formatters", Rejected("formats have the commands that are always there")),
        ],
    ),
    ("envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig", &[]),
    (
        "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig",
        &[("attributes", Used)],
    ),
    ("envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig", &[]),
    (
        "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig",
        &[("wrapped_sampler", Used)],
    ),
    (
        "envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig",
        &[("sampling_percentage", Used)],
    ),
];
