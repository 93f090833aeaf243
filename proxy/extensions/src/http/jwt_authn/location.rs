//! Where tokens are in a request.

use std::collections::BTreeMap;

use http::HeaderName;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::cookie::cookie;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;

/// Where to look, and what of the request nobody but this filter may set.
#[derive(Debug, Default)]
pub(super) struct Locations {
    /// By name and prefix: they are searched in this order.
    headers: BTreeMap<(String, String), (HeaderName, Issuers)>,
    params: BTreeMap<String, Issuers>,
    cookies: BTreeMap<String, Issuers>,
}

/// Whose tokens are expected at a place.
#[derive(Debug, Default)]
struct Issuers {
    any: bool,
    names: Vec<String>,
}

impl Issuers {
    fn add(&mut self, issuer: &str) {
        match issuer.is_empty() {
            true => self.any = true,
            false => self.names.push(issuer.to_owned()),
        }
    }
}

/// A token that was found.
pub(super) struct Found<'l> {
    pub(super) token: String,
    place: Place<'l>,
    issuers: &'l Issuers,
}

enum Place<'l> {
    Header(&'l HeaderName),
    Param(&'l str),
    Cookie,
}

impl Found<'_> {
    /// Whether a token of this issuer may be there.
    pub(super) fn allows(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.names.iter().any(|name| name == issuer)
    }

    /// Takes it out of the request; from a cookie it is not taken, as in Envoy.
    pub(super) fn remove(&self, request: &mut RequestHead) {
        match self.place {
            Place::Header(name) => {
                request.headers.remove(name);
            }
            Place::Param(name) => {
                let path = request.path.as_str();
                let Some((before, query)) = path.split_once('?') else { return };
                let is_other = |pair: &&str| decoded(pair.split_once('=').unwrap_or((pair, "")).0) != name;
                let left: Vec<&str> = query.split('&').filter(is_other).collect();
                request.path = match left.is_empty() {
                    true => before.to_owned(),
                    false => format!("{before}?{}", left.join("&")),
                }
                .into();
            }
            Place::Cookie => {}
        }
    }
}

impl Locations {
    /// Adds those of a provider.
    pub(super) fn add(&mut self, proto: &proto::JwtProvider, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let proto::JwtProvider { issuer, from_headers, from_params, from_cookies, .. } = proto;
        cx.each("from_headers", from_headers, |header, cx| {
            let proto::JwtHeader { name, value_prefix } = header;
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| cx.at("name", |cx| cx.reject("value is no name of a header")))?;
            self.add_header(name, value_prefix, issuer);
            Ok(())
        })?;
        for name in from_params {
            self.params.entry(name.clone()).or_default().add(issuer);
        }
        for name in from_cookies {
            self.cookies.entry(name.clone()).or_default().add(issuer);
        }
        if from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
            self.add_header(AUTHORIZATION, "Bearer ", issuer);
            self.params.entry("access_token".to_owned()).or_default().add(issuer);
        }
        Ok(())
    }

    fn add_header(&mut self, name: HeaderName, prefix: &str, issuer: &str) {
        let key = (name.as_str().to_owned(), prefix.to_owned());
        self.headers.entry(key).or_insert_with(|| (name, Issuers::default())).1.add(issuer);
    }

    /// All tokens of a request, in the order in which they are judged.
    pub(super) fn find(&self, request: &RequestHead) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        for ((_, prefix), (name, issuers)) in &self.headers {
            for value in request.headers.get_all(name) {
                let Some(token) = after_prefix(value.as_bytes(), prefix) else { continue };
                let token = String::from_utf8_lossy(token).into_owned();
                found.push(Found { token, place: Place::Header(name), issuers });
            }
        }
        if let Some(query) = request.query().filter(|_| !self.params.is_empty()) {
            let query = query.split('#').next().unwrap_or_default();
            for (name, issuers) in &self.params {
                let token = query.split('&').find_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(key) == *name).then(|| decoded(value))
                });
                found.extend(token.map(|token| Found { token, place: Place::Param(name), issuers }));
            }
        }
        for (name, issuers) in &self.cookies {
            let token = cookie(&request.headers, name);
            let token = token.map(|token| String::from_utf8_lossy(token).into_owned());
            found.extend(token.map(|token| Found { token, place: Place::Cookie, issuers }));
        }
        // the last that was found is judged first, as in Envoy: its failure is the one that is told
        found.reverse();
        found
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What follows a prefix, wherever that is, and what cannot be part of a token; `None` if the prefix is not there.
fn after_prefix<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value.windows(prefix.len()).position(|window| window == prefix.as_bytes())?;
    let rest = &value[at + prefix.len()..];
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    Some(rest.iter().position(is_part).map_or(value, |start| &rest[start..]))
}
