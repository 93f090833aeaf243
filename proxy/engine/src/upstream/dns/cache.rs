//! Names that are looked up because requests want to go there ([`proxy_core::dns_cache`]).
//!
//! Workers find what is known in a map without locks. Who wants a name that nobody asked for puts it there and tells the main thread, which asks,
//! asks again when the answer is old, and forgets hosts that nobody goes to (`task`). What is not known is bounded: by `max_hosts`, by
//! `max_pending_requests`, and by the length of a name.

mod pending;
mod registry;
mod settings;
mod task;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use proxy_core::address::Address;
use proxy_core::dns_cache::{DnsCache, DnsHost, Follower, HostKey, LookUp, Wanted};
use proxy_core::stats::Shared;
use proxy_core::stats::groups::DnsCacheStats;
use tokio::sync::mpsc::UnboundedSender;

use self::pending::Pending;
pub use self::registry::{Caches, look_up_names};
pub(crate) use self::settings::NO_STORE;
use self::settings::Settings;
use self::task::Asked;
use super::resolver::MISFORMATTED;
use super::schedule;
use crate::local::clock;
use crate::local::read_map::ReadMap;

/// Longest name that DNS has (RFC 1035, 2.3.4), and its dot.
const LONGEST: usize = 254;

/// One cache.
#[derive(Debug)]
pub(crate) struct Cache {
    me: Weak<Self>,
    settings: Settings,
    hosts: ReadMap<HostKey, Arc<DnsHost>>,
    pending: Arc<Pending>,
    stats: Shared<DnsCacheStats>,
    /// Tells the main thread of hosts of which nothing is known.
    wanted: UnboundedSender<Arc<DnsHost>>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
}

impl Cache {
    /// The host, put there if there is none; `None` if there are too many.
    fn host(&self, wanted: Wanted<'_>, now: Instant) -> Option<Arc<DnsHost>> {
        let mut hosts = self.hosts.write();
        if let Some(host) = self.hosts.get(&wanted) {
            return Some(host);
        }
        if hosts.len() >= self.settings.max_hosts {
            self.stats.host_overflow.inc();
            return None;
        }
        let host = Arc::new(DnsHost::new(wanted, now));
        hosts.insert(HostKey(host.clone()), host.clone());
        self.stats.host_added.inc();
        self.stats.num_hosts.set(hosts.len() as u64);
        // (Nobody listens any more when the process ends.)
        let _ = self.wanted.send(host.clone());
        Some(host)
    }

    /// Takes what came of asking for a host; when to ask again, if the host stays.
    fn settle(
        &self,
        host: &Arc<DnsHost>,
        asked: &Asked,
        failures: u32,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let stats = &self.stats;
        match asked {
            Asked::Answered(_) => stats.dns_query_success.inc(),
            Asked::TimedOut => {
                stats.dns_query_timeout.inc();
                stats.dns_query_failure.inc();
            }
            Asked::Failed(_) => stats.dns_query_failure.inc(),
        }
        let addresses = self.addresses(host, asked);
        let again = match asked {
            Asked::Answered(answer) if !addresses.is_empty() => {
                Some(answer.ttl.max(self.settings.min_refresh_rate))
            }
            Asked::Answered(_) => Some(self.settings.refresh_rate),
            Asked::Failed(_) | Asked::TimedOut if self.settings.forgets_failures => None,
            Asked::Failed(_) | Asked::TimedOut => Some(self.settings.failure_refresh.wait(failures, random)),
        };
        match host.answer() {
            // A host that has addresses keeps them until it gets others; servers give them in turns.
            Some(Ok(known)) if addresses.is_empty() || same(&addresses, &known) => {}
            _ if addresses.is_empty() => host.set(Err(asked.reason().into())),
            _ => {
                stats.host_address_changed.inc();
                self.each_follower(|follower| follower.resolved(host, &addresses));
                host.set(Ok(addresses.into()));
            }
        }
        host.wake();
        again.or_else(|| host.answer()?.is_ok().then_some(self.settings.refresh_rate))
    }

    /// The addresses of an answer that may be gone to.
    fn addresses(&self, host: &DnsHost, asked: &Asked) -> Vec<Address> {
        let Asked::Answered(schedule::Answer { addresses, .. }) = asked else { return Vec::new() };
        let mut may_go = addresses.clone();
        if let Some(refused) = &self.settings.refused {
            may_go.retain(|ip| !refused.contains(*ip));
            self.stats.dns_address_filter_out.add((addresses.len() - may_go.len()) as u64);
        }
        may_go.into_iter().map(|ip| SocketAddr::new(ip, host.wanted().port).into()).collect()
    }

    /// Forgets a host.
    fn forget(&self, host: &DnsHost) {
        let mut hosts = self.hosts.write();
        if hosts.remove(&host.wanted()).is_some() {
            self.stats.host_removed.inc();
            self.stats.num_hosts.set(hosts.len() as u64);
        }
        drop(hosts);
        if let Some(Ok(_)) = host.answer() {
            self.each_follower(|follower| follower.gone(host));
        }
    }

    fn each_follower(&self, tell: impl Fn(&dyn Follower)) {
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.upgrade().inspect(|follower| tell(&**follower)).is_some());
    }
}

impl DnsCache for Cache {
    fn look_up(&self, wanted: Wanted<'_>) -> LookUp {
        if self.pending.is_full() {
            self.stats.dns_rq_pending_overflow.inc();
            return LookUp::Busy;
        }
        if let Some(answer) = self.hosts.get(&wanted).and_then(|host| host.answer()) {
            return LookUp::Known(answer);
        }
        if wanted.name.len() > LONGEST {
            return LookUp::Known(Err(MISFORMATTED.into()));
        }
        let (Some(permit), Some(me)) = (Pending::take(&self.pending), self.me.upgrade()) else {
            self.stats.dns_rq_pending_overflow.inc();
            return LookUp::Busy;
        };
        let Some(host) = self.host(wanted, clock::now()) else { return LookUp::Full };
        LookUp::Wait(Box::pin(async move {
            let answer = host.answered().await;
            // (While somebody waits there is somebody who asks.)
            drop((permit, me));
            answer
        }))
    }

    fn follow(&self, follower: Weak<dyn Follower>) {
        if let Some(follower) = follower.upgrade() {
            for host in self.hosts.values() {
                if let Some(Ok(addresses)) = host.answer() {
                    follower.resolved(&host, &addresses);
                }
            }
        }
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(follower);
    }
}

/// Whether these are the same addresses, in whatever order.
fn same(some: &[Address], others: &[Address]) -> bool {
    some.len() == others.len() && some.iter().all(|address| others.contains(address))
}
