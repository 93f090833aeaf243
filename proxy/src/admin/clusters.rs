//! `/clusters`, as text or as `envoy.admin.v3.Clusters`.

use std::fmt::Write as _;

use http::StatusCode;
use proxy_core::address::Address;
use proxy_core::matcher::regex::Search;
use proxy_core::upstream::{HealthFlag, Locality};
use serde_json::{Value, json};

use super::json::{flag, list, number, object, print, text, wide};
use super::listeners::address_json;
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// A cluster and its hosts.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// The name in statistics, `alt_stat_name` if there is one.
    pub observability_name: String,
    /// The name under which EDS is asked, if another.
    pub eds_service_name: String,
    /// Whether CDS delivered it.
    pub added_via_api: bool,
    /// Limits of default priority.
    pub default_breakers: BreakerThresholds,
    /// Limits of high priority.
    pub high_breakers: BreakerThresholds,
    /// What outlier detection computed; `None` without it.
    pub outlier: Option<OutlierStatus>,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
}

/// Limits of circuit breakers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of its name in CircuitBreakers.Thresholds")]
pub struct BreakerThresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

/// Averages and thresholds of success rates in percent; `None` where there were too few hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutlierStatus {
    /// Average of all hosts.
    pub success_rate_average: Option<f64>,
    /// Hosts below are ejected.
    pub success_rate_ejection_threshold: Option<f64>,
    /// Average for locally originated events.
    pub local_origin_success_rate_average: Option<f64>,
    /// Hosts below are ejected for locally originated events.
    pub local_origin_success_rate_ejection_threshold: Option<f64>,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// Where it is.
    pub address: Address,
    /// Its name, empty if it has none.
    pub hostname: String,
    /// What was counted.
    pub counters: HostCounters,
    /// What speaks against it; empty for a healthy host.
    pub health_flags: Vec<HealthFlag>,
    /// Its weight.
    pub weight: u32,
    /// Its locality.
    pub locality: Locality,
    /// Whether its metadata say that it is a canary.
    pub canary: bool,
    /// Its priority.
    pub priority: u32,
    /// Its success rates.
    pub success_rates: SuccessRates,
}

/// Success rates of a host in percent; `None` without enough requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SuccessRates {
    /// Of all requests.
    pub all: Option<f64>,
    /// Of locally originated events.
    pub local_origin: Option<f64>,
}

/// Connections and requests of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the host statistic of its name")]
pub struct HostCounters {
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_pending_active: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

/// How `/clusters` writes it.
fn name(flag: HealthFlag) -> &'static str {
    match flag {
        HealthFlag::FailedActiveHealthCheck => "/failed_active_hc",
        HealthFlag::FailedOutlierCheck => "/failed_outlier_check",
        HealthFlag::FailedEdsHealth => "/failed_eds_health",
        HealthFlag::DegradedActiveHealthCheck => "/degraded_active_hc",
        HealthFlag::DegradedEdsHealth => "/degraded_eds_health",
        HealthFlag::PendingDynamicRemoval => "/pending_dynamic_removal",
        HealthFlag::PendingActiveHealthCheck => "/pending_active_hc",
        HealthFlag::ExcludedViaImmediateHealthCheckFail => "/excluded_via_immediate_hc_fail",
        HealthFlag::ActiveHealthCheckTimeout => "/active_hc_timeout",
        HealthFlag::EdsStatusDraining => "/eds_status_draining",
        HealthFlag::DegradedOutlierDetection => "/degraded_outlier_detection",
    }
}

pub(super) fn clusters(state: &dyn AdminState, request: &Request) -> Response {
    let filter = match request.non_empty("filter").map(Search::new) {
        Some(Ok(filter)) => Some(filter),
        Some(Err(_)) => return Response::error(StatusCode::BAD_REQUEST, "Invalid re2 regex"),
        None => None,
    };
    let mut clusters = state.clusters();
    clusters.retain(|cluster| filter.as_ref().is_none_or(|filter| filter.is_match(cluster.name.as_bytes())));
    if request.param("format") == Some("json") {
        let statuses = clusters.iter().map(cluster_json).collect();
        return Response::json(print(&object([("cluster_statuses", list(statuses))])));
    }
    let mut out = String::new();
    for cluster in &clusters {
        // Writing to a String cannot fail.
        let _ = cluster_text(&mut out, cluster);
    }
    Response::text(out)
}

fn cluster_text(out: &mut String, cluster: &ClusterStatus) -> std::fmt::Result {
    let name = &cluster.name;
    writeln!(out, "{name}::observability_name::{}", cluster.observability_name)?;
    if let Some(outlier) = &cluster.outlier {
        for (what, value) in [
            ("success_rate_average", outlier.success_rate_average),
            ("success_rate_ejection_threshold", outlier.success_rate_ejection_threshold),
            ("local_origin_success_rate_average", outlier.local_origin_success_rate_average),
            (
                "local_origin_success_rate_ejection_threshold",
                outlier.local_origin_success_rate_ejection_threshold,
            ),
        ] {
            writeln!(out, "{name}::outlier::{what}::{}", rate(value))?;
        }
    }
    for (priority, breakers) in [("default", cluster.default_breakers), ("high", cluster.high_breakers)] {
        let prefix = format!("{name}::{priority}_priority");
        writeln!(out, "{prefix}::max_connections::{}", breakers.max_connections)?;
        writeln!(out, "{prefix}::max_pending_requests::{}", breakers.max_pending_requests)?;
        writeln!(out, "{prefix}::max_requests::{}", breakers.max_requests)?;
        writeln!(out, "{prefix}::max_retries::{}", breakers.max_retries)?;
    }
    writeln!(out, "{name}::added_via_api::{}", cluster.added_via_api)?;
    if !cluster.eds_service_name.is_empty() {
        writeln!(out, "{name}::eds_service_name::{}", cluster.eds_service_name)?;
    }
    cluster.hosts.iter().try_for_each(|host| host_text(out, name, host))
}

fn host_text(out: &mut String, cluster: &str, host: &HostStatus) -> std::fmt::Result {
    let prefix = format!("{cluster}::{}", host.address);
    let HostCounters {
        cx_active,
        cx_connect_fail,
        cx_total,
        rq_active,
        rq_error,
        rq_pending_active,
        rq_success,
        rq_timeout,
        rq_total,
    } = host.counters;
    for (what, count) in [
        ("cx_active", cx_active),
        ("cx_connect_fail", cx_connect_fail),
        ("cx_total", cx_total),
        ("rq_active", rq_active),
        ("rq_error", rq_error),
        ("rq_pending_active", rq_pending_active),
        ("rq_success", rq_success),
        ("rq_timeout", rq_timeout),
        ("rq_total", rq_total),
    ] {
        writeln!(out, "{prefix}::{what}::{count}")?;
    }
    let flags: String = host.health_flags.iter().map(|flag| name(*flag)).collect();
    writeln!(out, "{prefix}::hostname::{}", host.hostname)?;
    writeln!(out, "{prefix}::health_flags::{}", if flags.is_empty() { "healthy" } else { &flags })?;
    writeln!(out, "{prefix}::weight::{}", host.weight)?;
    writeln!(out, "{prefix}::region::{}", host.locality.region)?;
    writeln!(out, "{prefix}::zone::{}", host.locality.zone)?;
    writeln!(out, "{prefix}::sub_zone::{}", host.locality.sub_zone)?;
    writeln!(out, "{prefix}::canary::{}", host.canary)?;
    writeln!(out, "{prefix}::priority::{}", host.priority)?;
    writeln!(out, "{prefix}::success_rate::{}", rate(host.success_rates.all))?;
    writeln!(out, "{prefix}::local_origin_success_rate::{}", rate(host.success_rates.local_origin))
}

/// Envoy prints -1 where there is no rate.
fn rate(rate: Option<f64>) -> String {
    rate.unwrap_or(-1.0).to_string()
}

fn cluster_json(cluster: &ClusterStatus) -> Value {
    let percent = |value: Option<f64>| value.map(|value| json!({"value": value}));
    let outlier = cluster.outlier.unwrap_or_default();
    object([
        ("name", text(&cluster.name)),
        ("added_via_api", flag(cluster.added_via_api)),
        ("success_rate_ejection_threshold", percent(outlier.success_rate_ejection_threshold)),
        ("host_statuses", list(cluster.hosts.iter().map(host_json).collect())),
        (
            "local_origin_success_rate_ejection_threshold",
            percent(outlier.local_origin_success_rate_ejection_threshold),
        ),
        (
            "circuit_breakers",
            Some(json!({"thresholds": [
                thresholds_json(None, cluster.default_breakers),
                thresholds_json(Some("HIGH"), cluster.high_breakers),
            ]})),
        ),
        ("observability_name", text(&cluster.observability_name)),
        ("eds_service_name", text(&cluster.eds_service_name)),
    ])
}

/// Wrapped numbers are printed even if they are zero.
fn thresholds_json(priority: Option<&str>, breakers: BreakerThresholds) -> Value {
    object([
        ("priority", priority.map(Value::from)),
        ("max_connections", Some(Value::from(breakers.max_connections))),
        ("max_pending_requests", Some(Value::from(breakers.max_pending_requests))),
        ("max_requests", Some(Value::from(breakers.max_requests))),
        ("max_retries", Some(Value::from(breakers.max_retries))),
    ])
}

fn host_json(host: &HostStatus) -> Value {
    let counters = host.counters;
    let counter = |name: &str, count: u64| object([("value", wide(count)), ("name", text(name))]);
    let gauge = |name: &str, count: u64| {
        object([("type", text("GAUGE")), ("value", wide(count)), ("name", text(name))])
    };
    let percent = |value: Option<f64>| value.map(|value| json!({"value": value}));
    object([
        ("address", Some(address_json(&host.address))),
        (
            "stats",
            list(vec![
                counter("cx_connect_fail", counters.cx_connect_fail),
                counter("cx_total", counters.cx_total),
                counter("rq_error", counters.rq_error),
                counter("rq_success", counters.rq_success),
                counter("rq_timeout", counters.rq_timeout),
                counter("rq_total", counters.rq_total),
                gauge("cx_active", counters.cx_active),
                gauge("rq_active", counters.rq_active),
                gauge("rq_pending_active", counters.rq_pending_active),
            ]),
        ),
        ("health_status", Some(health_json(&host.health_flags))),
        ("success_rate", percent(host.success_rates.all)),
        ("weight", number(host.weight)),
        ("hostname", text(&host.hostname)),
        ("priority", number(host.priority)),
        ("local_origin_success_rate", percent(host.success_rates.local_origin)),
        (
            "locality",
            Some(object([
                ("region", text(&host.locality.region)),
                ("zone", text(&host.locality.zone)),
                ("sub_zone", text(&host.locality.sub_zone)),
            ])),
        ),
    ])
}

fn health_json(flags: &[HealthFlag]) -> Value {
    let has = |wanted: HealthFlag| flags.contains(&wanted);
    let eds = if has(HealthFlag::EdsStatusDraining) {
        "DRAINING"
    } else if has(HealthFlag::FailedEdsHealth) {
        "UNHEALTHY"
    } else if has(HealthFlag::DegradedEdsHealth) {
        "DEGRADED"
    } else {
        "HEALTHY"
    };
    object([
        ("failed_active_health_check", flag(has(HealthFlag::FailedActiveHealthCheck))),
        ("failed_outlier_check", flag(has(HealthFlag::FailedOutlierCheck))),
        ("eds_health_status", text(eds)),
        ("failed_active_degraded_check", flag(has(HealthFlag::DegradedActiveHealthCheck))),
        ("pending_dynamic_removal", flag(has(HealthFlag::PendingDynamicRemoval))),
        ("pending_active_hc", flag(has(HealthFlag::PendingActiveHealthCheck))),
        ("excluded_via_immediate_hc_fail", flag(has(HealthFlag::ExcludedViaImmediateHealthCheckFail))),
        ("active_hc_timeout", flag(has(HealthFlag::ActiveHealthCheckTimeout))),
        ("failed_degraded_outlier_detection", flag(has(HealthFlag::DegradedOutlierDetection))),
    ])
}
