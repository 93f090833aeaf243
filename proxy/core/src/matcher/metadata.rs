//! `MetadataMatcher`, `ValueMatcher` and `FilterStateMatcher` of `envoy.type.matcher.v3`: what filters left on a stream.

use prost_types::Value;
use prost_types::value::Kind;
use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::double_matcher::MatchPattern as DoublePattern;
use xds_api::envoy::r#type::matcher::v3::filter_state_matcher::Matcher as FilterStateKind;
use xds_api::envoy::r#type::matcher::v3::list_matcher::MatchPattern as ListPattern;
use xds_api::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use xds_api::envoy::r#type::matcher::v3::value_matcher::MatchPattern;

use super::cidr::CidrSet;
use super::string::StringMatcher;
use crate::config::{BuildCx, Rejected};
use crate::metadata::Metadata;
use crate::stream_info::StreamInfo;

/// A value matcher may be nested so deep.
const MAX_DEPTH: usize = 16;

/// Matches one value of metadata by namespace and path.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    namespace: Box<str>,
    path: Box<[String]>,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::MetadataMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::MetadataMatcher { filter, path, value, invert } = proto;
        let path = cx.each("path", path, |segment, cx| match &segment.segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            None => Err(cx.reject("key must be set")),
        })?;
        let Some(value) = value else {
            return Err(cx.at("value", |cx| cx.reject("value is required")));
        };
        let value = cx.at("value", |cx| ValueMatcher::build(value, cx))?;
        Ok(Self { namespace: filter.as_str().into(), path: path.into(), value, invert: *invert })
    }

    /// Whether metadata set by filters matches.
    pub fn matches_dynamic(&self, info: &StreamInfo) -> bool {
        self.value.matches(info.dynamic_metadata(&self.namespace, &self.path)) != self.invert
    }

    /// Whether metadata of a configured object matches.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.value(&self.namespace, &self.path)) != self.invert
    }
}

/// Matches a JSON-like value.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    /// Matches `null`.
    Null,
    /// Matches a number from `start` up to but not `end`.
    Range {
        /// First number that matches.
        start: f64,
        /// First number that does not match any more.
        end: f64,
    },
    /// Matches exactly this number.
    Number(f64),
    /// Matches a string.
    String(StringMatcher),
    /// Matches exactly this truth value.
    Bool(bool),
    /// Matches if the value is there.
    Present(bool),
    /// Matches a list if one of its values matches.
    ListOneOf(Box<ValueMatcher>),
    /// Matches if one of these matches.
    Or(Box<[ValueMatcher]>),
}

impl ValueMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::ValueMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Self::build_nested(proto, 0, cx)
    }

    fn build_nested(
        proto: &proto::ValueMatcher,
        depth: usize,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        if depth == MAX_DEPTH {
            return Err(cx.reject(format!("value matchers are nested deeper than {MAX_DEPTH}")));
        }
        Ok(match &proto.match_pattern {
            None => return Err(cx.reject("match_pattern: value is required")),
            Some(MatchPattern::NullMatch(_)) => Self::Null,
            Some(MatchPattern::DoubleMatch(double)) => match &double.match_pattern {
                Some(DoublePattern::Range(range)) => Self::Range { start: range.start, end: range.end },
                Some(DoublePattern::Exact(number)) => Self::Number(*number),
                None => {
                    return Err(cx.at("double_match", |cx| cx.reject("match_pattern: value is required")));
                }
            },
            Some(MatchPattern::StringMatch(string)) => {
                Self::String(cx.at("string_match", |cx| StringMatcher::build(string, cx))?)
            }
            Some(MatchPattern::BoolMatch(expected)) => Self::Bool(*expected),
            Some(MatchPattern::PresentMatch(present)) => Self::Present(*present),
            Some(MatchPattern::ListMatch(list)) => cx.at("list_match", |cx| match &list.match_pattern {
                Some(ListPattern::OneOf(one)) => {
                    let one = cx.at("one_of", |cx| Self::build_nested(one, depth + 1, cx))?;
                    Ok(Self::ListOneOf(Box::new(one)))
                }
                None => Err(cx.reject("match_pattern: value is required")),
            })?,
            Some(MatchPattern::OrMatch(or)) => cx.at("or_match", |cx| {
                let all = cx.each("value_matchers", &or.value_matchers, |one, cx| {
                    Self::build_nested(one, depth + 1, cx)
                })?;
                Ok(Self::Or(all.into()))
            })?,
        })
    }

    /// Whether `value`, or its absence, matches.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|value| value.kind.as_ref());
        match (self, kind) {
            // as in Envoy: what is not there is never matched, not even by `present_match: false`
            (Self::Present(present), kind) => *present && kind.is_some(),
            (Self::Or(all), _) => all.iter().any(|one| one.matches(value)),
            (Self::Null, Some(Kind::NullValue(_))) => true,
            (Self::Range { start, end }, Some(Kind::NumberValue(number))) => {
                *start <= *number && *number < *end
            }
            #[allow(clippy::float_cmp, reason = "`exact` means exact")]
            (Self::Number(expected), Some(Kind::NumberValue(number))) => number == expected,
            (Self::String(string), Some(Kind::StringValue(text))) => string.matches(text.as_bytes()),
            (Self::Bool(expected), Some(Kind::BoolValue(value))) => value == expected,
            (Self::ListOneOf(one), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|value| one.matches(Some(value)))
            }
            (
                Self::Null
                | Self::Range { .. }
                | Self::Number(_)
                | Self::String(_)
                | Self::Bool(_)
                | Self::ListOneOf(_),
                _,
            ) => false,
        }
    }
}

/// Matches one value of the filter state by its text.
#[derive(Clone, Debug)]
pub struct FilterStateMatcher {
    key: Box<str>,
    kind: FilterStateValue,
}

#[derive(Clone, Debug)]
enum FilterStateValue {
    String(StringMatcher),
    Address { ranges: CidrSet, invert: bool },
}

impl FilterStateMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::FilterStateMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::FilterStateMatcher { key, matcher } = proto;
        let kind = match matcher {
            Some(FilterStateKind::StringMatch(string)) => {
                FilterStateValue::String(cx.at("string_match", |cx| StringMatcher::build(string, cx))?)
            }
            Some(FilterStateKind::AddressMatch(address)) => cx.at("address_match", |cx| {
                let ranges = CidrSet::build_xds("ranges", &address.ranges, cx)?;
                Ok(FilterStateValue::Address { ranges, invert: address.invert_match })
            })?,
            None => return Err(cx.reject("matcher: value is required")),
        };
        Ok(Self { key: key.as_str().into(), kind })
    }

    /// Whether the value in the filter state matches; a missing value or one without a text form does not.
    pub fn matches(&self, info: &StreamInfo) -> bool {
        let Some(text) = info.filter_state(&self.key).and_then(|value| value.to_text()) else { return false };
        match &self.kind {
            FilterStateValue::String(string) => string.matches(text.as_bytes()),
            FilterStateValue::Address { ranges, invert } => {
                let ip = text
                    .parse()
                    .ok()
                    .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
                ip.is_some_and(|ip| ranges.contains(ip) != *invert)
            }
        }
    }
}
