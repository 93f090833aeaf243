//! `/init_dump` (`envoy.admin.v3.UnreadyTargetsDumps`): what initialisation still waits for.

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
    // A mask that names no component selects nothing.
    let wanted = |dump: &UnreadyTargets| match request.non_empty("mask") {
        None => true,
        Some(mask) => mask == "listener" && dump.of_listener,
    };
    let dumps = state
        .unready_targets()
        .into_iter()
        .filter(wanted)
        .map(|dump| json!({"name": dump.name, "target_names": dump.targets}))
        .collect::<Vec<Value>>();
    Response::json(print(&object([("unready_targets_dumps", list(dumps))])))
}
