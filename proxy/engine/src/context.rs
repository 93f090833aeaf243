//! What everything that serves connections on one worker shares, whatever it speaks.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use proxy_core::callout::{Call, CallFailure, Called, Caller, Talk};
use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::{Engine, LocalBoxFuture};
use proxy_core::head::{HeadLimits, Protocol};
use proxy_core::runtime::Runtime;

use crate::local::drain::ProcessDrain;
use crate::local::overload::Overload;
use crate::router::Routes;
use crate::upstream::call;
use crate::upstream::call::copy::CopyBody;
use crate::upstream::dynamic;
use crate::upstream::http_options::UpstreamProtocol;
use crate::upstream::pool::Clusters;

/// What all connections of a worker share.
pub struct Context {
    /// The process.
    pub env: Arc<BuildEnv>,
    /// Clusters and their connection pools.
    pub clusters: Rc<Clusters>,
    /// Route tables delivered by RDS.
    pub routes: Rc<Routes>,
    /// Whether the process drains, and since when.
    pub drain: Arc<ProcessDrain>,
    /// What is done against overload, if anything may be.
    pub overload: Option<Arc<Overload>>,
    /// The worker's random numbers.
    pub random: RefCell<fastrand::Rng>,
}

impl Context {
    /// Sends a copy of a request, whose body comes along.
    pub(crate) fn copy(&self, copy: Call, body: CopyBody) -> impl Future<Output = ()> + use<> {
        let random = self.random.borrow_mut().fork();
        call::send_copy(self.clusters.clone(), self.env.clone(), random, copy, body)
    }
}

impl Caller for Context {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Called> {
        let random = self.random.borrow_mut().fork();
        Box::pin(call::run(self.clusters.clone(), self.env.clone(), random, call))
    }

    fn converse(&self, call: Call, talk: Talk) -> LocalBoxFuture<'static, Result<(), CallFailure>> {
        let random = self.random.borrow_mut().fork();
        Box::pin(call::converse(self.clusters.clone(), self.env.clone(), random, call, talk))
    }

    fn send(&self, call: Call) {
        tokio::task::spawn_local(self.call(call));
    }
}

impl Engine for Context {
    fn runtime(&self) -> &Runtime {
        &self.env.runtime
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    fn health_check_failed(&self) -> bool {
        self.drain.health_check_failed()
    }

    fn cluster_health(&self, cluster: &str) -> Option<(usize, usize)> {
        let cluster = self.clusters.by_name(cluster)?;
        let hosts = cluster.hosts();
        Some((hosts.healthy_len(), hosts.len()))
    }

    fn upstream_protocol(&self, cluster: &str, downstream: Protocol) -> Option<Protocol> {
        let http = &self.clusters.by_name(cluster)?.cluster.http;
        Some(match http.protocol {
            UpstreamProtocol::Http1 => Protocol::Http11,
            UpstreamProtocol::Http2 | UpstreamProtocol::Alpn => Protocol::Http2,
            UpstreamProtocol::UseDownstream => downstream,
        })
    }

    fn response_limits(&self, cluster: &str, protocol: Protocol) -> Option<HeadLimits> {
        let http = &self.clusters.by_name(cluster)?.cluster.http;
        let bytes = http.max_response_head(protocol) as usize;
        Some(HeadLimits { fields: http.max_headers_count as usize, bytes })
    }

    fn dynamic_port(&self, cluster: &str) -> Option<u16> {
        self.clusters.by_name(cluster).and_then(|cluster| dynamic::port(&cluster.cluster))
    }

    fn count_response(&self, cluster: &str, status: StatusCode) {
        let Some(cluster) = self.clusters.by_name(cluster) else { return };
        let stats = cluster.cluster.stats.traffic.here();
        stats.upstream_rq.inc(status.as_u16());
        stats.internal_upstream_rq.inc(status.as_u16());
    }
}
