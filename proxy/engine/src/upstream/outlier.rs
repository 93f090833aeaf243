//! Outlier detection of a cluster: requests note their outcomes, the main thread judges, and what it decides is written down.
//!
//! Source: `envoy/config/cluster/v3/outlier_detection.proto`, `envoy/data/cluster/v3/outlier_detection_event.proto`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogFile;
use proxy_core::head::ResponseHead;
use proxy_core::headers::X_ENVOY_DEGRADED;
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::OutlierDetectionStats;
use proxy_core::stats::{Scope, Shared};
use proxy_core::upstream::{
    Detector, EjectionKind, HealthFlag, Host, HostResult, HostSet, OutlierChange, OutlierLimits,
    OutlierRates, OutlierSettings,
};
use tokio::sync::mpsc;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::data::cluster::v3 as event;
use xds_api::write::{Defaults, JsonOptions, to_json};

use super::http_options::FailedAnswers;

type Told = (Arc<Host>, EjectionKind);

/// The outlier detection of a cluster, as requests see it.
pub struct Outlier {
    settings: OutlierSettings,
    /// Which answers are failures, where that is not left to their status.
    errors: Option<FailedAnswers>,
    runtime: Arc<Runtime>,
    stats: Shared<OutlierDetectionStats>,
    log: Option<Arc<dyn LogFile>>,
    /// To the main thread. One host is told of once for each kind until it is looked at, so this does not grow.
    tell: mpsc::UnboundedSender<Told>,
    told: Mutex<Option<mpsc::UnboundedReceiver<Told>>>,
    rates: Mutex<[OutlierRates; 2]>,
}

impl Outlier {
    /// What `outlier_detection` asks for; `None` without it.
    pub fn build(
        proto: &proto::Cluster,
        errors: Option<FailedAnswers>,
        scope: &Scope,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Box<Self>>, Rejected> {
        let Some(proto) = &proto.outlier_detection else { return Ok(None) };
        let settings = cx.at("outlier_detection", |cx| OutlierSettings::build(proto, cx))?;
        let (tell, told) = mpsc::unbounded_channel();
        Ok(Some(Box::new(Self {
            settings,
            errors,
            runtime: cx.env.runtime.clone(),
            stats: scope.child("outlier_detection").shared(),
            log: cx.env.outlier_log.clone(),
            tell,
            told: Mutex::new(Some(told)),
            rates: Mutex::default(),
        })))
    }

    /// Notes how something that was asked of `host` ended.
    #[inline]
    pub fn note(&self, host: &Arc<Host>, result: HostResult) {
        let reached = host.outlier().note(result, self);
        if !reached.is_none() {
            for kind in reached.kinds() {
                // Nobody listens once the cluster is gone.
                let _ = self.tell.send((host.clone(), kind));
            }
        }
    }

    /// Notes what `host` answered.
    pub(crate) fn note_answer(&self, host: &Arc<Host>, head: &ResponseHead, is_grpc: bool) {
        let status = match &self.errors {
            // What is asked over gRPC has statuses of its own, as in Envoy.
            Some(FailedAnswers(errors)) if !is_grpc => match errors.matches(head) {
                true => head.status.as_u16().max(500),
                false => 200,
            },
            Some(_) | None => judged_status(head, is_grpc),
        };
        self.note(host, HostResult::Answered(status));
        if self.settings.detect_degraded_hosts
            && status < 500
            && head.headers.contains_key(&*X_ENVOY_DEGRADED)
        {
            self.note_degraded(host);
        }
    }

    #[cold]
    fn note_degraded(&self, host: &Arc<Host>) {
        if !host.has_flag(HealthFlag::DegradedOutlierDetection) && host.outlier().note_degraded() {
            // Nobody listens once the cluster is gone.
            let _ = self.tell.send((host.clone(), EjectionKind::Degraded));
        }
    }

    /// The rates of the last sweep: of all requests, and of connections alone.
    pub fn rates(&self) -> [OutlierRates; 2] {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutlierLimits for Outlier {
    fn splits_local_origin(&self) -> bool {
        self.settings.split_external_local_origin_errors
    }

    #[cold]
    fn consecutive(&self, kind: EjectionKind) -> u32 {
        self.settings.consecutive(kind, &self.runtime)
    }
}

impl fmt::Debug for Outlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// The status that outlier detection judges an answer by: that which stands for its gRPC status, if its head has one.
pub(crate) fn judged_status(head: &ResponseHead, is_grpc: bool) -> u16 {
    let status = head.headers.get("grpc-status").filter(|_| is_grpc);
    let Some(status) = status else { return head.status.as_u16() };
    status.to_str().ok().and_then(|status| status.parse().ok()).map_or(500, http_status)
}

/// The status of HTTP that stands for one of gRPC.
pub(crate) fn http_status(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        2 | 13 | 15 | 17.. => 500,
    }
}

/// The main thread's side of it.
pub(super) struct Judge<'c> {
    outlier: &'c Outlier,
    cluster: &'c str,
    detector: Detector,
    told: mpsc::UnboundedReceiver<Told>,
    random: fastrand::Rng,
    next_sweep: tokio::time::Instant,
}

impl<'c> Judge<'c> {
    /// Begins to judge; `None` if somebody does already.
    pub(super) fn new(outlier: &'c Outlier, cluster: &'c str) -> Option<Self> {
        let told = outlier.told.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let detector = Detector::new(outlier.stats.clone());
        let random = fastrand::Rng::new();
        let next_sweep = tokio::time::Instant::now();
        let mut judge = Self { outlier, cluster, detector, told, random, next_sweep };
        judge.arm();
        Some(judge)
    }

    fn arm(&mut self) {
        let interval = self.outlier.settings.now(&self.outlier.runtime).interval;
        self.next_sweep = tokio::time::Instant::now() + interval.max(Duration::from_millis(1));
    }

    /// Takes the hosts as they are now.
    pub(super) fn set_hosts(&mut self, hosts: &HostSet) {
        self.detector.set_hosts(hosts);
    }

    /// Waits for something to judge, and judges. Cancel-safe: nothing is judged before it is all there.
    pub(super) async fn judge(&mut self, hosts: impl Fn() -> Arc<HostSet>) -> Vec<OutlierChange> {
        let told = tokio::select! {
            told = self.told.recv() => told,
            () = tokio::time::sleep_until(self.next_sweep) => None,
        };
        self.detector.set_hosts(&hosts());
        let settings = self.outlier.settings.now(&self.outlier.runtime);
        let now = Instant::now();
        let Some(told) = told else {
            self.arm();
            let changes = self.detector.sweep(&settings, &mut self.random, now);
            *self.outlier.rates.lock().unwrap_or_else(PoisonError::into_inner) = self.detector.rates();
            return self.written(changes);
        };
        // What came together becomes one change of the hosts.
        let mut told = Some(told);
        let mut changes = Vec::new();
        while let Some((host, kind)) = told {
            changes.extend(self.detector.reached(&host, kind, &settings, &mut self.random, now));
            told = self.told.try_recv().ok();
        }
        self.written(changes)
    }

    /// An active health check of `host` passed.
    pub(super) fn checked(&mut self, host: &Arc<Host>) -> Vec<OutlierChange> {
        if !self.outlier.settings.successful_active_health_check_uneject_host {
            return Vec::new();
        }
        let change = self.detector.checked(host, Instant::now());
        self.written(change.into_iter().collect())
    }

    fn written(&self, changes: Vec<OutlierChange>) -> Vec<OutlierChange> {
        for change in &changes {
            tracing::debug!(cluster = self.cluster, ?change, "outlier detection");
            if let Some(log) = &self.outlier.log {
                log.write(line(self.cluster, change, SystemTime::now()).as_bytes());
            }
        }
        changes
    }
}

/// One line of the event log.
fn line(cluster: &str, change: &OutlierChange, now: SystemTime) -> String {
    let proto = to_proto(cluster, change, now);
    let options = JsonOptions { defaults: Defaults::Write, ..JsonOptions::default() };
    let mut text = String::new();
    if let Err(error) = to_json(EVENT, &proto.encode_to_vec(), &options, &mut text) {
        tracing::error!(%error, "an outlier event cannot be written");
    }
    text.push('\n');
    text
}

const EVENT: &str = "type.googleapis.com/envoy.data.cluster.v3.OutlierDetectionEvent";

fn to_proto(cluster: &str, change: &OutlierChange, now: SystemTime) -> event::OutlierDetectionEvent {
    use event::outlier_detection_event::Event;
    let ejection = change.ejection;
    let detail = ejection.map(|ejection| {
        let host_success_rate = percent(ejection.success_rate);
        match ejection.kind {
            EjectionKind::Consecutive5xx
            | EjectionKind::ConsecutiveGatewayFailure
            | EjectionKind::ConsecutiveLocalOriginFailure
            | EjectionKind::Degraded => Event::EjectConsecutiveEvent(event::OutlierEjectConsecutive {}),
            EjectionKind::SuccessRate | EjectionKind::SuccessRateLocalOrigin => {
                Event::EjectSuccessRateEvent(event::OutlierEjectSuccessRate {
                    host_success_rate,
                    cluster_average_success_rate: percent(ejection.rates.average),
                    cluster_success_rate_ejection_threshold: percent(ejection.rates.threshold),
                })
            }
            EjectionKind::FailurePercentage | EjectionKind::FailurePercentageLocalOrigin => {
                Event::EjectFailurePercentageEvent(event::OutlierEjectFailurePercentage { host_success_rate })
            }
        }
    });
    let action = if ejection.is_some() { event::Action::Eject } else { event::Action::Uneject };
    event::OutlierDetectionEvent {
        r#type: ejection.map_or(event::OutlierEjectionType::Consecutive5xx, |one| kind(one.kind)).into(),
        timestamp: Some(now.into()),
        secs_since_last_action: change.since.map(|since| since.as_secs()),
        cluster_name: cluster.to_owned(),
        upstream_url: change.host.address.to_string(),
        action: action.into(),
        num_ejections: change.ejections,
        enforced: ejection.is_some_and(|ejection| ejection.enforced),
        event: detail,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole percents, as in Envoy")]
fn percent(rate: Option<f64>) -> u32 {
    rate.unwrap_or_default() as u32
}

fn kind(kind: EjectionKind) -> event::OutlierEjectionType {
    use event::OutlierEjectionType as Type;
    match kind {
        EjectionKind::Consecutive5xx => Type::Consecutive5xx,
        EjectionKind::ConsecutiveGatewayFailure => Type::ConsecutiveGatewayFailure,
        EjectionKind::SuccessRate => Type::SuccessRate,
        EjectionKind::ConsecutiveLocalOriginFailure => Type::ConsecutiveLocalOriginFailure,
        EjectionKind::SuccessRateLocalOrigin => Type::SuccessRateLocalOrigin,
        EjectionKind::FailurePercentage => Type::FailurePercentage,
        EjectionKind::FailurePercentageLocalOrigin => Type::FailurePercentageLocalOrigin,
        EjectionKind::Degraded => Type::Degraded,
    }
}
