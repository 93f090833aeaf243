//! Where resources come from: `envoy.config.core.v3.ConfigSource`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::header_append;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::api_config_source::ApiType;
use xds_api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_api::envoy::config::core::v3::grpc_service::TargetSpecifier;

use crate::tls::SecretKind;

/// Envoy's default of `initial_fetch_timeout`.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// `core::ApiVersion::V2`, which the API deprecates.
const VERSION_2: i32 = 1;

/// A source of resources.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The aggregated stream of the bootstrap.
    Ads,
    /// A stream of one type over gRPC.
    Api(Box<core::ApiConfigSource>),
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// A move into this directory reloads the file.
        watched_directory: Option<PathBuf>,
    },
}

/// A source, as the store numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(super) usize);

/// A source and how long to wait for its first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The source.
    pub source: SourceId,
    /// `initial_fetch_timeout`; zero waits for ever.
    pub timeout: Duration,
}

/// The only resource of a source, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Only {
    pub(super) name: Arc<str>,
    pub(super) kind: SecretKind,
}

/// The sources that something names; equal ones share a number, which no other gets later.
#[derive(Debug, Default)]
pub(super) struct Sources {
    known: BTreeMap<SourceId, (Source, Option<Only>)>,
    next: usize,
    /// Whether the bootstrap says where the aggregated stream goes.
    pub(super) has_ads: bool,
}

impl Sources {
    pub(super) fn get(&self, id: SourceId) -> Option<&Source> {
        self.known.get(&id).map(|(source, _)| source)
    }

    /// The only resource that comes from a source, if it is used for one alone.
    pub(super) fn only(&self, id: SourceId) -> Option<&str> {
        Some(&self.known.get(&id)?.1.as_ref()?.name)
    }

    /// Forgets those that are not in use. The aggregated stream stays, as the bootstrap does.
    pub(super) fn retain(&mut self, is_used: impl Fn(SourceId) -> bool) {
        self.known.retain(|id, (source, _)| *source == Source::Ads || is_used(*id));
    }

    /// Reads a `ConfigSource`.
    pub(super) fn build(
        &mut self,
        proto: &core::ConfigSource,
        cx: &mut BuildCx<'_>,
    ) -> Result<Subscription, Rejected> {
        self.build_of(proto, None, cx)
    }

    /// Reads a `ConfigSource`; where it says that a stream of its own is to be opened, one for the resource `only`: Envoy opens
    /// one for each secret and what it is for, and agents that hand them out expect that.
    pub(super) fn build_of(
        &mut self,
        proto: &core::ConfigSource,
        only: Option<Only>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Subscription, Rejected> {
        if proto.resource_api_version == VERSION_2 {
            return Err(cx.at("resource_api_version", |cx| cx.reject("version 2 is not available, use V3")));
        }
        let source = match &proto.config_source_specifier {
            Some(ConfigSourceSpecifier::Ads(_)) if self.has_ads => Source::Ads,
            Some(ConfigSourceSpecifier::Ads(_)) => {
                return Err(cx.at("ads", |cx| cx.reject("the bootstrap has no ads_config")));
            }
            Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
                cx.at("api_config_source", |cx| check_api(api, ApiUse::Single, cx))?;
                Source::Api(Box::new(api.clone()))
            }
            Some(ConfigSourceSpecifier::PathConfigSource(file)) => Source::File {
                path: file.path.clone().into(),
                watched_directory: file.watched_directory.as_ref().map(|watched| watched.path.clone().into()),
            },
            #[allow(deprecated)] // Envoy still takes it.
            Some(ConfigSourceSpecifier::Path(path)) => {
                Source::File { path: path.clone().into(), watched_directory: None }
            }
            Some(ConfigSourceSpecifier::Self_(_)) => {
                return Err(cx.at("self", |cx| cx.reject("is not available")));
            }
            None => return Err(cx.reject("config_source_specifier: is required")),
        };
        let timeout = proto.initial_fetch_timeout.as_ref().and_then(duration);
        let only = only.filter(|_| source != Source::Ads);
        let same = |known: &(Source, Option<Only>)| known.0 == source && known.1 == only;
        let known = self.known.iter().find(|(_, known)| same(known)).map(|(id, _)| *id);
        let id = known.unwrap_or_else(|| {
            let id = SourceId(self.next);
            self.next += 1;
            self.known.insert(id, (source, only));
            id
        });
        Ok(Subscription { source: id, timeout: timeout.unwrap_or(INITIAL_FETCH_TIMEOUT) })
    }
}

/// What an `ApiConfigSource` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiUse {
    /// The aggregated stream (`ads_config`).
    Aggregated,
    /// A stream of one type.
    Single,
    /// A stream of health checks (`hds_config`).
    Health,
}

/// Whether streams can be opened as `api` says: over gRPC, or by polling, to a cluster.
pub fn check_api(api: &core::ApiConfigSource, usage: ApiUse, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    if api.transport_api_version == VERSION_2 {
        return Err(cx.at("transport_api_version", |cx| cx.reject("version 2 is not available, use V3")));
    }
    match (ApiType::try_from(api.api_type), usage) {
        (Ok(ApiType::Grpc | ApiType::DeltaGrpc), _) => {}
        (Ok(ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc), ApiUse::Single) => {
            return Err(cx.at("api_type", |cx| {
                cx.reject(
                    "aggregated streams are named by `ads` and configured by the bootstrap's ads_config",
                )
            }));
        }
        (Ok(ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc), ApiUse::Aggregated) => {}
        (Ok(_), ApiUse::Health) => {
            return Err(cx.at("api_type", |cx| cx.reject("must be GRPC or DELTA_GRPC")));
        }
        (Ok(ApiType::Rest), ApiUse::Single) => return check_rest(api, cx),
        (Ok(ApiType::Rest), ApiUse::Aggregated) => {
            return Err(cx.at("api_type", |cx| cx.reject("REST has no aggregated stream")));
        }
        #[allow(deprecated)]
        (Ok(ApiType::DeprecatedAndUnavailableDoNotUse) | Err(_), _) => {
            return Err(cx.at("api_type", |cx| cx.reject("must be GRPC, DELTA_GRPC or REST")));
        }
    }
    cx.reject_if(
        !api.cluster_names.is_empty(),
        "cluster_names",
        "cannot be set with gRPC, which names its cluster in grpc_services",
    )?;
    let Some(service) = api.grpc_services.first() else {
        return Err(cx.at("grpc_services", |cx| cx.reject("must name a cluster")));
    };
    if api.grpc_services.len() > 1 {
        return Err(
            cx.at("grpc_services", |cx| cx.reject("a second service to fall back to is not available"))
        );
    }
    cx.reject_if(
        usage == ApiUse::Health && api.rate_limit_settings.is_some(),
        "rate_limit_settings",
        "a stream of health checks says no more than it is asked for",
    )?;
    let retry = cx.at_index("grpc_services", 0, |cx| {
        cx.reject_if(
            service.retry_policy.is_some(),
            "retry_policy",
            "a stream that ends is always opened again",
        )
    });
    let metadata = cx.at_index("grpc_services", 0, |cx| {
        cx.each("initial_metadata", &service.initial_metadata, check_metadata)
    });
    let target = cx.at_index("grpc_services", 0, |cx| match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(_)) => Ok(()),
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            Err(cx.at("google_grpc", |cx| cx.reject("is not available, use envoy_grpc")))
        }
        None => Err(cx.reject("target_specifier: is required")),
    });
    retry.and(metadata).and(target)
}

/// The value of a header of a stream: there is nothing yet that a format could tell of, so it is sent as it is written, as by Envoy.
pub fn metadata_value(header: &core::HeaderValue) -> &[u8] {
    if header.value.is_empty() { &header.raw_value } else { header.value.as_bytes() }
}

/// Whether it can be sent as it is. (Envoy checks the format that it does not use.)
fn check_metadata(header: &core::HeaderValue, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let value = metadata_value(header);
    if HeaderName::try_from(header.key.as_str()).is_err() {
        return Err(cx.at("key", |cx| cx.reject(format!("'{}' is not the name of a header", header.key))));
    }
    if let Err(reason) = header_append::parse(&header.value) {
        return Err(cx.at("value", |cx| cx.reject(reason)));
    }
    HeaderValue::from_bytes(value).map(drop).map_err(|_| cx.reject("the value is not one of a header"))
}

/// What polling needs: one cluster, and how often.
fn check_rest(api: &core::ApiConfigSource, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let services = cx.reject_if(
        !api.grpc_services.is_empty(),
        "grpc_services",
        "cannot be set with REST, which names its cluster in cluster_names",
    );
    let cluster = match api.cluster_names.as_slice() {
        [_] => Ok(()),
        _ => Err(cx.at("cluster_names", |cx| cx.reject("must be one cluster"))),
    };
    let delay = match api.refresh_delay.as_ref().and_then(duration) {
        Some(_) => Ok(()),
        None => Err(cx.at("refresh_delay", |cx| cx.reject("is required with REST"))),
    };
    let limit = cx.reject_if(
        api.rate_limit_settings.is_some(),
        "rate_limit_settings",
        "concerns gRPC only: polls are as far apart as refresh_delay says",
    );
    services.and(cluster).and(delay).and(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_nobody_uses_are_forgotten() {
        let env = proxy_core::config::BuildEnv::new(1);
        let mut sources = Sources { has_ads: true, ..Sources::default() };
        let mut build = |specifier| {
            let proto = core::ConfigSource {
                config_source_specifier: Some(specifier),
                ..core::ConfigSource::default()
            };
            sources.build(&proto, &mut BuildCx::new(&env)).unwrap().source
        };
        let file = |path: &str| {
            let path = path.to_owned();
            ConfigSourceSpecifier::PathConfigSource(core::PathConfigSource { path, ..Default::default() })
        };
        let ads = build(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}));
        let (kept, gone) = (build(file("kept")), build(file("gone")));
        assert_eq!(build(file("kept")), kept);
        sources.retain(|source| source == kept);
        assert!(sources.get(ads).is_some() && sources.get(kept).is_some() && sources.get(gone).is_none());
        let proto = core::ConfigSource {
            config_source_specifier: Some(file("gone")),
            ..core::ConfigSource::default()
        };
        let again = sources.build(&proto, &mut BuildCx::new(&env)).unwrap().source;
        assert_ne!(again, gone, "what is under way for the old one must not be taken for the new one's");
    }

    #[test]
    fn headers_of_streams_are_sent_as_they_are_or_refused() {
        let header = |key: &str, value: &str, raw: &[u8]| core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: raw.to_vec(),
        };
        assert_eq!(metadata_value(&header("a", "text", b"")), b"text");
        assert_eq!(metadata_value(&header("a", "", b"raw \xff")), b"raw \xff");
        assert_eq!(metadata_value(&header("a", "text", b"raw")), b"text");
        let env = proxy_core::config::BuildEnv::new(1);
        for (one, reason) in [
            (header("a", "text", b""), ""),
            (header("a", "", b"raw \xff"), ""),
            (header("a b", "text", b""), "key: 'a b' is not the name of a header"),
            (header("a", "x\ny", b""), "the value is not one of a header"),
            (header("a", "%HOSTNAME%", b""), ""),
            (
                header("a", "%NOTHING%", b""),
                "value: not supported field in StreamInfo: NOTHING (at position 0)",
            ),
        ] {
            let mut cx = BuildCx::new(&env);
            let _ = check_metadata(&one, &mut cx);
            let errors: Vec<String> = cx.into_errors().iter().map(ToString::to_string).collect();
            assert_eq!(errors.join("; "), reason);
        }
    }
}
