//! Versions, cipher suites, groups of the key exchange and signatures, by the names that BoringSSL has for them.
//!
//! What BoringSSL knows and `rustls` does not speak on purpose (CBC, static RSA, TLS below 1.2) is left out of a list with a
//! warning; what BoringSSL does not know either is refused, and so is a list of which nothing is left.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion};
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsParameters;
use xds_api::envoy::extensions::transport_sockets::tls::v3::tls_parameters::{CompliancePolicy, TlsProtocol};

use super::signatures::Signatures;

/// What both sides of a handshake may choose from.
pub(super) struct Parameters {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) provider: Arc<CryptoProvider>,
    /// Suites of TLS 1.2 by preference: those of one group are alike, and the client's preference tells.
    pub(super) groups: Vec<Box<[CipherSuite]>>,
    /// What handshakes are signed with.
    pub(super) signatures: Signatures,
}

/// What `FIPS_202205` allows (SP 800-52r2, as BoringSSL reads it).
const FIPS_SUITES: [SupportedCipherSuite; 4] = [
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];
const FIPS_GROUPS: [&dyn SupportedKxGroup; 2] = [kx_group::SECP256R1, kx_group::SECP384R1];
const FIPS_SIGNATURES: [SignatureScheme; 8] = [
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// The suites of TLS 1.2 where nothing is said, as Envoy has them.
const DEFAULT_SUITES: &str = "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]:\
[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";

/// Suites of TLS 1.2, by both of their names.
const SUITES: &[(&str, &str, SupportedCipherSuite)] = &[
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Suites of TLS 1.2 and below that BoringSSL has and this proxy does not.
const LEGACY_SUITES: &[&str] = &[
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

/// Groups that BoringSSL has and this proxy does not.
const LEGACY_GROUPS: &[&str] =
    &["P-224", "secp224r1", "P-521", "secp521r1", "X25519Kyber768Draft00", "MLKEM1024"];

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    Some(match name {
        "X25519" | "x25519" => kx_group::X25519,
        "P-256" | "prime256v1" => kx_group::SECP256R1,
        "P-384" | "secp384r1" => kx_group::SECP384R1,
        "X25519MLKEM768" => kx_group::X25519MLKEM768,
        _ => return None,
    })
}

impl Parameters {
    /// Builds them; what is not said is as Envoy has it.
    pub(super) fn build(
        proto: Option<&TlsParameters>,
        default_max: TlsProtocol,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let default = TlsParameters::default();
        let proto = proto.unwrap_or(&default);
        cx.at("tls_params", |cx| {
            let versions = versions(proto, default_max, cx);
            let suites = suites(&proto.cipher_suites, cx);
            let kx_groups = groups(&proto.ecdh_curves, cx);
            let signatures = Signatures::build(&proto.signature_algorithms, cx);
            let complies = complies(proto, cx);
            let built = Self::of(versions?, suites?, kx_groups?, signatures?, false);
            Ok(if complies? { Self::fips() } else { built })
        })
    }

    /// Those of a policy, which takes the place of whatever else is said, as in Envoy.
    fn fips() -> Self {
        let suites = FIPS_SUITES.map(|suite| vec![suite]).to_vec();
        Self::of(vec![&TLS13, &TLS12], suites, FIPS_GROUPS.to_vec(), Signatures::only(&FIPS_SIGNATURES), true)
    }

    fn of(
        versions: Vec<&'static SupportedProtocolVersion>,
        suites: Vec<Vec<SupportedCipherSuite>>,
        kx_groups: Vec<&'static dyn SupportedKxGroup>,
        signatures: Signatures,
        only_aes: bool,
    ) -> Self {
        let mut tls13 = vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
        if !only_aes {
            tls13.push(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
        }
        let is_spoken = |suite: &SupportedCipherSuite| {
            versions.iter().any(|version| version.version == suite.version().version)
        };
        let provider = CryptoProvider {
            cipher_suites: tls13
                .into_iter()
                .chain(suites.iter().flatten().copied())
                .filter(is_spoken)
                .collect(),
            kx_groups,
            ..default_provider()
        };
        let ids = |group: Vec<SupportedCipherSuite>| group.iter().map(SupportedCipherSuite::suite).collect();
        let groups = suites.into_iter().map(ids).collect();
        Self { versions, provider: Arc::new(provider), groups, signatures }
    }
}

/// Whether a policy is asked for. There is one that is known.
fn complies(proto: &TlsParameters, cx: &mut BuildCx<'_>) -> Result<bool, Rejected> {
    cx.at("compliance_policies", |cx| match proto.compliance_policies.as_slice() {
        [] => Ok(false),
        [policy] if *policy == CompliancePolicy::Fips202205 as i32 => Ok(true),
        [policy] => Err(cx.reject(format!("Unknown compliance policy: {policy}"))),
        _ => Err(cx.reject("value must contain no more than 1 item(s)")),
    })
}

fn versions(
    proto: &TlsParameters,
    default_max: TlsProtocol,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<&'static SupportedProtocolVersion>, Rejected> {
    let (min, max) = (proto.tls_minimum_protocol_version(), proto.tls_maximum_protocol_version());
    let max = if max == TlsProtocol::TlsAuto { default_max.max(min) } else { max };
    if max < TlsProtocol::TlSv12 {
        return Err(cx.at("tls_maximum_protocol_version", |cx| {
            cx.reject("TLS below 1.2 is not available, so the maximum must be at least TLSv1_2")
        }));
    }
    if min > max {
        return Err(cx.reject("tls_minimum_protocol_version is above tls_maximum_protocol_version"));
    }
    if matches!(min, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        cx.at("tls_minimum_protocol_version", |cx| skip(min.as_str_name(), cx));
    }
    let mut versions = Vec::new();
    if max == TlsProtocol::TlSv13 {
        versions.push(&TLS13);
    }
    if min != TlsProtocol::TlSv13 {
        versions.push(&TLS12);
    }
    Ok(versions)
}

/// Names of a list, group by group: `[A|B]` is one of equal preference.
fn grouped(list: &[String]) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    let groups = list.iter().flat_map(|entry| entry.split(':'));
    groups.map(|group| group.split(['|', '[', ']']).map(str::trim).filter(|name| !name.is_empty()))
}

/// Names of a list.
fn names(list: &[String]) -> impl Iterator<Item = &str> {
    grouped(list).flatten()
}

/// Suites of TLS 1.2, group by group.
fn suites(list: &[String], cx: &mut BuildCx<'_>) -> Result<Vec<Vec<SupportedCipherSuite>>, Rejected> {
    let default = [DEFAULT_SUITES.to_owned()];
    let list = if list.is_empty() { &default } else { list };
    cx.at("cipher_suites", |cx| {
        let mut chosen: Vec<Vec<SupportedCipherSuite>> = Vec::new();
        let mut unknown = Vec::new();
        for names in grouped(list) {
            let mut group = Vec::new();
            for name in names {
                match SUITES.iter().find(|(openssl, iana, _)| *openssl == name || *iana == name) {
                    Some((_, _, suite)) if chosen.iter().flatten().chain(&group).any(|one| one == suite) => {}
                    Some((_, _, suite)) => group.push(*suite),
                    None if LEGACY_SUITES.contains(&name) => skip(name, cx),
                    None => unknown.push(name),
                }
            }
            if !group.is_empty() {
                chosen.push(group);
            }
        }
        if !unknown.is_empty() {
            return Err(cx.reject(format!(
                "Failed to initialize cipher suites {}. The following ciphers were rejected when tried individually: {}",
                list.join(":"),
                unknown.join(", ")
            )));
        }
        if chosen.is_empty() {
            return Err(cx.reject("none of these cipher suites is available"));
        }
        Ok(chosen)
    })
}

fn groups(list: &[String], cx: &mut BuildCx<'_>) -> Result<Vec<&'static dyn SupportedKxGroup>, Rejected> {
    if list.is_empty() {
        return Ok(vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1]);
    }
    cx.at("ecdh_curves", |cx| {
        let mut chosen: Vec<&'static dyn SupportedKxGroup> = Vec::new();
        for name in names(list) {
            match group(name) {
                Some(group) if chosen.iter().any(|one| one.name() == group.name()) => {}
                Some(group) => chosen.push(group),
                None if LEGACY_GROUPS.contains(&name) => skip(name, cx),
                None => {
                    return Err(cx.reject(format!("Failed to initialize ECDH curves {}", list.join(":"))));
                }
            }
        }
        if chosen.is_empty() {
            return Err(cx.reject("none of these groups is available"));
        }
        Ok(chosen)
    })
}

/// Leaves `name` out: says so, and counts it.
pub(super) fn skip(name: &str, cx: &mut BuildCx<'_>) {
    cx.env.stats.counter("tls.legacy_parameter_skipped").inc();
    tracing::warn!("'{}': {name} is not available and left out", cx.path());
}
