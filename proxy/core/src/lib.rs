//! The vocabulary of the proxy and the contracts between its parts.
//!
//! Everything that two crates must agree on lives here: addresses, message heads, stream information, response flags,
//! errors, statistics, matchers, formats, host sets, and the extension contracts. It must never open a socket, own a
//! runtime or know a codec.

pub mod address;
pub mod background;
pub mod callout;
pub mod cel;
pub mod config;
pub mod custom_tag;
pub mod dns_cache;
pub mod extension;
pub mod facts;
pub mod field_names;
pub mod fields;
pub mod filter_state;
pub mod format;
pub mod grpc;
pub mod hash;
pub mod hash_policy;
pub mod head;
pub mod header_append;
pub mod header_case;
pub mod header_mutation;
pub mod headers;
pub mod http_chain;
pub mod jwt;
pub mod kept;
pub mod local_reply;
pub mod log_filter;
pub mod matcher;
pub mod matching;
pub mod metadata;
pub mod names;
pub mod proxy_protocol;
pub mod rate_limit;
pub mod response_flag;
pub mod retry;
pub mod runtime;
pub mod set_cookie;
pub mod stats;
pub mod stream_error;
pub mod stream_info;
pub mod text;
pub mod tls;
pub mod transport;
pub mod upstream;
