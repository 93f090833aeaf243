//! Configuration from files: a file holds a `DiscoveryResponse` and is taken anew when it is moved into place.
//!
//! As Envoy does, only a move counts (`rename(2)`, or a symbolic link replaced by one): a file that is being written is never
//! read half. With a watched directory any move into that directory counts, which is how Kubernetes updates a mounted
//! ConfigMap. A file that cannot be read or parsed changes nothing.
//!
//! References: `envoy.config.core.v3.PathConfigSource`, `ConfigSource.path`; inotify(7).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::service::discovery::v3::DiscoveryResponse;

pub use super::moves::Watch;
use super::{Client, Driver, Events, Incoming, Link, REQUEST_QUEUE, Transport};
use crate::protocol::{Observer, Request, Response, Settings, Variant};
use crate::resource::TypeUrl;

/// Reads YAML, JSON or text into a response. The crate itself reads files that end in `.pb`.
pub trait Parse: Send + Sync {
    /// The response in these bytes; `path` tells the format by its ending.
    ///
    /// # Errors
    /// What is wrong, and where, for the log.
    fn parse(&self, path: &Path, bytes: &[u8]) -> Result<DiscoveryResponse, String>;
}

impl<F> Parse for F
where
    F: Fn(&Path, &[u8]) -> Result<DiscoveryResponse, String> + Send + Sync,
{
    fn parse(&self, path: &Path, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
        self(path, bytes)
    }
}

/// A `path_config_source`, or the deprecated `path`.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// Any move into this directory reloads the file; without it, a move onto the file.
    pub watched_directory: Option<PathBuf>,
    /// The type of the resources in it.
    pub type_url: TypeUrl,
    /// The longest file in bytes.
    pub max_bytes: u64,
}

impl FileConfig {
    /// A file of up to 128 MiB, without a watched directory.
    pub fn new(path: &Path, type_url: &TypeUrl) -> Self {
        Self {
            path: path.to_owned(),
            watched_directory: None,
            type_url: type_url.clone(),
            max_bytes: 128 * 1024 * 1024,
        }
    }
}

/// The resources of a file, as a stream: subscriptions filter them, verdicts count, nothing is sent anywhere.
///
/// A directory that cannot be watched is tried again with the usual back-off.
pub fn client(
    config: FileConfig,
    parse: Arc<dyn Parse>,
    observer: Arc<dyn Observer>,
) -> (Client, Events, Driver) {
    let settings = Settings::new(Variant::StateOfTheWorld, Node::default());
    Driver::new(settings, Box::new(Files { config: Arc::new(config), parse }), observer)
}

struct Files {
    config: Arc<FileConfig>,
    parse: Arc<dyn Parse>,
}

impl Transport for Files {
    fn open(&mut self) -> BoxFuture<'static, Result<Link, String>> {
        let (config, parse) = (self.config.clone(), self.parse.clone());
        Box::pin(async move {
            let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
            let watch = watch(&config).map_err(|error| {
                let directory = config.watched_directory.as_deref().unwrap_or(&config.path).display();
                format!("cannot watch {directory}: {error}")
            })?;
            let reader = Reader { config, parse, watch, requests: receiver, names: None, due: false };
            let incoming = futures_util::stream::unfold(reader, Reader::next);
            Ok(Link { requests, incoming: Box::pin(incoming) })
        })
    }
}

/// The moves that count for a file.
fn watch(config: &FileConfig) -> std::io::Result<Watch> {
    match &config.watched_directory {
        Some(directory) => Watch::directories(&[directory]),
        None => {
            let parent = config.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Watch::name(parent.unwrap_or(Path::new(".")), config.path.file_name().map(OsStr::to_owned))
        }
    }
}

struct Reader {
    config: Arc<FileConfig>,
    parse: Arc<dyn Parse>,
    watch: Watch,
    requests: mpsc::Receiver<Request>,
    /// What the last request asked for: other names mean that the file has to be read again.
    names: Option<Vec<String>>,
    /// The file has to be read.
    due: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Incoming, Self)> {
        while !self.due {
            tokio::select! {
                request = self.requests.recv() => match request? {
                    Request::StateOfTheWorld(request) => {
                        self.due = self.names.as_ref() != Some(&request.resource_names);
                        self.names = Some(request.resource_names);
                    }
                    Request::Delta(_) => {}
                },
                moved = self.watch.moved() => {
                    if let Err(error) = moved {
                        return Some((Incoming::Closed(error.to_string()), self));
                    }
                    self.due = self.names.is_some();
                }
            }
        }
        self.due = false;
        let incoming = match self.read().await {
            Ok(response) => Incoming::Response(Response::StateOfTheWorld(Box::new(response))),
            Err(reason) => {
                let reason = format!("{}: {reason}", self.config.path.display());
                tracing::warn!(reason, "configuration file not taken");
                Incoming::Unreadable { type_url: self.config.type_url.clone(), reason }
            }
        };
        Some((incoming, self))
    }

    async fn read(&self) -> Result<DiscoveryResponse, String> {
        let file = tokio::fs::File::open(&self.config.path).await.map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        let limit = self.config.max_bytes;
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| error.to_string())?;
        if bytes.len() as u64 > limit {
            return Err(format!("more than {limit} bytes"));
        }
        let mut response = if self.config.path.extension() == Some(OsStr::new("pb")) {
            DiscoveryResponse::decode(bytes.as_slice()).map_err(|error| error.to_string())?
        } else {
            self.parse.parse(&self.config.path, &bytes)?
        };
        // The file need not say what the configuration says already.
        self.config.type_url.as_str().clone_into(&mut response.type_url);
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
