//! What Envoy's profilers and tracers would answer: this build has none and says so, as Envoy does of what is not in its.

use http::StatusCode;

use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// Profilers that are started and stopped.
pub(super) fn switchable(_state: &dyn AdminState, request: &Request) -> Response {
    match request.param("enable") {
        Some("y" | "n") => unsupported(request),
        _ => Response::error(StatusCode::BAD_REQUEST, "?enable=<y|n>\n"),
    }
}

/// The heap profiler; Envoy's release has none either, and does not look at the parameters.
pub(super) fn heap_profiler(_state: &dyn AdminState, _request: &Request) -> Response {
    Response::error(StatusCode::NOT_IMPLEMENTED, "The current build does not support heap profiler")
}

/// Dumps and statistics of an allocator that is not used here, and of locks, which are not traced.
pub(super) fn absent(_state: &dyn AdminState, request: &Request) -> Response {
    unsupported(request)
}

fn unsupported(request: &Request) -> Response {
    let body = format!("The current build does not support {}\n", request.path.trim_start_matches('/'));
    Response::error(StatusCode::NOT_IMPLEMENTED, body)
}
