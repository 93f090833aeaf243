//! What the store holds, in the shape of `/config_dump`.

use proxy_engine::state::Store;
use proxy_engine::state::dump::{ErrorState, Forms, Named, Resource as Held};
use proxy_engine::upstream::discovery::Discovery;

use crate::admin::{ConfigDump, DynamicListener, Endpoints, Resource, UpdateFailure, load_assignment};

/// Fills in the resources; what the bootstrap says besides stays.
pub(super) fn fill(dump: &mut ConfigDump, store: &Store, endpoints: Endpoints) {
    let held = store.dump();
    dump.clusters_version = held.clusters_version;
    dump.listeners_version = held.listeners_version;
    for forms in &held.clusters {
        let error = forms.error.as_ref().map(failure);
        let active = forms.active.as_ref().map(|active| resource(&forms.name, active, error.clone()));
        let warming = forms.warming.as_ref().map(|warming| resource(&forms.name, warming, error));
        match forms.is_static {
            // Envoy shows a static cluster among the static ones while it warms, too.
            true => dump.static_clusters.extend(active.or(warming)),
            false => {
                dump.active_clusters.extend(active);
                dump.warming_clusters.extend(warming);
            }
        }
    }
    for forms in &held.listeners {
        match forms.is_static {
            true => {
                let held = forms.active.as_ref().or(forms.warming.as_ref());
                dump.static_listeners.extend(held.map(|held| resource(&forms.name, held, None)));
            }
            false => dump.dynamic_listeners.push(listener(forms)),
        }
    }
    dump.static_routes.extend(held.inline_routes.iter().filter_map(named));
    dump.dynamic_routes.extend(held.routes.iter().filter_map(named));
    let fixed = held.static_secrets.iter().filter_map(named);
    dump.static_secrets.extend(fixed.map(|fixed| Resource { last_updated: None, ..fixed }));
    dump.active_secrets.extend(held.active_secrets.iter().filter_map(named));
    dump.warming_secrets.extend(held.warming_secrets.iter().filter_map(named));
    if endpoints == Endpoints::Include {
        for (cluster, delivered) in store.active_clusters() {
            let name = match &cluster.discovery {
                Discovery::Eds(eds) => &eds.service_name,
                Discovery::Static
                | Discovery::Dns(_)
                | Discovery::OriginalDst(_)
                | Discovery::Dynamic(_)
                | Discovery::Aggregate(_) => cluster.name.as_str(),
            };
            let shown = load_assignment(name, &cluster.known_hosts());
            match delivered {
                true => dump.dynamic_endpoints.push(shown),
                false => dump.static_endpoints.push(shown),
            }
        }
    }
}

fn listener(forms: &Forms) -> DynamicListener {
    let shown = |held: Option<&Held>| held.map(|held| resource(&forms.name, held, None));
    DynamicListener {
        name: forms.name.clone(),
        active: shown(forms.active.as_ref()),
        warming: shown(forms.warming.as_ref()),
        draining: shown(forms.draining.last()),
        error: forms.error.as_ref().map(failure),
    }
}

fn named(named: &Named) -> Option<Resource> {
    let held = named.resource.as_ref()?;
    Some(resource(&named.name, held, named.error.as_ref().map(failure)))
}

fn resource(name: &str, held: &Held, error: Option<UpdateFailure>) -> Resource {
    Resource {
        name: name.to_owned(),
        version_info: held.version.clone(),
        config: held.any.clone(),
        last_updated: Some(held.updated),
        error,
    }
}

fn failure(error: &ErrorState) -> UpdateFailure {
    UpdateFailure {
        configuration: Some(error.resource.any.clone()),
        last_attempt: error.resource.updated,
        details: error.details.clone(),
        version_info: error.resource.version.clone(),
    }
}
