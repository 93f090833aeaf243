//! One rule: a permission or a principal, which differ in nothing but the forms that their messages allow.

#![allow(deprecated, reason = "`metadata` and `source_ip` are still sent by control planes")]

use std::collections::HashSet;
use std::ops::Range;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::facts::{Facts, Layer, Whose};
use proxy_core::matcher::{
    Cidr, FilterStateMatcher, HeaderMatcher, MetadataMatcher, PathMatcher, StringMatcher, UriTemplate,
};
use proxy_core::tls::{SanKind, SanMatcher, TlsInfo};
use xds_api::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use xds_api::envoy::config::rbac::v3 as proto;
use xds_api::envoy::config::rbac::v3::MetadataSource;
use xds_api::envoy::config::rbac::v3::permission::Rule as Permission;
use xds_api::envoy::config::rbac::v3::principal::Identifier as Principal;
use xds_api::envoy::config::route::v3::HeaderMatcher as HeaderProto;
use xds_api::envoy::extensions::rbac::principals::mtls_authenticated::v3::Config as MtlsAuthenticated;
use xds_api::envoy::r#type::v3::Int32Range;

use super::fields;

/// From so many on, paths or names that are to be met exactly are looked up instead of compared one by one.
const MIN_HASHED: usize = 8;

const MTLS_AUTHENTICATED: &str = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config";
const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// A text that a path equals or begins with.
pub(super) enum PathText<'t> {
    Exact(&'t str),
    Prefix(&'t str),
}

/// What may hold of a request or a connection.
pub(super) enum Rule {
    Any,
    All(Box<[Rule]>),
    Either(Box<[Rule]>),
    Not(Box<Rule>),
    Header(HeaderMatcher),
    Path(PathMatcher),
    /// One of these, where there are many.
    Paths(HashSet<Box<str>>),
    UriTemplate(UriTemplate),
    Ip(Whose, Cidr),
    DestinationPort(Range<u32>),
    Metadata(MetadataMatcher),
    RouteMetadata(MetadataMatcher),
    ServerName(StringMatcher),
    /// A TLS session, of any peer if there is no matcher.
    Authenticated(Option<StringMatcher>),
    /// A TLS session with a peer whose certificate was verified, with such a name if one is asked for.
    Verified(Option<Box<SanMatcher>>),
    /// A TLS session with a peer of one of these names, where there are many.
    Names(HashSet<Box<str>>),
    FilterState(FilterStateMatcher),
}

impl Rule {
    /// Builds what may be done.
    pub(super) fn permission(
        proto: &proto::Permission,
        layer: Layer,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let all = |field, set: &proto::permission::Set, cx: &mut BuildCx<'_>| {
            cx.at(field, |cx| cx.each("rules", &set.rules, |one, cx| Self::permission(one, layer, cx)))
        };
        let Some(rule) = &proto.rule else { return Err(cx.reject("rule: value is required")) };
        match rule {
            Permission::AndRules(set) => Ok(Self::all_of(all("and_rules", set, cx)?)),
            Permission::OrRules(set) => Ok(Self::any_of(all("or_rules", set, cx)?)),
            Permission::NotRule(rule) => cx
                .at("not_rule", |cx| Self::permission(rule, layer, cx))
                .map(|rule| Self::Not(Box::new(rule))),
            Permission::Any(any) => Self::any(*any, cx),
            Permission::Header(header) => Self::header(header, layer, cx),
            Permission::UrlPath(path) => cx.at("url_path", |cx| PathMatcher::build(path, cx)).map(Self::Path),
            Permission::UriTemplate(extension) => cx.at("uri_template", |cx| uri_template(extension, cx)),
            Permission::DestinationIp(range) => ip("destination_ip", Whose::Destination, range, cx),
            Permission::DestinationPort(port) => {
                // A port beyond the last is the API's to refuse.
                Ok(Self::DestinationPort(*port..port.saturating_add(1)))
            }
            Permission::DestinationPortRange(range) => {
                cx.at("destination_port_range", |cx| port_range(range, cx)).map(Self::DestinationPort)
            }
            Permission::Metadata(metadata) => {
                cx.at("metadata", |cx| MetadataMatcher::build(metadata, cx)).map(Self::Metadata)
            }
            Permission::SourcedMetadata(metadata) => sourced_metadata(metadata, cx),
            Permission::RequestedServerName(name) => {
                cx.at("requested_server_name", |cx| StringMatcher::build(name, cx)).map(Self::ServerName)
            }
            Permission::Matcher(_) => Err(cx.at("matcher", |cx| cx.reject(fields::MATCHER))),
        }
    }

    /// Builds who may do it.
    pub(super) fn principal(
        proto: &proto::Principal,
        layer: Layer,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let all = |field, set: &proto::principal::Set, cx: &mut BuildCx<'_>| {
            cx.at(field, |cx| cx.each("ids", &set.ids, |one, cx| Self::principal(one, layer, cx)))
        };
        let Some(identifier) = &proto.identifier else {
            return Err(cx.reject("identifier: value is required"));
        };
        match identifier {
            Principal::AndIds(set) => Ok(Self::all_of(all("and_ids", set, cx)?)),
            Principal::OrIds(set) => Ok(Self::any_of(all("or_ids", set, cx)?)),
            Principal::NotId(id) => {
                cx.at("not_id", |cx| Self::principal(id, layer, cx)).map(|rule| Self::Not(Box::new(rule)))
            }
            Principal::Any(any) => Self::any(*any, cx),
            Principal::Authenticated(proto::principal::Authenticated { principal_name }) => {
                let name = principal_name.as_ref().map(|name| {
                    cx.at("authenticated", |cx| cx.at("principal_name", |cx| StringMatcher::build(name, cx)))
                });
                Ok(Self::Authenticated(name.transpose()?))
            }
            Principal::SourceIp(range) => ip("source_ip", Whose::Source, range, cx),
            Principal::DirectRemoteIp(range) => ip("direct_remote_ip", Whose::DirectRemote, range, cx),
            Principal::RemoteIp(range) => ip("remote_ip", Whose::Remote, range, cx),
            Principal::Header(header) => Self::header(header, layer, cx),
            Principal::UrlPath(path) => cx.at("url_path", |cx| PathMatcher::build(path, cx)).map(Self::Path),
            Principal::Metadata(metadata) => {
                cx.at("metadata", |cx| MetadataMatcher::build(metadata, cx)).map(Self::Metadata)
            }
            Principal::SourcedMetadata(metadata) => sourced_metadata(metadata, cx),
            Principal::FilterState(state) => {
                cx.at("filter_state", |cx| FilterStateMatcher::build(state, cx)).map(Self::FilterState)
            }
            Principal::Custom(extension) => cx.at("custom", |cx| custom(extension, cx)),
        }
    }

    fn any(any: bool, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        if any { Ok(Self::Any) } else { Err(cx.at("any", |cx| cx.reject("value must equal true"))) }
    }

    fn header(header: &HeaderProto, layer: Layer, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("header", |cx| match layer {
            Layer::Http => HeaderMatcher::build(header, cx).map(Self::Header),
            Layer::Network => Err(cx.reject("not supported by RBAC network filter")),
        })
    }

    /// One rule that holds if one of `rules` does.
    pub(super) fn any_of(mut rules: Vec<Self>) -> Self {
        let is_path = |rule: &Self| matches!(rule, Self::Path(path) if path.as_exact().is_some());
        let is_name =
            |rule: &Self| matches!(rule, Self::Authenticated(Some(name)) if name.as_exact().is_some());
        if let Some(paths) = take_many(&mut rules, is_path) {
            rules.push(Self::Paths(paths));
        }
        if let Some(names) = take_many(&mut rules, is_name) {
            rules.push(Self::Names(names));
        }
        match rules.pop() {
            Some(rule) if rules.is_empty() => rule,
            rule => {
                rules.extend(rule);
                rules.sort_by_key(Self::rank);
                Self::Either(rules.into())
            }
        }
    }

    /// One rule that holds if all of `rules` do.
    fn all_of(mut rules: Vec<Self>) -> Self {
        rules.sort_by_key(Self::rank);
        Self::All(rules.into())
    }

    /// Texts of which the path has to fit one, or the rule does not hold; `None` if it may hold for any path.
    pub(super) fn paths(&self) -> Option<Vec<PathText<'_>>> {
        match self {
            Self::Path(path) => {
                let exact = path.as_exact().map(PathText::Exact);
                exact.or_else(|| path.as_prefix().map(PathText::Prefix)).map(|text| vec![text])
            }
            Self::Paths(paths) => Some(paths.iter().map(|path| PathText::Exact(path)).collect()),
            Self::All(rules) => rules.iter().find_map(Self::paths),
            Self::Either(rules) => {
                let each: Option<Vec<_>> = rules.iter().map(Self::paths).collect();
                Some(each?.into_iter().flatten().collect())
            }
            _ => None,
        }
    }

    /// What is asked before what, where all or one of several have to hold: the order changes no answer. What is cheap and tells
    /// most goes first.
    pub(super) fn rank(&self) -> usize {
        match self {
            Self::Path(_) | Self::Paths(_) => 0,
            Self::DestinationPort(_) => 1,
            Self::ServerName(_) | Self::Authenticated(_) | Self::Names(_) | Self::Verified(_) => 2,
            Self::Header(_) => 3,
            Self::Any | Self::Ip(..) => 4,
            Self::Metadata(_) | Self::RouteMetadata(_) | Self::FilterState(_) | Self::UriTemplate(_) => 5,
            Self::Not(rule) => rule.rank(),
            Self::All(rules) | Self::Either(rules) => rules.iter().map(Self::rank).min().unwrap_or(0),
        }
    }

    fn exact(&self) -> Option<&str> {
        match self {
            Self::Path(path) => path.as_exact(),
            Self::Authenticated(Some(name)) => name.as_exact(),
            _ => None,
        }
    }

    /// Whether it holds.
    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        let connection = &facts.info.connection;
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(facts)),
            Self::Either(rules) => rules.iter().any(|rule| rule.holds(facts)),
            Self::Not(rule) => !rule.holds(facts),
            Self::Header(header) => facts.request.is_some_and(|request| header.matches_request(request)),
            Self::Path(path) => facts.path.is_some_and(|of| path.matches_path_only(of)),
            Self::Paths(paths) => facts.path.is_some_and(|path| paths.contains(path)),
            Self::UriTemplate(template) => facts.path.is_some_and(|path| template.matches(path)),
            Self::Ip(whose, range) => facts.ip(*whose).is_some_and(|ip| range.contains(ip)),
            Self::DestinationPort(ports) => {
                connection.local.port().is_some_and(|port| ports.contains(&u32::from(port)))
            }
            Self::Metadata(metadata) => metadata.matches_dynamic(facts.info),
            Self::RouteMetadata(metadata) => facts.route.is_some_and(|of| metadata.matches(of)),
            Self::ServerName(name) => {
                let asked = connection.server_name.as_ref().map_or("", |name| name.as_str());
                name.matches(asked.as_bytes())
            }
            Self::Authenticated(name) => connection.tls.as_ref().is_some_and(|tls| match name {
                Some(name) => has_name(tls, |of| name.matches(of.as_bytes())),
                None => true,
            }),
            Self::Verified(san) => connection.tls.as_ref().is_some_and(|tls| {
                let peer = tls.peer_certificate().and_then(|peer| peer.content.as_ref());
                tls.validated && san.as_ref().is_none_or(|san| peer.is_some_and(|peer| san.is_in(peer)))
            }),
            Self::Names(names) => {
                connection.tls.as_ref().is_some_and(|tls| has_name(tls, |of| names.contains(of)))
            }
            Self::FilterState(state) => state.matches(facts.info),
        }
    }
}

/// Takes the exact texts of the rules that `is_exact`, if there are many.
fn take_many(rules: &mut Vec<Rule>, is_exact: impl Fn(&Rule) -> bool) -> Option<HashSet<Box<str>>> {
    if rules.iter().filter(|rule| is_exact(rule)).count() < MIN_HASHED {
        return None;
    }
    let taken = rules.extract_if(.., |rule| is_exact(rule));
    Some(taken.filter_map(|rule| rule.exact().map(Box::from)).collect())
}

/// Whether one of the peer's names is meant: its URIs, its names of DNS, its subject (which is empty if it showed no
/// certificate).
fn has_name(tls: &TlsInfo, is_meant: impl Fn(&str) -> bool) -> bool {
    let Some(peer) = tls.peer_certificate().and_then(|peer| peer.content.as_ref()) else {
        return is_meant("");
    };
    peer.sans_of(&SanKind::Uri).any(&is_meant)
        || peer.sans_of(&SanKind::Dns).any(&is_meant)
        || is_meant(&peer.subject)
}

fn ip(field: &'static str, whose: Whose, range: &CidrRange, cx: &mut BuildCx<'_>) -> Result<Rule, Rejected> {
    cx.at(field, |cx| Cidr::build(range, cx)).map(|range| Rule::Ip(whose, range))
}

fn port_range(range: &Int32Range, cx: &mut BuildCx<'_>) -> Result<Range<u32>, Rejected> {
    const END: i32 = 65536;
    let Int32Range { start, end } = *range;
    for (what, port) in [("start", start), ("end", end)] {
        if !(0..=END).contains(&port) {
            return Err(cx.reject(format!("range {what} {port} is out of bounds")));
        }
    }
    if start >= end {
        return Err(cx.reject(format!("range start {start} cannot be greater or equal than range end {end}")));
    }
    Ok(start.unsigned_abs()..end.unsigned_abs())
}

fn sourced_metadata(proto: &proto::SourcedMetadata, cx: &mut BuildCx<'_>) -> Result<Rule, Rejected> {
    cx.at("sourced_metadata", |cx| {
        let proto::SourcedMetadata { metadata_matcher, metadata_source } = proto;
        let matcher = cx.at("metadata_matcher", |cx| match metadata_matcher {
            Some(matcher) => MetadataMatcher::build(matcher, cx),
            None => Err(cx.reject("value is required")),
        })?;
        match MetadataSource::try_from(*metadata_source) {
            Ok(MetadataSource::Dynamic) => Ok(Rule::Metadata(matcher)),
            Ok(MetadataSource::Route) => Ok(Rule::RouteMetadata(matcher)),
            Err(_) => {
                Err(cx.at("metadata_source", |cx| cx.reject("value must be one of the defined enum values")))
            }
        }
    })
}

/// A principal of an extension: there is one.
fn custom(extension: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Rule, Rejected> {
    let Some(any) = &extension.typed_config else {
        return Err(cx.at("typed_config", |cx| cx.reject("value is required")));
    };
    cx.at("typed_config", |cx| {
        let (message, payload) = cx.unpack(any)?;
        if message != MTLS_AUTHENTICATED {
            return Err(cx.reject(format!(
                "Didn't find a registered implementation for '{}' with type URL: '{message}'",
                extension.name
            )));
        }
        let MtlsAuthenticated { san_matcher, any_validated_client_certificate } = decode(&payload, cx)?;
        if san_matcher.is_none() && !any_validated_client_certificate {
            return Err(cx.reject("one of san_matcher, any_validated_client_certificate must be set"));
        }
        let san = san_matcher.map(|san| cx.at("san_matcher", |cx| SanMatcher::build(&san, cx)).map(Box::new));
        san.transpose().map(Rule::Verified)
    })
}

fn uri_template(extension: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Rule, Rejected> {
    let Some(any) = &extension.typed_config else {
        return Err(cx.at("typed_config", |cx| cx.reject("value is required")));
    };
    cx.at("typed_config", |cx| {
        let (message, payload) = cx.unpack(any)?;
        if message != URI_TEMPLATE {
            return Err(cx.reject(format!("{message} is no path matcher that is available")));
        }
        UriTemplate::build(&decode(&payload, cx)?, cx).map(Rule::UriTemplate)
    })
}
