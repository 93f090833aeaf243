//! Samplers: what may keep a request out of its trace that the connection manager would have sampled, or take it into one.
//!
//! Source: Envoy `source/extensions/tracers/opentelemetry/samplers`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::tracer::SpanContext;
use proxy_core::extension::{decode, message_name};
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::extensions::tracers::opentelemetry::samplers::v3 as proto;
use xds_api::envoy::r#type::v3::fractional_percent::DenominatorType;

const ALWAYS_ON: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig";
const PARENT_BASED: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig";
const RATIO: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig";

/// A sampler.
#[derive(Debug)]
pub(super) enum Sampler {
    /// Samples every request.
    AlwaysOn,
    /// Follows the span that a request comes from; without one, asks another.
    ParentBased(Box<Sampler>),
    /// Samples `numerator` of `denominator` traces, the same ones everywhere.
    Ratio { numerator: u64, denominator: u64 },
}

impl Sampler {
    pub(super) fn build(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let TypedExtensionConfig { name: _, typed_config } = proto;
        cx.at("typed_config", |cx| {
            let Some(any) = typed_config else { return Err(cx.reject("a sampler needs a typed_config")) };
            match message_name(&any.type_url) {
                ALWAYS_ON => Ok(Self::AlwaysOn),
                PARENT_BASED => {
                    let proto::ParentBasedSamplerConfig { wrapped_sampler } = decode(&any.value, cx)?;
                    cx.at("wrapped_sampler", |cx| match wrapped_sampler {
                        Some(wrapped) => Ok(Self::ParentBased(Box::new(Self::build(&wrapped, cx)?))),
                        None => Err(cx.reject("value is required")),
                    })
                }
                RATIO => {
                    let proto::TraceIdRatioBasedSamplerConfig { sampling_percentage } =
                        decode(&any.value, cx)?;
                    let share = sampling_percentage.unwrap_or_default();
                    let denominator = match share.denominator() {
                        DenominatorType::Hundred => 100,
                        DenominatorType::TenThousand => 10_000,
                        DenominatorType::Million => 1_000_000,
                    };
                    Ok(Self::Ratio { numerator: share.numerator.into(), denominator })
                }
                other => Err(cx.reject(format!("sampler '{other}' is not available"))),
            }
        })
    }

    /// Whether a request is sampled that comes from the span `parent`, if it comes from one, and belongs to that trace.
    pub(super) fn samples(&self, parent: Option<&SpanContext>, trace_id: [u64; 2]) -> bool {
        match (self, parent) {
            (Self::AlwaysOn, _) => true,
            (Self::ParentBased(_), Some(parent)) => parent.is_sampled,
            (Self::ParentBased(wrapped), None) => wrapped.samples(None, trace_id),
            // (Its first bytes are a number in the order of the machine, as in Envoy.)
            (Self::Ratio { numerator, denominator }, _) => {
                trace_id[0].swap_bytes() % denominator < *numerator
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_traces_are_sampled_everywhere() {
        let half = Sampler::Ratio { numerator: 50, denominator: 100 };
        let id = |number: u64| [number.swap_bytes(), 1];
        assert!(half.samples(None, id(149)));
        assert!(!half.samples(None, id(150)));
        assert!(!Sampler::Ratio { numerator: 0, denominator: 100 }.samples(None, id(0)));
        assert!(Sampler::Ratio { numerator: 100, denominator: 100 }.samples(None, id(99)));
    }

    #[test]
    fn a_parent_decides_for_its_children() {
        let parent = |is_sampled| SpanContext {
            trace_id: [1, 2],
            span_id: 3,
            parent_id: 0,
            is_sampled,
            is_short_form: false,
            state: None,
        };
        let never = Sampler::Ratio { numerator: 0, denominator: 100 };
        let sampler = Sampler::ParentBased(Box::new(never));
        assert!(sampler.samples(Some(&parent(true)), [1, 2]));
        assert!(!sampler.samples(Some(&parent(false)), [1, 2]));
        assert!(!sampler.samples(None, [1, 2]));
        assert!(Sampler::AlwaysOn.samples(Some(&parent(false)), [1, 2]));
    }
}
