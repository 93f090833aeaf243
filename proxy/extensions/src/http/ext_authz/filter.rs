//! The filter on one stream.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use prost_types::Value;
use prost_types::value::Kind;
use proxy_core::extension::http_filter::{
    DataStep, HeadersStep, HttpFilter, StreamCx, Verdict as Resolution,
};
use proxy_core::field_names::joins_in_response;
use proxy_core::headers::X_ENVOY_AUTH_FAILURE_MODE_ALLOWED;
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::Details;
use proxy_core::text::Text;

use super::config::{Buffering, ClusterStats, Config, Measures, RouteConfig};
use super::measured::Measured;
use super::room::{Room, size_of_request, size_of_response};
use super::service::Told;
use super::{NAME, query};
use crate::shared::ext_authz::mutation::{Mutation, Operation, Ruling, is_removable};
use crate::shared::ext_authz::verdict::{Decision, Verdict};
use crate::shared::ext_authz::{DENIED, ERROR, INVALID};

/// The filter.
pub(super) struct Filter {
    config: Arc<Config>,
    /// What is kept of the body until the service is asked.
    kept: Option<Kept>,
    /// Changes of the response's headers.
    response: Vec<Mutation>,
}

/// A body that comes.
struct Kept {
    settings: Buffering,
    body: BytesMut,
    /// Some of it came, or its end.
    is_begun: bool,
}

impl Kept {
    /// Whether as much came as the service is told.
    fn is_full(&self) -> bool {
        self.settings.partial && self.body.len() >= self.settings.max
    }

    /// More came than the filter may hold.
    fn is_too_large(&self) -> bool {
        !self.settings.partial && self.body.len() > self.settings.max
    }

    fn told(self) -> Option<Told> {
        let Self { settings, body, is_begun: _ } = self;
        let mut body = body.freeze();
        let is_partial = body.len() > settings.max;
        body.truncate(settings.max);
        Some(Told { body, is_partial, settings })
    }
}

/// The answer of the service cannot be taken.
struct Invalid;

/// Details of a response that a host gave.
const VIA_UPSTREAM: &str = "via_upstream";

impl Filter {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, kept: None, response: Vec::new() }
    }

    /// How much of the body is told, if any of it is.
    fn buffering(&self, cx: &StreamCx<'_>, end: bool) -> Option<Buffering> {
        let route = cx.route_config::<RouteConfig>();
        if end || cx.request.upgrade.is_some() || route.is_some_and(|route| route.without_body) {
            return None;
        }
        let of_route = route.and_then(|route| route.body);
        let settings = of_route.or(self.config.body)?;
        // (How it is packed is the filter's business alone.)
        let as_bytes = self.config.body.is_some_and(|body| body.as_bytes);
        Some(Buffering { as_bytes, ..settings })
    }

    /// Asks the service, and does what it says.
    async fn check(&mut self, cx: &mut StreamCx<'_>) -> Resolution {
        let told = self.kept.take().filter(|kept| kept.is_begun).and_then(Kept::told);
        let config = self.config.clone();
        let of_route = cx.route_config::<RouteConfig>().and_then(|route| route.service.as_ref());
        let service = of_route.unwrap_or(&config.service);
        let call = service.call(&config, cx, told.as_ref());
        drop(told);
        let begun = Instant::now();
        let called = cx.engine.call(call).await;
        if self.config.measures != Measures::None {
            self.measure(cx, Measured::of(service, &called, begun.elapsed()));
        }
        self.conclude(cx, service.verdict(&called), begun.elapsed())
    }

    fn conclude(&mut self, cx: &mut StreamCx<'_>, verdict: Verdict, elapsed: Duration) -> Resolution {
        if verdict.has_unknown_action && self.config.validates {
            return self.reject(cx);
        }
        self.emit(cx, &verdict, elapsed);
        match verdict.decision {
            Decision::Ok => match self.pass(cx, verdict) {
                Ok(()) => {
                    self.config.stats.here().ok.inc();
                    self.count(cx, |stats| stats.ok.inc());
                    Resolution::Continue
                }
                Err(Invalid) => self.reject(cx),
            },
            Decision::Denied => {
                self.config.stats.here().denied.inc();
                self.count(cx, |stats| stats.denied.inc());
                self.charge(cx, verdict.status.unwrap_or(StatusCode::FORBIDDEN));
                if self.config.is_shadow {
                    self.config.stats.here().shadow_denied.inc();
                    return Resolution::Continue;
                }
                self.deny(cx, verdict)
            }
            Decision::Error => {
                self.config.stats.here().error.inc();
                self.count(cx, |stats| stats.error.inc());
                if self.config.is_shadow {
                    self.config.stats.here().shadow_error.inc();
                    return Resolution::Continue;
                }
                self.fail(cx, verdict)
            }
        }
    }

    /// Leaves for access logs what is known of the call.
    fn measure(&self, cx: &mut StreamCx<'_>, measured: Measured) {
        let state = &mut cx.info.filter_state;
        if state.get(cx.name).is_some_and(|value| !value.as_any().is::<Measured>()) {
            return self.config.stats.here().filter_state_name_collision.inc();
        }
        let measured = match self.config.measures {
            Measures::All => measured,
            Measures::Empty | Measures::None => Measured::default(),
        };
        state.set(cx.name, Rc::new(measured));
    }

    /// Leaves the service's metadata for other filters.
    fn emit(&self, cx: &mut StreamCx<'_>, verdict: &Verdict, elapsed: Duration) {
        if verdict.metadata.fields.is_empty() {
            return;
        }
        if !self.config.takes_metadata {
            self.config.stats.here().ignored_dynamic_metadata.inc();
            return;
        }
        let mut values = verdict.metadata.clone();
        if verdict.decision == Decision::Ok {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a request are few")]
            let millis = Value { kind: Some(Kind::NumberValue(elapsed.as_millis() as f64)) };
            values.fields.insert("ext_authz_duration".to_owned(), millis);
        }
        cx.info.metadata.merge(NAME, values);
    }

    /// Makes of the request what the service wants.
    fn pass(&mut self, cx: &mut StreamCx<'_>, verdict: Verdict) -> Result<(), Invalid> {
        let config = &*self.config;
        *cx.clear_route |= config.clears_route(&verdict);
        let changes_path = verdict.changes_path();
        let mut room = Room::of(size_of_request(cx.request), cx.head_limits);
        for mutation in &verdict.request {
            if config.validates && !mutation.is_valid() {
                return Err(Invalid);
            }
            match self.ruling(Operation::Set, &mutation.name) {
                Ruling::Ok => {
                    let changed = mutation.apply_to_request(cx.request);
                    if changed.is_err() || !room.is_left_after(mutation, || size_of_request(cx.request)) {
                        config.stats.here().request_header_limits_reached.inc();
                        return Err(Invalid);
                    }
                }
                Ruling::Ignore => {}
                Ruling::Fail => return Err(Invalid),
            }
        }
        for name in verdict.remove.iter().filter(|name| config.rules.is_some() || is_removable(name)) {
            match self.ruling(Operation::Remove, name) {
                Ruling::Ok => {
                    cx.request.headers.remove(name);
                }
                Ruling::Ignore => {}
                Ruling::Fail => return Err(Invalid),
            }
        }
        self.check_all(&verdict.response)?;
        self.response = verdict.response;
        if changes_path {
            let is_encoded =
                |(name, value): &(String, String)| query::is_encoded(name) && query::is_encoded(value);
            if self.config.validates && !verdict.set_parameters.iter().all(is_encoded) {
                return Err(Invalid);
            }
            let path = query::changed(&cx.request.path, &verdict.set_parameters, &verdict.remove_parameters);
            cx.request.path = Text::from(path);
        }
        Ok(())
    }

    fn ruling(&self, operation: Operation, name: &str) -> Ruling {
        self.config.rules.as_ref().map_or(Ruling::Ok, |rules| rules.check(operation, name))
    }

    fn check_all(&self, mutations: &[Mutation]) -> Result<(), Invalid> {
        match self.config.validates && !mutations.iter().all(Mutation::is_valid) {
            true => Err(Invalid),
            false => Ok(()),
        }
    }

    /// Counts the reply as one of the cluster's that the request goes to.
    fn charge(&self, cx: &StreamCx<'_>, status: StatusCode) {
        if self.config.charges_cluster
            && let Some(cluster) = &cx.info.upstream.cluster
        {
            cx.engine.count_response(cluster, status);
        }
    }

    /// Answers with what the service says.
    fn deny(&self, cx: &mut StreamCx<'_>, verdict: Verdict) -> Resolution {
        let status = verdict.status.unwrap_or(StatusCode::FORBIDDEN);
        if self.check_all(&verdict.reply).is_err() {
            return self.reject(cx);
        }
        self.reply(status, DENIED, verdict)
    }

    /// The service could not be asked.
    fn fail(&self, cx: &mut StreamCx<'_>, verdict: Verdict) -> Resolution {
        if self.config.allows_failure {
            self.config.stats.here().failure_mode_allowed.inc();
            self.count(cx, |stats| stats.failure_mode_allowed.inc());
            if self.config.marks_failure {
                let value = HeaderValue::from_static("true");
                cx.request.headers.append(&*X_ENVOY_AUTH_FAILURE_MODE_ALLOWED, value);
            }
            return Resolution::Continue;
        }
        if self.check_all(&verdict.reply).is_err() {
            return self.reject(cx);
        }
        let status = verdict.status.unwrap_or(self.config.status_on_error);
        self.reply(status, ERROR, verdict)
    }

    /// The answer cannot be taken.
    fn reject(&self, cx: &mut StreamCx<'_>) -> Resolution {
        self.config.stats.here().invalid.inc();
        self.count(cx, |stats| stats.invalid.inc());
        Resolution::Reply(refusal(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new(), INVALID))
    }

    fn reply(&self, status: StatusCode, details: &'static str, verdict: Verdict) -> Resolution {
        let mut body = verdict.body;
        if let Some(max) = self.config.max_body {
            body.truncate(max);
        }
        let mut reply = refusal(status, body, details);
        self.apply_all(&verdict.reply, &mut reply.headers);
        Resolution::Reply(reply)
    }

    /// Changes the headers of the response to a request that passed.
    fn change_response(&self, cx: &mut StreamCx<'_>) -> Result<(), Invalid> {
        let Some(response) = cx.response.as_deref_mut().filter(|_| !self.response.is_empty()) else {
            return Ok(());
        };
        // (What the proxy answers itself has no limits.)
        let cluster = cx.info.upstream.cluster.as_ref();
        let cluster = cluster.filter(|_| cx.info.details.as_deref() == Some(VIA_UPSTREAM));
        let limited = cluster.filter(|_| self.config.limits_responses).zip(cx.info.upstream.protocol);
        let limits = limited.and_then(|(cluster, protocol)| cx.engine.response_limits(cluster, protocol));
        let Some(limits) = limits else {
            self.apply_all(&self.response, &mut response.headers);
            return Ok(());
        };
        let mut room = Room::of(size_of_response(response), limits);
        for mutation in &self.response {
            let changed = mutation.apply(&mut response.headers, joins_in_response);
            if changed.is_err() || !room.is_left_after(mutation, || size_of_response(response)) {
                return Err(Invalid);
            }
        }
        Ok(())
    }

    /// Changes the headers of a response for as long as they have room.
    fn apply_all(&self, mutations: &[Mutation], headers: &mut HeaderMap) {
        if mutations.iter().any(|mutation| mutation.apply(headers, joins_in_response).is_err()) {
            self.config.stats.here().omitted_response_headers.inc();
        }
    }

    /// Counts for the cluster that the request goes to.
    fn count(&self, cx: &StreamCx<'_>, count: impl Fn(&ClusterStats)) {
        let info = &cx.info.upstream;
        let Some(name) = info.cluster_observability_name.as_ref().or(info.cluster.as_ref()) else { return };
        self.config.clusters.with(name, count);
    }
}

fn refusal(status: StatusCode, body: Bytes, details: impl Into<Details>) -> Box<LocalReply> {
    let reply = LocalReply::new(status, body, details);
    Box::new(reply.with_flag(ResponseFlag::UnauthorizedExternalService))
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        // What matches no route goes nowhere.
        if cx.route.is_none() || cx.route_config::<RouteConfig>().is_some_and(|route| route.disabled) {
            return HeadersStep::Continue;
        }
        if !self.config.is_enabled(cx) {
            self.config.stats.here().disabled.inc();
            return match self.config.denies_at_disable() {
                true => HeadersStep::Reply(refusal(self.config.status_on_error, Bytes::new(), ERROR)),
                false => HeadersStep::Continue,
            };
        }
        if let Some(settings) = self.buffering(cx, end) {
            if !settings.partial {
                let limit = &mut *cx.hold_limit;
                *limit = settings.max;
            }
            self.kept = Some(Kept { settings, body: BytesMut::new(), is_begun: false });
            return HeadersStep::Hold;
        }
        HeadersStep::Wait(Box::pin(self.check(cx)))
    }

    fn on_request_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        let Some(kept) = &mut self.kept else { return DataStep::Continue };
        kept.body.extend_from_slice(data);
        kept.is_begun = true;
        if kept.is_too_large() || !(end || kept.is_full()) {
            return DataStep::Hold;
        }
        DataStep::Wait(Box::pin(self.check(cx)))
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        _trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        match self.kept {
            Some(_) => HeadersStep::Wait(Box::pin(self.check(cx))),
            None => HeadersStep::Continue,
        }
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        match self.change_response(cx) {
            Ok(()) => HeadersStep::Continue,
            Err(Invalid) => {
                // (The reply comes by here, too.)
                self.response.clear();
                self.config.stats.here().response_header_limits_reached.inc();
                HeadersStep::Reply(refusal(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new(), INVALID))
            }
        }
    }
}
