//! Why a certificate is not accepted, in the words of OpenSSL.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};

/// Why a certificate was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its chain does not lead to a trusted authority.
    Chain(&'static str),
    /// None of its names, which these are, matches.
    San(String),
    /// Neither it nor its key is listed.
    Hash,
    /// It is none of a trust domain that is known.
    Svid(String),
    /// Its URI is none that is asked for.
    SvidSan,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(why) => {
                write!(
                    f,
                    "verify cert failed: X509_verify_cert: certificate verification error at depth 0: {why}"
                )
            }
            Self::San(names) => write!(f, "verify cert failed: SAN matcher, certificate SANs are [{names}]"),
            Self::Svid(why) => write!(f, "verify cert failed: {why}"),
            Self::SvidSan => f.write_str("verify cert failed: SAN match"),
            Self::Hash => f.write_str("verify cert failed: cert hash and spki"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// As the session takes it, which sends the alert that fits.
    pub(super) fn into_error(self) -> CertificateError {
        match self {
            Self::Chain(EXPIRED) => CertificateError::Expired,
            Self::Chain(NOT_YET_VALID) => CertificateError::NotValidYet,
            Self::Chain(REVOKED) => CertificateError::Revoked,
            Self::Chain(NO_ISSUER | TOO_LONG) => CertificateError::UnknownIssuer,
            Self::Chain(NO_CRL) => CertificateError::UnknownRevocationStatus,
            Self::Chain(UNFIT) => CertificateError::InvalidPurpose,
            Self::Chain(_) | Self::San(_) | Self::Hash | Self::Svid(_) | Self::SvidSan => {
                CertificateError::Other(OtherError(Arc::new(self)))
            }
        }
    }

    /// What was refused, from what the session says; nothing if it was something else.
    pub(in super::super) fn from_error(error: &CertificateError) -> Option<Self> {
        match error {
            CertificateError::Expired => Some(Self::Chain(EXPIRED)),
            CertificateError::NotValidYet => Some(Self::Chain(NOT_YET_VALID)),
            CertificateError::Revoked => Some(Self::Chain(REVOKED)),
            CertificateError::UnknownIssuer => Some(Self::Chain(NO_ISSUER)),
            CertificateError::UnknownRevocationStatus => Some(Self::Chain(NO_CRL)),
            CertificateError::InvalidPurpose => Some(Self::Chain(UNFIT)),
            CertificateError::Other(other) => other.0.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }
}

pub(super) const EXPIRED: &str = "certificate has expired";
pub(super) const NOT_YET_VALID: &str = "certificate is not yet valid";
pub(super) const REVOKED: &str = "certificate revoked";
pub(super) const NO_ISSUER: &str = "unable to get local issuer certificate";
pub(super) const TOO_LONG: &str = "certificate chain too long";
pub(super) const UNFIT: &str = "unsupported certificate purpose";
pub(super) const NO_CRL: &str = "unable to get certificate CRL";

/// The words of OpenSSL for it.
pub(super) fn describe(error: &webpki::Error) -> &'static str {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => EXPIRED,
        E::CertNotValidYet { .. } => NOT_YET_VALID,
        E::UnknownIssuer => NO_ISSUER,
        E::CertRevoked => REVOKED,
        E::CrlExpired { .. } => "CRL has expired",
        E::UnknownRevocationStatus => NO_CRL,
        E::InvalidSignatureForPublicKey => "certificate signature failure",
        E::PathLenConstraintViolated => "path length constraint exceeded",
        E::NameConstraintViolation => "permitted subtree violation",
        E::EndEntityUsedAsCa => "invalid CA certificate",
        E::MaximumPathDepthExceeded => TOO_LONG,
        E::RequiredEkuNotFoundContext(_) => UNFIT,
        E::UnsupportedCriticalExtension => "unhandled critical extension",
        E::CaUsedAsEndEntity => "a certification authority's certificate is not one of a peer",
        _ => "certificate rejected",
    }
}
