//! The filters behind the router: they see what it sends to a host, and what the host sends before the router does.
//!
//! A cluster's own chain (`HttpProtocolOptions.http_filters`) takes the place of the router's (`upstream_http_filters`).
//! What they see of the stream is the client's. The request head passes once there is a host, before there is a connection;
//! a request that is sent again does not pass again.
//! Source: Envoy `docs/root/configuration/http/http_filters/http_filters.rst`, `upstream_http_filters` in `router.proto`.

use std::sync::Arc;

use bytes::Bytes;
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::BodyEvent;
use proxy_core::http_chain::HttpFilter;

use super::filter_chain::{Ending, FilterChain, Parts, View};
use super::passing::Side;
use super::stream::{Stream, StreamEnd, selected};
use crate::codec::downstream::Downstream;
use crate::local::timers::Timer;
use crate::upstream::cluster::Cluster;

/// The filters of one stream to a host.
pub(crate) struct UpstreamFilters {
    configured: Arc<[HttpFilter]>,
    pub(crate) chain: FilterChain,
    /// The route is chosen: what filters ask for here is not done.
    clear_route: bool,
}

impl UpstreamFilters {
    /// Whether the next piece of a response body concerns any of them.
    pub(crate) fn see_response_body(&self) -> bool {
        self.chain.concerns(Direction::Response, &Parts::body(BodyEvent::Data(Bytes::new())))
    }
}

impl Stream<'_> {
    /// Passes the request head through the filters of streams to `cluster`, and what follows for as long as one of them
    /// holds the head.
    pub(crate) async fn pass_to_upstream<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        cluster: &Cluster,
    ) -> Result<(), StreamEnd> {
        let own = cluster.http.filters.as_ref();
        let Some(configured) = own.or(self.router().upstream_filters.as_ref()) else {
            return Ok(());
        };
        let configured = configured.0.clone();
        self.upstream_filters = Some(Box::new(UpstreamFilters {
            chain: FilterChain::new(&configured, self.route().as_ref(), self.cx.buffer_limit),
            configured,
            clear_route: false,
        }));
        let mut parts = self.gathered.take().map_or_else(Parts::default, |gathered| *gathered);
        parts.head = true;
        let ends = self.request_done && !self.is_tunnel() && !self.filters.holds(Direction::Request);
        if ends && parts.data.is_empty() && parts.end.is_none() {
            parts.end = Some(Ending::Stream);
        }
        Box::pin(self.pass_head(down, timer, Side::Upstream, parts)).await
    }

    /// Passes what is on its way to the host, or comes from it, through the filters behind the router.
    pub(crate) async fn pass_upstream<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        direction: Direction,
        parts: Parts,
    ) -> Result<Parts, StreamEnd> {
        match self.upstream_filters {
            None => Ok(parts),
            // (Few have such filters: the future of all others is not to grow by this one.)
            Some(_) => Box::pin(self.pass(down, timer, Side::Upstream, direction, 0, parts)).await,
        }
    }

    /// The filters behind the router, their configuration, and what they may see, borrowed side by side.
    pub(crate) fn upstream_filter_view(&mut self) -> Option<(&mut FilterChain, &[HttpFilter], View<'_>)> {
        let UpstreamFilters { configured, chain, clear_route } = self.upstream_filters.as_deref_mut()?;
        let view = View {
            request: &mut self.request,
            response: self.response.as_mut(),
            info: &mut self.info,
            route: selected(self.table.as_ref(), self.matched),
            clear_route,
            head_limits: self.cx.manager.head_limits(),
            engine: &*self.cx.shared,
        };
        Some((chain, configured, view))
    }

    /// Whether a filter behind the router holds anything in `direction`.
    pub(crate) fn upstream_holds(&self, direction: Direction) -> bool {
        self.upstream_filters.as_ref().is_some_and(|filters| filters.chain.holds(direction))
    }

    /// Whether as much waits in `direction` as may be held, because a filter behind the router did not let it pass yet.
    pub(crate) fn upstream_paces(&self, direction: Direction) -> bool {
        self.upstream_filters.as_ref().is_some_and(|filters| filters.chain.paces(direction))
    }

    /// Tells the filters behind the router that the stream is over.
    pub(crate) fn complete_upstream_filters(&mut self) {
        if let Some(filters) = &mut self.upstream_filters {
            let engine = &*self.cx.shared;
            filters.chain.complete(&self.request, self.response.as_ref(), &mut self.info, engine);
        }
    }
}
