//! The matching API (`xds.type.matcher.v3.Matcher`): a tree of questions about a request or a connection that leads to an action.
//!
//! A list tries its matchers in order, a map looks up the value of an input; what is found is an action or another tree, and
//! where that finds nothing, the search goes on. A value that cannot be had at all (a certificate's, without TLS) ends it
//! without an action. Searching allocates nothing but where several names of a certificate or several values of a header are
//! joined.
//! Source: Envoy `docs/root/intro/arch_overview/advanced/matching/matching_api.rst`; observed on 1.40.

pub mod fields;
mod input;
mod networks;
mod predicate;
mod prefixes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use xds_api::xds::core::v3::TypedExtensionConfig;
use xds_api::xds::r#type::matcher::v3 as proto;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_list::FieldMatcher;
use xds_api::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use xds_api::xds::r#type::matcher::v3::matcher::on_match::OnMatch as OnMatchProto;
use xds_api::xds::r#type::matcher::v3::matcher::{MatcherTree, MatcherType};

use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::facts::{Facts, Layer};
use crate::matcher::Cidr;

use input::{Input, Value};
use networks::Networks;
use predicate::Predicate;
use prefixes::Prefixes;

/// Trees may be nested so deep.
const MAX_DEPTH: usize = 32;

const IP_MATCHER: &str = "xds.type.matcher.v3.IPMatcher";
const SERVER_NAME_MATCHER: &str = "xds.type.matcher.v3.ServerNameMatcher";

/// An input whose values are text, for who makes something of them instead of matching.
pub struct TextInput(Input);

impl TextInput {
    /// Builds one, if it is among `inputs`.
    pub fn build(
        any: &prost_types::Any,
        inputs: &Inputs<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let extension = TypedExtensionConfig { name: String::new(), typed_config: Some(any.clone()) };
        let input = Input::build(Some(&extension), inputs, cx)?;
        match input.is_text() {
            true => Ok(Self(input)),
            false => Err(cx.reject("is no text")),
        }
    }

    /// Has `take` see the text that is there; `None` if there is none.
    pub fn with<T>(&self, facts: &Facts<'_>, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.0.value(facts) {
            Value::Text(text) => Some(take(&text)),
            Value::Unavailable | Value::Absent | Value::Data(_) => None,
        }
    }
}

/// Builds an action from the name of its message and its payload.
pub type BuildAction<'p, A> = dyn Fn(&str, &[u8], &mut BuildCx<'_>) -> Result<A, Rejected> + 'p;

/// What trees are built for.
pub struct Purpose<'p, A> {
    /// What may be asked for.
    pub inputs: Inputs<'p>,
    /// Builds what a search may lead to.
    pub action: &'p BuildAction<'p, A>,
}

/// Which inputs there are.
pub struct Inputs<'p> {
    /// What is asked about.
    pub layer: Layer,
    /// Whether an input of that type may be asked for, if the layer has it.
    pub admits: &'p dyn Fn(&str) -> bool,
    /// What is said of one of that type that may not be asked for here.
    pub refuse: &'p dyn Fn(&str) -> String,
}

/// A tree.
pub struct MatchTree<A> {
    node: Node<A>,
    on_no_match: Option<Box<OnMatch<A>>>,
}

enum Node<A> {
    /// Nothing is asked.
    Leaf,
    List(Box<[(Predicate, OnMatch<A>)]>),
    Exact(Input, HashMap<Box<str>, OnMatch<A>>),
    Prefix(Input, Prefixes<OnMatch<A>>),
    Ip(Input, Networks<Network<A>>),
    Domain(Input, Domains<A>),
}

/// A key of a map, and where it leads.
type Entry<A> = (Box<str>, OnMatch<A>);

/// Where a match leads.
enum OnMatch<A> {
    Action(A),
    Tree(MatchTree<A>),
}

/// What a search came to.
enum Found<'t, A> {
    Action(&'t A),
    Nothing,
    /// Something that cannot be had was asked for.
    Unavailable,
}

impl<A> MatchTree<A> {
    /// Builds a tree.
    pub fn build(
        proto: &proto::Matcher,
        purpose: &Purpose<'_, A>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Self::build_nested(proto, purpose, 0, cx)
    }

    fn build_nested(
        proto: &proto::Matcher,
        purpose: &Purpose<'_, A>,
        depth: usize,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        if depth == MAX_DEPTH {
            return Err(cx.reject(format!("matchers are nested deeper than {MAX_DEPTH}")));
        }
        let builder = Builder { purpose, depth };
        let proto::Matcher { on_no_match, matcher_type } = proto;
        let node = match matcher_type {
            None => Ok(Node::Leaf),
            Some(MatcherType::MatcherList(list)) => cx.at("matcher_list", |cx| {
                cx.each("matchers", &list.matchers, |one, cx| builder.field_matcher(one, cx))
                    .map(|list| Node::List(list.into()))
            }),
            Some(MatcherType::MatcherTree(tree)) => {
                cx.at("matcher_tree", |cx| builder.matcher_tree(tree, cx))
            }
        };
        let on_no_match =
            on_no_match.as_ref().map(|to| cx.at("on_no_match", |cx| builder.on_match(to, cx))).transpose();
        Ok(Self { node: node?, on_no_match: on_no_match?.map(Box::new) })
    }

    /// The action that the tree leads to, if it leads to one.
    pub fn find(&self, facts: &Facts<'_>) -> Option<&A> {
        match self.search(facts) {
            Found::Action(action) => Some(action),
            Found::Nothing | Found::Unavailable => None,
        }
    }

    fn search(&self, facts: &Facts<'_>) -> Found<'_, A> {
        let found = match &self.node {
            Node::Leaf => Found::Nothing,
            Node::List(list) => search_list(list, facts),
            Node::Exact(input, map) => match input.value(facts) {
                Value::Unavailable => Found::Unavailable,
                Value::Absent | Value::Data(_) => Found::Nothing,
                Value::Text(text) => {
                    let found = std::str::from_utf8(&text).ok().and_then(|text| map.get(text));
                    found.map_or(Found::Nothing, |on_match| on_match.follow(facts))
                }
            },
            Node::Prefix(input, prefixes) => match input.value(facts) {
                Value::Unavailable => Found::Unavailable,
                Value::Absent | Value::Data(_) => Found::Nothing,
                Value::Text(text) => first_found(prefixes.find(&text), facts),
            },
            Node::Ip(input, networks) => match input.ip(facts) {
                None => Found::Unavailable,
                Some(None) => Found::Nothing,
                Some(Some(ip)) => search_networks(networks, ip, facts),
            },
            Node::Domain(input, domains) => match input.value(facts) {
                Value::Unavailable => Found::Unavailable,
                Value::Absent | Value::Data(_) => Found::Nothing,
                Value::Text(text) => {
                    let name = std::str::from_utf8(&text).unwrap_or_default();
                    first_found(domains.candidates(name), facts)
                }
            },
        };
        match (found, &self.on_no_match) {
            (Found::Nothing, Some(on_match)) => on_match.follow(facts),
            (found, _) => found,
        }
    }
}

impl<A> fmt::Debug for MatchTree<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MatchTree").finish_non_exhaustive()
    }
}

fn search_list<'t, A>(list: &'t [(Predicate, OnMatch<A>)], facts: &Facts<'_>) -> Found<'t, A> {
    for (predicate, on_match) in list {
        let found = match predicate.holds(facts) {
            None => return Found::Unavailable,
            Some(false) => continue,
            Some(true) => on_match.follow(facts),
        };
        if !matches!(found, Found::Nothing) {
            return found;
        }
    }
    Found::Nothing
}

/// The first of `candidates` that leads somewhere.
fn first_found<'t, A: 't>(
    candidates: impl Iterator<Item = &'t OnMatch<A>>,
    facts: &Facts<'_>,
) -> Found<'t, A> {
    for on_match in candidates {
        let found = on_match.follow(facts);
        if !matches!(found, Found::Nothing) {
            return found;
        }
    }
    Found::Nothing
}

impl<A> OnMatch<A> {
    fn follow(&self, facts: &Facts<'_>) -> Found<'_, A> {
        match self {
            Self::Action(action) => Found::Action(action),
            Self::Tree(tree) => tree.search(facts),
        }
    }
}

/// Where a range of addresses leads.
struct Network<A> {
    /// Only if it is the best.
    exclusive: bool,
    /// Several ranges may lead to one place.
    on_match: Arc<OnMatch<A>>,
}

fn search_networks<'t, A>(networks: &'t Networks<Network<A>>, ip: IpAddr, facts: &Facts<'_>) -> Found<'t, A> {
    let mut fitting = networks.find(ip);
    let best = fitting.next();
    let others = fitting.filter(|network| !network.exclusive);
    first_found(best.into_iter().chain(others).map(|network| &*network.on_match), facts)
}

/// Names of domains, and where they lead.
struct Domains<A> {
    exact: HashMap<Box<str>, Arc<OnMatch<A>>>,
    /// What follows `*.`.
    wildcards: HashMap<Box<str>, Arc<OnMatch<A>>>,
    /// The length of the longest of them.
    longest: usize,
    any: Option<Arc<OnMatch<A>>>,
}

impl<A> Domains<A> {
    /// Best first: the name itself, its parents from the longest on, everything.
    fn candidates<'t, 'n>(&'t self, name: &'n str) -> impl Iterator<Item = &'t OnMatch<A>> + use<'t, 'n, A> {
        // (What is longer is none of them, and a name that a client sends may have many dots.)
        let from = name.len().saturating_sub(self.longest + 1);
        let tail = name.as_bytes().get(from..).unwrap_or_default();
        let dots = tail.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(move |(at, _)| from + at);
        let parents = dots.filter_map(|dot| self.wildcards.get(name.get(dot + 1..)?));
        let named = self.exact.get(name).into_iter().chain(parents).chain(&self.any);
        named.filter(|_| !name.is_empty()).map(|on_match| &**on_match)
    }

    fn add(&mut self, domain: &str, to: &Arc<OnMatch<A>>) -> Result<(), String> {
        let is_new = match domain.strip_prefix("*.") {
            _ if domain == "*" => self.any.replace(to.clone()).is_none(),
            Some(parent) if !parent.is_empty() && !parent.contains('*') => {
                self.longest = self.longest.max(parent.len());
                self.wildcards.insert(parent.into(), to.clone()).is_none()
            }
            None if !domain.is_empty() && !domain.contains('*') => {
                self.exact.insert(domain.into(), to.clone()).is_none()
            }
            Some(_) | None => return Err(format!("'{domain}' is no domain")),
        };
        if is_new { Ok(()) } else { Err(format!("Duplicate domain: {domain}")) }
    }
}

struct Builder<'b, 'p, A> {
    purpose: &'b Purpose<'p, A>,
    depth: usize,
}

impl<A> Builder<'_, '_, A> {
    fn on_match(
        &self,
        proto: &proto::matcher::OnMatch,
        cx: &mut BuildCx<'_>,
    ) -> Result<OnMatch<A>, Rejected> {
        let proto::matcher::OnMatch { keep_matching, on_match } = proto;
        cx.reject_if(*keep_matching, "keep_matching", fields::KEEP)?;
        match on_match {
            None => Err(cx.reject("one of matcher, action is required")),
            Some(OnMatchProto::Matcher(tree)) => cx
                .at("matcher", |cx| MatchTree::build_nested(tree, self.purpose, self.depth + 1, cx))
                .map(OnMatch::Tree),
            Some(OnMatchProto::Action(action)) => cx
                .at("action", |cx| {
                    unpacked(action, cx, |message, payload, cx| (self.purpose.action)(message, payload, cx))
                })
                .map(OnMatch::Action),
        }
    }

    fn required(
        &self,
        field: &'static str,
        proto: Option<&proto::matcher::OnMatch>,
        cx: &mut BuildCx<'_>,
    ) -> Result<OnMatch<A>, Rejected> {
        cx.at(field, |cx| match proto {
            Some(proto) => self.on_match(proto, cx),
            None => Err(cx.reject("value is required")),
        })
    }

    fn field_matcher(
        &self,
        proto: &FieldMatcher,
        cx: &mut BuildCx<'_>,
    ) -> Result<(Predicate, OnMatch<A>), Rejected> {
        let FieldMatcher { predicate, on_match } = proto;
        let predicate = cx.at("predicate", |cx| match predicate {
            Some(predicate) => Predicate::build(predicate, &self.purpose.inputs, cx),
            None => Err(cx.reject("value is required")),
        });
        let on_match = self.required("on_match", on_match.as_ref(), cx);
        Ok((predicate?, on_match?))
    }

    fn matcher_tree(&self, proto: &MatcherTree, cx: &mut BuildCx<'_>) -> Result<Node<A>, Rejected> {
        let MatcherTree { input, tree_type } = proto;
        let input = cx.at("input", |cx| Input::build(input.as_ref(), &self.purpose.inputs, cx))?;
        if !input.is_text() {
            return Err(cx.at("input", |cx| cx.reject("is no text: only custom matchers understand it")));
        }
        match tree_type {
            None => Err(cx.reject("one of exact_match_map, prefix_match_map, custom_match is required")),
            Some(TreeType::ExactMatchMap(map)) => {
                let map = cx.at("exact_match_map", |cx| self.match_map(map, cx))?;
                Ok(Node::Exact(input, map.into_iter().collect()))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let map = cx.at("prefix_match_map", |cx| self.match_map(map, cx))?;
                Ok(Node::Prefix(input, Prefixes::new(map)))
            }
            Some(TreeType::CustomMatch(matcher)) => cx.at("custom_match", |cx| {
                unpacked(matcher, cx, |message, payload, cx| match message {
                    IP_MATCHER => self.networks(&decode(payload, cx)?, cx).map(|all| Node::Ip(input, all)),
                    SERVER_NAME_MATCHER => {
                        self.domains(&decode(payload, cx)?, cx).map(|all| Node::Domain(input, all))
                    }
                    other => Err(cx.reject(format!("{other} is no matcher that is available here"))),
                })
            }),
        }
    }

    fn match_map(&self, proto: &MatchMap, cx: &mut BuildCx<'_>) -> Result<Vec<Entry<A>>, Rejected> {
        let mut keys: Vec<&String> = proto.map.keys().collect();
        keys.sort_unstable();
        let mut built = Vec::with_capacity(keys.len());
        let mut rejected = false;
        for key in keys {
            let Some(on_match) = proto.map.get(key) else { continue };
            match cx.at_key("map", key, |cx| self.on_match(on_match, cx)) {
                Ok(on_match) => built.push((key.as_str().into(), on_match)),
                Err(Rejected) => rejected = true,
            }
        }
        if rejected { Err(Rejected) } else { Ok(built) }
    }

    fn networks(
        &self,
        proto: &proto::IpMatcher,
        cx: &mut BuildCx<'_>,
    ) -> Result<Networks<Network<A>>, Rejected> {
        let built = cx.each("range_matchers", &proto.range_matchers, |one, cx| {
            let proto::ip_matcher::IpRangeMatcher { ranges, on_match, exclusive } = one;
            let ranges = cx.each("ranges", ranges, Cidr::build_xds)?;
            let on_match = Arc::new(self.required("on_match", on_match.as_ref(), cx)?);
            let network = |range| (range, Network { exclusive: *exclusive, on_match: on_match.clone() });
            Ok(ranges.into_iter().map(network).collect::<Vec<_>>())
        })?;
        Ok(Networks::new(built.into_iter().flatten()))
    }

    fn domains(
        &self,
        proto: &proto::ServerNameMatcher,
        cx: &mut BuildCx<'_>,
    ) -> Result<Domains<A>, Rejected> {
        let mut all = Domains { exact: HashMap::new(), wildcards: HashMap::new(), longest: 0, any: None };
        cx.each("domain_matchers", &proto.domain_matchers, |one, cx| {
            let proto::server_name_matcher::DomainMatcher { domains, on_match } = one;
            let on_match = Arc::new(self.required("on_match", on_match.as_ref(), cx)?);
            cx.each("domains", domains, |domain, cx| {
                all.add(domain, &on_match).map_err(|reason| cx.reject(reason))
            })
        })?;
        Ok(all)
    }
}

/// Builds from what an extension's configuration holds: the name of the message, and its payload.
fn unpacked<T>(
    extension: &TypedExtensionConfig,
    cx: &mut BuildCx<'_>,
    build: impl FnOnce(&str, &[u8], &mut BuildCx<'_>) -> Result<T, Rejected>,
) -> Result<T, Rejected> {
    cx.at("typed_config", |cx| {
        let Some(any) = &extension.typed_config else { return Err(cx.reject("value is required")) };
        let (message, payload) = cx.unpack(any)?;
        build(&message, &payload, cx)
    })
}
