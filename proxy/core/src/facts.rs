//! What rules and matchers may look at: a request, or a connection.

use std::net::IpAddr;

use crate::address::Address;
use crate::cel;
use crate::head::RequestHead;
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
    /// Metadata of the route that the request matched.
    pub route: Option<&'a Metadata>,
    /// Path of the request without query and fragment.
    pub path: Option<&'a str>,
    /// The cluster that the route leads to.
    pub cluster: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Of a request, and of the route that it matched. [`Self::with_path`] says what paths are compared with in place of its own.
    pub fn of_request(info: &'a StreamInfo, request: &'a RequestHead, route: Option<&'a Metadata>) -> Self {
        let path = Some(request.path_only()).filter(|path| !path.is_empty());
        Self { info, request: Some(request), route, path, cluster: None }
    }

    /// With another path.
    #[must_use]
    pub fn with_path(self, path: Option<&'a str>) -> Self {
        Self { path: path.or(self.path), ..self }
    }

    /// Of a request that goes to this cluster.
    #[must_use]
    pub fn with_cluster(self, cluster: Option<&'a str>) -> Self {
        Self { cluster, ..self }
    }

    /// What conditions see of it.
    pub fn subject(&self) -> cel::Subject<'a> {
        let Self { info, request, route, path: _, cluster } = *self;
        cel::Subject { info, request, response: None, trailers: None, route, cluster }
    }

    /// Of a connection.
    pub fn of_connection(info: &'a StreamInfo) -> Self {
        Self { info, request: None, route: None, path: None, cluster: None }
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
