//! Secrets: certificates and what peers are held to, when they come by name and not as a part of a context.
//!
//! A [`Secret`] is read and checked once, and shared by all contexts that need it. Where it is needed a [`Need`] says so; who
//! keeps the configuration finds the secret and gives it to the context. Files that a delivered secret names are read into it,
//! as by Envoy, so that the key and the certificate of one moment stay together.
//!
//! Source: `envoy/extensions/transport_sockets/tls/v3/secret.proto`, `docs/root/configuration/security/secret.rst`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use rustls::crypto::aws_lc_rs::default_provider;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::config::core::v3::{ConfigSource, DataSource, WatchedDirectory};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::secret::Type;

use super::identity::Identity;
use super::source::{Watched, read_file};
use super::ticket::TicketKeys;
use super::verify::{Sources, bundle_file, with_bundle};

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate,
    /// What certificates of peers are held to.
    Validation,
    /// Keys of session tickets.
    TicketKeys,
    /// For whatever else; nobody here takes one.
    Generic,
}

impl SecretKind {
    /// What a secret is for; `None` if nothing here takes it.
    pub fn of(secret: &proto::Secret) -> Option<Self> {
        match &secret.r#type {
            Some(Type::TlsCertificate(_)) => Some(Self::Certificate),
            Some(Type::ValidationContext(_)) => Some(Self::Validation),
            Some(Type::SessionTicketKeys(_)) => Some(Self::TicketKeys),
            Some(Type::GenericSecret(_)) => Some(Self::Generic),
            None => None,
        }
    }

    /// What Envoy calls it.
    fn field(self) -> &'static str {
        match self {
            Self::Certificate => "tls_certificate",
            Self::Validation => "validation_context",
            Self::TicketKeys => "session_ticket_keys",
            Self::Generic => "generic_secret",
        }
    }

    /// What is said of a secret of this kind where another is needed.
    pub fn mismatch(self, name: &str, needed: Self) -> String {
        format!("secret '{name}' is a {}, not a {}", self.field(), needed.field())
    }

    /// What Envoy says when the bootstrap has no such secret.
    pub fn unknown(self, name: &str) -> String {
        match self {
            Self::Certificate => format!("Unknown static secret: {name}"),
            Self::Validation => format!("Unknown static certificate validation context: {name}"),
            Self::TicketKeys => format!("Unknown tls session ticket keys: {name}"),
            Self::Generic => format!("Unknown static generic secret: {name}"),
        }
    }
}

/// A secret that a context needs (`SdsSecretConfig`).
#[derive(Clone, Debug)]
pub struct Need {
    /// What it is for.
    pub kind: SecretKind,
    /// Its name.
    pub name: Arc<str>,
    /// Where it is delivered from; without one it is a static secret of the bootstrap.
    pub source: Option<Box<ConfigSource>>,
    /// Where in the configuration it is asked for.
    pub path: String,
}

impl Need {
    pub(super) fn build(
        kind: SecretKind,
        proto: &proto::SdsSecretConfig,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        if proto.name.is_empty() {
            return Err(cx.at("name", |cx| cx.reject("value length must be at least 1 characters")));
        }
        Ok(Self {
            kind,
            name: proto.name.as_str().into(),
            source: proto.sds_config.clone().map(Box::new),
            path: cx.path(),
        })
    }
}

/// A secret, ready for use.
#[derive(Debug)]
pub struct Secret {
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Certificate(Identity),
    Validation(Box<Validation>),
    TicketKeys(Arc<TicketKeys>),
}

/// What peers are held to, before it is merged with what a context says itself.
pub(super) struct Validation {
    pub(super) proto: proto::CertificateValidationContext,
    pub(super) sources: Sources,
    /// The hash of its file of bundles, just before that was read.
    hash: Option<u64>,
    pub(super) secret: Arc<str>,
}

impl std::fmt::Debug for Validation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validation").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl Secret {
    /// Reads and checks it.
    pub fn build(proto: &proto::Secret, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let name: Arc<str> = proto.name.as_str().into();
        let content = match &proto.r#type {
            Some(Type::TlsCertificate(certificate)) => cx.at("tls_certificate", |cx| {
                let is_said = certificate.tls_params.is_some();
                cx.reject_if(is_said, "tls_params", "the parameters are those of the context")?;
                let identity = Identity::build(certificate, &default_provider(), cx)?;
                Ok(Content::Certificate(Identity { secret: Some(name), ..identity }))
            }),
            Some(Type::ValidationContext(context)) => cx.at("validation_context", |cx| {
                let hash = bundle_file(context).and_then(|bundles| bundles.hash().ok());
                let sources = Sources::read(context, cx)?;
                let proto = context.clone();
                Ok(Content::Validation(Box::new(Validation { proto, sources, hash, secret: name })))
            }),
            Some(Type::SessionTicketKeys(keys)) => cx
                .at("session_ticket_keys", |cx| TicketKeys::build(keys, cx))
                .map(|keys| Content::TicketKeys(Arc::new(keys))),
            Some(Type::GenericSecret(_)) | None => {
                Err(cx.reject("must be a tls_certificate, a validation_context or session_ticket_keys"))
            }
        };
        Ok(Self { content: content? })
    }

    /// The file that it is made of and that may change, which those of a delivered one do not: they are read into it. With it comes
    /// the hash of what was in it.
    pub fn file(&self) -> Option<(Watched, Option<u64>)> {
        match &self.content {
            Content::Validation(validation) => Some((bundle_file(&validation.proto)?, validation.hash)),
            Content::Certificate(_) | Content::TicketKeys(_) => None,
        }
    }

    pub(super) fn kind(&self) -> SecretKind {
        match &self.content {
            Content::Certificate(_) => SecretKind::Certificate,
            Content::Validation(_) => SecretKind::Validation,
            Content::TicketKeys(_) => SecretKind::TicketKeys,
        }
    }
}

/// The files that a delivered secret names.
fn sources(secret: &mut proto::Secret) -> (Vec<&mut DataSource>, Option<&WatchedDirectory>) {
    match &mut secret.r#type {
        Some(Type::TlsCertificate(certificate)) => (
            [
                &mut certificate.certificate_chain,
                &mut certificate.private_key,
                &mut certificate.pkcs12,
                &mut certificate.password,
                &mut certificate.ocsp_staple,
            ]
            .into_iter()
            .flatten()
            .collect(),
            certificate.watched_directory.as_ref(),
        ),
        Some(Type::ValidationContext(context)) => (
            [&mut context.trusted_ca, &mut context.crl].into_iter().flatten().collect(),
            context.watched_directory.as_ref(),
        ),
        Some(Type::SessionTicketKeys(keys)) => (keys.keys.iter_mut().collect(), None),
        Some(Type::GenericSecret(_)) | None => (Vec::new(), None),
    }
}

/// The secret with the files that it names read into it.
///
/// # Errors
/// Which file cannot be read, and why.
pub fn read_files(secret: &proto::Secret) -> Result<proto::Secret, String> {
    let mut read = secret.clone();
    for source in sources(&mut read).0 {
        if let Some(Specifier::Filename(path)) = &source.specifier {
            let bytes = read_file(path).map_err(|error| format!("unable to read file: {path}: {error}"))?;
            source.specifier = Some(Specifier::InlineBytes(bytes));
        }
    }
    if let Some(Type::ValidationContext(context)) = &mut read.r#type
        && let Some(bundles) = bundle_file(context)
    {
        let path = bundles.file.display();
        let bytes = bundles.read().map_err(|error| format!("unable to read file: {path}: {error}"))?;
        with_bundle(context, bytes);
    }
    Ok(read)
}

/// The file of a secret that is not read into it and may change.
fn bundles(secret: &proto::Secret) -> Option<Watched> {
    match &secret.r#type {
        Some(Type::ValidationContext(context)) => bundle_file(context),
        _ => None,
    }
}

/// The path of a secret's `watched_directory`, if that is set.
pub fn watched_directory(secret: &proto::Secret) -> Option<&'static str> {
    match &secret.r#type {
        Some(Type::TlsCertificate(one)) if one.watched_directory.is_some() => {
            Some("tls_certificate.watched_directory")
        }
        Some(Type::ValidationContext(one)) if one.watched_directory.is_some() => {
            Some("validation_context.watched_directory")
        }
        _ => None,
    }
}

/// The directories in which a move may change the files that a delivered secret names; none if it names no file.
pub fn watched_directories(secret: &proto::Secret) -> Vec<PathBuf> {
    let bundles = bundles(secret);
    let mut secret = secret.clone();
    let (sources, watched) = sources(&mut secret);
    let files: Vec<&str> = sources
        .iter()
        .filter_map(|source| match &source.specifier {
            Some(Specifier::Filename(path)) => Some(path.as_str()),
            _ => None,
        })
        .collect();
    let mut directories = match watched {
        _ if files.is_empty() => BTreeSet::new(),
        Some(watched) => BTreeSet::from([PathBuf::from(&watched.path)]),
        None => files.iter().map(|path| parent(Path::new(path))).collect(),
    };
    directories.extend(bundles.map(|bundles| bundles.directory.unwrap_or_else(|| parent(&bundles.file))));
    directories.into_iter().collect()
}

/// The directory of a file.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
