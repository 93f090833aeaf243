//! `typed_per_filter_config`: what routes say about filters, merged from the route configuration down to the route.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use xds_api::envoy::config::route::v3 as proto;

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// What all levels say about one filter.
#[derive(Clone)]
pub struct FilterConfig {
    name: Arc<str>,
    /// Whether the filter is off (`Some(true)`) or on (`Some(false)`, even if the filter chain has it disabled).
    pub disabled: Option<bool>,
    /// Per-route configurations, the most specific one first.
    pub configs: Vec<Arc<dyn Any + Send + Sync>>,
}

impl FilterConfig {
    /// The most specific configuration.
    pub fn most_specific(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.configs.first().map(|config| &**config)
    }
}

impl fmt::Debug for FilterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: disabled {:?}, {} configs", self.name, self.disabled, self.configs.len())
    }
}

/// What a level and those above it say about filters, sorted by name; shared where a level adds nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct FilterConfigs(Option<Arc<[FilterConfig]>>);

/// What one level says about one filter.
struct Own {
    disabled: Option<bool>,
    config: Option<Arc<dyn Any + Send + Sync>>,
}

impl FilterConfigs {
    /// Merges the entries of one level over those of the levels above (`outer`).
    pub(super) fn build(
        protos: &HashMap<String, prost_types::Any>,
        outer: Option<&Self>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        if protos.is_empty() {
            return Ok(outer.cloned().unwrap_or_default());
        }
        let mut merged: Vec<FilterConfig> =
            outer.and_then(|outer| outer.0.as_deref()).map(<[_]>::to_vec).unwrap_or_default();
        let mut names: Vec<&String> = protos.keys().collect();
        names.sort_unstable();
        let mut rejected = false;
        for name in names {
            let Some(any) = protos.get(name) else { continue };
            match cx.at_key("typed_per_filter_config", name, |cx| build_own(name, any, cx)) {
                Ok(Some(own)) => merge(&mut merged, name, own),
                Ok(None) => {}
                Err(Rejected) => rejected = true,
            }
        }
        if rejected {
            return Err(Rejected);
        }
        merged.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(Some(merged.into())))
    }

    /// What is said about the filter `name`.
    pub(super) fn find(&self, name: &str) -> Option<&FilterConfig> {
        let all = self.0.as_deref()?;
        let at = all.binary_search_by(|config| (*config.name).cmp(name)).ok()?;
        all.get(at)
    }
}

fn merge(merged: &mut Vec<FilterConfig>, name: &str, own: Own) {
    let entry = match merged.iter_mut().position(|config| &*config.name == name) {
        Some(at) => &mut merged[at],
        None => {
            merged.push(FilterConfig { name: name.into(), disabled: None, configs: Vec::new() });
            let last = merged.len() - 1;
            &mut merged[last]
        }
    };
    entry.disabled = own.disabled.or(entry.disabled);
    if let Some(config) = own.config {
        entry.configs.insert(0, config);
    }
}

/// Reads one entry; `None` if its filter is unknown and the entry is optional.
fn build_own(name: &str, any: &prost_types::Any, cx: &mut BuildCx<'_>) -> Result<Option<Own>, Rejected> {
    let (message, payload) = cx.unpack(any)?;
    if message != FILTER_CONFIG {
        return match build_config(&message, &payload, cx)? {
            Some(config) => Ok(Some(Own { disabled: Some(false), config: Some(config) })),
            None => Err(unknown(name, &message, cx)),
        };
    }
    let proto::FilterConfig { config, is_optional, disabled } = decode(&payload, cx)?;
    if disabled {
        return Ok(Some(Own { disabled: Some(true), config: None }));
    }
    let Some(any) = config else {
        return Err(cx.reject(format!("Empty route/virtual host per filter configuration for {name} filter")));
    };
    // `config: {}` switches a filter on and says nothing else.
    if any.type_url.is_empty() {
        return Ok(Some(Own { disabled: Some(false), config: None }));
    }
    cx.at("config", |cx| {
        let (message, payload) = cx.unpack(&any)?;
        match build_config(&message, &payload, cx)? {
            Some(config) => Ok(Some(Own { disabled: Some(false), config: Some(config) })),
            None if is_optional => Ok(None),
            None => Err(unknown(name, &message, cx)),
        }
    })
}

fn unknown(name: &str, message: &str, cx: &mut BuildCx<'_>) -> Rejected {
    cx.reject(format!("Didn't find a registered implementation for '{name}' with type URL: '{message}'"))
}

fn build_config(
    message: &str,
    payload: &[u8],
    cx: &mut BuildCx<'_>,
) -> Result<Option<Arc<dyn Any + Send + Sync>>, Rejected> {
    let factory =
        cx.env.extensions.http_filters.iter().find(|factory| factory.route_message() == Some(message));
    factory.map(|factory| factory.build_route(payload, cx)).transpose()
}
