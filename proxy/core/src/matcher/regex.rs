//! Regular expressions in RE2's dialect (`envoy.type.matcher.v3.RegexMatcher`), on the `regex` crate.
//!
//! Both are linear-time automata of one family; `translate` bridges the dialects: ASCII `\d \w \s \b`, `\Q..\E`, octal
//! escapes, literal `{`, no set operations in classes. What RE2 has and we have not (`\C`) is rejected; what RE2 lacks
//! (`(?x)`, `a**`) is rejected as RE2 does. Envoy's program size limit (`re2.max_program_size.error_level`, 100 by
//! default) is enforced on an estimate of RE2's program that is exact for common expressions and too low, never too high,
//! for others.
//! Source: RE2 `doc/syntax.txt`; Envoy `api/envoy/type/matcher/v3/regex.proto`.

#![allow(deprecated, reason = "engine_type is still sent by control planes")]

mod program_size;
mod translate;

use std::fmt;

use bytes::Bytes;
use regex::bytes as engine;
use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::regex_matcher::EngineType;

use crate::config::{BuildCx, Rejected};

/// Envoy's default of `re2.max_program_size.error_level`.
const DEFAULT_MAX_PROGRAM_SIZE: u64 = 100;
/// Bytes that one compiled expression may take.
const COMPILED_SIZE_LIMIT: usize = 10 << 20;

/// A compiled regular expression, shared by its clones.
#[derive(Clone)]
pub struct Regex {
    full: engine::Regex,
    source: Box<str>,
}

impl Regex {
    /// Builds from the message, enforcing the program size limit of the runtime.
    pub fn build(proto: &proto::RegexMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        check(proto, cx)?;
        Self::new(&proto.regex).map_err(|reason| cx.reject(reason))
    }

    /// Compiles an expression in RE2's dialect, without the limit on its size.
    pub fn new(re2: &str) -> Result<Self, String> {
        let full = compile(&format!(r"\A(?:{})\z", translate::translate(re2)?))?;
        Ok(Self { full, source: re2.into() })
    }

    /// Whether the whole of `value` matches.
    pub fn is_full_match(&self, value: &[u8]) -> bool {
        self.full.is_match(value)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// A regular expression in RE2's dialect that may match any part of a text, as filters of the admin interface do.
#[derive(Clone, Debug)]
pub struct Search(engine::Regex);

impl Search {
    /// Compiles an expression.
    pub fn new(re2: &str) -> Result<Self, String> {
        compile(&translate::translate(re2)?).map(Self)
    }

    /// Compiles an expression that is no longer than configurations may have it.
    pub fn limited(re2: &str) -> Result<Self, String> {
        let translated = translate::translate(re2)?;
        if program_size::estimate(&translated) > DEFAULT_MAX_PROGRAM_SIZE {
            return Err("regular expression exceeds max allowed size".into());
        }
        compile(&translated).map(Self)
    }

    /// Whether some part of `value` matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

/// `envoy.type.matcher.v3.RegexMatchAndSubstitute`: replaces every match, `\0` to `\9` naming groups.
///
/// Substitutions that make no sense are accepted, as Envoy accepts them, and do what they do there: one that names a group
/// that the pattern lacks replaces nothing, and one is cut off at a backslash that nothing valid follows.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    pattern: engine::Regex,
    /// `None` replaces nothing.
    substitution: Option<Box<[Part]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Bytes),
    Group(usize),
}

impl RegexRewrite {
    /// Builds from the message.
    pub fn build(proto: &proto::RegexMatchAndSubstitute, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RegexMatchAndSubstitute { pattern, substitution } = proto;
        let Some(pattern) = pattern else {
            return Err(cx.at("pattern", |cx| cx.reject("value is required")));
        };
        let pattern = cx.at("pattern", |cx| {
            check(pattern, cx)?;
            let translated = translate::translate(&pattern.regex).map_err(|reason| cx.reject(reason))?;
            compile(&translated).map_err(|reason| cx.reject(reason))
        })?;
        let substitution = parse_substitution(substitution, pattern.captures_len() - 1);
        Ok(Self { pattern, substitution })
    }

    /// `value` with every match replaced; `None` if nothing was.
    pub fn replace_all(&self, value: &[u8]) -> Option<Vec<u8>> {
        let substitution = self.substitution.as_deref()?;
        let mut matches = self.pattern.captures_iter(value).peekable();
        matches.peek()?;
        let mut replaced = Vec::with_capacity(value.len() + 32);
        let mut end = 0;
        for captures in matches {
            let Some(whole) = captures.get(0) else { continue };
            replaced.extend_from_slice(&value[end..whole.start()]);
            end = whole.end();
            for part in substitution {
                match part {
                    Part::Literal(text) => replaced.extend_from_slice(text),
                    Part::Group(group) => {
                        replaced
                            .extend_from_slice(captures.get(*group).map_or(b"", |group| group.as_bytes()));
                    }
                }
            }
        }
        replaced.extend_from_slice(&value[end..]);
        Some(replaced)
    }
}

/// Reads `\0`..`\9` and `\\` up to a backslash followed by anything else; `None` if a group does not exist.
fn parse_substitution(text: &str, groups: usize) -> Option<Box<[Part]>> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group > groups {
                    return None;
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(group));
            }
            _ => break,
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Some(parts.into_boxed_slice())
}

fn compile(translated: &str) -> Result<engine::Regex, String> {
    engine::RegexBuilder::new(translated)
        .size_limit(COMPILED_SIZE_LIMIT)
        .build()
        .map_err(|error| format!("invalid regular expression: {error}"))
}

fn check(proto: &proto::RegexMatcher, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let proto::RegexMatcher { regex, engine_type } = proto;
    if regex.is_empty() {
        return Err(cx.at("regex", |cx| cx.reject("value length must be at least 1 characters")));
    }
    let limit = match engine_type {
        Some(EngineType::GoogleRe2(engine)) if engine.max_program_size.is_some() => {
            engine.max_program_size.map_or(DEFAULT_MAX_PROGRAM_SIZE, u64::from)
        }
        Some(EngineType::GoogleRe2(_)) | None => {
            cx.env.runtime.number("re2.max_program_size.error_level").unwrap_or(DEFAULT_MAX_PROGRAM_SIZE)
        }
    };
    let translated = translate::translate(regex).map_err(|reason| cx.reject(reason))?;
    let size = program_size::estimate(&translated);
    if size > limit {
        return Err(cx.reject(format!(
            "regex '{regex}' RE2 program size of {size} > max program size of {limit} set for the error level \
             threshold. Increase configured max program size if necessary."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
