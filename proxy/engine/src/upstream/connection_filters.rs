//! The network filters that connections to the hosts of a cluster pass (`Cluster.filters`).
//!
//! They look at a connection when it is made, its TLS session too, may say something first, and see what the host sends before
//! anybody else does. What they leave in the filter state is for the streams that the connection carries.
//! Source: `envoy/config/cluster/v3/filter.proto`.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, ConnectionVerdict, CreateUpstreamFilter, NetworkFilter,
};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::tls::TlsInfo;
use proxy_core::upstream::Host;
use xds_api::envoy::config::cluster::v3::Filter;

use super::cluster::Cluster;
use crate::local::clock;
use crate::net::connection::Connection;
use crate::net::gate::{Gate, Guard, greeting};

/// The filters of a cluster.
#[derive(Default)]
pub struct ConnectionFilters(Box<[Arc<CreateUpstreamFilter>]>);

impl fmt::Debug for ConnectionFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} filters", self.0.len())
    }
}

impl ConnectionFilters {
    /// Builds those of a cluster.
    pub(super) fn build(filters: &[Filter], cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.each("filters", filters, build).map(|filters| Self(filters.into()))
    }

    /// Has a connection that was just made to `host` pass the filters, if there are any: what they know of it from now on, or why there
    /// is to be no such connection. Has no deadline of its own.
    pub(super) fn of<'c>(
        &'c self,
        connection: &'c mut Connection,
        session: Option<&Arc<TlsInfo>>,
        host: &'c Arc<Host>,
        cluster: &'c Cluster,
    ) -> Option<impl Future<Output = Result<Rc<RefCell<StreamInfo>>, String>> + use<'c>> {
        let session = session.cloned();
        (!self.0.is_empty()).then(|| self.pass(connection, session, host, cluster))
    }

    async fn pass(
        &self,
        connection: &mut Connection,
        session: Option<Arc<TlsInfo>>,
        host: &Arc<Host>,
        cluster: &Cluster,
    ) -> Result<Rc<RefCell<StreamInfo>>, String> {
        let local = connection.local_address().map_err(|error| error.to_string())?;
        let info = ConnectionInfo::new(host.address.clone(), local.clone(), Arc::default());
        let start = info.start;
        let mut stream = StreamInfo::new(Rc::new(info), start, clock::wall(start));
        let upstream = &mut stream.upstream;
        upstream.cluster = Some(cluster.name.shared());
        upstream.cluster_metadata = cluster.metadata.clone();
        upstream.host = Some(host.clone());
        (upstream.local, upstream.tls) = (Some(local), session);
        let mut filters: Vec<Box<dyn NetworkFilter>> = self.0.iter().map(|create| create()).collect();
        for filter in &mut filters {
            let verdict = match filter.on_connection(&mut stream) {
                ConnectionStep::Continue => ConnectionVerdict::Continue,
                ConnectionStep::Close(details) => ConnectionVerdict::Close(details),
                ConnectionStep::Wait(future) => future.await,
            };
            match verdict {
                ConnectionVerdict::Continue => {}
                ConnectionVerdict::Close(details) => return Err(details.to_string()),
            }
        }
        let greeting = greeting(&mut filters);
        connection.write_all(&greeting).await.map_err(|error| error.to_string())?;
        cluster.stats.traffic.here().upstream_cx_tx_bytes_total.add(greeting.len() as u64);
        let stream = Rc::new(RefCell::new(stream));
        // A host that says no more is still told what there is to tell.
        if let Some(gate) = Gate::of(&mut filters, cluster.buffer_limit as usize, true) {
            connection.guard(Guard::new(gate, stream.clone()));
        }
        Ok(stream)
    }
}

fn build(filter: &Filter, cx: &mut BuildCx<'_>) -> Result<Arc<CreateUpstreamFilter>, Rejected> {
    let Filter { name, typed_config, config_discovery } = filter;
    let is_discovered = config_discovery.is_some();
    cx.reject_if(is_discovered, "config_discovery", "extension discovery is not available")?;
    let Some(any) = typed_config else {
        return Err(cx.at("typed_config", |cx| cx.reject("must be set")));
    };
    let (message, payload) = cx.unpack(any)?;
    let known = cx.env.extensions.upstream_network_filters;
    cx.at("typed_config", |cx| match known.iter().find(|factory| factory.descriptor().message == message) {
        Some(factory) => factory.build(&payload, cx),
        None => Err(cx.reject(format!(
            "Didn't find a registered implementation for '{name}' with type URL: '{message}'"
        ))),
    })
}
