//! Which filter chain serves a connection where a matcher tree says it (`Listener.filter_chain_matcher`).
//!
//! The actions of the tree are names of chains. A connection that the tree leads nowhere with gets the default chain; one that it leads
//! to a name that no chain has gets none, the default chain's own name among them. What chains demand themselves
//! (`filter_chain_match`) is not looked at.
//! Source: Envoy `docs/root/intro/arch_overview/advanced/matching/matching_listener`, `listener.proto`; observed on 1.40.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::facts::{Facts, Layer};
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use xds_api::xds::r#type::matcher::v3::Matcher;

use super::config::FilterChain;

const NAME: &str = "google.protobuf.StringValue";

/// Leads to indexes of chains.
#[derive(Debug)]
pub(super) struct ChainTree(MatchTree<Option<usize>>);

impl ChainTree {
    /// Builds it over `chains`, all of which need a name of their own.
    pub(super) fn build(
        proto: &Matcher,
        chains: &[Arc<FilterChain>],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let named = check_names(chains, cx);
        let action = |message: &str, payload: &[u8], cx: &mut BuildCx<'_>| {
            if message != NAME {
                return Err(cx.reject(format!("{message} is no action that is available here")));
            }
            let name: String = decode(payload, cx)?;
            Ok(chains.iter().position(|chain| *chain.name == *name))
        };
        let refuse = |input: &str| format!("a listener cannot match on '{input}'");
        let inputs = Inputs { layer: Layer::Network, admits: &|_| true, refuse: &refuse };
        let purpose = Purpose { inputs, action: &action };
        let tree = cx.at("filter_chain_matcher", |cx| MatchTree::build(proto, &purpose, cx));
        named?;
        tree.map(Self)
    }

    /// What the tree leads to: the index of a chain, or none with that name; `None` if it leads nowhere.
    pub(super) fn find(&self, info: Rc<ConnectionInfo>) -> Option<Option<usize>> {
        let start = info.start;
        let stream = StreamInfo::new(info, start, SystemTime::now());
        self.0.find(&Facts::of_connection(&stream)).copied()
    }
}

fn check_names(chains: &[Arc<FilterChain>], cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let mut result = Ok(());
    for (index, chain) in chains.iter().enumerate() {
        let is_known = chains.iter().take(index).any(|other| other.name == chain.name);
        let reason = match &*chain.name {
            "" => "the name is required where filter_chain_matcher is used".to_owned(),
            name if is_known => format!("there is another filter chain with the name '{name}'"),
            _ => continue,
        };
        result = Err(cx.at_index("filter_chains", index, |cx| cx.at("name", |cx| cx.reject(reason))));
    }
    result
}
