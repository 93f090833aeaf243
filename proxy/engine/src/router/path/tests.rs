use http::{HeaderMap, Method};
use proptest::prelude::*;
use proxy_core::head::Scheme;

use super::*;

fn rule(kind: PathKind, case: Case) -> PathRule {
    PathRule { kind, case }
}

fn prefix(text: &str) -> PathRule {
    rule(PathKind::Prefix(text.into()), Case::Sensitive)
}

fn exact(text: &str) -> PathRule {
    rule(PathKind::Exact(text.into()), Case::Sensitive)
}

fn request(path: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "h".into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers: HeaderMap::new(),
    }
}

fn find(rules: &[PathRule], path: &str, parameters: PathParameters) -> Option<u32> {
    let index = PathIndex::new(rules.iter());
    index.first(rules.len(), &request(path), parameters, |number| rules.get(number as usize), |_| true)
}

fn holds(rule: PathRule, path: &str) -> bool {
    find(&[rule], path, PathParameters::Matched).is_some()
}

#[test]
fn rules_hold_as_in_envoy() {
    assert!(holds(prefix("/foo"), "/foobar"));
    assert!(holds(prefix(""), "/x"));
    assert!(!holds(prefix("/foo"), "/fo"));
    assert!(holds(exact("/foo"), "/foo?a"));
    assert!(!holds(exact("/foo"), "/foo/"));
    let separated = || rule(PathKind::SeparatedPrefix("/foo".into()), Case::Sensitive);
    for (path, expected) in
        [("/foo", true), ("/foobar", false), ("/foo/x", true), ("/foo?x", true), ("/foo;x", false)]
    {
        assert_eq!(holds(separated(), path), expected, "{path}");
    }
    assert!(holds(rule(PathKind::Prefix("/FOO".into()), Case::Insensitive), "/foo/x"));
    assert!(!holds(rule(PathKind::Regex(Regex::new("/a").unwrap()), Case::Sensitive), "/ab"));
    assert!(!holds(rule(PathKind::Connect, Case::Sensitive), "/"));
}

#[test]
fn connect_needs_no_path_and_others_do() {
    let mut connect = request("");
    connect.method = Method::CONNECT;
    let rules = [prefix(""), rule(PathKind::Connect, Case::Sensitive)];
    let index = PathIndex::new(rules.iter());
    let rule = |number: u32| rules.get(number as usize);
    assert_eq!(index.first(2, &connect, PathParameters::Matched, rule, |_| true), Some(1));
}

#[test]
fn parameters_are_cut_out_of_each_segment() {
    // Observed on Envoy 1.40 with ignore_path_parameters_in_path_matching.
    let ignored = |rule: PathRule, path: &str| find(&[rule], path, PathParameters::Ignored).is_some();
    assert!(ignored(exact("/foo"), "/foo;a=1"));
    assert!(!ignored(exact("/foo"), "/foo;a/b"));
    assert!(ignored(prefix("/pre/x"), "/pre;x/x"));
    assert!(ignored(rule(PathKind::SeparatedPrefix("/s".into()), Case::Sensitive), "/s;x?q;"));
    assert!(!holds(exact("/foo"), "/foo;a=1"));
}

#[test]
fn order_decides_between_exact_prefix_and_regex() {
    let mut rules: Vec<PathRule> = (0..20).map(|number| exact(&format!("/exact/{number}"))).collect();
    rules.push(rule(PathKind::Regex(Regex::new("/ex.*").unwrap()), Case::Sensitive));
    rules.push(prefix("/exact/3"));
    rules.push(exact("/exact/30"));
    rules.push(prefix("/"));
    for (path, expected) in [("/exact/3", 3), ("/exact/30", 20), ("/exact/", 20), ("/x", 23)] {
        assert_eq!(find(&rules, path, PathParameters::Matched), Some(expected), "{path}");
    }
}

#[test]
fn prefixes_of_a_text_are_found_longest_first() {
    let keys = ["", "a", "ab", "abc", "abd", "b", "ba", "x/y"];
    let index = PrefixIndex::new(keys.iter().map(|key| (Box::from(key.as_bytes()), *key)));
    for (text, expected) in [
        ("abcd", vec!["abc", "ab", "a", ""]),
        ("abdz", vec!["abd", "ab", "a", ""]),
        ("abca", vec!["abc", "ab", "a", ""]),
        ("ac", vec!["a", ""]),
        ("zz", vec![""]),
        ("", vec![""]),
        ("x", vec![""]),
    ] {
        let mut found = Vec::new();
        index.each(text.as_bytes(), |key| found.push(*key));
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(index.longest(b"abcd", 2), Some(&"ab"));
    assert_eq!(PrefixIndex::<()>::default().longest(b"a", 1), None);
}

fn any_rule() -> impl Strategy<Value = PathRule> {
    let text = "/[ab/]{0,5}";
    let case = prop_oneof![9 => Just(Case::Sensitive), 1 => Just(Case::Insensitive)];
    prop_oneof![
        4 => (text, case.clone()).prop_map(|(text, case)| rule(PathKind::Exact(text.into()), case)),
        4 => (text, case.clone()).prop_map(|(text, case)| rule(PathKind::Prefix(text.into()), case)),
        2 => (text, case).prop_map(|(text, case)| rule(PathKind::SeparatedPrefix(text.into()), case)),
        1 => "/[ab]{0,2}[.][*]".prop_map(|regex| rule(PathKind::Regex(Regex::new(&regex).unwrap()), Case::Sensitive)),
        1 => Just(()).prop_map(|()| rule(PathKind::Connect, Case::Sensitive)),
    ]
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_all_rules_in_order_finds(
        rules in prop::collection::vec(any_rule(), 0..60),
        paths in prop::collection::vec("/[abAB/]{0,7}", 1..10),
        refused in prop::collection::vec(any::<bool>(), 60),
    ) {
        let index = PathIndex::new(rules.iter());
        let accepts = |number: u32| !refused[number as usize];
        for path in &paths {
            let request = request(path);
            let rule = |number: u32| rules.get(number as usize);
            let found = index.first(rules.len(), &request, PathParameters::Matched, rule, accepts);
            let expected = (0u32..).zip(&rules).find(|(number, rule)| rule.holds(&request, path, path) && accepts(*number));
            prop_assert_eq!(found, expected.map(|(number, _)| number));
        }
    }
}
