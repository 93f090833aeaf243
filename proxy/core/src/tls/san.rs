//! Names of certificates that are asked for.

use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use xds_api::envoy::r#type::matcher::v3::StringMatcher as StringProto;
use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::{Certificate, SanKind};
use crate::config::{BuildCx, Rejected};
use crate::matcher::StringMatcher;

/// A name that is asked for.
pub struct SanMatcher {
    /// What kind of name it is.
    pub kind: SanKind,
    matcher: StringMatcher,
    /// What is matched exactly, to compare it with names that are wildcards.
    exact: Option<String>,
}

impl SanMatcher {
    /// Builds from the message that says what kind of name it is about.
    pub fn build(proto: &proto::SubjectAltNameMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let kind = match proto.san_type() {
            SanType::Email => SanKind::Email,
            SanType::Dns => SanKind::Dns,
            SanType::Uri => SanKind::Uri,
            SanType::IpAddress => SanKind::Ip,
            SanType::OtherName if proto.oid.is_empty() => {
                return Err(cx.at("oid", |cx| cx.reject("is required for OTHER_NAME")));
            }
            SanType::OtherName => SanKind::Other(proto.oid.clone()),
            SanType::Unspecified => return Err(cx.at("san_type", |cx| cx.reject("must be specified"))),
        };
        Self::of_kind(kind, proto.matcher.as_ref(), cx)
    }

    /// Builds for names of one kind.
    pub fn of_kind(
        kind: SanKind,
        proto: Option<&StringProto>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.at("matcher", |cx| {
            let Some(proto) = proto else { return Err(cx.reject("value is required")) };
            let exact = match &proto.match_pattern {
                Some(MatchPattern::Exact(exact)) => Some(exact.to_ascii_lowercase()),
                _ => None,
            };
            Ok(Self { kind, matcher: StringMatcher::build(proto, cx)?, exact })
        })
    }

    /// Whether a name of its kind matches: one of DNS that is asked for exactly may be a wildcard in the certificate.
    pub fn matches(&self, name: &str) -> bool {
        match (&self.kind, &self.exact) {
            (SanKind::Dns, Some(exact)) => matches_dns(&name.to_ascii_lowercase(), exact),
            _ => self.matcher.matches(name.as_bytes()),
        }
    }

    /// Whether a certificate has such a name.
    pub fn is_in(&self, certificate: &Certificate) -> bool {
        certificate.sans_of(&self.kind).any(|name| self.matches(name))
    }
}

/// Whether a name of DNS is meant by `pattern`, which may be a wildcard for its first label.
pub fn matches_dns(pattern: &str, name: &str) -> bool {
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
