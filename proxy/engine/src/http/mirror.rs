//! Copies of requests that other clusters get (`request_mirror_policies`): sent along with the request, their answers thrown away.
//!
//! A copy is what leaves for the route's cluster: after the filters, the route's mutations and rewrites. It begins when a connection to a
//! host is sought, so what the proxy refuses by itself has none, and its body comes along piece by piece. It costs nobody's answer
//! anything: a copy that takes less than comes is given up, and a cluster that is not there gets nothing. Tunnels have no copies.
//! Source: Envoy `source/common/router/{router,shadow_writer_impl}.cc`; observed on 1.40.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use proxy_core::callout::{Call, EnvoyHeaders};
use proxy_core::extension::http_filter::Direction;

use super::filter_chain::{Ending, Parts};
use super::passing::Side;
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::Downstream;
use crate::local::timers::Timer;
use crate::router::route::Action;
use crate::upstream::call::copy::{self, CopyBody, Feed, Unfed};
use crate::upstream::cluster::Cluster;
use crate::upstream::mirror::{MirrorPolicy, MirrorTo};

/// How far behind a copy may be at least, in bytes, however little a connection may hold.
const BEHIND: usize = 64 * 1024;

/// The copies of a request.
pub(crate) struct Mirrors {
    /// What they are made by.
    policies: Arc<[MirrorPolicy]>,
    /// Those that are not begun, by their policy: each is the head of the request until it begins.
    waiting: Vec<(usize, Call, CopyBody)>,
    /// Their bodies, while the request is not complete.
    feeds: Vec<Feed>,
}

impl Stream<'_> {
    /// Makes copies of the head, if the cluster or the route wants any.
    pub(super) fn mirror(&mut self, cluster: &Cluster, timeout: Option<Duration>) {
        let of_route = match self.route().map(|route| route.action()) {
            Some(Action::Forward(forward)) => Some(&forward.mirrors),
            Some(Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding) | None => None,
        };
        let of_cluster = &cluster.http.mirrors;
        let policies = if of_cluster.is_empty() { of_route } else { Some(of_cluster) };
        let Some(policies) = policies.filter(|policies| !policies.is_empty()) else { return };
        if self.is_tunnel() || self.request.method == Method::CONNECT {
            return;
        }
        let (runtime, clusters) = (&self.cx.shared.env.runtime, &self.cx.shared.clusters);
        let (mut waiting, mut feeds) = (Vec::new(), Vec::new());
        for (index, policy) in policies.iter().enumerate() {
            if !policy.chooses(runtime, self.random) {
                continue;
            }
            let cluster = match &policy.to {
                MirrorTo::Named(name) => clusters.get(name),
                MirrorTo::FromHeader(header) => {
                    header.first_in_request(&self.request).and_then(|name| clusters.by_name(name))
                }
            };
            let Some(cluster) = cluster else { continue };
            let mut call = Call::new(cluster.cluster.name.clone(), self.request.clone(), Bytes::new());
            call.timeout = timeout;
            call.envoy_headers = EnvoyHeaders::InternalAndForwarded;
            let (feed, body) = copy::body();
            waiting.push((index, call, body));
            feeds.push(feed);
        }
        if !waiting.is_empty() {
            let policies = policies.clone();
            self.mirrors = Some(Box::new(Mirrors { policies, waiting, feeds }));
        }
    }

    /// A host is about to get the request: its copies leave, too.
    pub(super) fn begin_mirrors(&mut self) {
        let Some(mirrors) = &mut self.mirrors else { return };
        for (index, mut call, body) in mirrors.waiting.drain(..) {
            if let Some(policy) = mirrors.policies.get(index) {
                policy.finish(&mut call.request, &self.info);
            }
            // Nobody waits for it: it ends by its deadline, or when it is given up.
            tokio::task::spawn_local(self.cx.shared.copy(call, body));
        }
        if mirrors.feeds.is_empty() {
            self.mirrors = None;
        }
    }

    /// No host gets the request: its copies get what has come of it all the same.
    pub(super) async fn mirror_what_came<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<(), StreamEnd> {
        while self.mirrors.is_some() && !self.request_done && !self.paces(Direction::Request) {
            let came = poll_fn(|cx| Poll::Ready(down.poll_body(cx))).await;
            // (Who answers the client sees for himself that it is gone.)
            let Poll::Ready(Ok(body)) = came else { break };
            let parts = self.receive(body);
            let parts = self.pass(down, timer, Side::Downstream, Direction::Request, 0, parts).await?;
            self.keep(&parts);
        }
        Ok(())
    }

    /// Has the copies get what goes to the host.
    pub(super) fn mirror_parts(&mut self, parts: &Parts) {
        let most = self.cx.buffer_limit.max(BEHIND);
        let Some(mirrors) = &mut self.mirrors else { return };
        let cluster = self.cluster.as_ref();
        mirrors.feeds.retain(|feed| {
            let fed = feed.push(parts.data.clone(), most);
            if let Some(cluster) = cluster.filter(|_| fed == Err(Unfed::Behind)) {
                cluster.cluster.stats.traffic.here().retry_or_shadow_abandoned.inc();
            }
            fed.is_ok()
        });
        if mirrors.feeds.is_empty() && mirrors.waiting.is_empty() {
            self.mirrors = None;
            return;
        }
        if let Some(end) = &parts.end {
            self.finish_mirrors(end);
        }
    }

    /// The request is complete.
    pub(super) fn finish_mirrors(&mut self, end: &Ending) {
        let Some(mirrors) = &mut self.mirrors else { return };
        let trailers = match end {
            Ending::Trailers(trailers) => Some(&**trailers),
            Ending::Stream => None,
        };
        for feed in mirrors.feeds.drain(..) {
            feed.finish(trailers.cloned());
        }
        if mirrors.waiting.is_empty() {
            self.mirrors = None;
        }
    }
}
