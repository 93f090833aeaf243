//! The filter on one stream.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proxy_core::callout::Called;
use proxy_core::extension::access_log::LogEntry;
use proxy_core::extension::http_filter::{
    Engine, HeadersStep, HostRateLimits, HttpFilter, StreamCx, Verdict,
};
use proxy_core::head::{MOST_FIELDS, RequestHead, ResponseHead};
use proxy_core::headers::{X_ENVOY_INTERNAL, X_ENVOY_RATELIMITED};
use proxy_core::local_reply::LocalReply;
use proxy_core::rate_limit::{HeadersOption, RateLimit, RateLimits, Subject, Tokens};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_info::StreamInfo;
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::HeaderValue as ProtoHeader;
use xds_api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_api::envoy::service::ratelimit::v3::RateLimitResponse;

use super::config::{ClusterStats, Config, RequestType, RouteConfig};
use super::headers::{Telling, tell_limit, tell_retry_after};
use crate::shared::rate_limit::{Ruling, answer, ask, told};

/// Where other filters say how many hits a request is.
const HITS: &str = "envoy.ratelimit.hits_addend";

const LIMITED: &str = "request_rate_limited";
const FAILED: &str = "rate_limiter_error";

/// The filter.
pub(super) struct Filter {
    config: Arc<Config>,
    /// What the service adds to the response.
    added: HeaderMap,
    /// What the end of the stream is counted as.
    done: Option<Box<Done>>,
}

/// What is counted when a stream is over.
struct Done {
    limits: SmallVec<[RateLimits; 2]>,
    stage: Option<u32>,
    domain: Option<Box<str>>,
    /// The service is not asked at this moment.
    is_due: bool,
}

/// The rate limits that hold for a request.
struct Applicable<'a> {
    limits: SmallVec<[&'a RateLimits; 2]>,
    /// Only those of this stage.
    stage: Option<u32>,
}

impl<'a> Applicable<'a> {
    fn of(config: &'a Config, cx: &StreamCx<'a>) -> Self {
        let of_route = cx.route_config::<RouteConfig>();
        let own = of_route.map(|route| &route.rate_limits).filter(|limits| !limits.is_empty());
        if let Some(own) = own.or(Some(&config.rate_limits).filter(|limits| !limits.is_empty())) {
            return Self { limits: SmallVec::from_iter([own]), stage: None };
        }
        let host_limits = of_route.map_or(HostRateLimits::WhereRouteHasNone, |route| route.host_limits);
        let limits = cx.route.and_then(|route| route.rate_limits());
        let limits = limits.into_iter().flat_map(|limits| [Some(limits.own), limits.host_if(host_limits)]);
        let limits = limits.flatten().filter(|limits| !limits.is_empty()).collect();
        Self { limits, stage: Some(config.stage) }
    }

    fn iter(&self) -> impl Iterator<Item = &'a RateLimit> {
        of_stage(self.limits.iter().copied(), self.stage)
    }

    /// What is to be kept of them for the end of the stream.
    fn done(&self, domain: Option<&str>) -> Option<Box<Done>> {
        self.iter().any(|limit| limit.on_stream_done).then(|| {
            let limits = self.limits.iter().copied().cloned().collect();
            Box::new(Done { limits, stage: self.stage, domain: domain.map(Into::into), is_due: true })
        })
    }
}

fn of_stage<'a>(
    limits: impl Iterator<Item = &'a RateLimits>,
    stage: Option<u32>,
) -> impl Iterator<Item = &'a RateLimit> {
    limits.flat_map(RateLimits::iter).filter(move |limit| stage.is_none_or(|stage| limit.stage == stage))
}

/// What a question is about.
#[derive(Default)]
struct Question {
    descriptors: Vec<RateLimitDescriptor>,
    headers: SmallVec<[HeadersOption; 4]>,
}

impl Question {
    fn about<'a>(
        limits: impl Iterator<Item = &'a RateLimit>,
        subject: &Subject<'a>,
        engine: &dyn Engine,
    ) -> Self {
        let mut question = Self::default();
        let is_on = |limit: &RateLimit| {
            limit.switch.as_ref().is_none_or(|switch| switch.holds(engine.runtime(), engine.random()))
        };
        for descriptor in limits.filter(|limit| is_on(limit)).filter_map(|limit| limit.descriptor(subject)) {
            question.descriptors.push(told(&descriptor));
            question.headers.push(descriptor.headers);
        }
        question
    }
}

/// How many hits other filters say that the request is.
fn hits(info: &StreamInfo) -> u32 {
    let said = info.filter_state(HITS).and_then(|hits| hits.to_text());
    said.and_then(|hits| hits.parse().ok()).unwrap_or(0)
}

impl Filter {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, added: HeaderMap::new(), done: None }
    }

    /// Whether requests like this one are counted at all.
    fn counts(&self, cx: &StreamCx<'_>) -> bool {
        let is_internal = || cx.request.headers.get(&*X_ENVOY_INTERNAL).is_some_and(|value| value == "true");
        // What goes nowhere is not counted.
        cx.info.upstream.cluster.is_some()
            && cx.route.is_some_and(|route| route.rate_limits().is_some())
            && self.config.is_enabled(cx.engine)
            && match self.config.request_type {
                RequestType::Both => true,
                RequestType::Internal => is_internal(),
                RequestType::External => !is_internal(),
            }
    }

    /// Asks the service, and does what it says.
    async fn check(&mut self, cx: &mut StreamCx<'_>, question: Question, domain: Option<&str>) -> Verdict {
        let config = self.config.clone();
        let Question { descriptors, headers } = question;
        let domain = domain.unwrap_or(&config.domain);
        let call = ask(&config.service, domain, descriptors, hits(cx.info), cx.info);
        if let Some(done) = &mut self.done {
            done.is_due = false;
        }
        let called = cx.engine.call(call).await;
        if let Some(done) = &mut self.done {
            done.is_due = true;
        }
        self.conclude(cx, &called, &headers)
    }

    fn conclude(&mut self, cx: &mut StreamCx<'_>, called: &Called, headers: &[HeadersOption]) -> Verdict {
        let config = self.config.clone();
        let (ruling, response) = answer(called);
        let RateLimitResponse {
            overall_code: _,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata,
            // (As in Envoy, nothing is counted here on the service's behalf.)
            quota: _,
        } = response;
        if let Some(metadata) = dynamic_metadata.filter(|metadata| !metadata.fields.is_empty()) {
            cx.info.metadata.merge(&config.metadata_namespace, metadata);
        }
        add_all(&response_headers_to_add, &mut self.added);
        match ruling {
            Ruling::Ok => self.count(cx, |stats| stats.ok.inc()),
            Ruling::Error => return self.fail(cx),
            Ruling::OverLimit => {
                self.count(cx, |stats| stats.over_limit.inc());
                if let Some(cluster) = &cx.info.upstream.cluster {
                    cx.engine.count_response(cluster, config.status);
                }
                if config.marks_limited {
                    self.added.insert(&*X_ENVOY_RATELIMITED, HeaderValue::from_static("true"));
                }
            }
        }
        tell_limit(
            &statuses,
            &Telling { by_default: config.tells_limit, descriptors: headers },
            &mut self.added,
        );
        if ruling == Ruling::OverLimit && config.is_enforced(cx.engine) {
            if config.tells_retry_after {
                tell_retry_after(&statuses, &mut self.added);
            }
            return Verdict::Reply(self.refuse(cx, raw_body));
        }
        add_all(&request_headers_to_add, &mut cx.request.headers);
        Verdict::Continue
    }

    /// The request is over a limit.
    fn refuse(&mut self, cx: &StreamCx<'_>, body: Vec<u8>) -> Box<LocalReply> {
        let config = &self.config;
        let mut reply = LocalReply::new(config.status, body, LIMITED).with_flag(ResponseFlag::RateLimited);
        reply.headers = std::mem::take(&mut self.added);
        let entry = LogEntry { request: Some(cx.request), ..LogEntry::of(cx.info) };
        config.response_headers.apply(&mut reply.headers, &entry);
        reply.grpc_status = config.grpc_status;
        Box::new(reply)
    }

    /// The service could not be asked.
    fn fail(&self, cx: &StreamCx<'_>) -> Verdict {
        self.count(cx, |stats| stats.error.inc());
        if self.config.allows_failure(cx.engine) {
            self.count(cx, |stats| stats.failure_mode_allowed.inc());
            return Verdict::Continue;
        }
        let reply = LocalReply::new(self.config.status_on_error, "", FAILED);
        Verdict::Reply(Box::new(reply.with_flag(ResponseFlag::RateLimitServiceError)))
    }

    /// Counts for the cluster that the request goes to.
    fn count(&self, cx: &StreamCx<'_>, count: impl Fn(&ClusterStats)) {
        let info = &cx.info.upstream;
        let Some(name) = info.cluster_observability_name.as_ref().or(info.cluster.as_ref()) else { return };
        self.config.clusters.with(name, count);
    }
}

/// What says where a message ends and whom it is for: no service changes that.
const FIXED: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::HOST, header::TRANSFER_ENCODING, header::UPGRADE];

/// Adds what the service names and a head can have, for as long as there is room.
fn add_all(headers: &[ProtoHeader], to: &mut HeaderMap) {
    for ProtoHeader { key, value, raw_value: _ } in headers {
        let name = HeaderName::from_bytes(key.as_bytes()).ok().filter(|name| !FIXED.contains(name));
        if let Some((name, value)) = name.zip(HeaderValue::from_bytes(value.as_bytes()).ok()) {
            add_one(name, value, to);
        }
    }
}

fn add_one(name: HeaderName, value: HeaderValue, to: &mut HeaderMap) {
    let has_room = to.len() < MOST_FIELDS as usize;
    match to.get_mut(&name) {
        // (A message has one of these, as a list if need be.)
        Some(there) if name == header::CONTENT_TYPE => {
            let all = [there.as_bytes(), b",", value.as_bytes()].concat();
            *there = HeaderValue::from_bytes(&all).unwrap_or(value);
        }
        _ if has_room => {
            to.append(name, value);
        }
        _ => {}
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if !self.counts(cx) {
            return HeadersStep::Continue;
        }
        let config = self.config.clone();
        let domain = cx.route_config::<RouteConfig>().and_then(|route| route.domain.as_deref());
        let question = {
            let applicable = Applicable::of(&config, cx);
            self.done = applicable.done(domain);
            let subject = Subject {
                request: cx.request,
                response: None,
                info: cx.info,
                route: cx.route,
                local_cluster: &config.local_cluster,
                tokens: Tokens::default(),
            };
            let at_once = applicable.iter().filter(|limit| !limit.on_stream_done);
            Question::about(at_once, &subject, cx.engine)
        };
        if question.descriptors.is_empty() {
            return HeadersStep::Continue;
        }
        HeadersStep::Wait(Box::pin(self.check(cx, question, domain)))
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if let Some(response) = &mut cx.response {
            for (name, value) in &std::mem::take(&mut self.added) {
                add_one(name.clone(), value.clone(), &mut response.headers);
            }
        }
        HeadersStep::Continue
    }

    fn on_complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
        engine: &dyn Engine,
    ) {
        let Some(done) = self.done.take().filter(|done| done.is_due) else { return };
        let config = &self.config;
        let local_cluster = &config.local_cluster;
        let subject =
            Subject { request, response, info, route: None, local_cluster, tokens: Tokens::default() };
        let limits = of_stage(done.limits.iter(), done.stage).filter(|limit| limit.on_stream_done);
        let question = Question::about(limits, &subject, engine);
        if !question.descriptors.is_empty() {
            let domain = done.domain.as_deref().unwrap_or(&config.domain);
            engine.send(ask(&config.service, domain, question.descriptors, hits(info), info));
        }
    }
}
