//! Predicates: what has to be so of an input, or of several.

#![allow(deprecated, reason = "the regex engine is still told, and demanded here")]

use xds_api::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use xds_api::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use xds_api::envoy::r#type::matcher::v3 as envoy;
use xds_api::xds::core::v3::TypedExtensionConfig;
use xds_api::xds::r#type::matcher::v3 as proto;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list as list;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list::predicate::single_predicate::Matcher;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate,
};

use super::Inputs;
use super::input::{Input, Value};
use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::facts::Facts;
use crate::matcher::{CidrSet, StringMatcher, ValueMatcher};
use crate::stats::{OneOff, SharedCounter};

const IP: &str = "envoy.extensions.matching.input_matchers.ip.v3.Ip";
const METADATA: &str = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata";

/// What has to be so.
pub(super) enum Predicate {
    Single(Input, Test),
    Either(Box<[Predicate]>),
    All(Box<[Predicate]>),
    Not(Box<Predicate>),
}

/// What the value of an input has to be.
pub(super) enum Test {
    Text(StringMatcher),
    Ip { ranges: CidrSet, unreadable: OneOff<SharedCounter> },
    Metadata { value: ValueMatcher, invert: bool },
}

impl Predicate {
    /// Builds one.
    pub(super) fn build(
        proto: &list::Predicate,
        inputs: &Inputs<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let several = |field, of: &PredicateList, cx: &mut BuildCx<'_>| {
            cx.at(field, |cx| {
                let too_few = "value must contain at least 2 item(s)";
                cx.reject_if(of.predicate.len() < 2, "predicate", too_few)?;
                cx.each("predicate", &of.predicate, |one, cx| Self::build(one, inputs, cx))
            })
        };
        match &proto.match_type {
            None => Err(cx.reject("match_type: value is required")),
            Some(MatchType::SinglePredicate(SinglePredicate { input, matcher })) => {
                cx.at("single_predicate", |cx| {
                    let input = cx.at("input", |cx| Input::build(input.as_ref(), inputs, cx))?;
                    let test = Test::build(matcher.as_ref(), &input, cx)?;
                    Ok(Self::Single(input, test))
                })
            }
            Some(MatchType::OrMatcher(of)) => Ok(Self::Either(several("or_matcher", of, cx)?.into())),
            Some(MatchType::AndMatcher(of)) => Ok(Self::All(several("and_matcher", of, cx)?.into())),
            Some(MatchType::NotMatcher(of)) => {
                cx.at("not_matcher", |cx| Self::build(of, inputs, cx)).map(|of| Self::Not(Box::new(of)))
            }
        }
    }

    /// Whether it is so; `None` if what has to be known cannot be had.
    pub(super) fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::Single(input, test) => match input.value(facts) {
                Value::Unavailable => None,
                value => Some(test.holds(&value)),
            },
            Self::Not(of) => of.holds(facts).map(|holds| !holds),
            Self::All(of) => {
                for one in of {
                    if !one.holds(facts)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
            Self::Either(of) => {
                let mut all_known = true;
                for one in of {
                    match one.holds(facts) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => all_known = false,
                    }
                }
                all_known.then_some(false)
            }
        }
    }
}

impl Test {
    fn build(proto: Option<&Matcher>, input: &Input, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let (field, test) = match proto {
            None => return Err(cx.reject("one of value_match, custom_match is required")),
            Some(Matcher::ValueMatch(text)) => {
                let text = cx.at("value_match", |cx| StringMatcher::build(&of_envoy(text), cx))?;
                ("value_match", Self::Text(text))
            }
            Some(Matcher::CustomMatch(extension)) => {
                ("custom_match", cx.at("custom_match", |cx| Self::build_custom(extension, cx))?)
            }
        };
        if input.is_text() == matches!(test, Self::Metadata { .. }) {
            return Err(cx.at(field, |cx| cx.reject("does not understand what the input has")));
        }
        Ok(test)
    }

    fn build_custom(extension: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        super::unpacked(extension, cx, |message, payload, cx| match message {
            IP => {
                let Ip { cidr_ranges, stat_prefix } = decode(payload, cx)?;
                let ranges = CidrSet::build("cidr_ranges", &cidr_ranges, cx)?;
                let unreadable = cx.env.stats.scope(&stat_prefix).counter("ip_parsing_failed");
                Ok(Self::Ip { ranges, unreadable })
            }
            METADATA => {
                let Metadata { value, invert } = decode(payload, cx)?;
                let value = cx.at("value", |cx| match &value {
                    Some(value) => ValueMatcher::build(value, cx),
                    None => Err(cx.reject("value is required")),
                })?;
                Ok(Self::Metadata { value, invert })
            }
            other => Err(cx.reject(format!("{other} is no matcher that is available here"))),
        })
    }

    fn holds(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Text(matcher), Value::Text(text)) => matcher.matches(text),
            (Self::Ip { ranges, unreadable }, Value::Text(text)) => {
                match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
                    Some(ip) => ranges.contains(ip),
                    None => {
                        unreadable.inc();
                        false
                    }
                }
            }
            (Self::Metadata { value: matcher, invert }, Value::Data(data)) => {
                matcher.matches(*data) != *invert
            }
            (Self::Text(_) | Self::Ip { .. } | Self::Metadata { .. }, _) => false,
        }
    }
}

/// The same in Envoy's own words.
fn of_envoy(proto: &proto::StringMatcher) -> envoy::StringMatcher {
    use envoy::string_matcher::MatchPattern as To;
    use proto::string_matcher::MatchPattern as From;
    let proto::StringMatcher { ignore_case, match_pattern } = proto;
    let pattern = match_pattern.as_ref().map(|pattern| match pattern {
        From::Exact(text) => To::Exact(text.clone()),
        From::Prefix(text) => To::Prefix(text.clone()),
        From::Suffix(text) => To::Suffix(text.clone()),
        From::Contains(text) => To::Contains(text.clone()),
        From::SafeRegex(proto::RegexMatcher { regex, engine_type }) => {
            use envoy::regex_matcher::{EngineType, GoogleRe2};
            use proto::regex_matcher::EngineType::GoogleRe2 as Only;
            let engine = engine_type.map(|Only(_)| EngineType::GoogleRe2(GoogleRe2::default()));
            To::SafeRegex(envoy::RegexMatcher { regex: regex.clone(), engine_type: engine })
        }
        From::Custom(extension) => To::Custom(extension.clone()),
    });
    envoy::StringMatcher { ignore_case: *ignore_case, match_pattern: pattern }
}
