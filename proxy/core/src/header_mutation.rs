//! `envoy.config.common.mutation_rules.v3.HeaderMutation`: one mutation of headers, computed from the headers as they stand, then applied.
//!
//! Source: Envoy `envoy/config/common/mutation_rules/v3/mutation_rules.proto`; what is refused observed on 1.40.

use http::header::{HeaderMap, HeaderName};
use xds_api::envoy::config::common::mutation_rules::v3 as proto;
use xds_api::envoy::config::common::mutation_rules::v3::header_mutation::Action;

use crate::config::FieldUse::Used;
use crate::config::{BuildCx, MessageFields, Rejected};
use crate::extension::access_log::LogEntry;
use crate::header_append::{Addition, Append};
use crate::matcher::StringMatcher;

/// How its fields are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.common.mutation_rules.v3.HeaderMutation",
        &[("remove", Used), ("append", Used), ("remove_on_match", Used)],
    ),
    ("envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch", &[("key_matcher", Used)]),
];

/// A change of one header, or of all whose names match.
#[derive(Debug)]
pub enum Mutation {
    /// Takes the header away.
    Remove(HeaderName),
    /// Takes all headers away whose names match.
    RemoveMatching(StringMatcher),
    /// Adds a header, or puts it in the place of another.
    Append(Append),
    /// Nothing: a name that no header can have.
    Nothing,
}

/// What a mutation does to the headers at hand.
pub enum Change<'m> {
    /// Nothing.
    Nothing,
    /// Takes the header away.
    Remove(&'m HeaderName),
    /// Takes all headers away whose names match.
    RemoveMatching(&'m StringMatcher),
    /// Adds this.
    Append(Addition<'m>),
}

impl Mutation {
    /// Builds from the message.
    pub fn build(proto: &proto::HeaderMutation, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match &proto.action {
            None => Err(cx.reject("action: value is required")),
            Some(Action::Remove(name)) => cx.at("remove", |cx| {
                if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                    return Err(cx.reject(":-prefixed or host headers may not be removed"));
                }
                Ok(HeaderName::try_from(name).map_or(Self::Nothing, Self::Remove))
            }),
            Some(Action::RemoveOnMatch(remove)) => cx.at("remove_on_match", |cx| {
                let Some(matcher) = &remove.key_matcher else {
                    return Err(cx.at("key_matcher", |cx| cx.reject("value is required")));
                };
                cx.at("key_matcher", |cx| StringMatcher::build(matcher, cx)).map(Self::RemoveMatching)
            }),
            Some(Action::Append(option)) => cx.at("append", |cx| Append::build(option, cx)).map(Self::Append),
        }
    }

    /// Computes the change; `entry` is what values refer to.
    pub fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Change<'_> {
        match self {
            Self::Nothing => Change::Nothing,
            Self::Remove(name) => Change::Remove(name),
            Self::RemoveMatching(matcher) => Change::RemoveMatching(matcher),
            Self::Append(append) => append.prepare(headers, entry).map_or(Change::Nothing, Change::Append),
        }
    }
}

impl Change<'_> {
    /// Carries the change out.
    pub fn apply(self, headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
        match self {
            Self::Nothing => {}
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemoveMatching(matcher) => {
                let matching = headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes()));
                for name in matching.cloned().collect::<Vec<_>>() {
                    headers.remove(name);
                }
            }
            Self::Append(addition) => addition.apply(headers, joins),
        }
    }
}
