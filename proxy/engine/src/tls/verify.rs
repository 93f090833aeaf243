//! Whether a peer's certificate is accepted: its chain, its names, its digests.
//!
//! One rule for both sides, as in Envoy: the chain must lead to a trusted authority if any is given; one of the names must
//! match if names are asked for; the certificate or its key must be listed if digests are. A peer is never asked whether
//! its certificate fits the name that was asked for: only `match_typed_subject_alt_names` says so.

mod judge;
mod names;
mod refusal;
mod trusted;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::tls::{Certificate, PeerCertificate, Usage, base64, hex};
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder,
};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;

use self::names::{SanMatcher, names, sans};
use self::refusal::{EXPIRED, NOT_YET_VALID, TOO_LONG, UNFIT, describe};
use self::trusted::{Authority, RevocationList, crls};

pub(super) use self::judge::Judge;
pub use self::refusal::Refusal;
pub(super) use self::trusted::Trusted;

/// Certificates between a peer's own and an authority that a peer may send.
const MAX_INTERMEDIATES: usize = 16;
/// Times at which a chain is looked at.
const MAX_LOOKS: usize = 3;

/// What certificates of peers are held to (`CertificateValidationContext`).
pub struct Verifier {
    trusted: Arc<Trusted>,
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
    /// Builds it.
    pub fn build(
        proto: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let trusted = Trusted::build(proto, cx);
        Self::trusting(trusted.map(Arc::new), proto, cx)
    }

    /// Builds it around authorities that were read already.
    pub(super) fn trusting(
        trusted: Result<Arc<Trusted>, Rejected>,
        proto: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let crls = cx.at("crl", |cx| crls(proto, cx));
        let sans = sans(proto, cx);
        let hashes = cx.each("verify_certificate_hash", &proto.verify_certificate_hash, |text, cx| {
            from_hex(text).ok_or_else(|| cx.reject(format!("Invalid hex-encoded SHA-256 {text}")))
        });
        let key_hashes = cx.each("verify_certificate_spki", &proto.verify_certificate_spki, |text, cx| {
            from_base64(text).ok_or_else(|| cx.reject(format!("Invalid base64-encoded SHA-256 {text}")))
        });
        let (trusted, sans, crls) = (trusted?, sans?, crls?);
        if trusted.authorities.is_empty() {
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
        let mut hints: Vec<DistinguishedName> = Vec::new();
        if !proto.suppress_client_ca_list {
            for authority in &trusted.authorities {
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
        trusted.authorities.iter().for_each(|authority| asked.extend_from_slice(&authority.der));
        let fingerprint = sha256(&asked);
        Ok(Self {
            trusted,
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
        !self.trusted.authorities.is_empty() || !self.hashes.is_empty() || !self.key_hashes.is_empty()
    }

    /// The authority that issued a certificate, by its name.
    pub(super) fn issuer_of(&self, peer: &PeerCertificate) -> Option<Arc<PeerCertificate>> {
        let issuer = &peer.content.as_ref()?.issuer;
        let mut authorities = self.trusted.authorities.iter();
        authorities
            .find(|authority| authority.content.subject == *issuer)
            .map(|authority| authority.shown.clone())
    }

    /// Whether it knows authorities.
    pub(super) fn has_authorities(&self) -> bool {
        !self.trusted.authorities.is_empty()
    }

    /// Where the authorities came from: a path, or `<inline>`.
    pub fn path(&self) -> Option<&str> {
        self.trusted.path.as_deref()
    }

    /// The authorities.
    pub fn authorities(&self) -> impl Iterator<Item = &Certificate> {
        self.trusted.authorities.iter().map(|authority| &authority.content)
    }

    /// Whether the certificate holds; `accept_untrusted` is not looked at.
    pub fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        if !self.trusted.authorities.is_empty() {
            self.check_chain(leaf, intermediates, now, usage)?;
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
        self.sans.iter().any(|matcher| leaf.sans_of(&matcher.kind).any(|name| matcher.matches(name)))
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let in_time = |content: &Certificate| {
            if self.allow_expired || content.is_valid_at(seconds) {
                Ok(())
            } else if seconds < content.not_before {
                Err(Refusal::Chain(NOT_YET_VALID))
            } else {
                Err(Refusal::Chain(EXPIRED))
            }
        };
        let purpose = purpose(usage);
        let serves =
            |listed: &Option<Vec<String>>| listed.as_ref().is_none_or(|listed| listed.contains(&purpose));
        // One that is trusted itself needs no chain.
        if let Some(authority) = self.trusted.authorities.iter().find(|authority| authority.der == *leaf) {
            return match serves(&authority.content.usage.purposes) {
                true => in_time(&authority.content),
                false => Err(Refusal::Chain(UNFIT)),
            };
        }
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(Refusal::Chain(TOO_LONG));
        }
        // Being trusted is not being an authority: what may not issue others vouches for itself alone.
        let issuers = || {
            self.trusted.authorities.iter().filter(|authority| {
                let Usage { issues, purposes, .. } = &authority.content.usage;
                *issues && serves(purposes)
            })
        };
        let anchors: Vec<TrustAnchor<'_>> = issuers()
            .filter(|authority| in_time(&authority.content).is_ok())
            .map(|authority| authority.anchor.clone())
            .collect();
        let only_expired = anchors.is_empty() && issuers().next().is_some();
        let entity = EndEntityCert::try_from(leaf).map_err(|error| Refusal::Chain(describe(&error)))?;
        let (mut at, mut in_time) = (now, Ok(()));
        // A chain that is not in time is looked at as of when it was: that it does not lead to an authority is the greater
        // fault. Not for ever: each look may cost as many signatures as are allowed.
        for _ in 0..MAX_LOOKS {
            match self.check_chain_at(&entity, &anchors, intermediates, at, usage) {
                Err(webpki::Error::CertExpired { not_after, .. }) if not_after != at => {
                    (at, in_time) = (not_after, Err(Refusal::Chain(EXPIRED)));
                }
                Err(webpki::Error::CertNotValidYet { not_before, .. }) if not_before != at => {
                    (at, in_time) = (not_before, Err(Refusal::Chain(NOT_YET_VALID)));
                }
                Err(webpki::Error::UnknownIssuer) if only_expired => return Err(Refusal::Chain(EXPIRED)),
                Err(error) => return Err(Refusal::Chain(describe(&error))),
                Ok(()) if self.allow_expired => return Ok(()),
                Ok(()) => return in_time,
            }
        }
        Err(Refusal::Chain(EXPIRED))
    }

    fn check_chain_at(
        &self,
        entity: &EndEntityCert<'_>,
        anchors: &[TrustAnchor<'_>],
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().map(|one| &one.list).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            let depth = match self.crl_of_leaf_only {
                true => RevocationCheckDepth::EndEntity,
                false => RevocationCheckDepth::Chain,
            };
            options.with_depth(depth).with_expiration_policy(ExpirationPolicy::Enforce).build()
        });
        let depth = |path: &webpki::VerifiedPath<'_>| {
            let between = path.intermediate_certificates().count();
            // What an anchor says of the length of paths is not part of it.
            let ends_here = |authority: &&Authority| {
                authority.anchor.subject == path.anchor().subject
                    && authority.anchor.subject_public_key_info == path.anchor().subject_public_key_info
            };
            let authority = self.trusted.authorities.iter().find(ends_here);
            let limit = authority.and_then(|authority| authority.content.usage.path_length);
            if limit.is_some_and(|limit| between > limit) {
                return Err(webpki::Error::PathLenConstraintViolated);
            }
            match self.max_depth {
                Some(max) if between > max => Err(webpki::Error::MaximumPathDepthExceeded),
                _ => Ok(()),
            }
        };
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        entity
            .verify_for_usage(algorithms, anchors, intermediates, at, usage, revocation, Some(&depth))
            .map(|_| ())
    }
}

/// The purpose that a certificate must have, as an object identifier with dots.
fn purpose(usage: KeyUsage) -> String {
    usage.oid_values().map(|arc| arc.to_string()).collect::<Vec<_>>().join(".")
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
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
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let letters = text.strip_suffix('=').filter(|letters| letters.len() == 43)?;
    let (mut octets, mut bits, mut held, mut at) = ([0; 32], 0_u32, 0, 0);
    for letter in letters.bytes() {
        bits = bits << 6 | u32::from(value(letter)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            *octets.get_mut(at)? = (bits >> held) as u8;
            at += 1;
        }
    }
    (base64(&octets) == text).then_some(octets)
}
