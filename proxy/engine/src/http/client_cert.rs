//! `x-forwarded-client-cert`: what a request may say about the certificate of its client, and what is added.
//!
//! Source: Envoy `docs/root/configuration/http/http_conn_man/headers.rst`, "x-forwarded-client-cert".

use http::{HeaderMap, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::headers::X_FORWARDED_CLIENT_CERT;
use proxy_core::stream_info::ConnectionInfo;
use proxy_core::tls::{PeerCertificate, SanKind, TlsInfo};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails as Forward, SetCurrentClientCertDetails as Details,
};

use super::forwarded::append;

/// What becomes of the header.
#[derive(Clone, Debug)]
pub struct ClientCert {
    forward: Forward,
    details: Details,
}

impl ClientCert {
    /// Builds it.
    pub fn build(proto: &HttpConnectionManager, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let details = proto.set_current_client_cert_details.unwrap_or_default();
        cx.at("set_current_client_cert_details", |cx| {
            cx.reject_if(details.format != 0, "format", "only the default form is available")
        })?;
        Ok(Self { forward: proto.forward_client_cert_details(), details })
    }

    /// Rewrites the header of a request.
    pub(crate) fn apply(&self, connection: &ConnectionInfo, headers: &mut HeaderMap) {
        let session = connection.tls.as_deref().filter(|session| !session.peer.is_empty());
        match (self.forward, session) {
            (Forward::AlwaysForwardOnly, _) | (Forward::ForwardOnly, Some(_)) => {}
            (Forward::AppendForward, Some(session)) => {
                if let Some(value) = self.value(session) {
                    append(headers, &X_FORWARDED_CLIENT_CERT, value, ",");
                }
            }
            (Forward::SanitizeSet, Some(session)) => match self.value(session) {
                Some(value) => drop(headers.insert(&X_FORWARDED_CLIENT_CERT, value.clone())),
                None => drop(headers.remove(&X_FORWARDED_CLIENT_CERT)),
            },
            (Forward::Sanitize, _) | (_, None) => drop(headers.remove(&X_FORWARDED_CLIENT_CERT)),
        }
    }

    /// What is said of the client of a session: the same for all of its requests.
    fn value<'s>(&self, session: &'s TlsInfo) -> Option<&'s HeaderValue> {
        // Names are what an authority has signed, and still need not fit a header.
        session.client_cert.get_or_init(|| HeaderValue::try_from(self.describe(session)).ok()).as_ref()
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
