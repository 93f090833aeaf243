//! What is part of a context itself, and not of a secret: read once, kept, and each part read again only when one of its files changed.
//!
//! A secret that comes while files are exchanged one by one finds what was last in force, not half of what will be. So does what is in
//! one place while the files of another are exchanged: a certificate is not kept out because the authorities are missing just then.

use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_core::config::{BuildCx, Rejected};
use rustls::crypto::CryptoProvider;
use xds_api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_api::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, TlsCertificate,
};

use super::identity::Identity;
use super::verify::{Sources, Verifier, bundle_file};
use super::{Place, Watched, source};

/// What is part of a context, and how to read it again.
pub(super) struct Own {
    /// The files that may change.
    pub(super) files: Vec<Watched>,
    /// The certificates that are in such files, and which of the context they are.
    certificates: Vec<(usize, TlsCertificate)>,
    validation: Validation,
    provider: Arc<CryptoProvider>,
    /// As it was when it was last put in force.
    kept: ArcSwap<Kept>,
}

/// What peers are held to.
pub(super) enum Validation {
    Nothing,
    /// All of it is part of the context.
    Own(Box<CertificateValidationContext>),
    /// It is a secret, added to what the context says itself.
    Secret(Box<CertificateValidationContext>),
}

/// What was read.
pub(super) struct Kept {
    pub(super) identities: Vec<Identity>,
    pub(super) peers: Peers,
    /// Hashes of what was in the files just before they were read: what changes meanwhile is found to have changed.
    hashes: Arc<[Option<u64>]>,
}

/// What peers are held to by what was read.
#[derive(Clone)]
pub(super) enum Peers {
    Nothing,
    Own(Arc<Verifier>),
    /// A secret is added.
    Secret(Box<CertificateValidationContext>, Sources),
}

impl Own {
    /// Reads it.
    pub(super) fn build(
        proto: &CommonTlsContext,
        validation: Validation,
        provider: &Arc<CryptoProvider>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let files = files(proto);
        let hashes = hashes(&files);
        let peers = peers(&validation, cx);
        let mut certificates = Vec::new();
        let indexed = proto.tls_certificates.iter().enumerate();
        let identities = cx.each("tls_certificates", indexed, |(index, one), cx| {
            let identity = Identity::build(one, provider, cx)?;
            let is_filed = !source::certificate_files(one).is_empty();
            let is_idle = one.watched_directory.is_some() && !is_filed;
            cx.reject_if(is_idle, "watched_directory", NO_FILE)?;
            certificates.extend(is_filed.then(|| (index, one.clone())));
            Ok(identity)
        });
        let kept = Kept { identities: identities?, peers: peers?, hashes };
        let provider = provider.clone();
        Ok(Self { files, certificates, validation, provider, kept: ArcSwap::from_pointee(kept) })
    }

    /// What was last put in force.
    pub(super) fn kept(&self) -> Arc<Kept> {
        self.kept.load_full()
    }

    /// The hash of each of the files, as it is in force.
    pub(super) fn hashes(&self) -> Arc<[Option<u64>]> {
        self.kept.load().hashes.clone()
    }

    /// What there is with the files of a place as they are now.
    pub(super) fn read_again(&self, place: &Place, cx: &mut BuildCx<'_>) -> Result<Arc<Kept>, Rejected> {
        let is_here = |file: &Watched| file.place() == *place;
        let kept = self.kept();
        let files = self.files.iter().zip(kept.hashes.iter());
        let hashes = files.map(|(file, kept)| if is_here(file) { file.hash().ok() } else { *kept }).collect();
        let mut identities = kept.identities.clone();
        cx.at("common_tls_context", |cx| {
            let of_files = |proto: &TlsCertificate| source::certificate_files(proto).iter().any(is_here);
            for (index, proto) in self.certificates.iter().filter(|(_, proto)| of_files(proto)) {
                let read = |cx: &mut BuildCx<'_>| Identity::build(proto, &self.provider, cx);
                let identity = cx.at_index("tls_certificates", *index, read)?;
                identities.get_mut(*index).into_iter().for_each(|slot| *slot = identity.clone());
            }
            let peers = match self.validation.files().iter().any(is_here) {
                true => peers(&self.validation, cx)?,
                false => kept.peers.clone(),
            };
            Ok(Arc::new(Kept { identities, peers, hashes }))
        })
    }

    /// Keeps what is put in force.
    pub(super) fn keep(&self, kept: Arc<Kept>) {
        self.kept.store(kept);
    }
}

impl Validation {
    /// The files of it that may change: all are in one place, as bundles are not for who has `trusted_ca` or `crl`.
    fn files(&self) -> Vec<Watched> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Own(proto) | Self::Secret(proto) => validation_files(proto),
        }
    }
}

/// Reads what peers are held to.
fn peers(validation: &Validation, cx: &mut BuildCx<'_>) -> Result<Peers, Rejected> {
    match validation {
        Validation::Nothing => Ok(Peers::Nothing),
        Validation::Own(proto) => cx.at("validation_context", |cx| {
            let sources = Sources::read(proto, cx);
            // What is in files that do not change may be nothing, as in Envoy.
            if let (Ok(sources), true) = (&sources, !validation.files().is_empty()) {
                sources.check(proto, cx)?;
            }
            Ok(Peers::Own(Arc::new(Verifier::of(sources, proto, cx)?)))
        }),
        Validation::Secret(proto) => cx.at("combined_validation_context", |cx| {
            let sources = cx.at("default_validation_context", |cx| Sources::read(proto, cx))?;
            Ok(Peers::Secret(proto.clone(), sources))
        }),
    }
}

/// The files of a context that may change.
fn files(proto: &CommonTlsContext) -> Vec<Watched> {
    let certificates = proto.tls_certificates.iter().flat_map(source::certificate_files);
    let validation = match &proto.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => Some(context),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.default_validation_context.as_ref()
        }
        _ => None,
    };
    certificates.chain(validation.into_iter().flat_map(validation_files)).collect()
}

fn hashes(files: &[Watched]) -> Arc<[Option<u64>]> {
    files.iter().map(|file| file.hash().ok()).collect()
}

/// The files that peers are held to and that may change.
fn validation_files(context: &CertificateValidationContext) -> Vec<Watched> {
    let sources = [&context.trusted_ca, &context.crl];
    let watched = source::watched_files(sources, context.watched_directory.as_ref());
    bundle_file(context).into_iter().chain(watched).collect()
}

const NO_FILE: &str = "there is no file to be watched";

/// Refuses to watch where there is nothing that changes.
pub(super) fn check_watched(
    context: &CertificateValidationContext,
    cx: &mut BuildCx<'_>,
) -> Result<(), Rejected> {
    let is_idle = context.watched_directory.is_some() && validation_files(context).is_empty();
    cx.reject_if(is_idle, "watched_directory", NO_FILE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proxy_core::config::BuildEnv;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;
    use xds_api::read::{Options, Source as Text, read};

    use super::*;

    fn write(dir: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        std::fs::write(dir.join("chain"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
    }

    /// A context with a certificate in each of these folders.
    fn context(folders: [&Path; 2]) -> CommonTlsContext {
        let certificate = |dir: &Path| {
            let path = dir.display();
            format!(
                "{{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}, watched_directory: {{path: {path}}}}}"
            )
        };
        let yaml = format!("tls_certificates: [{}]", folders.map(certificate).join(", "));
        read(&Text::yaml("test", yaml.as_bytes()), &Options::default()).unwrap().message
    }

    #[test]
    fn a_certificate_is_read_again_only_where_its_own_files_changed() {
        let (broken, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(broken.path(), "first");
        write(other.path(), "second");
        let env = BuildEnv::new(1);
        let mut cx = BuildCx::new(&env);
        let proto = context([broken.path(), other.path()]);
        let provider = Arc::new(default_provider());
        let own = Own::build(&proto, Validation::Nothing, &provider, &mut cx).unwrap();
        let before = own.hashes();

        std::fs::write(broken.path().join("chain"), "").unwrap();
        write(other.path(), "third");
        let place = |dir: &Path| Place::Directory(dir.to_owned());
        let read = own.read_again(&place(other.path()), &mut cx).unwrap();
        own.keep(read);
        let names = own.kept().identities.iter().map(|one| one.certificate.sans[0].value.clone()).collect();
        let names: Vec<String> = names;
        assert_eq!(names, ["first", "third"]);
        let after = own.hashes();
        assert_eq!(after[..2], before[..2], "what was not read is not taken for what is in force");
        assert!(after[2] != before[2] && after[3] != before[3]);
        assert!(own.read_again(&place(broken.path()), &mut cx).is_err());
    }
}
