//! What both sides of TLS have in common: parameters, certificates, what peers are held to, and which of them are secrets.

use std::sync::Arc;

use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::stats::{OneOff, Scope, SharedGauge};
use xds_api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_api::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_api::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsCertificate, TlsParameters,
};

use super::identity::Identity;
use super::key_log::KeyLog;
use super::own::{Kept, Own, Peers, Validation, check_watched};
use super::params::Parameters;
use super::secret::{Content, Need, Secret, SecretKind, Validation as Delivered};
use super::ticket::TicketKeys;
use super::verify::{Sources, Verifier};

/// `CommonTlsContext`, without what secrets bring.
pub(super) struct Common {
    pub(super) params: Parameters,
    pub(super) alpn: Vec<Vec<u8>>,
    /// What of it is no secret.
    pub(super) own: Own,
    /// Where secrets of sessions are written, if they are.
    pub(super) key_log: Option<KeyLog>,
    /// The secrets it needs: certificates first.
    pub(super) needs: Vec<Need>,
}

/// What a context is made of, all there.
pub(super) struct Material {
    pub(super) identities: Vec<Identity>,
    pub(super) verifier: Option<Arc<Verifier>>,
    pub(super) ticket_keys: Option<Arc<TicketKeys>>,
}

impl Common {
    pub(super) fn build(
        proto: &CommonTlsContext,
        default_max: TlsProtocol,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.at("common_tls_context", |cx| {
            let params = parameters(proto, default_max, cx);
            let mut validating = Vec::new();
            let validation = validation(proto, &mut validating, cx);
            let key_log =
                proto.key_log.as_ref().map(|log| cx.at("key_log", |cx| KeyLog::build(log, cx))).transpose();
            let params = params?;
            let configs = &proto.tls_certificate_sds_secret_configs;
            let needs = cx.each("tls_certificate_sds_secret_configs", configs, |one, cx| {
                Need::build(SecretKind::Certificate, one, cx)
            });
            let own = validation.and_then(|validation| Own::build(proto, validation, &params.provider, cx));
            let (mut needs, own, key_log) = (needs?, own?, key_log?);
            needs.append(&mut validating);
            let alpn = proto.alpn_protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            Ok(Self { params, alpn, own, key_log, needs })
        })
    }

    /// How many certificates are part of the context, and how many are secrets.
    pub(super) fn certificates(&self) -> (usize, usize) {
        let secrets = self.needs.iter().filter(|need| need.kind == SecretKind::Certificate);
        (self.own.kept().identities.len(), secrets.count())
    }

    /// Whether peers may be held to something.
    pub(super) fn validates(&self) -> bool {
        match &self.own.kept().peers {
            Peers::Nothing => false,
            Peers::Own(verifier) => verifier.has_authorities(),
            Peers::Secret(..) => true,
        }
    }

    /// What there is with the secrets that were `found`, in the order of the needs; `None` while that is not enough: one of
    /// the certificates is, as in Envoy.
    pub(super) fn material(
        &self,
        own: &Kept,
        found: &[Option<Arc<Secret>>],
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Material>, Rejected> {
        let mut identities = own.identities.clone();
        let mut verifier = match &own.peers {
            Peers::Own(verifier) => Some(verifier.clone()),
            Peers::Nothing | Peers::Secret(..) => None,
        };
        let mut ticket_keys = None;
        for (need, secret) in self.needs.iter().zip(found) {
            let Some(secret) = secret else { continue };
            match (&secret.content, need.kind, &own.peers) {
                (Content::Certificate(identity), SecretKind::Certificate, _) => {
                    identities.push(identity.clone());
                }
                (Content::Validation(delivered), SecretKind::Validation, Peers::Secret(own, sources)) => {
                    verifier = Some(Arc::new(merge(own, sources, delivered, cx)?));
                }
                (Content::TicketKeys(keys), SecretKind::TicketKeys, _) => ticket_keys = Some(keys.clone()),
                _ => return Err(cx.reject(secret.kind().mismatch(&need.name, need.kind))),
            }
        }
        let needs = |kind| self.needs.iter().any(|need| need.kind == kind);
        let lacks = (needs(SecretKind::Certificate) && identities.is_empty())
            || (needs(SecretKind::Validation) && verifier.is_none())
            || (needs(SecretKind::TicketKeys) && ticket_keys.is_none());
        Ok((!lacks).then_some(Material { identities, verifier, ticket_keys }))
    }
}

/// The parameters of handshakes. Those of a certificate, which must be the only one, go before those of the context, field by field, as
/// in Envoy.
fn parameters(
    proto: &CommonTlsContext,
    default_max: TlsProtocol,
    cx: &mut BuildCx<'_>,
) -> Result<Parameters, Rejected> {
    let built = Parameters::build(proto.tls_params.as_ref(), default_max, cx);
    let [one] = proto.tls_certificates.as_slice() else {
        let own = |one: &TlsCertificate| one.tls_params.is_some();
        let is_said = proto.tls_certificates.iter().any(own);
        let why = "tls_params of certificates are available where there is one only";
        cx.reject_if(is_said, "tls_certificates", why)?;
        return built;
    };
    match &one.tls_params {
        None => built,
        Some(own) => {
            built?;
            let merged = merge_parameters(proto.tls_params.clone().unwrap_or_default(), own);
            cx.at_index("tls_certificates", 0, |cx| Parameters::build(Some(&merged), default_max, cx))
        }
    }
}

fn merge_parameters(mut context: TlsParameters, own: &TlsParameters) -> TlsParameters {
    let TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = own;
    let or = |own: i32, context: i32| if own == TlsProtocol::TlsAuto as i32 { context } else { own };
    context.tls_minimum_protocol_version =
        or(*tls_minimum_protocol_version, context.tls_minimum_protocol_version);
    context.tls_maximum_protocol_version =
        or(*tls_maximum_protocol_version, context.tls_maximum_protocol_version);
    for (list, own) in [
        (&mut context.cipher_suites, cipher_suites),
        (&mut context.ecdh_curves, ecdh_curves),
        (&mut context.signature_algorithms, signature_algorithms),
    ] {
        if !own.is_empty() {
            list.clone_from(own);
        }
    }
    if !compliance_policies.is_empty() {
        context.compliance_policies.clone_from(compliance_policies);
    }
    context
}

/// What certificates of peers are held to, if anything.
fn validation(
    common: &CommonTlsContext,
    needs: &mut Vec<Need>,
    cx: &mut BuildCx<'_>,
) -> Result<Validation, Rejected> {
    let mut secret = |config: &SdsSecretConfig, own: &CertificateValidationContext, cx: &mut BuildCx<'_>| {
        let need = cx
            .at("validation_context_sds_secret_config", |cx| Need::build(SecretKind::Validation, config, cx));
        needs.push(need?);
        Ok(Validation::Secret(Box::new(own.clone())))
    };
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => cx.at("validation_context", |cx| {
            check_watched(context, cx)?;
            Ok(Validation::Own(Box::new(context.clone())))
        }),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            secret(config, &CertificateValidationContext::default(), cx)
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            cx.at("combined_validation_context", |cx| {
                let missing = |field, cx: &mut BuildCx<'_>| {
                    cx.at(field, |cx: &mut BuildCx<'_>| cx.reject("value is required"))
                };
                let Some(own) = &combined.default_validation_context else {
                    return Err(missing("default_validation_context", cx));
                };
                let Some(config) = &combined.validation_context_sds_secret_config else {
                    return Err(missing("validation_context_sds_secret_config", cx));
                };
                cx.at("default_validation_context", |cx| check_watched(own, cx))?;
                secret(config, own, cx)
            })
        }
        Some(_) => Err(cx.reject("certificate providers are not available")),
        None => Ok(Validation::Nothing),
    }
}

/// A secret on top of what the context says itself: lists are joined, what both say is taken from the secret.
fn merge(
    own: &CertificateValidationContext,
    sources: &Sources,
    delivered: &Delivered,
    cx: &mut BuildCx<'_>,
) -> Result<Verifier, Rejected> {
    let mut merged = own.clone();
    let bytes = delivered.proto.encode_to_vec();
    merged.merge(bytes.as_slice()).map_err(|error| cx.reject(format!("cannot be merged: {error}")))?;
    let sources = sources.under(&delivered.sources, &delivered.proto);
    sources.check(&merged, cx)?;
    let mut verifier = Verifier::of(Ok(sources), &merged, cx)?;
    if !verifier.is_strict() {
        return Err(
            cx.reject("nothing is demanded of peers: trusted_ca or digests of certificates are needed")
        );
    }
    verifier.secret = Some(delivered.secret.clone());
    Ok(verifier)
}

/// When the certificates of a context end, by the names of its gauges: those of their secrets; as Envoy names those that came with no name
/// otherwise. (The number is that of an empty name.)
pub(super) struct Expirations(Vec<(String, u64)>);

impl Expirations {
    pub(super) fn of(material: &Material) -> Self {
        let end = |secret: &Option<Arc<str>>, otherwise: &str, seconds: i64| {
            let name = secret.as_deref().unwrap_or(otherwise);
            let gauge = format!("ssl.certificate.{name}.expiration_unix_time_seconds");
            (gauge, seconds.max(0).cast_unsigned())
        };
        let of_own = |one: &Identity| end(&one.secret, "unnamed_cert_e3b0c442", one.certificate.not_after);
        let mut ends: Vec<_> = material.identities.iter().map(of_own).collect();
        if let Some(verifier) = &material.verifier {
            let of_authorities: Vec<i64> =
                verifier.authorities().map(|authority| authority.not_after).collect();
            let of_one = |seconds: &i64| end(&verifier.secret, "unnamed_ca_cert_e3b0c442", *seconds);
            ends.extend(of_authorities.iter().map(of_one));
            if of_authorities.is_empty() {
                ends.push(end(&verifier.secret, "unnamed_ca_cert", i64::MAX));
            }
        }
        Self(ends)
    }

    /// Tells of them for as long as the gauges are held: of what is in force, not of what may yet be refused, as the one before has
    /// gauges of the same names.
    pub(super) fn tell(self, scope: &Scope) -> Vec<OneOff<SharedGauge>> {
        let gauge = |(name, end): (String, u64)| {
            let gauge = scope.gauge_as_is(&name);
            gauge.set(end);
            gauge
        };
        self.0.into_iter().map(gauge).collect()
    }
}
