//! A map by ranges of addresses, searched by bisection.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::matcher::Cidr;

/// Values by range. Two ranges have nothing in common, or one is in the other: they form chains, which a look-up goes along from the
/// narrowest that fits. A range may have several values.
#[derive(Debug)]
pub(super) struct Networks<T> {
    v4: Box<[Entry<T>]>,
    v6: Box<[Entry<T>]>,
}

#[derive(Debug)]
struct Entry<T> {
    /// An IPv4 address as a number.
    start: u128,
    end: u128,
    value: T,
    /// Where the narrowest other range is that this one is in, or the same range with a value that was listed later.
    wider: Option<usize>,
}

impl<T> Networks<T> {
    /// Of these ranges; of several values of one the first comes first.
    pub(super) fn new(values: impl IntoIterator<Item = (Cidr, T)>) -> Self {
        let (v4, v6) = values.into_iter().partition::<Vec<_>, _>(|(range, _)| range.is_ipv4());
        Self { v4: chained(v4), v6: chained(v6) }
    }

    /// The values of all ranges that `ip` is in, those of narrower ones first.
    pub(super) fn find(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        let (entries, number) = match ip {
            IpAddr::V4(ip) => (&self.v4, u128::from(u32::from(ip))),
            IpAddr::V6(ip) => (&self.v6, u128::from(ip)),
        };
        // The last range that does not begin after the address is in all of those that the address is in.
        let last = entries.partition_point(|entry| entry.start <= number).checked_sub(1);
        std::iter::successors(last.and_then(|at| entries.get(at)), move |entry| entries.get(entry.wider?))
            .filter(move |entry| number <= entry.end)
            .map(|entry| &entry.value)
    }
}

fn chained<T>(values: Vec<(Cidr, T)>) -> Box<[Entry<T>]> {
    let mut values: Vec<_> =
        values.into_iter().map(|(range, value)| (range.bounds(), value)).enumerate().collect();
    // Wider ranges before those in them; of several values of one range the first last.
    values.sort_by_key(|(number, ((start, end), _))| (*start, Reverse(*end), Reverse(*number)));
    let mut entries: Vec<Entry<T>> = Vec::with_capacity(values.len());
    for (_, ((start, end), value)) in values {
        let mut wider = entries.len().checked_sub(1);
        while let Some(at) = wider.filter(|at| entries.get(*at).is_some_and(|entry| entry.end < end)) {
            wider = entries.get(at).and_then(|entry| entry.wider);
        }
        entries.push(Entry { start, end, value, wider });
    }
    entries.into()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn narrower_ranges_come_first_and_of_one_range_what_was_listed_first() {
        let cidr = |text: &str| {
            let (ip, prefix) = text.split_once('/').unwrap();
            Cidr::new(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
        };
        let all = ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "fd00::/8"];
        let map = Networks::new(all.iter().enumerate().map(|(number, text)| (cidr(text), number)));
        let found = |ip: &str| map.find(ip.parse().unwrap()).copied().collect::<Vec<_>>();
        assert_eq!(found("10.1.2.3"), [4, 1, 0, 3, 2]);
        assert_eq!(found("10.1.2.4"), [1, 0, 3, 2]);
        assert_eq!(found("10.255.0.0"), [0, 3, 2]);
        assert_eq!(found("255.255.255.255"), [2]);
        assert_eq!(found("fd00::1"), [6, 5]);
        assert_eq!(found("::ffff:10.1.2.3"), [5]);
    }

    fn range() -> impl Strategy<Value = Cidr> {
        // Few addresses, so that ranges are in each other.
        let v4 =
            (prop::sample::select(vec![0x0a00_0000u32, 0x0a01_0000, 0x0a01_0200, 0xffff_ffff]), 0..=32u8)
                .prop_map(|(ip, prefix)| Cidr::new(Ipv4Addr::from(ip).into(), prefix));
        let v6 = (prop::sample::select(vec![0u128, 1, 0xfd << 120, u128::MAX]), 0..=128u8)
            .prop_map(|(ip, prefix)| Cidr::new(Ipv6Addr::from(ip).into(), prefix));
        prop_oneof![2 => v4, 1 => v6].prop_map(Option::unwrap)
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let near =
            prop::sample::select(vec![0x0a00_0001u32, 0x0a01_0203, 0x0a01_0200, 0x0b00_0000, u32::MAX, 0]);
        prop_oneof![
            near.prop_map(|ip| Ipv4Addr::from(ip).into()),
            any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).into()),
            prop::sample::select(vec![0u128, 1, 2, (0xfd << 120) + 1, u128::MAX])
                .prop_map(|ip| Ipv6Addr::from(ip).into()),
        ]
    }

    proptest! {
        #[test]
        fn a_look_up_finds_what_a_scan_finds(
            ranges in prop::collection::vec(range(), 0..40), addresses in prop::collection::vec(address(), 10),
        ) {
            let map = Networks::new(ranges.iter().copied().zip(0..));
            for ip in addresses {
                let fits = ranges.iter().zip(0..).filter(|(range, _)| range.contains(ip));
                let mut scanned: Vec<(&Cidr, i32)> = fits.collect();
                scanned.sort_by_key(|(range, _)| Reverse(range.prefix()));
                let scanned: Vec<i32> = scanned.into_iter().map(|(_, number)| number).collect();
                prop_assert_eq!(map.find(ip).copied().collect::<Vec<_>>(), scanned, "{}", ip);
            }
        }
    }
}
