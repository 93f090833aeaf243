//! `/init_dump` (`envoy.admin.v3.UnreadyTargetsDumps`): what initialisation still waits for.

use http::StatusCode;
use serde_json::{Value, json};

use super::json::{list, object, print};
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// One component that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadyTargets {
    /// Which one, for instance `init manager Listener-local-init-manager ingress 123`.
    pub name: String,
    /// What it waits for.
    pub targets: Vec<String>,
    /// Whether it belongs to a listener: the only component that `mask` can name.
    pub of_listener: bool,
}

pub(super) fn init_dump(state: &dyn AdminState, request: &Request) -> Response {
    let listeners_only = match request.non_empty("mask") {
        None => false,
        Some("listener") => true,
        Some(mask) => {
            let reason = format!("{mask} is no component with targets; only listener is");
            return Response::error(StatusCode::BAD_REQUEST, reason);
        }
    };
    let dumps = state
        .unready_targets()
        .into_iter()
        .filter(|dump| dump.of_listener || !listeners_only)
        .map(|dump| json!({"name": dump.name, "target_names": dump.targets}))
        .collect::<Vec<Value>>();
    Response::json(print(&object([("unready_targets_dumps", list(dumps))])))
}
