//! `listener.<address>`, `listener_manager`, the listener filters and `tcp.<stat_prefix>`.

crate::stats! {
    /// `listener.<address>`.
    pub sharded struct ListenerStats {
        /// Connections taken per wake-up of the socket.
        histogram connections_accepted_per_socket_event (Unspecified),
        /// Connections open.
        gauge downstream_cx_active,
        /// Connections closed.
        counter downstream_cx_destroy,
        /// Lifetime of a connection.
        histogram downstream_cx_length_ms (Milliseconds),
        /// Connections refused by the listener's limit.
        counter downstream_cx_overflow,
        /// Connections refused by overload.
        counter downstream_cx_overload_reject,
        /// Connections.
        counter downstream_cx_total,
        /// Connections closed by the transport socket's timeout.
        counter downstream_cx_transport_socket_connect_timeout,
        /// Connections refused by the process's limit.
        counter downstream_global_cx_overflow,
        /// Connections closed by a listener filter's error.
        counter downstream_listener_filter_error,
        /// Connections closed by the client while a listener filter looked.
        counter downstream_listener_filter_remote_close,
        /// Connections in the listener filters.
        gauge downstream_pre_cx_active,
        /// Connections that ran into the listener filter timeout.
        counter downstream_pre_cx_timeout,
        /// Connections that no filter chain matched.
        counter no_filter_chain_match,
    }

    /// `listener.<address>` of configured listeners (not of the admin's).
    pub sharded struct ListenerExtensionStats {
        /// Connections closed: a listener filter's configuration is missing.
        counter extension_config_missing,
        /// Connections closed: a network filter's configuration is missing.
        counter network_extension_config_missing,
    }

    /// `listener.<address>.worker_<n>` and `listener.<address>.main_thread`.
    pub sharded struct PerHandlerStats {
        /// Connections open.
        gauge downstream_cx_active,
        /// Connections.
        counter downstream_cx_total,
    }

    /// `listener_manager`.
    pub shared struct ListenerManagerStats {
        /// Listeners added.
        counter listener_added,
        /// Listeners that could not be bound.
        counter listener_create_failure,
        /// Listeners bound, per worker.
        counter listener_create_success,
        /// Listeners updated filter chain by filter chain.
        counter listener_in_place_updated,
        /// Listeners changed.
        counter listener_modified,
        /// Listeners removed.
        counter listener_removed,
        /// Listeners stopped.
        counter listener_stopped,
        /// Filter chains draining.
        gauge total_filter_chains_draining,
        /// Listeners serving.
        gauge total_listeners_active,
        /// Listeners draining.
        gauge total_listeners_draining,
        /// Listeners warming.
        gauge total_listeners_warming,
        /// Workers pinned to a processor.
        gauge workers_pinned,
        /// 1 once the workers serve.
        gauge workers_started,
    }

    /// `tls_inspector`.
    pub sharded struct TlsInspectorStats {
        /// ClientHellos with ALPN.
        counter alpn_found,
        /// ClientHellos without ALPN.
        counter alpn_not_found,
        /// Bytes looked at.
        histogram bytes_processed (Bytes),
        /// ClientHellos above the limit.
        counter client_hello_too_large,
        /// ClientHellos with a server name.
        counter sni_found,
        /// ClientHellos without a server name.
        counter sni_not_found,
        /// Connections with TLS.
        counter tls_found,
        /// Connections without TLS.
        counter tls_not_found,
    }

    /// `http_inspector`.
    pub sharded struct HttpInspectorStats {
        /// Connections with HTTP/1.0.
        counter http10_found,
        /// Connections with HTTP/1.1.
        counter http11_found,
        /// Connections with HTTP/2.
        counter http2_found,
        /// Connections with something else.
        counter http_not_found,
        /// Reads that failed.
        counter read_error,
    }

    /// `proxy_proto` (with the filter's `stat_prefix`: `proxy_proto.<prefix>`).
    pub sharded struct ProxyProtocolStats {
        /// Connections without the header, allowed.
        counter not_found_allowed,
        /// Connections without the header, refused.
        counter not_found_disallowed,
        /// Version 1 headers, refused.
        counter v1_disallowed = "versions.v1.disallowed",
        /// Version 1 headers with errors.
        counter v1_error = "versions.v1.error",
        /// Version 1 headers.
        counter v1_found = "versions.v1.found",
        /// Version 2 headers, refused.
        counter v2_disallowed = "versions.v2.disallowed",
        /// Version 2 headers with errors.
        counter v2_error = "versions.v2.error",
        /// Version 2 headers.
        counter v2_found = "versions.v2.found",
    }

    /// The root scope's `downstream_cx_proxy_proto_error`.
    pub sharded struct ProxyProtocolErrorStats {
        /// PROXY protocol errors.
        counter downstream_cx_proxy_proto_error,
    }

    /// `tcp.<stat_prefix>`.
    pub sharded struct TcpProxyStats {
        /// Connections closed by draining.
        counter downstream_cx_drain_close,
        /// Connections without a cluster.
        counter downstream_cx_no_route,
        /// Connections closed by overload.
        counter downstream_cx_overload_close,
        /// Bytes received and still buffered.
        gauge downstream_cx_rx_bytes_buffered,
        /// Bytes received.
        counter downstream_cx_rx_bytes_total,
        /// Connections.
        counter downstream_cx_total,
        /// Bytes waiting to be sent.
        gauge downstream_cx_tx_bytes_buffered,
        /// Bytes sent.
        counter downstream_cx_tx_bytes_total,
        /// Times flow control paused reads.
        counter downstream_flow_control_paused_reading_total,
        /// Times reads resumed.
        counter downstream_flow_control_resumed_reading_total,
        /// Connections with data before the upstream was ready.
        counter early_data_received_count_total,
        /// Connections closed as idle.
        counter idle_timeout,
        /// Connections closed at their maximum duration.
        counter max_downstream_connection_duration,
        /// Connections whose route was chosen later.
        counter route_delayed_total,
        /// Upstream connections that still send after the client left.
        gauge upstream_flush_active,
        /// Upstream connections that went on sending after the client left.
        counter upstream_flush_total,
    }

    /// `connection_limit.<stat_prefix>`.
    pub sharded struct ConnectionLimitStats {
        /// Connections open.
        gauge active_connections,
        /// Connections refused.
        counter limited_connections,
    }

    /// `local_rate_limit.<stat_prefix>`: the network filter.
    pub sharded struct LocalRateLimitStats {
        /// Connections refused.
        counter rate_limited,
    }
}
