//! Envelopes of sessions: around what a host says in a header of its own, with the address of that host.
//!
//! `base64(address) ";UV:" base64(content)`. The client sends all of it back, and the host gets the content.
//! Source: Envoy `envelope.proto`; observed on 1.40.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use proxy_core::address::Address;

/// What the content stands behind.
const CONTENT: &[u8] = b"UV:";

/// The content, and the text of the address if there is one; `None` if it is no envelope. (What no header can hold is no content.)
pub(super) fn open(value: &HeaderValue) -> Option<(HeaderValue, Option<Vec<u8>>)> {
    let mut parts = value.as_bytes().split(|byte| *byte == b';').filter(|part| !part.is_empty());
    let host = parts.next()?;
    let content = parts.find_map(|part| part.strip_prefix(CONTENT))?;
    let content = STANDARD.decode(content).ok().filter(|content| !content.is_empty())?;
    let content = HeaderValue::from_bytes(&content).ok()?;
    Some((content, STANDARD.decode(host).ok().filter(|host| !host.is_empty())))
}

/// The envelope of `content`, which `host` said.
pub(super) fn seal(host: &Address, content: &HeaderValue) -> Option<HeaderValue> {
    let (host, content) = (STANDARD.encode(host.to_string()), STANDARD.encode(content));
    HeaderValue::try_from(format!("{host};UV:{content}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(value: &str) -> Option<(String, Option<String>)> {
        let (content, host) = open(&HeaderValue::from_str(value).unwrap())?;
        Some((content.to_str().unwrap().to_owned(), host.map(|host| String::from_utf8(host).unwrap())))
    }

    #[test]
    fn envelopes_are_those_of_envoy() {
        // What Envoy 1.40 wrote.
        let value = "MTI3LjAuMC4xOjM5NDc3;UV:YWJj";
        let host = Address::parse("127.0.0.1:39477").unwrap();
        assert_eq!(seal(&host, &HeaderValue::from_static("abc")).unwrap(), value);
        assert_eq!(seal(&host, &HeaderValue::from_static("")).unwrap(), "MTI3LjAuMC4xOjM5NDc3;UV:");
        let there = Some(("abc".to_owned(), Some("127.0.0.1:39477".to_owned())));
        for value in [value, "MTI3LjAuMC4xOjM5NDc3;X;UV:YWJj;UV:ZGVm", ";MTI3LjAuMC4xOjM5NDc3;;UV:YWJj;X"] {
            assert_eq!(opened(value), there, "{value}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_left_as_it_is() {
        let host = "MTI3LjAuMC4xOjM5NDc3";
        for rest in ["", ";", "; UV:YWJj", ";uv:YWJj", ";UV:!!", ";UV:", ";UV:YQpi"] {
            assert_eq!(opened(&format!("{host}{rest}")), None, "{rest}");
        }
        assert_eq!(opened(";UV:YWJj"), None, "no host");
        assert_eq!(opened("!!;UV:YWJj"), Some(("abc".to_owned(), None)));
    }
}
