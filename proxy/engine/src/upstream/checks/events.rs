//! The event log of health checks: a line of JSON for each change, and for each check where that is asked for.
//!
//! Source: `envoy/data/core/v3/health_check_event.proto`, `envoy/extensions/health_check/event_sinks/file/v3/file.proto`.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogFile;
use proxy_core::extension::decode;
use proxy_core::upstream::{CheckEvent, CheckFailure, FailureKind, Host};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::data::core::v3 as event;
use xds_api::envoy::data::core::v3::health_check_event::Event;
use xds_api::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use xds_api::write::{Defaults, JsonOptions, to_json};

const FILE_SINK: &str = "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";
const EVENT: &str = "type.googleapis.com/envoy.data.core.v3.HealthCheckEvent";

/// The files that events are written to.
pub(super) struct EventLog {
    files: Vec<Arc<dyn LogFile>>,
    checker: event::HealthCheckerType,
}

impl EventLog {
    pub(super) fn build(proto: &core::HealthCheck, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use core::health_check::HealthChecker;
        let checker = match &proto.health_checker {
            Some(HealthChecker::TcpHealthCheck(_)) => event::HealthCheckerType::Tcp,
            Some(HealthChecker::GrpcHealthCheck(_)) => event::HealthCheckerType::Grpc,
            Some(HealthChecker::HttpHealthCheck(_) | HealthChecker::CustomHealthCheck(_)) | None => {
                event::HealthCheckerType::Http
            }
        };
        let mut files = Vec::new();
        #[allow(deprecated, reason = "still used")]
        let path = &proto.event_log_path;
        if !path.is_empty() {
            files.push(cx.at("event_log_path", |cx| open(path, cx))?);
        }
        let sinks = cx.each("event_logger", &proto.event_logger, |sink, cx| {
            let Some(any) = &sink.typed_config else {
                return Err(cx.at("typed_config", |cx| cx.reject("must be set")));
            };
            cx.at("typed_config", |cx| match cx.unpack(any)? {
                (message, payload) if message == FILE_SINK => {
                    let sink: HealthCheckEventFileSink = decode(&payload, cx)?;
                    cx.at("event_log_path", |cx| open(&sink.event_log_path, cx))
                }
                (message, _) => Err(cx.reject(format!("event sink '{message}' is not available"))),
            })
        });
        files.extend(sinks?);
        Ok(Self { files, checker })
    }

    /// Writes down what happened to a host of `cluster`.
    pub(super) fn write(&self, cluster: &str, host: &Host, events: &[CheckEvent]) {
        for event in events {
            tracing::debug!(cluster, %host.address, ?event, "health check");
            if self.files.is_empty() {
                continue;
            }
            let line = line(&self.to_proto(cluster, host, *event, SystemTime::now()));
            self.files.iter().for_each(|file| file.write(line.as_bytes()));
        }
    }

    fn to_proto(
        &self,
        cluster: &str,
        host: &Host,
        happened: CheckEvent,
        now: SystemTime,
    ) -> event::HealthCheckEvent {
        let metadata = host.metadata();
        let locality = &host.locality;
        let event = match happened {
            CheckEvent::Ejected(failure) => Event::EjectUnhealthyEvent(event::HealthCheckEjectUnhealthy {
                failure_type: kind(failure).into(),
                http_status_code: failure.status.into(),
            }),
            CheckEvent::Added { first } => {
                Event::AddHealthyEvent(event::HealthCheckAddHealthy { first_check: first })
            }
            CheckEvent::Failed { failure, first } => {
                Event::HealthCheckFailureEvent(event::HealthCheckFailure {
                    failure_type: kind(failure).into(),
                    first_check: first,
                    http_status_code: failure.status.into(),
                })
            }
            CheckEvent::Passed => Event::SuccessfulHealthCheckEvent(event::HealthCheckSuccessful {}),
            CheckEvent::Degraded => Event::DegradedHealthyHost(event::DegradedHealthyHost {}),
            CheckEvent::NoLongerDegraded => Event::NoLongerDegradedHost(event::NoLongerDegradedHost {}),
        };
        event::HealthCheckEvent {
            health_checker_type: self.checker.into(),
            host: Some(host.address.to_proto()),
            cluster_name: cluster.to_owned(),
            timestamp: Some(now.into()),
            metadata: (!metadata.is_empty()).then(|| metadata.to_proto()),
            locality: Some(core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            event: Some(event),
        }
    }
}

fn open(path: &str, cx: &mut BuildCx<'_>) -> Result<Arc<dyn LogFile>, Rejected> {
    let files = cx.env.log_files.clone();
    files.open(path).map_err(|error| cx.reject(format!("'{path}' cannot be opened: {error}")))
}

fn line(event: &event::HealthCheckEvent) -> String {
    let options = JsonOptions { defaults: Defaults::Write, ..JsonOptions::default() };
    let mut text = String::new();
    if let Err(error) = to_json(EVENT, &event.encode_to_vec(), &options, &mut text) {
        tracing::error!(%error, "a health check event cannot be written");
    }
    text.push('\n');
    text
}

fn kind(failure: CheckFailure) -> event::HealthCheckFailureType {
    match failure.kind {
        FailureKind::Active => event::HealthCheckFailureType::Active,
        FailureKind::Passive => event::HealthCheckFailureType::Passive,
        FailureKind::Network => event::HealthCheckFailureType::Network,
        FailureKind::Timeout => event::HealthCheckFailureType::NetworkTimeout,
    }
}
