//! Names of certificates: which of them are asked for.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::string::StringMatcher;
use proxy_core::tls::{Certificate, SanKind};
use rustls::pki_types::{CertificateDer, ServerName};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;

/// A name that is asked for.
pub(super) struct SanMatcher {
    pub(super) kind: SanKind,
    matcher: StringMatcher,
    /// What is matched exactly, to compare it with names that are wildcards.
    exact: Option<String>,
}

/// The names that are asked for.
#[allow(deprecated)]
pub(super) fn sans(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<SanMatcher>, Rejected> {
    let typed =
        cx.each("match_typed_subject_alt_names", &proto.match_typed_subject_alt_names, |one, cx| {
            let kind = match one.san_type() {
                SanType::Email => SanKind::Email,
                SanType::Dns => SanKind::Dns,
                SanType::Uri => SanKind::Uri,
                SanType::IpAddress => SanKind::Ip,
                SanType::OtherName if one.oid.is_empty() => {
                    return Err(cx.at("oid", |cx| cx.reject("is required for OTHER_NAME")));
                }
                SanType::OtherName => SanKind::Other(one.oid.clone()),
                SanType::Unspecified => return Err(cx.at("san_type", |cx| cx.reject("must be specified"))),
            };
            SanMatcher::build(kind, one.matcher.as_ref(), cx)
        })?;
    if !typed.is_empty() || proto.match_subject_alt_names.is_empty() {
        return Ok(typed);
    }
    // The older field matches names of any of these kinds.
    let kinds = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip];
    let any = cx.each("match_subject_alt_names", &proto.match_subject_alt_names, |one, cx| {
        kinds.iter().map(|kind| SanMatcher::build(kind.clone(), Some(one), cx)).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(any.into_iter().flatten().collect())
}

impl SanMatcher {
    fn build(
        kind: SanKind,
        proto: Option<&xds_api::envoy::r#type::matcher::v3::StringMatcher>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
        cx.at("matcher", |cx| {
            let Some(proto) = proto else { return Err(cx.reject("value is required")) };
            let exact = match &proto.match_pattern {
                Some(MatchPattern::Exact(exact)) => Some(exact.to_ascii_lowercase()),
                _ => None,
            };
            Ok(Self { kind, matcher: StringMatcher::build(proto, cx)?, exact })
        })
    }

    /// Whether a name of the certificate matches: one of DNS that is asked for exactly may be a wildcard there.
    pub(super) fn matches(&self, name: &str) -> bool {
        match (&self.kind, &self.exact) {
            (SanKind::Dns, Some(exact)) => matches_dns(&name.to_ascii_lowercase(), exact),
            _ => self.matcher.matches(name.as_bytes()),
        }
    }
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

/// Whether a name of DNS is meant by `pattern`, which may be a wildcard for its first label.
fn matches_dns(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    let Some((first, rest)) = pattern.split_once('.') else { return false };
    let Some((before, after)) = first.split_once('*') else { return false };
    let Some((label, parent)) = name.split_once('.') else { return false };
    parent == rest
        && !first.starts_with("xn--")
        && !after.contains('*')
        && label.len() >= before.len() + after.len()
        && label.starts_with(before)
        && label.ends_with(after)
}
