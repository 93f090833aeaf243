//! `istio.metadata_exchange`: sidecars tell each other in headers which workload they stand for.
//!
//! What a peer says (`x-envoy-peer-metadata`, and `x-envoy-peer-metadata-id`) is kept in the filter state for statistics and access logs, and taken out
//! of the message. Its workload is looked up in no service of the control plane: `workload_discovery` finds nothing, as in an
//! Envoy without the bootstrap extension for it.
//! Source: `io.istio.http.peer_metadata.Config` in `xds/api/descriptors/istio/peer_metadata.proto`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::Struct;
use prost_types::value::Kind;
use proxy_core::config::FieldUse::{Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::stream_info::StreamInfo;
use xds_api::io::istio::http::peer_metadata as proto;
use xds_api::io::istio::http::peer_metadata::config::discovery_method::MethodSpecifier as Discovery;
use xds_api::io::istio::http::peer_metadata::config::propagation_method::MethodSpecifier as Propagation;

use crate::shared::istio::peer::{DOWNSTREAM, Peer, PeerState, UPSTREAM};

const MESSAGE: &str = "io.istio.http.peer_metadata.Config";
const SHARED: &str = "filter state is not shared with connections to hosts";
const BAGGAGE: &str = "workloads are read from Istio's own headers only";
const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
const ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
/// Peers that are remembered, so that what they say is read once.
const MOST_PEERS: usize = 500;
/// How much they may say for that, in bytes: sidecars need less than a quarter, and clients say what they like.
const MOST_SAID: usize = 8 * 1024;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("downstream_discovery", Used),
            ("upstream_discovery", Used),
            ("downstream_propagation", Used),
            ("upstream_propagation", Used),
            ("shared_with_upstream", Refused(SHARED)),
            ("additional_labels", Used),
        ],
    ),
    (
        "io.istio.http.peer_metadata.Config.DiscoveryMethod",
        &[("baggage", Refused(BAGGAGE)), ("workload_discovery", Used), ("istio_headers", Used)],
    ),
    ("io.istio.http.peer_metadata.Config.WorkloadDiscovery", &[]),
    ("io.istio.http.peer_metadata.Config.PropagationMethod", &[("istio_headers", Used)]),
    ("io.istio.http.peer_metadata.Config.IstioHeaders", &[("skip_external_clusters", Used)]),
];

/// The extension.
pub struct IstioMetadataExchange;

impl HttpFilterExtension for IstioMetadataExchange {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "istio.metadata_exchange",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::Config;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = NoRouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(proto, cx)
    }

    fn build_route(_: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Err(cx.reject("this filter has no per-route configuration"))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), told_id: false, told_metadata: false })
    }
}

/// The configuration.
pub struct Config {
    /// Whether the headers of requests, and those of responses, are read.
    reads: [bool; 2],
    /// Whether this workload is told of in responses, and in requests.
    tells: [Option<Telling>; 2],
    more_labels: Vec<String>,
    id: HeaderValue,
    metadata: HeaderValue,
    /// By what they said. Read by every request, written by the first of a peer.
    known: RwLock<HashMap<Box<[u8]>, Arc<Peer>>>,
}

#[derive(Clone, Copy)]
struct Telling {
    skips_external: bool,
}

impl Config {
    fn build(proto: proto::Config, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Config {
            downstream_discovery,
            upstream_discovery,
            downstream_propagation,
            upstream_propagation,
            shared_with_upstream,
            additional_labels,
        } = proto;
        cx.reject_if(shared_with_upstream, "shared_with_upstream", SHARED)?;
        let reads = |field, methods: &[proto::config::DiscoveryMethod], cx: &mut BuildCx<'_>| {
            let methods = cx.each(field, methods, |method, cx| match &method.method_specifier {
                Some(Discovery::Baggage(_)) => Err(cx.at("baggage", |cx| cx.reject(BAGGAGE))),
                Some(Discovery::IstioHeaders(_)) => Ok(true),
                Some(Discovery::WorkloadDiscovery(_)) | None => Ok(false),
            })?;
            Ok(methods.contains(&true))
        };
        let reads = [
            reads("downstream_discovery", &downstream_discovery, cx)?,
            reads("upstream_discovery", &upstream_discovery, cx)?,
        ];
        let tells = |methods: &[proto::config::PropagationMethod]| {
            methods.iter().find_map(|method| {
                let Propagation::IstioHeaders(headers) = method.method_specifier.as_ref()?;
                Some(Telling { skips_external: headers.skip_external_clusters })
            })
        };
        let node = &cx.env.node;
        let own = Peer::of_node(node, &additional_labels).message().encode_to_vec();
        let (id, metadata) = (HeaderValue::from_str(&node.id), HeaderValue::from_str(&BASE64.encode(own)));
        let (Ok(id), Ok(metadata)) = (id, metadata) else {
            return Err(cx.reject("the id of the node cannot be told in a header"));
        };
        Ok(Self {
            reads,
            tells: [tells(&downstream_propagation), tells(&upstream_propagation)],
            more_labels: additional_labels,
            id,
            metadata,
            known: RwLock::default(),
        })
    }

    /// The peer that says this of itself; none if it cannot be read.
    fn peer(&self, said: &HeaderValue) -> Option<Arc<Peer>> {
        let said = said.as_bytes();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(said).cloned();
        if known.is_some() {
            return known;
        }
        let message = Struct::decode(&*BASE64.decode(said).ok()?).ok()?;
        let peer = Arc::new(Peer::read(&message, &self.more_labels));
        if said.len() > MOST_SAID {
            return Some(peer);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_PEERS {
            known.clear();
        }
        known.insert(said.into(), peer.clone());
        Some(peer)
    }

    /// Keeps what `headers` say of their sender, and takes it out of them.
    fn discover(&self, headers: &mut HeaderMap, info: &mut StreamInfo, key: &str) {
        let said = headers.get(METADATA).filter(|said| !said.is_empty());
        if let Some(peer) = said.and_then(|said| self.peer(said)) {
            PeerState::keep(info, key, peer);
        }
        headers.remove(METADATA);
        headers.remove(ID);
    }
}

impl Telling {
    /// Whether hosts of the request's cluster may know.
    fn may_tell(self, info: &StreamInfo) -> bool {
        if self.skips_external && info.upstream.cluster.as_deref() == Some("PassthroughCluster") {
            return false;
        }
        let Some(istio) = info.upstream.cluster_metadata.namespace("istio") else { return true };
        let says = |name: &str| {
            let value = istio.fields.get(name).and_then(|value| value.kind.as_ref());
            matches!(value, Some(Kind::BoolValue(true)))
        };
        !(says("disable_mx") || self.skips_external && says("external"))
    }
}

struct Filter {
    config: Arc<Config>,
    /// What the client said of itself, which is what it wants to be told.
    told_id: bool,
    told_metadata: bool,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = &*self.config;
        let headers = &mut cx.request.headers;
        if config.reads[0] {
            self.told_id = headers.contains_key(ID);
            self.told_metadata = headers.contains_key(METADATA);
            config.discover(headers, cx.info, DOWNSTREAM);
        }
        if config.tells[1].is_some_and(|telling| telling.may_tell(cx.info)) {
            headers.insert(ID, config.id.clone());
            headers.insert(METADATA, config.metadata.clone());
        }
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = &*self.config;
        let Some(head) = &mut cx.response else { return HeadersStep::Continue };
        if config.reads[1] {
            config.discover(&mut head.headers, cx.info, UPSTREAM);
        }
        if config.tells[0].is_some_and(|telling| telling.may_tell(cx.info)) {
            if self.told_id {
                head.headers.insert(ID, config.id.clone());
            }
            if self.told_metadata {
                head.headers.insert(METADATA, config.metadata.clone());
            }
        }
        HeadersStep::Continue
    }
}
