//! What rules, matchers and expressions may look at: a request, a response, or a connection.

use std::net::IpAddr;

use http::HeaderMap;

use crate::address::Address;
use crate::head::{RequestHead, ResponseHead};
use crate::metadata::Metadata;
use crate::stream_info::StreamInfo;

/// What is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Requests.
    Http,
    /// Connections, which have no headers.
    Network,
}

/// What is known of a request or a connection.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The stream, and its connection.
    pub info: &'a StreamInfo,
    /// The request, if it is about one.
    pub request: Option<&'a RequestHead>,
    /// The response, if there is one yet.
    pub response: Option<&'a ResponseHead>,
    /// The trailers of the response.
    pub trailers: Option<&'a HeaderMap>,
    /// Metadata of the route that the request matched.
    pub route: Option<&'a Metadata>,
    /// The cluster that the route leads to, if it is known.
    pub cluster: Option<&'a str>,
    /// What rules take for the path of the request ([`Self::with_path`]).
    pub path: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Of a request, and of the route that it matched.
    pub fn of_request(info: &'a StreamInfo, request: &'a RequestHead, route: Option<&'a Metadata>) -> Self {
        Self { request: Some(request), route, ..Self::of_connection(info) }
    }

    /// With the path that rules are about: that of the request without query and fragment, or `cut` in its place.
    #[must_use]
    pub fn with_path(self, cut: Option<&'a str>) -> Self {
        let path = cut.or_else(|| self.request.map(RequestHead::path_only)).filter(|path| !path.is_empty());
        Self { path, ..self }
    }

    /// Of a request that goes to this cluster.
    #[must_use]
    pub fn with_cluster(self, cluster: Option<&'a str>) -> Self {
        Self { cluster, ..self }
    }

    /// Of a connection.
    pub fn of_connection(info: &'a StreamInfo) -> Self {
        Self { info, request: None, response: None, trailers: None, route: None, cluster: None, path: None }
    }

    /// The address of one of those who are concerned, if it is an IP address.
    pub fn ip(&self, whose: Whose) -> Option<IpAddr> {
        self.address(whose).ip()
    }

    /// The address of one of those who are concerned.
    pub fn address(&self, whose: Whose) -> &'a Address {
        let connection = &self.info.connection;
        match whose {
            Whose::Destination => &connection.local,
            Whose::Source => &connection.remote,
            Whose::DirectRemote => &connection.direct_remote,
            Whose::Remote => self.info.remote_address(),
        }
    }
}

/// Whose address.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// Where the client connected to.
    Destination,
    /// The connection's peer, or whom the PROXY protocol names.
    Source,
    /// The connection's peer.
    DirectRemote,
    /// The client as `x-forwarded-for` names it, where that is trusted.
    Remote,
}
