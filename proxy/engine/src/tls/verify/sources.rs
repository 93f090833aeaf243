//! What a verifier is made of that may be in files: read once, and shared by all that are made of it.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use xds_api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;

use super::spiffe::TrustDomains;
use super::trusted::{RevocationList, Trusted, crls};

/// What `trusted_ca`, `custom_validator_config` and `crl` hold.
#[derive(Clone)]
pub(in super::super) struct Sources {
    pub(super) trusted: Arc<Trusted>,
    pub(super) domains: Option<Arc<TrustDomains>>,
    pub(super) crls: Vec<Arc<RevocationList>>,
}

impl Sources {
    /// Reads them.
    pub(in super::super) fn read(
        proto: &CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let trusted = Trusted::build(proto, cx);
        let domains = TrustDomains::build(proto, cx);
        let crls = cx.at("crl", |cx| crls(proto, cx));
        Ok(Self { trusted: Arc::new(trusted?), domains: domains?.map(Arc::new), crls: crls? })
    }

    /// Those of a context on top of which another is put: each that the other has is taken from there.
    pub(in super::super) fn under(&self, other: &Self, proto: &CertificateValidationContext) -> Self {
        let of = |is_set| if is_set { other } else { self };
        Self {
            trusted: of(proto.trusted_ca.is_some()).trusted.clone(),
            domains: of(proto.custom_validator_config.is_some()).domains.clone(),
            crls: of(proto.crl.is_some()).crls.clone(),
        }
    }

    /// Refuses what is set and holds nothing. A file that is read while it is written anew is empty: that must neither mean that
    /// anybody is trusted nor that nothing is revoked.
    pub(in super::super) fn check(
        &self,
        proto: &CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let is_empty = proto.trusted_ca.is_some() && self.trusted.is_empty();
        let empty = match (is_empty, proto.crl.is_some() && self.crls.is_empty()) {
            (true, _) => "trusted_ca",
            (false, true) => "crl",
            (false, false) => return Ok(()),
        };
        Err(cx.reject(format!("{empty} is empty")))
    }
}
