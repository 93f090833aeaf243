use super::*;

fn full(regex: &str, value: &str) -> bool {
    Regex::new(regex).unwrap().is_full_match(value.as_bytes())
}

#[test]
fn a_regex_matches_the_whole_value() {
    assert!(full("/a.*", "/abc"));
    assert!(!full("/a", "/ab"));
    assert!(!full("b", "ab"));
    assert!(full("a|ab", "ab"));
}
