//! STRICT_DNS and LOGICAL_DNS: hosts that come from names.
//!
//! `config` reads the settings, `schedule` decides what to resolve when and what the answers mean (without sockets or
//! clocks), `resolver` asks, `task` drives the three. `cache` keeps names that nobody configured. Source: Envoy
//! `docs/root/intro/arch_overview/upstream/{service_discovery,dns_resolution}.rst`.

mod cache;
mod config;
mod resolver;
mod schedule;
mod task;

#[cfg(test)]
mod tests;

pub(crate) use cache::NO_STORE;
pub use cache::{Caches, look_up_names};
pub use config::{DnsConfig, DnsKind, DnsTarget, FailureRefresh, LookupFamily, ResolverConfig, ResolverKind};
pub use resolver::{Resolver, Resolvers};
pub use schedule::{Answer, Outcome, ResolveError, Schedule};
pub use task::{DnsUpdate, run};
