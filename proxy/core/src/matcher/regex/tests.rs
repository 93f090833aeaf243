use xds_api::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use super::*;
use crate::matcher::tests::{build, build_with};
use crate::runtime::RuntimeLayer;

fn full(regex: &str, value: &str) -> bool {
    Regex::new(regex).unwrap().is_full_match(value.as_bytes())
}

fn matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), engine_type: None }
}

#[test]
fn a_regex_matches_the_whole_value() {
    assert!(full("/a.*", "/abc"));
    assert!(!full("/a", "/ab"));
    assert!(!full("b", "ab"));
    assert!(full("a|ab", "ab"));
}

#[test]
fn the_dialect_is_re2s() {
    for (regex, value, expected) in [
        (r"\d+", "12", true),
        (r"\d", "٣", false),
        (r"\w", "é", false),
        (r"[\d\-x]+", "1-x", true),
        (r"[\w.]+", "a_1.Z", true),
        (r"[^\s]+", "ab", true),
        (r"[^\s]+", "a b", false),
        (r"\Qa.b*\E+", "a.b**", true),
        (r"\Qa.b\E", "axb", false),
        (r"a{", "a{", true),
        (r"a{,2}", "a{,2}", true),
        (r"a{2}", "aa", true),
        (r"a{2,}b", "aaab", true),
        (r"a{1,2}", "aaa", false),
        (r"x]}", "x]}", true),
        (r"\101", "A", true),
        (r"\07", "\x07", true),
        (r"\x41\x{42}", "AB", true),
        (r"\_\-\/", "_-/", true),
        (r"\<a\>", "<a>", true),
        (r"[a&&b]", "&", true),
        (r"[+--]", ",", true),
        (r"[]a]", "]", true),
        (r"[^]a]", "b", true),
        (r"[[:alpha:]_]+", "ab_", true),
        (r"[[a]", "[", true),
        (r"[a-]", "-", true),
        (r"(?i)abc", "aBC", true),
        (r"(?i:a)b", "AB", false),
        (r"(?P<n>a)(?:b)", "ab", true),
        (r"\bfoo\b", "foo", true),
        (r"^a$", "a", true),
        (r"a.c", "a\nc", false),
        (r"(?s)a.c", "a\nc", true),
        (r".", "é", false),
        (r"..", "é", true),
        (r"é", "é", true),
        (r"\pL+", "ab", true),
        (r"\p{^L}", "1", true),
        (r" #", " #", true),
    ] {
        assert_eq!(full(regex, value), expected, "{regex} on {value}");
    }
}

#[test]
fn what_re2_refuses_is_refused() {
    for regex in [
        "a**",
        "a+*",
        "a*+",
        "a??+",
        "a{2}{3}",
        "a{1001}",
        "a{2,1}",
        r"\Z",
        r"\1",
        r"\8",
        "(?x)a",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "[b-a]",
        "[a",
        "(a",
        // Found by fuzzing: it closes the group that the translation puts around it.
        ").(",
        "a)|(b",
        "a)",
        "*a",
        r"\",
        r"\x{110000}",
        r"\xg",
        "[[:nope:]]",
        r"[\Q]",
        r"\k",
        r"\C",
        "(?P=n)",
    ] {
        assert!(Regex::new(regex).is_err(), "{regex} was accepted");
    }
}

#[test]
fn program_sizes_are_envoys_or_less() {
    let estimate = |regex: &str| program_size::estimate(&translate::translate(regex).unwrap());
    // Sizes that Envoy 1.40 reports.
    for (regex, size) in [
        ("a", 5),
        ("abc", 7),
        ("a*", 5),
        ("a+", 6),
        ("a?", 6),
        ("(a)", 7),
        ("[a-c0-9]", 6),
        ("[^/]+", 7),
        (".*", 6),
        ("ab|cd", 8),
        ("(ab|cd|ef)", 12),
        ("a{2,}", 7),
        ("a{2,4}", 10),
        ("^a$", 4),
        ("a$", 5),
        ("/api/v[0-9]+/.*", 15),
        ("(?i)abc", 7),
        (r"\w", 7),
        (r"\D", 6),
        ("é", 6),
        ("[a-zA-Z0-9_-]+", 9),
        ("/(foo|bar)/.*", 16),
        ("(?:foo|bar){2}", 16),
        (r"\bfoo\b", 9),
        ("/[a-z]{97}", 102),
    ] {
        assert_eq!(estimate(regex), size, "{regex}");
    }
    for (regex, size) in
        [("abc|abd", 7), ("foo|bar|baz", 11), ("(a*)*", 11), ("a.*|b.*", 12), (r"\W", 9), (r"\pL", 11)]
    {
        assert!((4..=size).contains(&estimate(regex)), "{regex}: {}", estimate(regex));
    }
}

#[test]
fn programs_are_limited_by_runtime() {
    let long = matcher("/[a-z]{97}");
    let errors = build(|cx| Regex::build(&long, cx)).unwrap_err();
    assert!(errors[0].reason.contains("RE2 program size of 102 > max program size of 100"), "{}", errors[0]);
    let layer = RuntimeLayer {
        values: [("re2.max_program_size.error_level".to_owned(), "32768".to_owned())].into(),
        ..RuntimeLayer::default()
    };
    build_with(vec![layer], |cx| Regex::build(&long, cx)).unwrap();
    assert!(build(|cx| Regex::build(&matcher("((a{1000}){1000}){1000}"), cx)).is_err());
    assert!(build(|cx| Regex::build(&matcher(""), cx)).is_err());
}

#[test]
fn substitutions_do_what_they_do_in_envoy() {
    // All but the last observed on Envoy 1.40.
    for (pattern, substitution, value, expected) in [
        ("b", r"\9", "/abcb", None),
        ("b", r"\x", "/abcb", Some("/ac")),
        ("b", r"\", "/abcb", Some("/ac")),
        ("b", r"[\0]", "/abcb", Some("/a[b]c[b]")),
        ("b*", "-", "/abcb", Some("-/-a-c-")),
        ("(x)?b", r"<\1>", "/abcb", Some("/a<>c<>")),
        ("b", r"\\", "/abcb", Some(r"/a\c\")),
        ("^/.*$", "", "/abcb", Some("")),
        ("z", "y", "/abcb", None),
    ] {
        let proto = RegexMatchAndSubstitute {
            pattern: Some(matcher(pattern)),
            substitution: substitution.to_owned(),
        };
        let rewrite = build(|cx| RegexRewrite::build(&proto, cx)).unwrap();
        let replaced = rewrite.replace_all(value.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(replaced.as_deref(), expected, "{pattern} -> {substitution}");
    }
}
