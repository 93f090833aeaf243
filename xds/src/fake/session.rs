//! One stream as the server sees it: what was asked for, what was sent. No sockets.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::Any;
use xds_api::envoy::config::core::v3::ControlPlane;
use xds_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use super::{Kind, Served, State};
use crate::protocol::{Request, Response, Variant};
use crate::resource::{TypeUrl, WILDCARD};

/// The order in which types are pushed: what is referred to goes first.
const ORDER: [TypeUrl; 4] =
    [TypeUrl::CLUSTER, TypeUrl::CLUSTER_LOAD_ASSIGNMENT, TypeUrl::LISTENER, TypeUrl::ROUTE_CONFIGURATION];

pub(super) struct Session {
    variant: Variant,
    /// The id of the node that asks, once it was told.
    node: String,
    types: BTreeMap<TypeUrl, Asked>,
}

/// What was asked for of one type.
#[derive(Default)]
struct Asked {
    names: BTreeSet<String>,
    wildcard: bool,
    /// A response is due although nothing has changed.
    owed: bool,
    /// How often everything was sent again.
    round: u64,
    /// The version last sent (state of the world).
    version: Option<String>,
    /// The nonce last sent.
    nonce: String,
    /// What the client has or was sent (delta), by version.
    sent: BTreeMap<String, String>,
}

impl Session {
    pub(super) fn new(variant: Variant) -> Self {
        Self { variant, node: String::new(), types: BTreeMap::new() }
    }

    pub(super) fn request(&mut self, state: &State, request: &Request) {
        let node = match request {
            Request::StateOfTheWorld(request) => request.node.as_ref(),
            Request::Delta(request) => request.node.as_ref(),
        };
        if let Some(node) = node {
            self.node.clone_from(&node.id);
        }
        match request {
            Request::StateOfTheWorld(request) => self.state_of_world(state, request),
            Request::Delta(request) => self.delta(request),
        }
    }

    fn state_of_world(&mut self, state: &State, request: &DiscoveryRequest) {
        let type_url = TypeUrl::new(&request.type_url);
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        let first = !self.types.contains_key(&type_url);
        let asked = self.types.entry(type_url.clone()).or_default();
        if !first && !request.response_nonce.is_empty() && request.response_nonce != asked.nonce {
            return;
        }
        asked.wildcard = names.contains(WILDCARD) || (names.is_empty() && (first || asked.names.is_empty()));
        if first {
            let current = state
                .kinds_of(&self.node)
                .get(&type_url)
                .is_some_and(|kind| kind.version == request.version_info);
            asked.owed = !(asked.wildcard && current);
            asked.version = Some(request.version_info.clone());
        } else {
            asked.owed |= !names.is_subset(&asked.names);
        }
        if !names.is_empty() || !asked.wildcard {
            asked.names = names;
        }
    }

    fn delta(&mut self, request: &DeltaDiscoveryRequest) {
        let type_url = TypeUrl::new(&request.type_url);
        let first = !self.types.contains_key(&type_url);
        let asked = self.types.entry(type_url).or_default();
        if first {
            asked.sent = request.initial_resource_versions.clone().into_iter().collect();
            asked.wildcard = request.resource_names_subscribe.is_empty();
            asked.owed = asked.wildcard && asked.sent.is_empty();
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                asked.wildcard = true;
                continue;
            }
            if !first {
                asked.sent.remove(name);
            }
            asked.names.insert(name.clone());
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                asked.wildcard = false;
            } else {
                asked.names.remove(name);
            }
        }
        let (names, wildcard) = (&asked.names, asked.wildcard);
        asked.sent.retain(|name, _| wildcard || names.contains(name));
    }

    /// What has to be sent now.
    pub(super) fn due(&mut self, state: &mut State) -> Vec<Response> {
        let others = self.types.keys().filter(|type_url| !ORDER.contains(type_url)).cloned();
        let order: Vec<TypeUrl> = ORDER.into_iter().chain(others).collect();
        let mut responses = Vec::new();
        for type_url in order {
            if state.held.contains(&type_url) {
                continue;
            }
            let State { kinds, nodes, complete, nonces, identifier, rounds, .. } = &mut *state;
            let kinds = nodes.get(&self.node).unwrap_or(kinds);
            let (Some(asked), Some(kind)) = (self.types.get_mut(&type_url), kinds.get(&type_url)) else {
                continue;
            };
            let incomplete = !asked.wildcard && kind.resources.keys().any(|name| !asked.names.contains(name));
            if complete.contains(&type_url) && incomplete {
                continue;
            }
            let round = rounds.get(&type_url).copied().unwrap_or_default();
            asked.owed |= std::mem::replace(&mut asked.round, round) != round && asked.version.is_some();
            let nonce = (*nonces + 1).to_string();
            let control_plane = Some(ControlPlane { identifier: identifier.clone() });
            let response = match self.variant {
                Variant::StateOfTheWorld => asked.full(&type_url, kind, &nonce).map(|mut response| {
                    response.control_plane = control_plane;
                    Response::StateOfTheWorld(Box::new(response))
                }),
                Variant::Delta => asked.changes(&type_url, kind, &nonce).map(|mut response| {
                    response.control_plane = control_plane;
                    Response::Delta(Box::new(response))
                }),
            };
            if let Some(response) = response {
                *nonces += 1;
                asked.nonce = nonce;
                asked.owed = false;
                responses.push(response);
            }
        }
        responses
    }
}

impl Asked {
    fn full(&mut self, type_url: &TypeUrl, kind: &Kind, nonce: &str) -> Option<DiscoveryResponse> {
        let unsubscribed = !self.wildcard && self.names.is_empty();
        if unsubscribed || !(self.owed || self.version.as_deref() != Some(&kind.version)) {
            return None;
        }
        self.version = Some(kind.version.clone());
        let wanted =
            kind.resources.values().filter(|served| self.wildcard || self.names.contains(&served.name));
        Some(DiscoveryResponse {
            version_info: kind.version.clone(),
            type_url: type_url.as_str().to_owned(),
            nonce: nonce.to_owned(),
            resources: wanted.map(bare_or_wrapped).collect(),
            ..DiscoveryResponse::default()
        })
    }

    fn changes(&mut self, type_url: &TypeUrl, kind: &Kind, nonce: &str) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, served) in &kind.resources {
            if (self.wildcard || self.names.contains(name)) && self.sent.get(name) != Some(&served.version) {
                self.sent.insert(name.clone(), served.version.clone());
                resources.push(wrapper(served));
            }
        }
        let removed_resources: Vec<String> = self
            .sent
            .extract_if(.., |name, _| !kind.resources.contains_key(name))
            .map(|(name, _)| name)
            .collect();
        if resources.is_empty() && removed_resources.is_empty() && !self.owed {
            return None;
        }
        Some(DeltaDiscoveryResponse {
            system_version_info: kind.version.clone(),
            type_url: type_url.as_str().to_owned(),
            nonce: nonce.to_owned(),
            resources,
            removed_resources,
            ..DeltaDiscoveryResponse::default()
        })
    }
}

fn wrapper(served: &Served) -> Resource {
    Resource {
        name: served.name.clone(),
        version: served.version.clone(),
        ttl: served.ttl.and_then(|ttl| prost_types::Duration::try_from(ttl).ok()),
        // Without a resource it is a heartbeat.
        resource: (!served.any.type_url.is_empty()).then(|| served.any.clone()),
        ..Resource::default()
    }
}

fn bare_or_wrapped(served: &Served) -> Any {
    if served.ttl.is_none() {
        return served.any.clone();
    }
    Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: wrapper(served).encode_to_vec(),
    }
}
