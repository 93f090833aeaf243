//! Listeners: static ones, those that were delivered, their sockets, warming and draining.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_core::config::{BuildCx, BuildEnv, ConfigError, Rejected, all_errors};
use proxy_core::hash::xxhash64;
use proxy_core::stats::Shared;
use proxy_core::stats::groups::ListenerManagerStats;
use xds_api::any::unpack;
use xds_api::envoy::config::core::v3::TrafficDirection;
use xds_api::envoy::config::listener::v3 as proto;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;

use super::decode::{Decoded, Fresh, decode_all, join, to_any};
use super::dump::{ErrorState, Forms, Named, Resource};
use super::routes::{RouteConfigs, RouteUse, unknown_cluster};
use super::secrets::{SecretUse, Secrets};
use super::store::Store;
use super::{Delivered, Effect, Kind, Response, Sockets};
use crate::http::config::RouteSource;
use crate::listener::accept::ListenerTag;
use crate::listener::config::{FilterChain, Listener, Terminal};
use crate::tls::Supplied;

/// One form of a listener.
struct Version {
    /// Names its sockets; forms that differ in chains only have the same.
    tag: ListenerTag,
    resource: Resource,
    proto: Box<proto::Listener>,
    listener: Arc<Listener>,
    routes: Vec<RouteUse>,
    /// The secrets of each chain's TLS context.
    secrets: Vec<Vec<SecretUse>>,
}

/// All forms of a listener.
#[derive(Default)]
struct Entry {
    is_static: bool,
    active: Option<Version>,
    warming: Option<Version>,
    error: Option<ErrorState>,
}

impl Entry {
    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.active.iter().chain(&self.warming)
    }
}

/// A form that serves what it accepted before it was replaced or removed.
struct Draining {
    id: u64,
    /// Whether all of it drains, and not only some chains.
    whole: bool,
    /// How many of its chains drain.
    chains: usize,
    version: Version,
}

pub(super) struct Listeners {
    entries: BTreeMap<String, Entry>,
    draining: Vec<Draining>,
    stopped: Option<Stopped>,
    stats: Shared<ListenerManagerStats>,
}

/// Which listeners were stopped, those to come included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Those for inbound traffic.
    Inbound,
    /// All.
    All,
}

impl Stopped {
    fn includes(self, direction: TrafficDirection) -> bool {
        self == Self::All || direction == TrafficDirection::Inbound
    }
}

impl Listeners {
    pub(super) fn new(env: &BuildEnv) -> Self {
        let stats = env.stats.scope("listener_manager").shared();
        Self { entries: BTreeMap::new(), draining: Vec::new(), stopped: None, stats }
    }

    pub(super) fn route_uses(&self) -> impl Iterator<Item = &RouteUse> {
        let draining = self.draining.iter().map(|draining| &draining.version);
        let versions = self.entries.values().flat_map(Entry::versions).chain(draining);
        versions.flat_map(|version| &version.routes)
    }

    pub(super) fn secret_uses(&self) -> impl Iterator<Item = &SecretUse> {
        self.entries.values().flat_map(Entry::versions).flat_map(|version| version.secrets.iter().flatten())
    }

    /// The TLS contexts that need secrets, in all forms that may still accept.
    pub(super) fn contexts(&self) -> impl Iterator<Item = (&dyn Supplied, &[SecretUse])> {
        let versions = self.entries.values().flat_map(Entry::versions);
        let chains = versions.flat_map(|version| version.listener.chains.iter().zip(&version.secrets));
        chains.filter_map(|(chain, uses)| Some((chain.tls.as_deref()? as &dyn Supplied, uses.as_slice())))
    }

    pub(super) fn active(&self) -> impl Iterator<Item = (&str, ListenerTag, &Arc<Listener>)> {
        self.entries.iter().filter_map(|(name, entry)| {
            let active = entry.active.as_ref()?;
            Some((name.as_str(), active.tag, &active.listener))
        })
    }

    /// Whether these very bytes were delivered before and taken.
    fn holds(&self, delivered: &Delivered) -> bool {
        let entry = self.entries.get(&delivered.name).filter(|entry| !entry.is_static);
        entry.is_some_and(|entry| entry.versions().any(|version| *version.resource.any == delivered.any))
    }

    pub(super) fn drained(&mut self, id: u64) {
        self.draining.retain(|draining| draining.id != id);
    }

    pub(super) fn count(&self) {
        let active = self.entries.values().filter(|entry| entry.active.is_some()).count();
        let warming = self.entries.values().filter(|entry| entry.warming.is_some()).count();
        let (whole, parts): (Vec<&Draining>, Vec<&Draining>) =
            self.draining.iter().partition(|draining| draining.whole);
        let chains: usize = parts.iter().map(|draining| draining.chains).sum();
        self.stats.total_listeners_active.set(active as u64);
        self.stats.total_listeners_warming.set(warming as u64);
        self.stats.total_listeners_draining.set(whole.len() as u64);
        self.stats.total_filter_chains_draining.set(chains as u64);
    }

    /// The workers have begun to accept.
    pub(super) fn count_start(&self) {
        self.stats.workers_started.set(1);
    }

    pub(super) fn dump(&self) -> Vec<Forms> {
        let resource = |version: &Option<Version>| version.as_ref().map(|version| version.resource.clone());
        let draining = |name: &str| {
            let of_name = self.draining.iter().filter(move |one| one.whole && one.version.proto.name == name);
            of_name.map(|one| one.version.resource.clone()).collect()
        };
        let mut forms: Vec<Forms> = self
            .entries
            .iter()
            .map(|(name, entry)| Forms {
                name: name.clone(),
                is_static: entry.is_static,
                active: resource(&entry.active),
                warming: resource(&entry.warming),
                draining: draining(name),
                error: entry.error.clone(),
            })
            .collect();
        for one in &self.draining {
            let name = &one.version.proto.name;
            if one.whole && !forms.iter().any(|forms| forms.name == *name) {
                forms.push(Forms {
                    name: name.clone(),
                    is_static: false,
                    active: None,
                    warming: None,
                    draining: draining(name),
                    error: None,
                });
            }
        }
        forms
    }

    /// The route configurations that are part of listeners, as they were given.
    pub(super) fn inline_routes(&self) -> Vec<Named> {
        let mut routes = Vec::new();
        for version in self.entries.values().flat_map(Entry::versions) {
            let chains = version.proto.filter_chains.iter().chain(&version.proto.default_filter_chain);
            for filter in chains.flat_map(|chain| &chain.filters) {
                let Some(proto::filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
                let Ok(manager) = unpack::<HttpConnectionManager>(any) else { continue };
                let Some(RouteSpecifier::RouteConfig(config)) = &manager.route_specifier else { continue };
                let resource = Resource {
                    any: Arc::new(to_any(Kind::Routes.type_url(), config)),
                    version: String::new(),
                    updated: version.resource.updated,
                };
                routes.push(Named { name: config.name.clone(), resource: Some(resource), error: None });
            }
        }
        routes
    }

    /// The name of a listener other than `name` that binds one of the addresses of `listener`, and the address.
    fn conflict(&self, name: &str, listener: &Listener) -> Option<String> {
        let others = self.entries.iter().filter(|(other, _)| *other != name);
        let mut others = others.flat_map(|(_, entry)| entry.versions());
        let bound = |other: &Version| {
            let taken = other.listener.addresses.iter().filter(|_| other.listener.bind_to_port);
            let mut fixed = taken.map(|(address, _)| address).filter(|address| address.port() != Some(0));
            let own = &listener.addresses;
            fixed.find(|address| own.iter().any(|(own, _)| own == *address)).map(ToString::to_string)
        };
        if listener.bind_to_port { others.find_map(bound) } else { None }
    }
}

impl Store {
    pub(super) fn load_listener(&mut self, proto: &proto::Listener) -> Result<(), Vec<ConfigError>> {
        let error = |reason: String| vec![ConfigError { path: String::new(), reason }];
        let mut proto = proto.clone();
        let any = to_any(Kind::Listener.type_url(), &proto);
        if proto.name.is_empty() {
            // Envoy makes up a UUID.
            proto.name = format!("{:032x}", fastrand::u128(..));
        }
        if self.listeners.entries.contains_key(&proto.name) {
            return Err(error(format!("duplicate listener {} found", proto.name)));
        }
        let delivered = Delivered { name: proto.name.clone(), version: String::new(), any };
        let version = self.build_listener(&proto, &delivered)?;
        if let Some(address) = self.listeners.conflict(&proto.name, &version.listener) {
            return Err(error(duplicate_address(&proto.name, &address)));
        }
        let entry = Entry { is_static: true, warming: Some(version), ..Entry::default() };
        self.listeners.entries.insert(proto.name, entry);
        self.listeners.stats.listener_added.inc();
        Ok(())
    }

    pub(super) fn bind_static(&mut self, sockets: &mut dyn Sockets) -> Result<(), String> {
        for version in self.listeners.entries.values().filter_map(|entry| entry.warming.as_ref()) {
            if let Err(reason) = sockets.open(version.tag, &version.listener) {
                self.listeners.stats.listener_create_failure.inc();
                return Err(format!("error adding listener '{}': {reason}", version.proto.name));
            }
        }
        Ok(())
    }

    pub(super) fn apply_listeners(
        &mut self,
        response: &Response,
        sockets: &mut dyn Sockets,
    ) -> Vec<(String, String)> {
        let is_held = |delivered: &Delivered| self.listeners.holds(delivered);
        let decoded = match decode_all::<proto::Listener>(response, &self.env, is_held) {
            Ok(decoded) => decoded,
            Err(details) => return vec![(String::new(), details)],
        };
        for name in &response.removed {
            self.remove_listener(name);
        }
        let mut rejected = Vec::new();
        for decoded in decoded {
            let delivered = decoded.delivered;
            if let Err(reason) = self.put_listener(decoded, sockets) {
                let resource = self.resource(delivered);
                let entry = self.listeners.entries.entry(delivered.name.clone()).or_default();
                entry.error = Some(ErrorState { resource, details: reason.clone() });
                rejected.push((delivered.name.clone(), reason));
            }
        }
        rejected
    }

    fn put_listener(
        &mut self,
        decoded: Decoded<'_, proto::Listener>,
        sockets: &mut dyn Sockets,
    ) -> Result<(), String> {
        let delivered = decoded.delivered;
        if let Some(entry) = self.listeners.entries.get_mut(&delivered.name) {
            // What the bootstrap says is not changed by a control plane.
            if entry.is_static {
                return Ok(());
            }
            let same = |version: &Version| version.resource.any.value == delivered.any.value;
            let is_active = entry.active.as_ref().is_some_and(same);
            if is_active || entry.warming.as_ref().is_some_and(same) {
                entry.error = None;
                if is_active {
                    self.drop_warming(&delivered.name);
                }
                return Ok(());
            }
        }
        let Fresh { proto, refused } = decoded.read(&self.env)?;
        if self.listeners.stopped.is_some_and(|stopped| stopped.includes(proto.traffic_direction())) {
            // Envoy passes it over, and does not tell.
            tracing::debug!(listener = %delivered.name, "listeners of this traffic are stopped");
            return Ok(());
        }
        let mut version = match self.build_listener(&proto, delivered) {
            Ok(version) if refused.is_empty() => version,
            built => return Err(join(&all_errors(refused, built.err().unwrap_or_default()))),
        };
        if let Some(address) = self.listeners.conflict(&delivered.name, &version.listener) {
            return Err(duplicate_address(&delivered.name, &address));
        }
        if let Err(reason) = self.bind(&delivered.name, &mut version, sockets) {
            self.listeners.stats.listener_create_failure.inc();
            return Err(reason);
        }
        self.drop_warming(&delivered.name);
        let entry = self.listeners.entries.entry(delivered.name.clone()).or_default();
        entry.error = None;
        let stats = &self.listeners.stats;
        if entry.active.is_some() {
            stats.listener_modified.inc()
        } else {
            stats.listener_added.inc()
        }
        entry.warming = Some(version);
        self.applied = true;
        self.graph_changed = true;
        Ok(())
    }

    /// Gives a new form its sockets: those of the form in force, or of the one that warms, if they are as it wants them.
    fn bind(&mut self, name: &str, version: &mut Version, sockets: &mut dyn Sockets) -> Result<(), String> {
        let entry = self.listeners.entries.get(name);
        if let Some(active) = entry.and_then(|entry| entry.active.as_ref())
            && Listener::differs_in_chains_only(&active.proto, &version.proto)
        {
            version.tag = active.tag;
            return Ok(());
        }
        let mut known = entry.into_iter().flat_map(Entry::versions);
        match known.find(|known| known.listener.binds_like(&version.listener)) {
            Some(known) => sockets.share(known.tag, version.tag, &version.listener),
            None => sockets.open(version.tag, &version.listener),
        }
    }

    fn build_listener(
        &mut self,
        proto: &proto::Listener,
        delivered: &Delivered,
    ) -> Result<Version, Vec<ConfigError>> {
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        let Ok(listener) = Listener::build(proto, &mut cx) else { return Err(cx.into_errors()) };
        let Ok(routes) = self.listener_routes(&listener, &mut cx) else { return Err(cx.into_errors()) };
        let mut secrets = Vec::new();
        for chain in &listener.chains {
            secrets.push(match &chain.tls {
                Some(tls) => self.supply(&**tls)?,
                None => Vec::new(),
            });
        }
        Ok(Version {
            secrets,
            tag: self.next_id(),
            resource: self.resource(delivered),
            proto: Box::new(proto.clone()),
            listener,
            routes,
        })
    }

    /// The route configurations that the listener refers to; checks those that are part of it.
    fn listener_routes(
        &mut self,
        listener: &Listener,
        cx: &mut BuildCx<'_>,
    ) -> Result<Vec<RouteUse>, Rejected> {
        let mut routes: Vec<RouteUse> = Vec::new();
        for chain in &listener.chains {
            let Terminal::Http(http) = &chain.terminal else { continue };
            if let Some((cluster, unknown)) = http.manager.required_cluster()
                && !self.clusters.has(cluster)
            {
                return Err(cx.reject(unknown));
            }
            match &http.manager.routes {
                RouteSource::Inline(table) => {
                    let mut clusters = table.clusters();
                    if table.validate_clusters() != Some(false)
                        && let Some(unknown) = clusters.find(|name| !self.clusters.has(name.as_str()))
                    {
                        return Err(cx.reject(unknown_cluster(unknown.as_str())));
                    }
                }
                RouteSource::Rds { name, place, source } => {
                    let subscription =
                        cx.at("rds", |cx| cx.at("config_source", |cx| self.sources.build(source, cx)))?;
                    routes.push(RouteUse {
                        name: name.clone(),
                        place: place.clone(),
                        source: subscription.source,
                        timeout: subscription.timeout,
                        stat_prefix: http.manager.stat_prefix.clone(),
                    });
                }
            }
        }
        Ok(routes)
    }

    /// What the initialisation of the process waits for: listeners that warm.
    pub(super) fn unready_listeners(&self) -> Vec<String> {
        let warming =
            self.listeners.entries.iter().filter_map(|(name, entry)| Some((name, entry.warming.as_ref()?)));
        let unready = warming.filter(|(_, version)| !is_warm(version, &self.routes, &self.secrets));
        unready.map(|(name, _)| format!("target Listener-init-target {name}")).collect()
    }

    /// What each listener that warms waits for, under Envoy's name of what waits.
    pub(super) fn unready_targets(&self) -> Vec<(String, Vec<String>)> {
        let mut unready = Vec::new();
        for (name, entry) in &self.listeners.entries {
            let Some(version) = &entry.warming else { continue };
            let awaited = version.routes.iter().filter(|used| !self.routes.is_settled(used));
            let target =
                |used: &RouteUse| format!("shared target RdsRouteConfigSubscription RDS init {}", used.name);
            let awaited_secrets = self.secrets.unsettled(version.secrets.iter().flatten());
            let secrets = awaited_secrets.map(|name| format!("shared target SdsApi {name}"));
            let targets: Vec<String> = awaited.map(target).chain(secrets).collect();
            if !targets.is_empty() {
                let hash = xxhash64(&version.resource.any.value);
                unready.push((format!("init manager Listener-local-init-manager {name} {hash}"), targets));
            }
        }
        unready
    }

    pub(super) fn listeners_warm(&self) -> bool {
        let mut warming = self.listeners.entries.values().filter_map(|entry| entry.warming.as_ref());
        warming.all(|version| is_warm(version, &self.routes, &self.secrets))
    }

    /// Puts every form that is warm in force.
    pub(super) fn activate_listeners(&mut self) {
        let mut replaced = Vec::new();
        let plane = &mut self.effects.plane;
        for entry in self.listeners.entries.values_mut() {
            let Some(version) =
                entry.warming.take_if(|version| is_warm(version, &self.routes, &self.secrets))
            else {
                continue;
            };
            let (tag, listener) = (version.tag, version.listener.clone());
            let old = entry.active.replace(version);
            match &old {
                Some(old) if old.tag == tag => {
                    plane.push(Effect::UpdateChains { tag, listener });
                    self.listeners.stats.listener_in_place_updated.inc();
                }
                Some(_) | None => {
                    plane.push(Effect::AddListener { tag, listener });
                }
            }
            self.listeners.stats.listener_create_success.add(self.env.concurrency as u64);
            if let Some(old) = old {
                let new = entry.active.as_ref().filter(|new| new.tag == old.tag);
                let stays = |chain: &FilterChain| {
                    let mut chains = new.iter().flat_map(|new| &new.listener.chains);
                    chains.any(|other| other.fingerprint == chain.fingerprint)
                };
                let gone = old.listener.chains.iter().filter(|chain| !stays(chain)).count();
                replaced.push((old, new.is_none(), gone));
            }
        }
        for (version, whole, gone) in replaced {
            if whole || gone > 0 {
                self.drain(version, whole, gone);
            } else {
                // (Every chain of it goes on in the form that took its place.)
                self.graph_changed = true;
            }
        }
    }

    fn drain(&mut self, version: Version, whole: bool, chains: usize) {
        let id = self.next_id();
        if whole {
            self.effects.plane.push(Effect::RemoveListener { tag: version.tag });
        }
        self.effects.plane.push(Effect::StartDrain { id });
        self.listeners.draining.push(Draining { id, whole, chains, version });
        self.graph_changed = true;
    }

    fn remove_listener(&mut self, name: &str) {
        if self.listeners.entries.get(name).is_none_or(|entry| entry.is_static) {
            return;
        }
        let listened =
            self.listeners.entries.get(name).is_some_and(|entry| entry.versions().next().is_some());
        self.drop_warming(name);
        let Some(entry) = self.listeners.entries.remove(name) else { return };
        if let Some(active) = entry.active {
            let chains = active.listener.chains.len();
            self.drain(active, true, chains);
        }
        if listened {
            self.applied = true;
            self.listeners.stats.listener_removed.inc();
        }
        self.graph_changed = true;
    }

    /// Stops listeners: the active ones that are included, whose forms that warm are dropped. From now on none of that
    /// traffic is added or changed.
    pub(super) fn stop_active(&mut self, stopped: Stopped) -> Vec<ListenerTag> {
        self.listeners.stopped = Some(stopped);
        let active = self.listeners.active();
        let included = active.filter(|(_, _, listener)| stopped.includes(listener.direction));
        let (names, tags): (Vec<String>, Vec<ListenerTag>) =
            included.map(|(name, tag, _)| (name.to_owned(), tag)).unzip();
        for name in names {
            self.drop_warming(&name);
        }
        tags
    }

    /// Drops the form that warms: it never accepted anything.
    fn drop_warming(&mut self, name: &str) {
        let Some(entry) = self.listeners.entries.get_mut(name) else { return };
        let Some(dropped) = entry.warming.take() else { return };
        if entry.active.as_ref().is_none_or(|active| active.tag != dropped.tag) {
            self.effects.plane.push(Effect::RemoveListener { tag: dropped.tag });
        }
        self.graph_changed = true;
    }
}

fn is_warm(version: &Version, routes: &RouteConfigs, secrets: &Secrets) -> bool {
    version.routes.iter().all(|used| routes.is_settled(used))
        && secrets.are_settled(version.secrets.iter().flatten())
}

fn duplicate_address(name: &str, address: &str) -> String {
    format!("error adding listener: '{name}' has duplicate address '{address}' as existing listener")
}
