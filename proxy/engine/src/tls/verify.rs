//! Whether a peer's certificate is accepted: its chain, its names, its digests.
//!
//! One rule for both sides, as in Envoy: the chain must lead to a trusted authority if any is given; one of the names must
//! match if names are asked for; the certificate or its key must be listed if digests are. A peer is never asked whether
//! its certificate fits the name that was asked for: only `match_typed_subject_alt_names` says so.

mod chain;
mod judge;
mod known;
mod names;
mod refusal;
mod sources;
mod spiffe;
mod trusted;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::tls::{Certificate, PeerCertificate, SanKind, SanMatcher, hex};
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;

use self::chain::Store;
use self::names::{names, sans};
use self::spiffe::TrustDomains;
use self::trusted::{RevocationList, Trusted};

pub(super) use self::judge::{Judge, JudgeOfHosts};
pub(super) use self::known::Acquaintances;
pub use self::refusal::Refusal;
pub(super) use self::sources::Sources;
pub(super) use self::spiffe::{bundle_file, with_bundle};

/// What certificates of peers are held to (`CertificateValidationContext`).
pub struct Verifier {
    trusted: Arc<Trusted>,
    /// Whom else to trust, each with a domain of its own, if that is how (`envoy.tls.cert_validator.spiffe`).
    domains: Option<Arc<TrustDomains>>,
    /// The secret that it came with, if it came with one.
    pub(super) secret: Option<Arc<str>>,
    sans: Vec<SanMatcher>,
    hashes: Vec<[u8; 32]>,
    key_hashes: Vec<[u8; 32]>,
    /// Of revoked certificates: the newest first, as the first of an issuer counts.
    lists: Vec<Arc<RevocationList>>,
    crl_of_leaf_only: bool,
    allow_expired: bool,
    accept_untrusted: bool,
    max_depth: Option<usize>,
    hints: Vec<DistinguishedName>,
    /// Of all that it asks for.
    fingerprint: [u8; 32],
}

impl Verifier {
    /// Builds it of what was read.
    pub(super) fn of(
        sources: Result<Sources, Rejected>,
        proto: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let sans = sans(proto, cx);
        let hashes = cx.each("verify_certificate_hash", &proto.verify_certificate_hash, |text, cx| {
            from_hex(text).ok_or_else(|| cx.reject(format!("Invalid hex-encoded SHA-256 {text}")))
        });
        let key_hashes = cx.each("verify_certificate_spki", &proto.verify_certificate_spki, |text, cx| {
            from_base64(text).ok_or_else(|| cx.reject(format!("Invalid base64-encoded SHA-256 {text}")))
        });
        let (Sources { trusted, domains, crls }, mut sans) = (sources?, sans?);
        if let Some(domains) = &domains {
            domains.check_others(proto, cx)?;
            // What else a certificate is called says nothing of whose it is.
            let asks = !sans.is_empty();
            sans.retain(|matcher| matcher.kind == SanKind::Uri);
            if asks && sans.is_empty() {
                return Err(
                    cx.reject("match_typed_subject_alt_names: only URIs are compared with trust domains")
                );
            }
        } else if trusted.authorities.is_empty() {
            if !sans.is_empty() {
                return Err(cx.reject(
                    "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
                ));
            }
            if proto.allow_expired_certificate {
                return Err(cx.reject("Certificate validity period is always ignored without trusted CA"));
            }
            if !crls.is_empty() {
                return Err(cx.reject(format!("Failed to load CRL from {} without trusted CA", "crl")));
            }
        }
        let bundles =
            || std::iter::once(&*trusted).chain(domains.iter().flat_map(|domains| domains.bundles()));
        let authorities = || bundles().flat_map(|bundle| &bundle.authorities);
        let mut hints: Vec<DistinguishedName> = Vec::new();
        if !proto.suppress_client_ca_list {
            for authority in authorities() {
                let name = DistinguishedName::from(authority.content.subject_der.clone());
                if !hints.iter().any(|known| known.as_ref() == name.as_ref()) {
                    hints.push(name);
                }
            }
        }
        let mut lists = crls;
        lists.extend(trusted.lists.iter().cloned());
        lists.sort_by_key(|list| std::cmp::Reverse(list.issued));
        let mut asked = proto.encode_to_vec();
        authorities().for_each(|authority| asked.extend_from_slice(&authority.der));
        let fingerprint = sha256(&asked);
        Ok(Self {
            trusted,
            domains,
            secret: None,
            sans,
            hashes: hashes?,
            key_hashes: key_hashes?,
            lists,
            crl_of_leaf_only: proto.only_verify_leaf_cert_crl,
            allow_expired: proto.allow_expired_certificate,
            accept_untrusted: proto.trust_chain_verification() == TrustChainVerification::AcceptUntrusted,
            max_depth: proto.max_verify_depth.map(|depth| depth as usize),
            hints,
            fingerprint,
        })
    }

    /// Whether there is anything that a certificate is held to, so that one is asked for.
    pub fn is_strict(&self) -> bool {
        self.accept_untrusted || self.verifies()
    }

    /// Whether a certificate that is accepted counts as verified.
    fn verifies(&self) -> bool {
        self.domains.is_some()
            || !self.trusted.authorities.is_empty()
            || !self.hashes.is_empty()
            || !self.key_hashes.is_empty()
    }

    /// The authority that issued a certificate, by its name.
    pub(super) fn issuer_of(&self, peer: &PeerCertificate) -> Option<Arc<PeerCertificate>> {
        let issuer = &peer.content.as_ref()?.issuer;
        let mut authorities = self.bundles().flat_map(|bundle| &bundle.authorities);
        authorities
            .find(|authority| authority.content.subject == *issuer)
            .map(|authority| authority.shown.clone())
    }

    fn bundles(&self) -> impl Iterator<Item = &Trusted> {
        std::iter::once(&*self.trusted).chain(self.domains.iter().flat_map(|domains| domains.bundles()))
    }

    /// All lists of revoked certificates.
    fn all_lists(&self) -> impl Iterator<Item = &RevocationList> {
        self.lists.iter().chain(self.bundles().flat_map(|bundle| &bundle.lists)).map(|list| &**list)
    }

    /// Whether it knows authorities.
    pub(super) fn has_authorities(&self) -> bool {
        self.bundles().any(|bundle| !bundle.authorities.is_empty())
    }

    /// Whether a client must show a certificate even where none is required, as Envoy has it with trust domains.
    fn insists(&self) -> bool {
        self.domains.is_some()
    }

    /// Where the authorities came from: a path, or `<inline>`; of those of a trust domain with its name in front.
    pub fn path(&self) -> Option<&str> {
        self.bundles().find_map(|bundle| bundle.path.as_deref())
    }

    /// The authorities.
    pub fn authorities(&self) -> impl Iterator<Item = &Certificate> {
        self.bundles().flat_map(|bundle| &bundle.authorities).map(|authority| &authority.content)
    }

    /// Whether the certificate holds; `accept_untrusted` is not looked at.
    pub fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        if let Some(domains) = &self.domains {
            return self.check_svid(domains, leaf, intermediates, now, usage);
        }
        if !self.trusted.authorities.is_empty() {
            let store = Store { trusted: &self.trusted, lists: &self.lists, roots_only: false };
            self.check_chain(&store, leaf, intermediates, now, usage)?;
        }
        if !self.sans.is_empty() && !self.matches_san(leaf) {
            return Err(Refusal::San(names(leaf)));
        }
        if self.hashes.is_empty() && self.key_hashes.is_empty() {
            return Ok(());
        }
        let is_listed = |list: &[[u8; 32]], bytes: &[u8]| {
            !list.is_empty() && list.iter().any(|hash| hash == digest(&SHA256, bytes).as_ref())
        };
        let key =
            || Certificate::parse(leaf).is_some_and(|leaf| is_listed(&self.key_hashes, &leaf.public_key));
        if is_listed(&self.hashes, leaf) || key() { Ok(()) } else { Err(Refusal::Hash) }
    }

    fn matches_san(&self, leaf: &CertificateDer<'_>) -> bool {
        let Some(leaf) = Certificate::parse(leaf) else { return false };
        self.sans.iter().any(|matcher| matcher.is_in(&leaf))
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// 32 octets of hexadecimal, with or without colons.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|letter| *letter != ':').collect();
    let mut octets = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (index, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    (hex(&octets) == digits.to_ascii_lowercase()).then_some(octets)
}

/// 32 octets of base64.
fn from_base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}
