//! The streams that are open: one aggregated, one for each other source and kind.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::{Message, Name};
use proxy_core::config::{BuildEnv, duration};
use proxy_engine::state::source::metadata_value;
use proxy_engine::state::{Kind, Source, SourceId, Store};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use xds::client::filesystem::{self, FileConfig};
use xds::client::grpc::{self, GrpcConfig};
use xds::client::rest::{self, Json, RestConfig};
use xds::client::service::Service;
use xds::client::{Client, Command, Driver, Events};
use xds::{Event, RateLimit, Settings, TypeUrl, Variant};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::core::v3::api_config_source::ApiType;
use xds_api::envoy::config::core::v3::grpc_service::TargetSpecifier;
use xds_api::envoy::config::core::v3::{ApiConfigSource, Node};
use xds_api::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xds_api::read::{Format, Options, Source as Text, UnknownFields, read};
use xds_api::write::{JsonOptions, to_json};

use super::dial::Directory;
use super::observer::StreamStats;

/// Which stream: the source, and the kind unless the stream carries all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamKey {
    pub(super) source: SourceId,
    kind: Option<Kind>,
}

impl StreamKey {
    /// The aggregated stream.
    pub(super) fn aggregated(source: SourceId) -> Self {
        Self { source, kind: None }
    }

    /// Whether resources of this kind come over it.
    pub(super) fn carries(&self, kind: Kind) -> bool {
        self.kind.is_none_or(|only| only == kind)
    }
}

/// One that runs. It ends when this is dropped.
struct Stream {
    client: Client,
    /// Hands its events over.
    events: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.events.abort();
    }
}

pub(super) struct Streams {
    open: BTreeMap<StreamKey, Stream>,
    node: Node,
    ads: Option<ApiConfigSource>,
    directory: Arc<Directory>,
    stats: StreamStats,
    events: mpsc::Sender<(StreamKey, Event)>,
}

impl Streams {
    pub(super) fn new(
        env: &BuildEnv,
        bootstrap: &Bootstrap,
        directory: Arc<Directory>,
        events: mpsc::Sender<(StreamKey, Event)>,
    ) -> Self {
        Self {
            open: BTreeMap::new(),
            node: node(env, bootstrap),
            ads: bootstrap.dynamic_resources.as_ref().and_then(|dynamic| dynamic.ads_config.clone()),
            directory,
            stats: StreamStats::new(&env.stats),
            events,
        }
    }

    /// The stream for resources of a kind, opened if it is not.
    pub(super) fn open(&mut self, store: &Store, source: SourceId, kind: Kind) -> Option<StreamKey> {
        let config = store.source(source)?;
        let key = StreamKey { source, kind: (*config != Source::Ads).then_some(kind) };
        if self.open.contains_key(&key) {
            return Some(key);
        }
        let type_url = TypeUrl::new(kind.type_url());
        let stats = match store.only_resource(source) {
            Some(name) => self.stats.of_secret(name, matches!(config, Source::File { .. })),
            None => self.stats.clone(),
        };
        let (client, mut events, driver) = match config {
            Source::Ads => self.grpc(self.ads.as_ref()?, Service::Aggregated, stats)?,
            Source::Api(api) if api.api_type == ApiType::Rest as i32 => self.rest(api, &type_url, stats)?,
            Source::Api(api) => self.grpc(api, Service::Single(type_url), stats)?,
            Source::File { path, watched_directory } => {
                let config = FileConfig {
                    watched_directory: watched_directory.clone(),
                    ..FileConfig::new(path, &type_url)
                };
                filesystem::client(config, Arc::new(parse), Arc::new(stats))
            }
        };
        tokio::task::spawn_local(driver.run());
        let sender = self.events.clone();
        let events = tokio::task::spawn_local(async move {
            while let Some(event) = events.next().await {
                if sender.send((key, event)).await.is_err() {
                    return;
                }
            }
        });
        self.open.insert(key, Stream { client, events: events.abort_handle() });
        Some(key)
    }

    /// The stream that carries resources of a kind, if it is open.
    pub(super) fn find(&self, source: SourceId, kind: Kind) -> Option<StreamKey> {
        let keys = [StreamKey { source, kind: Some(kind) }, StreamKey::aggregated(source)];
        keys.into_iter().find(|key| self.open.contains_key(key))
    }

    /// Ends a stream of one kind. The aggregated one stays: Envoy keeps it for as long as it runs.
    pub(super) fn close(&mut self, key: StreamKey) {
        if key.kind.is_some() {
            self.open.remove(&key);
        }
    }

    /// A response of this type was applied in `time`.
    pub(super) fn took(&self, type_url: &TypeUrl, time: Duration) {
        self.stats.took(type_url, time);
    }

    /// Gives commands to a stream, in order.
    pub(super) fn apply(&self, key: StreamKey, commands: Vec<Command>) {
        if let Some(stream) = self.open.get(&key) {
            stream.client.apply(commands);
        }
    }

    fn rest(
        &self,
        api: &ApiConfigSource,
        type_url: &TypeUrl,
        stats: StreamStats,
    ) -> Option<(Client, Events, Driver)> {
        let cluster = api.cluster_names.first()?;
        let mut config = RestConfig::new(cluster, type_url, api.refresh_delay.as_ref().and_then(duration)?);
        if let Some(timeout) = api.request_timeout.as_ref().and_then(duration) {
            config.request_timeout = timeout;
        }
        rest::client(self.node.clone(), config, self.directory.clone(), Arc::new(ProtoJson), Arc::new(stats))
    }

    fn grpc(
        &self,
        api: &ApiConfigSource,
        service: Service,
        stats: StreamStats,
    ) -> Option<(Client, Events, Driver)> {
        let variant = match ApiType::try_from(api.api_type) {
            Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Variant::Delta,
            _ => Variant::StateOfTheWorld,
        };
        let mut settings = Settings::new(variant, self.node.clone());
        settings.set_node_on_first_message_only = api.set_node_on_first_message_only;
        settings.rate_limit = api.rate_limit_settings.as_ref().map(|limit| {
            let default = RateLimit::default();
            RateLimit {
                max_tokens: limit.max_tokens.unwrap_or(default.max_tokens),
                fill_rate: limit.fill_rate.unwrap_or(default.fill_rate),
            }
        });
        let config = grpc_config(api)?;
        let cluster = config.cluster.clone();
        grpc::client(settings, config, &service, self.directory.clone(), Arc::new(stats))
            .inspect_err(|error| tracing::error!(%error, cluster, "no stream"))
            .ok()
    }
}

/// The service that `api` names, if it is one of gRPC in a cluster.
pub(super) fn grpc_config(api: &ApiConfigSource) -> Option<GrpcConfig> {
    let proto = api.grpc_services.first()?;
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &proto.target_specifier else { return None };
    let mut config = GrpcConfig::new(&target.cluster_name);
    config.authority = Some(target.authority.clone()).filter(|authority| !authority.is_empty());
    config.initial_metadata =
        proto.initial_metadata.iter().map(|one| (one.key.clone(), metadata_value(one).to_vec())).collect();
    if let Some(most) = target.max_receive_message_length {
        config.max_receive_message_bytes = most as usize;
    }
    Some(config)
}

/// Who we are: the bootstrap's node, completed by the command line.
pub(crate) fn node(env: &BuildEnv, bootstrap: &Bootstrap) -> Node {
    let mut node = bootstrap.node.clone().unwrap_or_default();
    node.id.clone_from(&env.node.id);
    node.cluster.clone_from(&env.node.cluster);
    if !env.node.zone.is_empty() {
        node.locality.get_or_insert_default().zone.clone_from(&env.node.zone);
    }
    if node.user_agent_name.is_empty() {
        node.user_agent_name = "outrigger".to_owned();
    }
    node
}

/// The bodies of polls.
struct ProtoJson;

impl Json for ProtoJson {
    fn encode(&self, request: &DiscoveryRequest) -> Result<Vec<u8>, String> {
        let mut text = String::new();
        let type_url = format!("type.googleapis.com/{}", DiscoveryRequest::full_name());
        to_json(&type_url, &request.encode_to_vec(), &JsonOptions::default(), &mut text)
            .map_err(|error| format!("{error:?}"))?;
        Ok(text.into_bytes())
    }

    fn decode(&self, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
        let options = Options { unknown_fields: UnknownFields::Allow };
        read::<DiscoveryResponse>(&Text { name: "", text: bytes, format: Format::Json }, &options)
            .map(|loaded| loaded.message)
            .map_err(|errors| errors.to_string())
    }
}

/// A configuration file as a response, by Envoy's rules for text.
fn parse(path: &Path, bytes: &[u8]) -> Result<DiscoveryResponse, String> {
    let name = path.to_string_lossy();
    let options = Options { unknown_fields: UnknownFields::Allow };
    read::<DiscoveryResponse>(&Text::file(&name, bytes), &options)
        .map(|loaded| loaded.message)
        .map_err(|errors| errors.to_string())
}
