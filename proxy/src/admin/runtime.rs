//! `/runtime` and `/runtime_modify`.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::json::print;
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// Every key with its value in each layer (empty where a layer has none) and the value that counts.
pub(super) fn runtime(state: &dyn AdminState, _request: &Request) -> Response {
    let layers = state.runtime().layers();
    let keys: BTreeSet<&String> = layers.iter().flat_map(|layer| layer.values.keys()).collect();
    let mut entries = Map::new();
    for key in keys {
        let value = |values: &std::collections::BTreeMap<String, String>| values.get(key).cloned();
        let in_layers: Vec<String> =
            layers.iter().map(|layer| value(&layer.values).unwrap_or_default()).collect();
        let last = layers.iter().rev().find_map(|layer| value(&layer.values)).unwrap_or_default();
        entries.insert(key.clone(), json!({"layer_values": in_layers, "final_value": last}));
    }
    let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    Response::json(print(&json!({"layers": names, "entries": Value::Object(entries)})))
}

pub(super) fn modify(state: &dyn AdminState, request: &Request) -> Response {
    if request.params().is_empty() {
        return Response::error(
            StatusCode::BAD_REQUEST,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form \
             values\nuse an empty value to remove a previously added override",
        );
    }
    if state.modify_runtime(request.params()) {
        Response::ok()
    } else {
        Response::error(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified")
    }
}
