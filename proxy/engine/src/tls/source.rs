//! Data sources of certificates and keys. What they hold is never part of an error.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::hash::xxhash64;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::config::core::v3::{DataSource, WatchedDirectory};
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;

/// What a source holds, and what to call it in a message.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) name: String,
}

/// A file that may change after it was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    /// The file.
    pub file: PathBuf,
    /// Where moves tell of a change; if it is not set, what is moved onto the file or written to it.
    pub directory: Option<PathBuf>,
}

/// Where it is seen that a file changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A directory, for what is moved into it.
    Directory(PathBuf),
    /// The file itself, for what is moved onto it or written to it.
    File(PathBuf),
}

impl Watched {
    /// Where it is seen that it changed.
    pub fn place(&self) -> Place {
        match &self.directory {
            Some(directory) => Place::Directory(directory.clone()),
            None => Place::File(self.file.clone()),
        }
    }

    /// Of a source, if that is a file.
    pub(super) fn of(source: &DataSource) -> Option<Self> {
        let Some(Specifier::Filename(path)) = &source.specifier else { return None };
        let directory = source.watched_directory.as_ref().map(|watched| PathBuf::from(&watched.path));
        Some(Self { file: path.into(), directory })
    }

    /// What is in the file now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        read_file(&self.file)
    }

    /// The hash of what is in the file now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hash(&self) -> io::Result<u64> {
        self.read().map(|content| xxhash64(&content))
    }
}

/// Those of some sources that are files, where moves into a directory tell of a change.
pub(super) fn watched_files<'s>(
    sources: impl IntoIterator<Item = &'s Option<DataSource>>,
    directory: Option<&WatchedDirectory>,
) -> Vec<Watched> {
    let Some(directory) = directory else { return Vec::new() };
    let files = sources.into_iter().flatten().filter_map(Watched::of);
    files.map(|file| Watched { directory: Some(PathBuf::from(&directory.path)), ..file }).collect()
}

/// The files of a certificate that is part of a context and that may change.
pub(super) fn certificate_files(proto: &TlsCertificate) -> Vec<Watched> {
    let TlsCertificate { certificate_chain, private_key, pkcs12, password, ocsp_staple, .. } = proto;
    let sources = [certificate_chain, private_key, pkcs12, password, ocsp_staple];
    watched_files(sources, proto.watched_directory.as_ref())
}

/// Octets of a file of certificates or keys at most: a bundle of all public authorities has a quarter of a million.
const MAX_FILE: u64 = 16 << 20;

/// What is in a file, unless that is far more than certificates or keys are.
pub(super) fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(io::Error::other(format!("it has more than {MAX_FILE} octets"))),
        false => Ok(bytes),
    }
}

/// Reads a source that is read once; empty if it is not set.
pub(super) fn read(source: Option<&DataSource>, cx: &mut BuildCx<'_>) -> Result<Option<Content>, Rejected> {
    let Some(source) = source else { return Ok(None) };
    cx.reject_if(source.watched_directory.is_some(), "watched_directory", "files are read once")?;
    content(source, cx)
}

/// Reads a source that somebody watches, if it is a file ([`Watched::of`]).
pub(super) fn content(source: &DataSource, cx: &mut BuildCx<'_>) -> Result<Option<Content>, Rejected> {
    let DataSource { watched_directory: _, specifier } = source;
    let inline = |bytes: &[u8]| Content { bytes: bytes.to_vec(), name: "<inline>".to_owned() };
    let content = match specifier {
        None => return Err(cx.reject("specifier: value is required")),
        Some(Specifier::InlineBytes(bytes)) => inline(bytes),
        Some(Specifier::InlineString(text)) => inline(text.as_bytes()),
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(value) => inline(value.as_bytes()),
            Err(_) => return Err(cx.reject(format!("Environment variable doesn't exist: {name}"))),
        },
        Some(Specifier::Filename(path)) => match read_file(path) {
            Ok(bytes) => Content { bytes, name: path.clone() },
            Err(error) => return Err(cx.reject(format!("unable to read file: {path}: {error}"))),
        },
    };
    Ok(Some(content).filter(|content| !content.bytes.is_empty()))
}
