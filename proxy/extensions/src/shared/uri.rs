//! What an `HttpUri` of the configuration says: whom to ask for what.

/// The authority and the path of a URI, which may lack its scheme, and its path.
pub fn host_and_path(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_whom_and_what() {
        for (uri, host, path) in [
            ("https://keys.example/a/b?c", "keys.example", "/a/b?c"),
            ("http://keys.example:80", "keys.example:80", "/"),
            ("keys.example/x", "keys.example", "/x"),
        ] {
            assert_eq!(host_and_path(uri), (host, path));
        }
    }
}
