//! What a route says about traces: the decorator, how many requests are sampled, tags, and what spans are called.
//!
//! Source: Envoy `route_components.proto` (`Decorator`, `Tracing`).

use http::HeaderValue;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::custom_tag::CustomTag;
use proxy_core::format::{Empty, Format};
use proxy_core::runtime::{RuntimeFraction, fraction_of};
use xds_api::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::r#type::v3::FractionalPercent;

/// How many requests are sampled, by why they are.
#[derive(Debug)]
pub struct Sampling {
    /// Of those whose client asks for it (`tracing.client_enabled`).
    pub client: RuntimeFraction,
    /// Of all (`tracing.random_sampling`).
    pub random: RuntimeFraction,
    /// Of those that would be (`tracing.global_enabled`).
    pub overall: RuntimeFraction,
}

impl Sampling {
    /// With these fractions where runtime does not say otherwise.
    pub fn new(client: FractionalPercent, random: FractionalPercent, overall: FractionalPercent) -> Self {
        let fraction = |key: &str, default| {
            RuntimeFraction::new(&RuntimeFractionalPercent {
                default_value: Some(default),
                runtime_key: key.to_owned(),
            })
        };
        Self {
            client: fraction("tracing.client_enabled", client),
            random: fraction("tracing.random_sampling", random),
            overall: fraction("tracing.global_enabled", overall),
        }
    }
}

/// What spans are called, and their tags.
#[derive(Debug, Default)]
pub struct SpanOptions {
    /// Tags.
    pub tags: Vec<CustomTag>,
    /// The name of the span of a request.
    pub operation: Option<Format>,
    /// The name of the span of a try.
    pub upstream_operation: Option<Format>,
}

impl SpanOptions {
    /// Builds from the three fields.
    pub fn build(
        tags: &[xds_api::envoy::r#type::tracing::v3::CustomTag],
        operation: &str,
        upstream_operation: &str,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let tags = cx.each("custom_tags", tags, CustomTag::build);
        let operation = cx.at("operation", |cx| build_name(operation, cx));
        let upstream_operation = cx.at("upstream_operation", |cx| build_name(upstream_operation, cx));
        Ok(Self { tags: tags?, operation: operation?, upstream_operation: upstream_operation? })
    }
}

fn build_name(text: &str, cx: &mut BuildCx<'_>) -> Result<Option<Format>, Rejected> {
    if text.is_empty() {
        return Ok(None);
    }
    Format::parse_with(text, Empty::Omit).map(Some).map_err(|reason| cx.reject(reason))
}

/// What a route says.
#[derive(Debug)]
pub struct Decoration {
    /// What is done with requests of the route, and whether the other side is told.
    pub decorator: Option<Decorator>,
    /// In place of what the connection manager says.
    pub tracing: Option<(Sampling, SpanOptions)>,
}

/// What is done with requests of a route.
#[derive(Debug)]
pub struct Decorator {
    /// The name, as the other side is told of it.
    pub operation: HeaderValue,
    /// The other side is told.
    pub propagate: bool,
}

impl Decorator {
    fn build(proto: &proto::Decorator, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Decorator { operation, propagate } = proto;
        let operation = cx.at("operation", |cx| {
            if operation.is_empty() {
                return Err(cx.reject("value length must be at least 1 characters"));
            }
            HeaderValue::from_str(operation).map_err(|_| cx.reject("it cannot be the value of a header"))
        });
        Ok(Self { operation: operation?, propagate: propagate.unwrap_or(true) })
    }
}

impl Decoration {
    /// Builds from the fields of a route; `None` if it says nothing.
    pub(super) fn build(
        decorator: Option<&proto::Decorator>,
        tracing: Option<&proto::Tracing>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Box<Self>>, Rejected> {
        if decorator.is_none() && tracing.is_none() {
            return Ok(None);
        }
        let decorator = decorator.map(|proto| cx.at("decorator", |cx| Decorator::build(proto, cx)));
        let tracing = tracing.map(|proto| {
            let proto::Tracing {
                client_sampling,
                random_sampling,
                overall_sampling,
                custom_tags,
                operation,
                upstream_operation,
            } = proto;
            let [client, random, overall] = [client_sampling, random_sampling, overall_sampling]
                .map(|fraction| fraction.unwrap_or_else(|| fraction_of(100)));
            let options =
                cx.at("tracing", |cx| SpanOptions::build(custom_tags, operation, upstream_operation, cx))?;
            Ok((Sampling::new(client, random, overall), options))
        });
        Ok(Some(Box::new(Self { decorator: decorator.transpose()?, tracing: tracing.transpose()? })))
    }
}
