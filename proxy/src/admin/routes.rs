//! The paths of the admin interface: which exist, what they take, who answers.

use std::fmt::Write as _;

use http::{Method, StatusCode};

use super::request::Request;
use super::response::Response;
use super::state::AdminState;
use super::{
    certs, clusters, config_dump, home, init_dump, lifecycle, listeners, logging, memory, profiling,
    recent_lookups, runtime, server_info, stats,
};

/// Whether an endpoint changes something, and so takes POST only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Changes,
}

/// One endpoint.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    pub(super) effect: Effect,
    pub(super) help: &'static str,
    /// Names of parameters and what they do.
    pub(super) params: &'static [(&'static str, &'static str)],
    handler: fn(&dyn AdminState, &Request) -> Response,
}

const fn reads(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    handler: fn(&dyn AdminState, &Request) -> Response,
) -> Endpoint {
    Endpoint { path, effect: Effect::Reads, help, params, handler }
}

const fn changes(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    handler: fn(&dyn AdminState, &Request) -> Response,
) -> Endpoint {
    Endpoint { path, effect: Effect::Changes, help, params, handler }
}

const USED_ONLY: (&str, &str) = ("usedonly", "Only statistics that were written since the start");
const FILTER: (&str, &str) = ("filter", "Regular expression (RE2) that a part of the name must match");
const INVERT: (&str, &str) = ("invert_filter", "Show what the filter does not match");
const ENABLE: &[(&str, &str)] = &[("enable", "Start or stop; One of (y, n)")];

/// Every endpoint, sorted by path.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    reads("/", "Admin home page", &[], home::page),
    changes("/allocprofiler", "allocation profiler (not in this build)", ENABLE, profiling::switchable),
    reads("/certs", "certificates in use", &[], certs::certs),
    reads(
        "/clusters",
        "clusters and their hosts",
        &[
            ("format", "Format to use; One of (text, json)"),
            ("filter", "Regular expression (RE2) that a part of the cluster's name must match"),
        ],
        clusters::clusters,
    ),
    reads(
        "/config_dump",
        "configuration in force",
        &[
            ("resource", "Only this repeated field of the dumps, one entry per element"),
            ("mask", "Only these fields, as a FieldMask; with resource, of each element"),
            ("name_regex", "Only resources whose whole name matches"),
            ("include_eds", "Endpoints too"),
        ],
        config_dump::config_dump,
    ),
    reads("/contention", "mutex contention (not traced by this build)", &[], profiling::absent),
    changes("/cpuprofiler", "CPU profiler (not in this build)", ENABLE, profiling::switchable),
    changes(
        "/drain_listeners",
        "drain listeners",
        &[
            ("graceful", "Wait for the drain time before listeners close"),
            ("skip_exit", "Drain connections, but never close the listeners"),
            ("inboundonly", "Only listeners whose traffic_direction is INBOUND"),
        ],
        lifecycle::drain_listeners,
    ),
    changes("/healthcheck/fail", "fail health checks from now on", &[], lifecycle::fail_health_check),
    changes("/healthcheck/ok", "pass health checks again", &[], lifecycle::pass_health_check),
    reads("/heap_dump", "heap dump (not in this build)", &[], profiling::absent),
    changes("/heapprofiler", "heap profiler (not in this build)", ENABLE, profiling::heap_profiler),
    reads("/help", "this list", &[], help),
    reads("/hot_restart_version", "hot restart compatibility version", &[], server_info::hot_restart_version),
    reads(
        "/init_dump",
        "what initialisation waits for",
        &[("mask", "Only this component, for example listener")],
        init_dump::init_dump,
    ),
    reads(
        "/listeners",
        "listeners and their addresses",
        &[("format", "Format to use; One of (text, json)")],
        listeners::listeners,
    ),
    changes(
        "/logging",
        "show or change log levels",
        &[
            ("paths", "Levels of several loggers: <logger>:<level>,<logger>:<level>"),
            ("level", "Level of all loggers; One of (, trace, debug, info, warning, error, critical, off)"),
        ],
        logging::logging,
    ),
    reads("/memory", "memory in use", &[], memory::memory),
    reads("/memory/tcmalloc", "statistics of tcmalloc (not in this build)", &[], profiling::absent),
    reads("/peak_heap_dump", "heap dump at its peak (not in this build)", &[], profiling::absent),
    changes("/quitquitquit", "end the process", &[], lifecycle::quit),
    reads("/ready", "state of the server: 200 if LIVE, otherwise 503", &[], lifecycle::ready),
    changes("/reopen_logs", "open the access logs anew", &[], lifecycle::reopen_logs),
    changes("/reset_counters", "set all counters to zero", &[], stats::reset_counters),
    reads("/runtime", "runtime values", &[], runtime::runtime),
    changes(
        "/runtime_modify",
        "set runtime values: ?key1=value1&key2=value2; an empty value removes what was set",
        &[],
        runtime::modify,
    ),
    reads("/server_info", "version, state and options of the server", &[], server_info::server_info),
    reads(
        "/stats",
        "statistics",
        &[
            USED_ONLY,
            FILTER,
            INVERT,
            ("format", "Format to use; One of (html, active-html, text, json, prometheus)"),
            ("type", "Kinds to show; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
            ("histogram_buckets", "How to show histograms; One of (cumulative, disjoint, detailed, summary)"),
            ("hidden", "Hidden statistics; One of (include, only, exclude)"),
        ],
        stats::stats,
    ),
    reads(
        "/stats/prometheus",
        "statistics for Prometheus",
        &[
            USED_ONLY,
            ("text_readouts", "Text readouts as gauges of 0"),
            FILTER,
            INVERT,
            ("histogram_buckets", "How to show histograms; One of (cumulative, summary)"),
        ],
        stats::prometheus,
    ),
    reads("/stats/recentlookups", "statistics looked up by name", &[], recent_lookups::show),
    changes("/stats/recentlookups/clear", "forget the lookups so far", &[], recent_lookups::clear),
    changes("/stats/recentlookups/disable", "stop to record lookups", &[], recent_lookups::disable),
    changes("/stats/recentlookups/enable", "start to record lookups", &[], recent_lookups::enable),
];

/// Answers a request whose path is allowed.
pub(super) fn answer(state: &dyn AdminState, method: &Method, request: &Request) -> Response {
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == request.path) else {
        let body = format!("invalid path. {}", list());
        return Response::error(StatusCode::NOT_FOUND, body);
    };
    if endpoint.effect == Effect::Changes && method != Method::POST {
        let body = format!("Method {method} not allowed, POST required.");
        return Response::error(StatusCode::METHOD_NOT_ALLOWED, body);
    }
    (endpoint.handler)(state, request)
}

fn help(_state: &dyn AdminState, _request: &Request) -> Response {
    Response::text(list())
}

fn list() -> String {
    let mut out = "admin commands are:\n".to_owned();
    for endpoint in ENDPOINTS {
        let method = match endpoint.effect {
            Effect::Reads => "",
            Effect::Changes => " (POST)",
        };
        let _ = writeln!(out, "  {}{method}: {}", endpoint.path, endpoint.help);
        for (name, help) in endpoint.params {
            let _ = writeln!(out, "      {name}: {help}");
        }
    }
    out
}
