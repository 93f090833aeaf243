//! `/config_dump` (`envoy.admin.v3.ConfigDump`): the configuration in force.

mod mask;

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use prost_types::Any;
use proxy_core::matcher::regex::Regex;
use serde_json::{Map, Value};
use xds_api::schema::Message;

use super::json::{self, list, object, print, text, timestamp};
use super::request::Request;
use super::response::Response;
use super::state::AdminState;
use mask::Mask;

/// Whether endpoints are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// They are (`include_eds`).
    Include,
    /// They are not.
    Exclude,
}

/// The configuration in force, by kind of resource.
#[derive(Clone, Debug, Default)]
pub struct ConfigDump {
    /// The bootstrap with the node that this process made of it, and when it was read.
    pub bootstrap: Option<Resource>,
    /// Version of the last CDS update.
    pub clusters_version: String,
    /// Clusters of the bootstrap.
    pub static_clusters: Vec<Resource>,
    /// Clusters of CDS.
    pub active_clusters: Vec<Resource>,
    /// Clusters of CDS that warm.
    pub warming_clusters: Vec<Resource>,
    /// Endpoints of static clusters.
    pub static_endpoints: Vec<Resource>,
    /// Endpoints of EDS clusters.
    pub dynamic_endpoints: Vec<Resource>,
    /// Version of the last LDS update.
    pub listeners_version: String,
    /// Listeners of the bootstrap.
    pub static_listeners: Vec<Resource>,
    /// Listeners of LDS.
    pub dynamic_listeners: Vec<DynamicListener>,
    /// Route configurations inside of listeners.
    pub static_routes: Vec<Resource>,
    /// Route configurations of RDS.
    pub dynamic_routes: Vec<Resource>,
    /// Secrets of the bootstrap.
    pub static_secrets: Vec<Resource>,
    /// Secrets of SDS.
    pub active_secrets: Vec<Resource>,
    /// Secrets that are waited for.
    pub warming_secrets: Vec<Resource>,
    /// Filter configurations of ECDS.
    pub filters: Vec<Resource>,
}

/// One resource. What the API marks sensitive in it is hidden when it is shown.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Version of the update that brought it; empty for static ones.
    pub version_info: String,
    /// The message as it came.
    pub config: Arc<Any>,
    /// When it was taken.
    pub last_updated: Option<SystemTime>,
    /// What is wrong with the last update of it.
    pub error: Option<UpdateFailure>,
}

/// A listener of LDS in its up to three states.
#[derive(Clone, Debug, Default)]
pub struct DynamicListener {
    /// Its name.
    pub name: String,
    /// What serves.
    pub active: Option<Resource>,
    /// What warms.
    pub warming: Option<Resource>,
    /// What drains.
    pub draining: Option<Resource>,
    /// What is wrong with the last update of it.
    pub error: Option<UpdateFailure>,
}

/// A rejected update of a resource (`envoy.admin.v3.UpdateFailureState`).
#[derive(Clone, Debug)]
pub struct UpdateFailure {
    /// What was rejected.
    pub configuration: Option<Arc<Any>>,
    /// When.
    pub last_attempt: SystemTime,
    /// Why.
    pub details: String,
    /// Its version.
    pub version_info: String,
}

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// A field of a dump with its elements, each with the name of its resource.
struct List {
    field: &'static str,
    /// Full name of the element's message.
    element: &'static str,
    items: Vec<(String, Value)>,
}

/// One dump: `envoy.admin.v3.ClustersConfigDump` and so on.
struct Section {
    message: &'static str,
    /// Fields before the lists.
    head: Vec<(&'static str, Value)>,
    lists: Vec<List>,
}

pub(super) fn config_dump(state: &dyn AdminState, request: &Request) -> Response {
    match dump(state, request) {
        Ok(value) => Response::json(print(&value)),
        Err((status, reason)) => Response::with(status, "text/plain", reason),
    }
}

fn dump(state: &dyn AdminState, request: &Request) -> Result<Value, (StatusCode, String)> {
    let names = request.non_empty("name_regex").map(Regex::new).transpose().map_err(|error| {
        let regex = request.param("name_regex").unwrap_or_default();
        let reason = format!("INVALID_ARGUMENT: Error while parsing name_regex from {regex}: {error}");
        (StatusCode::BAD_REQUEST, reason)
    })?;
    let endpoints = if request.has("include_eds") { Endpoints::Include } else { Endpoints::Exclude };
    let mut sections = sections(&state.config_dump(endpoints), endpoints);
    if let Some(names) = names {
        for list in sections.iter_mut().flat_map(|section| &mut section.lists) {
            list.items.retain(|(name, _)| names.is_full_match(name.as_bytes()));
        }
    }
    let mask = request.non_empty("mask").map(Mask::new);
    let configs = match request.non_empty("resource") {
        Some(resource) => elements(sections, resource, mask.as_ref())?,
        None => whole(sections, mask.as_ref())?,
    };
    Ok(object([("configs", list(configs))]))
}

/// Every dump, reduced to the mask; those to which it does not apply are left out.
fn whole(sections: Vec<Section>, mask: Option<&Mask>) -> Result<Vec<Value>, (StatusCode, String)> {
    let mut configs = Vec::new();
    for section in sections {
        let message = section.message;
        let value = section.json();
        match mask {
            None => configs.push(typed(message, value)),
            Some(mask) => configs
                .extend(mask.apply(&value, Message::find(message)).map(|masked| typed(message, masked))),
        }
    }
    match mask {
        Some(mask) if configs.is_empty() => {
            let reason = format!("FieldMask {mask} could not be successfully applied to any configs.");
            Err((StatusCode::BAD_REQUEST, reason))
        }
        _ => Ok(configs),
    }
}

/// The elements of one repeated field, each reduced to the mask.
fn elements(
    sections: Vec<Section>,
    resource: &str,
    mask: Option<&Mask>,
) -> Result<Vec<Value>, (StatusCode, String)> {
    if sections.iter().any(|section| section.head.iter().any(|(field, _)| *field == resource)) {
        let reason =
            format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
        return Err((StatusCode::BAD_REQUEST, reason));
    }
    let Some(found) =
        sections.into_iter().flat_map(|section| section.lists).find(|list| list.field == resource)
    else {
        return Err((StatusCode::NOT_FOUND, format!("{resource} not found in config dump")));
    };
    let mut configs = Vec::new();
    for (_, value) in found.items {
        let value = match mask {
            None => value,
            Some(mask) => mask.apply(&value, Message::find(found.element)).ok_or_else(|| {
                let reason = format!("FieldMask {} could not be successfully used.", mask.debug());
                (StatusCode::BAD_REQUEST, reason)
            })?,
        };
        configs.push(typed(found.element, value));
    }
    Ok(configs)
}

/// As an expanded `Any`.
fn typed(message: &str, value: Value) -> Value {
    let mut typed = Map::new();
    typed.insert("@type".to_owned(), Value::from(format!("{TYPE_PREFIX}{message}")));
    if let Value::Object(fields) = value {
        typed.extend(fields);
    }
    Value::Object(typed)
}

impl Section {
    fn json(self) -> Value {
        let mut fields = Map::new();
        for (name, value) in self.head {
            fields.insert(name.to_owned(), value);
        }
        for list in self.lists.into_iter().filter(|list| !list.items.is_empty()) {
            let items = list.items.into_iter().map(|(_, value)| value).collect();
            fields.insert(list.field.to_owned(), Value::Array(items));
        }
        Value::Object(fields)
    }
}

fn expanded(any: &Any) -> Option<Value> {
    (!any.type_url.is_empty()).then(|| json::message(any))
}

/// `{<field>: .., last_updated: ..}` with `version_info` before them: the common shape of elements.
fn versioned(field: &str, resource: &Resource) -> Value {
    object([
        ("version_info", text(&resource.version_info)),
        (field, expanded(&resource.config)),
        ("last_updated", resource.last_updated.map(timestamp)),
        ("error_state", resource.error.as_ref().map(failure)),
    ])
}

fn failure(failure: &UpdateFailure) -> Value {
    object([
        ("failed_configuration", failure.configuration.as_ref().and_then(|any| expanded(any))),
        ("last_update_attempt", Some(timestamp(failure.last_attempt))),
        ("details", text(&failure.details)),
        ("version_info", text(&failure.version_info)),
    ])
}

fn resources(field: &'static str, element: &'static str, config_field: &str, resources: &[Resource]) -> List {
    let items =
        resources.iter().map(|resource| (resource.name.clone(), versioned(config_field, resource))).collect();
    List { field, element, items }
}

fn listeners(listeners: &[DynamicListener]) -> List {
    let state = |resource: &Option<Resource>| resource.as_ref().map(|one| versioned("listener", one));
    let items = listeners.iter().map(|listener| {
        let value = object([
            ("name", text(&listener.name)),
            ("active_state", state(&listener.active)),
            ("warming_state", state(&listener.warming)),
            ("draining_state", state(&listener.draining)),
            ("error_state", listener.error.as_ref().map(failure)),
        ]);
        (listener.name.clone(), value)
    });
    List {
        field: "dynamic_listeners",
        element: "envoy.admin.v3.ListenersConfigDump.DynamicListener",
        items: items.collect(),
    }
}

fn secrets(field: &'static str, element: &'static str, secrets: &[Resource]) -> List {
    let items = secrets.iter().map(|resource| {
        let value = object([
            ("name", text(&resource.name)),
            ("version_info", text(&resource.version_info)),
            ("last_updated", resource.last_updated.map(timestamp)),
            ("secret", expanded(&resource.config)),
            ("error_state", resource.error.as_ref().map(failure)),
        ]);
        (resource.name.clone(), value)
    });
    List { field, element, items: items.collect() }
}

fn version(version: &str) -> Vec<(&'static str, Value)> {
    text(version).map(|version| ("version_info", version)).into_iter().collect()
}

/// The dumps in Envoy's order; that of ECDS only if there is something in it.
fn sections(dump: &ConfigDump, endpoints: Endpoints) -> Vec<Section> {
    let mut sections = Vec::new();
    sections.extend(dump.bootstrap.as_ref().map(bootstrap_section));
    sections.push(Section {
        message: "envoy.admin.v3.ClustersConfigDump",
        head: version(&dump.clusters_version),
        lists: vec![
            resources("static_clusters", STATIC_CLUSTER, "cluster", &dump.static_clusters),
            resources("dynamic_active_clusters", DYNAMIC_CLUSTER, "cluster", &dump.active_clusters),
            resources("dynamic_warming_clusters", DYNAMIC_CLUSTER, "cluster", &dump.warming_clusters),
        ],
    });
    if endpoints == Endpoints::Include {
        let (fixed, dynamic) = (&dump.static_endpoints, &dump.dynamic_endpoints);
        sections.push(Section {
            message: "envoy.admin.v3.EndpointsConfigDump",
            head: Vec::new(),
            lists: vec![
                resources("static_endpoint_configs", STATIC_ENDPOINTS, "endpoint_config", fixed),
                resources("dynamic_endpoint_configs", DYNAMIC_ENDPOINTS, "endpoint_config", dynamic),
            ],
        });
    }
    sections.push(Section {
        message: "envoy.admin.v3.ListenersConfigDump",
        head: version(&dump.listeners_version),
        lists: vec![
            resources("static_listeners", STATIC_LISTENER, "listener", &dump.static_listeners),
            listeners(&dump.dynamic_listeners),
        ],
    });
    let scoped = "envoy.admin.v3.ScopedRoutesConfigDump";
    sections.push(Section { message: scoped, head: Vec::new(), lists: Vec::new() });
    sections.push(Section {
        message: "envoy.admin.v3.RoutesConfigDump",
        head: Vec::new(),
        lists: vec![
            resources("static_route_configs", STATIC_ROUTE, "route_config", &dump.static_routes),
            resources("dynamic_route_configs", DYNAMIC_ROUTE, "route_config", &dump.dynamic_routes),
        ],
    });
    sections.push(Section {
        message: "envoy.admin.v3.SecretsConfigDump",
        head: Vec::new(),
        lists: vec![
            secrets("static_secrets", STATIC_SECRET, &dump.static_secrets),
            secrets("dynamic_active_secrets", DYNAMIC_SECRET, &dump.active_secrets),
            secrets("dynamic_warming_secrets", DYNAMIC_SECRET, &dump.warming_secrets),
        ],
    });
    if !dump.filters.is_empty() {
        sections.push(Section {
            message: "envoy.admin.v3.EcdsConfigDump",
            head: Vec::new(),
            lists: vec![resources("ecds_filters", ECDS_FILTER, "ecds_filter", &dump.filters)],
        });
    }
    sections
}

/// The bootstrap is a message of its own type, not an `Any`.
fn bootstrap_section(bootstrap: &Resource) -> Section {
    let mut head = Vec::new();
    if let Some(Value::Object(mut fields)) = expanded(&bootstrap.config) {
        fields.shift_remove("@type");
        head.push(("bootstrap", Value::Object(fields)));
    }
    head.extend(bootstrap.last_updated.map(|moment| ("last_updated", timestamp(moment))));
    Section { message: "envoy.admin.v3.BootstrapConfigDump", head, lists: Vec::new() }
}

const STATIC_CLUSTER: &str = "envoy.admin.v3.ClustersConfigDump.StaticCluster";
const DYNAMIC_CLUSTER: &str = "envoy.admin.v3.ClustersConfigDump.DynamicCluster";
const STATIC_ENDPOINTS: &str = "envoy.admin.v3.EndpointsConfigDump.StaticEndpointConfig";
const DYNAMIC_ENDPOINTS: &str = "envoy.admin.v3.EndpointsConfigDump.DynamicEndpointConfig";
const STATIC_LISTENER: &str = "envoy.admin.v3.ListenersConfigDump.StaticListener";
const STATIC_ROUTE: &str = "envoy.admin.v3.RoutesConfigDump.StaticRouteConfig";
const DYNAMIC_ROUTE: &str = "envoy.admin.v3.RoutesConfigDump.DynamicRouteConfig";
const STATIC_SECRET: &str = "envoy.admin.v3.SecretsConfigDump.StaticSecret";
const DYNAMIC_SECRET: &str = "envoy.admin.v3.SecretsConfigDump.DynamicSecret";
const ECDS_FILTER: &str = "envoy.admin.v3.EcdsConfigDump.EcdsFilterConfig";
