//! Route configurations that listeners refer to by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected, all_errors};
use proxy_core::hash::xxhash64;
use proxy_core::names::Name;
use proxy_core::stats::Shared;
use proxy_core::stats::groups::{ConfigReloadStats, RdsStats, XdsStats};
use xds_api::envoy::config::route::v3::RouteConfiguration;

use super::counting::Taker;
use super::decode::{Decoded, Fresh, decode_all, join};
use super::dump::{ErrorState, Resource};
use super::endpoints::millis;
use super::interest::Interest;
use super::store::Store;
use super::{Delivered, Failure, Kind, Response, SourceId};
use crate::router::RouteTable;

/// By name and source.
#[derive(Default)]
pub(super) struct RouteConfigs(pub(super) BTreeMap<(String, SourceId), RouteConfig>);

/// One that some listener refers to.
pub(super) struct RouteConfig {
    /// Where the workers look for it.
    places: Vec<Name>,
    timeout: Duration,
    /// `http.<stat_prefix>.rds.<name>` of everyone who refers to it, by prefix.
    stats: BTreeMap<String, Stats>,
    pub(super) current: Option<(Resource, Arc<RouteTable>)>,
    pub(super) error: Option<ErrorState>,
    /// An answer came, or will not come.
    settled: bool,
}

struct Stats {
    xds: Shared<XdsStats>,
    reload: Shared<ConfigReloadStats>,
    /// Only to show it: an update without the route configuration is none for it.
    _rds: Shared<RdsStats>,
}

/// How a listener refers to a route configuration.
#[derive(Clone, Debug)]
pub(super) struct RouteUse {
    pub(super) name: Arc<str>,
    pub(super) place: Name,
    pub(super) source: SourceId,
    pub(super) timeout: Duration,
    pub(super) stat_prefix: String,
}

impl RouteConfigs {
    pub(super) fn tables(&self) -> impl Iterator<Item = (&Name, &Arc<RouteTable>)> {
        let configs = self.0.values().filter_map(|config| Some((config, &config.current.as_ref()?.1)));
        configs.flat_map(|(config, table)| config.places.iter().map(move |place| (place, table)))
    }

    pub(super) fn interest(&self, interest: &mut Interest) {
        for ((name, source), config) in &self.0 {
            interest.want(*source, Kind::Routes, name, config.timeout);
        }
    }

    fn find(&self, source: SourceId, name: &str) -> Option<&RouteConfig> {
        self.0.get(&(name.to_owned(), source))
    }

    fn find_mut(&mut self, source: SourceId, name: &str) -> Option<&mut RouteConfig> {
        self.0.get_mut(&(name.to_owned(), source))
    }

    /// Whether whoever refers to it so need not wait longer.
    pub(super) fn is_settled(&self, used: &RouteUse) -> bool {
        self.find(used.source, &used.name).is_some_and(|config| config.settled)
    }

    /// Counts a failure for those of `source` whose names count.
    pub(super) fn count_failure(&self, source: SourceId, failure: Failure, counts: &dyn Fn(&str) -> bool) {
        let concerned = self.0.iter().filter(|((name, of), _)| *of == source && counts(name));
        for stats in concerned.flat_map(|(_, config)| config.stats.values()) {
            stats.xds.update_attempt.inc();
            match failure {
                Failure::Rejected => stats.xds.update_rejected.inc(),
                Failure::Unreadable | Failure::Disconnected => stats.xds.update_failure.inc(),
            }
        }
    }

    /// Counts an update that took the routes away, which is not obeyed.
    fn count_removal(&self, source: SourceId, name: &str) {
        for stats in self.find(source, name).iter().flat_map(|config| config.stats.values()) {
            stats.xds.update_attempt.inc();
            stats.xds.update_success.inc();
        }
    }

    /// Counts an initial fetch that timed out.
    pub(super) fn count_timeout(&self, source: SourceId, name: &str) {
        for stats in self.find(source, name).iter().flat_map(|config| config.stats.values()) {
            stats.xds.update_attempt.inc();
            stats.xds.init_fetch_timeout.inc();
        }
    }

    /// Whether these very bytes are in force.
    fn holds(&self, source: SourceId, delivered: &Delivered) -> bool {
        let current = self.find(source, &delivered.name).and_then(|config| config.current.as_ref());
        current.is_some_and(|(held, _)| *held.any == delivered.any)
    }
}

impl Store {
    /// Works out anew which are referred to, and drops the others.
    pub(super) fn refresh_routes(&mut self) {
        let mut before = std::mem::take(&mut self.routes.0);
        for used in self.listeners.route_uses() {
            let key = (used.name.to_string(), used.source);
            let kept = before.remove(&key);
            let config = self.routes.0.entry(key).or_insert_with(|| {
                kept.unwrap_or_else(|| RouteConfig {
                    places: Vec::new(),
                    timeout: used.timeout,
                    stats: BTreeMap::new(),
                    current: None,
                    error: None,
                    settled: false,
                })
            });
            // (One source can be written in two ways, so there may be several; they stay as long as the routes.)
            if !config.places.contains(&used.place) {
                config.places.push(used.place.clone());
                self.effects.publish |= config.current.is_some();
            }
            if !config.stats.contains_key(&used.stat_prefix) {
                let scope = self.env.stats.scope(&format!("http.{}.rds.{}", used.stat_prefix, used.name));
                let stats = Stats { xds: scope.shared(), reload: scope.shared(), _rds: scope.shared() };
                stats.xds.update_attempt.inc();
                config.stats.insert(used.stat_prefix.clone(), stats);
            }
        }
        if before.values().any(|config| config.current.is_some()) {
            self.effects.publish = true;
        }
    }

    pub(super) fn apply_routes(&mut self, response: &Response) -> Vec<(String, String)> {
        let source = response.source;
        let is_held = |delivered: &Delivered| self.routes.holds(source, delivered);
        let decoded = match decode_all::<RouteConfiguration>(response, &self.env, is_held) {
            Ok(decoded) => decoded,
            Err(details) => {
                for delivered in &response.upserts {
                    self.reject_routes(source, delivered, &details);
                }
                return vec![(String::new(), details)];
            }
        };
        let mut rejected = Vec::new();
        for decoded in decoded {
            let delivered = decoded.delivered;
            if let Err(reason) = self.put_routes(source, decoded, &response.version) {
                self.reject_routes(source, delivered, &reason);
                rejected.push((delivered.name.clone(), reason));
            }
        }
        for name in &response.removed {
            // The routes stay; who waited for them waits no longer.
            self.routes.count_removal(source, name);
            self.settle_routes(source, name);
        }
        rejected
    }

    fn put_routes(
        &mut self,
        source: SourceId,
        decoded: Decoded<'_, RouteConfiguration>,
        version_info: &str,
    ) -> Result<(), String> {
        let delivered = decoded.delivered;
        let same = self.routes.holds(source, delivered);
        let resource = (!same).then(|| self.resource(delivered));
        let Some(config) = self.routes.find_mut(source, &delivered.name) else { return Ok(()) };
        if let Some(resource) = resource {
            let Fresh { proto, refused } = decoded.read(&self.env)?;
            let mut cx = BuildCx::new(&self.env);
            let table = match RouteTable::build(&proto, &mut cx) {
                Ok(table) if refused.is_empty() => table,
                Ok(_) | Err(Rejected) => return Err(join(&all_errors(refused, cx.into_errors()))),
            };
            if table.validate_clusters() == Some(true)
                && let Some(unknown) = table.clusters().find(|name| !self.clusters.has(name.as_str()))
            {
                return Err(unknown_cluster(unknown.as_str()));
            }
            config.current = Some((resource, table));
            self.effects.publish = true;
        }
        config.settled = true;
        config.error = None;
        let now = millis(self.now);
        for stats in config.stats.values() {
            stats.xds.update_attempt.inc();
            stats.xds.update_success.inc();
            stats.xds.update_time.set(now);
            stats.xds.version.set(xxhash64(version_info.as_bytes()));
            stats.xds.version_text.set(version_info);
            self.takers.push(Taker::Xds(stats.xds.clone()));
            if !same {
                stats.reload.config_reload.inc();
                stats.reload.config_reload_time_ms.set(now);
            }
        }
        Ok(())
    }

    fn reject_routes(&mut self, source: SourceId, delivered: &Delivered, details: &str) {
        let resource = self.resource(delivered);
        let Some(config) = self.routes.find_mut(source, &delivered.name) else { return };
        config.error = Some(ErrorState { resource, details: details.to_owned() });
        config.settled = true;
        for stats in config.stats.values() {
            stats.xds.update_attempt.inc();
            stats.xds.update_rejected.inc();
        }
    }

    pub(super) fn settle_routes(&mut self, source: SourceId, name: &str) {
        if let Some(config) = self.routes.find_mut(source, name) {
            config.settled = true;
        }
    }

    pub(super) fn settle_all_routes(&mut self, source: SourceId) {
        for (_, config) in self.routes.0.iter_mut().filter(|((_, of), _)| *of == source) {
            config.settled = true;
        }
    }
}

/// What Envoy says about a route to a cluster that is not there.
pub(super) fn unknown_cluster(name: &str) -> String {
    format!("route: unknown cluster '{name}'")
}
