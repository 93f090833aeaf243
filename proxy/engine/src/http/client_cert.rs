//! `x-forwarded-client-cert`: what a request may say about the certificate of its client, and what is added.
//!
//! Source: Envoy `docs/root/configuration/http/http_conn_man/headers.rst`, "x-forwarded-client-cert".

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use http::HeaderValue;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::facts::{Facts, Layer};
use proxy_core::head::RequestHead;
use proxy_core::headers::X_FORWARDED_CLIENT_CERT;
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::tls::{ClientCerts, PeerCertificate, SanKind, TlsInfo};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertConfig, ForwardClientCertDetails as Forward, SetCurrentClientCertDetails as Details,
};

use super::forwarded::append;

const ACTION: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertConfig";

/// What becomes of the header.
#[derive(Clone, Debug)]
pub struct ClientCert {
    /// Of requests that the tree leads nowhere.
    usual: Forwarding,
    by_tree: Option<Arc<MatchTree<Forwarding>>>,
}

/// What becomes of it for some requests, or for all.
#[derive(Clone, Debug)]
struct Forwarding {
    forward: Forward,
    details: Details,
    /// Its number among those that a tree may lead to; a session keeps what the usual one says of its client.
    number: Option<u32>,
}

impl ClientCert {
    /// Builds it.
    pub fn build(proto: &HttpConnectionManager, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let forward = proto.forward_client_cert_details();
        let usual = Forwarding::build(forward, proto.set_current_client_cert_details, None, cx);
        let count = Cell::new(0);
        let action = |message: &str, payload: &[u8], cx: &mut BuildCx<'_>| {
            if message != ACTION {
                return Err(cx.reject(format!("{message} is no action that is available here")));
            }
            let ForwardClientCertConfig { forward_client_cert_details, set_current_client_cert_details } =
                decode(payload, cx)?;
            let Ok(forward) = Forward::try_from(forward_client_cert_details) else {
                return Err(cx.at("forward_client_cert_details", |cx| {
                    cx.reject("value must be one of the defined enum values")
                }));
            };
            let number = count.replace(count.get() + 1);
            Forwarding::build(forward, set_current_client_cert_details, Some(number), cx)
        };
        let refuse = |input: &str| format!("a request cannot be matched on '{input}' before it has a route");
        let inputs = Inputs { layer: Layer::Http, admits: &|_| true, refuse: &refuse };
        let purpose = Purpose { inputs, action: &action };
        let by_tree = proto.forward_client_cert_matcher.as_ref().map(|matcher| {
            cx.at("forward_client_cert_matcher", |cx| MatchTree::build(matcher, &purpose, cx)).map(Arc::new)
        });
        Ok(Self { usual: usual?, by_tree: by_tree.transpose()? })
    }

    /// Rewrites the header of a request.
    pub(crate) fn apply(&self, info: &StreamInfo, request: &mut RequestHead) {
        let by_tree = self.by_tree.as_ref();
        let found = by_tree.and_then(|tree| tree.find(&Facts::of_request(info, request, None)));
        found.unwrap_or(&self.usual).apply(&info.connection, request);
    }
}

impl Forwarding {
    fn build(
        forward: Forward,
        details: Option<Details>,
        number: Option<u32>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let details = details.unwrap_or_default();
        cx.at("set_current_client_cert_details", |cx| {
            cx.reject_if(details.format != 0, "format", "only the default form is available")
        })?;
        Ok(Self { forward, details, number })
    }

    fn apply(&self, connection: &ConnectionInfo, request: &mut RequestHead) {
        let headers = &mut request.headers;
        let session = connection.tls.as_deref();
        match (self.forward, session.filter(|session| !session.peer.is_empty())) {
            (Forward::AlwaysForwardOnly, _) | (Forward::ForwardOnly, Some(_)) => {}
            (Forward::AppendForward, Some(session)) => {
                if let Some(value) = self.value(session, &connection.client_certs) {
                    append(headers, &X_FORWARDED_CLIENT_CERT, &value, ",");
                }
            }
            (Forward::SanitizeSet, Some(session)) => match self.value(session, &connection.client_certs) {
                Some(value) => drop(headers.insert(&X_FORWARDED_CLIENT_CERT, value.into_owned())),
                None => drop(headers.remove(&X_FORWARDED_CLIENT_CERT)),
            },
            (Forward::Sanitize, _) | (_, None) => drop(headers.remove(&X_FORWARDED_CLIENT_CERT)),
        }
    }

    /// What is said of the client of a session, which is put into words once.
    fn value<'s>(&self, session: &'s TlsInfo, others: &ClientCerts) -> Option<Cow<'s, HeaderValue>> {
        // Names are what an authority has signed, and still need not fit a header.
        let value = || HeaderValue::try_from(self.describe(session)).ok();
        match self.number {
            None => session.client_cert.get_or_init(value).as_ref().map(Cow::Borrowed),
            Some(number) => others.get_or_make(number, value).map(Cow::Owned),
        }
    }

    fn describe(&self, session: &TlsInfo) -> String {
        let mut parts: Vec<String> = Vec::new();
        let local = session.local.as_deref();
        parts.extend(
            local.iter().flat_map(|local| local.sans_of(&SanKind::Uri)).map(|san| format!("By={san}")),
        );
        let Some(peer) = session.peer_certificate() else { return String::new() };
        parts.push(format!("Hash={}", proxy_core::tls::hex(&peer.sha256)));
        let content = peer.content.as_ref();
        let Details { subject, cert, chain, dns, uri, issuer, format: _ } = self.details;
        if cert {
            parts.push(format!("Cert=\"{}\"", peer.url_encoded_pem()));
        }
        if chain {
            let all: String = session.peer.iter().map(PeerCertificate::url_encoded_pem).collect();
            parts.push(format!("Chain=\"{all}\""));
        }
        if subject.unwrap_or(false) {
            parts.push(format!("Subject=\"{}\"", content.map_or("", |content| content.subject.as_str())));
        }
        let sans = |kind| content.into_iter().flat_map(move |content| content.sans_of(kind));
        if uri {
            let before = parts.len();
            parts.extend(sans(&SanKind::Uri).map(|san| format!("URI={san}")));
            if parts.len() == before {
                // Envoy says that there is none, of these only.
                parts.push("URI=".to_owned());
            }
        }
        if dns {
            parts.extend(sans(&SanKind::Dns).map(|san| format!("DNS={san}")));
        }
        if issuer {
            parts.push(format!("Issuer=\"{}\"", content.map_or("", |content| content.issuer.as_str())));
        }
        parts.join(";")
    }
}
