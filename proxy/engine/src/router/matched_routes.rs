//! Which routes of a virtual host are tried for a request: all of them, in order, or those that a matcher tree leads to.
//!
//! What a tree leads to is tried like any list of routes: each still has conditions of its own. Where none of them holds, or
//! the tree leads nowhere, the request has no route.
//! Source: Envoy `envoy/config/route/v3/route_components.proto` (`VirtualHost.matcher`, `RouteList`); observed on 1.40.

use std::cell::RefCell;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::facts::{Facts, Layer};
use proxy_core::head::RequestHead;
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::xds::r#type::matcher::v3::Matcher;

use super::path::PathIndex;
use super::route::{RouteBuilder, RouteEntry};
use super::route_table::PathParameters;

const ROUTE: &str = "envoy.config.route.v3.Route";
const ROUTE_LIST: &str = "envoy.config.route.v3.RouteList";

/// Whether trees of routes may ask for inputs of that type. Envoy lets them ask for nothing else.
fn asks_of_request(input: &str) -> bool {
    matches!(
        input,
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
            | "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
    )
}

/// What is said of the others.
fn refuse_input(input: &str) -> String {
    format!("Route table can only match on request headers, saw {input}")
}

/// The routes of a virtual host.
#[derive(Debug)]
pub(super) enum HostRoutes {
    /// Listed.
    Listed(RouteRange),
    /// By a tree.
    Matched(Box<MatchTree<RouteRange>>),
}

/// Routes of a table that follow each other and are tried in order.
#[derive(Debug)]
pub(super) struct RouteRange {
    /// Number of the first in the table, and how many there are.
    first: u32,
    count: u32,
    index: PathIndex,
}

impl HostRoutes {
    /// Builds what the virtual host lists, or its tree.
    pub(super) fn build(
        listed: &[proto::Route],
        matcher: Option<&Matcher>,
        routes: &mut RouteBuilder,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let Some(matcher) = matcher else {
            return RouteRange::build("routes", listed, routes, cx).map(Self::Listed);
        };
        if !listed.is_empty() {
            return Err(cx.reject("cannot set both matcher and routes on virtual host"));
        }
        let routes = RefCell::new(routes);
        let action = |message: &str, payload: &[u8], cx: &mut BuildCx<'_>| {
            let mut borrowed = routes.borrow_mut();
            let routes = &mut **borrowed;
            match message {
                ROUTE => RouteRange::build_one(&decode(payload, cx)?, routes, cx),
                ROUTE_LIST => {
                    let proto::RouteList { routes: listed } = decode(payload, cx)?;
                    RouteRange::build("routes", &listed, routes, cx)
                }
                _ => Err(cx.reject(format!("{message} is no action that is available here"))),
            }
        };
        let inputs = Inputs { layer: Layer::Http, admits: &asks_of_request, refuse: &refuse_input };
        let purpose = Purpose { inputs, action: &action };
        let tree = cx.at("matcher", |cx| MatchTree::build(matcher, &purpose, cx))?;
        Ok(Self::Matched(Box::new(tree)))
    }

    /// Whether a tree leads to them.
    pub(super) fn are_matched(&self) -> bool {
        matches!(self, Self::Matched(_))
    }

    /// Those that are tried for `request`.
    #[inline]
    pub(super) fn of_request(&self, request: &RequestHead, info: &StreamInfo) -> Option<&RouteRange> {
        match self {
            Self::Listed(range) => Some(range),
            Self::Matched(tree) => tree.find(&Facts::of_request(info, request, None)),
        }
    }
}

impl RouteRange {
    fn build(
        field: &'static str,
        protos: &[proto::Route],
        routes: &mut RouteBuilder,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let first = routes.next();
        cx.each(field, protos, |route, cx| routes.add(route, cx))?;
        Ok(Self::since(first, routes))
    }

    fn build_one(
        proto: &proto::Route,
        routes: &mut RouteBuilder,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let first = routes.next();
        routes.add(proto, cx)?;
        Ok(Self::since(first, routes))
    }

    /// From number `first` to the end of what was built.
    fn since(first: u32, routes: &RouteBuilder) -> Self {
        let own = routes.entries.get(first as usize..).unwrap_or_default();
        let index = PathIndex::new(own.iter().map(|route| &route.path));
        Self { first, count: routes.next() - first, index }
    }

    /// Number in `routes` of the first that takes `request`.
    pub(super) fn find(
        &self,
        routes: &[RouteEntry],
        parameters: PathParameters,
        request: &RequestHead,
        conditions: impl Fn(&RouteEntry) -> bool,
    ) -> Option<u32> {
        let own = routes.get(self.first as usize..(self.first + self.count) as usize)?;
        let entry = |number: u32| own.get(number as usize);
        let found = self.index.first(
            own.len(),
            request,
            parameters,
            |number| entry(number).map(|entry| &entry.path),
            |number| entry(number).is_some_and(&conditions),
        )?;
        Some(self.first + found)
    }
}
