//! Which statistics exist at all (`stats_matcher`), by patterns on their full names.

use xds_api::envoy::config::metrics::v3::{StatsMatcher as Proto, stats_matcher::StatsMatcher as Kind};
use xds_api::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher::MatchPattern};

use crate::config::ConfigError;
use crate::matcher::regex::Regex;

/// One pattern on a name: `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug)]
pub(super) enum NamePattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
    /// The same on lower case.
    IgnoringCase(Box<NamePattern>),
}

impl NamePattern {
    pub(super) fn build(proto: &StringMatcher, path: &str) -> Result<Self, ConfigError> {
        let fold = |text: &String| if proto.ignore_case { text.to_lowercase() } else { text.clone() };
        let refuse = |reason: String| ConfigError { path: path.to_owned(), reason };
        let pattern = match &proto.match_pattern {
            Some(MatchPattern::Exact(text)) => Self::Exact(fold(text)),
            Some(MatchPattern::Prefix(text)) => Self::Prefix(fold(text)),
            Some(MatchPattern::Suffix(text)) => Self::Suffix(fold(text)),
            Some(MatchPattern::Contains(text)) => Self::Contains(fold(text)),
            Some(MatchPattern::SafeRegex(regex)) => {
                // Envoy matches the whole name and ignores `ignore_case` here.
                return Regex::new(&regex.regex)
                    .map(Self::Regex)
                    .map_err(|error| refuse(format!("Invalid regex '{}': {error}", regex.regex)));
            }
            Some(MatchPattern::Custom(_)) => {
                return Err(refuse("custom string matchers are not supported here".to_owned()));
            }
            None => return Err(refuse("match_pattern is required".to_owned())),
        };
        Ok(if proto.ignore_case { Self::IgnoringCase(Box::new(pattern)) } else { pattern })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text.as_str()),
            Self::Suffix(text) => name.ends_with(text.as_str()),
            Self::Contains(text) => name.contains(text.as_str()),
            Self::Regex(regex) => regex.is_full_match(name.as_bytes()),
            Self::IgnoringCase(pattern) => pattern.matches(&name.to_lowercase()),
        }
    }
}

/// Decides by its full name whether a statistic exists.
#[derive(Debug, Default)]
pub(super) enum StatsMatcher {
    /// Every statistic does.
    #[default]
    All,
    /// None does.
    None,
    /// All but those.
    Except(Vec<NamePattern>),
    /// Only those.
    Only(Vec<NamePattern>),
}

impl StatsMatcher {
    pub(super) fn build(proto: &Proto) -> Result<Self, Vec<ConfigError>> {
        match &proto.stats_matcher {
            Some(Kind::RejectAll(true)) => Ok(Self::None),
            Some(Kind::RejectAll(false)) => Ok(Self::All),
            Some(Kind::ExclusionList(list)) => patterns(list, "exclusion_list").map(Self::Except),
            Some(Kind::InclusionList(list)) => patterns(list, "inclusion_list").map(Self::Only),
            None => Err(vec![ConfigError {
                path: "stats_config.stats_matcher".to_owned(),
                reason: "stats_matcher is required".to_owned(),
            }]),
        }
    }

    pub(super) fn accepts(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Except(patterns) => !patterns.iter().any(|pattern| pattern.matches(name)),
            Self::Only(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        }
    }

    pub(super) fn accepts_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

fn patterns(list: &ListStringMatcher, field: &str) -> Result<Vec<NamePattern>, Vec<ConfigError>> {
    let mut built = Vec::new();
    let mut errors = Vec::new();
    for (index, proto) in list.patterns.iter().enumerate() {
        let path = format!("stats_config.stats_matcher.{field}.patterns[{index}]");
        match NamePattern::build(proto, &path) {
            Ok(pattern) => built.push(pattern),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(built) } else { Err(errors) }
}
