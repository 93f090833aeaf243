//! TLS: what a transport socket of `envoy.transport_sockets.tls` becomes, and what a handshake is held to.
//!
//! Source: `envoy/extensions/transport_sockets/tls/v3`, `docs/root/intro/arch_overview/security/ssl.rst`. The records are
//! moved by [`crate::net::secure`]; the cryptography is that of `rustls` with `aws-lc-rs`, given to each context by name:
//! nothing here depends on a provider that the process installed.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::stats::{OneOff, Scope, SharedGauge};
use xds_api::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use xds_api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;

pub mod client;
pub mod fields;
mod identity;
mod params;
pub mod server;
mod session;
mod source;
mod verify;

pub use identity::Identity;
pub use verify::Verifier;

/// What certificates of peers are held to, if anything.
fn validation(common: &CommonTlsContext, cx: &mut BuildCx<'_>) -> Result<Option<Arc<Verifier>>, Rejected> {
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => {
            cx.at("validation_context", |cx| Verifier::build(context, cx)).map(|built| Some(Arc::new(built)))
        }
        Some(_) => Err(cx.reject("only validation_context is available")),
        None => Ok(None),
    }
}

/// When the certificates end, as Envoy names those that came with no name. (The number is that of an empty name.)
fn expirations(
    scope: &Scope,
    identities: &[Identity],
    verifier: Option<&Verifier>,
) -> Vec<OneOff<SharedGauge>> {
    let set = |kind: &str, seconds: i64| {
        let gauge = scope.gauge(&format!("ssl.certificate.unnamed_{kind}.expiration_unix_time_seconds"));
        gauge.set(seconds.max(0).cast_unsigned());
        gauge
    };
    let mut gauges: Vec<_> =
        identities.iter().map(|identity| set("cert_e3b0c442", identity.certificate.not_after)).collect();
    if let Some(verifier) = verifier {
        let ends: Vec<i64> = verifier.authorities().map(|authority| authority.not_after).collect();
        gauges.extend(ends.iter().map(|end| set("ca_cert_e3b0c442", *end)));
        if ends.is_empty() {
            gauges.push(set("ca_cert", i64::MAX));
        }
    }
    gauges
}
