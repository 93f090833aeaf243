//! The spelling of the names in one HTTP/1 message, which goes with its head across the proxy.
//!
//! Implements `envoy.extensions.http.header_formatters.preserve_case.v3`: names are lower case in the proxy, and are written as
//! the peer wrote them wherever the head goes out over HTTP/1. What stands here is written to the wire: it holds only what is a
//! field name or the text of a status line.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// What is kept of the heads of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreserveCase {
    /// Whether names that the peer did not send are written in `Proper-Case` (`formatter_type_on_envoy_headers`).
    pub proper_case_for_others: bool,
    /// Whether the reason phrase of a response is kept too (`forward_reason_phrase`).
    pub reason_phrase: bool,
}

/// The spelling of the field names of one message, as received.
#[derive(Clone, Debug, Default)]
pub struct HeaderCase {
    names: HeaderMap<Bytes>,
    reason: Bytes,
    rules: PreserveCase,
}

impl HeaderCase {
    /// With no name yet.
    pub fn new(rules: PreserveCase) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Notes a name. The first spelling of it counts; what is no field name is left out.
    pub fn note(&mut self, name: Bytes) {
        if let Ok(key) = HeaderName::from_bytes(&name)
            && let Ok(http::header::Entry::Vacant(entry)) = self.names.try_entry(key)
        {
            // A full map: the name is lower case then.
            let _ = entry.try_insert(name);
        }
    }

    /// Notes the reason phrase of a response, if the rules say so and it can be written again.
    pub fn note_reason(&mut self, reason: Bytes) {
        let is_text = reason.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
        if self.rules.reason_phrase && is_text {
            self.reason = reason;
        }
    }

    /// The original spelling of a lower-case name, if it came from the peer.
    pub fn original(&self, name: &str) -> Option<&[u8]> {
        self.names.get(name).map(|name| &name[..])
    }

    /// The reason phrase, if there is one to be written.
    pub fn reason(&self) -> Option<&[u8]> {
        Some(&self.reason[..]).filter(|reason| !reason.is_empty())
    }

    /// Whether names that the peer did not send are written in `Proper-Case`.
    pub fn proper_case_for_others(&self) -> bool {
        self.rules.proper_case_for_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_spelling_of_a_name_counts() {
        let mut case = HeaderCase::default();
        for name in ["x-A", "X-a", "plain", "PLAIN", "no name"] {
            case.note(Bytes::from_static(name.as_bytes()));
        }
        assert_eq!(case.original("x-a"), Some(&b"x-A"[..]));
        assert_eq!(case.original("plain"), Some(&b"plain"[..]));
        assert_eq!((case.original("other"), case.original("no name")), (None, None));
    }

    #[test]
    fn a_reason_is_kept_if_the_rules_say_so_and_it_is_one_line() {
        let mut case = HeaderCase::new(PreserveCase { reason_phrase: true, ..PreserveCase::default() });
        case.note_reason(Bytes::from_static(b"Fine\r\nx: y"));
        assert_eq!(case.reason(), None);
        case.note_reason(Bytes::from_static(b"Fine"));
        assert_eq!(case.reason(), Some(&b"Fine"[..]));
        let mut case = HeaderCase::default();
        case.note_reason(Bytes::from_static(b"Fine"));
        assert_eq!(case.reason(), None);
    }
}
