//! Everything known about a connection or stream, for access logs, formats, filters and balancing.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost_types::Value;
use smallvec::SmallVec;

use crate::address::Address;
use crate::filter_state::{FilterState, FilterStateValue};
use crate::head::Protocol;
use crate::metadata::{DynamicMetadata, Metadata};
use crate::proxy_protocol::Tlv;
use crate::response_flag::ResponseFlags;
use crate::stream_error::Details;
use crate::text::Text;
use crate::tls::{ClientCerts, TlsInfo};
use crate::upstream::{Host, HostWishes};

/// What is known about the downstream connection; one for all of its streams.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Number of the connection, unique in the process (`%CONNECTION_ID%`).
    pub id: u64,
    /// When it was accepted.
    pub start: Instant,
    /// Address of the peer on the wire.
    pub direct_remote: Address,
    /// Address of the client: the peer, or what the PROXY protocol says.
    pub remote: Address,
    /// Address the client connected to, restored if it was redirected.
    pub local: Address,
    /// Address of the accepting socket.
    pub direct_local: Address,
    /// Whether it is known that the client meant `local` (redirected, PROXY protocol); it may be the socket's address.
    pub local_restored: bool,
    /// What is kept of the header of the PROXY protocol, if one came: the TLVs that hosts are told of.
    pub proxied: Option<Arc<[Tlv]>>,
    /// Where connections to hosts come from on its behalf, if not from this host.
    pub original_source: Option<OriginalSource>,
    /// TLS ends here.
    pub secure: bool,
    /// The TLS session, if it ends here.
    pub tls: Option<Box<TlsInfo>>,
    /// Why the transport failed, in words.
    pub transport_failure: Option<String>,
    /// Server name of the TLS client hello.
    pub server_name: Option<Text>,
    /// Protocols the client offered (ALPN), first wins.
    pub application_protocols: Vec<Text>,
    /// Transport found by inspection: `raw_buffer` or `tls`.
    pub transport_protocol: &'static str,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Metadata of the listener.
    pub listener_metadata: Metadata,
    /// Name of the filter chain.
    pub filter_chain: Arc<str>,
    /// Metadata of the filter chain.
    pub filter_chain_metadata: Metadata,
    /// Where the listener's traffic goes to, as its number in the API (`TrafficDirection`).
    pub direction: i32,
    /// Values set by listener and network filters.
    pub metadata: DynamicMetadata,
    /// Values set by listener and network filters.
    pub filter_state: FilterState,
    /// What is said of its client, where that depends on the request.
    pub client_certs: ClientCerts,
    /// What limits the rate of its requests together, once one came that is limited so.
    pub rate_limiter: OnceCell<Rc<dyn Any>>,
}

impl ConnectionInfo {
    /// Whether the client is on this host: its address is a loopback address or that it connected to.
    pub fn is_local(&self) -> bool {
        match (self.remote.ip(), self.local.ip()) {
            (Some(remote), Some(local)) => remote.is_loopback() || remote == local,
            _ => true,
        }
    }

    /// A plain connection from `remote` to `local` that `listener` accepted, of which nothing else is known yet.
    pub fn new(remote: Address, local: Address, listener: Arc<str>) -> Self {
        Self {
            id: 0,
            start: Instant::now(),
            direct_remote: remote.clone(),
            remote,
            direct_local: local.clone(),
            local,
            local_restored: false,
            proxied: None,
            original_source: None,
            secure: false,
            tls: None,
            transport_failure: None,
            server_name: None,
            application_protocols: Vec::new(),
            transport_protocol: "raw_buffer",
            listener,
            listener_metadata: Metadata::default(),
            filter_chain: Arc::default(),
            filter_chain_metadata: Metadata::default(),
            direction: 0,
            metadata: DynamicMetadata::default(),
            filter_state: FilterState::default(),
            client_certs: ClientCerts::default(),
            rate_limiter: OnceCell::new(),
        }
    }

    /// The client meant `destination`: what it was redirected from, or what the PROXY protocol says.
    pub fn restore_local(&mut self, destination: Address) {
        self.local = destination;
        self.local_restored = true;
    }
}

/// The client whose address connections to hosts come from (`original_src`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalSource {
    /// Its address.
    pub ip: IpAddr,
    /// What packets are marked with, so that the answers are routed back here; 0 for no mark.
    pub mark: u32,
}

/// How a connection ended (`%DOWNSTREAM_DETECTED_CLOSE_TYPE%`, `%UPSTREAM_DETECTED_CLOSE_TYPE%`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseType {
    /// In order, or not at all yet.
    #[default]
    Normal,
    /// This side sent RST.
    LocalReset,
    /// The peer sent RST.
    RemoteReset,
}

impl CloseType {
    /// As access logs print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::LocalReset => "LocalReset",
            Self::RemoteReset => "RemoteReset",
        }
    }
}

/// What is known about the upstream side of a stream.
#[derive(Debug, Default)]
pub struct UpstreamInfo {
    /// The cluster chosen by the route.
    pub cluster: Option<Arc<str>>,
    /// `alt_stat_name`, what `%UPSTREAM_CLUSTER%` prints when set.
    pub cluster_observability_name: Option<Arc<str>>,
    /// Metadata of the cluster.
    pub cluster_metadata: Metadata,
    /// The host of the last attempt.
    pub host: Option<Arc<Host>>,
    /// The hosts that the request asks for, if it does.
    pub wishes: Option<Box<HostWishes>>,
    /// Hosts that a connection was had to, in order of the attempts.
    pub attempted: SmallVec<[Arc<Host>; 1]>,
    /// An upstream was sought: a connection was asked for, whether there was one or not.
    pub sought: bool,
    /// Number of the upstream connection.
    pub connection_id: Option<u64>,
    /// Local address of the upstream connection.
    pub local: Option<Address>,
    /// Protocol spoken upstream.
    pub protocol: Option<Protocol>,
    /// How the upstream connection ended.
    pub close_type: CloseType,
    /// Number of attempts so far.
    pub attempts: u32,
    /// Why the transport failed, in words.
    pub transport_failure: Option<String>,
    /// The TLS session of the upstream connection, if there is one.
    pub tls: Option<Arc<TlsInfo>>,
    /// Why this side closed the upstream connection (`%UPSTREAM_LOCAL_CLOSE_REASON%`).
    pub local_close_reason: Option<Details>,
    /// Start of the connect of the upstream connection, whichever stream caused it.
    pub connect_start: Option<Instant>,
    /// End of that connect.
    pub connect_end: Option<Instant>,
    /// Time a connection became available, or could not be had.
    pub pool_ready: Option<Instant>,
    /// First byte of the request sent.
    pub first_tx: Option<Instant>,
    /// Last byte of the request sent.
    pub last_tx: Option<Instant>,
    /// First byte of the response received.
    pub first_rx: Option<Instant>,
    /// First byte of the response's body received.
    pub first_rx_body: Option<Instant>,
    /// Last byte of the response received.
    pub last_rx: Option<Instant>,
    /// Bytes on the wire.
    pub wire: WireBytes,
    /// What the filters of the upstream connection know of it, if it has any (`Cluster.filters`).
    pub filtered: Option<Rc<RefCell<StreamInfo>>>,
}

/// Bytes of one side of a stream as the wire carried them, framing included.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireBytes {
    /// Bytes sent to the peer.
    pub sent: u64,
    /// Bytes received from the peer.
    pub received: u64,
    /// Of `sent`, the bytes of heads and trailers, counted as Envoy does: start lines and empty lines are not in it.
    pub header_sent: u64,
    /// Of `received`, the bytes of heads and trailers; without start lines, empty lines, and one byte of each HTTP/1 field.
    pub header_received: u64,
    /// `header_sent` before compression.
    pub plain_header_sent: u64,
    /// `header_received` after decompression, trailers excepted.
    pub plain_header_received: u64,
}

/// The place of a request in its trace, as formats print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    /// The trace, high half first.
    pub trace_id: [u64; 2],
    /// Its high half is printed though it is 0.
    pub is_wide: bool,
    /// The span of the request.
    pub span_id: u64,
}

/// What is known about one stream: an HTTP request and its response, or a TCP connection.
#[derive(Debug)]
pub struct StreamInfo {
    /// The downstream connection.
    pub connection: Rc<ConnectionInfo>,
    /// Start on the monotonic clock.
    pub start: Instant,
    /// Start on the wall clock.
    pub start_time: SystemTime,
    /// Identity of the stream (`%STREAM_ID%`), drawn when first needed.
    pub stream_id: u64,
    /// Protocol spoken downstream; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// Address of the client as the proxy trusts it (x-forwarded-for considered).
    pub remote: Option<Address>,
    /// Status sent, or to be sent, downstream; `None` if none was.
    pub response_code: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<Details>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: Option<Details>,
    /// Why this side closed the downstream connection (`%DOWNSTREAM_LOCAL_CLOSE_REASON%`).
    pub local_close_reason: Option<Details>,
    /// How the downstream connection ended.
    pub close_type: CloseType,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Body bytes received from downstream (for TCP: all bytes).
    pub bytes_received: u64,
    /// Body bytes sent downstream (for TCP: all bytes).
    pub bytes_sent: u64,
    /// Bytes on the downstream wire.
    pub wire: WireBytes,
    /// Last byte of the request received.
    pub request_complete: Option<Instant>,
    /// First byte of the response sent downstream.
    pub first_downstream_tx: Option<Instant>,
    /// Last byte of the response sent downstream.
    pub last_downstream_tx: Option<Instant>,
    /// End of the stream; set before access logs are written.
    pub end: Option<Instant>,
    /// Name of the route.
    pub route_name: Option<Arc<str>>,
    /// Metadata of the route.
    pub route_metadata: Metadata,
    /// Name of the virtual host.
    pub virtual_host: Option<Arc<str>>,
    /// Metadata of the virtual host.
    pub virtual_host_metadata: Metadata,
    /// Name of the virtual cluster.
    pub virtual_cluster: Option<Arc<str>>,
    /// The upstream side.
    pub upstream: UpstreamInfo,
    /// Whether this is a health check answered or marked by the health_check filter.
    pub health_check: bool,
    /// Whether the request is traced because a service asked for it (`x-envoy-force-trace`, here or before).
    pub is_traced_for_service: bool,
    /// The trace that the request belongs to, if it is known.
    pub trace: Option<Box<TraceIds>>,
    /// Values set by filters on this stream.
    pub metadata: DynamicMetadata,
    /// Values set by filters on this stream.
    pub filter_state: FilterState,
}

impl StreamInfo {
    /// What formats see where there is no stream: the proxy acts by itself.
    pub fn of_nobody() -> Self {
        let address = Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let connection = ConnectionInfo::new(address.clone(), address, Arc::default());
        Self::new(Rc::new(connection), Instant::now(), SystemTime::now())
    }

    /// A stream that starts now on `connection`.
    #[inline]
    pub fn new(connection: Rc<ConnectionInfo>, start: Instant, start_time: SystemTime) -> Self {
        Self {
            connection,
            start,
            start_time,
            stream_id: 0,
            protocol: None,
            remote: None,
            response_code: None,
            details: None,
            termination_details: None,
            local_close_reason: None,
            close_type: CloseType::default(),
            flags: ResponseFlags::default(),
            bytes_received: 0,
            bytes_sent: 0,
            wire: WireBytes::default(),
            request_complete: None,
            first_downstream_tx: None,
            last_downstream_tx: None,
            end: None,
            route_name: None,
            route_metadata: Metadata::default(),
            virtual_host: None,
            virtual_host_metadata: Metadata::default(),
            virtual_cluster: None,
            upstream: UpstreamInfo::default(),
            health_check: false,
            is_traced_for_service: false,
            trace: None,
            metadata: DynamicMetadata::default(),
            filter_state: FilterState::default(),
        }
    }

    /// How long the stream lasted, or has lasted so far.
    pub fn duration(&self, now: Instant) -> Duration {
        self.end.unwrap_or(now).saturating_duration_since(self.start)
    }

    /// The value at `path` of `namespace` that filters set; a TCP stream is its connection, and has the connection's too.
    pub fn dynamic_metadata(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        let of_connection = self.protocol.is_none().then_some(&self.connection.metadata);
        let own = self.metadata.value(namespace, path);
        own.or_else(|| of_connection.and_then(|metadata| metadata.value(namespace, path)))
    }

    /// What is kept in the filter state of the stream, or else in that of the connection.
    pub fn filter_state(&self, key: &str) -> Option<&dyn FilterStateValue> {
        self.filter_state.get(key).or_else(|| self.connection.filter_state.get(key))
    }

    /// So much a stream without protocol has carried, of the client and of the host.
    pub fn carried(&mut self, wire: WireBytes, upstream: WireBytes) {
        (self.bytes_received, self.bytes_sent) = (wire.received, wire.sent);
        (self.wire, self.upstream.wire) = (wire, upstream);
    }

    /// What filters left in the filter state of the upstream connection.
    pub fn upstream_filter_state(&self, key: &str) -> Option<Rc<dyn FilterStateValue>> {
        self.upstream.filtered.as_ref()?.borrow().filter_state.get_shared(key)
    }

    /// The client's address: as trusted, else that of the connection.
    pub fn remote_address(&self) -> &Address {
        self.remote.as_ref().unwrap_or(&self.connection.remote)
    }
}
