//! What Envoy's profilers and tracers would answer: this build has none and says so.

use http::StatusCode;

use super::request::Request;
use super::response::Response;
use super::state::AdminState;

pub(super) fn unsupported(_state: &dyn AdminState, request: &Request) -> Response {
    let body = format!("The current build does not support {}\n", request.path.trim_start_matches('/'));
    Response::error(StatusCode::NOT_IMPLEMENTED, body)
}

pub(super) fn contention(_state: &dyn AdminState, _request: &Request) -> Response {
    Response::text("Mutex contention tracing is not enabled.\n")
}
