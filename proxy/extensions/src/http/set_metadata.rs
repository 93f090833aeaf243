//! `envoy.filters.http.set_metadata`: leaves configured values in dynamic metadata when a request arrives.
//!
//! Where a namespace has values already they are merged if the configuration allows that, and else stay as they are: sets of values
//! key by key, lists one behind the other, anything else in place of what was there.
//! Source: Envoy `docs/root/configuration/http/http_filters/set_metadata_filter.rst`; observed on 1.40.

use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::config::FieldUse::{self, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::http::set_metadata::v3 as proto;

const MESSAGE: &str = "envoy.extensions.filters.http.set_metadata.v3.Config";
const TYPED: &str = "nothing here reads messages in dynamic metadata";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (MESSAGE, &[("metadata_namespace", Used), ("value", Used), ("metadata", Used)]),
    (
        "envoy.extensions.filters.http.set_metadata.v3.Metadata",
        &[
            ("metadata_namespace", Used),
            ("allow_overwrite", Used),
            ("value", Used),
            ("typed_value", FieldUse::Rejected(TYPED)),
        ],
    ),
];

/// The extension.
pub struct SetMetadata;

impl HttpFilterExtension for SetMetadata {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.set_metadata",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
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
        Box::new(Filter(config.clone()))
    }
}

/// What is set, in this order.
pub struct Config(Box<[Entry]>);

struct Entry {
    namespace: Arc<str>,
    values: Arc<Struct>,
    merges: bool,
}

impl Config {
    #[allow(deprecated, reason = "the older form counts too")]
    fn build(proto: proto::Config, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Config { metadata_namespace, value, metadata } = proto;
        let older = value.filter(|_| !metadata_namespace.is_empty());
        let entry = |namespace: &str, values, merges| Entry {
            namespace: namespace.into(),
            values: Arc::new(values),
            merges,
        };
        let older = older.map(|values| entry(&metadata_namespace, values, true));
        let entries = cx.each("metadata", metadata, |one, cx| {
            let proto::Metadata { metadata_namespace, allow_overwrite, value, typed_value } = one;
            if metadata_namespace.is_empty() {
                let reason = "value length must be at least 1 characters";
                return Err(cx.at("metadata_namespace", |cx| cx.reject(reason)));
            }
            cx.reject_if(typed_value.is_some(), "typed_value", TYPED)?;
            // (Without a value it leaves an empty message, which nobody reads.)
            Ok(value.map(|values| entry(&metadata_namespace, values, allow_overwrite)))
        })?;
        Ok(Self(older.into_iter().chain(entries.into_iter().flatten()).collect()))
    }
}

impl Entry {
    fn apply(&self, info: &mut StreamInfo) {
        match info.metadata.namespace(&self.namespace) {
            None => info.metadata.share(&self.namespace, &self.values),
            Some(_) if !self.merges => {}
            Some(before) => {
                let mut merged = before.clone();
                merge(&mut merged, &self.values);
                info.metadata.merge(&self.namespace, merged);
            }
        }
    }
}

fn merge(into: &mut Struct, values: &Struct) {
    for (key, value) in &values.fields {
        match into.fields.get_mut(key) {
            Some(before) => merge_value(before, value),
            None => {
                into.fields.insert(key.clone(), value.clone());
            }
        }
    }
}

fn merge_value(into: &mut Value, value: &Value) {
    match (&mut into.kind, &value.kind) {
        (Some(Kind::StructValue(into)), Some(Kind::StructValue(values))) => merge(into, values),
        (Some(Kind::ListValue(into)), Some(Kind::ListValue(list))) => {
            into.values.extend(list.values.iter().cloned());
        }
        (into, kind) => into.clone_from(kind),
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        for entry in &self.0.0 {
            entry.apply(cx.info);
        }
        HeadersStep::Continue
    }
}
