//! Regular expressions in RE2's dialect, string matchers and rewrites: no panic, and they agree with each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_core::matcher::regex::{RegexRewrite, Search};
use proxy_core::matcher::{Regex, StringMatcher};
use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

fuzz_target!(|input: (bool, &str, &str, &str)| {
    let (ignore_case, pattern, substitution, text) = input;
    if pattern.len() <= 128 {
        regexes(pattern, substitution, text);
    }
    strings(ignore_case, pattern, text);
});

fn regexes(pattern: &str, substitution: &str, text: &str) {
    let Ok(full) = Regex::new(pattern) else { return };
    let search = Search::new(pattern).expect("what matches a whole text matches a part of one");
    assert_eq!(full.as_str(), pattern);
    assert!(!full.is_full_match(text.as_bytes()) || search.is_match(text.as_bytes()));
    let anchored = Search::new(&format!(r"\A(?:{pattern})\z"));
    if let Ok(anchored) = anchored {
        assert_eq!(anchored.is_match(text.as_bytes()), full.is_full_match(text.as_bytes()));
    }
    let env = outrigger_fuzz::env();
    let rewrite = |substitution: &str| {
        let regex = proto::RegexMatcher { regex: pattern.to_owned(), ..proto::RegexMatcher::default() };
        let proto =
            proto::RegexMatchAndSubstitute { pattern: Some(regex), substitution: substitution.to_owned() };
        RegexRewrite::build(&proto, &mut BuildCx::new(&env)).ok()
    };
    let Some(same) = rewrite(r"\0") else { return };
    let replaced = same.replace_all(text.as_bytes());
    assert_eq!(replaced.is_some(), search.is_match(text.as_bytes()));
    assert!(replaced.is_none_or(|replaced| replaced == text.as_bytes()), "matches for themselves");
    if let Some(rewrite) = rewrite(substitution) {
        let _ = rewrite.replace_all(text.as_bytes());
    }
}

fn strings(ignore_case: bool, pattern: &str, text: &str) {
    let patterns = [
        MatchPattern::Exact(pattern.to_owned()),
        MatchPattern::Prefix(pattern.to_owned()),
        MatchPattern::Suffix(pattern.to_owned()),
        MatchPattern::Contains(pattern.to_owned()),
    ];
    let (mut lower_pattern, mut lower_text) = (pattern.to_owned(), text.to_owned());
    if ignore_case {
        lower_pattern.make_ascii_lowercase();
        lower_text.make_ascii_lowercase();
    }
    let expected = [
        lower_text == lower_pattern,
        lower_text.starts_with(&lower_pattern),
        lower_text.ends_with(&lower_pattern),
        lower_text.contains(&lower_pattern),
    ];
    let env = outrigger_fuzz::env();
    for (match_pattern, expected) in patterns.into_iter().zip(expected) {
        let proto = proto::StringMatcher { ignore_case, match_pattern: Some(match_pattern) };
        if let Ok(matcher) = StringMatcher::build(&proto, &mut BuildCx::new(&env)) {
            assert_eq!(matcher.matches(text.as_bytes()), expected, "{proto:?} {text}");
        }
    }
}
