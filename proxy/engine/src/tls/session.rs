//! What is told of a session whose handshake is done.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use proxy_core::stats::groups::SslStats;
use proxy_core::tls::{Certificate, PeerCertificate, TlsInfo};
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion};

use super::verify::Refusal;

/// Counts the session and describes it; the caller adds what only one side knows.
pub(super) fn describe(session: &rustls::Connection, stats: &SslStats) -> TlsInfo {
    stats.handshake.inc();
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        stats.session_reused.inc();
    }
    let chain = session.peer_certificates().unwrap_or_default();
    if chain.is_empty() {
        stats.no_certificate.inc();
    }
    TlsInfo {
        version: version(session.protocol_version(), stats),
        cipher: cipher(session.negotiated_cipher_suite().map(|suite| suite.suite()), stats),
        group: group(session.negotiated_key_exchange_group().map(|group| group.name()), stats),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        peer: chain.iter().map(peer).collect(),
        ..TlsInfo::default()
    }
}

fn peer(der: &CertificateDer<'_>) -> PeerCertificate {
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
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// What is said of a handshake that failed, as Envoy frames it; without the numbers of a library that is not here. Empty if the
/// peer just left.
pub(super) fn failure(error: &std::io::Error) -> String {
    let Some(error) = error_of(error) else { return String::new() };
    let text = match error {
        rustls::Error::InvalidCertificate(refused) => match Refusal::from_error(refused) {
            Some(refusal) => format!("CERTIFICATE_VERIFY_FAILED:{refusal}"),
            None => format!("BAD_SIGNATURE:{error}"),
        },
        rustls::Error::NoCertificatesPresented => "PEER_DID_NOT_RETURN_A_CERTIFICATE".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("ALERT_RECEIVED:{alert:?}"),
        error => error.to_string(),
    };
    format!("TLS_error:|SSL routines:{text}:TLS_error_end")
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
