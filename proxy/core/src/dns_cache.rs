//! Names that requests and connections want to go to, and the addresses that DNS says they have: what a dynamic forward proxy keeps.
//!
//! A cache is shared by all filters and clusters that name it. Who looks a name up that nobody asked for yet waits, with all others who want it;
//! what is known is found without a lock. Clusters are told of every host with addresses before anybody who waits for it goes on.
//!
//! Source: Envoy `envoy/extensions/common/dynamic_forward_proxy/v3/dns_cache.proto`,
//! `docs/root/configuration/http/http_filters/dynamic_forward_proxy_filter.rst`.

mod host;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

pub use self::host::{DnsHost, HostKey};
use crate::address::Address;
use crate::config::{BuildCx, Rejected};
use crate::filter_state::FilterStateValue;
use crate::stream_info::StreamInfo;

/// Why hosts with clusters of their own are refused, in a cluster and a filter.
pub const NO_SUB_CLUSTERS: &str = "all hosts are of one cluster: only dns_cache_config is available";

/// Why `save_upstream_address` of filters has no effect.
pub const NOT_SAVED: &str = "only matchers on the upstream's address read it, which are refused";

/// Why a request or connection goes nowhere (`%RESPONSE_CODE_DETAILS%`): there are as many hosts as there may be.
pub const OVERFLOW: &str = "dns_cache_overflow";
/// The same: as many wait as may.
pub const PENDING_OVERFLOW: &str = "dns_cache_pending_requests_overflow";
/// The same: it names no host.
pub const EMPTY_HOST: &str = "empty_host_header";

/// The same: this is why the name has no addresses.
pub fn failure(reason: &str) -> String {
    format!("dns_resolution_failure{{{reason}}}")
}

/// Filter state that names the host to go to, in place of the request or the TLS client.
pub const DYNAMIC_HOST: &str = "envoy.upstream.dynamic_host";
/// Filter state that says the port of hosts that name none.
pub const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";

/// The caches of the process, by name.
pub trait DnsCaches: Send + Sync {
    /// The cache that `config` describes, made if there is none of its name.
    ///
    /// # Errors
    /// The configuration is wrong, or another one of the same name is in use.
    fn cache(&self, config: &DnsCacheConfig, cx: &mut BuildCx<'_>) -> Result<Arc<dyn DnsCache>, Rejected>;
}

/// No caches, where nothing is looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDnsCaches;

impl DnsCaches for NoDnsCaches {
    fn cache(&self, _: &DnsCacheConfig, cx: &mut BuildCx<'_>) -> Result<Arc<dyn DnsCache>, Rejected> {
        Err(cx.reject("names are not looked up here"))
    }
}

/// Hosts by name and port.
pub trait DnsCache: Send + Sync + fmt::Debug {
    /// What is known of a host; has its name looked up if that is nothing.
    fn look_up(&self, wanted: Wanted<'_>) -> LookUp;

    /// Tells `follower` of all hosts that have addresses, now and from now on, until it is gone. Main thread only.
    fn follow(&self, follower: Weak<dyn Follower>);
}

/// Who is told which hosts there are. Main thread only.
pub trait Follower: Send + Sync {
    /// A host has addresses for the first time, or others than before.
    fn resolved(&self, host: &Arc<DnsHost>, addresses: &[Address]);
    /// A host that had addresses was forgotten: nobody went there any more.
    fn gone(&self, host: &DnsHost);
}

/// What is known of a name: the addresses of the host, one at least, or why there are none.
pub type Answer = Result<Arc<[Address]>, Arc<str>>;

/// What came of looking a host up.
pub enum LookUp {
    /// This is known.
    Known(Answer),
    /// Ready when it is known.
    Wait(Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// There are as many hosts as there may be (`max_hosts`).
    Full,
    /// As many wait as may (`max_pending_requests`).
    Busy,
}

/// Where somebody wants to go: a name or an IP address, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted<'a> {
    /// The name, or an IP address without brackets.
    pub name: &'a str,
    /// The port.
    pub port: u16,
}

impl<'a> Wanted<'a> {
    /// Reads the authority of a request, or a server name; `None` if it is empty.
    pub fn of(host: &'a str, default_port: u16) -> Option<Self> {
        if host.is_empty() {
            return None;
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !host.ends_with(']') => match number(port) {
                Some(port) => (name, port),
                None => (host, default_port),
            },
            _ => (host, default_port),
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let bare = bare.filter(|bare| bare.parse::<IpAddr>().is_ok());
        Some(Self { name: bare.unwrap_or(name), port })
    }
}

fn number(port: &str) -> Option<u16> {
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()
}

/// As a URL has it.
impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        match name.contains(':') && name.parse::<IpAddr>().is_ok() {
            true => write!(f, "[{name}]:{port}"),
            false => write!(f, "{name}:{port}"),
        }
    }
}

/// The host that filters left in the filter state ([`DYNAMIC_HOST`]).
pub fn host_of_state(info: &StreamInfo) -> Option<String> {
    info.filter_state(DYNAMIC_HOST)?.to_text()
}

/// A port as a filter leaves it in the filter state ([`DYNAMIC_PORT`]).
#[derive(Clone, Copy, Debug)]
pub struct StatePort(pub u16);

impl FilterStateValue for StatePort {
    fn to_text(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn as_number(&self) -> Option<u64> {
        Some(self.0.into())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The port that filters left in the filter state ([`DYNAMIC_PORT`]), if it is one.
pub fn port_of_state(info: &StreamInfo) -> Option<u16> {
    let port = info.filter_state(DYNAMIC_PORT)?.as_number()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_envoy_reads_them() {
        for (host, name, port, shown) in [
            ("a.test", "a.test", 80, "a.test:80"),
            ("a.test:8080", "a.test", 8080, "a.test:8080"),
            ("a.test:0", "a.test", 0, "a.test:0"),
            ("a.test:65536", "a.test:65536", 80, "a.test:65536:80"),
            ("a.test:", "a.test:", 80, "a.test::80"),
            ("a.test:+1", "a.test:+1", 80, "a.test:+1:80"),
            ("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1"),
            ("[::1]:8080", "::1", 8080, "[::1]:8080"),
            ("[::1]", "::1", 80, "[::1]:80"),
            ("[x]", "[x]", 80, "[x]:80"),
            ("::1", ":", 1, "::1"),
        ] {
            let wanted = Wanted::of(host, 80).unwrap();
            assert_eq!(wanted, Wanted { name, port }, "{host}");
            assert_eq!(wanted.to_string(), shown, "{host}");
        }
        assert_eq!(Wanted::of("", 80), None);
    }
}
