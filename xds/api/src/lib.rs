//! Envoy's v3 API (1.40) as Rust types.
//!
//! The types are generated at build time from `descriptors/envoy-1.40.binpb` and `descriptors/istio.binpb` (Istio's own messages), and so are the tables ([`schema`]) that the
//! rest works from: [`read`](mod@read) turns YAML and JSON into messages by Envoy's rules, [`check`](mod@check) holds a
//! message to the constraints of its type and shows what is set in it, [`write`](mod@write) makes JSON of it, [`any`] looks into `google.protobuf.Any`.

pub mod any;
mod authority;
pub mod check;
mod error;
mod json;
pub mod read;
pub mod schema;
mod suggest;
mod text_format;
mod tree;
mod wire;
pub mod write;
mod yaml;

pub use authority::authority;
pub use error::{Error, Errors, Path};

/// The generated messages, in modules that mirror their protobuf packages
/// (`envoy::config::listener::v3::Listener` and so on).
#[allow(clippy::all, clippy::pedantic, clippy::too_many_lines, unreachable_pub, rustdoc::all, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

pub use generated::*;
