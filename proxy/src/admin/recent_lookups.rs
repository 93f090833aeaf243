//! `/stats/recentlookups`: statistics that were looked up by name while traffic was served. There are none: every part of
//! this proxy holds the cells that it counts in. The answers are those of an Envoy that looked nothing up.

use std::sync::atomic::{AtomicBool, Ordering};

use super::request::Request;
use super::response::Response;
use super::state::AdminState;

static ENABLED: AtomicBool = AtomicBool::new(false);

pub(super) fn show(_state: &dyn AdminState, _request: &Request) -> Response {
    let head = match ENABLED.load(Ordering::Relaxed) {
        true => "   Count Lookup\n",
        false => "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n",
    };
    Response::text(format!("{head}\ntotal: 0\n"))
}

pub(super) fn clear(_state: &dyn AdminState, _request: &Request) -> Response {
    Response::ok()
}

pub(super) fn enable(_state: &dyn AdminState, _request: &Request) -> Response {
    ENABLED.store(true, Ordering::Relaxed);
    Response::ok()
}

pub(super) fn disable(_state: &dyn AdminState, _request: &Request) -> Response {
    ENABLED.store(false, Ordering::Relaxed);
    Response::ok()
}
