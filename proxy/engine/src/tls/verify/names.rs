//! Names of certificates: which of them are asked for.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::tls::san::matches_dns;
use proxy_core::tls::{Certificate, SanKind, SanMatcher};
use rustls::pki_types::{CertificateDer, ServerName};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;

/// The names that are asked for.
#[allow(deprecated)]
pub(super) fn sans(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<SanMatcher>, Rejected> {
    let typed =
        cx.each("match_typed_subject_alt_names", &proto.match_typed_subject_alt_names, SanMatcher::build)?;
    if !typed.is_empty() || proto.match_subject_alt_names.is_empty() {
        return Ok(typed);
    }
    // The older field matches names of any of these kinds.
    let kinds = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip];
    let any = cx.each("match_subject_alt_names", &proto.match_subject_alt_names, |one, cx| {
        kinds
            .iter()
            .map(|kind| SanMatcher::of_kind(kind.clone(), Some(one), cx))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(any.into_iter().flatten().collect())
}

/// All names of a certificate, for a message.
pub(super) fn names(leaf: &CertificateDer<'_>) -> String {
    let sans = Certificate::parse(leaf).map(|leaf| leaf.sans).unwrap_or_default();
    sans.into_iter().map(|san| san.value).collect::<Vec<_>>().join(", ")
}

/// Whether a certificate has a name.
pub(super) fn has_name(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Some(leaf) = Certificate::parse(leaf) else { return false };
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref().to_ascii_lowercase();
            leaf.sans_of(&SanKind::Dns).any(|san| matches_dns(&san.to_ascii_lowercase(), &name))
        }
        ServerName::IpAddress(ip) => {
            let ip = std::net::IpAddr::from(*ip).to_string();
            leaf.sans_of(&SanKind::Ip).any(|san| san == ip)
        }
        _ => false,
    }
}

/// Whether a certificate is for `wanted`: a name of DNS, or exactly any other.
pub(super) fn is_for(leaf: &CertificateDer<'_>, wanted: &str) -> bool {
    let Some(leaf) = Certificate::parse(leaf) else { return false };
    let lower = wanted.to_ascii_lowercase();
    leaf.sans.iter().any(|san| match san.kind {
        SanKind::Dns => matches_dns(&san.value.to_ascii_lowercase(), &lower),
        SanKind::Uri | SanKind::Email | SanKind::Ip => san.value == wanted,
        SanKind::Other(_) => false,
    })
}
