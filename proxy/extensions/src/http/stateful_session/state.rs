//! How clients carry the address of a session's host: in a cookie, in a header, or in a header of the host's own, as an envelope around it.
//!
//! A cookie holds a message with the address, and the time until which it counts if the cookie has a lifetime; a header the
//! address itself. Both in base64. An envelope is in `envelope`. Source: Envoy `docs/root/api-v3/extensions/http/stateful_session/`; observed on 1.40.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost::Message as _;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::head::RequestHead;
use proxy_core::matcher::cookie::cookie;
use proxy_core::set_cookie::SetCookie;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use xds_api::envoy::extensions::http::stateful_session::envelope::v3::EnvelopeSessionState;
use xds_api::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;

use super::envelope;
use super::fields::{COOKIE, ENVELOPE, HEADER};

/// What a request says of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Nothing: it is the first.
    Nothing,
    /// The address of the host; `None` if what it says is none.
    Host(Option<Address>),
}

/// Where the address is carried.
pub(super) enum SessionState {
    Cookie(CookieState),
    Header(HeaderName),
    /// Around what hosts say in a header of this name.
    Envelope(HeaderName),
}

pub(super) struct CookieState {
    set: SetCookie,
    /// How long one counts; zero for ever.
    ttl: Duration,
    /// Requests with other paths have no session.
    path: Box<str>,
}

/// What a cookie holds.
#[derive(Clone, PartialEq, prost::Message)]
struct CookieValue {
    #[prost(string, tag = "1")]
    address: String,
    /// Seconds since 1970; 0 for never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl SessionState {
    pub(super) fn build(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("typed_config", |cx| {
            let Some(any) = &proto.typed_config else { return Err(cx.reject("value is required")) };
            let (message, payload) = cx.unpack(any)?;
            match message.as_str() {
                COOKIE => CookieState::build(&decode(&payload, cx)?, cx).map(Self::Cookie),
                HEADER => {
                    let HeaderBasedSessionState { name } = decode(&payload, cx)?;
                    header_name(&name, cx).map(Self::Header)
                }
                ENVELOPE => {
                    let EnvelopeSessionState { header } = decode(&payload, cx)?;
                    cx.at("header", |cx| match header {
                        Some(header) => header_name(&header.name, cx).map(Self::Envelope),
                        None => Err(cx.reject("value is required")),
                    })
                }
                _ => Err(cx.reject(format!("Didn't find a registered implementation for type: '{message}'"))),
            }
        })
    }

    /// What `request` says; `None` if it can have no session. An envelope is taken off.
    pub(super) fn read(&self, request: &mut RequestHead, now: SystemTime) -> Option<Carried> {
        match self {
            Self::Cookie(state) => state.read(request, now),
            Self::Header(name) => {
                let value = request.headers.get(name);
                let decoded = value.and_then(|value| STANDARD.decode(value.as_bytes()).ok());
                Some(match decoded.filter(|decoded| !decoded.is_empty()) {
                    Some(decoded) => Carried::Host(address(&decoded)),
                    None => Carried::Nothing,
                })
            }
            Self::Envelope(name) => {
                let opened = request.headers.get(name).and_then(envelope::open);
                let Some((content, host)) = opened else { return Some(Carried::Nothing) };
                request.headers.insert(name, content);
                Some(host.map_or(Carried::Nothing, |host| Carried::Host(address(&host))))
            }
        }
    }

    /// Tells the client that the session is at `host`, unless it `is_known` to be; whether it learns of another host than before.
    pub(super) fn write(&self, host: &Address, is_known: bool, headers: &mut HeaderMap) -> bool {
        match self {
            Self::Cookie(_) | Self::Header(_) if is_known => false,
            Self::Cookie(state) => {
                if let Some(value) = state.header(host, SystemTime::now()) {
                    headers.append(header::SET_COOKIE, value);
                }
                true
            }
            Self::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(STANDARD.encode(host.to_string())) {
                    headers.insert(name, value);
                }
                true
            }
            // The host says whether there is a session.
            Self::Envelope(name) => {
                let mut values = headers.get_all(name).iter();
                let (Some(content), None) = (values.next(), values.next()) else { return false };
                let Some(value) = envelope::seal(host, content) else { return false };
                headers.insert(name, value);
                !is_known
            }
        }
    }
}

/// The name of a header that carries sessions.
fn header_name(name: &str, cx: &mut BuildCx<'_>) -> Result<HeaderName, Rejected> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| *name != header::HOST);
    parsed.ok_or_else(|| cx.at("name", |cx| cx.reject(format!("'{name}' cannot carry a session"))))
}

impl CookieState {
    fn build(proto: &CookieBasedSessionState, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("cookie", |cx| {
            let Some(cookie) = &proto.cookie else { return Err(cx.reject("value is required")) };
            if cookie.name.is_empty() {
                return Err(cx.reject("Cookie key cannot be empty for cookie based stateful sessions"));
            }
            let seconds = cookie.ttl.as_ref().map_or(0, |ttl| u64::try_from(ttl.seconds).unwrap_or(0));
            let attributes = cookie.attributes.iter().map(|one| (one.name.as_str(), one.value.as_str()));
            let set = SetCookie::build(&cookie.name, seconds, &cookie.path, attributes, cx)?;
            Ok(Self { set, ttl: Duration::from_secs(seconds), path: cookie.path.as_str().into() })
        })
    }

    /// As clients match the path of a cookie (RFC 6265 section 5.1.4), but for one without a path, which is for all.
    fn is_for(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&*self.path) else { return false };
        self.path.is_empty()
            || self.path.ends_with('/')
            || matches!(rest.as_bytes().first(), None | Some(b'/' | b'?' | b'#'))
    }

    fn read(&self, request: &RequestHead, now: SystemTime) -> Option<Carried> {
        if !self.is_for(&request.path) {
            return None;
        }
        let value = cookie(&request.headers, &self.set.name);
        Some(value.and_then(|value| carried(value, now)).unwrap_or(Carried::Nothing))
    }

    fn header(&self, host: &Address, now: SystemTime) -> Option<HeaderValue> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = if self.ttl.is_zero() { 0 } else { (since + self.ttl).as_secs() };
        let value = CookieValue { address: host.to_string(), expires };
        self.set.header(&STANDARD.encode(value.encode_to_vec()))
    }
}

/// What the value of a cookie says; `None` if nothing, or nothing any more.
fn carried(value: &[u8], now: SystemTime) -> Option<Carried> {
    let decoded = STANDARD.decode(value).ok().filter(|decoded| !decoded.is_empty())?;
    let Ok(CookieValue { address: text, expires }) = CookieValue::decode(decoded.as_slice()) else {
        // An older form is the address alone.
        return Some(Carried::Host(address(&decoded)));
    };
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // (To Envoy the time is signed: what is beyond its end was long ago.)
    let counts = !text.is_empty() && (expires == 0 || (seconds..1 << 63).contains(&expires));
    counts.then(|| Carried::Host(address(text.as_bytes())))
}

/// The address that is written like this; otherwise written it is none, as in Envoy, which compares texts.
fn address(text: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(text).ok()?;
    Address::parse(text).filter(|address| address.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried_in(value: &str, now: u64) -> Option<Carried> {
        carried(value.as_bytes(), UNIX_EPOCH + Duration::from_secs(now))
    }

    fn host(text: &str) -> Option<Carried> {
        Some(Carried::Host(Address::parse(text)))
    }

    #[test]
    fn cookies_are_those_of_envoy() {
        // What Envoy 1.40 wrote with a lifetime of two minutes, and without.
        let (value, expires) = ("Cg8xMjcuMC4wLjE6MTkxMDEQ6Mmq2AY=", 1_795_859_688);
        assert_eq!(carried_in(value, expires), host("127.0.0.1:19101"));
        assert_eq!(carried_in(value, expires + 1), None);
        assert_eq!(carried_in("Cg8xMjcuMC4wLjE6MTkxMDA=", u64::MAX >> 4), host("127.0.0.1:19100"));
        let env = crate::testing::env();
        let mut cx = BuildCx::new(&env);
        let set = SetCookie::build("c", 120, "/p", [("Secure", "")].into_iter(), &mut cx).unwrap();
        let state = CookieState { set, ttl: Duration::from_secs(120), path: "/p".into() };
        let now = UNIX_EPOCH + Duration::from_secs(expires - 120);
        let written = state.header(&Address::parse("127.0.0.1:19101").unwrap(), now).unwrap();
        assert_eq!(written, format!("c=\"{value}\"; Max-Age=120; Path=/p; Secure; HttpOnly"));
    }

    #[test]
    fn what_is_no_cookie_of_ours_says_nothing_or_is_an_address() {
        let encoded = |bytes: &[u8]| STANDARD.encode(bytes);
        assert_eq!(carried_in(&encoded(b"127.0.0.1:19101"), 0), host("127.0.0.1:19101"));
        assert_eq!(carried_in(&encoded(b"\n\x01x"), 0), Some(Carried::Host(None)));
        for value in ["", "!", "Cg8x", "Cg8xMjcuMC4wLjE6MTkxMDA"] {
            assert!(matches!(carried_in(value, 0), None | Some(Carried::Host(None))), "{value}");
        }
        assert_eq!(carried_in(&encoded(b"\x10\x01"), 0), None);
        let no_time = [b"\n\x0b127.0.0.1:1\x10", &[255; 9][..], b"\x01"].concat();
        assert_eq!(carried_in(&encoded(&no_time), 0), None);
    }

    #[test]
    fn addresses_are_written_in_one_way() {
        let of =
            |text: &str| carried_in(&STANDARD.encode([&[10, text.len() as u8], text.as_bytes()].concat()), 0);
        for text in ["127.0.0.1:80", "[::1]:80"] {
            assert_eq!(of(text), host(text));
        }
        for text in ["127.0.0.1:080", "127.0.0.1:+80", "127.0.0.01:80", "[0::1]:80", " 127.0.0.1:80"] {
            assert_eq!(of(text), Some(Carried::Host(None)), "{text}");
        }
    }

    #[test]
    fn a_cookie_is_for_what_is_under_its_path() {
        let env = crate::testing::env();
        let mut cx = BuildCx::new(&env);
        let set = SetCookie::build("c", 0, "", [].into_iter(), &mut cx).unwrap();
        let is_for = |path: &str, asked: &str| {
            CookieState { set: set.clone(), ttl: Duration::ZERO, path: path.into() }.is_for(asked)
        };
        for (path, asked) in [
            ("", "*"),
            ("/", "/a"),
            ("/a", "/a"),
            ("/a", "/a/b"),
            ("/a", "/a?b"),
            ("/a", "/a#b"),
            ("/a/", "/a/b"),
        ] {
            assert!(is_for(path, asked), "{path} {asked}");
        }
        for (path, asked) in [("/a", "/ab"), ("/a", "/"), ("/a/", "/a"), ("/a/", "/a?b")] {
            assert!(!is_for(path, asked), "{path} {asked}");
        }
    }
}
