//! Configuration of a listener, built once and shared by all workers.
//!
//! Source: Envoy `listener.proto`, `listener_components.proto`.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected, timeout_or};
use proxy_core::extension::access_log::AccessLog;
use proxy_core::extension::listener_filter::ListenerFilterConfig;
use proxy_core::extension::network_filter::{CreateFilter, NetworkFilterConfig, TerminalFilter};
use proxy_core::log_filter::build_access_logs;
use proxy_core::metadata::Metadata;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::{ListenerExtensionStats, ListenerHttpStats, ListenerStats, RouterStats};
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::TrafficDirection;
use xds_api::envoy::config::core::v3::socket_option::SocketState;
use xds_api::envoy::config::listener::v3 as proto;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as TcpProxyProto;

use super::chain_match::{ChainMatcher, Criteria};
use crate::http::config::ConnectionManager;
use crate::local::buffers;
use crate::net::option::{SocketOption, version_of};
use crate::net::socket::{Keepalive, ListenOptions};
use crate::tcp::TcpProxy;
use crate::tls;
use crate::tls::server::ServerTls;

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// How long a TLS handshake may take where the configuration does not say. (Envoy would wait for ever.)
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener's configuration.
pub struct Listener {
    /// Name, unique among listeners.
    pub name: Arc<str>,
    /// Addresses to bind, each with the options of its socket; the first is the main one.
    pub addresses: Vec<(Address, ListenOptions)>,
    /// Whether it binds at all, or only takes connections that another listener hands over.
    pub bind_to_port: bool,
    /// Hand connections over to the listener bound to their original destination.
    pub use_original_dst: bool,
    /// Listener filters, in order.
    pub filters: Vec<ListenerFilterEntry>,
    /// Longest time for the listener filters.
    pub filters_timeout: Option<Duration>,
    /// Go on without them after that time, instead of closing.
    pub continue_on_timeout: bool,
    /// The filter chains, the default one last if there is one.
    pub chains: Vec<Arc<FilterChain>>,
    /// Chooses one.
    pub matcher: ChainMatcher,
    /// Most bytes buffered for a connection in one direction.
    pub buffer_limit: usize,
    /// Inbound, outbound or neither.
    pub direction: TrafficDirection,
    /// Drains when it is modified or removed only, not by `/healthcheck/fail`.
    pub modify_only: bool,
    /// Connections go to the worker that has fewest.
    pub exact_balance: bool,
    /// Keepalive probes on accepted connections.
    pub keepalive: Option<Keepalive>,
    /// Not counted against the process's limit of connections.
    pub ignore_global_limit: bool,
    /// Whether the limits of the overload manager do not apply.
    pub bypass_overload_manager: bool,
    /// Access logs of connections.
    pub access_logs: Vec<Arc<dyn AccessLog>>,
    /// Metadata.
    pub metadata: Metadata,
    /// Prefix of the statistics, `listener.127.0.0.1_80`.
    pub stat_prefix: String,
    /// `listener.<address>`
    pub stats: Cells<ListenerStats>,
    /// `listener.<address>`: what is delivered apart from the listener, which nothing is yet.
    pub extension_stats: Cells<ListenerExtensionStats>,
}

/// A listener filter and when it is skipped.
pub struct ListenerFilterEntry {
    /// The built configuration.
    pub config: Arc<dyn ListenerFilterConfig>,
    /// Skips the filter for connections that match.
    pub disabled: Option<Predicate>,
}

/// A condition on a connection (`ListenerFilterChainMatchPredicate`).
pub enum Predicate {
    /// Any of them.
    Or(Vec<Predicate>),
    /// All of them.
    And(Vec<Predicate>),
    /// Not this.
    Not(Box<Predicate>),
    /// Always.
    Any,
    /// The destination port is in `[start, end)`.
    DestinationPort(i32, i32),
}

impl Predicate {
    fn build(
        proto: &proto::ListenerFilterChainMatchPredicate,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        use proto::listener_filter_chain_match_predicate::Rule;
        match &proto.rule {
            Some(Rule::OrMatch(set)) => {
                cx.at("or_match", |cx| cx.each("rules", &set.rules, Self::build)).map(Self::Or)
            }
            Some(Rule::AndMatch(set)) => {
                cx.at("and_match", |cx| cx.each("rules", &set.rules, Self::build)).map(Self::And)
            }
            Some(Rule::NotMatch(inner)) => {
                cx.at("not_match", |cx| Self::build(inner, cx)).map(|inner| Self::Not(Box::new(inner)))
            }
            Some(Rule::AnyMatch(_)) => Ok(Self::Any),
            Some(Rule::DestinationPortRange(range)) => Ok(Self::DestinationPort(range.start, range.end)),
            None => Err(cx.reject("rule: value is required")),
        }
    }

    /// Whether it holds for a connection to `local`.
    pub fn holds(&self, local: &Address) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.holds(local)),
            Self::And(rules) => rules.iter().all(|rule| rule.holds(local)),
            Self::Not(rule) => !rule.holds(local),
            Self::Any => true,
            Self::DestinationPort(start, end) => {
                local.port().map(i32::from).is_some_and(|port| (*start..*end).contains(&port))
            }
        }
    }
}

/// What serves the connections of one kind.
pub struct FilterChain {
    /// Name, maybe empty.
    pub name: Arc<str>,
    /// Metadata.
    pub metadata: Metadata,
    /// TLS of clients ends here.
    pub tls: Option<Box<ServerTls>>,
    /// How long a handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// Policies before the terminal filter.
    pub policies: Vec<Arc<CreateFilter>>,
    /// One of them looks at connections of this chain only.
    pub looks_once: bool,
    /// The filter that serves the connection.
    pub terminal: Terminal,
    /// Identity of the configuration: equal chains of two versions of a listener have equal bytes.
    pub fingerprint: Vec<u8>,
}

/// The filter at the end of a chain.
pub enum Terminal {
    /// HTTP.
    Http(HttpTerminal),
    /// TCP, to an upstream.
    Tcp(Arc<TcpProxy>),
    /// An extension.
    Extension(Arc<dyn TerminalFilter>),
    /// None: the connection is closed at once.
    None,
}

/// The connection manager and what it counts for this listener.
pub struct HttpTerminal {
    /// The connection manager.
    pub manager: Arc<ConnectionManager>,
    /// `listener.<address>.http.<stat_prefix>`
    pub listener_stats: Cells<ListenerHttpStats>,
    /// The router's part of `http.<stat_prefix>`.
    pub router_stats: Cells<RouterStats>,
}

impl Listener {
    /// `chain` of this listener serves a connection.
    pub(super) fn serves(&self, chain: &FilterChain, info: &mut ConnectionInfo) {
        info.filter_chain = chain.name.clone();
        info.filter_chain_metadata = chain.metadata.clone();
        info.listener = self.name.clone();
        info.listener_metadata = self.metadata.clone();
        info.direction = self.direction as i32;
    }

    /// Builds the configuration.
    pub fn build(proto: &proto::Listener, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let addresses = build_addresses(proto, cx);
        let stat_prefix = stat_prefix(proto, addresses.as_deref().ok());
        let filters = cx.each("listener_filters", &proto.listener_filters, build_listener_filter);
        let chains = cx.each("filter_chains", &proto.filter_chains, |chain, cx| {
            // (A tree has all the say.)
            let demands = chain.filter_chain_match.as_ref().filter(|_| proto.filter_chain_matcher.is_none());
            let criteria =
                cx.at("filter_chain_match", |cx| Criteria::build(demands.unwrap_or(&Default::default()), cx));
            Ok((build_chain(chain, &stat_prefix, cx)?, criteria?))
        });
        let default_chain = proto
            .default_filter_chain
            .as_ref()
            .map(|chain| cx.at("default_filter_chain", |cx| build_chain(chain, &stat_prefix, cx)))
            .transpose();
        let access_logs = build_access_logs(&proto.access_log, cx);
        let (mut built, criteria): (Vec<_>, Vec<_>) = chains?.into_iter().unzip();
        let has_default = default_chain.as_ref().is_ok_and(Option::is_some);
        let default = has_default.then_some(built.len());
        let matcher = match &proto.filter_chain_matcher {
            Some(tree) => ChainMatcher::by_tree(tree, &built, default, cx),
            None => ChainMatcher::new(&built, criteria, default, cx),
        };
        built.extend(default_chain?);
        if built.is_empty() {
            return Err(
                cx.reject(format!("error adding listener '{}': no filter chains specified", proto.name))
            );
        }
        let scope = cx.env.stats.scope(&stat_prefix);
        #[allow(deprecated)] // Istio still sends it.
        let deprecated_bind = proto.deprecated_v1.as_ref().and_then(|v1| v1.bind_to_port);
        Ok(Arc::new(Self {
            name: proto.name.as_str().into(),
            addresses: addresses?,
            bind_to_port: proto.bind_to_port.or(deprecated_bind).unwrap_or(true),
            use_original_dst: proto.use_original_dst.unwrap_or(false),
            filters: filters?,
            filters_timeout: timeout_or(
                proto.listener_filters_timeout.as_ref(),
                Some(Duration::from_secs(15)),
            ),
            continue_on_timeout: proto.continue_on_listener_filters_timeout,
            chains: built,
            matcher: matcher?,
            buffer_limit: buffers::limit(proto.per_connection_buffer_limit_bytes) as usize,
            direction: TrafficDirection::try_from(proto.traffic_direction)
                .unwrap_or(TrafficDirection::Unspecified),
            modify_only: proto.drain_type == proto::listener::DrainType::ModifyOnly as i32,
            exact_balance: proto
                .connection_balance_config
                .as_ref()
                .is_some_and(|balance| balance.balance_type.is_some()),
            keepalive: proto.tcp_keepalive.as_ref().map(keepalive),
            ignore_global_limit: proto.ignore_global_conn_limit,
            bypass_overload_manager: proto.bypass_overload_manager,
            access_logs: access_logs?,
            metadata: Metadata::new(proto.metadata.as_ref()),
            stats: scope.cells(),
            extension_stats: scope.cells(),
            stat_prefix,
        }))
    }

    /// Whether it takes inbound traffic.
    pub fn is_inbound(&self) -> bool {
        self.direction == TrafficDirection::Inbound
    }

    /// Whether the two bind the same addresses in the same way, so that they can share sockets.
    pub fn binds_like(&self, other: &Self) -> bool {
        let mut pairs = self.addresses.iter().zip(&other.addresses);
        self.bind_to_port == other.bind_to_port
            && self.addresses.len() == other.addresses.len()
            && pairs
                .all(|((address, options), (other, others))| address == other && options.binds_like(others))
    }

    /// Whether the two differ in nothing but their filter chains, so that an update can keep the sockets and the
    /// connections on unchanged chains.
    pub fn differs_in_chains_only(old: &proto::Listener, new: &proto::Listener) -> bool {
        let without = |listener: &proto::Listener| proto::Listener {
            filter_chains: Vec::new(),
            default_filter_chain: None,
            filter_chain_matcher: None,
            ..listener.clone()
        };
        without(old) == without(new)
    }
}

/// `listener.<address>` with `:` written `_`, or the configured prefix.
fn stat_prefix(proto: &proto::Listener, addresses: Option<&[(Address, ListenOptions)]>) -> String {
    let name = match (proto.stat_prefix.as_str(), addresses.and_then(|addresses| addresses.first())) {
        ("", Some((address, _))) => address.to_string().replace(':', "_"),
        ("", None) => proto.name.replace(':', "_"),
        (prefix, _) => prefix.to_owned(),
    };
    format!("listener.{name}")
}

fn build_addresses(
    proto: &proto::Listener,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<(Address, ListenOptions)>, Rejected> {
    let Some(main) = &proto.address else {
        return Err(cx.at("address", |cx| cx.reject("value is required")));
    };
    let options = build_socket_options(&proto.socket_options, cx);
    let address = cx.at("address", |cx| Address::build(main, cx));
    let additional = cx.each("additional_addresses", &proto.additional_addresses, |additional, cx| {
        let Some(address) = &additional.address else {
            return Err(cx.at("address", |cx| cx.reject("value is required")));
        };
        let own = additional.socket_options.as_ref();
        let own = own
            .map(|own| cx.at("socket_options", |cx| build_socket_options(&own.socket_options, cx)))
            .transpose()?;
        Ok((cx.at("address", |cx| Address::build(address, cx))?, listen_options(proto, address), own))
    });
    let (options, address) = (options?, address?);
    let with = |address: Address, listen: ListenOptions, options: &[SocketOption]| {
        let version = version_of(&address);
        let options = options.iter().filter_map(|option| option.of_version(version).cloned()).collect();
        (address, ListenOptions { options, ..listen })
    };
    let mut addresses = vec![with(address, listen_options(proto, main), &options)];
    for (address, listen, own) in additional? {
        addresses.push(with(address, listen, own.as_ref().unwrap_or(&options)));
    }
    Ok(addresses)
}

fn listen_options(proto: &proto::Listener, address: &core::Address) -> ListenOptions {
    ListenOptions {
        reuse_port: proto.enable_reuse_port.unwrap_or(true),
        freebind: proto.freebind.unwrap_or(false),
        transparent: proto.transparent.unwrap_or(false),
        backlog: proto.tcp_backlog_size,
        fast_open: proto.tcp_fast_open_queue_length,
        ..ListenOptions::of_address(address)
    }
}

fn build_socket_options(
    protos: &[core::SocketOption],
    cx: &mut BuildCx<'_>,
) -> Result<Vec<SocketOption>, Rejected> {
    let options = cx.each("socket_options", protos, |proto, cx| match SocketOption::build(proto) {
        Some(option) if option.state != SocketState::StatePrebind => {
            Err(cx.at("state", |cx| cx.reject("only STATE_PREBIND is available")))
        }
        option => Ok(option),
    })?;
    Ok(options.into_iter().flatten().collect())
}

fn keepalive(proto: &core::TcpKeepalive) -> Keepalive {
    let seconds = |value: Option<u32>| value.map(|value| Duration::from_secs(value.into()));
    Keepalive {
        probes: proto.keepalive_probes,
        time: seconds(proto.keepalive_time),
        interval: seconds(proto.keepalive_interval),
    }
}

fn build_listener_filter(
    proto: &proto::ListenerFilter,
    cx: &mut BuildCx<'_>,
) -> Result<ListenerFilterEntry, Rejected> {
    use proto::listener_filter::ConfigType;
    let any = match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(cx.at("config_discovery", |cx| cx.reject("extension discovery is not available")));
        }
        None => return Err(cx.reject(format!("listener filter '{}' has no typed_config", proto.name))),
    };
    let (message, payload) = cx.unpack(any)?;
    let factory =
        cx.env.extensions.listener_filters.iter().find(|factory| factory.descriptor().message == message);
    let Some(factory) = factory else {
        return Err(unknown(&proto.name, &message, cx));
    };
    let config = cx.at("typed_config", |cx| factory.build(&payload, cx))?;
    let disabled = proto
        .filter_disabled
        .as_ref()
        .map(|predicate| cx.at("filter_disabled", |cx| Predicate::build(predicate, cx)))
        .transpose()?;
    Ok(ListenerFilterEntry { config, disabled })
}

fn unknown(name: &str, message: &str, cx: &mut BuildCx<'_>) -> Rejected {
    cx.at("typed_config", |cx| {
        cx.reject(format!("Didn't find a registered implementation for '{name}' with type URL: '{message}'"))
    })
}

fn build_chain(
    proto: &proto::FilterChain,
    stat_prefix: &str,
    cx: &mut BuildCx<'_>,
) -> Result<Arc<FilterChain>, Rejected> {
    let transport = proto.transport_socket.as_ref();
    let tls = transport
        .map(|socket| cx.at("transport_socket", |cx| build_transport(socket, stat_prefix, cx)))
        .transpose();
    let last = proto.filters.len().checked_sub(1);
    let (mut policies, mut looks_once) = (Vec::new(), false);
    let mut terminal = Terminal::None;
    let mut rejected = false;
    for (index, filter) in proto.filters.iter().enumerate() {
        let is_last = Some(index) == last;
        match cx.at_index("filters", index, |cx| build_filter(filter, is_last, stat_prefix, cx)) {
            Ok(Link::Policy(policy, once)) => {
                policies.push(policy);
                looks_once |= once;
            }
            Ok(Link::Terminal(built)) => terminal = built,
            Err(Rejected) => rejected = true,
        }
    }
    let tls = tls?.flatten();
    if rejected {
        return Err(Rejected);
    }
    Ok(Arc::new(FilterChain {
        tls,
        handshake_timeout: timeout_or(
            proto.transport_socket_connect_timeout.as_ref(),
            Some(DEFAULT_HANDSHAKE_TIMEOUT),
        ),
        name: proto.name.as_str().into(),
        metadata: Metadata::new(proto.metadata.as_ref()),
        policies,
        looks_once,
        terminal,
        fingerprint: proto.encode_to_vec(),
    }))
}

/// TLS, if that is asked for.
fn build_transport(
    socket: &core::TransportSocket,
    stat_prefix: &str,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Box<ServerTls>>, Rejected> {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(unknown(&socket.name, "", cx));
    };
    let (message, payload) = cx.unpack(any)?;
    match message.as_str() {
        RAW_BUFFER => Ok(None),
        tls::server::MESSAGE => cx
            .at("typed_config", |cx| ServerTls::build(&payload, stat_prefix, cx))
            .map(|built| Some(Box::new(built))),
        _ => Err(cx.reject(format!("transport socket {message} is not available"))),
    }
}

enum Link {
    /// And whether it looks at connections of its chain only.
    Policy(Arc<CreateFilter>, bool),
    Terminal(Terminal),
}

fn build_filter(
    proto: &proto::Filter,
    is_last: bool,
    stat_prefix: &str,
    cx: &mut BuildCx<'_>,
) -> Result<Link, Rejected> {
    use proto::filter::ConfigType;
    let any = match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(cx.at("config_discovery", |cx| cx.reject("extension discovery is not available")));
        }
        None => return Err(cx.reject(format!("network filter '{}' has no typed_config", proto.name))),
    };
    let (message, payload) = cx.unpack(any)?;
    let (type_name, built) = match message.as_str() {
        HCM => ("envoy.filters.network.http_connection_manager", build_http(&payload, stat_prefix, cx)?),
        TCP_PROXY => ("envoy.filters.network.tcp_proxy", build_tcp(&payload, cx)?),
        message => {
            let factory = cx
                .env
                .extensions
                .network_filters
                .iter()
                .find(|factory| factory.descriptor().message == message);
            let Some(factory) = factory else {
                return Err(unknown(&proto.name, message, cx));
            };
            let built = match cx.at("typed_config", |cx| factory.build(&payload, cx))? {
                NetworkFilterConfig::Policy(policy) => Link::Policy(policy, factory.looks_once()),
                NetworkFilterConfig::Terminal(terminal) => Link::Terminal(Terminal::Extension(terminal)),
            };
            (factory.descriptor().name, built)
        }
    };
    match (&built, is_last) {
        (Link::Terminal(_), false) => Err(cx.reject(format!(
            "Error: terminal filter named {} of type {type_name} must be the last filter in a network filter chain.",
            proto.name
        ))),
        (Link::Policy(..), true) => Err(cx.reject(format!(
            "Error: non-terminal filter named {} of type {type_name} is the last filter in a network filter chain.",
            proto.name
        ))),
        (Link::Terminal(_), true) | (Link::Policy(..), false) => Ok(built),
    }
}

fn build_http(payload: &[u8], stat_prefix: &str, cx: &mut BuildCx<'_>) -> Result<Link, Rejected> {
    cx.at("typed_config", |cx| {
        let proto = HttpConnectionManager::decode(payload)
            .map_err(|error| cx.reject(format!("cannot be decoded: {error}")))?;
        let manager = Arc::new(ConnectionManager::build(&proto, cx)?);
        let stats = &cx.env.stats;
        let terminal = HttpTerminal {
            listener_stats: stats.scope(&format!("{stat_prefix}.http.{}", manager.stat_prefix)).cells(),
            router_stats: stats.scope(&format!("http.{}", manager.stat_prefix)).cells(),
            manager,
        };
        Ok(Link::Terminal(Terminal::Http(terminal)))
    })
}

fn build_tcp(payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Link, Rejected> {
    cx.at("typed_config", |cx| {
        let proto = TcpProxyProto::decode(payload)
            .map_err(|error| cx.reject(format!("cannot be decoded: {error}")))?;
        Ok(Link::Terminal(Terminal::Tcp(TcpProxy::build(&proto, cx)?)))
    })
}
