//! `envoy.config.route.v3.CookieMatcher`: one cookie of the `cookie` header.

use http::HeaderMap;
use xds_api::envoy::config::route::v3 as proto;

use super::string::StringMatcher;
use crate::config::{BuildCx, Rejected};

/// Matches one cookie.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: Box<str>,
    string: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::CookieMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::CookieMatcher { name, string_match, invert_match } = proto;
        let Some(string) = string_match else {
            return Err(cx.at("string_match", |cx| cx.reject("value is required")));
        };
        let string = cx.at("string_match", |cx| StringMatcher::build(string, cx))?;
        Ok(Self { name: name.as_str().into(), string, invert: *invert_match })
    }

    /// Whether the cookie among `headers` matches; a missing cookie matches only when inverted.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        cookie(headers, &self.name).is_some_and(|value| self.string.matches(value)) != self.invert
    }
}

/// The value of the first cookie `name`, without the double quotes around it. Spaces before a cookie are none of it, as in Envoy; other white
/// space, and what is behind its value, is.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(http::header::COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').find_map(|crumb| {
            let begin = crumb.iter().position(|byte| *byte != b' ')?;
            let crumb = crumb.get(begin..)?;
            let at = memchr::memchr(b'=', crumb)?;
            let (key, value) = (&crumb[..at], &crumb[at + 1..]);
            (key == name.as_bytes()).then(|| unquoted(value))
        })
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_told_apart_as_in_envoy() {
        let of = |line: &'static str| {
            let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::from_static(line))]);
            cookie(&headers, "c").map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        for line in ["c=v", "a=1; c=v", "a=1;  c=v", "a=1;c=v", "a=1;;c=v", "c;c=v", "c=\"v\"", "c=v; c=w"] {
            assert_eq!(of(line).as_deref(), Some("v"), "{line}");
        }
        for line in ["a=1;\tc=v", "a=1; \tc=v", "c =v", "c\t=v", "a=1, c=v", "c", ""] {
            assert_eq!(of(line), None, "{line}");
        }
        for (line, value) in [
            ("c=v\t; a=1", "v\t"),
            ("c=v ; a=1", "v "),
            ("c= v", " v"),
            ("c=\"v\" ; a=1", "\"v\" "),
            ("c=\"v", "\"v"),
            ("c=\"\"", ""),
        ] {
            assert_eq!(of(line).as_deref(), Some(value), "{line}");
        }
    }
}
