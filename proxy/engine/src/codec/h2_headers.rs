//! Header fields that HTTP/2 does not have (RFC 9113, 8.2.2).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::h1::wants_trailers;

/// Fields about a connection, none of which HTTP/2 may carry.
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Makes `headers` fit for HTTP/2: removes what it may not carry; of `te` only `trailers` stays. The codec would refuse the
/// message otherwise, whoever put the field there: the peer's HTTP/1, a route, a filter.
///
/// One pass over the names finds nearly always that there is nothing to remove. It also keeps ids of requests out of the
/// compression's table: no two are alike, they would only push out what is, and be compared with each later one.
pub(crate) fn fit(headers: &mut HeaderMap) {
    let mut has_connection_specific = false;
    for (name, value) in headers.iter_mut() {
        match name.as_str() {
            "x-request-id" | "traceparent" => value.set_sensitive(true),
            "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" | "te" => {
                has_connection_specific = true;
            }
            _ => {}
        }
    }
    if has_connection_specific {
        remove_connection_specific(headers);
    }
}

#[cold]
fn remove_connection_specific(headers: &mut HeaderMap) {
    for name in &CONNECTION_SPECIFIC {
        headers.remove(name);
    }
    if headers.contains_key(header::TE) {
        let trailers = headers.get_all(header::TE).iter().any(|te| wants_trailers(te.as_bytes()));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Makes one value of each repeated field of which Envoy keeps one, joined with `,`, as HTTP/1's codec does: policies must see all
/// that the host sees, and who trusts the last of a list must find it.
pub(crate) fn join_repeated(headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
    if headers.keys_len() != headers.len() {
        join(headers, joins);
    }
}

#[cold]
fn join(headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
    let is_repeated = |name: &&HeaderName| headers.get_all(*name).iter().nth(1).is_some() && joins(name);
    let names: Vec<HeaderName> = headers.keys().filter(is_repeated).cloned().collect();
    for name in names {
        let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(values.join(&b','))) {
            headers.insert(name, joined);
        }
    }
}

/// Says in `headers` what HTTP/1 says of an upgrade to `protocol`, for matchers and filters, and for the next hop.
pub(crate) fn name_upgrade(headers: &mut HeaderMap, protocol: &str) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(value) = HeaderValue::from_str(protocol) {
        headers.insert(header::UPGRADE, value);
    }
}

/// Octets of these fields before compression.
pub(super) fn plain_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() as u64
}

/// Octets of `:status` and its value.
pub(super) const PLAIN_STATUS: u64 = 10;

/// Octets of the head of a request before compression, pseudo headers included.
pub(super) fn plain_request_bytes(method: &Method, uri: &Uri, headers: &HeaderMap) -> u64 {
    let pseudo = [
        (":method", Some(method.as_str())),
        (":scheme", uri.scheme_str()),
        (":authority", uri.authority().map(|authority| authority.as_str())),
        (":path", uri.path_and_query().map(|path| path.as_str())),
    ];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some(name.len() + value?.len()));
    pseudo.sum::<usize>() as u64 + plain_bytes(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn te_trailers_alone_survives() {
        for (te, kept) in
            [("trailers", true), ("gzip, trailers", true), ("gzip", false), ("trailers;q=1", false)]
        {
            let mut headers = HeaderMap::new();
            for name in &CONNECTION_SPECIFIC {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            headers.insert("te", te.parse().unwrap());
            headers.insert("content-length", HeaderValue::from_static("3"));
            headers.insert("x-request-id", HeaderValue::from_static("1"));
            fit(&mut headers);
            assert!(headers.remove("x-request-id").is_some_and(|id| id.is_sensitive()), "never indexed");
            assert_eq!(headers.get("te").is_some_and(|te| te == "trailers"), kept, "{te}");
            assert_eq!(headers.len(), 1 + usize::from(kept), "{te}");
        }
    }
}
