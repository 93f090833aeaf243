//! `cluster.<name>`: what Envoy's "cluster manager statistics" document lists.

crate::stats! {
    /// `cluster.<name>`: connections, requests and load balancing.
    pub sharded struct ClusterTrafficStats {
        /// Upstream sockets that could not be bound to their source address.
        counter bind_errors,
        /// Picks in panic mode.
        counter lb_healthy_panic,
        /// Zone-aware picks without a usable local cluster.
        counter lb_local_cluster_not_ok,
        /// Recalculations of the zone-aware structures.
        counter lb_recalculate_zone_structures,
        /// Subsets.
        gauge lb_subsets_active,
        /// Subsets created.
        counter lb_subsets_created,
        /// Picks by the subset fallback policy.
        counter lb_subsets_fallback,
        /// Picks in the subset panic mode.
        counter lb_subsets_fallback_panic,
        /// Subsets removed.
        counter lb_subsets_removed,
        /// Picks from a subset.
        counter lb_subsets_selected,
        /// Picks without zone awareness: the cluster is too small.
        counter lb_zone_cluster_too_small,
        /// Zone picks that ended in a random zone by rounding.
        counter lb_zone_no_capacity_left,
        /// Picks sent to the own zone.
        counter lb_zone_routing_all_directly,
        /// Picks sent across zones.
        counter lb_zone_routing_cross_zone,
        /// Picks sent to the own zone by sampling.
        counter lb_zone_routing_sampled,
        /// Original destinations that were no valid host.
        counter original_dst_host_invalid,
        /// Retries or shadows given up because the buffer limit was reached.
        counter retry_or_shadow_abandoned,
        /// Connections open.
        gauge upstream_cx_active,
        /// Connections closed by `connection: close` or GOAWAY.
        counter upstream_cx_close_notify,
        /// TCP connection attempts that used up `max_connect_attempts`.
        counter upstream_cx_connect_attempts_exceeded,
        /// Connection failures.
        counter upstream_cx_connect_fail,
        /// Time to connect.
        histogram upstream_cx_connect_ms (Milliseconds),
        /// Connection timeouts.
        counter upstream_cx_connect_timeout,
        /// Connections that could send early data.
        counter upstream_cx_connect_with_0_rtt,
        /// Connections closed.
        counter upstream_cx_destroy,
        /// Connections closed by us.
        counter upstream_cx_destroy_local,
        /// Connections closed by us with requests on them.
        counter upstream_cx_destroy_local_with_active_rq,
        /// Connections closed by the host.
        counter upstream_cx_destroy_remote,
        /// Connections closed by the host with requests on them.
        counter upstream_cx_destroy_remote_with_active_rq,
        /// Connections closed with requests on them.
        counter upstream_cx_destroy_with_active_rq,
        /// HTTP/1 connections.
        counter upstream_cx_http1_total,
        /// HTTP/2 connections.
        counter upstream_cx_http2_total,
        /// HTTP/3 connections.
        counter upstream_cx_http3_total,
        /// Connections closed as idle.
        counter upstream_cx_idle_timeout,
        /// Lifetime of a connection.
        histogram upstream_cx_length_ms (Milliseconds),
        /// Connections closed at their maximum duration.
        counter upstream_cx_max_duration_reached,
        /// Connections closed at their maximum number of requests.
        counter upstream_cx_max_requests,
        /// Requests without a healthy host.
        counter upstream_cx_none_healthy,
        /// Times the connection breaker was open.
        counter upstream_cx_overflow,
        /// Times the pool breaker was open.
        counter upstream_cx_pool_overflow,
        /// Connections not made ahead of time, because of the rate limit or otherwise.
        counter upstream_cx_preconnect_skipped,
        /// Protocol errors.
        counter upstream_cx_protocol_error,
        /// Bytes received and still buffered.
        gauge upstream_cx_rx_bytes_buffered,
        /// Bytes received.
        counter upstream_cx_rx_bytes_total,
        /// Connections made.
        counter upstream_cx_total,
        /// Bytes waiting to be sent.
        gauge upstream_cx_tx_bytes_buffered,
        /// Bytes sent.
        counter upstream_cx_tx_bytes_total,
        /// Times the upstream connection backed up and paused downstream reads.
        counter upstream_flow_control_backed_up_total,
        /// Times it drained and downstream reads resumed.
        counter upstream_flow_control_drained_total,
        /// Times flow control paused upstream reads.
        counter upstream_flow_control_paused_reading_total,
        /// Times upstream reads resumed.
        counter upstream_flow_control_resumed_reading_total,
        /// Times HTTP/3 was marked broken.
        counter upstream_http3_broken,
        /// Redirects that could not be followed internally and went downstream.
        counter upstream_internal_redirect_failed_total,
        /// Redirects followed internally.
        counter upstream_internal_redirect_succeeded_total,
        /// 1 while the load shed point refuses pending requests.
        gauge upstream_queue_overloaded,
        /// Requests sent as early data.
        counter upstream_rq_0rtt,
        /// Requests in flight.
        gauge upstream_rq_active,
        /// Requests refused by the request breaker.
        counter upstream_rq_active_overflow,
        /// Requests given up before they had a connection.
        counter upstream_rq_cancelled,
        /// Requests answered 503 by maintenance mode.
        counter upstream_rq_maintenance_mode,
        /// Requests closed at their maximum duration.
        counter upstream_rq_max_duration_reached,
        /// Requests waiting for a connection.
        gauge upstream_rq_pending_active,
        /// Requests failed by a connection failure while waiting.
        counter upstream_rq_pending_failure_eject,
        /// Requests refused by a breaker.
        counter upstream_rq_pending_overflow,
        /// Requests that waited for a connection.
        counter upstream_rq_pending_total,
        /// Requests per connection.
        histogram upstream_rq_per_cx (Unspecified),
        /// Tries that reached the idle timeout.
        counter upstream_rq_per_try_idle_timeout,
        /// Tries that reached the timeout of one try.
        counter upstream_rq_per_try_timeout,
        /// Retries.
        counter upstream_rq_retry,
        /// Retries after an exponential backoff.
        counter upstream_rq_retry_backoff_exponential,
        /// Retries after the backoff that the host asked for.
        counter upstream_rq_retry_backoff_ratelimited,
        /// Requests not retried: too many retries.
        counter upstream_rq_retry_limit_exceeded,
        /// Requests not retried: the retry breaker was open.
        counter upstream_rq_retry_overflow,
        /// Retries that succeeded.
        counter upstream_rq_retry_success,
        /// Requests reset by the host.
        counter upstream_rq_rx_reset,
        /// Requests reset by the host with NO_ERROR.
        counter upstream_rq_rx_reset_no_error,
        /// Time of a request.
        histogram upstream_rq_time (Milliseconds) [on_demand],
        /// Requests that timed out.
        counter upstream_rq_timeout,
        /// Requests.
        counter upstream_rq_total,
        /// Requests reset by us.
        counter upstream_rq_tx_reset,
        /// Responses: `upstream_rq_<code>`, `upstream_rq_<n>xx`, `upstream_rq_completed`.
        codes upstream_rq,
        /// The same for requests of internal origin.
        codes internal_upstream_rq = "internal.upstream_rq" [on_demand],
        /// The same for requests of external origin.
        codes external_upstream_rq = "external.upstream_rq" [on_demand],
        /// The same for canary hosts.
        codes canary_upstream_rq = "canary.upstream_rq" [on_demand],
        /// The same for responses that the request was sent again for.
        codes retry_upstream_rq = "retry.upstream_rq" [on_demand],
        /// Time of a request of internal origin.
        histogram internal_upstream_rq_time = "internal.upstream_rq_time" (Milliseconds) [on_demand],
        /// Time of a request of external origin.
        histogram external_upstream_rq_time = "external.upstream_rq_time" (Milliseconds) [on_demand],
        /// Time of a request to a canary host.
        histogram canary_upstream_rq_time = "canary.upstream_rq_time" (Milliseconds) [on_demand],
    }

    /// `cluster.<name>`: membership and circuit breakers.
    pub shared struct ClusterStateStats {
        /// Endpoint assignments that outlived their TTL.
        counter assignment_stale,
        /// Endpoint assignments that came with a TTL.
        counter assignment_timeout_received,
        /// Endpoint assignments taken from the cache.
        counter assignment_use_cached,
        /// The connection breaker is open (0 or 1).
        gauge default_open_cx = "circuit_breakers.default.cx_open",
        /// The pool breaker is open.
        gauge default_open_cx_pool = "circuit_breakers.default.cx_pool_open",
        /// The request breaker is open.
        gauge default_open_rq = "circuit_breakers.default.rq_open",
        /// The pending request breaker is open.
        gauge default_open_rq_pending = "circuit_breakers.default.rq_pending_open",
        /// The retry breaker is open.
        gauge default_open_rq_retry = "circuit_breakers.default.rq_retry_open",
        /// The connection breaker of high priority is open.
        gauge high_open_cx = "circuit_breakers.high.cx_open",
        /// The pool breaker of high priority is open.
        gauge high_open_cx_pool = "circuit_breakers.high.cx_pool_open",
        /// The request breaker of high priority is open.
        gauge high_open_rq = "circuit_breakers.high.rq_open",
        /// The pending request breaker of high priority is open.
        gauge high_open_rq_pending = "circuit_breakers.high.rq_pending_open",
        /// The retry breaker of high priority is open.
        gauge high_open_rq_retry = "circuit_breakers.high.rq_retry_open",
        /// Hosts that have the default transport socket, once for each time that their endpoint came, and for each change of their metadata.
        counter default_total_match_count = "default.total_match_count",
        /// The greatest weight of a host.
        gauge max_host_weight,
        /// Membership changes.
        counter membership_change,
        /// Degraded hosts.
        gauge membership_degraded,
        /// Excluded hosts.
        gauge membership_excluded,
        /// Healthy hosts.
        gauge membership_healthy,
        /// Hosts.
        gauge membership_total,
        /// Attempts to update the membership.
        counter update_attempt,
        /// Updates without hosts.
        counter update_empty,
        /// Updates that failed.
        counter update_failure,
        /// Updates that changed nothing.
        counter update_no_rebuild,
        /// Updates that succeeded.
        counter update_success,
        /// Hash of the version of the last EDS update.
        gauge version,
        /// 1 while the cluster warms.
        gauge warming_state,
    }

    /// `cluster.<name>` of an EDS cluster: what its subscription counts besides the `update_*` and `version` of
    /// [`ClusterStateStats`].
    pub shared struct EdsStats {
        /// Times the initial fetch timed out.
        counter init_fetch_timeout,
        /// Time to apply an update.
        histogram update_duration (Milliseconds),
        /// Updates that were rejected.
        counter update_rejected,
        /// When the last update was applied: milliseconds since 1970.
        gauge update_time,
        /// The last accepted version.
        text version_text,
    }

    /// `cluster.<name>.<match>` of `transport_socket_matches`.
    pub shared struct TransportSocketMatchStats {
        /// Hosts that it was chosen for, once for each time that their endpoint came, and for each change of their metadata.
        counter total_match_count,
    }

    /// `cluster.<name>.upstream.proxyprotocol` of the PROXY protocol towards hosts.
    pub sharded struct UpstreamProxyProtocolStats {
        /// Headers from which TLVs were left out: there was no room for them.
        counter v2_tlvs_exceed_max_length,
    }

    /// `cluster.<name>.circuit_breakers.<priority>`: what is left, if `track_remaining` asks for it.
    pub shared struct CircuitBreakerRemainingStats {
        /// Connections left.
        gauge remaining_cx,
        /// Pools left.
        gauge remaining_cx_pools,
        /// Pending requests left.
        gauge remaining_pending,
        /// Retries left.
        gauge remaining_retries,
        /// Requests left.
        gauge remaining_rq,
    }

    /// `cluster.<name>`, if `track_cluster_stats.request_response_sizes` asks for it.
    pub sharded struct ClusterSizeStats {
        /// Size of request bodies.
        histogram upstream_rq_body_size (Bytes),
        /// Number of request headers.
        histogram upstream_rq_headers_count (Unspecified),
        /// Size of request headers.
        histogram upstream_rq_headers_size (Bytes),
        /// Size of response bodies.
        histogram upstream_rs_body_size (Bytes),
        /// Number of response headers.
        histogram upstream_rs_headers_count (Unspecified),
        /// Size of response headers.
        histogram upstream_rs_headers_size (Bytes),
    }

    /// `cluster.<name>`, if `track_cluster_stats.timeout_budgets` asks for it.
    pub sharded struct ClusterTimeoutBudgetStats {
        /// Share of the request's timeout that was used.
        histogram upstream_rq_timeout_budget_percent_used (Unspecified),
        /// Share of the try's timeout that was used.
        histogram upstream_rq_timeout_budget_per_try_percent_used (Unspecified),
    }

    /// `vhost.<virtual host>.vcluster.<virtual cluster>` and `vhost.<virtual host>.route.<stat_prefix>`.
    pub sharded struct RouteStats {
        /// Responses.
        codes upstream_rq [on_demand],
        /// Retries.
        counter upstream_rq_retry,
        /// Requests not retried: too many retries.
        counter upstream_rq_retry_limit_exceeded,
        /// Requests not retried: the retry breaker was open.
        counter upstream_rq_retry_overflow,
        /// Retries that succeeded.
        counter upstream_rq_retry_success,
        /// Time of a request.
        histogram upstream_rq_time (Milliseconds) [on_demand],
        /// Requests that timed out.
        counter upstream_rq_timeout,
        /// Requests.
        counter upstream_rq_total,
    }

    /// `cluster.<name>.ring_hash_lb`: the ring of the last priority.
    pub shared struct RingHashStats {
        /// Most places of one host.
        gauge max_hashes_per_host,
        /// Fewest places of one host.
        gauge min_hashes_per_host,
        /// Places.
        gauge size,
    }

    /// `cluster.<name>`: subsets of hosts, where there are any.
    pub shared struct SubsetStats {
        /// Hosts that were left out as their subset had its one host already.
        gauge lb_subsets_single_host_per_subset_duplicate,
    }

    /// `cluster.<name>.maglev_lb`: the table of the last priority.
    pub shared struct MaglevStats {
        /// Most entries of one host.
        gauge max_entries_per_host,
        /// Fewest entries of one host.
        gauge min_entries_per_host,
    }

    /// `cluster.<name>.health_check`, or `cluster.<name>.health_check.name.<check>` of a check with a name
    pub shared struct HealthCheckerStats {
        /// Checks begun.
        counter attempt,
        /// Hosts that say that they are degraded.
        gauge degraded,
        /// Checks that failed, and answers to requests that said that checks fail.
        counter failure,
        /// Hosts that are well.
        gauge healthy,
        /// Checks that failed for want of a connection or an answer.
        counter network_failure,
        /// Answers to requests that said that checks fail.
        counter passive_failure,
        /// Checks that passed.
        counter success,
        /// Checks whose answer was asked what service it is of.
        counter verify_cluster,
    }

    /// `cluster.<name>.health_check` of several checks together
    pub shared struct HealthChecksStats {
        /// Hosts of which a check says that they are degraded.
        gauge degraded,
        /// Hosts that all checks say are well.
        gauge healthy,
    }

    /// `cluster.<name>.lb_orca_oob`
    pub shared struct OrcaOobStats {
        /// Hosts that are asked for reports.
        gauge active_sessions,
        /// Reports that say nothing.
        counter report_errors,
        /// Reports that came.
        counter reports_received,
        /// Streams that ended, and are begun anew.
        counter stream_failures,
        /// Hosts that do not know the service.
        counter stream_terminated,
    }

    /// `cluster.<name>.outlier_detection`
    pub shared struct OutlierDetectionStats {
        /// Hosts that are ejected now.
        gauge ejections_active,
        /// The older name of `ejections_detected_consecutive_5xx`.
        counter ejections_consecutive_5xx,
        /// Hosts found for 5xx answers in a row.
        counter ejections_detected_consecutive_5xx,
        /// Hosts found for 502, 503 and 504 in a row.
        counter ejections_detected_consecutive_gateway_failure,
        /// Hosts found for local failures in a row.
        counter ejections_detected_consecutive_local_origin_failure,
        /// Hosts found to be degraded.
        counter ejections_detected_degradation,
        /// Hosts found for their share of failures.
        counter ejections_detected_failure_percentage,
        /// Hosts found for their share of local failures.
        counter ejections_detected_local_origin_failure_percentage,
        /// Hosts found for their success rate of connections.
        counter ejections_detected_local_origin_success_rate,
        /// Hosts found for their success rate.
        counter ejections_detected_success_rate,
        /// Hosts ejected for 5xx answers in a row.
        counter ejections_enforced_consecutive_5xx,
        /// Hosts ejected for 502, 503 and 504 in a row.
        counter ejections_enforced_consecutive_gateway_failure,
        /// Hosts ejected for local failures in a row.
        counter ejections_enforced_consecutive_local_origin_failure,
        /// Hosts ejected for their share of failures.
        counter ejections_enforced_failure_percentage,
        /// Hosts ejected for their share of local failures.
        counter ejections_enforced_local_origin_failure_percentage,
        /// Hosts ejected for their success rate of connections.
        counter ejections_enforced_local_origin_success_rate,
        /// Hosts ejected for their success rate.
        counter ejections_enforced_success_rate,
        /// Ejections.
        counter ejections_enforced_total,
        /// Hosts not ejected: `max_ejection_percent` were already.
        counter ejections_overflow,
        /// The older name of `ejections_detected_success_rate`, local ones included.
        counter ejections_success_rate,
        /// Ejections for 5xx answers in a row or for the success rate, enforced or not.
        counter ejections_total,
    }
}
