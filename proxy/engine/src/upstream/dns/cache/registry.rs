//! The caches of the process, by name.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hashbrown::HashMap;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::dns_cache::{DnsCache, DnsCaches, Wanted};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use xds_api::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

use super::pending::Pending;
use super::settings::Settings;
use super::task::{Job, run};
use super::{Cache, ReadMap};
use crate::local::clock;
use crate::upstream::dns::Resolvers;

/// The caches of the process. One is there as long as a filter or cluster uses it.
#[derive(Debug)]
pub struct Caches {
    known: Mutex<HashMap<String, (DnsCacheConfig, Weak<Cache>)>>,
    made: UnboundedSender<Job>,
    jobs: Mutex<Option<UnboundedReceiver<Job>>>,
}

impl Default for Caches {
    fn default() -> Self {
        let (made, jobs) = unbounded_channel();
        Self { known: Mutex::default(), made, jobs: Mutex::new(Some(jobs)) }
    }
}

impl Caches {
    pub(super) fn make(&self, config: &DnsCacheConfig, cx: &mut BuildCx<'_>) -> Result<Arc<Cache>, Rejected> {
        let settings = Settings::build(config, cx)?;
        let scope = cx.env.stats.scope(&format!("dns_cache.{}", config.name));
        let pending = Pending::new(settings.max_pending, scope.child("circuit_breakers").shared());
        let (wanted, receiver) = unbounded_channel();
        let cache = Arc::new_cyclic(|me| Cache {
            me: me.clone(),
            hosts: ReadMap::new(settings.max_hosts),
            settings,
            pending: Arc::new(pending),
            stats: scope.shared(),
            wanted,
            followers: Mutex::default(),
        });
        // (Nobody listens in a process that looks nothing up.)
        let _ = self.made.send(Job { cache: Arc::downgrade(&cache), wanted: receiver });
        for named in &config.preresolve_hostnames {
            let port = match &named.port_specifier {
                Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).unwrap_or(0),
                Some(PortSpecifier::NamedPort(_)) | None => 0,
            };
            if let Some(wanted) = Wanted::of(&named.address, port) {
                cache.host(wanted, clock::now());
            }
        }
        Ok(cache)
    }
}

impl Caches {
    /// What is to be done for each cache, for who asks first.
    pub(super) fn take_jobs(&self) -> Option<UnboundedReceiver<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl DnsCaches for Caches {
    fn cache(&self, config: &DnsCacheConfig, cx: &mut BuildCx<'_>) -> Result<Arc<dyn DnsCache>, Rejected> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, cache)| cache.strong_count() > 0);
        if let Some((settings, cache)) = known.get(&config.name)
            && let Some(cache) = cache.upgrade()
        {
            return match settings == config {
                true => Ok(cache),
                false => {
                    let name = &config.name;
                    Err(cx.reject(format!("config specified DNS cache '{name}' with different settings")))
                }
            };
        }
        let cache = self.make(config, cx)?;
        known.insert(config.name.clone(), (config.clone(), Arc::downgrade(&cache)));
        Ok(cache)
    }
}

/// Looks up the names of all caches, those to come too, by `resolvers`. For the main thread, in a local set.
pub async fn look_up_names(caches: Arc<Caches>, resolvers: Arc<Resolvers>) {
    let Some(mut jobs) = caches.take_jobs() else { return };
    while let Some(job) = jobs.recv().await {
        let Some(resolver) = job.resolver(&resolvers) else { continue };
        tokio::task::spawn_local(run(job, resolver));
    }
}
