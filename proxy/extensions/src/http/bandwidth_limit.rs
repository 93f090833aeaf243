//! `envoy.filters.http.bandwidth_limit`: bodies of requests and responses go no faster than so many KiB a second, all of them together.
//!
//! All streams of a filter, or of a route with a configuration of its own, take from one bucket, whatever worker they are on.
//! Trailers may tell the client how long its messages took, and how long they were held up here.
//! Source: Envoy `docs/root/configuration/http/http_filters/bandwidth_limit_filter.rst`; trailers and statistics observed on 1.40.

mod config;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Direction, HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use tokio::time::Instant;
use xds_api::envoy::extensions::filters::http::bandwidth_limit::v3 as proto;

use self::config::Config;
use crate::shared::pace::Pace;

const MESSAGE: &str = "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    MESSAGE,
    &[
        ("stat_prefix", Used),
        ("enable_mode", Used),
        ("limit_kbps", Used),
        ("fill_interval", Used),
        ("runtime_enabled", Used),
        ("enable_response_trailers", Used),
        ("response_trailer_prefix", Used),
    ],
)];

/// The extension.
pub struct BandwidthLimit;

impl HttpFilterExtension for BandwidthLimit {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.bandwidth_limit",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(MESSAGE);
    /// Bodies are looked at only where they are limited.
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::BandwidthLimit;
    type Config = Arc<Config>;
    type RouteProto = proto::BandwidthLimit;
    type RouteConfig = Arc<Config>;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(proto, cx).map(Arc::new)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        if proto.limit_kbps.is_none() {
            return Err(cx.at("limit_kbps", |cx| cx.reject("limit must be set for per route filter config")));
        }
        Config::build(proto, cx).map(Arc::new)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        let config = Arc::clone(&**config);
        Box::new(Filter { config, request: None, response: None, request_took: Took::default() })
    }
}

/// How long a body took, and how much of that it was held up.
#[derive(Clone, Copy, Default)]
struct Took {
    whole: Duration,
    held_up: Duration,
}

/// A body on its way.
struct Transfer {
    config: Arc<Config>,
    direction: Direction,
    pace: Pace,
    began: Option<Instant>,
    /// How often it found too few tokens.
    waits: u32,
    /// What passes now is what waited, not what comes.
    is_rest: bool,
}

impl Transfer {
    /// Of a message in `direction`, if that is limited now.
    fn begin(config: &Arc<Config>, direction: Direction) -> Option<Self> {
        if !config.limits(direction) {
            return None;
        }
        config.counts(direction).enabled.inc();
        let pace = Pace::new(config.bucket.clone(), config.fill_interval);
        Some(Self { config: config.clone(), direction, pace, began: None, waits: 0, is_rest: false })
    }

    /// Leaves in `data` what may go now, and gives the rest.
    fn part(&mut self, data: &mut Bytes) -> Option<Bytes> {
        let (counts, sizes) = (self.config.counts(self.direction), self.config.sizes(self.direction));
        if self.began.is_none() {
            self.began = Some(Instant::now());
            counts.pending.inc();
        }
        if !self.is_rest {
            sizes.incoming.set(data.len() as u64);
            counts.incoming_total.add(data.len() as u64);
        }
        let rest = self.pace.part(data);
        sizes.allowed.set(data.len() as u64);
        counts.allowed_total.add(data.len() as u64);
        self.is_rest = rest.is_some();
        if rest.is_some() {
            self.waits = self.waits.saturating_add(1);
            counts.enforced.inc();
        }
        rest
    }

    /// It is through.
    fn end(&mut self) -> Took {
        let Some(began) = self.began.take() else { return Took::default() };
        let counts = self.config.counts(self.direction);
        counts.pending.dec();
        let whole = began.elapsed();
        counts.duration.record(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
        Took { whole, held_up: self.config.fill_interval.saturating_mul(self.waits) }
    }
}

impl Drop for Transfer {
    /// A body that does not come through waits no more.
    fn drop(&mut self) {
        if self.began.is_some() {
            self.config.counts(self.direction).pending.dec();
        }
    }
}

struct Filter {
    config: Arc<Config>,
    request: Option<Transfer>,
    response: Option<Transfer>,
    request_took: Took,
}

impl Filter {
    /// The configuration of the route, or that of the filter.
    fn config(&self, cx: &StreamCx<'_>) -> Arc<Config> {
        cx.route_config::<Arc<Config>>().unwrap_or(&self.config).clone()
    }

    /// The response is through: what its trailers say, if they are to say anything.
    fn end_response(&mut self, trailers: Option<&mut HeaderMap>) {
        let Some(transfer) = &mut self.response else { return };
        if transfer.began.is_none() {
            return;
        }
        let took = transfer.end();
        if let (Some(names), Some(trailers)) = (&transfer.config.trailers, trailers) {
            tell(trailers, &names.request_delay, self.request_took.whole);
            tell(trailers, &names.request_filter_delay, self.request_took.held_up);
            tell(trailers, &names.response_delay, took.whole);
            tell(trailers, &names.response_filter_delay, took.held_up);
        }
    }
}

/// Says a duration in milliseconds, if it is as much as one.
fn tell(trailers: &mut HeaderMap, name: &HeaderName, duration: Duration) {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis > 0 {
        trailers.insert(name, HeaderValue::from(millis));
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        self.request = Transfer::begin(&self.config(cx), Direction::Request);
        cx.phases.request_body |= self.request.is_some();
        HeadersStep::Continue
    }

    fn on_request_data<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        let Some(transfer) = &mut self.request else { return DataStep::Continue };
        if let Some(rest) = transfer.part(data) {
            return DataStep::Part(rest);
        }
        if end {
            self.request_took = transfer.end();
        }
        DataStep::Continue
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        _trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if let Some(transfer) = &mut self.request {
            self.request_took = transfer.end();
        }
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        self.response = Transfer::begin(&self.config(cx), Direction::Response);
        cx.phases.response_body |= self.response.is_some();
        HeadersStep::Continue
    }

    fn on_response_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        let Some(transfer) = &mut self.response else { return DataStep::Continue };
        if let Some(rest) = transfer.part(data) {
            return DataStep::Part(rest);
        }
        if end {
            self.end_response(cx.new_trailers.as_deref_mut());
        }
        DataStep::Continue
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        self.end_response(Some(trailers));
        HeadersStep::Continue
    }

    fn poll_rest(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<()> {
        let transfer = match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        };
        transfer.as_mut().map_or(Poll::Ready(()), |transfer| transfer.pace.poll(task))
    }
}

#[cfg(test)]
mod tests;
