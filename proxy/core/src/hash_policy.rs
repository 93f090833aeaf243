//! `envoy.config.route.v3.RouteAction.HashPolicy`: what of a request decides which host it goes to, for balancers that hash.
//!
//! Each policy yields a number or nothing; those that do are combined. A cookie that is asked for and missing is made up
//! from the addresses of the connection, and goes to the client with the response.
//! Source: Envoy `source/common/http/hash_policy.cc`, whose numbers these are.

use std::io::Write as _;

use http::HeaderValue;
use xds_api::envoy::config::route::v3::route_action as proto;
use xds_api::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use xds_api::envoy::r#type::v3::HashPolicy as ConnectionProto;
use xds_api::envoy::r#type::v3::hash_policy::PolicySpecifier as ConnectionSpecifier;

use crate::config::{BuildCx, Rejected};
use crate::hash::{xxhash64, xxhash64_seeded};
use crate::head::RequestHead;
use crate::matcher::RegexRewrite;
use crate::matcher::cookie::cookie;
use crate::matcher::header::RequestHeader;
use crate::matcher::query::parameter;
use crate::set_cookie::SetCookie;
use crate::stream_info::StreamInfo;

/// What a request hashes to.
#[derive(Clone, Debug, Default)]
pub struct HashPolicies(Box<[HashPolicy]>);

#[derive(Clone, Debug)]
struct HashPolicy {
    subject: Subject,
    /// If there is a number after this one, the rest does not count.
    terminal: bool,
}

#[derive(Clone, Debug)]
enum Subject {
    Header { name: RequestHeader, rewrite: Option<RegexRewrite> },
    Cookie(Box<Cookie>),
    SourceIp,
    QueryParameter(Box<str>),
    FilterState(Box<str>),
}

#[derive(Clone, Debug)]
struct Cookie {
    name: Box<str>,
    /// The one that is made up for who has none; `None` if none is.
    set: Option<SetCookie>,
}

impl HashPolicies {
    /// Builds from the messages.
    pub fn build(
        field: &'static str,
        protos: &[proto::HashPolicy],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let policies = cx.each(field, protos, HashPolicy::build)?;
        Ok(Self(policies.into_iter().flatten().collect()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number for `request`; `None` if no policy has one.
    ///
    /// Cookies are made up only where they can be set: each that is comes to the end of `set_cookies`.
    pub fn hash(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        mut set_cookies: Option<&mut Vec<HeaderValue>>,
    ) -> Option<u64> {
        let mut hash = None;
        for policy in &self.0 {
            if let Some(new) = policy.subject.hash(request, info, set_cookies.as_deref_mut()) {
                // Turned, so that two policies that say the same do not cancel each other out.
                hash = Some(hash.map_or(0, |old: u64| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl HashPolicy {
    /// The policy, if it is one: `connection_properties` without `source_ip` is none.
    fn build(proto: &proto::HashPolicy, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let proto::HashPolicy { terminal, policy_specifier } = proto;
        let subject = match policy_specifier {
            None => return Err(cx.reject("policy_specifier: value is required")),
            Some(PolicySpecifier::Header(header)) => cx.at("header", |cx| {
                let name = cx.at("header_name", |cx| RequestHeader::build(&header.header_name, cx));
                let rewrite = header.regex_rewrite.as_ref();
                let rewrite =
                    rewrite.map(|proto| cx.at("regex_rewrite", |cx| RegexRewrite::build(proto, cx)));
                Ok(Subject::Header { name: name?, rewrite: rewrite.transpose()? })
            })?,
            Some(PolicySpecifier::Cookie(cookie)) => {
                Subject::Cookie(Box::new(cx.at("cookie", |cx| Cookie::build(cookie, cx))?))
            }
            Some(PolicySpecifier::ConnectionProperties(properties)) if !properties.source_ip => {
                return Ok(None);
            }
            Some(PolicySpecifier::ConnectionProperties(_)) => Subject::SourceIp,
            Some(PolicySpecifier::QueryParameter(parameter)) => {
                Subject::QueryParameter(parameter.name.as_str().into())
            }
            Some(PolicySpecifier::FilterState(state)) => Subject::FilterState(state.key.as_str().into()),
        };
        Ok(Some(Self { subject, terminal: *terminal }))
    }
}

impl Subject {
    fn hash(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        set_cookies: Option<&mut Vec<HeaderValue>>,
    ) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => header(name, rewrite.as_ref(), request),
            Self::Cookie(cookie) => cookie.hash(request, info, set_cookies),
            Self::SourceIp => source_ip(info),
            Self::QueryParameter(name) => {
                Some(xxhash64(parameter(request.query().unwrap_or_default(), name)?.as_bytes()))
            }
            Self::FilterState(key) => info.filter_state(key)?.hash(),
        }
    }
}

/// The values of a header in the order of the alphabet, so that the order in which they came does not count; the hash of each
/// is the seed of the next.
fn header(name: &RequestHeader, rewrite: Option<&RegexRewrite>, request: &RequestHead) -> Option<u64> {
    let rewritten = |value: &[u8]| rewrite.and_then(|rewrite| rewrite.replace_all(value));
    let RequestHeader::Named(name) = name else {
        let value = name.in_request(request)?;
        return Some(xxhash64(&rewritten(&value).unwrap_or_else(|| value.into_owned())));
    };
    let mut values = request.headers.get_all(name).iter();
    let (first, more) = (values.next()?, values.next());
    if more.is_none() {
        return Some(match rewritten(first.as_bytes()) {
            Some(value) => xxhash64(&value),
            None => xxhash64(first.as_bytes()),
        });
    }
    let all = std::iter::once(first).chain(more).chain(values);
    let mut all: Vec<Vec<u8>> =
        all.map(|value| rewritten(value.as_bytes()).unwrap_or_else(|| value.as_bytes().to_vec())).collect();
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, value| xxhash64_seeded(value, seed)))
}

fn source_ip(info: &StreamInfo) -> Option<u64> {
    let ip = info.remote_address().ip()?;
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    write!(rest, "{ip}").ok()?;
    let length = 48 - rest.len();
    Some(xxhash64(text.get(..length)?))
}

impl Cookie {
    fn build(proto: &proto::hash_policy::Cookie, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::hash_policy::Cookie { name, ttl, path, attributes } = proto;
        let ttl = ttl.as_ref().map(|ttl| u64::try_from(ttl.seconds).unwrap_or(0));
        let attributes = attributes.iter().map(|one| (one.name.as_str(), one.value.as_str()));
        let set = ttl.map(|seconds| SetCookie::build(name, seconds, path, attributes, cx)).transpose()?;
        Ok(Self { name: name.as_str().into(), set })
    }

    fn hash(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        set_cookies: Option<&mut Vec<HeaderValue>>,
    ) -> Option<u64> {
        if let Some(value) = cookie(&request.headers, &self.name).filter(|value| !value.is_empty()) {
            return Some(xxhash64(value));
        }
        let set = self.set.as_ref()?;
        let set_cookies = set_cookies?;
        // The same for all requests of a connection, so that those that race get the same cookie.
        let connection = &info.connection;
        let value = xxhash64(format!("{}{}", connection.remote, connection.local).as_bytes());
        let value = format!("{value:016x}");
        set_cookies.extend(set.header(&value));
        Some(xxhash64(value.as_bytes()))
    }
}

/// `envoy.type.v3.HashPolicy`: what of a connection decides which host it goes to.
#[derive(Clone, Debug)]
pub enum ConnectionHashPolicy {
    /// The client's address.
    SourceIp,
    /// A value in the filter state.
    FilterState(Box<str>),
}

impl ConnectionHashPolicy {
    /// Builds from the message.
    pub fn build(proto: &ConnectionProto, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match &proto.policy_specifier {
            Some(ConnectionSpecifier::SourceIp(_)) => Ok(Self::SourceIp),
            Some(ConnectionSpecifier::FilterState(state)) => Ok(Self::FilterState(state.key.as_str().into())),
            None => Err(cx.reject("policy_specifier: value is required")),
        }
    }

    /// The number for the connection; `None` if there is none.
    pub fn hash(&self, info: &StreamInfo) -> Option<u64> {
        match self {
            Self::SourceIp => source_ip(info),
            Self::FilterState(key) => info.filter_state(key)?.hash(),
        }
    }
}

#[cfg(test)]
mod tests;
