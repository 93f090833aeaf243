//! A verifier as `rustls` asks it.

use std::fmt;
use std::sync::Arc;

use proxy_core::stats::Cells;
use proxy_core::stats::groups::SslStats;
use proxy_core::text::Text;
use proxy_core::tls::PeerCertificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, HandshakeKind, PeerMisbehaved, SignatureScheme};
use webpki::KeyUsage;

use super::super::session;
use super::super::signatures::Signatures;
use super::known::{Acquaintances, ChainId};
use super::names::{has_name, is_for, names};
use super::refusal::{NO_ISSUER, Refusal};
use super::{Verifier, sha256};

/// A verifier as a handshake asks it, and what it counts.
pub(in super::super) struct Judge {
    pub(in super::super) verifier: Option<Arc<Verifier>>,
    pub(in super::super) provider: Arc<CryptoProvider>,
    /// What peers may sign handshakes with.
    pub(in super::super) signatures: Signatures,
    pub(in super::super) stats: Cells<SslStats>,
    /// Only of a server: whether a client must show a certificate.
    pub(in super::super) is_required: bool,
    /// Only of a client: whether a server's certificate must have the name that was asked for.
    pub(in super::super) names_server: bool,
    /// Whom it has met.
    pub(in super::super) known: Acquaintances,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl Judge {
    /// Whether a chain holds; one that does is remembered.
    fn check(
        &self,
        verifier: &Verifier,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        if !verifier.verifies() {
            return verifier.check(leaf, intermediates, now, usage);
        }
        let id = ChainId::of(leaf, intermediates);
        if self.known.find(&id, now).is_none() {
            verifier.check(leaf, intermediates, now, usage)?;
            self.known.keep(id, verifier, leaf, intermediates, now);
        }
        Ok(())
    }

    /// The certificates that a peer showed, read and summed up.
    pub(in super::super) fn peer(&self, session: &rustls::CommonState) -> Arc<[PeerCertificate]> {
        let Some([leaf, intermediates @ ..]) = session.peer_certificates() else { return Arc::default() };
        let id = ChainId::of(leaf, intermediates);
        match self.known.find(&id, UnixTime::now()) {
            Some(known) => known.peer.clone(),
            None => std::iter::once(leaf).chain(intermediates).map(session::peer).collect(),
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let Err(refusal) = self.check(verifier, leaf, intermediates, now, usage) else { return Ok(()) };
        let stats = self.stats.here();
        match refusal {
            Refusal::Chain(_) | Refusal::Svid(_) => stats.fail_verify_error.inc(),
            Refusal::San(_) | Refusal::SvidSan => stats.fail_verify_san.inc(),
            Refusal::Hash => stats.fail_verify_cert_hash.inc(),
        }
        match verifier.accept_untrusted {
            true => Ok(()),
            false => Err(refusal.into_error().into()),
        }
    }

    /// Whether the certificate that the client showed was held to something and held, in a session that is agreed upon.
    ///
    /// A session that is resumed brings the certificate of an earlier one, which may have expired or been revoked since.
    ///
    /// # Errors
    /// It does not hold any more.
    pub(in super::super) fn judge_session(
        &self,
        session: &rustls::Connection,
    ) -> Result<bool, rustls::Error> {
        if self.client_auth_mandatory() && session.peer_certificates().is_none_or(<[_]>::is_empty) {
            return Err(rustls::Error::NoCertificatesPresented);
        }
        let (Some(verifier), Some([leaf, intermediates @ ..])) =
            (&self.verifier, session.peer_certificates())
        else {
            return Ok(false);
        };
        let (now, usage) = (UnixTime::now(), KeyUsage::client_auth());
        if verifier.accept_untrusted {
            return Ok(verifier.verifies() && self.check(verifier, leaf, intermediates, now, usage).is_ok());
        }
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.judge(leaf, intermediates, now, usage)?;
        }
        Ok(verifier.verifies())
    }

    /// Judges the certificate of a host once more in a session that is resumed, of which `rustls` does not ask: it may have
    /// expired or been revoked since.
    ///
    /// # Errors
    /// It does not hold any more.
    pub(in super::super) fn judge_resumed(
        &self,
        session: &rustls::CommonState,
        name: &ServerName<'_>,
        subject_names: &[Text],
    ) -> Result<(), rustls::Error> {
        match session.peer_certificates() {
            Some([leaf, intermediates @ ..]) if session.handshake_kind() == Some(HandshakeKind::Resumed) => {
                self.judge_host(leaf, intermediates, name, subject_names, UnixTime::now())
            }
            _ => Ok(()),
        }
    }

    fn judge_host(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        subject_names: &[Text],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if !subject_names.is_empty() && self.verifier.as_ref().is_none_or(|verifier| !verifier.is_strict()) {
            // As in Envoy: whose certificates nobody vouches for is asked for no name either.
            return Err(Refusal::Chain(NO_ISSUER).into_error().into());
        }
        self.judge(leaf, intermediates, now, KeyUsage::server_auth())?;
        let is_named = !self.names_server || has_name(leaf, name);
        if is_named && (subject_names.is_empty() || subject_names.iter().any(|name| is_for(leaf, name))) {
            return Ok(());
        }
        self.stats.here().fail_verify_san.inc();
        match self.verifier.as_ref().is_some_and(|verifier| verifier.accept_untrusted) {
            true => Ok(()),
            false => Err(Refusal::San(names(leaf)).into_error().into()),
        }
    }

    /// What is asked of clients, in a number.
    pub(in super::super) fn fingerprint(&self) -> [u8; 32] {
        let verifier = self.verifier.as_ref().map_or([0; 32], |verifier| verifier.fingerprint);
        sha256(&[&verifier[..], &[u8::from(self.is_required)]].concat())
    }

    fn count(&self, scheme: SignatureScheme) {
        let stats = self.stats.here();
        match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => stats.ecdsa_p256_sha256.inc(),
            SignatureScheme::ECDSA_NISTP384_SHA384 => stats.ecdsa_p384_sha384.inc(),
            SignatureScheme::ECDSA_NISTP521_SHA512 => stats.ecdsa_p521_sha512.inc(),
            SignatureScheme::RSA_PSS_SHA256 => stats.rsa_pss_sha256.inc(),
            SignatureScheme::RSA_PSS_SHA384 => stats.rsa_pss_sha384.inc(),
            SignatureScheme::RSA_PSS_SHA512 => stats.rsa_pss_sha512.inc(),
            SignatureScheme::RSA_PKCS1_SHA256 => stats.rsa_pkcs1_sha256.inc(),
            SignatureScheme::RSA_PKCS1_SHA384 => stats.rsa_pkcs1_sha384.inc(),
            SignatureScheme::RSA_PKCS1_SHA512 => stats.rsa_pkcs1_sha512.inc(),
            SignatureScheme::ED25519 => stats.ed25519.inc(),
            _ => {}
        }
    }

    /// Counts the signature of a peer, and says what it is verified with.
    ///
    /// # Errors
    /// It is none that was asked for.
    fn algorithms(
        &self,
        signature: &DigitallySignedStruct,
    ) -> Result<&WebPkiSupportedAlgorithms, rustls::Error> {
        if !self.signatures.takes(signature.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.count(signature.scheme);
        Ok(&self.provider.signature_verification_algorithms)
    }
}

/// What both traits ask in the same words: signatures of peers.
macro_rules! signatures {
    (|$this:ident| $judge:expr) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let $this = self;
            verify_tls12_signature(message, cert, dss, $judge.algorithms(dss)?)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let $this = self;
            verify_tls13_signature(message, cert, dss, $judge.algorithms(dss)?)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let $this = self;
            $judge.signatures.among($judge.provider.signature_verification_algorithms.supported_schemes())
        }
    };
}

impl ClientCertVerifier for Judge {
    fn offer_client_auth(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.is_strict())
    }

    // As in Envoy, a certificate that nothing is known of is not asked for, even where one is required.
    fn client_auth_mandatory(&self) -> bool {
        let insists = self.verifier.as_ref().is_some_and(|verifier| verifier.insists());
        insists || self.is_required && self.offer_client_auth()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.as_ref().map_or(&[], |verifier| &verifier.hints)
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    signatures!(|this| this);
}

/// A judge of hosts, who may hold their certificates to names besides.
#[derive(Debug)]
pub(in super::super) struct JudgeOfHosts {
    pub(in super::super) judge: Arc<Judge>,
    /// What a certificate must be for one of; nothing in particular if there is none.
    pub(in super::super) subject_names: Arc<[Text]>,
}

impl ServerCertVerifier for JudgeOfHosts {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.judge.judge_host(leaf, intermediates, name, &self.subject_names, now);
        judged.map(|()| ServerCertVerified::assertion())
    }

    signatures!(|this| &*this.judge);
}
