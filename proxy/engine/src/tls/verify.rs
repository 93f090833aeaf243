//! Whether a peer's certificate is accepted: its chain, its names, its digests.
//!
//! One rule for both sides, as in Envoy: the chain must lead to a trusted authority if any is given; one of the names must
//! match if names are asked for; the certificate or its key must be listed if digests are. A peer is never asked whether
//! its certificate fits the name that was asked for: only `match_typed_subject_alt_names` says so.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::string::StringMatcher;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::SslStats;
use proxy_core::tls::{Certificate, PeerCertificate, SanKind, Usage, base64, hex};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, HandshakeKind, OtherError, SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, anchor_from_trusted_cert,
};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use xds_api::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;

use super::{session, source};

/// Why a certificate was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its chain does not lead to a trusted authority.
    Chain(&'static str),
    /// None of its names, which these are, matches.
    San(String),
    /// Neither it nor its key is listed.
    Hash,
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
            Self::Hash => f.write_str("verify cert failed: cert hash and spki"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// As the session takes it, which sends the alert that fits.
    fn into_error(self) -> CertificateError {
        match self {
            Self::Chain(EXPIRED) => CertificateError::Expired,
            Self::Chain(NOT_YET_VALID) => CertificateError::NotValidYet,
            Self::Chain(REVOKED) => CertificateError::Revoked,
            Self::Chain(NO_ISSUER | TOO_LONG) => CertificateError::UnknownIssuer,
            Self::Chain(NO_CRL) => CertificateError::UnknownRevocationStatus,
            Self::Chain(_) | Self::San(_) | Self::Hash => CertificateError::Other(OtherError(Arc::new(self))),
        }
    }

    /// What was refused, from what the session says; nothing if it was something else.
    pub(super) fn from_error(error: &CertificateError) -> Option<Self> {
        match error {
            CertificateError::Expired => Some(Self::Chain(EXPIRED)),
            CertificateError::NotValidYet => Some(Self::Chain(NOT_YET_VALID)),
            CertificateError::Revoked => Some(Self::Chain(REVOKED)),
            CertificateError::UnknownIssuer => Some(Self::Chain(NO_ISSUER)),
            CertificateError::UnknownRevocationStatus => Some(Self::Chain(NO_CRL)),
            CertificateError::Other(other) => other.0.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }
}

const EXPIRED: &str = "certificate has expired";
const NOT_YET_VALID: &str = "certificate is not yet valid";
const REVOKED: &str = "certificate revoked";
const NO_ISSUER: &str = "unable to get local issuer certificate";
const TOO_LONG: &str = "certificate chain too long";
const UNFIT: &str = "unsupported certificate purpose";
const NO_CRL: &str = "unable to get certificate CRL";

/// Certificates between a peer's own and an authority that a peer may send.
const MAX_INTERMEDIATES: usize = 16;
/// Times at which a chain is looked at.
const MAX_LOOKS: usize = 3;

/// An authority.
struct Authority {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    content: Certificate,
    /// As it is told of in logs.
    shown: Arc<PeerCertificate>,
}

/// What certificates of peers are held to (`CertificateValidationContext`).
pub struct Verifier {
    trusted: Arc<Trusted>,
    /// The secret that it came with, if it came with one.
    pub(super) secret: Option<Arc<str>>,
    sans: Vec<SanMatcher>,
    hashes: Vec<[u8; 32]>,
    key_hashes: Vec<[u8; 32]>,
    crls: Vec<CertRevocationList<'static>>,
    crl_of_leaf_only: bool,
    allow_expired: bool,
    accept_untrusted: bool,
    max_depth: Option<usize>,
    hints: Vec<DistinguishedName>,
    /// Of all that it asks for.
    fingerprint: [u8; 32],
}

struct SanMatcher {
    kind: SanKind,
    matcher: StringMatcher,
    /// What is matched exactly, to compare it with names that are wildcards.
    exact: Option<String>,
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
        let mut asked = proto.encode_to_vec();
        trusted.authorities.iter().for_each(|authority| asked.extend_from_slice(&authority.der));
        let fingerprint = sha256(&asked);
        Ok(Self {
            trusted,
            secret: None,
            sans,
            hashes: hashes?,
            key_hashes: key_hashes?,
            crls,
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
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().chain(&self.trusted.lists).collect();
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

/// The words of OpenSSL for it.
fn describe(error: &webpki::Error) -> &'static str {
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

/// What `trusted_ca` holds.
#[derive(Default)]
pub(super) struct Trusted {
    authorities: Vec<Authority>,
    path: Option<Arc<str>>,
    lists: Vec<CertRevocationList<'static>>,
}

impl Trusted {
    pub(super) fn build(
        proto: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.at("trusted_ca", |cx| authorities(proto, cx))
    }
}

fn authorities(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Trusted, Rejected> {
    let Some(content) = source::read(proto.trusted_ca.as_ref(), cx)? else { return Ok(Trusted::default()) };
    let mut authorities = Vec::new();
    for der in CertificateDer::pem_slice_iter(&content.bytes) {
        let authority = der.ok().and_then(|der| {
            let anchor = anchor_from_trusted_cert(&der).ok()?.to_owned();
            let shown = Arc::new(session::peer(&der));
            Some(Authority { content: Certificate::parse(&der)?, shown, anchor, der })
        });
        match authority {
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
    // A bundle may bring its own lists.
    let lists = lists_of(&content, cx)?;
    Ok(Trusted { authorities, path: Some(content.name.into()), lists })
}

fn crls(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<CertRevocationList<'static>>, Rejected> {
    let Some(content) = source::read(proto.crl.as_ref(), cx)? else { return Ok(Vec::new()) };
    let lists = lists_of(&content, cx)?;
    if lists.is_empty() {
        return Err(cx.reject(format!("Failed to load CRL from {}", content.name)));
    }
    Ok(lists)
}

/// The lists of revoked certificates among other things in PEM.
fn lists_of(
    content: &source::Content,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<CertRevocationList<'static>>, Rejected> {
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(&content.bytes) {
        match der.ok().and_then(|der| OwnedCertRevocationList::from_der(&der).ok()) {
            Some(list) => lists.push(list.into()),
            None => return Err(cx.reject(format!("Failed to load CRL from {}", content.name))),
        }
    }
    Ok(lists)
}

#[allow(deprecated)]
fn sans(
    proto: &proto::CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<SanMatcher>, Rejected> {
    let typed =
        cx.each("match_typed_subject_alt_names", &proto.match_typed_subject_alt_names, |one, cx| {
            let kind = match one.san_type() {
                SanType::Email => SanKind::Email,
                SanType::Dns => SanKind::Dns,
                SanType::Uri => SanKind::Uri,
                SanType::IpAddress => SanKind::Ip,
                SanType::OtherName if one.oid.is_empty() => {
                    return Err(cx.at("oid", |cx| cx.reject("is required for OTHER_NAME")));
                }
                SanType::OtherName => SanKind::Other(one.oid.clone()),
                SanType::Unspecified => return Err(cx.at("san_type", |cx| cx.reject("must be specified"))),
            };
            SanMatcher::build(kind, one.matcher.as_ref(), cx)
        })?;
    if !typed.is_empty() || proto.match_subject_alt_names.is_empty() {
        return Ok(typed);
    }
    // The older field matches names of any of these kinds.
    let kinds = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip];
    let any = cx.each("match_subject_alt_names", &proto.match_subject_alt_names, |one, cx| {
        kinds.iter().map(|kind| SanMatcher::build(kind.clone(), Some(one), cx)).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(any.into_iter().flatten().collect())
}

impl SanMatcher {
    fn build(
        kind: SanKind,
        proto: Option<&xds_api::envoy::r#type::matcher::v3::StringMatcher>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
        cx.at("matcher", |cx| {
            let Some(proto) = proto else { return Err(cx.reject("value is required")) };
            let exact = match &proto.match_pattern {
                Some(MatchPattern::Exact(exact)) => Some(exact.to_ascii_lowercase()),
                _ => None,
            };
            Ok(Self { kind, matcher: StringMatcher::build(proto, cx)?, exact })
        })
    }

    /// Whether a name of the certificate matches: one of DNS that is asked for exactly may be a wildcard there.
    fn matches(&self, name: &str) -> bool {
        match (&self.kind, &self.exact) {
            (SanKind::Dns, Some(exact)) => matches_dns(&name.to_ascii_lowercase(), exact),
            _ => self.matcher.matches(name.as_bytes()),
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// All names of a certificate, for a message.
fn names(leaf: &CertificateDer<'_>) -> String {
    let sans = Certificate::parse(leaf).map(|leaf| leaf.sans).unwrap_or_default();
    sans.into_iter().map(|san| san.value).collect::<Vec<_>>().join(", ")
}

/// Whether a certificate has a name.
fn has_name(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Some(leaf) = Certificate::parse(leaf) else { return false };
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref().to_ascii_lowercase();
            leaf.sans_of(&SanKind::Dns).any(|san| matches_dns(&san.to_ascii_lowercase(), &name))
        }
        ServerName::IpAddress(ip) => {
            let ip = std::net::IpAddr::from(*ip).to_string();
            leaf.sans_of(&SanKind::Ip).any(|san| san == ip)
        }
        _ => false,
    }
}

/// Whether a name of DNS is meant by `pattern`, which may be a wildcard for its first label.
fn matches_dns(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    let Some((first, rest)) = pattern.split_once('.') else { return false };
    let Some((before, after)) = first.split_once('*') else { return false };
    let Some((label, parent)) = name.split_once('.') else { return false };
    parent == rest
        && !first.starts_with("xn--")
        && !after.contains('*')
        && label.len() >= before.len() + after.len()
        && label.starts_with(before)
        && label.ends_with(after)
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

/// A verifier as a handshake asks it, and what it counts.
pub(super) struct Judge {
    pub(super) verifier: Option<Arc<Verifier>>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) stats: Cells<SslStats>,
    /// Only of a server: whether a client must show a certificate.
    pub(super) is_required: bool,
    /// Only of a client: whether a server's certificate must have the name that was asked for.
    pub(super) names_server: bool,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl Judge {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let Err(refusal) = verifier.check(leaf, intermediates, now, usage) else { return Ok(()) };
        let stats = self.stats.here();
        match refusal {
            Refusal::Chain(_) => stats.fail_verify_error.inc(),
            Refusal::San(_) => stats.fail_verify_san.inc(),
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
    pub(super) fn judge_session(&self, session: &rustls::Connection) -> Result<bool, rustls::Error> {
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
            return Ok(verifier.verifies() && verifier.check(leaf, intermediates, now, usage).is_ok());
        }
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.judge(leaf, intermediates, now, usage)?;
        }
        Ok(verifier.verifies())
    }

    /// What is asked of clients, in a number.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
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

    fn verify12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.count(dss.scheme);
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.count(dss.scheme);
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn offer_client_auth(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.is_strict())
    }

    // As in Envoy, a certificate that nothing is known of is not asked for, even where one is required.
    fn client_auth_mandatory(&self) -> bool {
        self.is_required && self.offer_client_auth()
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.names_server && !has_name(leaf, name) {
            self.stats.here().fail_verify_san.inc();
            return Err(Refusal::San(names(leaf)).into_error().into());
        }
        self.judge(leaf, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
