//! Field names that are known in advance: found without allocation, with what the codecs must know about each, and which of them
//! Envoy keeps but one value of.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::matcher::header::joined;

/// What a field means to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "most are the field of their name")]
pub enum Role {
    /// Nothing: it is handed on.
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Hop by hop and otherwise meaningless: dropped.
    Hop,
    ProxyConnection,
    Te,
    Upgrade,
    Expect,
    /// May not be nominated by `connection` (Envoy `sanitizeConnectionHeader`).
    Forwarded,
}

/// On which side Envoy keeps at most one value of a field and joins repeated ones with `,` (its "inline" headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says where")]
pub enum Join {
    Never,
    Request,
    Response,
    Both,
}

/// One known name.
#[derive(Debug)]
pub struct Known {
    /// The name.
    pub name: HeaderName,
    text: &'static str,
    /// What it means to the codec.
    pub role: Role,
    /// Where its values become one.
    pub join: Join,
}

/// Declares the table: sections of names that share role and joining.
macro_rules! known {
    ($($role:ident $join:ident: $($name:literal)+;)*) => {
        /// The names alone, for the compile-time table.
        const TEXTS: &[&str] = &[$($($name,)+)*];
        static KNOWN: [Known; TEXTS.len()] = [$($(
            Known { name: HeaderName::from_static($name), text: $name, role: Role::$role, join: Join::$join },
        )+)*];
    };
}

// Joining as observed on Envoy 1.40 by sending every name twice; names it strips from outside requests by its documentation.
known! {
    Host Never: "host";
    ContentLength Never: "content-length";
    TransferEncoding Never: "transfer-encoding";
    Connection Never: "connection";
    Hop Never: "keep-alive";
    ProxyConnection Never: "proxy-connection";
    Te Never: "te";
    Upgrade Never: "upgrade";
    Expect Request: "expect";
    Forwarded Request: "x-forwarded-for" "x-forwarded-host" "x-forwarded-proto";
    Plain Request:
        "accept" "accept-encoding" "authorization" "user-agent" "referer" "origin" "if-match" "if-none-match"
        "if-modified-since" "if-unmodified-since" "pragma" "grpc-timeout" "access-control-request-method"
        "access-control-request-headers" "access-control-request-private-network" "x-client-trace-id" "x-forwarded-port"
        "x-forwarded-client-cert" "x-envoy-external-address" "x-envoy-original-path" "x-envoy-original-url"
        "x-envoy-downstream-service-cluster" "x-envoy-downstream-service-node" "x-envoy-expected-rq-timeout-ms"
        "x-envoy-force-trace" "x-envoy-hedge-on-per-try-timeout" "x-envoy-internal" "x-envoy-ip-tags"
        "x-envoy-max-retries" "x-envoy-retriable-header-names" "x-envoy-retriable-status-codes" "x-envoy-retry-grpc-on"
        "x-envoy-retry-on" "x-envoy-upstream-alt-stat-name" "x-envoy-upstream-rq-per-try-timeout-ms"
        "x-envoy-upstream-rq-timeout-alt-response" "x-envoy-upstream-rq-timeout-ms" "x-envoy-upstream-stream-duration-ms"
        "x-envoy-is-timeout-retry" "grpc-accept-encoding";
    Plain Both:
        "content-type" "content-encoding" "cache-control" "via" "x-request-id" "proxy-status" "x-envoy-decorator-operation"
        "x-envoy-attempt-count";
    Plain Response:
        "date" "server" "location" "etag" "vary" "age" "expires" "last-modified" "grpc-status" "grpc-message"
        "access-control-allow-origin" "access-control-allow-credentials" "access-control-allow-headers"
        "access-control-allow-methods" "access-control-expose-headers" "access-control-max-age"
        "access-control-allow-private-network" "x-envoy-degraded" "x-envoy-immediate-health-check-fail" "x-envoy-ratelimited"
        "x-envoy-upstream-canary" "x-envoy-upstream-healthchecked-cluster" "x-envoy-upstream-service-time";
    Plain Never:
        "accept-language" "accept-ranges" "accept-charset" "allow" "alt-svc" "cookie" "set-cookie" "content-disposition"
        "content-language" "content-location" "content-range" "content-security-policy" "dnt" "forwarded" "from" "if-range"
        "link" "max-forwards" "proxy-authenticate" "proxy-authorization" "range" "refresh" "retry-after" "trailer"
        "referrer-policy" "strict-transport-security" "upgrade-insecure-requests" "warning" "www-authenticate"
        "x-content-type-options" "x-frame-options" "x-xss-protection" "priority" "early-data" "http2-settings"
        "sec-websocket-accept" "sec-websocket-extensions" "sec-websocket-key" "sec-websocket-protocol"
        "sec-websocket-version" "sec-fetch-dest" "sec-fetch-mode" "sec-fetch-site" "sec-fetch-user" "sec-ch-ua"
        "sec-ch-ua-mobile" "sec-ch-ua-platform" "x-requested-with" "x-real-ip" "x-powered-by" "x-correlation-id"
        "x-envoy-original-host" "x-envoy-overloaded" "x-envoy-peer-metadata" "x-envoy-peer-metadata-id"
        "x-b3-traceid" "x-b3-spanid" "x-b3-parentspanid" "x-b3-sampled" "x-b3-flags" "b3"
        "traceparent" "tracestate" "baggage" "x-ot-span-context" "x-cloud-trace-context" "x-datadog-trace-id"
        "x-datadog-parent-id" "x-datadog-sampling-priority" "sw8" "uber-trace-id" "x-amzn-trace-id"
        "grpc-encoding" "grpc-status-details-bin" "grpc-message-type" "api-key" "x-api-key";
}

const SLOTS: usize = 1024;

/// Open addressing over `KNOWN`: 0 is free, otherwise index + 1. Computed at compile time.
static TABLE: [u8; SLOTS] = table();

const fn table() -> [u8; SLOTS] {
    let mut slots = [0u8; SLOTS];
    let mut index = 0;
    assert!(TEXTS.len() < u8::MAX as usize);
    while index < TEXTS.len() {
        let mut slot = hash(TEXTS[index].as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        index += 1;
        slots[slot] = index as u8;
    }
    slots
}

/// A slot from length, first, last and two inner octets; the `| 0x20` folds letter case.
const fn hash(name: &[u8]) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let first = (name[0] | 0x20) as u32;
    let middle = (name[length / 2] | 0x20) as u32;
    let late = (name[length - length.div_ceil(4)] | 0x20) as u32;
    let last = (name[length - 1] | 0x20) as u32;
    let mixed =
        (first | (middle << 8) | (late << 16) | (last << 24)) ^ (length as u32).wrapping_mul(0x0101_6b2d);
    (mixed.wrapping_mul(0x9e37_79b1) >> 22) as usize % SLOTS
}

/// The known field of this name, whatever its letter case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Known> {
    let mut slot = hash(name);
    loop {
        let index = usize::from(*TABLE.get(slot)?);
        // Free slots hold 0, for which there is no entry: the search ends.
        let known = KNOWN.get(index.checked_sub(1)?)?;
        let text = known.text.as_bytes();
        if is_same(text, name) {
            return Some(known);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Whether `name` is `text` but for letter case, eight octets at a time. `text` has small letters, digits and hyphens, all of
/// which have the bit that is set here; of the octets that become one of them by it, none but capital letters can be in a
/// name (the others are control characters, which [`hash`] and this may then take for what they are not).
fn is_same(text: &[u8], name: &[u8]) -> bool {
    if text.len() != name.len() {
        return false;
    }
    let (texts, text_rest) = text.as_chunks::<8>();
    let (names, name_rest) = name.as_chunks::<8>();
    let folded = |octets: &[u8; 8]| u64::from_ne_bytes(*octets) | 0x2020_2020_2020_2020;
    texts.iter().zip(names).all(|(text, name)| u64::from_ne_bytes(*text) == folded(name))
        && text_rest.iter().zip(name_rest).all(|(text, name)| *text == *name | 0x20)
}

/// Whether values of this field in a request become one, joined with `,`.
pub fn joins_in_request(name: &HeaderName) -> bool {
    lookup(name.as_str().as_bytes()).is_some_and(|known| matches!(known.join, Join::Request | Join::Both))
}

/// Whether values of this field in a response become one, joined with `,`.
pub fn joins_in_response(name: &HeaderName) -> bool {
    lookup(name.as_str().as_bytes()).is_some_and(|known| matches!(known.join, Join::Response | Join::Both))
}

/// There is no room for another header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Adds a value, or joins it to those that are there where a message has but one (`joins`: [`joins_in_request`], [`joins_in_response`]).
///
/// # Errors
/// If `headers` cannot hold more; nothing is added then.
pub fn add(
    headers: &mut HeaderMap,
    name: &HeaderName,
    value: HeaderValue,
    joins: fn(&HeaderName) -> bool,
) -> Result<(), Full> {
    // (Most names are joined nowhere; that is known for less than what the map holds.)
    let Some(old) = joins(name).then(|| joined(headers, name)).flatten() else {
        return headers.try_append(name, value).map(drop).map_err(|_| Full);
    };
    let all = [&*old, b",", value.as_bytes()].concat();
    // Two valid values and a comma always make a valid one.
    headers.insert(name, HeaderValue::from_maybe_shared(bytes::Bytes::from(all)).unwrap_or(value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for text in TEXTS {
            assert_eq!(lookup(text.as_bytes()).map(|known| known.name.as_str()), Some(*text));
            let upper = text.to_ascii_uppercase();
            assert_eq!(lookup(upper.as_bytes()).map(|known| known.name.as_str()), Some(*text));
        }
        assert!(lookup(b"").is_none());
        assert!(lookup(b"x-unheard-of").is_none());
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut texts = TEXTS.to_vec();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), TEXTS.len());
    }

    #[test]
    fn runs_of_used_slots_are_short() {
        // A miss walks to the next free slot, so the longest run bounds the work that any name can cause.
        let longest = TABLE.split(|index| *index == 0).map(<[u8]>::len).max();
        assert!(longest.is_some_and(|run| run <= 8), "{longest:?}");
    }
}
