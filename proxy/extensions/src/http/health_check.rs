//! `envoy.filters.http.health_check`: answers health checks for the host, or passes them on and remembers the answer.
//!
//! Without pass-through, a matching request is answered 200, or 503 when `/healthcheck/fail` is in force or too few
//! hosts of a named cluster are healthy. With pass-through the request goes on; with `cache_time` its answer is reused
//! for that long. Every other response says `x-envoy-immediate-health-check-fail` while `/healthcheck/fail` is in force.
//! Source: Envoy `docs/root/configuration/http/http_filters/health_check_filter.rst`; details observed on 1.40.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected, duration};
use proxy_core::extension::http_filter::{
    Engine, HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::headers::{
    X_ENVOY_DEGRADED, X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER,
};
use proxy_core::local_reply::LocalReply;
use proxy_core::matcher::HeaderMatcher;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::health_check::v3 as proto;

use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        &[
            ("pass_through_mode", Used),
            ("cache_time", Used),
            ("cluster_min_healthy_percentages", Used),
            ("headers", Used),
        ],
    ),
    ("envoy.type.v3.Percent", &[("value", Used)]),
];

/// The extension.
pub struct HealthCheck;

impl HttpFilterExtension for HealthCheck {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.health_check",
        message: "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::HealthCheck;
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
        Box::new(Filter { config: config.clone(), checking: false, answered: false })
    }
}

/// The configuration.
pub struct Config {
    mode: Mode,
    headers: Box<[HeaderMatcher]>,
    own_cluster: HeaderValue,
    stats: Cells<HealthCheckStats>,
}

enum Mode {
    /// Answered here; clusters that need this share of healthy hosts.
    Local(Vec<(String, f64)>),
    /// Passed on; the last answer is reused for a while.
    PassThrough(Option<Cache>),
}

struct Cache {
    lifetime: Duration,
    /// Locked for a copy, and by health checks only.
    answer: Mutex<Option<Answer>>,
}

#[derive(Clone, Copy)]
struct Answer {
    status: StatusCode,
    degraded: bool,
    until: Instant,
}

impl Cache {
    fn get(&self, now: Instant) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).filter(|answer| now < answer.until)
    }

    fn set(&self, status: StatusCode, degraded: bool, now: Instant) {
        let answer = Answer { status, degraded, until: now + self.lifetime };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

proxy_core::stats! {
    /// `http.<stat_prefix>.health_check`.
    pub sharded struct HealthCheckStats {
        /// Answers from the cache.
        counter cached_response,
        /// Answers that said degraded.
        counter degraded,
        /// Answers that said unhealthy.
        counter failed,
        /// Of them, because a cluster has no hosts.
        counter failed_cluster_empty,
        /// Of them, because a cluster does not exist.
        counter failed_cluster_not_found,
        /// Of them, because too few hosts of a cluster are healthy.
        counter failed_cluster_unhealthy,
        /// Answers that said healthy.
        counter ok,
        /// Health checks answered here.
        counter request_total,
    }
}

impl Config {
    fn build(proto: proto::HealthCheck, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::HealthCheck { pass_through_mode, cache_time, cluster_min_healthy_percentages, headers } =
            proto;
        let headers = HeaderMatcher::build_all("headers", &headers, cx);
        let Some(pass_through) = pass_through_mode else {
            return Err(cx.at("pass_through_mode", |cx| cx.reject("value is required")));
        };
        let cache_time = cache_time.as_ref().and_then(duration).filter(|time| !time.is_zero());
        if !pass_through && cache_time.is_some() {
            return Err(
                cx.at("cache_time", |cx| cx.reject("must not be set when pass_through_mode is disabled"))
            );
        }
        let mut shares = Vec::new();
        for (cluster, percent) in cluster_min_healthy_percentages {
            if !(0.0..=100.0).contains(&percent.value) {
                return Err(cx.at_key("cluster_min_healthy_percentages", &cluster, |cx| {
                    cx.reject("value must be inside range [0, 100]")
                }));
            }
            shares.push((cluster, percent.value));
        }
        shares.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mode = match pass_through {
            false => Mode::Local(shares),
            true => {
                Mode::PassThrough(cache_time.map(|lifetime| Cache { lifetime, answer: Mutex::new(None) }))
            }
        };
        let own_cluster = HeaderValue::try_from(cx.env.node.cluster.as_str())
            .map_err(|_| cx.reject("the node's cluster has characters that a header cannot have"))?;
        let stats = cx.env.stats.scope(&format!("{}health_check", cx.stat_prefix)).cells();
        Ok(Self { mode, headers: headers?, own_cluster, stats })
    }

    /// What the clusters say: the status and its details.
    fn clusters(&self, shares: &[(String, f64)], engine: &dyn Engine) -> (StatusCode, &'static str) {
        let stats = self.stats.here();
        let failed = StatusCode::SERVICE_UNAVAILABLE;
        for (cluster, percent) in shares {
            match engine.cluster_health(cluster) {
                None => {
                    stats.failed_cluster_not_found.inc();
                    return (failed, "health_check_failed_no_cluster_found");
                }
                Some((_, 0)) if *percent == 0.0 => {}
                Some((_, 0)) => {
                    stats.failed_cluster_empty.inc();
                    return (failed, "health_check_failed_cluster_empty");
                }
                Some((healthy, total)) if (100 * healthy) as f64 >= total as f64 * percent => {}
                Some(_) => {
                    stats.failed_cluster_unhealthy.inc();
                    return (failed, "health_check_failed_cluster_unhealthy");
                }
            }
        }
        let details = if shares.is_empty() { "health_check_ok" } else { "health_check_ok_cluster_healthy" };
        (StatusCode::OK, details)
    }

    fn reply(&self, status: StatusCode, degraded: bool, details: &'static str) -> LocalReply {
        let stats = self.stats.here();
        stats.request_total.inc();
        let healthy = status == StatusCode::OK;
        if healthy {
            stats.ok.inc()
        } else {
            stats.failed.inc()
        }
        let mut reply = LocalReply::new(status, Bytes::new(), details);
        if !healthy {
            reply = reply.with_flag(ResponseFlag::FailedLocalHealthCheck);
        }
        if degraded {
            stats.degraded.inc();
            reply.headers.insert(&*X_ENVOY_DEGRADED, HeaderValue::from_static(""));
        }
        reply
    }

    /// The answer to a health check, if it is given here.
    fn answer(&self, engine: &dyn Engine) -> Option<LocalReply> {
        if engine.health_check_failed() {
            return Some(self.reply(StatusCode::SERVICE_UNAVAILABLE, false, "health_check_failed"));
        }
        match &self.mode {
            Mode::Local(shares) => {
                let (status, details) = self.clusters(shares, engine);
                Some(self.reply(status, false, details))
            }
            Mode::PassThrough(None) => None,
            Mode::PassThrough(Some(cache)) => {
                let answer = cache.get(Instant::now())?;
                self.stats.here().cached_response.inc();
                Some(self.reply(answer.status, answer.degraded, "health_check_cached"))
            }
        }
    }
}

struct Filter {
    config: Arc<Config>,
    /// This is a health check.
    checking: bool,
    /// It was answered here.
    answered: bool,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = &*self.config;
        if !config.headers.iter().all(|matcher| matcher.matches_request(cx.request)) {
            return HeadersStep::Continue;
        }
        self.checking = true;
        cx.info.health_check = true;
        match config.answer(cx.engine) {
            Some(reply) => {
                self.answered = true;
                HeadersStep::Reply(Box::new(reply))
            }
            None => HeadersStep::Continue,
        }
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let failed = cx.engine.health_check_failed();
        let Some(response) = cx.response.as_deref_mut() else { return HeadersStep::Continue };
        if self.checking {
            let own = self.config.own_cluster.clone();
            response.headers.insert(&*X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER, own);
            if let Mode::PassThrough(Some(cache)) = &self.config.mode
                && !self.answered
            {
                let degraded = response.headers.contains_key(&*X_ENVOY_DEGRADED);
                cache.set(response.status, degraded, Instant::now());
            }
        }
        if failed {
            response.headers.insert(&*X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, HeaderValue::from_static("true"));
        }
        HeadersStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stream, env, header_map, reply};
    use xds_api::envoy::r#type::v3::Percent;

    struct Fixture {
        env: proxy_core::config::BuildEnv,
        config: Arc<Config>,
    }

    impl Fixture {
        fn new(mut proto: proto::HealthCheck) -> Self {
            let env = env();
            let mut cx = BuildCx::new(&env);
            cx.stat_prefix = "http.a.".into();
            proto.headers = vec![xds_api::envoy::config::route::v3::HeaderMatcher {
                name: "x-check".into(),
                ..Default::default()
            }];
            let config = Arc::new(HealthCheck::build(proto, &mut cx).unwrap());
            Self { env, config }
        }

        /// Runs a request: the details of a reply made here, and the headers of the response.
        fn exchange(&self, stream: &mut Stream) -> (Option<String>, Vec<String>) {
            let mut filter = HealthCheck::create(&self.config);
            let answer = reply(filter.on_request_headers(&mut stream.cx(), true));
            let details = answer.map(|answer| {
                let unhealthy = answer.flag == Some(ResponseFlag::FailedLocalHealthCheck);
                assert_eq!(unhealthy, answer.status != StatusCode::OK);
                stream.respond(answer.status, answer.headers);
                answer.details.into_owned()
            });
            filter.on_response_headers(&mut stream.cx(), true);
            (details, stream.response_lines())
        }

        fn stats(&self) -> Cells<HealthCheckStats> {
            self.env.stats.scope("http.a.health_check").cells()
        }
    }

    fn local(shares: &[(&str, f64)]) -> proto::HealthCheck {
        let shares = shares.iter().map(|(name, value)| ((*name).to_owned(), Percent { value: *value }));
        proto::HealthCheck {
            pass_through_mode: Some(false),
            cluster_min_healthy_percentages: shares.collect(),
            ..Default::default()
        }
    }

    fn check() -> Stream {
        Stream::new(&[("x-check", "1")])
    }

    fn failing(mut stream: Stream) -> Stream {
        stream.engine.health_check_failed = true;
        stream
    }

    const CHECKED: &str = "x-envoy-upstream-healthchecked-cluster: here";
    const FAIL: &str = "x-envoy-immediate-health-check-fail: true";

    #[test]
    fn checks_are_answered_here_and_other_requests_pass() {
        let fixture = Fixture::new(local(&[]));
        let mut stream = check();
        assert_eq!(fixture.exchange(&mut stream), (Some("health_check_ok".into()), vec![CHECKED.into()]));
        assert!(stream.info.health_check);
        let mut other = Stream::new(&[]);
        assert_eq!(fixture.exchange(&mut other), (None, Vec::new()));
        assert!(!other.info.health_check);
        let (details, lines) = fixture.exchange(&mut failing(check()));
        assert_eq!(details.as_deref(), Some("health_check_failed"));
        assert_eq!(lines, [CHECKED, FAIL]);
        assert_eq!(fixture.exchange(&mut failing(Stream::new(&[]))), (None, vec![FAIL.into()]));
        let stats = fixture.stats();
        let stats = stats.here();
        assert_eq!((stats.request_total.value(), stats.ok.value(), stats.failed.value()), (2, 1, 1));
    }

    #[test]
    fn clusters_need_their_share_of_healthy_hosts() {
        for (share, hosts, expected) in [
            (50.0, Some((1, 2)), "health_check_ok_cluster_healthy"),
            (51.0, Some((1, 2)), "health_check_failed_cluster_unhealthy"),
            (0.0, Some((0, 0)), "health_check_ok_cluster_healthy"),
            (1.0, Some((0, 0)), "health_check_failed_cluster_empty"),
            (0.0, None, "health_check_failed_no_cluster_found"),
        ] {
            let fixture = Fixture::new(local(&[("c", share)]));
            let mut stream = check();
            stream.engine.clusters.extend(hosts.map(|hosts| ("c".to_owned(), hosts)));
            assert_eq!(fixture.exchange(&mut stream).0.as_deref(), Some(expected));
        }
    }

    fn passed_on(status: StatusCode, headers: &[(&'static str, &'static str)]) -> Stream {
        let mut stream = check();
        stream.respond(status, header_map(headers));
        stream
    }

    #[test]
    fn passing_through_needs_no_answer_here_unless_it_failed() {
        let fixture =
            Fixture::new(proto::HealthCheck { pass_through_mode: Some(true), ..Default::default() });
        let (details, lines) = fixture.exchange(&mut passed_on(StatusCode::OK, &[]));
        assert_eq!((details, lines), (None, vec![CHECKED.to_owned()]));
        assert_eq!(fixture.exchange(&mut failing(check())).0.as_deref(), Some("health_check_failed"));
    }

    #[test]
    fn an_answer_is_reused_for_a_while() {
        let fixture = Fixture::new(proto::HealthCheck {
            pass_through_mode: Some(true),
            cache_time: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            ..Default::default()
        });
        let degraded = &[("x-envoy-degraded", "1")];
        assert_eq!(fixture.exchange(&mut passed_on(StatusCode::SERVICE_UNAVAILABLE, degraded)).0, None);
        let mut stream = check();
        let (details, lines) = fixture.exchange(&mut stream);
        assert_eq!(details.as_deref(), Some("health_check_cached"));
        assert_eq!(stream.response.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(lines, ["x-envoy-degraded: ", CHECKED]);
        let stats = fixture.stats();
        let stats = stats.here();
        assert_eq!((stats.cached_response.value(), stats.degraded.value(), stats.failed.value()), (1, 1, 1));
        let Mode::PassThrough(Some(cache)) = &fixture.config.mode else { panic!("no cache") };
        assert!(cache.get(Instant::now() + Duration::from_secs(11)).is_none());
    }

    #[test]
    fn what_envoy_refuses_is_refused_with_its_path() {
        let env = env();
        let cached = proto::HealthCheck {
            cache_time: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..local(&[])
        };
        for (proto, path) in [
            (proto::HealthCheck::default(), "pass_through_mode"),
            (cached, "cache_time"),
            (local(&[("c", 101.0)]), "cluster_min_healthy_percentages[\"c\"]"),
        ] {
            let mut cx = BuildCx::new(&env);
            assert!(HealthCheck::build(proto, &mut cx).is_err());
            assert_eq!(cx.into_errors()[0].path, path);
        }
    }
}
