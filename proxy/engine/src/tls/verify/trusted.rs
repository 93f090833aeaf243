//! Whom certificates of peers must come from, and lists of those that are revoked.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::tls::{Certificate, PeerCertificate, list_issued_and_due};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::super::{session, source};

/// An authority.
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) content: Certificate,
    /// As it is told of in logs.
    pub(super) shown: Arc<PeerCertificate>,
}

impl Authority {
    pub(super) fn read(der: CertificateDer<'static>) -> Option<Self> {
        let anchor = anchor_from_trusted_cert(&der).ok()?.to_owned();
        let shown = Arc::new(session::peer(&der));
        Some(Self { content: Certificate::parse(&der)?, shown, anchor, der })
    }

    /// Whether it vouches for itself.
    pub(super) fn is_root(&self) -> bool {
        self.content.subject == self.content.issuer
    }
}

/// A list of revoked certificates.
pub(super) struct RevocationList {
    pub(super) list: CertRevocationList<'static>,
    /// When it was issued, in seconds since 1970: of several of one issuer the newest counts.
    pub(super) issued: i64,
    /// When it ends, likewise.
    pub(super) ends: i64,
}

impl RevocationList {
    fn read(der: &[u8]) -> Option<Self> {
        let list = OwnedCertRevocationList::from_der(der).ok()?.into();
        let (issued, ends) = list_issued_and_due(der)?;
        Some(Self { list, issued, ends })
    }
}

/// What `trusted_ca` holds.
#[derive(Default)]
pub(in super::super) struct Trusted {
    pub(super) authorities: Vec<Authority>,
    pub(super) path: Option<Arc<str>>,
    /// A bundle may bring lists of its own.
    pub(super) lists: Vec<Arc<RevocationList>>,
}

impl Trusted {
    /// Whether there is nobody to trust.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    pub(in super::super) fn build(
        proto: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.at("trusted_ca", |cx| match source::read(proto.trusted_ca.as_ref(), cx)? {
            Some(content) => Self::read(&content, cx),
            None => Ok(Self::default()),
        })
    }

    /// Authorities in PEM, of which there must be one.
    pub(super) fn read(content: &source::Content, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let authorities = authorities(content, cx)?;
        let lists = lists_of(content, cx)?;
        Ok(Self { authorities, path: Some(content.name.as_str().into()), lists })
    }
}

fn authorities(content: &source::Content, cx: &mut BuildCx<'_>) -> Result<Vec<Authority>, Rejected> {
    let mut authorities = Vec::new();
    for der in CertificateDer::pem_slice_iter(&content.bytes) {
        match der.ok().and_then(Authority::read) {
            Some(authority) => authorities.push(authority),
            None => {
                return Err(
                    cx.reject(format!("Failed to load trusted CA certificates from {}", content.name))
                );
            }
        }
    }
    if authorities.is_empty() {
        return Err(cx.reject(format!("Failed to load trusted CA certificates from {}", content.name)));
    }
    Ok(authorities)
}

/// The lists of `crl`.
pub(super) fn crls(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<Arc<RevocationList>>, Rejected> {
    let Some(content) = source::read(proto.crl.as_ref(), cx)? else { return Ok(Vec::new()) };
    let lists = lists_of(&content, cx)?;
    if lists.is_empty() {
        return Err(cx.reject(format!("Failed to load CRL from {}", content.name)));
    }
    Ok(lists)
}

/// The lists of revoked certificates among other things in PEM.
fn lists_of(content: &source::Content, cx: &mut BuildCx<'_>) -> Result<Vec<Arc<RevocationList>>, Rejected> {
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(&content.bytes) {
        match der.ok().and_then(|der| RevocationList::read(&der)) {
            Some(list) => lists.push(Arc::new(list)),
            None => return Err(cx.reject(format!("Failed to load CRL from {}", content.name))),
        }
    }
    Ok(lists)
}
