//! Copies of requests that other clusters get (`request_mirror_policies`): sent once the request is complete, their answers thrown away.
//!
//! A copy is what leaves for the route's cluster: after the filters, the route's mutations and rewrites, with the whole body. It costs
//! nobody's answer anything: a body that is larger than may be kept is not mirrored, and a cluster that is not there gets nothing. Tunnels have no
//! copies. Source: Envoy `source/common/router/{router,shadow_writer_impl}.cc`; observed on 1.40.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use proxy_core::callout::{Call, EnvoyHeaders};

use super::filter_chain::{Ending, Parts};
use super::stream::Stream;
use crate::router::route::Action;
use crate::upstream::cluster::Cluster;
use crate::upstream::mirror::MirrorTo;

/// How long a copy may take if its route has no timeout.
const LONGEST: Duration = Duration::from_secs(300);

/// The copies of a request that is not complete yet.
pub(crate) struct Mirrors {
    calls: Vec<Call>,
    body: BytesMut,
    limit: usize,
}

impl Stream<'_> {
    /// Makes copies of the head, if the cluster or the route wants any. Not more than `limit` bytes of the body are kept.
    pub(super) fn mirror(&mut self, cluster: &Cluster, timeout: Option<Duration>, limit: usize) {
        let of_route = match self.route().map(|route| route.action()) {
            Some(Action::Forward(forward)) => Some(&*forward.mirrors),
            Some(Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding) | None => None,
        };
        let policies = match &*cluster.http.mirrors {
            [] => of_route.unwrap_or_default(),
            of_cluster => of_cluster,
        };
        if policies.is_empty() || self.is_tunnel() || self.request.method == Method::CONNECT {
            return;
        }
        let (runtime, clusters) = (&self.cx.shared.env.runtime, &self.cx.shared.clusters);
        let mut calls = Vec::new();
        for policy in policies.iter().filter(|policy| policy.chooses(runtime, self.random)) {
            let cluster = match &policy.to {
                MirrorTo::Named(name) => clusters.get(name),
                MirrorTo::FromHeader(header) => {
                    header.first_in_request(&self.request).and_then(|name| clusters.by_name(name))
                }
            };
            let Some(cluster) = cluster else { continue };
            let mut call = Call::new(cluster.cluster.name.clone(), policy.copy(&self.request), Bytes::new());
            call.timeout = timeout;
            call.envoy_headers = EnvoyHeaders::InternalAndForwarded;
            calls.push(call);
        }
        if !calls.is_empty() {
            self.mirrors = Some(Box::new(Mirrors { calls, body: BytesMut::new(), limit }));
        }
    }

    /// Adds to the copies what goes to the host, and sends them if that is the end.
    pub(super) fn mirror_parts(&mut self, parts: &Parts) {
        let Some(mirrors) = &mut self.mirrors else { return };
        if mirrors.body.len().saturating_add(parts.data.len()) > mirrors.limit {
            self.mirrors = None;
            if let Some(cluster) = &self.cluster {
                cluster.cluster.stats.traffic.here().retry_or_shadow_abandoned.inc();
            }
            return;
        }
        mirrors.body.extend_from_slice(&parts.data);
        if let Some(end) = &parts.end {
            self.send_mirrors(end);
        }
    }

    /// The request is complete: its copies leave.
    pub(super) fn send_mirrors(&mut self, end: &Ending) {
        let Some(mirrors) = self.mirrors.take() else { return };
        let Mirrors { calls, body, .. } = *mirrors;
        let body = body.freeze();
        let trailers = match end {
            Ending::Trailers(trailers) => Some(&**trailers),
            Ending::Stream => None,
        };
        for call in calls {
            let limit = call.timeout.unwrap_or(LONGEST);
            let copying = self.cx.shared.copy(Call { body: body.clone(), ..call }, trailers.cloned());
            // Nobody waits for it, and it ends by its deadline.
            tokio::task::spawn_local(async move { drop(tokio::time::timeout(limit, copying).await) });
        }
    }
}
