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

/// The value of the first cookie `name`, without the double quotes around it.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(http::header::COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').find_map(|crumb| {
            let crumb = crumb.trim_ascii();
            let at = memchr::memchr(b'=', crumb)?;
            let (key, value) = (&crumb[..at], &crumb[at + 1..]);
            (key == name.as_bytes()).then(|| unquoted(value))
        })
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}
