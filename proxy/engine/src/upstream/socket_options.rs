//! How sockets towards the hosts of a cluster are made: source address, keepalive, raw options, order of addresses.
//!
//! Source: `upstream_bind_config` and `upstream_connection_options` of `envoy/config/cluster/v3/cluster.proto`.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::message_name;
use proxy_core::upstream::Host;
use smallvec::SmallVec;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::upstream_connection_options as options_proto;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::socket_option::{SocketIpVersion, SocketState};

use crate::net::option::SocketOption;
use crate::net::socket::{ConnectOptions, Keepalive};

const DEFAULT_SELECTOR: &str = "envoy.config.upstream.local_address_selector.v3.DefaultLocalAddressSelector";

/// How sockets towards hosts are made, by the family of the host's address.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions {
    v4: ConnectOptions,
    v6: ConnectOptions,
    pipe: ConnectOptions,
    first_family: Option<Family>,
    first_count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Pipe,
}

impl Family {
    fn of(address: &Address) -> Self {
        match address {
            Address::Ip(SocketAddr::V4(_)) => Self::V4,
            Address::Ip(SocketAddr::V6(_)) => Self::V6,
            Address::Pipe(_) => Self::Pipe,
        }
    }
}

static DEFAULT: LazyLock<Arc<SocketOptions>> =
    LazyLock::new(|| Arc::new(SocketOptions { first_count: 1, ..SocketOptions::default() }));

impl SocketOptions {
    /// The options of sockets to `address`.
    pub fn connect_options(&self, address: &Address) -> &ConnectOptions {
        match Family::of(address) {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
            Family::Pipe => &self.pipe,
        }
    }

    /// The addresses of `host` in the order in which to try them (RFC 8305 section 4: families alternate).
    pub fn addresses(&self, host: &Host) -> SmallVec<[Address; 2]> {
        let mut left = host.addresses();
        if left.len() < 2 {
            return left;
        }
        let wanted = self.first_family.unwrap_or_else(|| Family::of(&left[0]));
        let (mut first, mut other): (Vec<_>, Vec<_>) =
            left.drain(..).partition(|address| Family::of(address) == wanted);
        first.reverse();
        other.reverse();
        while !(first.is_empty() && other.is_empty()) {
            for _ in 0..self.first_count.max(1) {
                left.extend(first.pop());
            }
            left.extend(other.pop());
        }
        left
    }

    /// What sockets are bound to: a cluster's own field, or that of the whole process.
    ///
    /// # Errors
    /// What is wrong with it, in `cx`.
    pub fn of_bind_config(proto: &core::BindConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut built = Self { first_count: 1, ..Self::default() };
        built.bind(proto, cx)?;
        Ok(built)
    }

    /// Reads the two fields; clusters without them, and without a default, share one object.
    pub(super) fn build(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let bind = proto.upstream_bind_config.as_ref();
        let bind = bind.or(cx.env.cluster_defaults.upstream_bind_config.as_ref());
        if bind.is_none() && proto.upstream_connection_options.is_none() {
            return Ok(DEFAULT.clone());
        }
        let mut built = Self { first_count: 1, ..Self::default() };
        if let Some(bind) = bind {
            built = cx.at("upstream_bind_config", |cx| Self::of_bind_config(bind, cx))?;
        }
        if let Some(options) = &proto.upstream_connection_options {
            built.connection(options);
        }
        Ok(Arc::new(built))
    }

    #[allow(deprecated)]
    fn bind(&mut self, proto: &core::BindConfig, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        if let Some(selector) = &proto.local_address_selector {
            let url = selector.typed_config.as_ref().map_or("", |any| any.type_url.as_str());
            if message_name(url) != DEFAULT_SELECTOR {
                return Err(cx.at("local_address_selector", |cx| {
                    cx.reject(format!("unknown selector '{}'", message_name(url)))
                }));
            }
        }
        let base = socket_options(&proto.socket_options);
        let freebind = proto.freebind.unwrap_or(false);
        let mut sources: Vec<(Option<SocketAddr>, Vec<SocketOption>)> = Vec::new();
        let main = proto.source_address.as_ref();
        let main = main.map(|address| cx.at("source_address", |cx| Address::build_socket(address, cx)));
        sources.push((main.transpose()?, base.clone()));
        for (index, extra) in proto.extra_source_addresses.iter().enumerate() {
            let address = cx.at_index("extra_source_addresses", index, |cx| match &extra.address {
                Some(address) => cx.at("address", |cx| Address::build_socket(address, cx)),
                None => Err(cx.at("address", |cx| cx.reject("must be set"))),
            })?;
            let own = extra.socket_options.as_ref().map(|own| socket_options(&own.socket_options));
            sources.push((Some(address), own.unwrap_or_else(|| base.clone())));
        }
        for (index, address) in proto.additional_source_addresses.iter().enumerate() {
            let address =
                cx.at_index("additional_source_addresses", index, |cx| Address::build_socket(address, cx))?;
            sources.push((Some(address), base.clone()));
        }
        check_sources(&sources, cx)?;
        for (version, target) in
            [(SocketIpVersion::Ipv4, &mut self.v4), (SocketIpVersion::Ipv6, &mut self.v6)]
        {
            // As Envoy's default selector: the first of the same family, else the very first.
            let same = |source: &&(Option<SocketAddr>, _)| {
                source.0.is_some_and(|address| address.is_ipv4() == (version == SocketIpVersion::Ipv4))
            };
            let Some((source, options)) = sources.iter().find(same).or(sources.first()) else { continue };
            target.source = *source;
            target.freebind = freebind;
            target.options =
                options.iter().filter_map(|option| option.of_version(version).cloned()).collect();
        }
        Ok(())
    }

    fn connection(&mut self, proto: &proto::UpstreamConnectionOptions) {
        if let Some(keepalive) = &proto.tcp_keepalive {
            let seconds = |seconds: u32| Duration::from_secs(seconds.into());
            let keepalive = Keepalive {
                probes: keepalive.keepalive_probes,
                time: keepalive.keepalive_time.map(seconds),
                interval: keepalive.keepalive_interval.map(seconds),
            };
            self.v4.keepalive = Some(keepalive);
            self.v6.keepalive = Some(keepalive);
        }
        if let Some(eyeballs) = &proto.happy_eyeballs_config {
            use options_proto::FirstAddressFamilyVersion as Version;
            let version =
                Version::try_from(eyeballs.first_address_family_version).unwrap_or(Version::Default);
            self.first_family = match version {
                Version::Default | Version::Internal => None,
                Version::V4 => Some(Family::V4),
                Version::V6 => Some(Family::V6),
                Version::Pipe => Some(Family::Pipe),
            };
            self.first_count = eyeballs.first_address_family_count.unwrap_or(1).max(1) as usize;
        }
    }
}

/// At most one source for each family, and the main one first, as in Envoy.
fn check_sources(
    sources: &[(Option<SocketAddr>, Vec<SocketOption>)],
    cx: &mut BuildCx<'_>,
) -> Result<(), Rejected> {
    let mut families = sources.iter().map(|(address, _)| address.map(|address| address.is_ipv4()));
    match (families.next().flatten(), families.next().flatten(), families.next()) {
        (None, Some(_), _) => Err(cx.reject(
            "Extra/additional addresses cannot be specified if source_address is not set.",
        )),
        (_, None, _) => Ok(()),
        (Some(first), Some(second), None) if first != second => Ok(()),
        (Some(_), Some(_), _) => Err(cx.reject(
            "Only two different IP version source addresses can be supported in BindConfig's source_address and \
             extra_source_addresses/additional_source_addresses fields",
        )),
    }
}

/// The options that concern TCP sockets which connect: those for the other states Envoy never sets on them.
fn socket_options(protos: &[core::SocketOption]) -> Vec<SocketOption> {
    let options = protos.iter().filter_map(SocketOption::build);
    options.filter(|option| option.state == SocketState::StatePrebind).collect()
}
