//! Envoy's v3 API (1.40) as Rust types.
//!
//! The types are generated at build time from `descriptors/envoy-1.40.binpb`.

pub mod schema;

/// The generated messages, in modules that mirror their protobuf packages
/// (`envoy::config::listener::v3::Listener` and so on).
#[allow(clippy::all, clippy::pedantic, clippy::too_many_lines, unreachable_pub, rustdoc::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

pub use generated::*;
