//! What services were asked, as facts: the message taken apart, with what varies from run to run replaced by a word.

use prost::Message;
use prost_types::Struct;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_api::envoy::service::auth::v3::CheckRequest;
use xds_api::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use xds_api::envoy::service::ratelimit::v3::RateLimitRequest;

use super::Facts;
use super::facts::varying;

/// What the line of a request has in it that asks an authorization service.
const AUTHORIZATION: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The same of a rate limit service.
const RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// Writes down the body of a request whose line is this, if it asks a service.
pub(super) fn put_asked(facts: &mut Facts, name: &str, line: &str, body: &[u8]) -> bool {
    match line {
        _ if line.contains(AUTHORIZATION) => put_check(facts, &format!("{name}.check"), body),
        _ if line.contains(RATE_LIMIT) => put_limit(facts, &format!("{name}.limit"), body),
        _ => return false,
    }
    true
}

fn put_limit(facts: &mut Facts, name: &str, body: &[u8]) {
    let Some(Ok(asked)) = body.get(5..).map(RateLimitRequest::decode) else {
        return facts.put_body(format!("{name}.body"), body);
    };
    facts.put(format!("{name}.domain"), &asked.domain);
    facts.put(format!("{name}.hits"), asked.hits_addend.to_string());
    for (at, descriptor) in asked.descriptors.iter().enumerate() {
        let RateLimitDescriptor { entries, limit, hits_addend, is_negative_hits } = descriptor;
        let entries: Vec<String> =
            entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
        let limit = limit.map(|limit| (limit.requests_per_unit, limit.unit));
        let rest = format!("limit {limit:?} hits {hits_addend:?} negative {is_negative_hits}");
        facts.put(format!("{name}.descriptor[{at}]"), format!("{} {rest}", entries.join(",")));
    }
}

fn put_check(facts: &mut Facts, name: &str, body: &[u8]) {
    let asked = body.get(5..).map(CheckRequest::decode);
    let Some(Ok(CheckRequest { attributes: Some(attributes) })) = asked else {
        return facts.put_body(format!("{name}.body"), body);
    };
    for (which, peer) in [("source", &attributes.source), ("destination", &attributes.destination)] {
        if let Some(peer) = peer {
            put_peer(facts, &format!("{name}.{which}"), peer, which == "source");
        }
    }
    if let Some(request) = &attributes.request {
        let seconds = request.time.as_ref().map_or(0, |time| time.seconds);
        facts.put(format!("{name}.time"), if seconds > 1_600_000_000 { "<time>" } else { "none" });
        if let Some(http) = &request.http {
            put_http(facts, name, http);
        }
    }
    let mut extensions: Vec<_> = attributes.context_extensions.iter().collect();
    extensions.sort();
    facts.put(format!("{name}.extensions"), format!("{extensions:?}"));
    for (which, metadata) in
        [("metadata", &attributes.metadata_context), ("route metadata", &attributes.route_metadata_context)]
    {
        facts.put(format!("{name}.{which}"), metadata.as_ref().map_or("none".to_owned(), metadata_text));
    }
    let session = attributes.tls_session.as_ref();
    facts.put(format!("{name}.sni"), session.map_or("none", |session| &session.sni));
}

fn put_peer(facts: &mut Facts, name: &str, peer: &Peer, is_client: bool) {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    let address = match peer.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => match &socket.port_specifier {
            Some(PortSpecifier::PortValue(_)) if is_client => format!("{} <port>", socket.address),
            Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", socket.address),
            other => format!("{} {other:?}", socket.address),
        },
        other => format!("{other:?}"),
    };
    facts.put(format!("{name}.address"), address);
    facts.put(format!("{name}.service"), &peer.service);
    facts.put(format!("{name}.principal"), &peer.principal);
    facts.put(format!("{name}.certificate"), &peer.certificate);
    let mut labels: Vec<_> = peer.labels.iter().collect();
    labels.sort();
    facts.put(format!("{name}.labels"), format!("{labels:?}"));
}

fn put_http(facts: &mut Facts, name: &str, http: &HttpRequest) {
    let is_number = http.id.parse::<u64>().is_ok();
    facts.put(format!("{name}.id"), if is_number { "<id>" } else { http.id.as_str() });
    facts.put(format!("{name}.method"), &http.method);
    facts.put(format!("{name}.path"), &http.path);
    facts.put(format!("{name}.host"), &http.host);
    facts.put(format!("{name}.scheme"), &http.scheme);
    facts.put(format!("{name}.query"), &http.query);
    facts.put(format!("{name}.fragment"), &http.fragment);
    facts.put(format!("{name}.size"), http.size.to_string());
    facts.put(format!("{name}.protocol"), &http.protocol);
    facts.put_body(format!("{name}.text"), http.body.as_bytes());
    facts.put_body(format!("{name}.raw"), &http.raw_body);
    let mut headers: Vec<_> = http.headers.iter().collect();
    headers.sort();
    for (key, value) in headers {
        facts.put(format!("{name}.told.{key}"), varying(key, value));
    }
    let mut raw: Vec<String> = http.header_map.iter().flat_map(|map| &map.headers).map(raw_header).collect();
    raw.sort();
    facts.put(
        format!("{name}.header map"),
        if http.header_map.is_some() { raw.join("\n") } else { "none".to_owned() },
    );
}

fn raw_header(header: &core::HeaderValue) -> String {
    let core::HeaderValue { key, value, raw_value } = header;
    let raw = String::from_utf8_lossy(raw_value);
    format!("{key}: {value} / {}", varying(key, &raw))
}

fn metadata_text(metadata: &core::Metadata) -> String {
    let mut names: Vec<_> =
        metadata.filter_metadata.iter().map(|(name, values)| text(name, values)).collect();
    names.sort();
    format!("{names:?} {}", metadata.typed_filter_metadata.len())
}

fn text(name: &str, values: &Struct) -> String {
    format!("{name}: {:?}", values.fields)
}
