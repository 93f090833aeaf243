//! Asking for the addresses of a name: by DNS, or by the C library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig as HickoryConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use proxy_core::stats::groups::CaresStats;
use proxy_core::stats::{Registry, Shared};
use tokio::sync::Semaphore;

use super::config::{DnsConfig, LookupFamily, ResolverConfig, ResolverKind};
use super::schedule::{Answer, ResolveError};

/// Finds the addresses of names.
pub trait Resolver: Send + Sync {
    /// The addresses of `name` in the families asked for. Dropping the future gives the question up.
    fn resolve(
        &self,
        name: Arc<str>,
        family: LookupFamily,
    ) -> BoxFuture<'static, Result<Answer, ResolveError>>;
}

/// The resolvers of the process: clusters with equal settings share one.
pub struct Resolvers {
    default: ResolverConfig,
    stats: Shared<CaresStats>,
    known: Mutex<HashMap<ResolverConfig, Weak<dyn Resolver>>>,
    /// The calls of the C library that may run: who gives one up does not end it.
    calls: Arc<Semaphore>,
}

/// How many calls of the C library may run at once, each on a thread of its own; more wait.
const MOST_CALLS: usize = 32;

impl Resolvers {
    /// Clusters that name no resolver use one with the settings `default`, those of the bootstrap. All that ask DNS count
    /// under `dns.cares`, the name of Envoy's own resolver.
    pub fn new(default: ResolverConfig, stats: &Arc<Registry>) -> Self {
        Self {
            default,
            stats: stats.scope("dns.cares").shared(),
            known: Mutex::default(),
            calls: Arc::new(Semaphore::new(MOST_CALLS)),
        }
    }

    /// The resolver for the names of a cluster.
    pub fn of_cluster(&self, config: &DnsConfig) -> Arc<dyn Resolver> {
        self.or_default(config.resolver.as_ref())
    }

    /// The resolver for `config`, or that of the process.
    pub fn or_default(&self, config: Option<&ResolverConfig>) -> Arc<dyn Resolver> {
        self.resolver(config.unwrap_or(&self.default))
    }

    /// The resolver for `config`, made if there is none.
    pub fn resolver(&self, config: &ResolverConfig) -> Arc<dyn Resolver> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = known.get(config).and_then(Weak::upgrade) {
            return resolver;
        }
        known.retain(|_, resolver| resolver.strong_count() > 0);
        let resolver: Arc<dyn Resolver> = match config.kind {
            ResolverKind::System => Arc::new(SystemResolver { calls: self.calls.clone() }),
            ResolverKind::Dns => Arc::new(DnsResolver::new(config.clone(), self.stats.clone())),
        };
        known.insert(config.clone(), Arc::downgrade(&resolver));
        resolver
    }
}

/// The C library's resolver, which follows the system's own rules.
struct SystemResolver {
    calls: Arc<Semaphore>,
}

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        name: Arc<str>,
        family: LookupFamily,
    ) -> BoxFuture<'static, Result<Answer, ResolveError>> {
        let calls = self.calls.clone();
        Box::pin(async move {
            let found = call(calls, move || (&*name, 0).to_socket_addrs()).await;
            match found {
                Ok(found) => {
                    let addresses = family.select(found.map(|address| address.ip()).collect());
                    Ok(Answer { addresses, ..Answer::default() })
                }
                Err(error) => Err(ResolveError { text: error.to_string(), details: UNREACHED }),
            }
        })
    }
}

/// Calls what blocks once `calls` has room for it, and takes that room until the call ends, whether anybody still waits for it or not.
async fn call<T: Send + 'static>(
    calls: Arc<Semaphore>,
    function: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let room = calls.acquire_owned().await.map_err(io::Error::other)?;
    let called = move || {
        let answer = function();
        drop(room);
        answer
    };
    tokio::task::spawn_blocking(called).await.map_err(io::Error::other)?
}

impl LookupFamily {
    /// Of the addresses of both families those that were asked for, without repeats.
    fn select(self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let (mut v4, mut v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        for family in [&mut v4, &mut v6] {
            let mut seen = hashbrown::HashSet::new();
            family.retain(|ip| seen.insert(*ip));
        }
        match self {
            Self::V4Only => v4,
            Self::V6Only => v6,
            Self::V4Preferred if v4.is_empty() => v6,
            Self::V4Preferred => v4,
            Self::Auto if v6.is_empty() => v4,
            Self::Auto => v6,
            Self::All => {
                v4.append(&mut v6);
                v4
            }
        }
    }

    /// Whether an address is of a family that was asked for.
    pub(super) fn takes(self, ip: IpAddr) -> bool {
        match self {
            Self::V4Only => ip.is_ipv4(),
            Self::V6Only => ip.is_ipv6(),
            Self::Auto | Self::V4Preferred | Self::All => true,
        }
    }

    fn strategy(self) -> LookupIpStrategy {
        match self {
            Self::Auto => LookupIpStrategy::Ipv6thenIpv4,
            Self::V4Only => LookupIpStrategy::Ipv4Only,
            Self::V6Only => LookupIpStrategy::Ipv6Only,
            Self::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            Self::All => LookupIpStrategy::Ipv4AndIpv6,
        }
    }
}

/// Asks DNS servers; `/etc/hosts` comes first and is read again when it changes.
struct DnsResolver {
    config: ResolverConfig,
    stats: Shared<CaresStats>,
    /// One client for each family, made when first needed.
    clients: Mutex<Clients>,
    hosts: Mutex<HostsFile>,
}

type Clients = Vec<(LookupFamily, Arc<Client>)>;

struct Client {
    resolver: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
}

#[derive(Default)]
struct HostsFile {
    modified: Option<SystemTime>,
    hosts: Hosts,
}

const HOSTS: &str = "/etc/hosts";

impl DnsResolver {
    fn new(config: ResolverConfig, stats: Shared<CaresStats>) -> Self {
        Self { config, stats, clients: Mutex::default(), hosts: Mutex::default() }
    }

    fn in_hosts_file(&self, name: &str, family: LookupFamily) -> Option<Answer> {
        let mut file = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = std::fs::metadata(HOSTS).and_then(|file| file.modified()).ok();
        if modified != file.modified {
            let mut hosts = Hosts::default();
            if let Ok(text) = std::fs::File::open(HOSTS) {
                // A line that cannot be read ends the file, as far as we are concerned.
                let _ = hosts.read_hosts_conf(text);
            }
            *file = HostsFile { modified, hosts };
        }
        let name = Name::from_utf8(name).ok()?;
        let mut found = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let lookup = file.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let records = lookup.iter().flat_map(|lookup| lookup.answers());
            found.extend(records.filter_map(|record| record.data.ip_addr()));
        }
        let addresses = family.select(found);
        (!addresses.is_empty()).then(|| Answer { addresses, ..Answer::default() })
    }

    fn client(&self, family: LookupFamily) -> Result<Arc<Client>, ResolveError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(known, _)| *known == family) {
            return Ok(client.clone());
        }
        let client = Client::new(&self.config, family).map_err(LookupError::Net)?;
        let client = Arc::new(client);
        clients.push((family, client.clone()));
        Ok(client)
    }
}

impl Resolver for DnsResolver {
    fn resolve(
        &self,
        name: Arc<str>,
        family: LookupFamily,
    ) -> BoxFuture<'static, Result<Answer, ResolveError>> {
        self.stats.resolve_total.inc();
        if let Some(answer) = self.in_hosts_file(&name, family) {
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let client = self.client(family);
        let question = Question::new(self.stats.clone());
        Box::pin(async move {
            let answer = client?.resolve(&name).await;
            question.count(&answer);
            Ok(answer?)
        })
    }
}

/// Counts as pending until it is dropped.
struct Question {
    stats: Shared<CaresStats>,
}

impl Question {
    fn new(stats: Shared<CaresStats>) -> Self {
        stats.pending_resolutions.add(1);
        Self { stats }
    }

    fn count(&self, answer: &Result<Answer, LookupError>) {
        match answer {
            Ok(answer) if answer.addresses.is_empty() => self.stats.not_found.inc(),
            Ok(_) => {}
            Err(LookupError::Net(NetError::Timeout)) => {
                self.stats.timeouts.inc();
                self.stats.get_addr_failure.inc();
            }
            Err(LookupError::Net(_) | LookupError::Name(_)) => self.stats.get_addr_failure.inc(),
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.stats.pending_resolutions.sub(1);
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("{0}")]
    Net(NetError),
    #[error("{0}")]
    Name(String),
}

impl Client {
    fn new(config: &ResolverConfig, family: LookupFamily) -> Result<Self, NetError> {
        let (system, mut options) = system_config();
        let (_, search, mut servers) = system.into_parts();
        let system_first = config.servers_are_fallback && !servers.is_empty();
        if !config.servers.is_empty() && !system_first {
            servers = config.servers.iter().map(|server| name_server(*server)).collect();
        }
        if servers.is_empty() {
            // As the C library and c-ares: a server on this machine.
            servers.push(name_server(SocketAddr::from((Ipv4Addr::LOCALHOST, 53))));
        }
        if config.tcp_only {
            for server in &mut servers {
                server
                    .connections
                    .retain(|one| matches!(one.protocol, hickory_resolver::config::ProtocolConfig::Tcp));
            }
        }
        let search = if config.no_search_domain { Vec::new() } else { search };
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = family.strategy();
        options.cache_size = config.cache_size.into();
        options.positive_max_ttl = config.cache_max_ttl;
        options.server_ordering_strategy = if config.rotate {
            ServerOrderingStrategy::RoundRobin
        } else {
            ServerOrderingStrategy::UserProvidedOrder
        };
        if let Some(timeout) = config.timeout {
            options.timeout = timeout;
        }
        if let Some(tries) = config.tries {
            options.attempts = tries as usize;
        }
        let ndots = options.ndots;
        let config = HickoryConfig::from_parts(None, Vec::new(), servers);
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider).with_options(options).build()?;
        Ok(Self { resolver, search, ndots })
    }

    /// Tries the name and its search domains one after the other.
    ///
    /// A server that fails ends the search: what a later domain lacks says nothing about the name.
    async fn resolve(&self, name: &str) -> Result<Answer, LookupError> {
        let mut is_absent = false;
        for candidate in self.candidates(name)? {
            match self.resolver.lookup_ip(candidate).await {
                Ok(found) => {
                    let records = found.as_lookup().answers();
                    let ttl = records.iter().filter(|record| record.data.ip_addr().is_some());
                    let ttl = ttl.map(|record| record.ttl).min().unwrap_or(0);
                    let mut addresses: Vec<IpAddr> = Vec::new();
                    for ip in found.iter() {
                        if !addresses.contains(&ip) {
                            addresses.push(ip);
                        }
                    }
                    if !addresses.is_empty() {
                        let ttl = Duration::from_secs(ttl.into());
                        return Ok(Answer { addresses, ttl, is_absent: false });
                    }
                }
                Err(error) if error.is_no_records_found() => is_absent = error.is_nx_domain(),
                Err(error) => return Err(LookupError::Net(error)),
            }
        }
        Ok(Answer { is_absent, ..Answer::default() })
    }

    fn candidates(&self, name: &str) -> Result<Vec<Name>, LookupError> {
        let wrong =
            |error: &dyn std::fmt::Display| LookupError::Name(format!("'{name}' is no name: {error}"));
        let mut plain = Name::from_utf8(name).map_err(|error| wrong(&error))?;
        let mut names = Vec::new();
        if !plain.is_fqdn() {
            for domain in &self.search {
                let full = plain.clone().append_domain(domain).map_err(|error| wrong(&error))?;
                names.push(full);
            }
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let plain_first = plain.is_fqdn() || dots >= self.ndots;
        plain.set_fqdn(true);
        if plain_first {
            names.insert(0, plain)
        } else {
            names.push(plain)
        }
        Ok(names)
    }
}

/// `/etc/resolv.conf`; nothing of it if it cannot be read.
fn system_config() -> (HickoryConfig, ResolverOpts) {
    hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::debug!(%error, "no usable /etc/resolv.conf");
        (HickoryConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    })
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    config
}

const UNREACHED: &str = "cares_failure:Could_not_contact_DNS_servers";

impl From<LookupError> for ResolveError {
    fn from(error: LookupError) -> Self {
        let details = match &error {
            LookupError::Name(_) => MISFORMATTED,
            LookupError::Net(NetError::Timeout) => "cares_failure:Timeout_while_contacting_DNS_servers",
            LookupError::Net(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail))) => {
                "cares_failure:DNS_server_returned_general_failure"
            }
            LookupError::Net(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))) => {
                "cares_failure:DNS_server_refused_query"
            }
            LookupError::Net(_) => UNREACHED,
        };
        Self { text: error.to_string(), details }
    }
}

/// What Envoy says of a name that none can be.
pub(super) const MISFORMATTED: &str = "cares_failure:Misformatted_domain_name";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_that_are_given_up_count_until_they_end() {
        let calls = Arc::new(Semaphore::new(1));
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn(call(calls.clone(), move || {
            begun.send(()).unwrap();
            ends.recv().map_err(io::Error::other)
        }));
        begins.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let mut second = Box::pin(call(calls.clone(), || Ok(())));
        tokio::select! {
            biased;
            _ = &mut second => panic!("it did not wait"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(calls.available_permits(), 0, "the first runs");
        end.send(()).unwrap();
        second.await.unwrap();
    }
}
