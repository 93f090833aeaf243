//! What becomes of every field of the HTTP options that connection managers and clusters share, on either side.
//!
//! A field that one side honours and the other does not is told apart here, and nowhere else.

use proxy_core::config::FieldUse::{Ignored, Rejected, Used};
use proxy_core::config::{FieldUse, MessageFields};

const SERVER_SIDE: FieldUse = Ignored("concerns requests from clients, not responses of hosts");
const ONE_STREAM: FieldUse = Ignored("a broken message costs its stream only");
const BUILT_IN: FieldUse = Rejected("the limit on resets is built in");

/// Declares the tables of both sides: of each field first what the connection manager does with it, then what a cluster
/// does where that is something else.
macro_rules! sides {
    ($($message:literal { $($field:literal: $downstream:expr $(, $upstream:expr)?;)* })*) => {
        /// In a connection manager.
        pub const DOWNSTREAM: &[MessageFields] = &[$(($message, &[$(($field, $downstream)),*])),*];
        /// Anywhere else, that is in a cluster.
        pub const UPSTREAM: &[MessageFields] =
            &[$(($message, &[$(($field, sides!(@last $downstream $(, $upstream)?))),*])),*];
    };
    (@last $downstream:expr) => { $downstream };
    (@last $downstream:expr, $upstream:expr) => { $upstream };
}

sides! {
    "envoy.config.core.v3.HttpProtocolOptions" {
        "idle_timeout": Used;
        "max_connection_duration": Used;
        "max_connection_duration_jitter": Rejected("not built: `max_connection_duration` is without jitter"), Used;
        "max_headers_count": Used;
        "max_response_headers_kb": Ignored("concerns responses of hosts, not requests"), Used;
        "max_stream_duration": Used;
        "headers_with_underscores_action": Used, SERVER_SIDE;
        "max_requests_per_connection": Used;
    }
    "envoy.config.core.v3.Http1ProtocolOptions" {
        "allow_absolute_url": Used, SERVER_SIDE;
        "accept_http_10": Used, SERVER_SIDE;
        "default_host_for_http_10": Used, SERVER_SIDE;
        "header_key_format": Used;
        "enable_trailers": Used;
        "allow_chunked_length": Used;
        "override_stream_error_on_invalid_http_message": Used, Ignored("an invalid response ends its connection");
        "send_fully_qualified_url": Ignored("concerns requests to hosts, not from clients"), Used;
        "use_balsa_parser": Ignored("there is one parser");
        "allow_custom_methods": Used, SERVER_SIDE;
        "ignore_http_11_upgrade": Used, Ignored("what a host agrees to goes on; Envoy breaks off a tunnel whose name matches");
    }
    "envoy.config.core.v3.Http2ProtocolOptions" {
        "hpack_table_size": Used;
        "max_concurrent_streams": Used;
        "initial_stream_window_size": Used;
        "initial_connection_window_size": Used;
        "allow_connect": Used, Ignored("the SETTINGS of the host say whether it takes CONNECT");
        "allow_metadata": Used;
        "max_outbound_frames": Ignored("frames are made as the peer takes them; what may wait is the few heads of a stream");
        "max_outbound_control_frames": Used;
        "max_consecutive_inbound_frames_with_empty_payload": Used;
        "max_inbound_priority_frames_per_stream": Used;
        "max_inbound_window_update_frames_per_data_frame_sent": Used;
        "stream_error_on_invalid_http_messaging": ONE_STREAM;
        "override_stream_error_on_invalid_http_message": ONE_STREAM;
        "custom_settings_parameters": Used;
        "connection_keepalive": Used;
        "use_oghttp2_codec": Ignored("there is one codec");
        "max_metadata_size": Used;
        "enable_huffman_encoding": Rejected("Huffman coding is always on");
        "max_header_field_size_kb": Used, Rejected("the size of a whole head is limited, not that of a field");
        "disallow_obs_text": Used, Rejected("not built for hosts; for clients it is");
        "stream_reset_burst": BUILT_IN;
        "stream_reset_rate": BUILT_IN;
    }
    "envoy.config.core.v3.Http2ProtocolOptions.SettingsParameter" {
        "identifier": Used;
        "value": Used;
    }
    "envoy.config.core.v3.KeepaliveSettings" {
        "interval": Used;
        "timeout": Used;
        "interval_jitter": Used;
        "connection_idle_interval": Ignored("concerns streams to hosts, not from clients"), Used;
    }
}
