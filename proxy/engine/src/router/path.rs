//! Path rules of routes, and the index that finds the first route for a path without trying them all.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::head::RequestHead;
use proxy_core::matcher::path::without_parameters;
use proxy_core::matcher::string::Case;
use proxy_core::matcher::{Regex, UriTemplate};
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;
use xds_api::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;

use super::route_table::PathParameters;

/// Below so many routes trying one after the other is faster.
const MIN_INDEXED: usize = 8;
const URI_TEMPLATE_MATCH: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// What a route demands of the path.
#[derive(Debug)]
pub struct PathRule {
    kind: PathKind,
    case: Case,
}

#[derive(Debug)]
enum PathKind {
    Prefix(Box<str>),
    Exact(Box<str>),
    /// A prefix that ends where a segment ends.
    SeparatedPrefix(Box<str>),
    Regex(Regex),
    /// CONNECT requests, whatever their path.
    Connect,
    Template(Arc<UriTemplate>),
}

impl PathRule {
    /// A rule that holds for every path.
    pub(super) fn any() -> Self {
        Self { kind: PathKind::Prefix("/".into()), case: Case::Sensitive }
    }

    pub(super) fn build(
        proto: Option<&PathSpecifier>,
        case_sensitive: Option<bool>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let case = if case_sensitive.unwrap_or(true) { Case::Sensitive } else { Case::Insensitive };
        let Some(specifier) = proto else {
            return Err(cx.reject("path_specifier: value is required"));
        };
        let kind = match specifier {
            PathSpecifier::Prefix(prefix) => PathKind::Prefix(prefix.as_str().into()),
            PathSpecifier::Path(path) => PathKind::Exact(path.as_str().into()),
            PathSpecifier::PathSeparatedPrefix(prefix) => {
                cx.at("path_separated_prefix", |cx| check_separated_prefix(prefix, cx))?;
                PathKind::SeparatedPrefix(prefix.as_str().into())
            }
            PathSpecifier::SafeRegex(regex) => {
                PathKind::Regex(cx.at("safe_regex", |cx| Regex::build(regex, cx))?)
            }
            PathSpecifier::ConnectMatcher(_) => PathKind::Connect,
            PathSpecifier::PathMatchPolicy(policy) => {
                PathKind::Template(cx.at("path_match_policy", |cx| build_template(policy, cx))?)
            }
        };
        Ok(Self { kind, case })
    }

    /// Whether the rule holds for a request with this `path` (query and ignored parameters cut off).
    fn holds(&self, request: &RequestHead, path: &str, whole_path: &str) -> bool {
        let starts_with = |prefix: &str| {
            path.as_bytes().get(..prefix.len()).is_some_and(|start| self.case.equal(start, prefix.as_bytes()))
        };
        if request.path.is_empty() && !matches!(self.kind, PathKind::Connect) {
            return false;
        }
        match &self.kind {
            PathKind::Prefix(prefix) => starts_with(prefix),
            PathKind::Exact(exact) => path.len() == exact.len() && starts_with(exact),
            PathKind::SeparatedPrefix(prefix) => {
                starts_with(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathKind::Regex(regex) => regex.is_full_match(path.as_bytes()),
            PathKind::Connect => request.method == http::Method::CONNECT,
            PathKind::Template(template) => template.matches(whole_path),
        }
    }

    /// How much of `path` (without query) a prefix rewrite replaces.
    pub(super) fn matched_len(&self, path: &str) -> usize {
        match &self.kind {
            PathKind::Prefix(text) | PathKind::Exact(text) | PathKind::SeparatedPrefix(text) => {
                text.len().min(path.len())
            }
            PathKind::Regex(_) | PathKind::Connect | PathKind::Template(_) => path.len(),
        }
    }

    /// The template, if the rule is one.
    pub(super) fn template(&self) -> Option<&Arc<UriTemplate>> {
        match &self.kind {
            PathKind::Template(template) => Some(template),
            PathKind::Prefix(_)
            | PathKind::Exact(_)
            | PathKind::SeparatedPrefix(_)
            | PathKind::Regex(_)
            | PathKind::Connect => None,
        }
    }
}

fn check_separated_prefix(prefix: &str, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let is_valid = prefix.len() > 1 && !prefix.ends_with('/') && !prefix.contains(['?', '#']);
    if is_valid { Ok(()) } else { Err(cx.reject(format!("value does not match regex pattern: {prefix}"))) }
}

fn build_template(policy: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Arc<UriTemplate>, Rejected> {
    let TypedExtensionConfig { name: _, typed_config } = policy;
    cx.at("typed_config", |cx| {
        let Some(any) = typed_config else { return Err(cx.reject("value is required")) };
        let (message, payload) = cx.unpack(any)?;
        match message.as_str() {
            URI_TEMPLATE_MATCH => {
                let proto: UriTemplateMatchConfig = decode(&payload, cx)?;
                UriTemplate::build(&proto, cx).map(Arc::new)
            }
            other => Err(cx.reject(format!("path match policy {other} is not available"))),
        }
    })
}

/// Finds the first route of a virtual host whose path rule and other conditions hold.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    exact: HashMap<Box<str>, Numbers, RandomState>,
    prefixes: PrefixIndex<Numbers>,
    /// Routes that have to be tried: regexes, templates, case-insensitive ones, CONNECT.
    others: Numbers,
    is_indexed: bool,
}

/// Positions of routes in their virtual host, ascending.
type Numbers = SmallVec<[u32; 2]>;

impl PathIndex {
    /// Indexes the rules of a virtual host's routes, in their order.
    pub(super) fn new<'r>(rules: impl ExactSizeIterator<Item = &'r PathRule>) -> Self {
        let mut index = Self { is_indexed: rules.len() >= MIN_INDEXED, ..Self::default() };
        if !index.is_indexed {
            return index;
        }
        let mut prefixes: HashMap<Box<[u8]>, Numbers, RandomState> = HashMap::default();
        for (number, rule) in (0u32..).zip(rules) {
            match (&rule.kind, rule.case) {
                (PathKind::Exact(path), Case::Sensitive) => {
                    index.exact.entry(path.clone()).or_default().push(number);
                }
                (PathKind::Prefix(prefix) | PathKind::SeparatedPrefix(prefix), Case::Sensitive) => {
                    prefixes.entry(prefix.as_bytes().into()).or_default().push(number);
                }
                (
                    PathKind::Exact(_)
                    | PathKind::Prefix(_)
                    | PathKind::SeparatedPrefix(_)
                    | PathKind::Regex(_)
                    | PathKind::Connect
                    | PathKind::Template(_),
                    _,
                ) => index.others.push(number),
            }
        }
        index.prefixes = PrefixIndex::new(prefixes);
        index
    }

    /// The first of `count` routes whose rule (`rule`) holds for `request` and that `accepts` takes.
    pub(super) fn first<'r>(
        &self,
        count: usize,
        request: &RequestHead,
        parameters: PathParameters,
        rule: impl Fn(u32) -> Option<&'r PathRule>,
        accepts: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let whole_path = request.path_only();
        let path = match parameters {
            PathParameters::Ignored if whole_path.contains(';') => Cow::Owned(without_parameters(whole_path)),
            PathParameters::Ignored | PathParameters::Matched => Cow::Borrowed(whole_path),
        };
        let path = &*path;
        let fits = |number: u32| {
            rule(number).is_some_and(|rule| rule.holds(request, path, whole_path)) && accepts(number)
        };
        if !self.is_indexed {
            return (0..u32::try_from(count).unwrap_or(u32::MAX)).find(|number| fits(*number));
        }
        let mut lists: SmallVec<[&[u32]; 16]> = SmallVec::new();
        lists.push(&self.others);
        if let Some(exact) = self.exact.get(path) {
            lists.push(exact);
        }
        self.prefixes.each(path.as_bytes(), |numbers| lists.push(numbers));
        loop {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let (number, rest) = next.split_first()?;
            *next = rest;
            if fits(*number) {
                return Some(*number);
            }
        }
    }
}

/// Values by prefix: finds all stored prefixes of a string with one binary search and a walk up.
#[derive(Debug)]
pub(super) struct PrefixIndex<V> {
    /// Sorted by key.
    nodes: Box<[PrefixNode<V>]>,
}

#[derive(Debug)]
struct PrefixNode<V> {
    key: Box<[u8]>,
    /// The longest other key that is a prefix of this one.
    parent: Option<u32>,
    value: V,
}

impl<V> Default for PrefixIndex<V> {
    fn default() -> Self {
        Self { nodes: Box::default() }
    }
}

impl<V> PrefixIndex<V> {
    /// Indexes distinct keys.
    pub(super) fn new(values: impl IntoIterator<Item = (Box<[u8]>, V)>) -> Self {
        let mut nodes: Vec<PrefixNode<V>> =
            values.into_iter().map(|(key, value)| PrefixNode { key, parent: None, value }).collect();
        nodes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        // In sorted order, the keys that are prefixes of the present one form a stack.
        let mut stack: Vec<u32> = Vec::new();
        for at in 0..nodes.len() {
            while let Some(top) = stack.last()
                && !nodes[at].key.starts_with(&nodes[*top as usize].key)
            {
                stack.pop();
            }
            nodes[at].parent = stack.last().copied();
            stack.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self { nodes: nodes.into_boxed_slice() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Calls `visit` with the value of every key that is a prefix of `text`, longest first.
    pub(super) fn each<'v>(&'v self, text: &[u8], mut visit: impl FnMut(&'v V)) {
        let mut at = self.start(text);
        while let Some(node) = at {
            if text.starts_with(&node.key) {
                visit(&node.value);
            }
            at = self.parent(node);
        }
    }

    /// The value of the longest key, at most `max` long, that is a prefix of `text`.
    pub(super) fn longest(&self, text: &[u8], max: usize) -> Option<&V> {
        let mut at = self.start(text);
        while let Some(node) = at {
            if node.key.len() <= max && text.starts_with(&node.key) {
                return Some(&node.value);
            }
            at = self.parent(node);
        }
        None
    }

    /// The greatest key not greater than `text`: every prefix of `text` is it or one of its ancestors.
    fn start(&self, text: &[u8]) -> Option<&PrefixNode<V>> {
        let after = self.nodes.partition_point(|node| *node.key <= *text);
        after.checked_sub(1).and_then(|at| self.nodes.get(at))
    }

    fn parent(&self, node: &PrefixNode<V>) -> Option<&PrefixNode<V>> {
        node.parent.and_then(|at| self.nodes.get(at as usize))
    }
}

#[cfg(test)]
mod tests;
