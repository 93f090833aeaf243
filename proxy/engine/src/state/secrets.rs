//! Secrets that TLS contexts name: those of the bootstrap, and those that are delivered (SDS).
//!
//! There is one subscription for each name, source and use, shared by all contexts. A secret that comes is checked, then the contexts
//! of everyone who needs it are built anew, and only when all of them could be are they put in force: a secret that does not do
//! for one of them is rejected, and the last good one stays everywhere. Files that a secret names are read into it, again when one
//! is moved to where they are.
//!
//! Source: Envoy `docs/root/configuration/security/secret.rst`.

mod fixed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy_core::config::{BuildCx, ConfigError};
use proxy_core::hash::xxhash64;
use proxy_core::stats::Shared;
use proxy_core::stats::groups::{SdsStats, XdsStats};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::counting::Taker;
use super::decode::{Decoded, Fresh, decode_all, join, to_any};
use super::dump::{Named, Resource};
use super::endpoints::millis;
use super::interest::Interest;
use super::source::Only;
use super::store::{Phase, Store, within};
use super::{Delivered, Effect, Failure, Kind, Response, Source, SourceId};
use crate::tls::secret::{read_files, watched_directories, watched_directory};
use crate::tls::{Files, Need, Secret, SecretKind, Supplied};

/// Which secret of a source, and what for: as in Envoy one name may stand for a certificate in one place, for a validation context in
/// another, and is asked for once for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: SourceId,
    name: String,
    kind: SecretKind,
}

/// All that there are.
#[derive(Default)]
pub(super) struct Secrets {
    fixed: BTreeMap<(SecretKind, String), Fixed>,
    delivered: BTreeMap<Key, Delivery>,
}

/// One of the bootstrap. It is looked into when somebody needs it, as by Envoy.
struct Fixed {
    resource: Resource,
    proto: proto::Secret,
    secret: Option<Arc<Secret>>,
}

/// One that some context needs.
struct Delivery {
    timeout: Duration,
    /// Whether a cluster needs it, which is initialised before listeners are.
    by_cluster: bool,
    xds: Shared<XdsStats>,
    sds: Shared<SdsStats>,
    since: SystemTime,
    current: Option<Held>,
    /// What came first, and was rejected because files that it names cannot be read yet.
    awaited: Option<(Resource, proto::Secret)>,
    /// An answer came, or will not come.
    settled: bool,
    /// Under which number its files are watched.
    watch: Option<u64>,
}

struct Held {
    resource: Resource,
    proto: proto::Secret,
    /// With the files that it names in it.
    read: proto::Secret,
    secret: Arc<Secret>,
}

impl Delivery {
    /// Whether these very bytes are in force.
    fn holds(&self, delivered: &Delivered) -> bool {
        self.current.as_ref().is_some_and(|held| *held.resource.any == delivered.any)
    }
}

/// How a context refers to a secret.
#[derive(Clone, Debug)]
pub(super) struct SecretUse {
    kind: SecretKind,
    name: Arc<str>,
    /// None for one of the bootstrap.
    source: Option<SourceId>,
    timeout: Duration,
}

impl SecretUse {
    fn key(&self) -> Option<Key> {
        Some(Key { source: self.source?, name: self.name.to_string(), kind: self.kind })
    }

    fn is(&self, key: &Key) -> bool {
        self.source == Some(key.source) && *self.name == *key.name && self.kind == key.kind
    }
}

impl Secrets {
    /// Whether nobody who refers to these need wait longer.
    pub(super) fn are_settled<'u>(&self, uses: impl IntoIterator<Item = &'u SecretUse>) -> bool {
        self.unsettled(uses).next().is_none()
    }

    /// The names of those that are waited for.
    pub(super) fn unsettled<'u>(
        &self,
        uses: impl IntoIterator<Item = &'u SecretUse>,
    ) -> impl Iterator<Item = &'u str> {
        let waits = |key: &Key| self.delivered.get(key).is_none_or(|delivery| !delivery.settled);
        let uses = uses.into_iter().filter(move |used| used.key().is_some_and(|key| waits(&key)));
        uses.map(|used| &*used.name)
    }

    pub(super) fn find(&self, used: &SecretUse) -> Option<Arc<Secret>> {
        match used.key() {
            Some(key) => Some(self.delivered.get(&key)?.current.as_ref()?.secret.clone()),
            None => self.fixed.get(&(used.kind, used.name.to_string()))?.secret.clone(),
        }
    }

    /// Whether these very bytes are in force, wherever a secret of that name is needed.
    fn holds(&self, source: SourceId, delivered: &Delivered) -> bool {
        let mut needed = self.named(source, &delivered.name).peekable();
        needed.peek().is_some() && needed.all(|(_, delivery)| delivery.holds(delivered))
    }

    pub(super) fn interest(&self, phase: Phase, interest: &mut Interest) {
        for (key, delivery) in &self.delivered {
            if phase >= Phase::Listeners || (delivery.by_cluster && phase >= Phase::PrimaryClusters) {
                interest.want(key.source, Kind::Secret, &key.name, delivery.timeout);
            }
        }
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = SourceId> {
        self.delivered.keys().map(|key| key.source)
    }

    fn of_source(&self, source: SourceId) -> impl Iterator<Item = (&Key, &Delivery)> {
        self.delivered.iter().filter(move |(key, _)| key.source == source)
    }

    /// Those of one name, which are for different things.
    fn named<'s>(&'s self, source: SourceId, name: &'s str) -> impl Iterator<Item = (&'s Key, &'s Delivery)> {
        self.of_source(source).filter(move |(key, _)| key.name == name)
    }

    fn keys_of(&self, source: SourceId, name: &str) -> Vec<Key> {
        self.named(source, name).map(|(key, _)| key.clone()).collect()
    }

    /// Counts a failure for those of `source` whose names count.
    pub(super) fn count_failure(&self, source: SourceId, failure: Failure, counts: &dyn Fn(&str) -> bool) {
        for (_, delivery) in self.of_source(source).filter(|(key, _)| counts(&key.name)) {
            delivery.xds.update_attempt.inc();
            match failure {
                Failure::Rejected => delivery.xds.update_rejected.inc(),
                Failure::Unreadable | Failure::Disconnected => delivery.xds.update_failure.inc(),
            }
        }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&mut self, source: SourceId, name: &str) {
        let awaited = self.delivered.iter_mut();
        for (_, delivery) in awaited.filter(|(key, _)| key.source == source && key.name == name) {
            delivery.xds.update_attempt.inc();
            delivery.xds.init_fetch_timeout.inc();
            delivery.settled = true;
        }
    }

    pub(super) fn settle_all(&mut self, source: SourceId) {
        for (_, delivery) in self.delivered.iter_mut().filter(|(key, _)| key.source == source) {
            delivery.settled = true;
        }
    }

    /// Those of the bootstrap, those that came, and those that are waited for.
    pub(super) fn dump(&self) -> (Vec<Named>, Vec<Named>, Vec<Named>) {
        let named =
            |name: &str, resource| Named { name: name.to_owned(), resource: Some(resource), error: None };
        let fixed = self.fixed.iter().map(|((_, name), fixed)| named(name, fixed.resource.clone()));
        let (mut active, mut warming) = (Vec::new(), Vec::new());
        for (Key { name, .. }, delivery) in &self.delivered {
            let any = |secret: &proto::Secret| Arc::new(to_any(Kind::Secret.type_url(), secret));
            match &delivery.current {
                Some(held) => {
                    active.push(named(name, Resource { any: any(&held.read), ..held.resource.clone() }));
                }
                None => {
                    let version = "uninitialized".to_owned();
                    let any = any(&proto::Secret { name: name.clone(), ..proto::Secret::default() });
                    warming.push(named(name, Resource { any, version, updated: delivery.since }));
                }
            }
        }
        (fixed.collect(), active, warming)
    }
}

/// What came of asking for a name, as it is told to who needs it for something else.
struct Answer {
    /// Why that is no use; `None` if nothing came.
    mismatch: Option<String>,
}

/// The answer to who needs the same name for something else, if there was one. Over one stream a name is asked for once: nothing is
/// asked again, and no other answer is to be waited for.
fn answer_to_another(all: &BTreeMap<Key, Delivery>, key: &Key) -> Option<Answer> {
    let first = Key { kind: SecretKind::Certificate, ..key.clone() };
    let named =
        all.range(first..).take_while(|(other, _)| other.source == key.source && other.name == key.name);
    let mut answered = named.filter(|(_, delivery)| delivery.settled || delivery.current.is_some());
    let (other, delivery) = answered.next()?;
    let mismatch = delivery.current.as_ref().map(|_| other.kind.mismatch(&key.name, key.kind));
    Some(Answer { mismatch })
}

impl Store {
    /// Takes a secret of the bootstrap.
    pub(super) fn load_secret(&mut self, proto: proto::Secret) -> Result<(), Vec<ConfigError>> {
        let error = |reason| vec![ConfigError { path: String::new(), reason }];
        // (What is no use to anybody was refused already, but for one that is nothing.)
        let Some(kind) = SecretKind::of(&proto) else {
            return Err(error("Secret type not implemented".to_owned()));
        };
        if let Some(path) = watched_directory(&proto) {
            let reason = "only files of delivered secrets are watched".to_owned();
            return Err(vec![ConfigError { path: path.to_owned(), reason }]);
        }
        let name = proto.name.clone();
        let any = Arc::new(to_any(Kind::Secret.type_url(), &proto));
        let resource = Resource { any, version: String::new(), updated: self.now };
        let fixed = Fixed { resource, proto, secret: None };
        match self.secrets.fixed.insert((kind, name.clone()), fixed) {
            Some(_) => Err(error(format!("Duplicate static secret name {name}"))),
            None => Ok(()),
        }
    }

    /// Finds out where the secrets of a context come from, and builds it if those that it needs are there.
    pub(super) fn supply(&mut self, tls: &dyn Supplied) -> Result<Vec<SecretUse>, Vec<ConfigError>> {
        let mut uses = Vec::new();
        let mut errors = Vec::new();
        for need in tls.needs() {
            match self.secret_use(need) {
                Ok(used) => uses.push(used),
                Err(found) => errors.extend(within(&need.path, found)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let Some(first) = tls.needs().first() else { return Ok(uses) };
        let found: Vec<_> = uses.iter().map(|used| self.secrets.find(used)).collect();
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        match tls.prepare(&found, Files::Kept, &mut cx) {
            Ok(prepared) => prepared.install(),
            Err(_) => return Err(within(&first.path, cx.into_errors()).collect()),
        }
        Ok(uses)
    }

    fn secret_use(&mut self, need: &Need) -> Result<SecretUse, Vec<ConfigError>> {
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        let Need { kind, name, source, .. } = need;
        let subscription = match source {
            Some(source) => {
                let only = Only { name: name.clone(), kind: *kind };
                cx.at("sds_config", |cx| self.sources.build_of(source, Some(only), cx)).map(Some)
            }
            None => match self.secrets.fixed.get_mut(&(*kind, name.to_string())) {
                None => Err(cx.at("name", |cx| cx.reject(kind.unknown(name)))),
                Some(fixed) if fixed.secret.is_some() => Ok(None),
                Some(fixed) => Secret::build(&fixed.proto, &mut cx).map(|secret| {
                    fixed.secret = Some(Arc::new(secret));
                    None
                }),
            },
        };
        let Ok(subscription) = subscription else { return Err(cx.into_errors()) };
        Ok(SecretUse {
            kind: *kind,
            name: name.clone(),
            source: subscription.map(|subscription| subscription.source),
            timeout: subscription.map(|subscription| subscription.timeout).unwrap_or_default(),
        })
    }

    /// Works out anew which are referred to, and drops the others.
    pub(super) fn refresh_secrets(&mut self) {
        let mut before = std::mem::take(&mut self.secrets.delivered);
        let of_clusters = self.clusters.secret_uses().map(|used| (used, true));
        let of_listeners = self.listeners.secret_uses().map(|used| (used, false));
        for (used, by_cluster) in of_clusters.chain(of_listeners) {
            let Some(key) = used.key() else { continue };
            let is_known = before.contains_key(&key) || self.secrets.delivered.contains_key(&key);
            let all = [&before, &self.secrets.delivered];
            let answer = all.into_iter().filter(|_| !is_known).find_map(|all| answer_to_another(all, &key));
            let kept = before.remove(&key);
            let delivery = self.secrets.delivered.entry(key).or_insert_with_key(|key| match kept {
                Some(kept) => Delivery { by_cluster: false, ..kept },
                None => {
                    let scope = self.env.stats.scope(&format!("sds.{}", key.name));
                    let xds: Shared<XdsStats> = scope.shared();
                    if !matches!(self.sources.get(key.source), Some(Source::File { .. })) {
                        xds.update_attempt.inc();
                    }
                    if let Some(Answer { mismatch: Some(reason) }) = &answer {
                        tracing::warn!(
                            secret = key.name,
                            reason,
                            "a secret that was delivered is of no use here"
                        );
                        xds.update_rejected.inc();
                    }
                    Delivery {
                        timeout: used.timeout,
                        by_cluster,
                        xds,
                        sds: scope.shared(),
                        since: self.now,
                        current: None,
                        awaited: None,
                        settled: answer.is_some(),
                        watch: None,
                    }
                }
            });
            delivery.by_cluster |= by_cluster;
        }
        let watches = before.into_values().filter_map(|delivery| delivery.watch);
        self.effects.plane.extend(watches.map(Effect::StopWatching));
    }

    pub(super) fn apply_secrets(&mut self, response: &Response) -> Vec<(String, String)> {
        let source = response.source;
        let is_held = |delivered: &Delivered| self.secrets.holds(source, delivered);
        let decoded = match decode_all::<proto::Secret>(response, &self.env, is_held) {
            Ok(decoded) => decoded,
            Err(details) => {
                for delivered in &response.upserts {
                    for key in self.secrets.keys_of(source, &delivered.name) {
                        self.reject_secret(&key);
                    }
                }
                return vec![(String::new(), details)];
            }
        };
        let mut rejected = Vec::new();
        for decoded in decoded {
            let delivered = decoded.delivered;
            let read = self.read_secret(source, decoded);
            for key in self.secrets.keys_of(source, &delivered.name) {
                let put = match &read {
                    Ok(proto) => self.put_secret(&key, proto.as_ref(), delivered, &response.version),
                    Err(reason) => Err(reason.clone()),
                };
                if let Err(reason) = put {
                    self.reject_secret(&key);
                    rejected.push((key.name, reason));
                }
            }
        }
        for name in &response.removed {
            // The secret stays; who waited for it waits no longer.
            for key in self.secrets.keys_of(source, name) {
                if let Some(delivery) = self.secrets.delivered.get_mut(&key) {
                    delivery.settled = true;
                }
            }
        }
        rejected
    }

    /// What came; `None` if that is in force already.
    fn read_secret(
        &self,
        source: SourceId,
        decoded: Decoded<'_, proto::Secret>,
    ) -> Result<Option<proto::Secret>, String> {
        let delivered = decoded.delivered;
        if self.secrets.holds(source, delivered) {
            return Ok(None);
        }
        let Fresh { proto, refused } = decoded.read(&self.env)?;
        if !refused.is_empty() {
            return Err(join(&refused));
        }
        if proto.name != delivered.name {
            return Err(format!("Unexpected SDS secret (expecting {}): {}", delivered.name, proto.name));
        }
        Ok(Some(proto))
    }

    fn put_secret(
        &mut self,
        key: &Key,
        proto: Option<&proto::Secret>,
        delivered: &Delivered,
        version_info: &str,
    ) -> Result<(), String> {
        let is_held = self.secrets.delivered.get(key).is_some_and(|delivery| delivery.holds(delivered));
        if let Some(proto) = proto.filter(|_| !is_held) {
            if let Some(kind) = SecretKind::of(proto).filter(|kind| *kind != key.kind) {
                return Err(kind.mismatch(&key.name, key.kind));
            }
            let mut resource = self.resource(delivered);
            resource.version.clone_from(&delivered.version);
            let read = match read_files(proto) {
                Ok(read) => read,
                Err(reason) => {
                    self.await_files(key, resource, proto.clone());
                    return Err(reason);
                }
            };
            let secret = self.renew(key, &read)?;
            self.watch(key, proto);
            if let Some(delivery) = self.secrets.delivered.get_mut(key) {
                delivery.current = Some(Held { resource, proto: proto.clone(), read, secret });
                delivery.awaited = None;
            }
        }
        let now = self.now;
        let Some(delivery) = self.secrets.delivered.get_mut(key) else { return Ok(()) };
        delivery.settled = true;
        if let Some(held) = &mut delivery.current {
            held.resource.version.clone_from(&delivered.version);
            held.resource.updated = now;
        }
        delivery.xds.update_attempt.inc();
        delivery.xds.update_success.inc();
        delivery.xds.update_time.set(millis(now));
        delivery.xds.version.set(xxhash64(version_info.as_bytes()));
        delivery.xds.version_text.set(version_info);
        self.takers.push(Taker::Xds(delivery.xds.clone()));
        Ok(())
    }

    fn reject_secret(&mut self, key: &Key) {
        let Some(delivery) = self.secrets.delivered.get_mut(key) else { return };
        delivery.settled = true;
        delivery.xds.update_attempt.inc();
        delivery.xds.update_rejected.inc();
    }

    /// Builds a secret, and the contexts of all who need it: all are put in force, or none.
    fn renew(&self, key: &Key, proto: &proto::Secret) -> Result<Arc<Secret>, String> {
        let mut cx = BuildCx::new(&self.env);
        let Ok(secret) = Secret::build(proto, &mut cx).map(Arc::new) else {
            return Err(join(&cx.into_errors()));
        };
        let mut prepared = Vec::new();
        let contexts = self.clusters.contexts().chain(self.listeners.contexts());
        for (tls, uses) in contexts.filter(|(_, uses)| uses.iter().any(|used| used.is(key))) {
            let find = |used: &SecretUse| match used.is(key) {
                true => Some(secret.clone()),
                false => self.secrets.find(used),
            };
            let found: Vec<_> = uses.iter().map(find).collect();
            match tls.prepare(&found, Files::Kept, &mut cx) {
                Ok(context) => prepared.push(context),
                Err(_) => return Err(join(&cx.into_errors())),
            }
        }
        prepared.into_iter().for_each(|context| context.update());
        Ok(secret)
    }

    /// Has the files that a secret names watched, and those of the one before no longer.
    fn watch(&mut self, key: &Key, proto: &proto::Secret) {
        let directories = watched_directories(proto);
        let id = self.next_id();
        let Some(delivery) = self.secrets.delivered.get_mut(key) else { return };
        let watch = (!directories.is_empty()).then_some(id);
        let before = std::mem::replace(&mut delivery.watch, watch);
        self.effects.plane.extend(before.map(Effect::StopWatching));
        if let Some(id) = watch {
            self.effects.plane.push(Effect::WatchFiles { id, directories });
        }
    }

    /// The first that came of a secret names files that are not there yet: it counts once they are, unless another comes.
    fn await_files(&mut self, key: &Key, resource: Resource, proto: proto::Secret) {
        if self.secrets.delivered.get(key).is_none_or(|delivery| delivery.current.is_some()) {
            return;
        }
        self.watch(key, &proto);
        if let Some(delivery) = self.secrets.delivered.get_mut(key) {
            delivery.awaited = Some((resource, proto));
        }
    }

    /// The files that are watched under `id` may have changed.
    pub fn files_changed(&mut self, id: u64) -> Vec<Effect> {
        let mut delivered = self.secrets.delivered.iter();
        let found = delivered.find(|(_, delivery)| delivery.watch == Some(id));
        match found.map(|(key, delivery)| (key.clone(), delivery)) {
            Some((key, Delivery { current: Some(held), .. })) => {
                let read = read_files(&held.proto);
                if read.as_ref() != Ok(&held.read) {
                    let renewed = read.and_then(|read| Ok((self.renew(&key, &read)?, read)));
                    self.rotated(&key, renewed);
                }
            }
            Some((key, Delivery { awaited: Some((_, proto)), .. })) => {
                // (That they are not there was said when it came.)
                if let Ok(read) = read_files(proto) {
                    let renewed = self.renew(&key, &read).map(|secret| (secret, read));
                    self.arrived(&key, renewed);
                }
            }
            Some((_, Delivery { current: None, awaited: None, .. })) => {}
            None => self.context_file_changed(id),
        }
        self.finish()
    }

    /// The files of a secret that waited for them can be read.
    fn arrived(&mut self, key: &Key, renewed: Result<(Arc<Secret>, proto::Secret), String>) {
        let Some(delivery) = self.secrets.delivered.get_mut(key) else { return };
        match (renewed, delivery.awaited.take()) {
            (Ok((secret, read)), Some((resource, proto))) => {
                delivery.current = Some(Held { resource, proto, read, secret });
            }
            (renewed, awaited) => {
                delivery.awaited = awaited;
                if renewed.is_err() {
                    self.rotated(key, renewed);
                }
            }
        }
    }

    fn rotated(&mut self, key: &Key, renewed: Result<(Arc<Secret>, proto::Secret), String>) {
        let Some(delivery) = self.secrets.delivered.get_mut(key) else { return };
        match (renewed, &mut delivery.current) {
            (Ok((secret, read)), Some(held)) => (held.secret, held.read) = (secret, read),
            (Ok(_), None) => {}
            (Err(reason), _) => {
                tracing::warn!(secret = key.name, reason, "files of a secret were not taken");
                delivery.sds.key_rotation_failed.inc();
            }
        }
    }
}
