//! The client and the upstream around the proxy that is counted, and what it is configured to do.
//!
//! Both send the same bytes each time, in one piece, and the client sends the next only when everything is answered. So the
//! proxy, much slower under callgrind than they are, finds the same work at every wake-up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE, frame,
};
use integration::process::{Binary, Kind, Proxy};

use crate::policies::{LOCAL_LIMIT, RETRIES, policies};
use crate::secured::Ends;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const BODY: &[u8] = b"hello world, this is a small body from the backend\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:10000\r\n\r\n";
const RESPONSE_HEAD: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\n\
     Content-Type: text/plain\r\nContent-Length: 51\r\nConnection: keep-alive\r\n\r\n";

/// One kind of request through the whole proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// HTTP/1 small GET.
    H1,
    /// The same through eight filters.
    H1Filters,
    /// The same past 64 policies of access control, of which the last holds.
    H1Policies,
    /// The same by a route that would try again what fails.
    H1Retries,
    /// The same past a local rate limit that is never reached.
    H1LocalLimit,
    /// The same with 20 request headers, four header mutations, JSON access log to a file.
    H1Full,
    /// HTTP/2 both ways, 32 streams at once.
    H2,
    /// HTTP/2 both ways, one stream after the other.
    H2Single,
    /// The TCP proxy.
    Tcp,
    /// HTTP/1 small GET out of one sidecar and into another, mutual TLS between them.
    H1Mtls,
    /// The same over HTTP/2, one stream after the other.
    H2Mtls,
    /// A connection with mutual TLS that ends after its handshake.
    Handshake,
    /// The same that resumes the session of the one before.
    HandshakeResumed,
}

impl Row {
    pub(crate) const ALL: [Self; 13] = [
        Self::H1,
        Self::H1Filters,
        Self::H1Policies,
        Self::H1Retries,
        Self::H1LocalLimit,
        Self::H1Full,
        Self::H2,
        Self::H2Single,
        Self::Tcp,
        Self::H1Mtls,
        Self::H2Mtls,
        Self::Handshake,
        Self::HandshakeResumed,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H1Filters => "h1_8_filters",
            Self::H1Policies => "h1_64_policies",
            Self::H1Retries => "h1_retries",
            Self::H1LocalLimit => "h1_local_limit",
            Self::H1Full => "h1_headers_log",
            Self::H2 => "h2_32_streams",
            Self::H2Single => "h2_1_stream",
            Self::Tcp => "tcp",
            Self::H1Mtls => "h1_mtls",
            Self::H2Mtls => "h2_mtls",
            Self::Handshake => "mtls_handshake",
            Self::HandshakeResumed => "mtls_handshake_resumed",
        }
    }

    /// Whether its count repeats well enough for the gate. Where two hops of one worker take turns it does not: what is ready at once
    /// differs. Such rows are there to train with.
    pub(crate) fn repeats(self) -> bool {
        !matches!(self, Self::H1Mtls | Self::H2Mtls)
    }

    fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::H2Single | Self::H2Mtls)
    }

    /// The bootstrap for a proxy in front of `upstream`.
    fn bootstrap(self, upstream: u16, ends: &Ends) -> String {
        let filter = match self {
            Self::Tcp => TCP_PROXY.to_owned(),
            _ => self.connection_manager("backend"),
        };
        let port = |port| format!("socket_address: {{address: 127.0.0.1, port_value: {port}}}");
        let backend = self.cluster("backend", &port(upstream), "");
        let (listeners, clusters) = match self {
            Self::Handshake | Self::HandshakeResumed => {
                (listener("row", &port(0), &filter, &ends.server), backend)
            }
            Self::H1Mtls | Self::H2Mtls => {
                let out = listener("row", &port(0), &self.connection_manager("in"), "");
                let within = listener("in", BETWEEN, &filter, &ends.server);
                (out + &within, self.cluster("in", BETWEEN, &ends.cluster) + &backend)
            }
            _ => (listener("row", &port(0), &filter, ""), backend),
        };
        format!(
            "admin: {{address: {{{admin}}}}}
static_resources:
  listeners:
{listeners}  clusters:
{clusters}",
            admin = port(0)
        )
    }

    fn cluster(self, name: &str, address: &str, transport_socket: &str) -> String {
        let options = if self.is_http2() { HTTP2_UPSTREAM } else { "" };
        format!(
            "  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{{address}}}}}}}]}}]
{options}    {transport_socket}
"
        )
    }

    fn connection_manager(self, cluster: &str) -> String {
        let codec = if self.is_http2() { "HTTP2" } else { "HTTP1" };
        let filters: String = match self {
            Self::H1Filters => (1..8).map(header_mutation).collect(),
            Self::H1Policies => policies(64),
            Self::H1LocalLimit => LOCAL_LIMIT.to_owned(),
            _ => String::new(),
        };
        let retries = if self == Self::H1Retries { RETRIES } else { "" };
        let (log, mutations) = if self == Self::H1Full { (JSON_LOG, MUTATIONS) } else { ("", "") };
        format!(
            "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: row
          codec_type: {codec}
{log}          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: {cluster}{retries}}}
{mutations}          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"
        )
    }

    /// Starts the proxy, sends `count` requests through it and ends it.
    pub(crate) fn run(self, outrigger: PathBuf, count: usize) -> Result<()> {
        let binary = Binary { kind: Kind::Outrigger, path: outrigger };
        let upstream = Upstream::start()?;
        let ends = Ends::new()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let config = self.bootstrap(upstream.port, &ends);
            let proxy = Proxy::start_with(&binary, &config, &["-l", "error"]).await?;
            let sent = self.drive(proxy.listener("row")?, count, &ends);
            sent.with_context(|| proxy.log_tail())?;
            proxy.stop().await
        })
    }

    /// Sends `count` requests and reads the responses.
    fn drive(self, proxy: SocketAddr, count: usize, ends: &Ends) -> Result<()> {
        if matches!(self, Self::Handshake | Self::HandshakeResumed) {
            return ends.shake(proxy, count, self == Self::HandshakeResumed);
        }
        let stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match self {
            Self::H1Full => {
                let mut request = REQUEST.strip_suffix(b"\r\n").unwrap_or_default().to_vec();
                for number in 1..20 {
                    request
                        .extend(format!("x-header-number-{number}: value number {number}\r\n").into_bytes());
                }
                request.extend(b"\r\n");
                drive_http1(stream, &request, count)
            }
            Self::H2 => drive_http2(stream, 32, count),
            Self::H2Single | Self::H2Mtls => drive_http2(stream, 1, count),
            _ => drive_http1(stream, REQUEST, count),
        }
    }
}

/// Where one hop ends and the other begins.
const BETWEEN: &str = "pipe: {path: \"{{dir}}/between.sock\"}";

fn listener(name: &str, address: &str, filter: &str, transport_socket: &str) -> String {
    format!(
        "  - name: {name}
    address: {{{address}}}
    filter_chains:
    - filters:
{filter}
      {transport_socket}
"
    )
}

const TCP_PROXY: &str = "      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: row
          cluster: backend";

const HTTP2_UPSTREAM: &str = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";

const JSON_LOG: &str = "          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: \"{{dir}}/access.log\"
              log_format:
                json_format: {start: \"%START_TIME%\", method: \"%REQ(:METHOD)%\", path: \"%REQ(:PATH)%\",
                  code: \"%RESPONSE_CODE%\", flags: \"%RESPONSE_FLAGS%\", duration: \"%DURATION%\",
                  received: \"%BYTES_RECEIVED%\", sent: \"%BYTES_SENT%\", upstream: \"%UPSTREAM_HOST%\"}
";

const MUTATIONS: &str = "                request_headers_to_add:
                - {header: {key: x-added, value: one}}
                - {header: {key: x-client, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}}
                request_headers_to_remove: [x-header-number-7]
                response_headers_to_add:
                - {header: {key: x-answered-by, value: row}}
";

fn header_mutation(number: usize) -> String {
    format!(
        "          - name: mutation-{number}
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations: [{{append: {{header: {{key: x-mutation-{number}, value: passed}}}}}}]
"
    )
}

fn drive_http1(mut stream: TcpStream, request: &[u8], count: usize) -> Result<()> {
    let mut input = Vec::new();
    for _ in 0..count {
        stream.write_all(request)?;
        input.clear();
        while !input.ends_with(BODY) {
            read_more(&mut stream, &mut input)?;
        }
        ensure!(input.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&input));
    }
    Ok(())
}

fn drive_http2(mut stream: TcpStream, at_once: usize, count: usize) -> Result<()> {
    // A window that is never exhausted: the connection carries less than that.
    let window = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &window].concat())?;
    let mut input = Vec::new();
    let mut id = 1;
    // :method GET, :scheme http, :path /, and two fields that later requests name by their place in the table
    let mut block = b"\x82\x86\x84\x41\x0f127.0.0.1:10000\x7a\x0etest-agent/1.0".to_vec();
    for _ in 0..count / at_once {
        let mut output = Vec::new();
        for _ in 0..at_once {
            output.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
            block = b"\x82\x86\x84\xbf\xbe".to_vec();
            id += 2;
        }
        stream.write_all(&output)?;
        let mut ended = 0;
        while ended < at_once {
            read_more(&mut stream, &mut input)?;
            let mut answer = Vec::new();
            take_frames(&mut input, |kind, flags, _, payload| {
                if kind == HEADERS {
                    // it is the first field, by its place in the static table
                    ensure!(payload.first() == Some(&0x88), "not 200: {payload:x?}");
                }
                ended += usize::from(matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0);
                acknowledge(kind, flags, payload, &mut answer);
                Ok(())
            })?;
            stream.write_all(&answer)?;
        }
    }
    Ok(())
}

fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 32 * 1024];
    let count = stream.read(&mut piece)?;
    ensure!(count > 0, "the connection ended");
    input.extend_from_slice(piece.get(..count).unwrap_or_default());
    Ok(())
}

/// Takes every whole frame: kind, flags, stream, payload.
fn take_frames(input: &mut Vec<u8>, mut take: impl FnMut(u8, u8, u32, &[u8]) -> Result<()>) -> Result<()> {
    let mut taken = 0;
    while let Some([a, b, c, kind, flags, stream @ ..]) = input.get(taken..taken + 9) {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes(stream.try_into().context("four bytes")?);
        let Some(payload) = input.get(taken + 9..taken + 9 + length) else { break };
        take(*kind, *flags, stream, payload)?;
        taken += 9 + length;
    }
    input.drain(..taken);
    Ok(())
}

fn acknowledge(kind: u8, flags: u8, payload: &[u8], answer: &mut Vec<u8>) {
    if flags & ACK == 0 && (kind == SETTINGS || kind == PING) {
        answer.extend(frame(kind, ACK, 0, if kind == PING { payload } else { &[] }));
    }
}

/// A server that gives the same answer to everything, over HTTP/1 or HTTP/2 as the first bytes say. It lives as long as the
/// process.
struct Upstream {
    port: u16,
}

impl Upstream {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A connection that ends is no news here: the client misses its answer.
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { port })
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    while input.len() < 3 {
        read_more(&mut stream, &mut input)?;
    }
    if input.starts_with(b"PRI") { serve_http2(stream, input) } else { serve_http1(stream, input) }
}

fn serve_http1(mut stream: TcpStream, mut input: Vec<u8>) -> Result<()> {
    let response = [RESPONSE_HEAD.as_bytes(), BODY].concat();
    loop {
        while !input.ends_with(b"\r\n\r\n") {
            read_more(&mut stream, &mut input)?;
        }
        input.clear();
        stream.write_all(&response)?;
    }
}

fn serve_http2(mut stream: TcpStream, mut input: Vec<u8>) -> Result<()> {
    while input.len() < PREFACE.len() {
        read_more(&mut stream, &mut input)?;
    }
    input.drain(..PREFACE.len());
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    // As nginx answers: names from the static table, values anew each time.
    let head =
        b"\x88\x76\x0cnginx/1.22.1\x61\x1dThu, 26 Nov 2026 12:00:00 GMT\x5f\x0atext/plain\x0f\x0d\x0251";
    loop {
        let mut answer = Vec::new();
        take_frames(&mut input, |kind, flags, id, payload| {
            acknowledge(kind, flags, payload, &mut answer);
            if kind == HEADERS {
                answer.extend(frame(HEADERS, END_HEADERS, id, head));
                answer.extend(frame(DATA, END_STREAM, id, BODY));
            }
            Ok(())
        })?;
        stream.write_all(&answer)?;
        read_more(&mut stream, &mut input)?;
    }
}
