//! Chain matching against the words of the documents: level by level, from the most specific value to none.

use std::net::IpAddr;

use proptest::prelude::*;
use proxy_core::config::BuildEnv;

use super::*;

#[derive(Clone, Debug)]
struct Connection {
    local: (u8, u16),
    remote: (u8, u16),
    direct: u8,
    server_name: Option<&'static str>,
    transport: &'static str,
    protocols: Vec<&'static str>,
}

/// Addresses of three networks, one in another.
fn ip(number: u8) -> IpAddr {
    let all = [[10, 1, 1, 1], [10, 1, 2, 1], [10, 2, 0, 1], [127, 0, 0, 1], [192, 0, 2, 1]];
    IpAddr::from(all[usize::from(number) % all.len()])
}

const RANGES: [(&str, u32); 5] =
    [("10.0.0.0", 8), ("10.1.0.0", 16), ("10.1.1.0", 24), ("10.1.1.1", 32), ("0.0.0.0", 0)];
const NAMES: [&str; 5] = ["a.b.com", "b.com", "*.b.com", "*.com", "c.com"];

fn range((address, length): (&str, u32)) -> CidrRange {
    CidrRange { address_prefix: address.to_owned(), prefix_len: Some(length) }
}

fn few<T: Clone + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(from, 1..=from.len().min(2))]
}

prop_compose! {
    fn chain()(
        destination_port in prop_oneof![2 => Just(None), 1 => (80u32..82).prop_map(Some)],
        destination in few(&RANGES),
        names in few(&NAMES),
        transport in prop::sample::select(vec!["", "", "tls", "raw_buffer"]),
        protocols in few(&["h2", "http/1.1"]),
        direct in few(&RANGES),
        source_type in 0i32..3,
        source in few(&RANGES),
        source_ports in few(&[1u32, 2]),
        plain in prop::bool::weighted(0.3),
    ) -> FilterChainMatch {
        if plain {
            return FilterChainMatch { destination_port, ..FilterChainMatch::default() };
        }
        FilterChainMatch {
            destination_port,
            prefix_ranges: destination.into_iter().map(range).collect(),
            server_names: names.into_iter().map(str::to_owned).collect(),
            transport_protocol: transport.to_owned(),
            application_protocols: protocols.into_iter().map(str::to_owned).collect(),
            direct_source_prefix_ranges: direct.into_iter().map(range).collect(),
            source_type,
            source_prefix_ranges: source.into_iter().map(range).collect(),
            source_ports,
            ..FilterChainMatch::default()
        }
    }
}

prop_compose! {
    fn connection()(
        local in (0u8..5, 80u16..83),
        remote in (0u8..5, 1u16..4),
        direct in 0u8..5,
        server_name in prop::sample::select(vec![None, Some("a.b.com"), Some("b.com"), Some("x.b.com"), Some("X.y.COM")]),
        transport in prop::sample::select(vec!["tls", "raw_buffer"]),
        protocols in prop::sample::subsequence(vec!["http/1.1", "h2"], 0..=2),
    ) -> Connection {
        Connection { local, remote, direct, server_name, transport, protocols }
    }
}

impl Connection {
    fn info(&self) -> ConnectionInfo {
        let address = |number, port| Address::Ip((ip(number), port).into());
        let local = address(self.local.0, self.local.1);
        let remote = address(self.remote.0, self.remote.1);
        ConnectionInfo {
            direct_remote: address(self.direct, 9),
            server_name: self.server_name.map(Into::into),
            application_protocols: self.protocols.iter().map(|one| (*one).into()).collect(),
            transport_protocol: self.transport,
            ..ConnectionInfo::new(remote, local, "l".into())
        }
    }
}

/// Leaves the chains that name the first of `values` that any of them names; those that name nothing if none does.
fn level(left: Vec<usize>, values: &[String], names: impl Fn(usize) -> Vec<String>) -> Vec<usize> {
    for value in values {
        let fit: Vec<usize> = left.iter().copied().filter(|chain| names(*chain).contains(value)).collect();
        if !fit.is_empty() {
            return fit;
        }
    }
    left.into_iter().filter(|chain| names(*chain).is_empty()).collect()
}

/// All ranges with this address, the longest first.
fn networks(of: IpAddr) -> Vec<String> {
    let IpAddr::V4(of) = of else { return Vec::new() };
    let network = |length: u32| {
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv4Addr::from(u32::from(of) & mask))
    };
    (0..=32).rev().map(network).collect()
}

/// The name, then `*.` and what follows each of its dots.
fn server_names(name: Option<&str>) -> Vec<String> {
    let Some(name) = name.map(str::to_ascii_lowercase) else { return Vec::new() };
    let suffixes = name.match_indices('.').map(|(at, _)| format!("*{}", &name[at..]));
    std::iter::once(name.clone()).chain(suffixes).collect()
}

fn model(chains: &[FilterChainMatch], connection: &Connection) -> Option<usize> {
    if let [only] = chains
        && *only == FilterChainMatch::default()
    {
        return Some(0);
    }
    let ranges = |ranges: &[CidrRange]| -> Vec<String> {
        let text = |one: &CidrRange| format!("{}/{}", one.address_prefix, one.prefix_len.unwrap_or(0));
        ranges.iter().map(text).collect()
    };
    let (local, remote) = (ip(connection.local.0), ip(connection.remote.0));
    let source = if remote.is_loopback() || remote == local { "1" } else { "2" };
    let strings = |values: &[&str]| -> Vec<String> { values.iter().map(|one| (*one).to_owned()).collect() };
    let mut left: Vec<usize> = (0..chains.len()).collect();
    left = level(left, &[connection.local.1.to_string()], |chain| {
        chains[chain].destination_port.iter().map(u32::to_string).collect()
    });
    left = level(left, &networks(local), |chain| ranges(&chains[chain].prefix_ranges));
    left = level(left, &server_names(connection.server_name), |chain| chains[chain].server_names.clone());
    left = level(left, &strings(&[connection.transport]), |chain| {
        Some(chains[chain].transport_protocol.clone()).into_iter().filter(|one| !one.is_empty()).collect()
    });
    left = level(left, &strings(&connection.protocols), |chain| chains[chain].application_protocols.clone());
    let direct = networks(ip(connection.direct));
    left = level(left, &direct, |chain| ranges(&chains[chain].direct_source_prefix_ranges));
    left = level(left, &strings(&[source]), |chain| {
        Some(chains[chain].source_type.to_string()).into_iter().filter(|one| one != "0").collect()
    });
    left = level(left, &networks(remote), |chain| ranges(&chains[chain].source_prefix_ranges));
    left = level(left, &[connection.remote.1.to_string()], |chain| {
        chains[chain].source_ports.iter().map(u32::to_string).collect()
    });
    left.first().copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_chain_is_that_of_the_documents(
        chains in prop::collection::vec(chain(), 1..6),
        connections in prop::collection::vec(connection(), 1..6),
    ) {
        let env = BuildEnv::new(1);
        let mut cx = BuildCx::new(&env);
        let criteria = chains.iter().map(|chain| Criteria::build(chain, &mut cx).unwrap()).collect();
        // Chains that demand the same are refused.
        let Ok(matcher) = ChainMatcher::new(&[], criteria, None, &mut cx) else { return Ok(()) };
        for connection in connections {
            prop_assert_eq!(matcher.find_so_far(&connection.info()), model(&chains, &connection), "{:?}", connection);
        }
    }
}
