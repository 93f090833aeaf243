//! The names that an expression begins with, and what they tell.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, StatusCode};

use super::time::time_of;
use super::value::{Map, Value};
use crate::address::Address;
use crate::facts::Facts;
use crate::grpc;
use crate::local_reply::grpc_status_of;
use crate::matcher::RequestHeader;
use crate::metadata::Metadata;
use crate::response_flag::ResponseFlags;
use crate::stream_info::StreamInfo;
use crate::tls::{Certificate, SanKind, TlsInfo, hex};

/// A name that tells something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Request,
    Response,
    Connection,
    Upstream,
    Source,
    Destination,
    Metadata,
    FilterState,
    UpstreamFilterState,
    Xds,
}

impl Root {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "request" => Self::Request,
            "response" => Self::Response,
            "connection" => Self::Connection,
            "upstream" => Self::Upstream,
            "source" => Self::Source,
            "destination" => Self::Destination,
            "metadata" => Self::Metadata,
            "filter_state" => Self::FilterState,
            "upstream_filter_state" => Self::UpstreamFilterState,
            "xds" => Self::Xds,
            _ => return None,
        })
    }
}

/// Something with fields that are computed when they are asked for.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    Root(Root, Facts<'a>),
    RequestHeaders(Facts<'a>),
    Headers(Option<&'a HeaderMap>),
    /// A message `core.v3.Metadata`, and the map in it.
    Metadata(&'a Metadata),
    Namespaces(&'a Metadata),
    Dynamic(&'a StreamInfo),
}

impl<'a> Object<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            // What is computed has no list of its keys.
            Self::Root(..) | Self::Metadata(_) => 0,
            Self::RequestHeaders(Facts { request: None, .. }) | Self::Headers(None) => 0,
            // Of the pseudo-headers a request has these three, and most a path.
            Self::RequestHeaders(Facts { request: Some(request), .. }) => {
                request.headers.len() + 3 + usize::from(!request.path.is_empty())
            }
            Self::Headers(Some(headers)) => headers.len(),
            Self::Namespaces(metadata) => metadata.namespaces().count(),
            Self::Dynamic(info) => info.metadata.namespaces().count(),
        }
    }

    /// The keys, if they are known; in order.
    pub(super) fn names(&self) -> Option<Vec<&'a str>> {
        let of_headers = |headers: &'a HeaderMap| headers.keys().map(HeaderName::as_str);
        // (A field of a message that is empty is not written.)
        let filled = |is_filled| if is_filled { vec!["filter_metadata"] } else { Vec::new() };
        Some(match self {
            Self::Root(Root::Metadata, facts) => filled(facts.info.metadata.namespaces().next().is_some()),
            Self::Root(..) => return None,
            Self::Metadata(metadata) => filled(metadata.namespaces().next().is_some()),
            Self::RequestHeaders(Facts { request: Some(request), .. }) => {
                let pseudo = [":authority", ":method", ":path", ":scheme"];
                pseudo.into_iter().chain(of_headers(&request.headers)).collect()
            }
            Self::Headers(Some(headers)) => of_headers(headers).collect(),
            Self::RequestHeaders(Facts { request: None, .. }) | Self::Headers(None) => Vec::new(),
            Self::Namespaces(metadata) => metadata.namespaces().collect(),
            Self::Dynamic(info) => info.metadata.namespaces().collect(),
        })
    }

    /// Whether it is a message, which is not asked for fields that its type has not.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Metadata(_) | Self::Root(Root::Metadata, _))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Root(one, _), Self::Root(other, _)) => one == other,
            (Self::RequestHeaders(_), Self::RequestHeaders(_)) => true,
            (Self::Headers(one), Self::Headers(other)) => one == other,
            (
                Self::Metadata(one) | Self::Namespaces(one),
                Self::Metadata(other) | Self::Namespaces(other),
            ) => one == other,
            (Self::Dynamic(_), Self::Dynamic(_)) => true,
            _ => false,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Self::Root(root, facts) => match root {
                Root::Request => request(facts, name),
                Root::Response => response(facts, name),
                Root::Connection => connection(facts.info, name),
                Root::Upstream => upstream(facts.info, name),
                Root::Source => address(facts.info.remote_address(), name),
                Root::Destination => address(&facts.info.connection.local, name),
                Root::Metadata => match name {
                    "filter_metadata" => Some(object(Object::Dynamic(facts.info))),
                    _ => None,
                },
                Root::FilterState => facts.info.filter_state(name)?.to_text().map(Value::owned),
                Root::UpstreamFilterState => {
                    facts.info.upstream_filter_state(name)?.to_text().map(Value::owned)
                }
                Root::Xds => xds(facts, name),
            },
            Self::RequestHeaders(facts) => {
                RequestHeader::parse(name)?.in_request(facts.request?).map(Value::Text)
            }
            Self::Headers(headers) => RequestHeader::parse(name)?.in_headers((*headers)?).map(Value::Text),
            Self::Metadata(metadata) => match name {
                "filter_metadata" => Some(object(Object::Namespaces(metadata))),
                _ => None,
            },
            Self::Namespaces(metadata) => {
                metadata.namespace(name).map(|fields| Value::Map(Map::Json(fields)))
            }
            Self::Dynamic(info) => {
                let own = info.metadata.namespace(name);
                // A TCP stream is its connection.
                let of_connection = || info.connection.metadata.namespace(name);
                let found = if info.protocol.is_none() { own.or_else(of_connection) } else { own };
                found.map(|fields| Value::Map(Map::Json(fields)))
            }
        }
    }
}

fn object(object: Object<'_>) -> Value<'_> {
    Value::Map(Map::Object(object))
}

fn some_text(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then(|| Value::text(text))
}

fn int(number: impl TryInto<i64>) -> Value<'static> {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// What a header takes on the wire, framing aside.
fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn request<'a>(facts: &Facts<'a>, name: &str) -> Option<Value<'a>> {
    let Facts { info, request, .. } = *facts;
    match name {
        "headers" => return Some(object(Object::RequestHeaders(*facts))),
        "time" => return time_of(info.start_time).map(Value::Time),
        "duration" => {
            // While the request is under way it has no end, whatever of it has come.
            let complete = info.end.and(info.request_complete)?.saturating_duration_since(info.start);
            return i128::try_from(complete.as_nanos()).ok().map(Value::Span);
        }
        "protocol" => return info.protocol.map(|protocol| Value::text(protocol.as_str())),
        "size" => {
            let declared = request.and_then(|request| request.headers.get(http::header::CONTENT_LENGTH));
            return match declared {
                Some(length) => length.to_str().ok()?.trim().parse().ok().map(Value::Int),
                None => Some(int(info.bytes_received)),
            };
        }
        _ => {}
    }
    let request = request?;
    let header = |name: &str| {
        let first = request.headers.get(name)?;
        Some(Value::Text(Cow::Borrowed(first.as_bytes())))
    };
    let path = request.path.as_str();
    match name {
        "path" => some_text(path),
        "url_path" => Some(Value::text(path.split_once('?').map_or(path, |(path, _)| path))),
        "query" => {
            let query = request.query().unwrap_or("");
            Some(Value::text(query.split_once('#').map_or(query, |(query, _)| query)))
        }
        "host" => Some(Value::text(request.authority.as_str())),
        "scheme" => Some(Value::text(request.scheme.as_str())),
        "method" => Some(Value::Text(Cow::Borrowed(request.method.as_str().as_bytes()))),
        "referer" => header("referer"),
        "id" => header("x-request-id"),
        "useragent" => header("user-agent"),
        "total_size" => {
            let pseudo =
                [":path", path, ":method", request.method.as_str(), ":scheme", request.scheme.as_str()];
            let pseudo: usize = pseudo.iter().map(|text| text.len()).sum();
            let head =
                size_of(&request.headers) + pseudo + ":authority".len() + request.authority.as_str().len();
            Some(int(info.bytes_received.saturating_add(head as u64)))
        }
        _ => None,
    }
}

fn response<'a>(facts: &Facts<'a>, name: &str) -> Option<Value<'a>> {
    let Facts { info, response, trailers, .. } = *facts;
    let headers = response.map(|response| &response.headers);
    match name {
        "code" => info.response_code.map(|code| Value::Int(code.into())),
        "size" => Some(int(info.bytes_sent)),
        "headers" => Some(object(Object::Headers(headers))),
        "trailers" => Some(object(Object::Headers(trailers))),
        "flags" => Some(Value::Int(legacy(info.flags))),
        "code_details" => some_text(info.details.as_deref()?),
        "grpc_status" => {
            let carried = [trailers, headers].into_iter().flatten().find_map(grpc::status_in);
            // (Of a response that is none of gRPC it is that of its HTTP status.)
            let of_http = || StatusCode::from_u16(info.response_code?).ok().map(grpc_status_of);
            carried.or_else(of_http).map(|status| Value::Int(status.into()))
        }
        "total_size" => {
            let heads: usize = [headers, trailers].into_iter().flatten().map(size_of).sum();
            Some(int(info.bytes_sent.saturating_add(heads as u64)))
        }
        _ => None,
    }
}

/// Flags by their numbers in Envoy, of which these are the same here.
fn legacy(flags: ResponseFlags) -> i64 {
    flags.iter().map(|flag| 1_i64 << flag as u8).sum()
}

fn connection<'a>(info: &'a StreamInfo, name: &str) -> Option<Value<'a>> {
    let connection = &info.connection;
    let tls = connection.tls.as_deref();
    match name {
        "mtls" => Some(Value::Bool(tls.is_some_and(|tls| tls.peer_certificate().is_some()))),
        "requested_server_name" => {
            Some(Value::text(connection.server_name.as_ref().map_or("", |name| name.as_str())))
        }
        "id" => Some(Value::Uint(connection.id)),
        "termination_details" => some_text(info.termination_details.as_deref()?),
        "transport_failure_reason" => some_text(connection.transport_failure.as_deref()?),
        _ => session(tls?, name),
    }
}

fn upstream<'a>(info: &'a StreamInfo, name: &str) -> Option<Value<'a>> {
    let upstream = &info.upstream;
    let of_host = |what: &str| address(&upstream.host.as_ref()?.address, what);
    match name {
        "address" | "port" => of_host(name),
        "local_address" => upstream.local.as_ref().map(|local| Value::owned(local.to_string())),
        "transport_failure_reason" => some_text(upstream.transport_failure.as_deref()?),
        "request_attempt_count" => Some(Value::Uint(upstream.attempts.into())),
        _ => session(upstream.tls.as_deref()?, name),
    }
}

fn address<'a>(address: &Address, name: &str) -> Option<Value<'a>> {
    match name {
        "address" => Some(Value::owned(address.to_string())),
        "port" => address.port().map(|port| Value::Int(port.into())),
        _ => None,
    }
}

fn session<'a>(tls: &'a TlsInfo, name: &str) -> Option<Value<'a>> {
    let peer = tls.peer_certificate();
    let content = peer.and_then(|peer| peer.content.as_ref());
    let local = tls.local.as_deref();
    let subject = |of: Option<&'a Certificate>| Some(Value::text(of.map_or("", |of| of.subject.as_str())));
    let first = |of: Option<&'a Certificate>, kind| of?.sans_of(&kind).next().map(Value::text);
    match name {
        "tls_version" => Some(Value::text(tls.version)),
        "subject_local_certificate" => subject(local),
        "subject_peer_certificate" => subject(content),
        "uri_san_local_certificate" => first(local, SanKind::Uri),
        "uri_san_peer_certificate" => first(content, SanKind::Uri),
        "dns_san_local_certificate" => first(local, SanKind::Dns),
        "dns_san_peer_certificate" => first(content, SanKind::Dns),
        "sha256_peer_certificate_digest" => {
            Some(peer.map_or(Value::text(""), |peer| Value::owned(hex(&peer.sha256))))
        }
        _ => None,
    }
}

fn xds<'a>(facts: &Facts<'a>, name: &str) -> Option<Value<'a>> {
    let Facts { info, route, cluster, .. } = *facts;
    let metadata = |metadata| Some(object(Object::Metadata(metadata)));
    let connection = &info.connection;
    let has_virtual_host = info.virtual_host.is_some();
    match name {
        "cluster_name" => cluster.or(info.upstream.cluster.as_deref()).map(Value::text),
        "cluster_metadata" if info.upstream.cluster.is_some() => metadata(&info.upstream.cluster_metadata),
        "route_name" => info.route_name.as_deref().map(Value::text),
        "route_metadata" => metadata(route?),
        "virtual_host_name" => info.virtual_host.as_deref().map(Value::text),
        "virtual_host_metadata" if has_virtual_host => metadata(&info.virtual_host_metadata),
        "filter_chain_name" => Some(Value::text(&connection.filter_chain)),
        "listener_direction" => Some(Value::Int(connection.direction.into())),
        "listener_metadata" => metadata(&connection.listener_metadata),
        _ => None,
    }
}
