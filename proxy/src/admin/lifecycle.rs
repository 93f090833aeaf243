//! `/ready`, `/healthcheck/*`, `/drain_listeners`, `/reopen_logs` and `/quitquitquit`.

use http::StatusCode;

use super::request::Request;
use super::response::{Afterwards, Response};
use super::state::{AdminState, ServerState};

/// What `/drain_listeners` was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// Listeners close after the drain time only (`graceful`).
    pub graceful: bool,
    /// Connections drain, but listeners never close (`skip_exit`).
    pub skip_exit: bool,
    /// Only listeners whose `traffic_direction` is INBOUND (`inboundonly`).
    pub inbound_only: bool,
}

pub(super) fn ready(state: &dyn AdminState, _request: &Request) -> Response {
    let now = state.state();
    let body = format!("{}\n", now.name());
    match now {
        ServerState::Live => Response::text(body),
        ServerState::Draining | ServerState::PreInitializing | ServerState::Initializing => {
            Response::error(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

pub(super) fn fail_health_check(state: &dyn AdminState, _request: &Request) -> Response {
    state.set_health_check_failing(true);
    Response::ok()
}

pub(super) fn pass_health_check(state: &dyn AdminState, _request: &Request) -> Response {
    state.set_health_check_failing(false);
    Response::ok()
}

pub(super) fn drain_listeners(state: &dyn AdminState, request: &Request) -> Response {
    state.drain_listeners(DrainRequest {
        graceful: request.has("graceful"),
        skip_exit: request.has("skip_exit"),
        inbound_only: request.has("inboundonly"),
    });
    Response::ok()
}

pub(super) fn reopen_logs(state: &dyn AdminState, _request: &Request) -> Response {
    state.reopen_logs();
    Response::ok()
}

/// The process ends once this answer has been sent.
pub(super) fn quit(_state: &dyn AdminState, _request: &Request) -> Response {
    Response { afterwards: Afterwards::Quit, ..Response::ok() }
}
