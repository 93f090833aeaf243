//! Suites of TLS 1.2 of equal preference (`[A|B]`): of a group the one is taken that the client prefers, as BoringSSL does.
//!
//! `rustls` goes by one order, ours or the client's. So there is a configuration for each suite that another one is as good as, with that
//! suite first, and what the client offers tells which it gets. TLS 1.3 goes by the client's order anyway.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, ServerConfig, SignatureAlgorithm, SupportedCipherSuite};

use super::super::identity::Selector;
use super::super::params::Parameters;
use super::super::verify::Judge;

/// The configurations that prefer one suite.
pub(super) struct Preferred {
    pub(super) suite: CipherSuite,
    pub(super) config: Arc<ServerConfig>,
    pub(super) without_alpn: Arc<ServerConfig>,
}

/// The suites that others are as good as.
pub(super) fn alternatives(groups: &[Box<[CipherSuite]>]) -> Vec<CipherSuite> {
    groups.iter().filter(|group| group.len() > 1).flatten().copied().collect()
}

/// The suite for a client that offers these, and is shown a key of that kind.
pub(super) fn choose(
    groups: &[Box<[CipherSuite]>],
    offered: &[CipherSuite],
    key: SignatureAlgorithm,
) -> Option<CipherSuite> {
    let fits = |suite: &CipherSuite| is_ecdsa(*suite) == (key != SignatureAlgorithm::RSA);
    let in_group =
        |group: &[CipherSuite]| offered.iter().find(|suite| group.contains(suite) && fits(suite)).copied();
    groups.iter().find_map(|group| in_group(group))
}

fn is_ecdsa(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// `config` with `suite` before all others; `None` if TLS 1.2 is not spoken.
pub(super) fn preferring(
    suite: CipherSuite,
    config: &ServerConfig,
    params: &Parameters,
    judge: &Arc<Judge>,
    selector: &Arc<Selector>,
) -> Option<ServerConfig> {
    let mut suites: Vec<SupportedCipherSuite> = params.provider.cipher_suites.clone();
    let at = suites.iter().position(|one| one.suite() == suite)?;
    let first = suites.remove(at);
    suites.insert(0, first);
    let provider = CryptoProvider { cipher_suites: suites, ..(*params.provider).clone() };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&params.versions).ok()?;
    let mut built = builder.with_client_cert_verifier(judge.clone()).with_cert_resolver(selector.clone());
    built.session_storage = config.session_storage.clone();
    built.ticketer = config.ticketer.clone();
    built.send_tls13_tickets = config.send_tls13_tickets;
    built.key_log = config.key_log.clone();
    Some(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECDSA_128: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    const ECDSA_256: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    const ECDSA_CHACHA: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    const RSA_128: CipherSuite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;

    #[test]
    fn within_a_group_the_client_chooses() {
        let groups: Vec<Box<[CipherSuite]>> =
            vec![[ECDSA_128, ECDSA_CHACHA].into(), [RSA_128].into(), [ECDSA_256].into()];
        let ecdsa = |offered: &[CipherSuite]| choose(&groups, offered, SignatureAlgorithm::ECDSA);
        assert_eq!(ecdsa(&[ECDSA_256, ECDSA_CHACHA, ECDSA_128]), Some(ECDSA_CHACHA));
        assert_eq!(ecdsa(&[ECDSA_128, ECDSA_CHACHA]), Some(ECDSA_128));
        assert_eq!(ecdsa(&[RSA_128, ECDSA_256]), Some(ECDSA_256));
        assert_eq!(choose(&groups, &[ECDSA_128, RSA_128], SignatureAlgorithm::RSA), Some(RSA_128));
        assert_eq!(ecdsa(&[RSA_128]), None);
        assert_eq!(alternatives(&groups), [ECDSA_128, ECDSA_CHACHA]);
    }
}
