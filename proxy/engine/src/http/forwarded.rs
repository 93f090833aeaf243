//! Who the client is, and what the request may say about it: `x-forwarded-*`, `x-envoy-*`, `x-request-id`, `via`.
//!
//! Source: Envoy `docs/root/configuration/http/http_conn_man/headers.rst`, `header_sanitizing.rst`.

use std::net::IpAddr;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::address::Address;
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::headers::{
    EnvoyHeader, X_ENVOY_DECORATOR_OPERATION, X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    X_ENVOY_DOWNSTREAM_SERVICE_NODE, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_EXTERNAL_ADDRESS,
    X_ENVOY_FORCE_TRACE, X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT, X_ENVOY_INTERNAL, X_ENVOY_IP_TAGS,
    X_ENVOY_MAX_RETRIES, X_ENVOY_ORIGINAL_URL, X_ENVOY_RETRIABLE_HEADER_NAMES,
    X_ENVOY_RETRIABLE_STATUS_CODES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON, X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS, X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, X_ENVOY_UPSTREAM_STREAM_DURATION_MS, X_FORWARDED_FOR, X_FORWARDED_PORT,
    X_FORWARDED_PROTO, envoy_prefix,
};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::ForwardProtoConfig;

use super::config::{ConnectionManager, UserAgent};
use super::request_id;
use crate::codec::downstream::Lacks;

/// Headers that only internal requests may carry.
static INTERNAL_ONLY: [&EnvoyHeader; 15] = [
    &X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    &X_ENVOY_FORCE_TRACE,
    &X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
    &X_ENVOY_INTERNAL,
    &X_ENVOY_IP_TAGS,
    &X_ENVOY_MAX_RETRIES,
    &X_ENVOY_ORIGINAL_URL,
    &X_ENVOY_RETRIABLE_HEADER_NAMES,
    &X_ENVOY_RETRIABLE_STATUS_CODES,
    &X_ENVOY_RETRY_GRPC_ON,
    &X_ENVOY_RETRY_ON,
    &X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    &X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    &X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    &X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
];

/// Headers that are removed from external requests only where `use_remote_address` says that this is the edge.
static EDGE_ONLY: [&EnvoyHeader; 3] =
    [&X_ENVOY_DECORATOR_OPERATION, &X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, &X_ENVOY_DOWNSTREAM_SERVICE_NODE];

/// What clients speak to whoever secures their connections in front of this proxy, by the port that they meant
/// (`forward_proto_config`).
#[derive(Clone, Debug, Default)]
pub struct ForwardProto {
    https: Vec<u32>,
    http: Vec<u32>,
}

impl ForwardProto {
    /// Takes the ports of `proto`.
    pub fn build(proto: Option<&ForwardProtoConfig>) -> Self {
        let Some(proto) = proto else { return Self::default() };
        let ForwardProtoConfig { https_destination_ports, http_destination_ports } = proto;
        Self { https: https_destination_ports.clone(), http: http_destination_ports.clone() }
    }

    /// What the client speaks. Ports count where it is known that the client meant them: redirected, PROXY protocol.
    fn scheme(&self, connection: &ConnectionInfo) -> Scheme {
        let port = connection.local.port().filter(|_| connection.local_restored).map(u32::from);
        let is_in = |ports: &[u32]| port.is_some_and(|port| ports.contains(&port));
        let https = is_in(&self.https) || (connection.secure && !is_in(&self.http));
        if https { Scheme::Https } else { Scheme::Http }
    }
}

/// What was found out about the client.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The client's address as far as it can be trusted.
    pub(crate) address: Address,
    /// The request comes from inside (`internal_address_config`).
    pub(crate) is_internal: bool,
}

/// Reads and rewrites the headers that say where a request comes from.
#[inline]
pub(crate) fn apply(
    manager: &ConnectionManager,
    info: &StreamInfo,
    request: &mut RequestHead,
    lacks: Lacks,
) -> Origin {
    let connection = &*info.connection;
    let present = Present::of(&request.headers);
    let (address, is_single) = if manager.use_remote_address {
        let is_single = !present.forwarded_for;
        let address = match manager.xff_num_trusted_hops {
            hops if hops > 0 && present.forwarded_for => {
                forwarded_for(&request.headers, hops - 1).map(|(address, _)| address)
            }
            _ => None,
        };
        if !manager.skip_xff_append {
            append_forwarded_for(manager, request, connection);
        }
        (address, is_single)
    } else if present.forwarded_for {
        forwarded_for(&request.headers, manager.xff_num_trusted_hops)
            .map_or((None, false), |(address, is_single)| (Some(address), is_single))
    } else {
        (None, false)
    };
    let is_trusting_nobody = manager.trusts_nobody();
    let own =
        (is_trusting_nobody || !present.forwarded_proto).then(|| manager.forward_proto.scheme(connection));
    if let Some(scheme) = own {
        request.headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    }
    if manager.append_x_forwarded_port
        && (is_trusting_nobody || !request.headers.contains_key(&X_FORWARDED_PORT))
        && let Some(port) = connection.local.port()
    {
        request.headers.insert(&X_FORWARDED_PORT, HeaderValue::from(port));
    }
    set_scheme(manager, request, own, lacks);

    let address = address.map_or_else(|| connection.remote.clone(), |ip| Address::Ip((ip, 0).into()));
    let is_internal = is_single && is_internal_address(manager, &address);
    let is_edge = !is_internal && manager.use_remote_address;
    if is_internal {
        request.headers.insert(&*X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else if present.envoy {
        sanitize(request, is_edge);
    }
    if is_edge
        && let Some(ip) = address.ip()
        && let Ok(value) = HeaderValue::from_str(&ip.to_string())
    {
        request.headers.insert(&*X_ENVOY_EXTERNAL_ADDRESS, value);
    }
    if let Some(UserAgent { cluster, node }) = &manager.user_agent {
        request.headers.insert(&*X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, cluster.clone());
        if request.headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
            request.headers.insert(USER_AGENT, cluster.clone());
        }
        if let Some(node) = node {
            request.headers.insert(&*X_ENVOY_DOWNSTREAM_SERVICE_NODE, node.clone());
        }
    }
    if present.client_cert || connection.tls.is_some() {
        manager.client_cert.apply(info, request);
    }
    let keeps_id = present.request_id && (!is_edge || manager.preserve_external_request_id);
    if manager.generate_request_id && !(keeps_id && request_id::is_given(request)) {
        request_id::set(request);
    }
    if let Some(via) = &manager.via {
        append(&mut request.headers, &http::header::VIA, via, ", ");
    }
    Origin { address, is_internal }
}

/// Which of the fields that are looked for here a request has. Nearly all have none, and one pass over the names costs less than two
/// of the two dozen look-ups that it spares.
#[derive(Default)]
struct Present {
    forwarded_for: bool,
    forwarded_proto: bool,
    client_cert: bool,
    request_id: bool,
    /// Any with the prefix of the proxy's own.
    envoy: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Self {
        let prefix = envoy_prefix();
        let mut present = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            match name {
                "x-forwarded-for" => present.forwarded_for = true,
                "x-forwarded-proto" => present.forwarded_proto = true,
                "x-forwarded-client-cert" => present.client_cert = true,
                "x-request-id" => present.request_id = true,
                _ => {}
            }
            present.envoy |= name.starts_with(prefix);
        }
        present
    }
}

fn sanitize(request: &mut RequestHead, is_edge: bool) {
    if is_edge {
        for name in EDGE_ONLY {
            request.headers.remove(&**name);
        }
    }
    for name in INTERNAL_ONLY {
        request.headers.remove(&**name);
    }
    request.headers.remove(&*X_ENVOY_UPSTREAM_STREAM_DURATION_MS);
}

/// `:scheme` is what the request names, else follows `x-forwarded-proto`, unless both are to be overwritten.
///
/// `own`: what was written there already.
fn set_scheme(manager: &ConnectionManager, request: &mut RequestHead, own: Option<Scheme>, lacks: Lacks) {
    if let Some(scheme) = manager.scheme_overwrite {
        request.scheme = scheme;
        request.headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
        return;
    }
    if !lacks.scheme {
        return;
    }
    let forwarded = || {
        let proto = request.headers.get(&X_FORWARDED_PROTO)?.as_bytes();
        let mut known = [Scheme::Http, Scheme::Https].into_iter();
        known.find(|one| proto.eq_ignore_ascii_case(one.as_str().as_bytes()))
    };
    request.scheme = own.or_else(forwarded).unwrap_or(request.scheme);
}

fn is_internal_address(manager: &ConnectionManager, address: &Address) -> bool {
    match address.ip() {
        Some(ip) => manager.internal_addresses.iter().any(|range| range.contains(ip)),
        None => manager.internal_unix_sockets,
    }
}

/// The address `skip` entries from the right of `x-forwarded-for`, and whether it is the only one there.
fn forwarded_for(headers: &HeaderMap, skip: usize) -> Option<(IpAddr, bool)> {
    let value = headers.get(&X_FORWARDED_FOR)?.to_str().ok()?;
    let mut entries = value.rsplit(',');
    let entry = entries.nth(skip)?;
    let is_single = skip == 0 && entries.next().is_none();
    // one with a port is no address, as in Envoy
    Some((entry.trim().parse().ok()?, is_single))
}

fn append_forwarded_for(manager: &ConnectionManager, request: &mut RequestHead, connection: &ConnectionInfo) {
    let Some(ip) = connection.remote.ip() else { return };
    // A loopback peer says nothing to the upstream; Envoy names this host instead.
    let ip = manager.host_address.filter(|_| ip.is_loopback()).unwrap_or(ip);
    let mut buffer = [0_u8; 45];
    let text = {
        use std::io::Write;
        let mut cursor = std::io::Cursor::new(&mut buffer[..]);
        let _ = write!(cursor, "{ip}");
        usize::try_from(cursor.position()).unwrap_or(0)
    };
    if let Ok(value) = HeaderValue::from_bytes(buffer.get(..text).unwrap_or_default()) {
        append(&mut request.headers, &X_FORWARDED_FOR, &value, ",");
    }
}

/// Appends `value` to the list `name` after `separator`: `,` without a space for `x-forwarded-for`, `, ` for `via`, as Envoy does.
pub(crate) fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue, separator: &str) {
    let joined = headers.get(name).filter(|old| !old.is_empty()).map(|old| {
        let mut joined = Vec::with_capacity(old.len() + separator.len() + value.len());
        joined.extend_from_slice(old.as_bytes());
        joined.extend_from_slice(separator.as_bytes());
        joined.extend_from_slice(value.as_bytes());
        joined
    });
    let value = match joined {
        Some(joined) => HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).ok(),
        None => Some(value.clone()),
    };
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_from_the_right() {
        let mut headers = HeaderMap::new();
        assert_eq!(forwarded_for(&headers, 0), None);
        headers.insert(&X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1, 192.0.2.2,192.0.2.3"));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(forwarded_for(&headers, 0), Some((ip("192.0.2.3"), false)));
        assert_eq!(forwarded_for(&headers, 2), Some((ip("192.0.2.1"), false)));
        assert_eq!(forwarded_for(&headers, 3), None);
        headers.insert(&X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
        assert_eq!(forwarded_for(&headers, 0), Some((ip("192.0.2.1"), true)));
    }

    #[test]
    fn appending_adds_a_comma_without_a_space() {
        let mut headers = HeaderMap::new();
        append(&mut headers, &X_FORWARDED_FOR, &HeaderValue::from_static("1.2.3.4"), ",");
        append(&mut headers, &X_FORWARDED_FOR, &HeaderValue::from_static("192.0.2.2"), ",");
        assert_eq!(headers.get(&X_FORWARDED_FOR).unwrap(), "1.2.3.4,192.0.2.2");
    }
}
