//! STRICT_DNS and LOGICAL_DNS: hosts that come from names.
//!
//! `config` reads the settings, `schedule` decides what to resolve when and what the answers mean (without sockets or
//! clocks), `resolver` asks. Source: Envoy `docs/root/intro/arch_overview/upstream/service_discovery.rst`,
//! `docs/root/intro/arch_overview/upstream/dns_resolution.rst`.

mod config;

pub use config::{DnsConfig, DnsKind, DnsTarget, FailureRefresh, LookupFamily, ResolverConfig, ResolverKind};
