//! What one client wants of connections to hosts, so that they are not shared with those who want something else.
//!
//! Envoy's `TransportSocketOptions`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::proxy_protocol::Tlv;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::text::Text;
use proxy_core::transport::{
    APPLICATION_PROTOCOLS, UPSTREAM_SERVER_NAME, UPSTREAM_SUBJECT_ALT_NAMES, names_of,
};
use xds_api::envoy::config::core::v3 as core;

use crate::tls::client::{Asked, Offer};

/// What a request, or a connection that is not for HTTP, wants of the connection that carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TransportOptions {
    /// What a TLS server is asked for (`auto_sni`), in place of what the context says.
    pub(crate) server_name: Option<Text>,
    /// What its certificate must be for (`auto_san_validation`).
    pub(crate) subject_name: Option<Text>,
    /// What its certificate must be for one of, as a filter says, in place of that.
    pub(crate) subject_names: Option<Arc<[Text]>>,
    /// What TLS offers, as a filter says, in place of what the context says.
    pub(crate) application_protocols: Option<Arc<[Text]>>,
    /// The client that the PROXY protocol tells the host of.
    pub(crate) client: Option<Client>,
}

impl TransportOptions {
    /// With what filters left in the filter state of the stream, which goes before what is taken from the request.
    ///
    /// None if nobody wants anything.
    pub(crate) fn with_state(options: Option<Self>, info: &StreamInfo) -> Option<Self> {
        let protocols = names_of(info, APPLICATION_PROTOCOLS);
        let server_name = names_of(info, UPSTREAM_SERVER_NAME).and_then(|names| names.first());
        let subject_names = names_of(info, UPSTREAM_SUBJECT_ALT_NAMES);
        if protocols.is_none() && server_name.is_none() && subject_names.is_none() {
            return options;
        }
        let mut options = options.unwrap_or_default();
        options.application_protocols = protocols.cloned();
        if server_name.is_some() {
            options.server_name = server_name.cloned();
        }
        if subject_names.is_some() {
            options.subject_name = None;
            options.subject_names = subject_names.cloned();
        }
        Some(options)
    }

    /// What a TLS connection that is for `offer` is asked.
    pub(crate) fn asked(&self, offer: Offer) -> Asked<'_> {
        let subject_name = || self.subject_name.as_slice();
        Asked {
            offer,
            server_name: self.server_name.as_ref(),
            application_protocols: self.application_protocols.as_deref().unwrap_or_default(),
            subject_names: self.subject_names.as_deref().unwrap_or_else(subject_name),
        }
    }
}

/// A client that hosts are told of.
///
/// Envoy tells its clients apart by their addresses only: a host may be told the TLVs of another of the same address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// Its address, and the one that it connected to, if both are of IP.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    /// What a proxy in front of us said of it, or a filter.
    pub(crate) tlvs: Arc<[Tlv]>,
}

impl Client {
    /// The client of a connection.
    pub(crate) fn of(info: &ConnectionInfo) -> Self {
        Self::with(info, None)
    }

    /// The client of a connection, with other TLVs in place of those that a proxy in front of us sent, if there are any.
    pub(crate) fn with(info: &ConnectionInfo, tlvs: Option<&Arc<[Tlv]>>) -> Self {
        Self {
            addresses: info.remote.socket_addr().zip(info.local.socket_addr()),
            tlvs: tlvs.or(info.proxied.as_ref()).cloned().unwrap_or_default(),
        }
    }
}

/// What TLS servers are asked for and held to is taken from requests (`UpstreamHttpProtocolOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesOfRequests {
    asks: bool,
    verifies: bool,
    header: Option<HeaderName>,
}

impl NamesOfRequests {
    pub(super) fn build(
        proto: Option<&core::UpstreamHttpProtocolOptions>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let Some(proto) = proto else { return Ok(None) };
        let core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
            proto;
        let header = match override_auto_sni_header.as_str() {
            // (It is what the name is taken from otherwise.)
            "" | ":authority" | "host" => None,
            name => match HeaderName::try_from(name) {
                Ok(name) => Some(name),
                Err(_) => {
                    return Err(cx.at("override_auto_sni_header", |cx| {
                        cx.reject(format!("'{name}' is no header that requests have"))
                    }));
                }
            },
        };
        let (asks, verifies) = (*auto_sni, *auto_san_validation);
        Ok((asks || verifies).then_some(Self { asks, verifies, header }))
    }

    /// Whether servers are asked for the names of requests, and held to them.
    pub(super) fn are_secure(&self) -> bool {
        self.asks && self.verifies
    }

    /// The name of a request with these headers, whose `authority` is as its route leaves it, before a host's name may take its place.
    pub(crate) fn of(&self, headers: &HeaderMap, authority: &Text) -> Text {
        let first = self.header.as_ref().and_then(|header| headers.get(header));
        let named = first.and_then(|value| Text::from_bytes(Bytes::copy_from_slice(value.as_bytes())));
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| authority.clone())
    }

    /// What a request of this name wants.
    pub(crate) fn options(&self, name: &Text) -> TransportOptions {
        let (host, is_ip) = host_of(name);
        // (Envoy takes an empty name for none.)
        let is_asked = self.asks && !is_ip && !host.is_empty();
        TransportOptions {
            server_name: is_asked.then(|| host.clone()),
            subject_name: self.verifies.then_some(host),
            ..TransportOptions::default()
        }
    }
}

/// The host of an authority, without port and brackets, and whether it is an address.
fn host_of(authority: &Text) -> (Text, bool) {
    let text = authority.as_str();
    let host = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') && port.parse::<u16>().is_ok() => host,
        _ => text,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(_) => (authority.slice_of(bare), true),
        Err(_) => (authority.slice_of(host), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_their_ports_as_in_envoy() {
        for (authority, host, is_ip) in [
            ("a.test", "a.test", false),
            ("a.test:443", "a.test", false),
            ("a.test:65536", "a.test:65536", false),
            ("a.test:", "a.test:", false),
            ("a.test:x", "a.test:x", false),
            ("10.0.0.1:80", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("[::1]:80", "::1", true),
            ("[::1]", "::1", true),
            ("[x]", "[x]", false),
            ("", "", false),
        ] {
            assert_eq!(host_of(&authority.into()), (host.into(), is_ip), "{authority}");
        }
    }
}
