//! Chains of peers that held, and until when they do: who comes again is not verified again.
//!
//! Whether a chain holds depends on the chain, on what it is held to and on the time. What it is held to is that of one context,
//! and so is this memory: a new bundle or list of revoked certificates is a new context, which knows nobody. With time a chain
//! ceases to hold no sooner than anything ends that it may have been verified with.
//!
//! Only what held is kept, so strangers cannot fill it, and only so much of it.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use proxy_core::tls::PeerCertificate;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::super::session;
use super::Verifier;

/// Chains that are kept.
const MAX_CHAINS: usize = 1024;
/// Octets of a chain that is kept.
const MAX_OCTETS: usize = 16 * 1024;

/// The digest of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChainId([u8; 32]);

impl ChainId {
    pub(super) fn of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut context = Context::new(&SHA256);
        for one in std::iter::once(leaf).chain(intermediates) {
            context.update(&(one.len() as u64).to_be_bytes());
            context.update(one);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}

/// A chain that held.
pub(super) struct Known {
    /// Its certificates.
    pub(super) peer: Arc<[PeerCertificate]>,
    /// Seconds since 1970 in which it does: none before it was looked at, as clocks may be set back.
    holds: RangeInclusive<u64>,
}

/// Chains that held.
#[derive(Default)]
pub(in super::super) struct Acquaintances(Mutex<HashMap<ChainId, Arc<Known>>>);

impl Acquaintances {
    /// A chain that holds now.
    pub(super) fn find(&self, id: &ChainId, now: UnixTime) -> Option<Arc<Known>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(id)?;
        if found.holds.contains(&now.as_secs()) {
            return Some(found.clone());
        }
        known.remove(id);
        None
    }

    /// Remembers a chain that `verifier` found to hold now, if it can be told until when it does.
    pub(super) fn keep(
        &self,
        id: ChainId,
        verifier: &Verifier,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) {
        let chain = || std::iter::once(leaf).chain(intermediates);
        if chain().map(|one| one.len()).sum::<usize>() > MAX_OCTETS {
            return;
        }
        let peer: Arc<[PeerCertificate]> = chain().map(session::peer).collect();
        let Some(until) = until(verifier, &peer, now.as_secs()) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CHAINS {
            known.clear();
        }
        known.insert(id, Arc::new(Known { peer, holds: now.as_secs()..=until }));
    }
}

/// The first moment at which anything ends that has not ended yet.
fn until(verifier: &Verifier, peer: &[PeerCertificate], now: u64) -> Option<u64> {
    let sent = peer.iter().map(|one| Some(one.content.as_ref()?.not_after));
    let sent = sent.collect::<Option<Vec<i64>>>()?;
    let trusted = verifier.authorities().map(|authority| authority.not_after);
    let lists = verifier.all_lists().map(|list| list.ends.saturating_sub(1));
    let ends = sent.into_iter().chain(trusted).chain(lists);
    ends.filter_map(|end| u64::try_from(end).ok()).filter(|end| *end >= now).min()
}

#[cfg(test)]
mod tests {
    use proxy_core::config::{BuildCx, BuildEnv};
    use proxy_core::stats::groups::SslStats;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod,
        KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::UnixTime;
    use rustls::server::danger::ClientCertVerifier;
    use std::time::Duration;
    use xds_api::envoy::config::core::v3::DataSource;
    use xds_api::envoy::config::core::v3::data_source::Specifier;
    use xds_api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;

    use super::super::super::signatures::Signatures;
    use super::super::{Judge, Sources};
    use super::*;

    /// 1 January of the year.
    fn year(year: i32) -> UnixTime {
        let seconds = date_time_ymd(year, 1, 1).unix_timestamp();
        UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap()))
    }

    struct Root(Issuer<'static, KeyPair>, String);

    fn root(until: i32) -> Root {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Root(Issuer::new(params, key), pem)
    }

    impl Root {
        fn leaf(&self, until: i32) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            params.serial_number = Some(SerialNumber::from(7));
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
            params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
        }

        /// A list of the revoked, which are these.
        fn list(&self, until: i32, serials: &[u64]) -> String {
            let revoked = |serial: &u64| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2001, 1, 1),
                reason_code: None,
                invalidity_date: None,
            };
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2001, 1, 1),
                next_update: date_time_ymd(until, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: serials.iter().map(revoked).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&self.0).unwrap().pem().unwrap()
        }

        /// Who lets in those that the root vouches for, unless they are on the list.
        fn judge(&self, list: Option<String>) -> Judge {
            let source = |text: String| DataSource {
                specifier: Some(Specifier::InlineString(text)),
                ..DataSource::default()
            };
            let proto = CertificateValidationContext {
                trusted_ca: Some(source(self.1.clone())),
                crl: list.map(source),
                ..CertificateValidationContext::default()
            };
            let env = BuildEnv::new(1);
            let mut cx = BuildCx::new(&env);
            let sources = Sources::read(&proto, &mut cx);
            Judge {
                verifier: Some(Arc::new(Verifier::of(sources, &proto, &mut cx).unwrap())),
                provider: Arc::new(default_provider()),
                signatures: Signatures::default(),
                stats: env.stats.scope("x").cells::<SslStats>(),
                is_required: true,
                names_server: false,
                known: Acquaintances::default(),
            }
        }
    }

    /// Whether the chain is let in, and whether it was known before.
    fn asked(judge: &Judge, leaf: &CertificateDer<'_>, now: UnixTime) -> (bool, bool) {
        let known = judge.known.find(&ChainId::of(leaf, &[]), now).is_some();
        (judge.verify_client_cert(leaf, &[], now).is_ok(), known)
    }

    #[test]
    fn who_was_let_in_is_known_until_anything_ends() {
        // What ends first: the certificate, the authority, or the list.
        for (leaf, authority, list) in [(2030, 2040, 2040), (2040, 2030, 2040), (2040, 2040, 2030)] {
            let root = root(authority);
            let judge = root.judge(Some(root.list(list, &[1])));
            let leaf = root.leaf(leaf);
            assert_eq!(asked(&judge, &leaf, year(2010)), (true, false));
            assert_eq!(asked(&judge, &leaf, year(2010)), (true, true));
            assert_eq!(asked(&judge, &leaf, year(2029)), (true, true));
            assert_eq!(asked(&judge, &leaf, year(2031)), (false, false));
            // A clock that is set back.
            assert_eq!(asked(&judge, &leaf, year(2010)), (true, false));
            assert_eq!(asked(&judge, &leaf, year(2009)), (true, false));
            assert_eq!(asked(&judge, &leaf, year(1999)), (false, false));
        }
    }

    #[test]
    fn who_is_refused_is_not_known() {
        let (ours, other) = (root(2040), root(2040));
        let now = year(2010);
        let judge = ours.judge(Some(ours.list(2040, &[7])));
        for leaf in [ours.leaf(2040), other.leaf(2040)] {
            assert_eq!(asked(&judge, &leaf, now), (false, false));
            assert_eq!(asked(&judge, &leaf, now), (false, false));
        }
    }

    #[test]
    fn a_chain_is_all_of_its_certificates() {
        let (root, now) = (root(2040), year(2010));
        let (judge, leaf, other) = (root.judge(None), root.leaf(2040), root.leaf(2040));
        assert!(judge.verify_client_cert(&leaf, &[], now).is_ok());
        let joined = CertificateDer::from([&leaf[..], &other[..]].concat());
        for (one, between) in [(&leaf, vec![other.clone()]), (&other, vec![leaf.clone()]), (&joined, vec![])]
        {
            assert!(judge.known.find(&ChainId::of(one, &between), now).is_none());
        }
    }

    #[test]
    fn so_many_are_known_and_no_more() {
        let (root, now) = (root(2040), year(2010));
        let (judge, leaf) = (root.judge(None), root.leaf(2040));
        let verifier = judge.verifier.clone().unwrap();
        let count = || judge.known.0.lock().unwrap().len();
        for number in 0..MAX_CHAINS + 1 {
            let mut id = ChainId([0; 32]);
            id.0[..8].copy_from_slice(&number.to_be_bytes());
            judge.known.keep(id, &verifier, &leaf, &[], now);
        }
        assert_eq!(count(), 1);
        let long = vec![leaf.clone(); 1 + MAX_OCTETS / leaf.len()];
        judge.known.keep(ChainId::of(&leaf, &long), &verifier, &leaf, &long, now);
        assert_eq!(count(), 1);
    }
}
