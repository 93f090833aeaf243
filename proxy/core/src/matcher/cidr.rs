//! Sets of IP address ranges: merged and sorted, searched by bisection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xds_api::envoy::config::core::v3 as proto;
use xds_api::xds::core::v3 as xds_proto;

use crate::address::Address;
use crate::config::{BuildCx, Rejected};

/// A set of ranges of IPv4 and IPv6 addresses.
///
/// An IPv4-mapped IPv6 address is looked up as the IPv6 address that it is, as in Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// One range: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Number of leading bits that count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is one of IPv4 addresses.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    /// The first and the last of its addresses, as numbers.
    pub(crate) fn bounds(&self) -> (u128, u128) {
        match self.ip {
            IpAddr::V4(ip) => {
                let (start, end) = v4_bounds(ip, self.prefix);
                (start.into(), end.into())
            }
            IpAddr::V6(ip) => v6_bounds(ip, self.prefix),
        }
    }

    /// The range of all addresses that share `prefix` leading bits with `ip`; `None` if the address has fewer.
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Self { ip, prefix })
    }

    /// Builds from Envoy's message; an absent prefix length is 0, as in Envoy.
    pub fn build(proto: &proto::CidrRange, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Self::build_parts(&proto.address_prefix, proto.prefix_len, cx)
    }

    /// Builds from the xDS message of the same name.
    pub fn build_xds(proto: &xds_proto::CidrRange, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Self::build_parts(&proto.address_prefix, proto.prefix_len, cx)
    }

    fn build_parts(address: &str, prefix: Option<u32>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Ok(ip) = address.parse::<IpAddr>() else {
            return Err(cx.reject(format!("malformed IP address: {address}")));
        };
        // Envoy takes a length beyond the address's as the whole address.
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = u8::try_from(prefix.unwrap_or(0).min(bits)).unwrap_or(128);
        Ok(Self { ip, prefix })
    }

    /// Whether `ip` is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let (start, end) = v4_bounds(net, self.prefix);
                (start..=end).contains(&u32::from(ip))
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let (start, end) = v6_bounds(net, self.prefix);
                (start..=end).contains(&u128::from(ip))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl CidrSet {
    /// The union of `ranges`.
    pub fn new(ranges: impl IntoIterator<Item = Cidr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match range.ip {
                IpAddr::V4(ip) => v4.push(v4_bounds(ip, range.prefix)),
                IpAddr::V6(ip) => v6.push(v6_bounds(ip, range.prefix)),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    /// Builds from a repeated field of ranges.
    pub fn build(
        field: &'static str,
        protos: &[proto::CidrRange],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.each(field, protos, Cidr::build).map(Self::new)
    }

    /// Builds from a repeated field of ranges of the xDS message.
    pub fn build_xds(
        field: &'static str,
        protos: &[xds_proto::CidrRange],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        cx.each(field, protos, Cidr::build_xds).map(Self::new)
    }

    /// Whether there is no range.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `ip` is in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => in_ranges(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => in_ranges(&self.v6, u128::from(ip)),
        }
    }

    /// Whether `address` has an IP that is in one of the ranges.
    pub fn contains_address(&self, address: &Address) -> bool {
        address.ip().is_some_and(|ip| self.contains(ip))
    }
}

fn v4_bounds(ip: Ipv4Addr, prefix: u8) -> (u32, u32) {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let start = u32::from(ip) & !host;
    (start, start | host)
}

fn v6_bounds(ip: Ipv6Addr, prefix: u8) -> (u128, u128) {
    let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let start = u128::from(ip) & !host;
    (start, start | host)
}

/// Sorted ranges without overlaps.
fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged.into_boxed_slice()
}

fn in_ranges<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= value);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, end)| value <= *end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        let (ip, prefix) = text.split_once('/').unwrap();
        Cidr::new(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_found_in_their_ranges() {
        let set = CidrSet::new(["10.0.0.0/8", "10.1.0.0/16", "192.168.1.7/32", "fd00::/8"].map(cidr));
        for (ip, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("::ffff:10.0.0.1", false),
            ("fdff::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(CidrSet::new([cidr("0.0.0.0/0")]).contains("255.255.255.255".parse().unwrap()));
        assert!(!CidrSet::new([cidr("0.0.0.0/0")]).contains("::1".parse().unwrap()));
        assert!(Cidr::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }

    proptest! {
        #[test]
        fn a_set_is_the_union_of_its_ranges(
            ranges in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20), probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let ranges: Vec<Cidr> = ranges.iter().map(|(ip, prefix)| {
                Cidr::new(IpAddr::V4(Ipv4Addr::from(*ip)), *prefix).unwrap()
            }).collect();
            let set = CidrSet::new(ranges.iter().copied());
            let edges = ranges.iter().filter_map(|range| match range.ip { IpAddr::V4(ip) => Some(u32::from(ip)), IpAddr::V6(_) => None });
            for probe in probes.into_iter().chain(edges) {
                let ip = IpAddr::V4(Ipv4Addr::from(probe));
                prop_assert_eq!(set.contains(ip), ranges.iter().any(|range| range.contains(ip)));
            }
        }
    }
}
