//! `/listeners`, as text or as `envoy.admin.v3.Listeners`.

use std::fmt::Write as _;

use proxy_core::address::Address;
use serde_json::{Value, json};

use super::json::{list, object, print};
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// A listener and where it listens, ports chosen by the kernel included.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub local_address: Address,
    /// Its other addresses.
    pub additional_local_addresses: Vec<Address>,
}

pub(super) fn listeners(state: &dyn AdminState, request: &Request) -> Response {
    let listeners = state.listeners();
    if request.param("format") == Some("json") {
        let statuses = listeners.iter().map(status).collect();
        return Response::json(print(&object([("listener_statuses", list(statuses))])));
    }
    let mut out = String::new();
    for listener in listeners {
        for address in std::iter::once(&listener.local_address).chain(&listener.additional_local_addresses) {
            let _ = writeln!(out, "{}::{address}", listener.name);
        }
    }
    Response::text(out)
}

fn status(listener: &ListenerStatus) -> Value {
    object([
        ("name", Some(Value::from(listener.name.as_str()))),
        ("local_address", Some(address_json(&listener.local_address))),
        (
            "additional_local_addresses",
            list(listener.additional_local_addresses.iter().map(address_json).collect()),
        ),
    ])
}

/// `envoy.config.core.v3.Address`.
pub(super) fn address_json(address: &Address) -> Value {
    match address.socket_addr() {
        Some(socket) => json!({
            "socket_address": {"address": socket.ip().to_string(), "port_value": socket.port()},
        }),
        None => json!({"pipe": {"path": address.to_string()}}),
    }
}
