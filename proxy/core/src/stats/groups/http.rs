//! `http.<stat_prefix>`, the codecs, and what the connection manager and the router count.

crate::stats! {
    /// `http.<stat_prefix>`: the connection manager.
    pub sharded struct HttpStats {
        /// Connections open.
        gauge downstream_cx_active,
        /// Connections closed by the delayed close timeout.
        counter downstream_cx_delayed_close_timeout,
        /// Connections closed.
        counter downstream_cx_destroy,
        /// Connections closed with requests on them.
        counter downstream_cx_destroy_active_rq,
        /// Connections closed by us.
        counter downstream_cx_destroy_local,
        /// Connections closed by us with requests on them.
        counter downstream_cx_destroy_local_active_rq,
        /// Connections closed by the client.
        counter downstream_cx_destroy_remote,
        /// Connections closed by the client with requests on them.
        counter downstream_cx_destroy_remote_active_rq,
        /// Connections closed by draining.
        counter downstream_cx_drain_close,
        /// HTTP/1 connections open.
        gauge downstream_cx_http1_active,
        /// HTTP/1 connections that are open but were told `connection: close`.
        gauge downstream_cx_http1_soft_drain,
        /// HTTP/1 connections.
        counter downstream_cx_http1_total,
        /// HTTP/2 connections open.
        gauge downstream_cx_http2_active,
        /// HTTP/2 connections.
        counter downstream_cx_http2_total,
        /// HTTP/3 connections open.
        gauge downstream_cx_http3_active,
        /// HTTP/3 connections.
        counter downstream_cx_http3_total,
        /// Connections closed as idle.
        counter downstream_cx_idle_timeout,
        /// Lifetime of a connection.
        histogram downstream_cx_length_ms (Milliseconds),
        /// Connections closed at their maximum duration.
        counter downstream_cx_max_duration_reached,
        /// Connections closed at their maximum number of requests.
        counter downstream_cx_max_requests_reached,
        /// Connections closed because overload disabled keep-alive.
        counter downstream_cx_overload_disable_keepalive,
        /// Protocol errors.
        counter downstream_cx_protocol_error,
        /// Bytes received and still buffered.
        gauge downstream_cx_rx_bytes_buffered,
        /// Bytes received.
        counter downstream_cx_rx_bytes_total,
        /// TLS connections open.
        gauge downstream_cx_ssl_active,
        /// TLS connections.
        counter downstream_cx_ssl_total,
        /// Connections.
        counter downstream_cx_total,
        /// Bytes waiting to be sent.
        gauge downstream_cx_tx_bytes_buffered,
        /// Bytes sent.
        counter downstream_cx_tx_bytes_total,
        /// Upgraded connections open; CONNECT included.
        gauge downstream_cx_upgrades_active,
        /// Upgraded connections; CONNECT included.
        counter downstream_cx_upgrades_total,
        /// Times flow control paused reads.
        counter downstream_flow_control_paused_reading_total,
        /// Times reads resumed.
        counter downstream_flow_control_resumed_reading_total,
        /// Responses 1xx.
        counter downstream_rq_1xx,
        /// Responses 2xx.
        counter downstream_rq_2xx,
        /// Responses 3xx.
        counter downstream_rq_3xx,
        /// Responses 4xx.
        counter downstream_rq_4xx,
        /// Responses 5xx.
        counter downstream_rq_5xx,
        /// Requests in flight.
        gauge downstream_rq_active,
        /// Responses.
        counter downstream_rq_completed,
        /// Requests refused by path normalisation.
        counter downstream_rq_failed_path_normalization,
        /// Requests whose headers took too long.
        counter downstream_rq_header_timeout,
        /// HTTP/1 requests.
        counter downstream_rq_http1_total,
        /// HTTP/2 requests.
        counter downstream_rq_http2_total,
        /// HTTP/3 requests.
        counter downstream_rq_http3_total,
        /// Requests that were idle for too long.
        counter downstream_rq_idle_timeout,
        /// Requests closed at their maximum duration.
        counter downstream_rq_max_duration_reached,
        /// Requests refused for an absolute path.
        counter downstream_rq_non_relative_path,
        /// Requests refused by overload.
        counter downstream_rq_overload_close,
        /// Requests redirected to their normalised path.
        counter downstream_rq_redirected_with_normalized_path,
        /// Requests refused by original IP detection.
        counter downstream_rq_rejected_via_ip_detection,
        /// Responses that were complete before the request.
        counter downstream_rq_response_before_rq_complete,
        /// Requests reset by the client.
        counter downstream_rq_rx_reset,
        /// Time of a request.
        histogram downstream_rq_time (Milliseconds),
        /// Requests that reached the request timeout.
        counter downstream_rq_timeout,
        /// Requests refused as too large.
        counter downstream_rq_too_large,
        /// Connections closed for too many early resets.
        counter downstream_rq_too_many_premature_resets,
        /// Requests.
        counter downstream_rq_total,
        /// Requests reset by us.
        counter downstream_rq_tx_reset,
        /// Upgrades refused by the route.
        counter downstream_rq_ws_on_non_ws_route,
        /// Responses answered 500: too large for a buffering filter.
        counter rs_too_large,
    }

    /// `http.<stat_prefix>`: the router filter; also `http.async-client`.
    pub sharded struct RouterStats {
        /// Requests whose cluster does not exist.
        counter no_cluster,
        /// Requests without a route.
        counter no_route,
        /// Internal redirects not followed: bad location.
        counter passthrough_internal_redirect_bad_location,
        /// Internal redirects not followed: no route.
        counter passthrough_internal_redirect_no_route,
        /// Internal redirects not followed: a predicate refused.
        counter passthrough_internal_redirect_predicate,
        /// Internal redirects not followed: too many.
        counter passthrough_internal_redirect_too_many_redirects,
        /// Internal redirects not followed: scheme.
        counter passthrough_internal_redirect_unsafe_scheme,
        /// Direct responses.
        counter rq_direct_response,
        /// Requests answered locally because of overload.
        counter rq_overload_local_reply,
        /// Redirects.
        counter rq_redirect,
        /// Requests reset after the response had begun.
        counter rq_reset_after_downstream_response_started,
        /// Requests.
        counter rq_total,
    }

    /// `http.<stat_prefix>.tracing`, if tracing is configured.
    pub sharded struct TracingStats {
        /// Traced because the client asked.
        counter client_enabled,
        /// Not traced: health check.
        counter health_check,
        /// Not traced.
        counter not_traceable,
        /// Traced by random sampling.
        counter random_sampling,
        /// Traced because a service forced it.
        counter service_forced,
    }

    /// `listener.<address>.http.<stat_prefix>`.
    pub sharded struct ListenerHttpStats {
        /// Responses 1xx.
        counter downstream_rq_1xx,
        /// Responses 2xx.
        counter downstream_rq_2xx,
        /// Responses 3xx.
        counter downstream_rq_3xx,
        /// Responses 4xx.
        counter downstream_rq_4xx,
        /// Responses 5xx.
        counter downstream_rq_5xx,
        /// Responses.
        counter downstream_rq_completed,
    }

    /// `http1` and `cluster.<name>.http1`; exists once a connection used the codec.
    pub sharded struct Http1Stats {
        /// Headers dropped because of an underscore.
        counter dropped_headers_with_underscores,
        /// METADATA that HTTP/1 cannot carry.
        counter metadata_not_supported_error,
        /// Requests refused for an underscore in a header name.
        counter requests_rejected_with_underscores_in_headers,
        /// Connections closed for too many queued responses.
        counter response_flood,
    }

    /// `http2` and `cluster.<name>.http2`; exists once a connection used the codec.
    pub sharded struct Http2Stats {
        /// Requests refused for the size of their cookies.
        counter cookies_total_bytes_too_large,
        /// Streams whose close waits for buffered data.
        gauge deferred_stream_close,
        /// Headers dropped because of an underscore.
        counter dropped_headers_with_underscores,
        /// GOAWAY frames sent.
        counter goaway_sent,
        /// Header lists above the size limit.
        counter header_list_size_too_large,
        /// Connections reset for header lists above the limit.
        counter header_overflow,
        /// Headers for an unknown stream.
        counter headers_cb_no_stream,
        /// Connections closed for empty frames.
        counter inbound_empty_frames_flood,
        /// Connections closed for PRIORITY frames.
        counter inbound_priority_frames_flood,
        /// Connections closed for WINDOW_UPDATE frames.
        counter inbound_window_update_frames_flood,
        /// Connections closed for a missing PING reply.
        counter keepalive_timeout,
        /// Empty METADATA frames.
        counter metadata_empty_frames,
        /// Downstream connections (the name is Envoy's codec).
        counter nghttp2_downstream_connections,
        /// Upstream connections (the name is Envoy's codec).
        counter nghttp2_upstream_connections,
        /// Downstream connections of Envoy's other codec; stays 0.
        counter oghttp2_downstream_connections,
        /// Upstream connections of Envoy's other codec; stays 0.
        counter oghttp2_upstream_connections,
        /// Connections closed for control frames that could not be sent.
        counter outbound_control_flood,
        /// Control frames waiting to be sent.
        gauge outbound_control_frames_active,
        /// Connections closed for frames that could not be sent.
        counter outbound_flood,
        /// Frames waiting to be sent.
        gauge outbound_frames_active,
        /// Body bytes waiting to be sent.
        gauge pending_send_bytes,
        /// Requests refused for an underscore in a header name.
        counter requests_rejected_with_underscores_in_headers,
        /// Invalid messages.
        counter rx_messaging_error,
        /// Streams reset by the peer.
        counter rx_reset,
        /// Streams refused by the peer.
        counter stream_refused_errors,
        /// Streams open.
        gauge streams_active,
        /// Trailers received.
        counter trailers,
        /// Streams reset because their data could not be flushed.
        counter tx_flush_timeout,
        /// Streams reset by us.
        counter tx_reset,
        /// Cookies per request.
        histogram cookie_count (Unspecified),
        /// Size of the cookies of a request.
        histogram cookie_size (Bytes),
        /// Headers per message.
        histogram header_count (Unspecified),
        /// Size of the header list of a message.
        histogram header_list_size (Bytes),
    }
}
