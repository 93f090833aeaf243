//! Connections to hosts apart from all pools: for health checks and for reports of load, which nobody's requests share.
//!
//! They count in no statistics of the cluster but those of who makes them, as in Envoy.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use proxy_core::address::Address;
use proxy_core::head::Scheme;
use proxy_core::metadata::Metadata;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::text::Text;
use proxy_core::tls::TlsInfo;
use proxy_core::upstream::Host;
use tokio::task::AbortHandle;

use super::cluster::Cluster;
use super::pool::{frame_limits, http2_builder};
use super::transport::Layers;
use crate::codec::h2_guard::{Guarded, Side, Traffic};
use crate::net::connection::Connection;
use crate::net::socket;
use crate::tls::client::{Asked, Offer};

/// There is no connection, or it ended.
pub(super) struct Broken;

impl From<UpstreamReset> for Broken {
    fn from(_: UpstreamReset) -> Self {
        Self
    }
}

/// Where a connection goes, and how the host is spoken with.
pub(super) struct Apart<'c> {
    pub(super) cluster: &'c Cluster,
    pub(super) host: &'c Arc<Host>,
    pub(super) address: Address,
    /// What chooses the transport socket in place of the host's metadata.
    pub(super) criteria: Option<&'c Metadata>,
    /// What is offered in TLS handshakes in place of what the context says, if anything.
    pub(super) alpn: &'c [Text],
}

/// An HTTP/2 connection, which ends when this is dropped.
pub(super) struct Http2 {
    pub(super) send: SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<'c> Apart<'c> {
    fn layers(&self) -> &'c Layers {
        let criteria = || self.criteria.cloned().unwrap_or_else(|| self.host.metadata());
        self.cluster.transport.of(criteria)
    }

    /// The scheme of requests.
    pub(super) fn scheme(&self) -> Scheme {
        if self.layers().tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connection, Broken> {
        self.connect_and_tell().await.map(|(connection, _)| connection)
    }

    /// A new connection, and its TLS session if it has one.
    pub(super) async fn connect_and_tell(&self) -> Result<(Connection, Option<Arc<TlsInfo>>), Broken> {
        let socket = socket::connect(&self.address, self.cluster.connect_options(&self.address), None).await;
        let mut connection = Connection::new(socket.map_err(|error| self.failed(&error))?);
        let layers = self.layers();
        if let Some(told) = &layers.proxy_protocol {
            let header = told.own_header(connection.socket());
            connection.socket().write_all(&header).await.map_err(|error| self.failed(&error))?;
        }
        let mut session = None;
        if let Some(tls) = &layers.tls {
            let asked = Asked { application_protocols: self.alpn, ..Asked::from(Offer::Nothing) };
            let shaken = Box::pin(tls.connect(&mut connection, self.host, asked)).await;
            session = Some(Arc::new(shaken.map_err(|reason| self.failed(&reason))?));
        }
        let filters = &self.cluster.filters;
        if let Some(passing) = filters.of(&mut connection, session.as_ref(), self.host, self.cluster) {
            Box::pin(passing).await.map_err(|reason| self.failed(&reason))?;
        }
        Ok((connection, session))
    }

    /// A new connection of HTTP/2.
    pub(super) async fn http2(&self) -> Result<Http2, Broken> {
        self.cluster.stats.http2();
        self.http2_over(self.connect().await?).await
    }

    /// HTTP/2 over this connection.
    pub(super) async fn http2_over(&self, connection: Connection) -> Result<Http2, Broken> {
        let codec = self.cluster.stats.http2().clone();
        let limits = frame_limits(self.cluster);
        let connection = Guarded::new(connection, Side::Client, limits, codec, Traffic::Uncounted);
        let options = &self.cluster.http.http2;
        let connection = connection.with_settings(options.settings.as_ref());
        let (send, driver) = http2_builder(self.cluster)
            .handshake::<_, Bytes>(connection)
            .await
            .map_err(|error| self.failed(&error))?;
        let driver = tokio::task::spawn_local(async move {
            // What ends a connection is seen by who uses it.
            let _ = driver.await;
        });
        let mut made = Http2 { send, driver: driver.abort_handle() };
        poll_fn(|cx| made.send.poll_ready(cx)).await.map_err(|error| self.failed(&error))?;
        Ok(made)
    }

    fn failed(&self, reason: &dyn std::fmt::Display) -> Broken {
        tracing::debug!(cluster = self.cluster.name.as_str(), address = %self.address, %reason, "no connection apart");
        Broken
    }
}
