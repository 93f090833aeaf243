//! Every command of the access log language, for all that can become of a stream; formats and filters of access logs.

use std::time::Duration;

use integration::config::{self, HttpListener, file_log, listener_with_filters, tcp_proxy_with_logs};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, get_block, hello};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};

/// The code of who needs a stream no longer (RFC 9113, 7).
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Commands and the names of their fields; a `~` says that digits vary.
const COMMANDS: &[(&str, &str)] = &[
    ("s", "REQ(x-sentinel)"),
    ("type", "ACCESS_LOG_TYPE"),
    ("~duration", "DURATION"),
    ("~request_duration", "REQUEST_DURATION"),
    ("~request_tx_duration", "REQUEST_TX_DURATION"),
    ("~response_duration", "RESPONSE_DURATION"),
    ("~response_tx_duration", "RESPONSE_TX_DURATION"),
    ("~roundtrip", "ROUNDTRIP_DURATION"),
    ("~handshake", "DOWNSTREAM_HANDSHAKE_DURATION"),
    ("~pool_ready", "UPSTREAM_CONNECTION_POOL_READY_DURATION"),
    ("rtt", "DOWNSTREAM_CX_RTT"),
    ("~ds_rx", "COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)"),
    ("~ds_tx", "COMMON_DURATION(DS_TX_BEG:DS_TX_END:us)"),
    ("~us_cx", "COMMON_DURATION(US_CX_BEG:US_CX_END:us)"),
    ("~us_hs", "COMMON_DURATION(US_CX_BEG:US_HS_END:us)"),
    ("~us_tx", "COMMON_DURATION(US_TX_BEG:US_TX_END:us)"),
    ("~us_rx", "COMMON_DURATION(US_RX_BEG:US_RX_END:us)"),
    ("~us_rx_body", "COMMON_DURATION(US_TX_BEG:US_RX_BODY_BEG:us)"),
    ("~ds_to_us", "COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ns)"),
    ("~us_to_ds", "COMMON_DURATION(US_RX_BEG:DS_TX_BEG:ns)"),
    ("protocol", "PROTOCOL"),
    ("upstream_protocol", "UPSTREAM_PROTOCOL"),
    ("code", "RESPONSE_CODE"),
    ("details", "RESPONSE_CODE_DETAILS"),
    ("details_spaces", "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)"),
    ("termination", "CONNECTION_TERMINATION_DETAILS"),
    ("flags", "RESPONSE_FLAGS"),
    ("flags_long", "RESPONSE_FLAGS_LONG"),
    ("rx", "BYTES_RECEIVED"),
    ("tx", "BYTES_SENT"),
    ("retransmitted", "BYTES_RETRANSMITTED"),
    ("packets", "PACKETS_RETRANSMITTED"),
    ("request_headers_bytes", "REQUEST_HEADERS_BYTES"),
    ("response_headers_bytes", "RESPONSE_HEADERS_BYTES"),
    ("response_trailers_bytes", "RESPONSE_TRAILERS_BYTES"),
    ("us_wire_tx", "UPSTREAM_WIRE_BYTES_SENT"),
    ("us_wire_rx", "UPSTREAM_WIRE_BYTES_RECEIVED"),
    ("ds_wire_tx", "DOWNSTREAM_WIRE_BYTES_SENT"),
    ("ds_wire_rx", "DOWNSTREAM_WIRE_BYTES_RECEIVED"),
    ("us_header_tx", "UPSTREAM_HEADER_BYTES_SENT"),
    ("us_header_rx", "UPSTREAM_HEADER_BYTES_RECEIVED"),
    ("ds_header_tx", "DOWNSTREAM_HEADER_BYTES_SENT"),
    ("ds_header_rx", "DOWNSTREAM_HEADER_BYTES_RECEIVED"),
    ("us_plain_header_tx", "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"),
    ("us_plain_header_rx", "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"),
    ("ds_plain_header_tx", "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"),
    ("ds_plain_header_rx", "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"),
    ("host", "UPSTREAM_HOST"),
    ("host_name", "UPSTREAM_HOST_NAME"),
    ("host_name_bare", "UPSTREAM_HOST_NAME_WITHOUT_PORT"),
    ("cluster", "UPSTREAM_CLUSTER"),
    ("cluster_raw", "UPSTREAM_CLUSTER_RAW"),
    ("~us_local", "UPSTREAM_LOCAL_ADDRESS"),
    ("us_local_bare", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"),
    ("~us_local_port", "UPSTREAM_LOCAL_PORT"),
    ("us_remote", "UPSTREAM_REMOTE_ADDRESS"),
    ("us_remote_bare", "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"),
    ("us_remote_id", "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID"),
    ("~us_remote_port", "UPSTREAM_REMOTE_PORT"),
    ("~us_id", "UPSTREAM_CONNECTION_ID"),
    ("~us_ids", "UPSTREAM_CONNECTION_IDS_ATTEMPTED"),
    ("hosts", "UPSTREAM_HOSTS_ATTEMPTED"),
    ("hosts_bare", "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT"),
    ("host_names", "UPSTREAM_HOST_NAMES_ATTEMPTED"),
    ("host_names_bare", "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT"),
    ("attempts", "UPSTREAM_REQUEST_ATTEMPT_COUNT"),
    ("failure", "UPSTREAM_TRANSPORT_FAILURE_REASON"),
    ("us_close", "UPSTREAM_LOCAL_CLOSE_REASON"),
    ("us_close_type", "UPSTREAM_DETECTED_CLOSE_TYPE"),
    ("us_server_name", "UPSTREAM_SERVER_NAME"),
    ("~remote", "DOWNSTREAM_REMOTE_ADDRESS"),
    ("remote_bare", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"),
    ("remote_net", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)"),
    ("~remote_port", "DOWNSTREAM_REMOTE_PORT"),
    ("~direct", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS"),
    ("direct_bare", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT"),
    ("~direct_port", "DOWNSTREAM_DIRECT_REMOTE_PORT"),
    ("local", "DOWNSTREAM_LOCAL_ADDRESS"),
    ("local_bare", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"),
    ("~local_port", "DOWNSTREAM_LOCAL_PORT"),
    ("direct_local", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS"),
    ("ds_failure", "DOWNSTREAM_TRANSPORT_FAILURE_REASON"),
    ("ds_close", "DOWNSTREAM_LOCAL_CLOSE_REASON"),
    ("ds_close_type", "DOWNSTREAM_DETECTED_CLOSE_TYPE"),
    ("~connection", "CONNECTION_ID"),
    ("~stream", "STREAM_ID"),
    ("~unique", "UNIQUE_ID"),
    ("grpc", "GRPC_STATUS"),
    ("grpc_snake", "GRPC_STATUS(SNAKE_STRING)"),
    ("grpc_number", "GRPC_STATUS_NUMBER"),
    ("server_name", "REQUESTED_SERVER_NAME"),
    ("server_name_host", "REQUESTED_SERVER_NAME(HOST_FIRST)"),
    ("tls", "DOWNSTREAM_TLS_VERSION"),
    ("subject", "DOWNSTREAM_PEER_SUBJECT"),
    ("us_cipher", "UPSTREAM_TLS_CIPHER"),
    ("route", "ROUTE_NAME"),
    ("vcluster", "VIRTUAL_CLUSTER_NAME"),
    ("chain", "FILTER_CHAIN_NAME"),
    ("hostname", "HOSTNAME"),
    ("body", "LOCAL_REPLY_BODY"),
    ("environment", "ENVIRONMENT(PATH):3"),
    ("no_environment", "ENVIRONMENT(OUTRIGGER_NOPE)"),
    ("trace", "TRACE_ID"),
    ("span", "SPAN_ID"),
    ("custom_flags", "CUSTOM_FLAGS"),
    ("~start", "START_TIME"),
    ("~start_seconds", "START_TIME(%s.%3f)"),
    ("~emit", "EMIT_TIME(%Y-%m-%d %H:%M:%S)"),
    ("path", "PATH"),
    ("path_bare", "PATH(NQ)"),
    ("query", "QUERY_PARAMS"),
    ("query_a", "QUERY_PARAM(a)"),
    ("method", "REQ(:METHOD)"),
    ("scheme", "REQ(:SCHEME)"),
    ("authority", "REQ(:AUTHORITY)"),
    ("original", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH):6"),
    ("empty", "REQ(x-empty)"),
    ("empty_or", "REQ(x-empty?x-full)"),
    ("full", "REQ(x-missing?x-full)"),
    ("twice", "REQ(x-twice)"),
    ("status", "RESP(:STATUS)"),
    ("length", "RESP(content-length)"),
    ("content_type", "RESP(content-type?server)"),
    ("trailer", "TRAILER(grpc-status?x-t)"),
    ("listener_metadata", "METADATA(LISTENER:ns:k)"),
    ("chain_metadata", "METADATA(LISTENER_FILTER_CHAIN:ns:k)"),
    ("host_metadata", "METADATA(VIRTUAL_HOST:ns:k)"),
    ("route_metadata", "METADATA(ROUTE:ns:k)"),
    ("route_number", "METADATA(ROUTE:ns:n)"),
    ("cluster_metadata", "METADATA(CLUSTER:ns:k)"),
    ("endpoint_metadata", "METADATA(UPSTREAM_HOST:ns:k)"),
    ("cluster_short", "CLUSTER_METADATA(ns:k)"),
    ("endpoint_short", "UPSTREAM_METADATA(ns:k)"),
    ("dynamic", "DYNAMIC_METADATA(ns:k)"),
    ("state", "FILTER_STATE(a:PLAIN)"),
];

const ROUTES: &str = r#"
- name: all
  domains: ["*"]
  metadata: {filter_metadata: {ns: {k: host}}}
  virtual_clusters:
  - {name: writes, headers: [{name: ":method", string_match: {exact: POST}}]}
  routes:
  - match: {prefix: /refused}
    name: refused
    route: {cluster: refused}
  - match: {prefix: /blackhole}
    route: {cluster: blackhole}
  - match: {prefix: /slow}
    route: {cluster: up, timeout: 0.15s}
  - match: {prefix: /max}
    route: {cluster: up, max_stream_duration: {max_stream_duration: 0.15s}}
  - match: {prefix: /empty}
    route: {cluster: empty}
  - match: {prefix: /full}
    route: {cluster: full}
  - match: {prefix: /lost}
    route: {cluster_header: x-cluster}
  - match: {prefix: /denied}
    name: denied
    direct_response: {status: 403, body: {inline_string: denied}}
  - match: {prefix: /moved}
    redirect: {path_redirect: /new}
  - match: {prefix: /h2}
    route: {cluster: h2up}
  - match: {prefix: /rewritten}
    route: {cluster: up, prefix_rewrite: /up}
  - match: {prefix: /up}
    name: to-up
    metadata: {filter_metadata: {ns: {k: route, n: 1.5}}}
    route: {cluster: named}
"#;

const METADATA: &str = "metadata: {filter_metadata: {ns: {k: listener}}}";

fn text_format(commands: &[(&str, &str)]) -> String {
    let fields: Vec<String> = commands.iter().map(|(name, command)| format!("{name}=%{command}%")).collect();
    format!("log_format: {{text_format_source: {{inline_string: '{}\n\n'}}}}", fields.join("|"))
}

/// The commands as members of an object, for the fields that take one.
fn json_members(commands: &[(&str, &str)], margin: usize) -> String {
    let members: Vec<String> =
        commands.iter().map(|(name, command)| format!("\"{name}\": '%{command}%'")).collect();
    config::indent(&members.join("\n"), margin)
}

fn named_cluster() -> String {
    config::cluster("named", "up", "alt_stat_name: alias\nmetadata: {filter_metadata: {ns: {k: cluster}}}")
        .replace(
            "- endpoint: {",
            "- metadata: {filter_metadata: {ns: {k: endpoint}}}\n        endpoint: {hostname: 'name.test:80', ",
        )
}

pub(crate) fn setup() -> Setup {
    let everything = text_format(COMMANDS);
    let http = |name: &str, logs: &str| {
        HttpListener::with_virtual_hosts(name, ROUTES.trim_start_matches('\n'))
            .router("suppress_envoy_headers: true")
            .options("http_protocol_options: {accept_http_10: true, enable_trailers: true}\ngenerate_request_id: true")
            .chain("name: chain\nmetadata: {filter_metadata: {ns: {k: chain}}}")
            .listener(METADATA)
            .logs(logs)
    };
    let mark = file_log("log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|\\n\"}}");
    let json = format!("log_format:\n  json_format:\n{}", json_members(COMMANDS, 4));
    let omitting =
        format!("log_format:\n  omit_empty_values: true\n  json_format:\n{}", json_members(COMMANDS, 4));
    let legacy_json = format!("json_format:\n{}", json_members(COMMANDS, 2));
    let typed_json = format!("typed_json_format:\n{}", json_members(COMMANDS, 2));
    let legacy =
        "format: \"s=%REQ(x-sentinel)%|legacy=%RESPONSE_CODE% %REQ(x-missing)% %UPSTREAM_CLUSTER%\\n\"";
    let often = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|type=%ACCESS_LOG_TYPE%|tx=%BYTES_SENT%|code=%RESPONSE_CODE%\\n\"}}";
    let tcp = |name: &str, options: &str| {
        let logs = format!("access_log:\n{}", file_log(&everything));
        let listener = listener_with_filters(name, &tcp_proxy_with_logs(name, &logs, options));
        format!("{listener}    name: chain\n{}", config::indent(METADATA, 2))
    };
    let trailers = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http_protocol_options: {enable_trailers: true}}\n";
    Setup::with_clusters(
        "logs",
        [
            http("text", &file_log(&everything)).yaml(),
            http("json", &format!("{}{mark}", file_log(&json))).yaml(),
            http("omitting", &format!("{}{mark}", file_log(&omitting))).yaml(),
            http("legacy_json", &format!("{}{mark}", file_log(&legacy_json))).yaml(),
            http("typed_json", &format!("{}{mark}", file_log(&typed_json))).yaml(),
            http("legacy", &file_log(legacy)).yaml(),
            http("upstream", &mark).router(&upstream_log(&everything, "")).yaml(),
            http("upstream_begun", &mark)
                .router(&upstream_log(&everything, "flush_upstream_log_on_upstream_stream: true"))
                .yaml(),
            http("upstream_often", &mark)
                .router(&upstream_log(often, "upstream_log_flush_interval: 0.1s"))
                .yaml(),
            tcp("tcp", "cluster: echo"),
            tcp("tcp_refused", "cluster: refused"),
            tcp("tcp_idle", "cluster: echo\nidle_timeout: 0.15s"),
            tcp("tcp_none", "cluster: empty"),
            tcp("tcp_lost", "cluster: nowhere"),
        ],
        [
            format!("{}{}", named_cluster(), config::indent(trailers, 2)),
            "- {name: empty, type: STATIC, connect_timeout: 1s}\n".to_owned(),
            config::cluster(
                "full",
                "up",
                "circuit_breakers: {thresholds: [{max_requests: 0, max_pending_requests: 0, max_connections: 0}]}",
            ),
        ],
    )
}

/// Fields of the router that log each stream to a host, with these options.
fn upstream_log(format: &str, options: &str) -> String {
    format!("upstream_log:\n{}upstream_log_options: {{{options}}}", file_log(format))
}

const HPACK: &str =
    "the sizes of compressed fields, and of their frames, are not known outside of the HTTP/2 codec";

/// A client that speaks HTTP/2.
fn h2(name: &'static str, listener: &'static str, request: H2Request) -> Case {
    Case::h2(name, listener, [request])
        .differs("log[0].ds_header_*", HPACK)
        .differs("log[0].ds_wire_*", HPACK)
}

const FIELDS: &str = "x-empty: \r\nx-full: f\r\nx-twice: 1\r\nx-twice: 2\r\n";

fn grpc(name: &'static str, listener: &'static str) -> Case {
    let request = H2Request::post("http://test/h2", "hello").field("content-type", "application/grpc");
    h2(name, listener, request)
        .h2_reply(
            H2Reply::new(200, "world").field("content-type", "application/grpc").trailer("grpc-status", "5"),
        )
        .differs("log[0].us_header_*", HPACK)
        .differs("log[0].us_wire_*", HPACK)
}

/// Without a host nothing is matched, and the size of the head is what the client sent.
fn no_host(case: Case) -> Case {
    case.differs("log[0].host_metadata", "no host was matched, so there is no metadata of one to log")
        .differs("log[0].request_headers_bytes", "the size of a refused head is given as of any other")
        .differs("log[0].scheme", "the scheme is that of the connection, whether or not a host is named")
}

pub(crate) fn cases() -> Vec<Case> {
    let text = |name, target: &str| Case::get(name, "text", target, "");
    let cut = || b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec();
    let mut cases = vec![
        Case::get("log: 200", "text", "/up/a?a=1&b=2", FIELDS),
        Case::send(
            "log: POST, chunked, trailers both ways",
            "text",
            "POST /up HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
        )
        .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 2\r\n\r\n"),
        Case::send("log: HTTP/1.0", "text", "GET /up HTTP/1.0\r\nhost: test\r\n\r\n"),
        Case::send("log: HEAD", "text", "HEAD /up HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        text("log: 304", "/up").raw("HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"),
        text("log: rewritten", "/rewritten/a?b=c"),
        Case::send(
            "log: a second request on both connections",
            "text",
            "GET /up/1 HTTP/1.1\r\nhost: test\r\n\r\nGET /up/2 HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .and_response("GET")
        .differs("log[0].ds_wire_rx", "Envoy counts what was read ahead as a part of the first request"),
        text("log: no route", "/nowhere"),
        text("log: direct response", "/denied"),
        text("log: redirect", "/moved"),
        Case::send("log: codec error", "text", "GET / HTTP/1.1\r\nhost: test\r\nx-a : 1\r\n\r\n"),
        Case::send("log: not HTTP", "text", "garbage\r\n\r\n"),
        no_host(Case::send("log: no host", "text", "GET / HTTP/1.1\r\n\r\n")),
        Case::steps(
            "log: bad chunk",
            "text",
            [
                Do::Send(b"POST /up HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec()),
                Do::Pause(Duration::from_millis(50)),
                Do::Send(b"zz\r\n".to_vec()),
                Do::Response("POST"),
            ],
        ),
        text("log: refused", "/refused"),
        text("log: connect timeout", "/blackhole"),
        text("log: no host in the cluster", "/empty"),
        text("log: no cluster", "/lost"),
        Case::get("log: unknown cluster", "text", "/lost", "x-cluster: nope\r\n"),
        text("log: overflow", "/full"),
        text("log: reset before the response", "/up").reply(Reply::steps([Step::Reset])),
        text("log: closed before the response", "/up").reply(Reply::steps([Step::Close])),
        text("log: closed inside the response", "/up").reply(Reply::raw_then_close(cut())),
        text("log: not HTTP from upstream", "/up").raw("garbage\r\n\r\n"),
        text("log: route timeout", "/slow").reply(Reply::steps([Step::Stall])),
        text("log: stream duration", "/max").reply(Reply::steps([Step::Stall])),
        text("log: timeout inside the response", "/slow").reply(Reply::steps([Step::Send(cut()), Step::Stall])),
        Case::steps(
            "log: client gone",
            "text",
            [Do::Send(b"GET /up HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::AwaitUpstream(1)],
        )
        .reply(Reply::steps([Step::Stall])),
        Case::steps(
            "log: client gone inside the request",
            "text",
            [
                Do::Send(b"POST /up HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
                Do::Pause(Duration::from_millis(50)),
            ],
        )
        .reply(Reply::early([Step::Stall])),
        h2("log: h2, 200", "text", H2Request::get("http://test/up?a=1")),
        h2("log: h2, POST", "text", H2Request::post("http://test/up", "hello")),
        h2("log: h2, no route", "text", H2Request::get("http://test/nowhere")),
        h2("log: h2 to h2, reset", "text", H2Request::get("http://test/h2"))
            .h2_reply(H2Reply::refuse(2))
            .differs("log[0].us_header_*", HPACK)
            .differs("log[0].us_wire_*", HPACK),
        grpc("log: gRPC with trailers", "text"),
        h2(
            "log: gRPC, local reply",
            "text",
            H2Request::get("http://test/refused").field("content-type", "application/grpc"),
        ),
        Case::get("log: legacy format", "legacy", "/up", ""),
    ];
    cases.extend(json_and_tcp_cases());
    cases
}

/// A stream that no host was asked for.
fn unasked(case: Case) -> Case {
    case.differs(
        "log[0].server_name_host",
        "the host is that of the request, whether or not a host was asked",
    )
}

/// What the router logs of each stream to a host. The connection manager logs the marks alone.
pub(crate) fn upstream_cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "upstream", target, "");
    let cut = || b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec();
    vec![
        Case::get("upstream log: 200", "upstream", "/up/a?a=1&b=2", FIELDS),
        Case::send(
            "upstream log: POST, chunked, trailers both ways",
            "upstream",
            "POST /up HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
        )
        .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 2\r\n\r\n")
        .differs("log[0].ds_*", "the entry is written when the response was passed on, not when it was received")
        .differs("log[0].response_headers_bytes", "hop-by-hop fields are taken off before the size is"),
        get("upstream log: rewritten", "/rewritten/a?b=c"),
        get("upstream log: no route", "/nowhere"),
        unasked(get("upstream log: refused", "/refused")),
        unasked(get("upstream log: connect timeout", "/blackhole")),
        get("upstream log: no host in the cluster", "/empty"),
        unasked(get("upstream log: overflow", "/full")),
        get("upstream log: reset before the response", "/up").reply(Reply::steps([Step::Reset])),
        get("upstream log: closed before the response", "/up").reply(Reply::steps([Step::Close])),
        // The upstream closes only when the client has what came before, which is what the entry counts.
        Case::steps(
            "upstream log: closed inside the response",
            "upstream",
            [
                Do::Send(b"POST /up HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\n".to_vec()),
                // The head, which "HEAD" has it read, and with it what of the body came.
                Do::Response("HEAD"),
                Do::Send(b"abc".to_vec()),
                Do::AwaitEnd,
            ],
        )
        .reply(Reply::early([Step::Send(cut()), Step::ReadBody, Step::Close])),
        get("upstream log: not HTTP from upstream", "/up").raw("garbage\r\n\r\n"),
        get("upstream log: route timeout", "/slow").reply(Reply::steps([Step::Stall])),
        get("upstream log: stream duration", "/max").reply(Reply::steps([Step::Stall])),
        Case::steps(
            "upstream log: client gone",
            "upstream",
            [Do::Send(b"GET /up HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::AwaitUpstream(1)],
        )
        .reply(Reply::steps([Step::Stall])),
        Case::steps(
            "upstream log: client resets the stream",
            "upstream",
            [
                Do::Send([hello(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/up"))].concat()),
                Do::AwaitUpstream(1),
                Do::Send(frame(RST_STREAM, 0, 1, &CANCEL)),
                Do::Pause(Duration::from_millis(200)),
                Do::Leave,
            ],
        )
        .reply(Reply::steps([Step::Stall]))
        .differs("log[1].ds_header_rx", HPACK)
        .differs("log[1].ds_wire_rx", HPACK),
        h2("upstream log: h2 to h2", "upstream", H2Request::post("http://test/h2", "hello"))
            .differs("log[0].us_header_*", HPACK)
            .differs("log[0].us_wire_*", HPACK),
        Case::get("upstream log: at its begin", "upstream_begun", "/up", ""),
        unasked(Case::get("upstream log: at its begin, refused", "upstream_begun", "/refused", "")),
        Case::get("upstream log: again and again", "upstream_often", "/up", "").reply(Reply::steps([
            Step::Pause(Duration::from_millis(250)),
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()),
        ])),
    ]
}

fn json_and_tcp_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in ["json", "omitting", "legacy_json", "typed_json"] {
        cases.extend([
            Case::get("log: JSON, 200", listener, "/up/a?a=1&b=2", FIELDS),
            Case::get("log: JSON, no route", listener, "/nowhere", ""),
            Case::get("log: JSON, refused", listener, "/refused", ""),
            Case::send("log: JSON, codec error", listener, "GET / HTTP/1.1\r\nhost: test\r\nx-a : 1\r\n\r\n"),
            grpc("log: JSON, gRPC", listener),
        ]);
    }
    let hello = || Do::Send(b"hello".to_vec());
    cases.extend([
        Case::steps("log: TCP", "tcp", [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(1),
        Case::steps("log: TCP, client resets", "tcp", [hello(), Do::Bytes(5)]).tcp(1),
        Case::steps("log: TCP, idle", "tcp_idle", [hello(), Do::Bytes(5), Do::AwaitEnd]).tcp(1),
        Case::steps("log: TCP, refused", "tcp_refused", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("log: TCP, no host", "tcp_none", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("log: TCP, no cluster", "tcp_lost", [hello(), Do::AwaitEnd]).tcp(1),
    ]);
    cases
}
