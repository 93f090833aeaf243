//! Asks for the names of a cache, again and again, and forgets hosts that nobody goes to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proxy_core::dns_cache::DnsHost;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::{Cache, LONGEST};
use crate::upstream::dns::config::LookupFamily;
use crate::upstream::dns::resolver::MISFORMATTED;
use crate::upstream::dns::schedule::{Answer, ResolveError};
use crate::upstream::dns::{Resolver, Resolvers};

/// What is to be done for a cache, as long as it is there.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) cache: Weak<Cache>,
    /// Hosts of which nothing is known.
    pub(super) wanted: UnboundedReceiver<Arc<DnsHost>>,
}

impl Job {
    /// Who is asked; `None` if the cache is gone.
    pub(super) fn resolver(&self, resolvers: &Resolvers) -> Option<Arc<dyn Resolver>> {
        self.cache.upgrade().map(|cache| resolvers.or_default(cache.settings.resolver.as_ref()))
    }
}

/// What came of a query.
pub(super) enum Asked {
    Answered(Answer),
    Failed(ResolveError),
    /// There was no answer in time.
    TimedOut,
}

impl Asked {
    /// Why there are no addresses, in Envoy's words.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Answered(answer) if !answer.addresses.is_empty() => "address_denied",
            Self::Answered(answer) if answer.is_absent => "cares_norecords:Domain_name_not_found",
            Self::Answered(_) => "cares_norecords:DNS_server_returned_answer_with_no_data",
            Self::Failed(error) => error.details,
            Self::TimedOut => "resolve_timeout",
        }
    }
}

/// A host and its failures in a row.
struct Tracked {
    host: Arc<DnsHost>,
    failures: u32,
}

/// Asks for the names of a cache until that is gone. Cancel-safe.
pub(super) async fn run(job: Job, resolver: Arc<dyn Resolver>) {
    let Job { cache, mut wanted } = job;
    let mut random = fastrand::Rng::new();
    let mut asked = FuturesUnordered::new();
    // By time, and by a number where that is the same.
    let mut due: BTreeMap<(Instant, u64), Tracked> = BTreeMap::new();
    let mut number = 0;
    let ask = |cache: &Cache, tracked: Tracked| {
        cache.stats.dns_query_attempt.inc();
        let (name, settings) = (tracked.host.wanted().name.into(), &cache.settings);
        let query = query(resolver.clone(), name, settings.family, settings.timeout);
        async move { (tracked, query.await) }
    };
    loop {
        let next = due.first_key_value().map(|((at, _), _)| *at);
        tokio::select! {
            host = wanted.recv() => {
                let (Some(host), Some(cache)) = (host, cache.upgrade()) else { return };
                asked.push(ask(&cache, Tracked { host, failures: 0 }));
            }
            Some((tracked, answer)) = asked.next() => {
                let Some(cache) = cache.upgrade() else { return };
                let Tracked { host, mut failures } = tracked;
                let has_failed = !matches!(answer, Asked::Answered(_));
                let again = cache.settle(&host, &answer, failures, &mut random);
                failures = if has_failed { failures.saturating_add(1) } else { 0 };
                match again {
                    Some(again) => {
                        number += 1;
                        due.insert((Instant::now() + again, number), Tracked { host, failures });
                    }
                    None => cache.forget(&host),
                }
            }
            () = sleep_until(next) => {
                let (Some((_, tracked)), Some(cache)) = (due.pop_first(), cache.upgrade()) else { return };
                if tracked.host.unused_for(Instant::now().into_std()) > cache.settings.host_ttl {
                    cache.forget(&tracked.host);
                } else {
                    asked.push(ask(&cache, tracked));
                }
            }
        }
    }
}

/// Asks for one name; an address is its own answer.
async fn query(
    resolver: Arc<dyn Resolver>,
    name: Arc<str>,
    family: LookupFamily,
    timeout: Option<Duration>,
) -> Asked {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return match family.takes(ip) {
            true => Asked::Answered(Answer { addresses: vec![ip], ..Answer::default() }),
            false => misformatted(&name),
        };
    }
    if !is_host_name(&name) {
        return misformatted(&name);
    }
    let resolving = resolver.resolve(name, family);
    let answer = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, resolving).await,
        None => Ok(resolving.await),
    };
    match answer {
        Ok(Ok(answer)) => Asked::Answered(answer),
        Ok(Err(error)) => Asked::Failed(error),
        Err(_) => Asked::TimedOut,
    }
}

/// Whether a name can be that of a host (c-ares `ares_is_hostname`): what else requests name is never asked for.
fn is_host_name(name: &str) -> bool {
    name.len() <= LONGEST && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/*".contains(&byte))
}

fn misformatted(name: &str) -> Asked {
    Asked::Failed(ResolveError { text: format!("'{name}' is no name"), details: MISFORMATTED })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
