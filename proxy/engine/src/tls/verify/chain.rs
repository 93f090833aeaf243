//! Whether a chain of certificates leads to an authority.

use std::borrow::Cow;
use std::sync::Arc;

use proxy_core::tls::{Certificate, Usage};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder,
};

use super::Verifier;
use super::refusal::{EXPIRED, NOT_YET_VALID, Refusal, TOO_LONG, UNFIT, describe};
use super::trusted::{Authority, RevocationList, Trusted};

/// Certificates between a peer's own and an authority that a peer may send.
const MAX_INTERMEDIATES: usize = 16;
/// Times at which a chain is looked at.
const MAX_LOOKS: usize = 3;

/// Where a chain must lead.
pub(super) struct Store<'v> {
    pub(super) trusted: &'v Trusted,
    /// Of revoked certificates, the newest first.
    pub(super) lists: &'v [Arc<RevocationList>],
    /// Only to authorities that no other vouches for; those that one does may stand between.
    pub(super) roots_only: bool,
}

impl<'v> Store<'v> {
    fn anchors(&self) -> impl Iterator<Item = &'v Authority> {
        let roots_only = self.roots_only;
        self.trusted.authorities.iter().filter(move |authority| !roots_only || authority.is_root())
    }

    /// What may stand between a certificate and an authority.
    fn between<'i>(&self, sent: &'i [CertificateDer<'i>]) -> Cow<'i, [CertificateDer<'i>]> {
        let vouched_for = |authority: &&Authority| self.roots_only && !authority.is_root();
        let own: Vec<_> = self.trusted.authorities.iter().filter(vouched_for).collect();
        match own.is_empty() {
            true => Cow::Borrowed(sent),
            false => sent.iter().cloned().chain(own.iter().map(|authority| authority.der.clone())).collect(),
        }
    }
}

impl Verifier {
    pub(super) fn check_chain(
        &self,
        store: &Store<'_>,
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
        if let Some(authority) = store.anchors().find(|authority| authority.der == *leaf) {
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
            store.anchors().filter(|authority| {
                let Usage { issues, purposes, .. } = &authority.content.usage;
                *issues && serves(purposes)
            })
        };
        let anchors: Vec<TrustAnchor<'_>> = issuers()
            .filter(|authority| in_time(&authority.content).is_ok())
            .map(|authority| authority.anchor.clone())
            .collect();
        let only_expired = anchors.is_empty() && issuers().next().is_some();
        let between = store.between(intermediates);
        let entity = EndEntityCert::try_from(leaf).map_err(|error| Refusal::Chain(describe(&error)))?;
        let (mut at, mut in_time) = (now, Ok(()));
        // A chain that is not in time is looked at as of when it was: that it does not lead to an authority is the greater
        // fault. Not for ever: each look may cost as many signatures as are allowed.
        for _ in 0..MAX_LOOKS {
            match self.check_chain_at(store, &entity, &anchors, &between, at, usage) {
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
        store: &Store<'_>,
        entity: &EndEntityCert<'_>,
        anchors: &[TrustAnchor<'_>],
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = store.lists.iter().map(|one| &one.list).collect();
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
            let authority = store.trusted.authorities.iter().find(ends_here);
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
