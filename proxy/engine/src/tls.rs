//! TLS: what a transport socket of `envoy.transport_sockets.tls` becomes, and what a handshake is held to.
//!
//! A context is built on the main thread, of its configuration and of the secrets that it names, and is swapped as a whole when
//! one of these changes: a handshake takes the one that is there when it begins, and its connection keeps it.
//!
//! Source: `envoy/extensions/transport_sockets/tls/v3`, `docs/root/intro/arch_overview/security/ssl.rst`. The records are
//! moved by [`crate::net::secure`]; the cryptography is that of `rustls` with `aws-lc-rs`, given to each context by name:
//! nothing here depends on a provider that the process installed.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};

pub mod client;
mod common;
mod encrypted;
pub mod fields;
mod identity;
mod key_log;
mod own;
mod params;
mod pkcs12;
pub mod secret;
pub mod server;
mod session;
mod signatures;
mod source;
mod ticket;
mod verify;

pub use identity::Identity;
pub use key_log::Ends;
pub use secret::{Need, Secret, SecretKind};
pub use source::{Place, Watched};
pub use verify::Verifier;

/// What is said of connections that come, or are wanted, before the secrets.
const NOT_READY: &str = "TLS error: Secret is not supplied by SDS";

/// A configuration of TLS that secrets may be missing of.
pub trait Supplied {
    /// The secrets that it needs.
    fn needs(&self) -> &[Need];

    /// The files that it is made of itself and that may change: it is to be prepared anew then.
    fn files(&self) -> &[Watched];

    /// For each of the files the hash of what is in force of it.
    fn hashes(&self) -> Arc<[Option<u64>]>;

    /// Builds the context of what was `found`, in the order of the needs, and of its files.
    ///
    /// # Errors
    /// They cannot be used; the context in force stays.
    fn prepare(
        &self,
        found: &[Option<Arc<Secret>>],
        files: Files<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Prepared<'_>, Rejected>;
}

/// Which content of its files a context is built of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files<'p> {
    /// What is in force.
    Kept,
    /// What is in those of a place now, and what is in force of the others.
    Now(&'p Place),
}

/// A context that is ready to take its place.
pub struct Prepared<'t> {
    swap: Box<dyn FnOnce() + 't>,
    count: Box<dyn FnOnce() + 't>,
}

impl Prepared<'_> {
    /// Puts it in force, from the first.
    pub fn install(self) {
        (self.swap)();
    }

    /// Puts it in force because a secret changed.
    pub fn update(self) {
        (self.swap)();
        (self.count)();
    }
}
