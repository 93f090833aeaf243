//! One entry of a descriptor: where its key and its value come from.

use std::borrow::Cow;
use std::net::IpAddr;

use prost_types::value::Kind;
use xds_api::envoy::config::route::v3::rate_limit::action as proto;
use xds_api::envoy::config::route::v3::rate_limit::action::ActionSpecifier;
use xds_api::envoy::config::route::v3::rate_limit::action::meta_data::Source as SourceProto;
use xds_api::envoy::r#type::metadata::v3::MetadataKey;

use super::extension::{self, Claim};
use super::{Entry, Subject, metadata_path, render};
use crate::cel;
use crate::config::{BuildCx, Rejected};
use crate::facts::Facts;
use crate::format::{Empty, Format};
use crate::head::RequestHead;
use crate::matcher::query::decoded_parameter;
use crate::matcher::{CidrSet, HeaderMatcher, QueryParameterMatcher, RequestHeader};
use crate::metadata::MetadataPath;

const FORMATS: &str = "envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value";

/// What an entry is made of.
#[derive(Debug)]
pub(super) enum Action {
    SourceCluster,
    DestinationCluster,
    Header {
        name: RequestHeader,
        key: Box<str>,
        absent: Absent,
    },
    Query {
        name: Box<str>,
        key: Box<str>,
        absent: Absent,
    },
    RemoteAddress,
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    /// A value, if the conditions hold.
    Value {
        key: Box<str>,
        value: Value,
        condition: Condition,
    },
    Metadata {
        key: Box<str>,
        path: MetadataPath,
        default: Box<str>,
        source: Source,
        absent: Absent,
    },
    Expression {
        key: Box<str>,
        program: cel::Program,
        absent: Absent,
    },
    Claim {
        key: Box<str>,
        claim: Box<Claim>,
        absent: Absent,
    },
}

/// What becomes of the descriptor where there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// It does without this entry.
    Skipped,
    /// There is none.
    Fails,
}

/// What a request must be like.
#[derive(Debug)]
pub(super) enum Condition {
    None,
    Headers { matchers: Box<[HeaderMatcher]>, expected: bool },
    Query { matchers: Box<[QueryParameterMatcher]>, expected: bool },
    Address { ranges: CidrSet, expected: bool },
}

/// A text, or what a format makes of a request.
#[derive(Debug)]
pub(super) enum Value {
    Text(Box<str>),
    Format { format: Format, default: Box<str> },
}

/// Whose metadata.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Dynamic,
    Route,
    Cluster,
    /// Of the locality of the host, where there is one: when the stream is done.
    Locality,
}

impl Absent {
    pub(super) fn new(is_skipped: bool) -> Self {
        if is_skipped { Self::Skipped } else { Self::Fails }
    }

    /// No entry, or no descriptor.
    #[allow(clippy::option_option, reason = "no entry is not no descriptor")]
    fn entry<'a>(self) -> Option<Option<Entry<'a>>> {
        match self {
            Self::Skipped => Some(None),
            Self::Fails => None,
        }
    }
}

impl Action {
    pub(super) fn build(
        proto: &xds_api::envoy::config::route::v3::rate_limit::Action,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        match &proto.action_specifier {
            None => Err(cx.reject("action_specifier: value is required")),
            Some(ActionSpecifier::SourceCluster(_)) => Ok(Self::SourceCluster),
            Some(ActionSpecifier::DestinationCluster(_)) => Ok(Self::DestinationCluster),
            Some(ActionSpecifier::RemoteAddress(_)) => Ok(Self::RemoteAddress),
            Some(ActionSpecifier::RequestHeaders(headers)) => {
                let proto::RequestHeaders { header_name, descriptor_key, skip_if_absent } = headers;
                let name = cx.at("request_headers", |cx| {
                    cx.at("header_name", |cx| RequestHeader::build(header_name, cx))
                })?;
                let key = descriptor_key.as_str().into();
                Ok(Self::Header { name, key, absent: Absent::new(*skip_if_absent) })
            }
            Some(ActionSpecifier::QueryParameters(query)) => {
                let proto::QueryParameters { query_parameter_name, descriptor_key, skip_if_absent } = query;
                Ok(Self::Query {
                    name: query_parameter_name.as_str().into(),
                    key: descriptor_key.as_str().into(),
                    absent: Absent::new(*skip_if_absent),
                })
            }
            Some(ActionSpecifier::MaskedRemoteAddress(masked)) => Ok(build_masked(masked)),
            Some(ActionSpecifier::GenericKey(generic)) => cx.at("generic_key", |cx| {
                let proto::GenericKey { descriptor_value, default_value, descriptor_key } = generic;
                let value = Value::build(descriptor_value, default_value, cx)?;
                Ok(Self::Value { key: key(descriptor_key, "generic_key"), value, condition: Condition::None })
            }),
            Some(ActionSpecifier::HeaderValueMatch(value)) => {
                cx.at("header_value_match", |cx| build_header_match(value, cx))
            }
            Some(ActionSpecifier::QueryParameterValueMatch(value)) => {
                cx.at("query_parameter_value_match", |cx| build_query_match(value, cx))
            }
            Some(ActionSpecifier::RemoteAddressMatch(value)) => {
                cx.at("remote_address_match", |cx| build_address_match(value, cx))
            }
            #[allow(deprecated, reason = "still sent by control planes")]
            Some(ActionSpecifier::DynamicMetadata(metadata)) => cx.at("dynamic_metadata", |cx| {
                let proto::DynamicMetaData { descriptor_key, metadata_key, default_value } = metadata;
                let key = metadata_key.as_ref();
                build_metadata(descriptor_key, key, default_value, Source::Dynamic, Absent::Fails, cx)
            }),
            Some(ActionSpecifier::Metadata(metadata)) => cx.at("metadata", |cx| {
                let proto::MetaData { descriptor_key, metadata_key, default_value, source, skip_if_absent } =
                    metadata;
                let source = cx.at("source", |cx| Source::build(*source, cx))?;
                let absent = Absent::new(*skip_if_absent);
                build_metadata(descriptor_key, metadata_key.as_ref(), default_value, source, absent, cx)
            }),
            Some(ActionSpecifier::Extension(proto)) => cx.at("extension", |cx| extension::build(proto, cx)),
        }
    }

    /// The entry for `subject`: none if it does without one, `None` if there is no descriptor without one.
    #[allow(clippy::option_option, reason = "no entry is not no descriptor")]
    pub(super) fn entry<'a>(&'a self, subject: &Subject<'a>) -> Option<Option<Entry<'a>>> {
        let entry = |key: &'a str, value: Cow<'a, str>| Some(Some(Entry { key: Cow::Borrowed(key), value }));
        match self {
            Self::SourceCluster => entry("source_cluster", Cow::Borrowed(subject.local_cluster)),
            Self::DestinationCluster => {
                let cluster = subject.route.and_then(|route| route.cluster());
                let chosen = || subject.info.upstream.cluster.as_deref();
                entry("destination_cluster", Cow::Borrowed(cluster.or_else(chosen).unwrap_or_default()))
            }
            Self::Header { name, key, absent } => match first(name, subject.request) {
                Some(value) => entry(key, value),
                None => absent.entry(),
            },
            Self::Query { name, key, absent } => {
                match decoded_parameter(subject.request.query().unwrap_or_default(), name) {
                    Some(value) => entry(key, text(value)),
                    None => absent.entry(),
                }
            }
            Self::RemoteAddress => {
                let ip = subject.info.remote_address().ip()?;
                entry("remote_address", Cow::Owned(ip.to_string()))
            }
            Self::MaskedRemoteAddress { v4, v6 } => {
                let ip = subject.info.remote_address().ip()?;
                let length = if ip.is_ipv4() { *v4 } else { *v6 };
                entry("masked_remote_address", Cow::Owned(format!("{}/{length}", masked(ip, length))))
            }
            Self::Value { key, value, condition } => {
                let value = condition.holds(subject).then(|| value.render(subject))?;
                if value.is_empty() { None } else { entry(key, value) }
            }
            Self::Metadata { key, path, default, source, absent } => {
                let found = source.text(path, subject).filter(|text| !text.is_empty());
                match found.or(Some(&**default).filter(|default| !default.is_empty())) {
                    Some(value) => entry(key, Cow::Borrowed(value)),
                    None => absent.entry(),
                }
            }
            Self::Expression { key, program, absent } => match program.text(&facts(subject)) {
                Some(value) => entry(key, Cow::Owned(String::from_utf8_lossy(&value).into_owned())),
                None => absent.entry(),
            },
            Self::Claim { key, claim, absent } => match claim.text(subject) {
                Some(value) => entry(key, Cow::Owned(value)),
                None => absent.entry(),
            },
        }
    }
}

fn facts<'a>(subject: &Subject<'a>) -> Facts<'a> {
    Facts {
        info: subject.info,
        request: Some(subject.request),
        response: subject.response,
        trailers: None,
        route: Some(&subject.info.route_metadata),
        cluster: subject.route.and_then(|route| route.cluster()).or(subject.info.upstream.cluster.as_deref()),
        path: None,
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let request = subject.request;
        match self {
            Self::None => true,
            Self::Headers { matchers, expected } => {
                matchers.iter().all(|matcher| matcher.matches_request(request)) == *expected
            }
            Self::Query { matchers, expected } => {
                matchers.iter().all(|matcher| matcher.matches(request.query())) == *expected
            }
            Self::Address { ranges, expected } => {
                let address = subject.info.remote_address();
                address.ip().is_some_and(|ip| ranges.contains(ip) == *expected)
            }
        }
    }
}

impl Value {
    /// As Envoy 1.40, a value is a format only where the runtime says so.
    fn build(text: &str, default: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        if !cx.env.runtime.flag(FORMATS, false) {
            return Ok(Self::Text(text.into()));
        }
        let format = cx.at("descriptor_value", |cx| {
            Format::parse_with(text, Empty::Omit).map_err(|reason| cx.reject(reason))
        })?;
        Ok(match format.constant() {
            Some("") => Self::Text(default.into()),
            Some(constant) => Self::Text(constant.into()),
            None => Self::Format { format, default: default.into() },
        })
    }

    fn render<'a>(&'a self, subject: &Subject<'_>) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Format { format, default } => match render(format, subject) {
                text if text.is_empty() => Cow::Borrowed(default),
                text => Cow::Owned(text),
            },
        }
    }
}

impl Source {
    fn build(proto: i32, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match SourceProto::try_from(proto) {
            Ok(SourceProto::Dynamic) => Ok(Self::Dynamic),
            Ok(SourceProto::RouteEntry) => Ok(Self::Route),
            Ok(SourceProto::ClusterEntry) => Ok(Self::Cluster),
            Ok(SourceProto::ClusterLocalityEntry) => Ok(Self::Locality),
            Err(_) => Err(cx.reject("value must be one of the defined enum values")),
        }
    }

    /// The text at `path`, if it is one.
    fn text<'a>(self, path: &MetadataPath, subject: &Subject<'a>) -> Option<&'a str> {
        let info = subject.info;
        let value = match self {
            Self::Dynamic => info.dynamic_metadata(&path.namespace, &path.path),
            Self::Route => info.route_metadata.value(&path.namespace, &path.path),
            Self::Cluster => info.upstream.cluster_metadata.value(&path.namespace, &path.path),
            Self::Locality => {
                let host = info.upstream.host.as_ref()?;
                host.locality.metadata.value(&path.namespace, &path.path)
            }
        };
        match value?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }
}

/// The first value of a header.
pub(super) fn first<'a>(name: &RequestHeader, request: &'a RequestHead) -> Option<Cow<'a, str>> {
    match name {
        RequestHeader::Named(name) => Some(String::from_utf8_lossy(request.headers.get(name)?.as_bytes())),
        pseudo => pseudo.in_request(request).map(text),
    }
}

fn key(said: &str, default: &str) -> Box<str> {
    if said.is_empty() { default.into() } else { said.into() }
}

fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn build_masked(proto: &proto::MaskedRemoteAddress) -> Action {
    let proto::MaskedRemoteAddress { v4_prefix_mask_len, v6_prefix_mask_len } = proto;
    let length = |said: Option<u32>, most: u8| {
        said.and_then(|length| u8::try_from(length).ok()).unwrap_or(most).min(most)
    };
    Action::MaskedRemoteAddress { v4: length(*v4_prefix_mask_len, 32), v6: length(*v6_prefix_mask_len, 128) }
}

/// `ip` with all but its first `length` bits cleared.
fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & !host).into())
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & !host).into())
        }
    }
}

fn build_header_match(proto: &proto::HeaderValueMatch, cx: &mut BuildCx<'_>) -> Result<Action, Rejected> {
    let proto::HeaderValueMatch { descriptor_value, default_value, descriptor_key, expect_match, headers } =
        proto;
    let value = Value::build(descriptor_value, default_value, cx);
    let matchers = HeaderMatcher::build_all("headers", headers, cx)?;
    let condition = Condition::Headers { matchers, expected: expect_match.unwrap_or(true) };
    Ok(Action::Value { key: key(descriptor_key, "header_match"), value: value?, condition })
}

fn build_query_match(
    proto: &proto::QueryParameterValueMatch,
    cx: &mut BuildCx<'_>,
) -> Result<Action, Rejected> {
    let proto::QueryParameterValueMatch {
        descriptor_value,
        default_value,
        descriptor_key,
        expect_match,
        query_parameters,
    } = proto;
    let value = Value::build(descriptor_value, default_value, cx);
    let matchers = cx.each("query_parameters", query_parameters, QueryParameterMatcher::build)?.into();
    let condition = Condition::Query { matchers, expected: expect_match.unwrap_or(true) };
    Ok(Action::Value { key: key(descriptor_key, "query_match"), value: value?, condition })
}

fn build_address_match(proto: &proto::RemoteAddressMatch, cx: &mut BuildCx<'_>) -> Result<Action, Rejected> {
    let proto::RemoteAddressMatch { descriptor_value, descriptor_key, default_value, address_matcher } =
        proto;
    let value = Value::build(descriptor_value, default_value, cx);
    let condition = cx.at("address_matcher", |cx| {
        let Some(matcher) = address_matcher else { return Err(cx.reject("value is required")) };
        let ranges = CidrSet::build_xds("ranges", &matcher.ranges, cx)?;
        Ok(Condition::Address { ranges, expected: !matcher.invert_match })
    })?;
    Ok(Action::Value { key: key(descriptor_key, "remote_address_match"), value: value?, condition })
}

fn build_metadata(
    key: &str,
    path: Option<&MetadataKey>,
    default: &str,
    source: Source,
    absent: Absent,
    cx: &mut BuildCx<'_>,
) -> Result<Action, Rejected> {
    let path = metadata_path(path, cx)?;
    Ok(Action::Metadata { key: key.into(), path, default: default.into(), source, absent })
}
