//! Changes of the parameters of a path: those of one name become one, and all are sorted by name, as in Envoy.

use std::collections::BTreeMap;

/// `path` with these parameters set and those removed. Nothing is decoded or encoded.
pub(super) fn changed(path: &str, set: &[(String, String)], remove: &[String]) -> String {
    let (before, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parameters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in query.split('&').filter(|_| !query.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.entry(name).or_default().push(value);
    }
    for (name, value) in set {
        parameters.insert(name, vec![value]);
    }
    for name in remove {
        parameters.remove(name.as_str());
    }
    let pairs = parameters
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
    let pairs: Vec<String> = pairs.collect();
    match pairs.is_empty() {
        true => before.to_owned(),
        false => format!("{before}?{}", pairs.join("&")),
    }
}

/// Whether nothing in `text` would have to be escaped (`validate_mutations`).
pub(super) fn is_encoded(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_removed_and_sorted() {
        let set = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (path, set, remove, expected) in [
            ("/a", vec![], vec![], "/a"),
            ("/a?b=1&a=2", set("c", "3"), vec![], "/a?a=2&b=1&c=3"),
            ("/a?b=1&b=2", set("b", "3"), vec![], "/a?b=3"),
            ("/a?b=1&c", vec![], vec!["b".to_owned()], "/a?c="),
            ("/a?b=1", vec![], vec!["b".to_owned()], "/a"),
        ] {
            assert_eq!(changed(path, &set, &remove), expected, "{path}");
        }
    }
}
