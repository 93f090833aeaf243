//! Path and authority as routing sees them: normalised, merged, unescaped, stripped, as the connection manager asks.
//!
//! Source: Envoy `http_connection_manager.proto` (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`,
//! `strip_*`), RFC 3986 sections 5.2.4 and 6.2.2.

use proxy_core::head::RequestHead;
use proxy_core::runtime::Runtime;
use proxy_core::text::Text;
use smallvec::SmallVec;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction;

use super::config::{ConnectionManager, StripPort};

/// The runtime key that says whether a path with a fragment is refused (the default) or loses it.
const REJECT_FRAGMENT: &str = "envoy.reloadable_features.http_reject_path_with_fragment";

/// What became of the path.
#[derive(Debug, PartialEq, Eq)]
pub enum PathOutcome {
    /// Use the request as it is now.
    Ok,
    /// 400: the path cannot be normalised or is forbidden.
    Reject,
    /// 307 to this path.
    Redirect(Text),
}

/// Normalises `request.path` as configured.
pub fn path(manager: &ConnectionManager, runtime: &Runtime, request: &mut RequestHead) -> PathOutcome {
    use PathWithEscapedSlashesAction as Action;
    if request.path.is_empty() {
        return PathOutcome::Ok;
    }
    if let Some(fragment) = request.path.find('#') {
        if runtime.flag(REJECT_FRAGMENT, true) {
            return PathOutcome::Reject;
        }
        request.path = request.path.slice_of(request.path.get(..fragment).unwrap_or_default());
    }
    let mut redirect = false;
    match manager.escaped_slashes {
        Action::ImplementationSpecificDefault | Action::KeepUnchanged => {}
        action => {
            if let Some(unescaped) = unescape_slashes(&request.path) {
                request.path = unescaped.into();
                match action {
                    Action::RejectRequest => return PathOutcome::Reject,
                    Action::UnescapeAndRedirect => redirect = true,
                    _ => {}
                }
            }
        }
    }
    if manager.normalize_path {
        match canonical(&request.path) {
            Ok(None) => {}
            Ok(Some(path)) => request.path = path.into(),
            Err(NotNormal) => return PathOutcome::Reject,
        }
    }
    if manager.merge_slashes
        && let Some(merged) = merge_slashes(&request.path)
    {
        request.path = merged.into();
    }
    if redirect { PathOutcome::Redirect(request.path.clone()) } else { PathOutcome::Ok }
}

/// Strips port and trailing dot from `request.authority` as configured.
pub fn authority(manager: &ConnectionManager, request: &mut RequestHead, listener_port: Option<u16>) {
    if manager.strip_port != StripPort::No
        && let Some((host, port)) = split_port(&request.authority)
    {
        let matches = match manager.strip_port {
            StripPort::Any => true,
            StripPort::Matching => port.parse().ok() == listener_port,
            StripPort::No => false,
        };
        if matches {
            request.authority = request.authority.slice_of(host);
        }
    }
    if manager.strip_trailing_host_dot {
        let (host, port) = split_port(&request.authority).unwrap_or((&request.authority, ""));
        if let Some(bare) = host.strip_suffix('.') {
            request.authority = match port {
                "" => request.authority.slice_of(bare),
                port => format!("{bare}:{port}").into(),
            };
        }
    }
}

/// Host and port of an authority that has a port.
fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    // An IPv6 address without a port has colons too.
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = !host.contains(':') || host.ends_with(']');
    (is_port && is_whole).then_some((host, port))
}

fn split_query(path: &str) -> (&str, &str) {
    path.find('?').map_or((path, ""), |at| path.split_at(at))
}

/// `path` with `%2f` and `%5c` as `/` and `\`; `None` if there are none before the query.
fn unescape_slashes(path: &str) -> Option<String> {
    let (path, query) = split_query(path);
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut changed = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match bytes.get(at..at + 3) {
            Some([b'%', b'2', b'f' | b'F']) => out.push(b'/'),
            Some([b'%', b'5', b'c' | b'C']) => out.push(b'\\'),
            _ => {
                out.push(byte);
                at += 1;
                continue;
            }
        }
        changed = true;
        at += 3;
    }
    out.extend_from_slice(query.as_bytes());
    if changed { String::from_utf8(out).ok() } else { None }
}

/// `path` with runs of slashes merged; `None` if there are none before the query.
fn merge_slashes(path: &str) -> Option<String> {
    let (path, query) = split_query(path);
    if !path.contains("//") {
        return None;
    }
    let mut out = String::with_capacity(path.len() + query.len());
    for char in path.chars() {
        if char != '/' || !out.ends_with('/') {
            out.push(char);
        }
    }
    out.push_str(query);
    Some(out)
}

#[derive(Debug, PartialEq, Eq)]
struct NotNormal;

/// `path` in RFC 3986 normal form; `None` if it is already.
fn canonical(path: &str) -> Result<Option<String>, NotNormal> {
    let (path, query) = split_query(path);
    if !path.starts_with('/') {
        return Err(NotNormal);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~!$&'()*+,;=:@".contains(&byte);
    let without_parameters = dots_without_parameters(path);
    let bytes = without_parameters.as_deref().unwrap_or(path).as_bytes();
    if without_parameters.is_none()
        && !path.contains("/.")
        && bytes.iter().all(|byte| is_plain(*byte) || matches!(byte, b'/' | b'.'))
    {
        return Ok(None);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    // Where a `%` stands that begins no escape.
    let mut bare: SmallVec<[usize; 4]> = SmallVec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' => decoded.push(b'/'),
            b'%' => match bytes.get(at..at + 2).and_then(hex) {
                Some(0) => return Err(NotNormal),
                Some(code) if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => {
                    decoded.push(code);
                    at += 2;
                }
                Some(_) => decoded.push(b'%'),
                None => {
                    bare.push(decoded.len());
                    decoded.push(b'%');
                }
            },
            0 => return Err(NotNormal),
            byte if byte.is_ascii_graphic() && !b"\"<>^`{|}".contains(&byte) => decoded.push(byte),
            byte => decoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    // What was decoded behind it must not make it one: nobody may decode twice.
    for at in bare.into_iter().rev() {
        if decoded.get(at + 1..at + 3).and_then(hex).is_some() {
            decoded.splice(at..=at, *b"%25");
        }
    }
    let decoded = String::from_utf8(decoded).map_err(|_| NotNormal)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in decoded.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(decoded.len() + query.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() || ends_in_directory {
        out.push('/');
    }
    if out == path {
        return Ok(None);
    }
    out.push_str(query);
    Ok(Some(out))
}

/// `path` without the parameters of its segments that are dots but for those: `/a/..;b/c` is `/a/../c`. A host that cuts
/// parameters off before it resolves dots sees it so. `None` if there are none.
fn dots_without_parameters(path: &str) -> Option<String> {
    let dots_of = |segment: &str| {
        let before = segment.split(';').next().unwrap_or_default();
        let plain = before.replace("%2e", ".").replace("%2E", ".");
        (before.len() < segment.len() && matches!(plain.as_str(), "." | "..")).then_some(before.len())
    };
    // (A backslash becomes a slash in the normal form.)
    let separators = ['/', '\\'];
    if !path.contains(';') || !path.split(separators).any(|segment| dots_of(segment).is_some()) {
        return None;
    }
    let segments =
        path.split(separators).map(|segment| &segment[..dots_of(segment).unwrap_or(segment.len())]);
    Some(segments.collect::<Vec<_>>().join("/"))
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// What is normal stays as it is, climbs nowhere, and grows by escapes only.
        #[test]
        fn normal_paths_are_stable(path in "/[a-b./;\\\\%25\u{e9}eEfF?]{0,16}") {
            let Ok(normal) = canonical(&path) else { return Ok(()) };
            let normal = normal.unwrap_or_else(|| path.clone());
            prop_assert_eq!(canonical(&normal), Ok(None), "{} became {}", path, normal);
            prop_assert!(normal.len() <= 3 * path.len());
            let (before_query, _) = split_query(&normal);
            prop_assert!(before_query.starts_with('/') && !before_query.contains('\\'));
            prop_assert!(!before_query.split('/').any(|segment| matches!(segment, "." | "..")), "{}", normal);
        }
    }

    #[test]
    fn canonical_paths() {
        let table = [
            ("/a/../b//c%2f%2e/./d", "/b//c%2f./d"),
            ("/../../etc", "/etc"),
            ("/%7euser", "/~user"),
            ("/a\\b", "/a/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a?x=/../b", "/a?x=/../b"),
            ("/", "/"),
            ("/..%2fa", "/..%2fa"),
            ("/%%338", "/%2538"),
            ("/a/%%32e%%32e/x", "/a/%252e%252e/x"),
            ("/%2%65", "/%252e"),
            ("/%%zz%", "/%%zz%"),
            ("/a/..;b/c", "/c"),
            ("/a\\..;b\\c", "/c"),
            ("//i/`\\.;", "//i/%60/"),
        ];
        for (path, expected) in table {
            let normal = canonical(path).unwrap().unwrap_or_else(|| path.to_owned());
            assert_eq!(normal, expected, "{path}");
            assert_eq!(canonical(&normal).unwrap(), None, "{normal} must be stable");
        }
        assert_eq!(canonical("/%00"), Err(NotNormal));
        assert_eq!(canonical("*"), Err(NotNormal));
    }

    #[test]
    fn slashes() {
        assert_eq!(merge_slashes("/a//b///c?d//e").as_deref(), Some("/a/b/c?d//e"));
        assert_eq!(merge_slashes("/a/b"), None);
        assert_eq!(unescape_slashes("/a%2Fb%5c?%2f").as_deref(), Some("/a/b\\?%2f"));
        assert_eq!(unescape_slashes("/a?%2f"), None);
    }

    #[test]
    fn ports() {
        assert_eq!(split_port("a:80"), Some(("a", "80")));
        assert_eq!(split_port("[::1]:80"), Some(("[::1]", "80")));
        assert_eq!(split_port("[::1]"), None);
        assert_eq!(split_port("::1"), None);
        assert_eq!(split_port("a"), None);
    }
}
