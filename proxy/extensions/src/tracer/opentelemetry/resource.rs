//! The resource that spans are of: this proxy, with what detectors find out about it.
//!
//! Source: Envoy `source/extensions/tracers/opentelemetry/resource_detectors`; opentelemetry.io/docs/specs/otel/resource/sdk.

use std::collections::BTreeMap;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::{decode, message_name};
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::trace::v3::OpenTelemetryConfig;
use xds_api::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
use xds_api::opentelemetry::proto::resource::v1::Resource;

use super::otlp::attribute;

const ENVIRONMENT: &str =
    "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig";
const STATIC: &str =
    "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig";

/// What the environment says of the resource.
const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The name of a service that has none.
const UNNAMED: &str = "unknown_service:envoy";

type Attributes = BTreeMap<String, String>;

/// Builds the resource. What a later detector finds out has the last word.
pub(super) fn build(config: &OpenTelemetryConfig, cx: &mut BuildCx<'_>) -> Result<Resource, Rejected> {
    let mut attributes = Attributes::new();
    let mut set = |key: &str, value: &str| drop(attributes.insert(key.to_owned(), value.to_owned()));
    if config.set_service_name_resource_attribute.unwrap_or(true) {
        let name = if config.service_name.is_empty() { UNNAMED } else { &config.service_name };
        set("service.name", name);
    }
    if config.set_telemetry_sdk_resource_attributes.unwrap_or(true) {
        set("telemetry.sdk.language", "rust");
        set("telemetry.sdk.name", "outrigger");
        set("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    }
    for found in cx.each("resource_detectors", &config.resource_detectors, detect)? {
        attributes.extend(found);
    }
    let attributes = attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
    Ok(Resource { attributes, ..Default::default() })
}

fn detect(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Attributes, Rejected> {
    let TypedExtensionConfig { name: _, typed_config } = proto;
    cx.at("typed_config", |cx| {
        let Some(any) = typed_config else { return Err(cx.reject("a detector needs a typed_config")) };
        match message_name(&any.type_url) {
            ENVIRONMENT => Ok(parse(&std::env::var(VARIABLE).unwrap_or_default())),
            STATIC => {
                let detectors::StaticConfigResourceDetectorConfig { attributes } = decode(&any.value, cx)?;
                Ok(attributes
                    .into_iter()
                    .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                    .collect())
            }
            other => Err(cx.reject(format!("resource detector '{other}' is not available"))),
        }
    })
}

/// `key=value` between commas; what is no such pair is left out.
fn parse(text: &str) -> Attributes {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let is_pair = !key.is_empty() && !value.is_empty() && !value.contains('=');
        is_pair.then(|| (key.to_owned(), value.to_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_pairs() {
        let found: Vec<_> = parse("a=1,,b=2=3,c,=4,d=,e=a b").into_iter().collect();
        assert_eq!(found, [("a".into(), "1".into()), ("e".into(), "a b".into())]);
        assert!(parse("").is_empty());
    }
}
