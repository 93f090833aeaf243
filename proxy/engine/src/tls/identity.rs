//! Certificates of this side with their keys, and which of them a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::tls::ocsp::OcspResponse;
use proxy_core::tls::{Certificate, SanKind};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use xds_api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::OcspStaplePolicy;

use super::encrypted;
use super::pkcs12::{self, Pkcs12};
use super::signatures::Signatures;
use super::source;

const NO_SUCH_KEY: &str = "this kind of key is not available";

/// A certificate with its chain and key, and what it says.
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    /// What the certificate says.
    pub certificate: Arc<Certificate>,
    /// An OCSP response about it, for clients that ask.
    pub staple: Option<Staple>,
    /// Where the chain came from: a path, or `<inline>`.
    pub path: Arc<str>,
    /// The secret that it is, if it is one.
    pub(super) secret: Option<Arc<str>>,
}

/// What is shown beside a certificate.
#[derive(Clone)]
pub struct Staple {
    /// What it says.
    pub response: Arc<OcspResponse>,
    /// The certificate with it.
    key: Arc<CertifiedKey>,
}

/// What a client that asks for an OCSP response gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stapling {
    /// One.
    Staple,
    /// None, and the handshake goes on.
    Omit,
    /// None, and the handshake fails.
    Fail,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("subject", &self.certificate.subject).finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn build(
        proto: &TlsCertificate,
        provider: &CryptoProvider,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let password = cx.at("password", |cx| source::read(proto.password.as_ref(), cx));
        let ocsp = cx.at("ocsp_staple", |cx| source::read(proto.ocsp_staple.as_ref(), cx));
        let (password, ocsp) = (password?, ocsp?);
        let password = password.map(|password| password.bytes).unwrap_or_default();
        let Loaded { certificate, key, path } = match &proto.pkcs12 {
            Some(_) => Loaded::from_pkcs12(proto, &password, provider, cx)?,
            None => Loaded::from_pem(proto, &password, provider, cx)?,
        };
        let staple = ocsp.map(|ocsp| Staple::build(&ocsp.bytes, &certificate, &key));
        let staple = staple.transpose().map_err(|cause| cx.at("ocsp_staple", |cx| cx.reject(cause)))?;
        Ok(Self {
            key: Arc::new(key),
            certificate: Arc::new(certificate),
            staple,
            path: path.into(),
            secret: None,
        })
    }

    /// What a client that asks for an OCSP response gets now.
    pub(super) fn stapling(&self, policy: OcspStaplePolicy) -> Stapling {
        let is_valid = self.staple.as_ref().is_some_and(Staple::is_valid);
        let must = self.certificate.must_staple || policy == OcspStaplePolicy::MustStaple;
        match policy {
            _ if is_valid => Stapling::Staple,
            _ if must => Stapling::Fail,
            OcspStaplePolicy::StrictStapling if self.staple.is_some() => Stapling::Fail,
            _ => Stapling::Omit,
        }
    }

    /// As it is shown; who does not ask for an OCSP response is not given it.
    fn shown(&self) -> Arc<CertifiedKey> {
        match &self.staple {
            Some(staple) if staple.is_valid() => staple.key.clone(),
            _ => self.key.clone(),
        }
    }

    /// Has its key make no other signatures.
    pub(super) fn limit(&mut self, signatures: &Signatures) {
        self.key = signatures.limit(&self.key);
        if let Some(staple) = &mut self.staple {
            staple.key = signatures.limit(&staple.key);
        }
    }

    /// For handshakes in which it is the only one.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(SingleCertAndKey::from(self.key.clone()))
    }

    /// The names that clients may ask for it by: those of its subject alternative names, or its common name.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.certificate.sans_of(&SanKind::Dns).map(str::to_ascii_lowercase).collect();
        if names.is_empty() {
            names.extend(self.certificate.common_name.as_deref().map(str::to_ascii_lowercase));
        }
        names
    }

    /// Whether a client that takes signatures of these schemes takes one of this key.
    pub(super) fn fits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }
}

/// A certificate that belongs to its key, from one file or two.
struct Loaded {
    certificate: Certificate,
    key: CertifiedKey,
    /// Where the chain came from.
    path: String,
}

impl Loaded {
    fn from_pem(
        proto: &TlsCertificate,
        password: &[u8],
        provider: &CryptoProvider,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let chain = cx.at("certificate_chain", |cx| source::read(proto.certificate_chain.as_ref(), cx));
        let key = cx.at("private_key", |cx| source::read(proto.private_key.as_ref(), cx));
        let (chain, key) = (chain?, key?);
        let Some(chain) = chain else {
            return Err(cx.reject("Failed to load incomplete certificate: certificate chain not set"));
        };
        let Some(key) = key else {
            return Err(cx.reject("Failed to load incomplete private key: private key not set"));
        };
        let loaded: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain.bytes).collect();
        let certificates = loaded.ok().filter(|certificates| !certificates.is_empty());
        let parsed = certificates.and_then(|all| Some((Certificate::parse(all.first()?)?, all)));
        let Some((certificate, certificates)) = parsed else {
            return Err(cx.at("certificate_chain", |cx| {
                cx.reject(format!("Failed to load certificate chain from {}", chain.name))
            }));
        };
        let loaded = match encrypted::is_encrypted(&key.bytes) {
            true => encrypted::decrypt(&key.bytes, password).map_err(str::to_owned),
            false => PrivateKeyDer::from_pem_slice(&key.bytes)
                .map_err(|_| "it is no PEM of a key that is known".to_owned()),
        };
        let key = loaded.and_then(|loaded| {
            CertifiedKey::from_der(certificates, loaded, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    "KEY_VALUES_MISMATCH: it is not the key of the certificate".to_owned()
                }
                _ => NO_SUCH_KEY.to_owned(),
            })
        });
        let key = key.map_err(|cause| {
            cx.at("private_key", |cx| {
                cx.reject(format!("Failed to load private key from {}, Cause: {cause}", key_name(proto)))
            })
        })?;
        Ok(Self { certificate, key, path: chain.name })
    }

    /// The last certificate of the file that the key belongs to is shown first, as by Envoy, then the others in their order.
    fn from_pkcs12(
        proto: &TlsCertificate,
        password: &[u8],
        provider: &CryptoProvider,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        for (field, is_set) in [
            ("certificate_chain", proto.certificate_chain.is_some()),
            ("private_key", proto.private_key.is_some()),
        ] {
            if is_set {
                return Err(
                    cx.reject(format!("Certificate configuration can't have both pkcs12 and {field}"))
                );
            }
        }
        cx.at("pkcs12", |cx| {
            let Some(source) = source::read(proto.pkcs12.as_ref(), cx)? else {
                return Err(cx.reject("Failed to load pkcs12: it is empty"));
            };
            let path = source.name;
            let file = pkcs12::read(&source.bytes, password)
                .map_err(|cause| cx.reject(format!("Failed to load pkcs12 from {path}, Cause: {cause}")))?;
            let Pkcs12 { mut certificates, key } = file;
            let failed = |cx: &mut BuildCx<'_>, cause: &str| {
                cx.reject(format!("Failed to load certificate from {path}, Cause: {cause}"))
            };
            let Some(key) = key else { return Err(failed(cx, "it has no key")) };
            let key = provider.key_provider.load_private_key(key.into());
            let key = key.map_err(|_| failed(cx, NO_SUCH_KEY))?;
            let is_of_key = |certificate: &CertificateDer<'static>| {
                CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match().is_ok()
            };
            let Some(own) = certificates.iter().rposition(is_of_key) else {
                return Err(failed(cx, "it has no certificate of its key"));
            };
            let own = certificates.remove(own);
            let Some(certificate) = Certificate::parse(&own) else {
                return Err(failed(cx, "its certificate cannot be read"));
            };
            certificates.insert(0, own);
            Ok(Self { certificate, key: CertifiedKey::new(certificates, key), path })
        })
    }
}

impl Staple {
    fn build(bytes: &[u8], certificate: &Certificate, key: &CertifiedKey) -> Result<Self, &'static str> {
        let response = OcspResponse::parse(bytes)?;
        // As in Envoy, who looks at the numbers only.
        if response.serial != certificate.serial {
            return Err("OCSP response does not match its TLS certificate");
        }
        let key = CertifiedKey { ocsp: Some(bytes.to_vec()), ..key.clone() };
        Ok(Self { response: Arc::new(response), key: Arc::new(key) })
    }

    fn is_valid(&self) -> bool {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        !self.response.is_expired_at(now)
    }
}

fn key_name(proto: &TlsCertificate) -> &str {
    use xds_api::envoy::config::core::v3::data_source::Specifier;
    match proto.private_key.as_ref().and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::Filename(path)) => path,
        _ => "<inline>",
    }
}

/// Chooses a certificate by the name that the client asks for, and by the signatures it takes.
///
/// As Envoy's default selector does: those that have the name, then those that have it by a wildcard, then the first, unless
/// all are to be looked through. Among several one with a key of ECDSA that the client can use wins, then any whose key it can; if it can use none, the first.
pub(super) struct Selector {
    identities: Vec<Identity>,
    by_name: HashMap<String, Vec<usize>>,
    full_scan: bool,
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Selector").field(&self.identities).finish()
    }
}

impl Selector {
    pub(super) fn new(identities: Vec<Identity>, full_scan: bool) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, identity) in identities.iter().enumerate() {
            for name in identity.names() {
                by_name.entry(name).or_default().push(index);
            }
        }
        Self { identities, by_name, full_scan }
    }

    pub(super) fn select(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Identity> {
        let all: Vec<usize> = (0..self.identities.len()).collect();
        let name = name.map(str::to_ascii_lowercase);
        let wildcard = || name.as_deref()?.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let named = || {
            let exact = self.by_name.get(name.as_deref()?);
            exact.or_else(|| self.by_name.get(&wildcard()?))
        };
        let candidates = match named() {
            Some(named) => named,
            None if name.is_none() || self.full_scan => &all,
            None => all.get(..1)?,
        };
        let candidates = || candidates.iter().filter_map(|index| self.identities.get(*index));
        let fitting = |kind: fn(SignatureAlgorithm) -> bool| {
            candidates().find(|identity| kind(identity.key.key.algorithm()) && identity.fits(schemes))
        };
        fitting(|kind| kind == SignatureAlgorithm::ECDSA)
            .or_else(|| fitting(|_| true))
            .or_else(|| candidates().next())
    }
}

impl ResolvesServerCert for Selector {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.select(hello.server_name(), hello.signature_schemes()).map(Identity::shown)
    }
}
