//! Which filter chain serves a connection: nine criteria in a fixed order of precedence, each taking the most specific
//! value that any chain names and leaving only the chains that name it. There is no way back to a less specific value.
//!
//! A listener may have a matcher tree in place of them (`chain_tree`).
//! Source: Envoy `listener_components.proto`, `FilterChainMatch`.

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::Cidr;
use proxy_core::stream_info::ConnectionInfo;
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::CidrRange;
use xds_api::envoy::config::listener::v3::FilterChainMatch;
use xds_api::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use xds_api::xds::r#type::matcher::v3::Matcher;

use super::chain_tree::ChainTree;
use super::config::FilterChain;

/// What one chain demands; an empty list demands nothing.
#[derive(Debug)]
pub struct Criteria {
    destination_port: Option<u16>,
    destination: Vec<Cidr>,
    server_names: Vec<String>,
    transport: String,
    protocols: Vec<String>,
    direct_source: Vec<Cidr>,
    source_type: ConnectionSourceType,
    source: Vec<Cidr>,
    source_ports: Vec<u16>,
}

impl Criteria {
    /// Takes the demands of `proto`.
    pub fn build(proto: &FilterChainMatch, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.reject_if(
            !proto.address_suffix.is_empty(),
            "address_suffix",
            "is not implemented, nor is it in Envoy",
        )?;
        cx.reject_if(proto.suffix_len.is_some(), "suffix_len", "is not implemented, nor is it in Envoy")?;
        let port = |port: u32, cx: &mut BuildCx<'_>| {
            u16::try_from(port).map_err(|_| cx.reject(format!("{port} is not a port")))
        };
        let destination_port =
            proto.destination_port.map(|number| cx.at("destination_port", |cx| port(number, cx))).transpose();
        let ranges = |field: &'static str, ranges: &[CidrRange], cx: &mut BuildCx<'_>| {
            cx.each(field, ranges, Cidr::build)
        };
        let server_names = cx.each("server_names", &proto.server_names, |name, cx| {
            if name.strip_prefix("*.").unwrap_or(name).contains('*') {
                return Err(
                    cx.reject(format!("partial wildcards are not supported in server_names: '{name}'"))
                );
            }
            Ok(name.to_ascii_lowercase())
        });
        let destination = ranges("prefix_ranges", &proto.prefix_ranges, cx);
        let direct_source = ranges("direct_source_prefix_ranges", &proto.direct_source_prefix_ranges, cx);
        let source = ranges("source_prefix_ranges", &proto.source_prefix_ranges, cx);
        let source_ports = cx.each("source_ports", &proto.source_ports, |number, cx| port(*number, cx));
        Ok(Self {
            destination_port: destination_port?,
            destination: destination?,
            server_names: server_names?,
            transport: proto.transport_protocol.clone(),
            protocols: proto.application_protocols.clone(),
            direct_source: direct_source?,
            source_type: ConnectionSourceType::try_from(proto.source_type)
                .unwrap_or(ConnectionSourceType::Any),
            source: source?,
            source_ports: source_ports?,
        })
    }

    /// Every combination of single values, as text: two chains that share one cannot both be meant.
    fn combinations(&self) -> Vec<String> {
        let list = |values: Vec<String>| if values.is_empty() { vec![String::new()] } else { values };
        let cidrs = |ranges: &[Cidr]| list(ranges.iter().map(|range| format!("{range:?}")).collect());
        let mut all = vec![format!("{:?}|{}|{:?}", self.destination_port, self.transport, self.source_type)];
        let levels = [
            cidrs(&self.destination),
            list(self.server_names.clone()),
            list(self.protocols.clone()),
            cidrs(&self.direct_source),
            cidrs(&self.source),
            list(self.source_ports.iter().map(u16::to_string).collect()),
        ];
        for level in levels {
            all =
                all.iter().flat_map(|one| level.iter().map(move |value| format!("{one}|{value}"))).collect();
        }
        all
    }
}

type Candidates = SmallVec<[usize; 16]>;

/// Chooses among the chains of one listener.
#[derive(Debug)]
pub struct ChainMatcher {
    by: By,
    default: Option<usize>,
}

/// What decides.
#[derive(Debug)]
enum By {
    /// What each chain demands.
    Criteria(Vec<Criteria>),
    Tree(Box<ChainTree>),
}

impl ChainMatcher {
    /// A matcher over `criteria`, one for each of `chains`; rejects chains that demand the same.
    pub fn new(
        chains: &[Arc<FilterChain>],
        criteria: Vec<Criteria>,
        default: Option<usize>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (index, one) in criteria.iter().enumerate() {
            for combination in one.combinations() {
                if let Some(first) = seen.insert(combination, index)
                    && first != index
                {
                    let name = |index: usize| chains.get(index).map_or("", |chain| &*chain.name);
                    return Err(cx.at_index("filter_chains", index, |cx| {
                        cx.reject(format!(
                            "multiple filter chains with overlapping matching rules are defined: '{}' and '{}'",
                            name(first),
                            name(index)
                        ))
                    }));
                }
            }
        }
        Ok(Self { by: By::Criteria(criteria), default })
    }

    /// A matcher by a tree over `chains`.
    pub fn by_tree(
        proto: &Matcher,
        chains: &[Arc<FilterChain>],
        default: Option<usize>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let tree = ChainTree::build(proto, chains, cx)?;
        Ok(Self { by: By::Tree(Box::new(tree)), default })
    }

    /// Index of the chain for the connection, the default chain's if no other matches.
    pub fn find(&self, info: &Rc<ConnectionInfo>) -> Option<usize> {
        match &self.by {
            By::Criteria(criteria) => find_specific(criteria, info).or(self.default),
            By::Tree(tree) => tree.find(info.clone()).unwrap_or(self.default),
        }
    }

    /// The same while more may be found out about the connection.
    pub fn find_so_far(&self, info: &ConnectionInfo) -> Option<usize> {
        match &self.by {
            By::Criteria(criteria) => find_specific(criteria, info).or(self.default),
            By::Tree(tree) => tree.find(Rc::new(info.clone())).unwrap_or(self.default),
        }
    }
}

fn find_specific(criteria: &[Criteria], info: &ConnectionInfo) -> Option<usize> {
    if let [only] = criteria
        && only.demands_nothing()
    {
        return Some(0);
    }
    let mut left: Candidates = (0..criteria.len()).collect();
    let port = info.local.port();
    narrow(criteria, &mut left, |one| match one.destination_port {
        Some(wanted) if Some(wanted) == port => Fit::Yes(1),
        Some(_) => Fit::No,
        None => Fit::Yes(0),
    });
    narrow(criteria, &mut left, |one| longest(&one.destination, &info.local));
    narrow(criteria, &mut left, |one| server_name(&one.server_names, info.server_name.as_deref()));
    narrow(criteria, &mut left, |one| match one.transport.as_str() {
        "" => Fit::Yes(0),
        transport if transport == info.transport_protocol => Fit::Yes(1),
        _ => Fit::No,
    });
    narrow(criteria, &mut left, |one| protocol(&one.protocols, info));
    narrow(criteria, &mut left, |one| longest(&one.direct_source, &info.direct_remote));
    let is_local = info.is_local();
    narrow(criteria, &mut left, |one| match one.source_type {
        ConnectionSourceType::Any => Fit::Yes(0),
        ConnectionSourceType::SameIpOrLoopback if is_local => Fit::Yes(1),
        ConnectionSourceType::External if !is_local => Fit::Yes(1),
        ConnectionSourceType::SameIpOrLoopback | ConnectionSourceType::External => Fit::No,
    });
    narrow(criteria, &mut left, |one| longest(&one.source, &info.remote));
    let source_port = info.remote.port();
    narrow(criteria, &mut left, |one| match one.source_ports.as_slice() {
        [] => Fit::Yes(0),
        ports if source_port.is_some_and(|port| ports.contains(&port)) => Fit::Yes(1),
        _ => Fit::No,
    });
    left.first().copied()
}

/// Leaves the candidates that fit best.
fn narrow(criteria: &[Criteria], left: &mut Candidates, fit: impl Fn(&Criteria) -> Fit) {
    let mut best: Option<usize> = None;
    let mut kept = Candidates::new();
    for &index in left.iter() {
        let Some(Fit::Yes(rank)) = criteria.get(index).map(&fit) else { continue };
        if best.is_none_or(|best| rank > best) {
            best = Some(rank);
            kept.clear();
        }
        if best == Some(rank) {
            kept.push(index);
        }
    }
    *left = kept;
}

impl Criteria {
    fn demands_nothing(&self) -> bool {
        self.destination_port.is_none()
            && self.destination.is_empty()
            && self.server_names.is_empty()
            && self.transport.is_empty()
            && self.protocols.is_empty()
            && self.direct_source.is_empty()
            && self.source_type == ConnectionSourceType::Any
            && self.source.is_empty()
            && self.source_ports.is_empty()
    }
}

/// Whether a criterion fits, and how specific it is.
enum Fit {
    No,
    Yes(usize),
}

fn longest(ranges: &[Cidr], address: &Address) -> Fit {
    if ranges.is_empty() {
        return Fit::Yes(0);
    }
    let Some(ip) = address.ip() else { return Fit::No };
    let longest = ranges.iter().filter(|range| range.contains(ip)).map(|range| range.prefix()).max();
    longest.map_or(Fit::No, |prefix| Fit::Yes(usize::from(prefix) + 1))
}

/// Exact names first, then the longest `*.suffix`.
fn server_name(wanted: &[String], name: Option<&str>) -> Fit {
    if wanted.is_empty() {
        return Fit::Yes(0);
    }
    let Some(name) = name else { return Fit::No };
    let name = name.to_ascii_lowercase();
    let rank = wanted.iter().filter_map(|wanted| match wanted.strip_prefix('*') {
        None => (*wanted == name).then_some(usize::MAX),
        Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len() + 1),
    });
    rank.max().map_or(Fit::No, Fit::Yes)
}

/// The client's first choice wins.
fn protocol(wanted: &[String], info: &ConnectionInfo) -> Fit {
    if wanted.is_empty() {
        return Fit::Yes(0);
    }
    let offered = &info.application_protocols;
    let first = offered.iter().position(|offered| wanted.iter().any(|wanted| *offered == wanted.as_str()));
    first.map_or(Fit::No, |index| Fit::Yes(offered.len() - index))
}

#[cfg(test)]
mod tests;
