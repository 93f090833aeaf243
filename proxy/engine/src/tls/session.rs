//! What is told of a session whose handshake is done.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use proxy_core::stats::groups::SslStats;
use proxy_core::tls::{Certificate, PeerCertificate, TlsInfo};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CipherSuite, HandshakeKind, InvalidMessage, NamedGroup, ProtocolVersion};

use super::verify::{Judge, Refusal};

/// Counts the session and describes it; the caller adds what only one side knows.
pub(super) fn describe(session: &rustls::CommonState, judge: &Judge, stats: &SslStats) -> TlsInfo {
    stats.handshake.inc();
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        stats.session_reused.inc();
    }
    let peer = judge.peer(session);
    if peer.is_empty() {
        stats.no_certificate.inc();
    }
    TlsInfo {
        version: version(session.protocol_version(), stats),
        cipher: cipher(session.negotiated_cipher_suite().map(|suite| suite.suite()), stats),
        group: group(session.negotiated_key_exchange_group().map(|group| group.name()), stats),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        peer,
        ..TlsInfo::default()
    }
}

/// A certificate with its digests.
pub(super) fn peer(der: &CertificateDer<'_>) -> PeerCertificate {
    let (mut sha1, mut sha256) = ([0; 20], [0; 32]);
    sha1.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref());
    sha256.copy_from_slice(digest(&SHA256, der).as_ref());
    PeerCertificate { der: der.to_vec(), sha1, sha256, content: Certificate::parse(der) }
}

fn version(version: Option<ProtocolVersion>, stats: &SslStats) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => {
            stats.tls13.inc();
            "TLSv1.3"
        }
        Some(ProtocolVersion::TLSv1_2) => {
            stats.tls12.inc();
            "TLSv1.2"
        }
        _ => "",
    }
}

fn cipher(suite: Option<CipherSuite>, stats: &SslStats) -> &'static str {
    let (counter, name) = match suite {
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => (&stats.aes_256_gcm, "TLS_AES_256_GCM_SHA384"),
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => (&stats.aes_128_gcm, "TLS_AES_128_GCM_SHA256"),
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => {
            (&stats.chacha20_poly1305, "TLS_CHACHA20_POLY1305_SHA256")
        }
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => {
            (&stats.ecdsa_aes_256_gcm, "ECDHE-ECDSA-AES256-GCM-SHA384")
        }
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => {
            (&stats.ecdsa_aes_128_gcm, "ECDHE-ECDSA-AES128-GCM-SHA256")
        }
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => {
            (&stats.ecdsa_chacha20_poly1305, "ECDHE-ECDSA-CHACHA20-POLY1305")
        }
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => {
            (&stats.rsa_aes_256_gcm, "ECDHE-RSA-AES256-GCM-SHA384")
        }
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => {
            (&stats.rsa_aes_128_gcm, "ECDHE-RSA-AES128-GCM-SHA256")
        }
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => {
            (&stats.rsa_chacha20_poly1305, "ECDHE-RSA-CHACHA20-POLY1305")
        }
        _ => return "",
    };
    counter.inc();
    name
}

fn group(group: Option<NamedGroup>, stats: &SslStats) -> &'static str {
    let (counter, name) = match group {
        Some(NamedGroup::X25519) => (&stats.x25519, "X25519"),
        Some(NamedGroup::secp256r1) => (&stats.p256, "P-256"),
        Some(NamedGroup::secp384r1) => (&stats.p384, "P-384"),
        Some(NamedGroup::X25519MLKEM768) => (&stats.x25519_mlkem768, "X25519MLKEM768"),
        _ => return "",
    };
    counter.inc();
    name
}

fn error_of(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    let refused = || inner.downcast_ref::<RefusedAtOnce>().map(|refused| &refused.0);
    inner.downcast_ref::<rustls::Error>().or_else(refused)
}

/// A host has refused what it was offered, and said nothing before.
#[derive(Debug)]
struct RefusedAtOnce(rustls::Error);

impl std::fmt::Display for RefusedAtOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for RefusedAtOnce {}

/// Why a handshake failed, by whether the host had `answered`.
pub(super) fn refused_at_once(error: std::io::Error, answered: bool) -> std::io::Error {
    match error_of(&error) {
        Some(refused @ rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)) if !answered => {
            std::io::Error::new(error.kind(), RefusedAtOnce(refused.clone()))
        }
        _ => error,
    }
}

/// What is said of a handshake that failed, in the words and numbers of BoringSSL where it has them: logs are searched for
/// these. Empty if the peer just left.
pub(super) fn failure(failed: &std::io::Error) -> String {
    let Some(error) = error_of(failed) else { return String::new() };
    let (code, text) = match error {
        rustls::Error::InvalidCertificate(refused) => match Refusal::from_error(refused) {
            Some(refusal) => (125, format!("CERTIFICATE_VERIFY_FAILED:{refusal}")),
            None => (123, "BAD_SIGNATURE".to_owned()),
        },
        rustls::Error::NoCertificatesPresented => (192, "PEER_DID_NOT_RETURN_A_CERTIFICATE".to_owned()),
        rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
            (150, "EXCESSIVE_MESSAGE_SIZE".to_owned())
        }
        rustls::Error::AlertReceived(alert) => {
            (ALERTS + u32::from(u8::from(*alert)), alert_name(*alert).to_owned())
        }
        error => return format!("TLS_error:|SSL routines:{error}:TLS_error_end"),
    };
    let entry = |code: u32, text: &str| format!("|{}:SSL routines:OPENSSL_internal:{text}", LIBRARY + code);
    let is_at_once = failed.get_ref().is_some_and(|inner| inner.is::<RefusedAtOnce>());
    let then = if is_at_once { entry(154, "HANDSHAKE_FAILURE_ON_CLIENT_HELLO") } else { String::new() };
    format!("TLS_error:{}{then}:TLS_error_end", entry(code, &text))
}

/// The number that BoringSSL puts before those of its part for TLS.
const LIBRARY: u32 = 16 << 24;
/// Where the numbers of alerts begin there.
const ALERTS: u32 = 1000;

fn alert_name(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "UNKNOWN_ALERT_TYPE",
    }
}

/// Counts a handshake that failed, unless what was wrong with the certificate was counted.
pub(super) fn count_failure(error: &std::io::Error, stats: &SslStats) {
    match error_of(error) {
        Some(rustls::Error::NoCertificatesPresented) => stats.fail_verify_no_cert.inc(),
        Some(rustls::Error::InvalidCertificate(refused)) if Refusal::from_error(refused).is_some() => {}
        Some(_) => stats.connection_error.inc(),
        None => {}
    }
}
