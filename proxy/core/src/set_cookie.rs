//! Cookies that clients are given: the `set-cookie` header as Envoy writes it.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::config::{BuildCx, Rejected};

/// A cookie but for its value.
#[derive(Clone, Debug)]
pub struct SetCookie {
    /// Its name.
    pub name: Box<str>,
    /// What comes behind the value.
    rest: Box<str>,
}

impl SetCookie {
    /// A cookie for so many seconds, or while the browser runs if there are none. An attribute may have no value.
    pub fn build<'a>(
        name: &str,
        seconds: u64,
        path: &str,
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let mut rest = String::new();
        if seconds > 0 {
            let _ = write!(rest, "; Max-Age={seconds}");
        }
        if !path.is_empty() {
            let _ = write!(rest, "; Path={path}");
        }
        for (name, value) in attributes {
            rest.push_str("; ");
            rest.push_str(name);
            if !value.is_empty() {
                rest.push('=');
                rest.push_str(value);
            }
        }
        rest.push_str("; HttpOnly");
        let cookie = Self { name: name.into(), rest: rest.into() };
        match cookie.header("") {
            Some(_) => Ok(cookie),
            None => Err(cx.reject("the cookie to set is no header value")),
        }
    }

    /// The header; `None` if `value` cannot stand in one.
    pub fn header(&self, value: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}=\"{value}\"{}", self.name, self.rest)).ok()
    }
}
