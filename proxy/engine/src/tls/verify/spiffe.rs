//! `envoy.tls.cert_validator.spiffe`: whom to trust depends on the trust domain of the peer's SPIFFE ID.
//!
//! The bundles are apart from each other: an authority of one domain vouches for nobody of another. A certificate must be one of a
//! workload (X509-SVID, section 5.2): neither an authority nor one whose key may sign certificates or lists of revoked ones.
//!
//! Source: `envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto`; SPIFFE X509-SVID and trust bundle formats.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::{decode, message_name};
use proxy_core::tls::x509::{CRL_SIGN, KEY_CERT_SIGN};
use proxy_core::tls::{Certificate, SanKind};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use webpki::KeyUsage;
use xds_api::envoy::config::core::v3::DataSource;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::super::Watched;
use super::super::source;
use super::Verifier;
use super::chain::Store;
use super::refusal::Refusal;
use super::trusted::{Authority, Trusted};

const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// Whom to trust, by trust domain.
pub(super) struct TrustDomains(BTreeMap<String, Trusted>);

impl TrustDomains {
    /// Of `custom_validator_config`, if that is set.
    pub(super) fn build(
        context: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let Some(config) = &context.custom_validator_config else { return Ok(None) };
        cx.at("custom_validator_config", |cx| {
            let any = config.typed_config.clone().unwrap_or_default();
            if message_name(&any.type_url) != MESSAGE {
                return Err(cx.reject(format!(
                    "'{}' ({}) is no validator that is known: only {MESSAGE} is",
                    config.name, any.type_url
                )));
            }
            cx.at("typed_config", |cx| {
                let proto: proto::SpiffeCertValidatorConfig = decode(&any.value, cx)?;
                let domains = match &proto.trust_bundles {
                    Some(bundles) => cx.at("trust_bundles", |cx| bundle_map(bundles, cx))?,
                    None => domains(&proto, cx)?,
                };
                Ok(Some(Self(domains)))
            })
        })
    }

    /// Refuses what Envoy's validator does not look at, as it would seem to restrict something.
    pub(super) fn check_others(
        &self,
        context: &proto::CertificateValidationContext,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let ignored = [
            ("trusted_ca", context.trusted_ca.is_some()),
            ("verify_certificate_hash", !context.verify_certificate_hash.is_empty()),
            ("verify_certificate_spki", !context.verify_certificate_spki.is_empty()),
            ("crl", context.crl.is_some()),
            ("only_verify_leaf_cert_crl", context.only_verify_leaf_cert_crl),
            ("max_verify_depth", context.max_verify_depth.is_some()),
            ("trust_chain_verification", context.trust_chain_verification != 0),
        ];
        for (field, is_set) in ignored {
            cx.reject_if(is_set, field, "the SPIFFE validator does not look at it")?;
        }
        Ok(())
    }

    pub(super) fn bundles(&self) -> impl Iterator<Item = &Trusted> {
        self.0.values()
    }

    /// The bundle for the first URI of a certificate.
    fn of(&self, leaf: &Certificate) -> Option<&Trusted> {
        let id = leaf.sans_of(&SanKind::Uri).next()?;
        let (domain, _) = id.strip_prefix("spiffe://")?.split_once('/')?;
        self.0.get(domain)
    }
}

/// What configures the validator, if a context has it.
fn config(context: &proto::CertificateValidationContext) -> Option<proto::SpiffeCertValidatorConfig> {
    let any = context.custom_validator_config.as_ref()?.typed_config.as_ref()?;
    let is_ours = message_name(&any.type_url) == MESSAGE;
    is_ours.then(|| proto::SpiffeCertValidatorConfig::decode(any.value.as_slice()).ok())?
}

/// The file of bundles of a context, which may change.
pub(in super::super) fn bundle_file(context: &proto::CertificateValidationContext) -> Option<Watched> {
    Watched::of(config(context)?.trust_bundles.as_ref()?)
}

/// Puts these bundles into a context in the place of the file of bundles that it names.
pub(in super::super) fn with_bundle(context: &mut proto::CertificateValidationContext, bundles: Vec<u8>) {
    let Some(mut config) = config(context) else { return };
    let specifier = Some(Specifier::InlineBytes(bundles));
    config.trust_bundles = Some(DataSource { specifier, watched_directory: None });
    let any = context.custom_validator_config.as_mut().and_then(|config| config.typed_config.as_mut());
    if let Some(any) = any {
        any.value = config.encode_to_vec();
    }
}

impl Verifier {
    /// Whether a certificate is one of a workload of a trust domain.
    pub(super) fn check_svid(
        &self,
        domains: &TrustDomains,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        let content = Certificate::parse(leaf).filter(|content| {
            // As in Envoy, one that does not say what its key is for is none of a workload.
            let key = content.usage.key.unwrap_or(u8::MAX);
            !content.usage.is_authority && key & (KEY_CERT_SIGN | CRL_SIGN) == 0
        });
        let Some(content) = content else { return Err(Refusal::Svid("cert precheck".to_owned())) };
        let Some(trusted) = domains.of(&content) else {
            return Err(Refusal::Svid("no trust bundle store".to_owned()));
        };
        let store = Store { trusted, lists: &trusted.lists, roots_only: true };
        let checked = self.check_chain(&store, leaf, intermediates, now, usage);
        checked.map_err(|refusal| match refusal {
            Refusal::Chain(why) => {
                Refusal::Svid(format!("X509_verify_cert: certificate verification error at depth 0: {why}"))
            }
            other => other,
        })?;
        match self.sans.is_empty() || self.matches_san(leaf) {
            true => Ok(()),
            false => Err(Refusal::SvidSan),
        }
    }
}

/// `trust_domains`.
fn domains(
    proto: &proto::SpiffeCertValidatorConfig,
    cx: &mut BuildCx<'_>,
) -> Result<BTreeMap<String, Trusted>, Rejected> {
    let mut domains = BTreeMap::new();
    if proto.trust_domains.is_empty() {
        return Err(cx.reject("trust_domains: value must contain at least 1 item(s)"));
    }
    let bundles = cx.each("trust_domains", &proto.trust_domains, |domain, cx| {
        let name = &domain.name;
        let selects = !domain.workload_trust_domain.is_empty();
        cx.reject_if(selects, "workload_trust_domain", "bundles are not chosen by what filters say")?;
        let content = cx.at("trust_bundle", |cx| source::read(domain.trust_bundle.as_ref(), cx))?;
        let failed =
            |cx: &mut BuildCx<'_>| cx.reject(format!("Failed to load trusted CA certificate for {name}"));
        let Some(content) = content else { return Err(failed(cx)) };
        let mut trusted = cx.at("trust_bundle", |cx| Trusted::read(&content, cx))?;
        trusted.path = Some(format!("{name}: {}", content.name).into());
        trusted.lists.sort_by_key(|list| std::cmp::Reverse(list.issued));
        Ok((name.clone(), trusted))
    })?;
    for (name, trusted) in bundles {
        if domains.contains_key(&name) {
            return Err(
                cx.reject(format!("Multiple trust bundles are given for one trust domain for {name}"))
            );
        }
        domains.insert(name, trusted);
    }
    Ok(domains)
}

/// `trust_bundles`: a SPIFFE bundle map, in JSON.
fn bundle_map(source: &DataSource, cx: &mut BuildCx<'_>) -> Result<BTreeMap<String, Trusted>, Rejected> {
    let is_watched = source.watched_directory.is_some() && Watched::of(source).is_none();
    cx.reject_if(is_watched, "watched_directory", "there is no file to be watched")?;
    let content = source::content(source, cx)?;
    let name = content.as_ref().map(|content| content.name.clone()).unwrap_or_default();
    let map: Value = content
        .and_then(|content| serde_json::from_slice(&content.bytes).ok())
        .ok_or_else(|| cx.reject("Invalid JSON found in SPIFFE bundle"))?;
    let domains = map.get("trust_domains").and_then(Value::as_object);
    let Some(domains) = domains.filter(|domains| !domains.is_empty()) else {
        return Err(cx.reject("No trust domains found in SPIFFE bundle"));
    };
    let mut read = BTreeMap::new();
    for (domain, bundle) in domains {
        let trusted = keys(domain, bundle, &name).map_err(|why| cx.reject(why))?;
        read.insert(domain.clone(), trusted);
    }
    Ok(read)
}

/// The authorities of one domain of a bundle map, which came from `source`.
fn keys(name: &str, bundle: &Value, source: &str) -> Result<Trusted, String> {
    let keys = bundle.get("keys").and_then(Value::as_array).filter(|keys| !keys.is_empty());
    let keys = keys.ok_or_else(|| format!("No keys found in SPIFFE bundle for domain '{name}'"))?;
    let mut trusted = Trusted { path: Some(format!("{name}: {source}").into()), ..Trusted::default() };
    for key in keys {
        if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
            return Err(format!("missing or invalid 'use' field found in cert for domain '{name}'"));
        }
        let chain = key.get("x5c").and_then(Value::as_array).filter(|chain| !chain.is_empty());
        let chain = chain
            .ok_or_else(|| format!("missing or empty 'x5c' field found in keys for domain: '{name}'"))?;
        for one in chain {
            let der = one.as_str().and_then(|text| STANDARD.decode(text).ok()).map(CertificateDer::from);
            let authority = der.and_then(Authority::read);
            let authority =
                authority.ok_or_else(|| format!("Invalid x509 object in certs for domain '{name}'"))?;
            trusted.authorities.push(authority);
        }
    }
    Ok(trusted)
}
