//! Request targets: origin form, absolute form, authority form (RFC 9112 section 3.2), and what may stand in an authority.

use bytes::Bytes;
use http::Method;
use proxy_core::head::Scheme;
use proxy_core::text::Text;

use super::error::RequestError;
use super::request::RequestOptions;

/// What the request line says about where to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Of an absolute form.
    pub(super) scheme: Option<Scheme>,
    /// Of an absolute form or of CONNECT.
    pub(super) authority: Option<Text>,
    /// Path and query, or `*`, as it stands there; empty for CONNECT.
    pub(super) path: Text,
}

/// Splits and checks a request target. `raw` is a slice of `head`.
pub(super) fn parse(
    head: &Bytes,
    raw: &[u8],
    method: &Method,
    options: &RequestOptions,
) -> Result<Target, RequestError> {
    check_characters(raw)?;
    if method == Method::CONNECT {
        if raw.is_empty() || !is_valid_authority(raw) || !is_valid_port(raw) {
            return Err(RequestError::InvalidUrl);
        }
        return Ok(Target { scheme: None, authority: Some(text(head, raw)?), path: Text::default() });
    }
    if raw.first() == Some(&b'/') {
        return Ok(Target { scheme: None, authority: None, path: text(head, raw)? });
    }
    if raw == b"*" {
        if method != Method::OPTIONS {
            return Err(RequestError::InvalidUrl);
        }
        return Ok(Target { scheme: None, authority: None, path: text(head, raw)? });
    }
    absolute_form(head, raw, options)
}

fn absolute_form(head: &Bytes, raw: &[u8], options: &RequestOptions) -> Result<Target, RequestError> {
    let parts = split_scheme(raw)?;
    if !options.allow_absolute_url {
        // A path that does not begin with a slash.
        return Ok(Target { scheme: None, authority: None, path: text(head, raw)? });
    }
    let (scheme, authority, path) = split_url(head, parts)?;
    if options.is_edge && (scheme, options.scheme) == (Scheme::Https, Scheme::Http) {
        return Err(RequestError::HttpsOnPlaintext);
    }
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path })
}

/// Scheme, authority and path (query and fragment included) of an absolute URL; `None` if `url` is none of `http` or `https`. A
/// user in it is passed over.
pub(crate) fn parse_url(url: &Bytes) -> Option<(Scheme, Text, Text)> {
    check_characters(url).ok()?;
    let (scheme, rest) = split_scheme(url).ok()?;
    let authority = rest.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next().unwrap_or_default();
    let host_begin = memchr::memrchr(b'@', authority).map_or(0, |at| at + 1);
    split_url(url, (scheme, rest.get(host_begin..).unwrap_or_default())).ok()
}

fn split_url(head: &Bytes, (scheme, rest): (Scheme, &[u8])) -> Result<(Scheme, Text, Text), RequestError> {
    let authority_end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(authority_end).unwrap_or((rest, b""));
    if authority.is_empty() || !is_valid_authority(authority) || !is_valid_port(authority) {
        return Err(RequestError::InvalidUrl);
    }
    let path = if path.is_empty() { Text::from_static("/") } else { text(head, path)? };
    Ok((scheme, text(head, authority)?, path))
}

fn split_scheme(raw: &[u8]) -> Result<(Scheme, &[u8]), RequestError> {
    let starts_with =
        |prefix: &[u8]| raw.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts_with(b"http://") {
        return Ok((Scheme::Http, raw.get(7..).unwrap_or_default()));
    }
    if starts_with(b"https://") {
        return Ok((Scheme::Https, raw.get(8..).unwrap_or_default()));
    }
    let other_scheme = raw.windows(3).any(|window| window == b"://");
    Err(if other_scheme { RequestError::InvalidScheme } else { RequestError::Malformed })
}

fn check_characters(raw: &[u8]) -> Result<(), RequestError> {
    if is_valid_path(raw) {
        return Ok(());
    }
    let control = raw.iter().any(|byte| byte.is_ascii_control());
    Err(if control { RequestError::InvalidCharacters } else { RequestError::Malformed })
}

/// Whether these octets can stand in a request line as they are: visible ASCII, no white space.
///
/// Paths that came from elsewhere (HTTP/2, rewrites) must pass this before they are written to HTTP/1; the encoder checks.
pub fn is_valid_path(path: &[u8]) -> bool {
    path.iter().all(|byte| byte.is_ascii_graphic())
}

/// Whether these octets can be an authority (`host`, `:authority`): RFC 3986 `host [":" port]` without userinfo.
///
/// Deliberately not a full parse: it admits what Envoy admits (a list `a,b`, any digits as port) except `@`, but nothing that
/// another parser could take for a path, a query, a second host or the end of a line. Empty is valid.
pub fn is_valid_authority(authority: &[u8]) -> bool {
    authority.iter().all(|&byte| AUTHORITY.get(usize::from(byte)).copied().unwrap_or(false))
}

static AUTHORITY: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:%[]";
    let mut index = 0;
    while index < allowed.len() {
        table[allowed[index] as usize] = true;
        index += 1;
    }
    table
};

/// Whether what follows the host, if anything, is `:` and a port number.
fn is_valid_port(authority: &[u8]) -> bool {
    let after_host = match memchr::memrchr(b']', authority) {
        Some(end) => authority.get(end + 1..).unwrap_or_default(),
        None => memchr::memchr(b':', authority).and_then(|colon| authority.get(colon..)).unwrap_or_default(),
    };
    match after_host {
        [] => true,
        [b':', port @ ..] => {
            super::framing::parse_decimal(port).is_some_and(|port| port <= u64::from(u16::MAX))
        }
        _ => false,
    }
}

fn text(head: &Bytes, part: &[u8]) -> Result<Text, RequestError> {
    // Only visible ASCII comes here, so this never fails.
    Text::from_bytes(head.slice_ref(part)).ok_or(RequestError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_where_their_host_ends() {
        let split = |url: &'static str| {
            parse_url(&Bytes::from_static(url.as_bytes()))
                .map(|(scheme, authority, path)| format!("{} {} {}", scheme.as_str(), &*authority, &*path))
        };
        assert_eq!(split("http://a").as_deref(), Some("http a /"));
        assert_eq!(split("HTTPS://a:8443/b?c#d").as_deref(), Some("https a:8443 /b?c#d"));
        assert_eq!(split("http://me@you@a/b@c").as_deref(), Some("http a /b@c"));
        assert_eq!(split("http://[::1]:80?x").as_deref(), Some("http [::1]:80 ?x"));
        for url in [
            "",
            "/a",
            "//a/b",
            "ftp://a/",
            "http://",
            "http:///a",
            "http://a:x/",
            "http://a/b c",
            "http://a\\b/",
        ] {
            assert_eq!(split(url), None, "{url}");
        }
    }
}
