//! A request to the admin interface: path and decoded parameters.

use percent_encoding::percent_decode_str;

/// What a handler sees of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) path: String,
    params: Vec<(String, String)>,
}

impl Request {
    /// Splits a request target; `form` is the body of a form, empty for other requests.
    ///
    /// Names and values are percent-decoded; `+` stays, as in Envoy.
    pub(super) fn new(target: &str, form: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut params = Vec::new();
        for pair in query.split('&').chain(form.split('&')).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.push((decode(name), decode(value)));
        }
        Self { path: path.to_owned(), params }
    }

    /// The first value of a parameter.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter unless it is empty.
    pub(super) fn non_empty(&self, name: &str) -> Option<&str> {
        self.param(name).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is there, with whatever value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.param(name).is_some()
    }

    /// All parameters in order.
    pub(super) fn params(&self) -> &[(String, String)] {
        &self.params
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_wins() {
        let request = Request::new("/stats?usedonly&filter=a%2eb+c&filter=x&=y", "");
        assert_eq!(request.path, "/stats");
        assert!(request.has("usedonly"));
        assert_eq!(request.param("filter"), Some("a.b+c"));
        assert_eq!(request.param("nope"), None);
        assert_eq!(request.non_empty("usedonly"), None);
    }

    #[test]
    fn raw_regular_expressions_arrive_unchanged() {
        let request = Request::new(r"/stats?usedonly&filter=^(server\.state|x)$", "");
        assert_eq!(request.param("filter"), Some(r"^(server\.state|x)$"));
    }

    #[test]
    fn a_form_adds_to_the_query() {
        let request = Request::new("/logging?a=1", "level=debug&b=%20");
        assert_eq!(request.param("level"), Some("debug"));
        assert_eq!(request.params()[2], ("b".to_owned(), " ".to_owned()));
    }
}
