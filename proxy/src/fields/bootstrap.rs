//! What becomes of every field of the bootstrap's own messages.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::{FieldUse, MessageFields};

const WATCHDOG: FieldUse =
    Ignored("stuck threads are counted with Envoy's default limits, and never end the process");

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.bootstrap.v3.Bootstrap",
        &[
            ("node", Used),
            ("node_context_params", Rejected("xdstp names are not available")),
            ("static_resources", Used),
            ("dynamic_resources", Used),
            ("cluster_manager", Used),
            ("hds_config", Used),
            ("flags_path", Ignored("files with flags are not read")),
            ("stats_sinks", Used),
            ("deferred_stat_options", Ignored("statistics are always made at once")),
            ("stats_config", Used),
            ("stats_flush_interval", Used),
            ("stats_flush_on_admin", Used),
            ("stats_eviction_interval", Ignored("statistics are kept")),
            ("watchdog", WATCHDOG),
            ("watchdogs", WATCHDOG),
            ("tracing", Used),
            ("layered_runtime", Used),
            ("admin", Used),
            ("overload_manager", Used),
            ("enable_dispatcher_stats", Used),
            ("header_prefix", Used),
            ("stats_server_version_override", Used),
            ("use_tcp_for_dns_lookups", Used),
            ("dns_resolution_config", Used),
            ("typed_dns_resolver_config", Used),
            ("bootstrap_extensions", Used),
            ("fatal_actions", Rejected("not available")),
            ("config_sources", Rejected("xdstp names are not available")),
            ("default_config_source", Rejected("xdstp names are not available")),
            ("default_socket_interface", Rejected("there is one socket interface")),
            ("certificate_provider_instances", Rejected("certificate providers are not available")),
            ("inline_headers", Ignored("every header is found in one way")),
            ("perf_tracing_file_path", Rejected("not available")),
            ("default_regex_engine", Used),
            ("xds_delegate_extension", Rejected("not available")),
            ("xds_config_tracker_extension", Rejected("not available")),
            ("listener_manager", Rejected("there is one listener manager")),
            ("application_log_config", Used),
            (
                "grpc_async_client_manager_config",
                Ignored("streams of xDS are kept for as long as they are needed"),
            ),
            ("memory_allocator_manager", Ignored("tunes an allocator that is not used here")),
            ("enable_worker_cpu_affinity", Rejected("not available")),
        ],
    ),
    ("envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig", &[("log_format", Used)]),
    (
        "envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig.LogFormat",
        &[("json_format", Used), ("text_format", Used)],
    ),
    (
        "envoy.config.overload.v3.OverloadManager",
        &[
            ("refresh_interval", Used),
            ("resource_monitors", Used),
            ("actions", Used),
            ("loadshed_points", Used),
            ("buffer_factory_config", Used),
        ],
    ),
    ("envoy.config.overload.v3.BufferFactoryConfig", &[("minimum_account_to_track_power_of_two", Used)]),
    ("envoy.config.overload.v3.ResourceMonitor", &[("name", Used), ("typed_config", Used)]),
    (
        "envoy.config.overload.v3.OverloadAction",
        &[("name", Used), ("triggers", Used), ("typed_config", Used)],
    ),
    ("envoy.config.overload.v3.LoadShedPoint", &[("name", Used), ("triggers", Used)]),
    ("envoy.config.overload.v3.Trigger", &[("name", Used), ("threshold", Used), ("scaled", Used)]),
    ("envoy.config.overload.v3.ThresholdTrigger", &[("value", Used)]),
    (
        "envoy.config.overload.v3.ScaledTrigger",
        &[("scaling_threshold", Used), ("saturation_threshold", Used)],
    ),
    (
        "envoy.config.overload.v3.ShrinkHeapConfig",
        &[
            ("timer_interval", Used),
            (
                "max_unfreed_memory_bytes",
                Ignored("all that is free is given back, which is never too little"),
            ),
        ],
    ),
    ("envoy.config.overload.v3.ScaleTimersOverloadActionConfig", &[("timer_scale_factors", Used)]),
    (
        "envoy.config.overload.v3.ScaleTimersOverloadActionConfig.ScaleTimer",
        &[("timer", Used), ("min_timeout", Used), ("min_scale", Used)],
    ),
    (
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        &[("max_heap_size_bytes", Used), ("max_heap_size_bytes_runtime", Used)],
    ),
    ("envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig", &[("max_memory_bytes", Used)]),
    ("envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig", &[("mode", Used)]),
    ("envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig", &[("filename", Used)]),
    (
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        &[("max_active_downstream_connections", Used)],
    ),
    (
        "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        &[("buffer_size_kb", Ignored("sizes the buffers of internal listeners, which are refused"))],
    ),
    ("envoy.extensions.regex_engines.v3.GoogleRE2", &[]),
    (
        "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        &[("listeners", Used), ("clusters", Used), ("secrets", Used)],
    ),
    (
        "envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
        &[
            ("lds_config", Used),
            ("lds_resources_locator", Rejected("xdstp names are not available")),
            ("cds_config", Used),
            ("cds_resources_locator", Rejected("xdstp names are not available")),
            ("ads_config", Used),
        ],
    ),
    (
        "envoy.config.bootstrap.v3.Admin",
        &[
            ("access_log", Used),
            ("access_log_path", Used),
            ("profile_path", Ignored("no profile is ever written")),
            ("address", Used),
            ("socket_options", Rejected("not available for the admin interface")),
            ("ignore_global_conn_limit", Ignored("the admin interface is never subject to the limit")),
            ("allow_paths", Used),
        ],
    ),
    ("envoy.config.bootstrap.v3.LayeredRuntime", &[("layers", Used)]),
    (
        "envoy.config.bootstrap.v3.RuntimeLayer",
        &[
            ("name", Used),
            ("static_layer", Used),
            (
                "disk_layer",
                Rejected("not built; use a static layer, and `POST /runtime_modify` with an admin layer"),
            ),
            ("admin_layer", Used),
            (
                "rtds_layer",
                Rejected("not built; use a static layer, and `POST /runtime_modify` with an admin layer"),
            ),
        ],
    ),
    ("envoy.config.bootstrap.v3.RuntimeLayer.AdminLayer", &[]),
    (
        "envoy.config.bootstrap.v3.ClusterManager",
        &[
            ("local_cluster_name", Used),
            ("outlier_detection", Used),
            ("upstream_bind_config", Used),
            ("load_stats_config", Ignored("no load reports are sent; traffic is as without")),
            ("enable_deferred_cluster_creation", Ignored("clusters are made at once")),
        ],
    ),
    (
        "envoy.config.bootstrap.v3.ClusterManager.OutlierDetection",
        &[("event_log_path", Used), ("event_service", Ignored("Envoy sends events to nobody either"))],
    ),
    (
        "envoy.config.core.v3.Node",
        &[
            ("id", Used),
            ("cluster", Used),
            ("metadata", Used),
            ("dynamic_parameters", Rejected("xdstp names are not available")),
            ("locality", Used),
            ("user_agent_name", Used),
            ("user_agent_version", Used),
            ("user_agent_build_version", Used),
            ("extensions", Used),
            ("client_features", Used),
            ("listening_addresses", Rejected("not available")),
        ],
    ),
    ("envoy.config.core.v3.BuildVersion", &[("version", Used), ("metadata", Used)]),
    (
        "envoy.config.core.v3.Extension",
        &[
            ("name", Used),
            ("category", Used),
            ("type_descriptor", Used),
            ("version", Used),
            ("disabled", Used),
            ("type_urls", Used),
        ],
    ),
    ("envoy.type.v3.SemanticVersion", &[("major_number", Used), ("minor_number", Used), ("patch", Used)]),
    ("envoy.config.metrics.v3.StatsSink", &[("name", Used), ("typed_config", Used)]),
    (
        "envoy.config.metrics.v3.StatsConfig",
        &[
            ("stats_tags", Used),
            ("use_all_default_tags", Used),
            ("stats_matcher", Used),
            ("histogram_bucket_settings", Used),
            ("allow_default_tag_overrides", Used),
        ],
    ),
    (
        "envoy.config.metrics.v3.StatsMatcher",
        &[("reject_all", Used), ("exclusion_list", Used), ("inclusion_list", Used)],
    ),
    ("envoy.config.metrics.v3.TagSpecifier", &[("tag_name", Used), ("regex", Used), ("fixed_value", Used)]),
    (
        "envoy.config.metrics.v3.HistogramBucketSettings",
        &[
            ("match", Used),
            ("buckets", Used),
            ("bins", Ignored("concerns native histograms of Prometheus, which are not written")),
        ],
    ),
    ("envoy.type.matcher.v3.ListStringMatcher", &[("patterns", Used)]),
];
