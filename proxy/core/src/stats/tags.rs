//! Tags: the variable parts of a statistic's name, taken out of it and given a name of their own.
//!
//! An extractor finds one part of a full name (`cluster.foo.upstream_rq_200`), says which characters leave the name and
//! which are the tag's value. All extractors look at the original name; the tag-extracted name is what they leave.
//! The default ones are Envoy's (its "well known names"), written as functions instead of regular expressions; the
//! configured ones are regular expressions with Envoy's rule: the first group leaves the name, the second, or else the
//! first, is the value.
//!
//! Order, as Envoy shows it: `envoy.worker_id`, fixed tags, extractors that could match any name, then those bound to
//! the name's first token; the first extractor that finds a tag wins.

mod defaults;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use regex::Regex;
use xds_api::envoy::config::metrics::v3::{TagSpecifier, tag_specifier::TagValue};

use crate::config::ConfigError;

/// Steps that a regular expression with look-around may take on one name; those without look-around are linear.
const BACKTRACK_LIMIT: usize = 10_000;

/// Where a tag is in a name: what leaves the name, and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    removed: Range<usize>,
    value: Range<usize>,
}

/// A tag of a statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Its name, such as `envoy.cluster_name`.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

#[derive(Debug)]
struct Extractor {
    name: Arc<str>,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Function(fn(&str) -> Option<Found>),
    /// A pattern of tokens: `*` is any, `$` the value, `**` the rest.
    Tokens(&'static str),
    Regex(Regex),
    /// With look-around, which `regex` refuses.
    Fancy(Box<fancy_regex::Regex>),
}

/// Every extractor and fixed tag of the process.
#[derive(Debug)]
pub struct TagProducer {
    worker: Option<Arc<str>>,
    fixed: Vec<(String, String)>,
    anywhere: Vec<Extractor>,
    by_token: HashMap<String, Vec<Extractor>>,
}

impl Default for TagProducer {
    fn default() -> Self {
        let mut producer = Self::empty();
        producer.add_defaults(|_| true);
        producer
    }
}

impl TagProducer {
    /// From `stats_tags`, `use_all_default_tags`, `allow_default_tag_overrides` and the `--stats-tag` options.
    ///
    /// # Errors
    /// A regular expression that does not compile, or a tag without value, expression and default.
    pub(super) fn build(
        specifiers: &[TagSpecifier],
        use_defaults: bool,
        allow_overrides: bool,
        command_line: &[(String, String)],
    ) -> Result<Self, Vec<ConfigError>> {
        let mut producer = Self::empty();
        let mut errors = Vec::new();
        if use_defaults {
            let overridden =
                |name: &str| allow_overrides && specifiers.iter().any(|specifier| specifier.tag_name == name);
            producer.add_defaults(|name| !overridden(name));
        }
        for (name, value) in command_line {
            producer.add_fixed(name, value);
        }
        for (index, specifier) in specifiers.iter().enumerate() {
            if let Err(reason) = producer.add_specifier(specifier) {
                errors.push(ConfigError { path: format!("stats_config.stats_tags[{index}]"), reason });
            }
        }
        if errors.is_empty() { Ok(producer) } else { Err(errors) }
    }

    /// Takes the tags out of `name`, shows each, and returns what is left of the name.
    pub fn extract(&self, name: &str, mut show: impl FnMut(Tag<'_>)) -> String {
        let mut removed: Vec<Range<usize>> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut take = |tag: &Arc<str>, found: Found, removed: &mut Vec<Range<usize>>| {
            // The dots at its end are no part of a name in Envoy's symbol table.
            let value = name.get(found.value).unwrap_or_default().trim_end_matches('.');
            show(Tag { name: tag, value });
            removed.push(found.removed);
        };
        if let Some(worker) = &self.worker
            && let Some(found) = defaults::worker_id(name)
        {
            seen.push(worker);
            take(worker, found, &mut removed);
        }
        seen.extend(self.fixed.iter().map(|(name, _)| name.as_str()));
        let mut found_later = Vec::new();
        let by_token = name.split_once('.').and_then(|(token, _)| self.by_token.get(token));
        for extractor in self.anywhere.iter().chain(by_token.into_iter().flatten()) {
            if !seen.contains(&&*extractor.name)
                && let Some(found) = extractor.rule.find(name)
            {
                seen.push(&extractor.name);
                found_later.push((&extractor.name, found));
            }
        }
        for (tag, found) in found_later {
            take(tag, found, &mut removed);
        }
        without(name, removed)
    }

    /// The name of the tag that stands before the fixed ones if it is a default.
    pub(super) const WORKER_ID: &'static str = defaults::WORKER_ID;

    pub(super) fn leads_with_worker(&self) -> bool {
        self.worker.is_some()
    }

    /// The tags that every statistic has.
    pub fn fixed(&self) -> impl Iterator<Item = Tag<'_>> {
        self.fixed.iter().map(|(name, value)| Tag { name, value })
    }

    fn empty() -> Self {
        Self { worker: None, fixed: Vec::new(), anywhere: Vec::new(), by_token: HashMap::new() }
    }

    fn add_defaults(&mut self, wanted: impl Fn(&str) -> bool) {
        if wanted(defaults::WORKER_ID) {
            self.worker = Some(defaults::WORKER_ID.into());
        }
        for default in defaults::DEFAULTS.iter().filter(|default| wanted(default.name)) {
            self.add(default.token, default.name, default.rule.clone());
        }
    }

    fn add_specifier(&mut self, specifier: &TagSpecifier) -> Result<(), String> {
        let name = specifier.tag_name.as_str();
        if name.is_empty() {
            return Err("tag_name cannot be empty".to_owned());
        }
        match &specifier.tag_value {
            Some(TagValue::FixedValue(value)) => {
                self.add_fixed(name, value);
                Ok(())
            }
            Some(TagValue::Regex(regex)) if !regex.is_empty() => {
                let rule = compile(regex)?;
                self.add(first_token(regex).unwrap_or_default(), name, rule);
                Ok(())
            }
            _ => self.add_default_named(name),
        }
    }

    fn add_default_named(&mut self, name: &str) -> Result<(), String> {
        let mut known = false;
        for default in defaults::DEFAULTS.iter().filter(|default| default.name == name) {
            known = true;
            self.add(default.token, default.name, default.rule.clone());
        }
        if name == defaults::WORKER_ID {
            known = true;
            self.add("", name, Rule::Function(defaults::worker_id));
        }
        if known {
            Ok(())
        } else {
            Err(format!("No regex specified for tag specifier and no default regex for name: '{name}'"))
        }
    }

    /// The first value of a name wins, as in Envoy.
    fn add_fixed(&mut self, name: &str, value: &str) {
        if !self.fixed.iter().any(|(known, _)| known == name) {
            self.fixed.push((name.to_owned(), value.to_owned()));
        }
    }

    fn add(&mut self, token: &str, name: &str, rule: Rule) {
        let extractor = Extractor { name: name.into(), rule };
        if token.is_empty() {
            self.anywhere.push(extractor);
        } else {
            self.by_token.entry(token.to_owned()).or_default().push(extractor);
        }
    }
}

impl Rule {
    fn find(&self, name: &str) -> Option<Found> {
        match self {
            Self::Function(find) => find(name),
            Self::Tokens(pattern) => find_token(pattern, name),
            Self::Regex(regex) => {
                let captures = regex.captures(name)?;
                let removed = captures.get(1)?.range();
                let value = captures.get(2).map_or_else(|| removed.clone(), |value| value.range());
                Some(Found { removed, value })
            }
            Self::Fancy(regex) => {
                // An expression that exceeds its limit on some name does not match it.
                let captures = regex.captures(name).ok()??;
                let removed = captures.get(1)?.range();
                let value = captures.get(2).map_or_else(|| removed.clone(), |value| value.range());
                Some(Found { removed, value })
            }
        }
    }
}

/// Envoy takes ECMAScript expressions; those that `regex` refuses (look-ahead) run on a backtracking engine.
fn compile(pattern: &str) -> Result<Rule, String> {
    let plain = match Regex::new(pattern) {
        Ok(regex) => return Ok(Rule::Regex(regex)),
        Err(error) => error,
    };
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .build()
        .map(|regex| Rule::Fancy(Box::new(regex)))
        .map_err(|_| format!("Invalid regex '{pattern}': {plain}"))
}

/// The first token of every name that the expression can match, if it says so: `^listener\.` or `^listener(?=\.)`.
fn first_token(regex: &str) -> Option<&str> {
    let anchored = regex.strip_prefix('^')?;
    let end = anchored.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (token, rest) = anchored.split_at(end);
    let dot_follows = rest.starts_with("\\.") || rest.starts_with("(?=\\.)");
    (!token.is_empty() && (dot_follows || rest == "$")).then_some(token)
}

fn find_token(pattern: &str, name: &str) -> Option<Found> {
    let mut value = None;
    let mut at = 0;
    let mut tokens = name.split('.');
    for part in pattern.split('.') {
        if part == "**" {
            return value.map(|value| with_dot(name, value));
        }
        let token = tokens.next()?;
        match part {
            "$" => value = Some(at..at + token.len()),
            "*" => {}
            literal if literal == token => {}
            _ => return None,
        }
        at += token.len() + 1;
    }
    if tokens.next().is_some() { None } else { value.map(|value| with_dot(name, value)) }
}

/// A token leaves the name together with the dot behind it, or before it if it is the last.
fn with_dot(name: &str, value: Range<usize>) -> Found {
    let removed = if value.end < name.len() {
        value.start..value.end + 1
    } else {
        value.start.saturating_sub(1)..value.end
    };
    Found { removed, value }
}

/// The name without the removed spans (which may overlap) and without dots at its end.
fn without(name: &str, mut removed: Vec<Range<usize>>) -> String {
    removed.sort_by_key(|span| span.start);
    let mut left = String::with_capacity(name.len());
    let mut at = 0;
    for span in removed {
        if span.start > at {
            left.push_str(name.get(at..span.start).unwrap_or_default());
        }
        at = at.max(span.end);
    }
    left.push_str(name.get(at..).unwrap_or_default());
    left.truncate(left.trim_end_matches('.').len());
    left
}

#[cfg(test)]
mod tests;
