//! `envoy.type.matcher.v3.StringMatcher`: exact, prefix, suffix, contains or a full regex match, in any case if asked.

use memchr::memmem;
use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::regex::Regex;
use crate::config::{BuildCx, Rejected};

/// Matches one string.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    case: Case,
}

/// Whether upper and lower case of ASCII letters differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// They differ.
    Sensitive,
    /// They do not.
    Insensitive,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Regex(Regex),
}

impl StringMatcher {
    /// Matches exactly `text`.
    pub fn exact(text: &str) -> Self {
        Self { pattern: Pattern::Exact(text.into()), case: Case::Sensitive }
    }

    /// Matches what starts with `text`.
    pub fn prefix(text: &str) -> Self {
        Self { pattern: Pattern::Prefix(text.into()), case: Case::Sensitive }
    }

    /// Matches what ends with `text`.
    pub fn suffix(text: &str) -> Self {
        Self { pattern: Pattern::Suffix(text.into()), case: Case::Sensitive }
    }

    /// Matches what contains `text`.
    pub fn contains(text: &str) -> Self {
        Self { pattern: Pattern::Contains(text.into()), case: Case::Sensitive }
    }

    /// Matches what `regex` matches as a whole.
    pub fn regex(regex: Regex) -> Self {
        Self { pattern: Pattern::Regex(regex), case: Case::Sensitive }
    }

    /// Builds from the message; `custom` is rejected, and so is `ignore_case` with a regex, as in Envoy.
    pub fn build(proto: &proto::StringMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::StringMatcher { ignore_case, match_pattern } = proto;
        let case = if *ignore_case { Case::Insensitive } else { Case::Sensitive };
        let Some(pattern) = match_pattern else {
            return Err(cx.reject("one of exact, prefix, suffix, safe_regex, contains must be set"));
        };
        let text = |text: &String| -> Box<str> {
            match case {
                Case::Sensitive => text.as_str().into(),
                Case::Insensitive => text.to_ascii_lowercase().into(),
            }
        };
        let mut some = |text: Box<str>, field| match text.is_empty() {
            true => Err(cx.at(field, |cx| cx.reject("value length must be at least 1 characters"))),
            false => Ok(text),
        };
        let pattern = match pattern {
            MatchPattern::Exact(exact) => Pattern::Exact(text(exact)),
            MatchPattern::Prefix(prefix) => Pattern::Prefix(some(text(prefix), "prefix")?),
            MatchPattern::Suffix(suffix) => Pattern::Suffix(some(text(suffix), "suffix")?),
            MatchPattern::Contains(part) => Pattern::Contains(some(text(part), "contains")?),
            MatchPattern::SafeRegex(_) if *ignore_case => {
                return Err(cx.reject("ignore_case has no effect for safe_regex."));
            }
            MatchPattern::SafeRegex(regex) => {
                Pattern::Regex(cx.at("safe_regex", |cx| Regex::build(regex, cx))?)
            }
            MatchPattern::Custom(_) => {
                return Err(cx.at("custom", |cx| cx.reject("string matcher extensions are not available")));
            }
        };
        Ok(Self { pattern, case })
    }

    /// The one text that matches, if that is all.
    pub fn as_exact(&self) -> Option<&str> {
        match (&self.pattern, self.case) {
            (Pattern::Exact(text), Case::Sensitive) => Some(text),
            _ => None,
        }
    }

    /// What everything that matches begins with, if that is all.
    pub fn as_prefix(&self) -> Option<&str> {
        match (&self.pattern, self.case) {
            (Pattern::Prefix(text), Case::Sensitive) => Some(text),
            _ => None,
        }
    }

    /// Whether `value` matches. Bytes, because header values need not be UTF-8.
    pub fn matches(&self, value: &[u8]) -> bool {
        match (&self.pattern, self.case) {
            (Pattern::Exact(text), Case::Sensitive) => value == text.as_bytes(),
            (Pattern::Exact(text), Case::Insensitive) => value.eq_ignore_ascii_case(text.as_bytes()),
            (Pattern::Prefix(text), case) => {
                value.get(..text.len()).is_some_and(|start| case.equal(start, text.as_bytes()))
            }
            (Pattern::Suffix(text), case) => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|start| case.equal(&value[start..], text.as_bytes())),
            (Pattern::Contains(text), Case::Sensitive) => memmem::find(value, text.as_bytes()).is_some(),
            (Pattern::Contains(text), Case::Insensitive) => {
                value.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
            }
            (Pattern::Regex(regex), _) => regex.is_full_match(value),
        }
    }
}

impl Case {
    /// Whether `a` and `b` are equal in this sense.
    #[inline]
    pub fn equal(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Sensitive => a == b,
            Self::Insensitive => a.eq_ignore_ascii_case(b),
        }
    }
}
