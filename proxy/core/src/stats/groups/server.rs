//! `server`, `cluster_manager`, `runtime`, xDS, DNS, files and watchdogs.

crate::stats! {
    /// `server`.
    pub shared struct ServerStats {
        /// 1 when built for FIPS.
        gauge fips_mode = "compilation_settings.fips_mode",
        /// Workers.
        gauge concurrency,
        /// Days until the first certificate expires.
        gauge days_until_first_cert_expiring,
        /// Failed debug assertions.
        counter debug_assertion_failures,
        /// Flushes skipped because the last one was not done.
        counter dropped_stat_flushes,
        /// Unknown fields in dynamic configuration.
        counter dynamic_unknown_fields,
        /// Fields in dynamic configuration that have no effect here, each counted once; ours, not Envoy's.
        counter dynamic_ignored_fields,
        /// Failed checks that should never fail.
        counter envoy_bug_failures,
        /// Notable events that are no errors.
        counter envoy_notifications,
        /// Epoch of this process.
        gauge hot_restart_epoch,
        /// Time until the server served.
        histogram initialization_time_ms (Milliseconds),
        /// 1 unless the server drains.
        gauge live,
        /// Bytes allocated.
        gauge memory_allocated,
        /// Bytes of heap.
        gauge memory_heap_size,
        /// Bytes resident.
        gauge memory_physical_size,
        /// Connections of the parent process.
        gauge parent_connections,
        /// Seconds until the first OCSP response expires.
        gauge seconds_until_first_ocsp_response_expiring,
        /// 0 live, 1 draining, 2 before initialising, 3 initialising.
        gauge state,
        /// Unknown fields in the bootstrap.
        counter static_unknown_fields,
        /// Fields in the bootstrap that have no effect here, each counted once; ours, not Envoy's.
        counter static_ignored_fields,
        /// Names looked up lately; stays 0: names are not looked up.
        gauge stats_recent_lookups,
        /// Connections of this process and its parent.
        gauge total_connections,
        /// Seconds since the start.
        gauge uptime,
        /// First three bytes of the version's hash.
        gauge version,
        /// Work-in-progress messages in use.
        counter wip_protos,
    }

    /// `server.dispatcher` and `listener_manager.worker_<n>.dispatcher`.
    pub shared struct DispatcherStats {
        /// Time between two waits of the loop.
        histogram loop_duration_us (Microseconds),
        /// How late the loop came back.
        histogram poll_delay_us (Microseconds),
    }

    /// `main_thread`, `workers`, `server.main_thread` and `server.worker_<n>`.
    pub shared struct WatchdogStats {
        /// Threads that answered much too late.
        counter watchdog_mega_miss,
        /// Threads that answered late.
        counter watchdog_miss,
    }

    /// `cluster_manager`.
    pub shared struct ClusterManagerStats {
        /// Clusters.
        gauge active_clusters,
        /// Clusters added.
        counter cluster_added,
        /// Clusters changed.
        counter cluster_modified,
        /// Clusters removed.
        counter cluster_removed,
        /// Membership updates.
        counter cluster_updated,
        /// Membership updates that were merged.
        counter cluster_updated_via_merge,
        /// Merged updates that were cancelled.
        counter update_merge_cancelled,
        /// Updates outside the merge window.
        counter update_out_of_merge_window,
        /// Clusters warming.
        gauge warming_clusters,
    }

    /// `thread_local_cluster_manager.main_thread` and `.worker_<n>`.
    pub shared struct ThreadLocalClusterManagerStats {
        /// Clusters that the thread holds.
        gauge clusters_inflated,
    }

    /// `runtime`.
    pub shared struct RuntimeStats {
        /// 1 when the admin layer has values.
        gauge admin_overrides_active,
        /// Deprecated features seen.
        gauge deprecated_feature_seen_since_process_start,
        /// Uses of deprecated features.
        counter deprecated_feature_use,
        /// Layers that could not be loaded.
        counter load_error,
        /// Layers loaded.
        counter load_success,
        /// Keys.
        gauge num_keys,
        /// Layers.
        gauge num_layers,
        /// Layers with an override directory.
        counter override_dir_exists,
        /// Layers without an override directory.
        counter override_dir_not_exists,
    }

    /// One subscription: `cluster_manager.cds`, `listener_manager.lds`, `http.<p>.rds.<route>`, ...; for EDS see [`EdsStats`](super::EdsStats).
    pub shared struct XdsStats {
        /// Hash of the last accepted version.
        gauge version,
        /// The last accepted version.
        text version_text,
        /// Times the initial fetch timed out.
        counter init_fetch_timeout,
        /// Fetches begun.
        counter update_attempt,
        /// Time to apply an update.
        histogram update_duration (Milliseconds),
        /// Fetches that failed.
        counter update_failure,
        /// Updates that were rejected.
        counter update_rejected,
        /// Updates that were applied.
        counter update_success,
        /// When the last update was applied: milliseconds since 1970.
        gauge update_time,
    }

    /// What `cluster_manager.cds` and `http.<p>.rds.<route>` count besides [`XdsStats`].
    pub shared struct ConfigReloadStats {
        /// Configurations that replaced another.
        counter config_reload,
        /// When the last one did: milliseconds since 1970.
        gauge config_reload_time_ms,
    }

    /// What `http.<p>.rds.<route>` counts besides [`XdsStats`] and [`ConfigReloadStats`].
    pub shared struct RdsStats {
        /// Updates without the route configuration.
        counter update_empty,
    }

    /// `control_plane`.
    pub shared struct ControlPlaneStats {
        /// 1 while connected.
        gauge connected_state,
        /// Who answers.
        text identifier,
        /// Requests held back by the rate limit.
        gauge pending_requests,
        /// Times the rate limit held a request back.
        counter rate_limit_enforced,
    }

    /// `dns.cares`: the resolver (the name is Envoy's resolver library).
    pub shared struct CaresStats {
        /// Resolutions that failed.
        counter get_addr_failure,
        /// Names without addresses.
        counter not_found,
        /// Resolutions in flight.
        gauge pending_resolutions,
        /// Times the resolver was set up anew.
        counter reinits,
        /// Resolutions.
        counter resolve_total,
        /// Queries that timed out.
        counter timeouts,
    }

    /// `dns_cache.<name>`: names that requests want to go to.
    pub shared struct DnsCacheStats {
        /// Hosts that a store had kept; stays 0: there are no stores.
        counter cache_load,
        /// Addresses that are not gone to (`resolved_address_filter`).
        counter dns_address_filter_out,
        /// Queries.
        counter dns_query_attempt,
        /// Queries that failed.
        counter dns_query_failure,
        /// Queries that were answered.
        counter dns_query_success,
        /// Queries that took too long.
        counter dns_query_timeout,
        /// Requests that were refused because too many wait.
        counter dns_rq_pending_overflow,
        /// Hosts that came.
        counter host_added,
        /// Answers with other addresses than before.
        counter host_address_changed,
        /// Hosts that were refused because there are too many.
        counter host_overflow,
        /// Hosts that were forgotten.
        counter host_removed,
        /// Hosts.
        gauge num_hosts,
    }

    /// `dns_cache.<name>.circuit_breakers`.
    pub shared struct DnsCacheBreakerStats {
        /// 1 while no more requests may wait.
        gauge rq_pending_open,
        /// How many more may.
        gauge rq_pending_remaining,
    }

    /// `filesystem`: access log files.
    pub shared struct FilesystemStats {
        /// Flushes by the timer.
        counter flushed_by_timer,
        /// Files that could not be reopened.
        counter reopen_failed,
        /// Writes that were buffered.
        counter write_buffered,
        /// Writes that were done.
        counter write_completed,
        /// Writes that failed.
        counter write_failed,
        /// Bytes that wait to be written.
        gauge write_total_buffered,
    }

    /// `overload`.
    pub shared struct OverloadStats {
        /// How late the overload monitors were read.
        histogram refresh_interval_delay (Milliseconds),
    }

    /// `overload.<resource monitor>`.
    pub shared struct ResourceMonitorStats {
        /// Measurements that failed.
        counter failed_updates,
        /// Percent of the resource in use; 0 for one that is counted as it is taken.
        gauge pressure,
    }

    /// `overload.<resource monitor>`, of those that are looked at.
    pub shared struct MeasuredResourceStats {
        /// Measurements that were left out because the one before was not done; none ever is.
        counter skipped_updates,
    }

    /// `overload.<action>`.
    pub shared struct OverloadActionStats {
        /// 1 where all of it is done.
        gauge active,
        /// Percent of it that are done.
        gauge scale_percent,
    }

    /// `overload.envoy.overload_actions.shrink_heap`.
    pub shared struct ShrinkHeapStats {
        /// How often memory was given back.
        counter shrink_count,
    }

    /// `overload.<load shed point>`.
    pub shared struct LoadShedPointStats {
        /// Percent that are shed.
        gauge scale_percent,
        /// What was shed.
        counter shed_load_count,
    }

    /// `envoy.overload_actions.reset_high_memory_stream`.
    pub shared struct HighMemoryStreamStats {
        /// Streams reset.
        counter count,
    }

    /// `hds_delegate`
    pub shared struct HdsDelegateStats {
        /// Streams that ended or could not be opened, and what could not be taken of what services said.
        counter errors,
        /// What services said.
        counter requests,
        /// What was sent: how each stream began, and reports.
        counter responses,
        /// What services said that was news.
        counter updates,
    }
}
