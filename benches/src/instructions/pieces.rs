//! Pieces of the proxy that callgrind counts by themselves, in a run of this program: finding routes in large tables, the
//! HTTP/1 codec, balancing among many hosts. (A filter chain of eight is a row of whole requests.)

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use bytes::BytesMut;
use http::{HeaderMap, Method};
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, BuildEnv, Constraints, NodeInfo};
use proxy_core::dns_cache::NoDnsCaches;
use proxy_core::extension::Extensions;
use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::head::{BodyEvent, Protocol, RequestHead, Scheme};
use proxy_core::names::Names;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Registry;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_engine::codec::h1::{
    BodyDecoder, ConnectionOption, HeadLimits, KeyFormat, RequestMessage, RequestOptions, RequestParser,
    ResponseContext, ResponseMessage, ResponseOptions, ResponseParser, TargetForm, TrailerOptions,
};
use proxy_engine::router::RouteTable;
use xds_api::envoy::config::route::v3 as proto;

use crate::picks::{Picker, pick};

const REQUEST: &[u8] =
    b"GET /productpage?u=normal HTTP/1.1\r\nHost: bookinfo.example.com\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nx-request-id: 3f3b9f0a-5d1c-4a52-9a2f-0f7f8a1c2b3d\r\nx-forwarded-proto: http\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 13\r\n\
    Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nServer: istio-envoy\r\nx-envoy-upstream-service-time: 3\r\n\r\nHello, world!";
/// Virtual hosts, routes or hosts in a large table.
pub(crate) const MANY: usize = 10_000;

/// What is called again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A request finds its route among 10,000 virtual hosts.
    VirtualHosts,
    /// A request finds its route among 10,000 routes of one virtual host.
    Routes,
    /// A request and its response are read and written.
    Codec,
    /// A host is picked among so many.
    Pick(Picker, usize),
}

impl Piece {
    pub(crate) const ALL: [Self; 9] = [
        Self::VirtualHosts,
        Self::Routes,
        Self::Codec,
        Self::Pick(Picker::RoundRobin, 10),
        Self::Pick(Picker::RoundRobin, 1_000),
        Self::Pick(Picker::RoundRobin, MANY),
        Self::Pick(Picker::LeastRequest, MANY),
        Self::Pick(Picker::RingHash, MANY),
        Self::Pick(Picker::Maglev, MANY),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VirtualHosts => "route_of_10000_hosts",
            Self::Routes => "route_of_10000_routes",
            Self::Codec => "h1_codec",
            Self::Pick(Picker::RoundRobin, 10) => "pick_of_10_hosts",
            Self::Pick(Picker::RoundRobin, 1_000) => "pick_of_1000_hosts",
            Self::Pick(Picker::RoundRobin, _) => "pick_of_10000_hosts",
            Self::Pick(Picker::LeastRequest, _) => "least_request_of_10000_hosts",
            Self::Pick(Picker::RingHash, _) => "ring_hash_of_10000_hosts",
            Self::Pick(Picker::Maglev, _) => "maglev_of_10000_hosts",
        }
    }
}

/// In the process under callgrind: `NAME COUNT`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [name, count] = args else { return Err(anyhow!("a name and a count")) };
    let piece = Piece::ALL.into_iter().find(|piece| piece.name() == name).context("no such piece")?;
    let count = count.parse()?;
    match piece {
        Piece::VirtualHosts => {
            let hosts =
                (0..MANY).map(|index| virtual_host(&format!("host-{index}.example.com"), vec![route("/")]));
            let table = table(hosts.collect())?;
            find(&table, count, |index| (format!("host-{}.example.com", index % MANY), "/".to_owned()))
        }
        Piece::Routes => {
            let routes = (0..MANY).map(|index| route(&format!("/service-{index}/"))).collect();
            let table = table(vec![virtual_host("*", routes)])?;
            find(&table, count, |index| ("example.com".to_owned(), format!("/service-{}/x", index % MANY)))
        }
        Piece::Codec => codec(count),
        Piece::Pick(picker, hosts) => pick(picker, hosts, count),
    }
}

/// What callgrind counts: it looks for this name.
#[inline(never)]
pub(crate) fn measured(count: usize, mut call: impl FnMut(usize) -> Option<()>) -> Result<()> {
    // Steps through the whole of a table, with no order that a cache or a predictor could know.
    let mut at = 0;
    for _ in 0..count {
        at = (at + 7919) % MANY;
        call(black_box(at)).context("a call went wrong")?;
    }
    Ok(())
}

fn find(table: &RouteTable, count: usize, key: impl Fn(usize) -> (String, String)) -> Result<()> {
    let requests: Vec<RequestHead> = (0..MANY).map(key).map(|(host, path)| request(&host, &path)).collect();
    let (info, runtime) = (info(), Runtime::default());
    measured(count, |at| {
        let matched = table.route(requests.get(at)?, &info, &runtime, 7)?;
        black_box(table.selected(matched)?.action());
        Some(())
    })
}

fn codec(count: usize) -> Result<()> {
    let mut requests = RequestParser::new(HeadLimits::REQUEST, Arc::new(RequestOptions::default()));
    let mut responses = ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default());
    let (mut input, mut output) = (BytesMut::with_capacity(16 * 1024), BytesMut::with_capacity(16 * 1024));
    measured(count, |_| {
        input.extend_from_slice(REQUEST);
        let request = requests.parse(&mut input).ok()??;
        let (keys, target) = (KeyFormat::Lower, TargetForm::Origin);
        RequestMessage { head: &request.head, framing: request.framing, keys, target }
            .encode(&mut output)
            .ok()?;
        black_box(&output[..]);
        output.clear();

        input.extend_from_slice(RESPONSE);
        let response = responses.parse(&mut input, ResponseContext::of(&request.head)).ok()??;
        let mut encoder = ResponseMessage {
            head: &response.head,
            framing: response.framing,
            method: &Method::GET,
            protocol: Protocol::Http11,
            connection: ConnectionOption::Default,
            upgrade: None,
            keys,
        }
        .encode(&mut output)
        .ok()?;
        let mut decoder = BodyDecoder::new(response.framing, TrailerOptions::default());
        while let Some(BodyEvent::Data(data)) = decoder.decode(&mut input).ok()? {
            encoder.data(&data, &mut output).ok()?;
        }
        encoder.finish(None, &mut output).ok()?;
        black_box(&output[..]);
        output.clear();
        Some(())
    })
}

struct NoFiles;

impl LogFiles for NoFiles {
    fn open(&self, _path: &str) -> std::io::Result<Arc<dyn LogFile>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn table(virtual_hosts: Vec<proto::VirtualHost>) -> Result<Arc<RouteTable>> {
    let env = BuildEnv {
        extensions: Extensions::default(),
        clusters: Names::default(),
        routes: Names::default(),
        runtime: Arc::default(),
        stats: Registry::new(1),
        node: NodeInfo::default(),
        concurrency: 1,
        log_files: Arc::new(NoFiles),
        checks: Arc::new(Constraints),
        cluster_defaults: Default::default(),
        outlier_log: None,
        background: Default::default(),
        kept: Default::default(),
        dns_caches: Arc::new(NoDnsCaches),
        default_tracer: None,
    };
    let mut cx = BuildCx::new(&env);
    let proto = proto::RouteConfiguration { name: "large".to_owned(), virtual_hosts, ..Default::default() };
    RouteTable::build(&proto, &mut cx).map_err(|_| anyhow!("{:?}", cx.into_errors()))
}

fn virtual_host(domain: &str, routes: Vec<proto::Route>) -> proto::VirtualHost {
    proto::VirtualHost {
        name: domain.to_owned(),
        domains: vec![domain.to_owned()],
        routes,
        ..Default::default()
    }
}

fn route(prefix: &str) -> proto::Route {
    use proto::route::Action;
    use proto::route_action::ClusterSpecifier;
    use proto::route_match::PathSpecifier;
    let action = proto::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("backend".to_owned())),
        ..Default::default()
    };
    proto::Route {
        r#match: Some(proto::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

fn request(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers: HeaderMap::new(),
    }
}

fn info() -> StreamInfo {
    let now = Instant::now();
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let connection = ConnectionInfo::new(address.clone(), address, "".into());
    StreamInfo::new(Rc::new(connection), now, SystemTime::now())
}
