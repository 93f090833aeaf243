//! `CheckRequest`: what the service is told of a request or a connection, as Envoy tells it.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use http::HeaderMap;
use prost_types::{Struct, Timestamp, value::Kind};
use proxy_core::head::RequestHead;
use proxy_core::metadata::Metadata;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::tls::{Certificate, SanKind};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::service::auth::v3::AttributeContext;
use xds_api::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};

/// What is told beside the addresses.
#[derive(Debug, Default)]
pub struct Told {
    /// The client's certificate (`include_peer_certificate`).
    pub certificate: bool,
    /// The server name (`include_tls_session`).
    pub session: bool,
    /// Labels of this proxy (`bootstrap_metadata_labels_key`).
    pub labels: HashMap<String, String>,
    /// Namespaces of the stream's metadata, and of its connection's.
    pub namespaces: Vec<String>,
}

impl Told {
    /// Both ends of a connection, its TLS session and the metadata: what is told of requests and connections alike.
    ///
    /// `from` is the service that the client says it is, `to` the server name that it asks for.
    pub fn attributes(&self, info: &StreamInfo, from: &str, to: &str) -> AttributeContext {
        let connection = &*info.connection;
        let tls = connection.tls.as_ref();
        let peer = tls.and_then(|tls| tls.peer_certificate());
        let source = Peer {
            address: Some(connection.remote.to_proto()),
            service: from.to_owned(),
            principal: peer.and_then(|peer| peer.content.as_ref()).map(principal).unwrap_or_default(),
            certificate: match peer.filter(|_| self.certificate) {
                Some(peer) => peer.url_encoded_pem(),
                None => String::new(),
            },
            ..Peer::default()
        };
        let destination = Peer {
            address: Some(connection.local.to_proto()),
            service: to.to_owned(),
            principal: tls.and_then(|tls| tls.local.as_deref()).map(principal).unwrap_or_default(),
            labels: self.labels.clone(),
            ..Peer::default()
        };
        AttributeContext {
            source: Some(source),
            destination: Some(destination),
            metadata_context: Some(self.metadata(info)),
            tls_session: self.session.then(|| TlsSession { sni: server_name(connection).to_owned() }),
            ..AttributeContext::default()
        }
    }

    fn metadata(&self, info: &StreamInfo) -> core::Metadata {
        let of =
            |name: &str| info.metadata.namespace(name).or_else(|| info.connection.metadata.namespace(name));
        metadata(&self.namespaces, of)
    }
}

/// What `of` says of each namespace.
fn metadata<'m>(namespaces: &[String], of: impl Fn(&str) -> Option<&'m Struct>) -> core::Metadata {
    let known = namespaces.iter().filter_map(|name| Some((name.clone(), of(name)?.clone())));
    core::Metadata { filter_metadata: known.collect(), ..core::Metadata::default() }
}

/// The metadata of a route in `namespaces`.
pub fn route_metadata(namespaces: &[String], route: Option<&Metadata>) -> core::Metadata {
    metadata(namespaces, |name| route?.namespace(name))
}

/// The labels that the bootstrap's node has under `key`: those that are texts.
pub fn labels(node: &Struct, key: &str) -> HashMap<String, String> {
    let Some(Kind::StructValue(labels)) = node.fields.get(key).and_then(|value| value.kind.as_ref()) else {
        return HashMap::new();
    };
    let text = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    labels.fields.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// The name of the server in the client's hello.
pub fn server_name(connection: &ConnectionInfo) -> &str {
    let session = connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    session.or(connection.server_name.as_deref()).unwrap_or_default()
}

/// The first URI, name or else the subject of a certificate.
fn principal(certificate: &Certificate) -> String {
    let mut uris = certificate.sans_of(&SanKind::Uri);
    let mut names = certificate.sans_of(&SanKind::Dns);
    uris.next().or_else(|| names.next()).unwrap_or(&certificate.subject).to_owned()
}

/// How headers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As text, those of one name joined by commas.
    Text,
    /// One by one, as bytes (`encode_raw_headers`).
    Raw,
}

/// The headers of a request, pseudo-headers first.
pub fn fields(request: &RequestHead) -> impl Iterator<Item = (&str, &[u8])> {
    let pseudo: [(&str, &str); 4] = [
        (":authority", &request.authority),
        (":path", &request.path),
        (":method", request.method.as_str()),
        (":scheme", request.scheme.as_str()),
    ];
    let pseudo = pseudo.into_iter().filter(|(_, value)| !value.is_empty());
    let own = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    pseudo.map(|(name, value)| (name, value.as_bytes())).chain(own)
}

/// What is told of a request, headers and body excepted.
pub fn request(info: &StreamInfo, head: &RequestHead, id: u64) -> Request {
    let since = info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let http = HttpRequest {
        id: id.to_string(),
        method: head.method.as_str().to_owned(),
        path: head.path.to_string(),
        host: head.authority.to_string(),
        scheme: head.scheme.as_str().to_owned(),
        size: i64::try_from(info.bytes_received).unwrap_or(i64::MAX),
        protocol: info.protocol.map(|protocol| protocol.as_str().to_owned()).unwrap_or_default(),
        ..HttpRequest::default()
    };
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    Request { time: Some(time), http: Some(http) }
}

/// Adds a header to what is told of a request.
pub fn put_header(http: &mut HttpRequest, encoding: Encoding, name: &str, value: &[u8]) {
    if encoding == Encoding::Raw {
        let header =
            core::HeaderValue { key: name.to_owned(), raw_value: value.to_vec(), ..Default::default() };
        http.header_map.get_or_insert_default().headers.push(header);
        return;
    }
    let text = sanitized(value);
    match http.headers.get_mut(name) {
        Some(all) => {
            all.push(',');
            all.push_str(&text);
        }
        None => {
            http.headers.insert(name.to_owned(), text);
        }
    }
}

/// Text, with `!` for every byte that is part of none, as Envoy has it.
pub fn sanitized(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

/// The first value of a header, as text.
pub fn first(headers: &HeaderMap, name: &http::HeaderName) -> String {
    headers.get(name).map(|value| sanitized(value.as_bytes())).unwrap_or_default()
}
