//! Chains of HTTP filters as configuration lists them: which filters, in which order, up to the terminal one.
//!
//! A chain stands in front of the router, or between the router and the codec of a host. Rules observed on Envoy 1.40
//! (`FilterChainHelper::processFilters`).

use std::sync::Arc;

use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;

use crate::config::{BuildCx, Rejected};
use crate::extension::http_filter::{HttpFilterConfig, HttpFilterFactory};

/// One filter of a chain.
pub struct HttpFilter {
    /// Name in the configuration, which `typed_per_filter_config` refers to.
    pub name: Arc<str>,
    /// The built configuration.
    pub config: Arc<dyn HttpFilterConfig>,
    /// Off unless a route turns it on.
    pub disabled: bool,
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the router, which ends it.
    Downstream,
    /// Behind the router; the codec ends it.
    Upstream,
}

impl Place {
    /// The terminal filter: its message, its name, and what Envoy calls the chain.
    fn terminal(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Downstream => {
                ("envoy.extensions.filters.http.router.v3.Router", "envoy.filters.http.router", "http")
            }
            Self::Upstream => (
                "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
                "envoy.filters.http.upstream_codec",
                "upstream http",
            ),
        }
    }

    fn admits(self, factory: &dyn HttpFilterFactory) -> bool {
        self == Self::Downstream || factory.may_be_upstream()
    }
}

enum Link<T> {
    Filter(HttpFilter),
    Terminal(T),
}

/// Builds the filters of `field`, and with `terminal` what stands at their end, from its payload.
pub fn build_chain<T>(
    field: &'static str,
    protos: &[proto::HttpFilter],
    place: Place,
    terminal: impl Fn(&[u8], &mut BuildCx<'_>) -> Result<T, Rejected>,
    cx: &mut BuildCx<'_>,
) -> Result<(Vec<HttpFilter>, T), Rejected> {
    let mut filters = Vec::with_capacity(protos.len().saturating_sub(1));
    let mut end = None;
    let mut rejected = false;
    for (index, proto) in protos.iter().enumerate() {
        let is_last = index + 1 == protos.len();
        match cx.at_index(field, index, |cx| build_link(proto, is_last, place, &terminal, cx)) {
            Ok(Some(Link::Filter(filter))) => filters.push(filter),
            Ok(Some(Link::Terminal(built))) => end = Some(built),
            Ok(None) => {}
            Err(Rejected) => rejected = true,
        }
    }
    match end {
        _ if rejected => Err(Rejected),
        Some(end) => Ok((filters, end)),
        None => {
            let (_, name, _) = place.terminal();
            Err(cx.reject(format!("{field}: the chain needs {name} at its end")))
        }
    }
}

/// One element; `None` if it is unknown and optional.
fn build_link<T>(
    proto: &proto::HttpFilter,
    is_last: bool,
    place: Place,
    terminal: &impl Fn(&[u8], &mut BuildCx<'_>) -> Result<T, Rejected>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Link<T>>, Rejected> {
    let name = &proto.name;
    let (message, payload) = match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => cx.at("typed_config", |cx| cx.unpack(any))?,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(cx.at("config_discovery", |cx| cx.reject("extension discovery is not available")));
        }
        None => Default::default(),
    };
    let (end_message, end_name, chain) = place.terminal();
    if message == end_message {
        if !is_last {
            return Err(cx.reject(format!(
                "Error: terminal filter named {name} of type {end_name} must be the last filter in a {chain} \
                 filter chain."
            )));
        }
        if proto.disabled {
            return Err(cx.reject(format!(
                "Error: the last (terminal) filter ({name}) in the chain cannot be disabled by default."
            )));
        }
        return cx.at("typed_config", |cx| terminal(&payload, cx)).map(|end| Some(Link::Terminal(end)));
    }
    let mut factories = cx.env.extensions.http_filters.iter().filter(|factory| place.admits(**factory));
    let Some(factory) = factories.find(|factory| factory.descriptor().message == message) else {
        if proto.is_optional {
            return Ok(None);
        }
        return Err(cx.at("typed_config", |cx| {
            cx.reject(format!(
                "Didn't find a registered implementation for '{name}' with type URL: '{message}'"
            ))
        }));
    };
    if is_last {
        return Err(cx.reject(format!(
            "Error: non-terminal filter named {name} of type {} is the last filter in a {chain} filter chain.",
            factory.descriptor().name
        )));
    }
    let outer = std::mem::replace(&mut cx.is_upstream, place == Place::Upstream);
    let config = cx.at("typed_config", |cx| factory.build(&payload, cx));
    cx.is_upstream = outer;
    let config = config?;
    Ok(Some(Link::Filter(HttpFilter { name: name.as_str().into(), config, disabled: proto.disabled })))
}
