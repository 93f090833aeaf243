//! What two sidecars tell each other over TCP (`istio.metadata_exchange` before the TCP proxy and of a cluster): both ours, and one of
//! them with bytes written by hand.

use std::net::SocketAddr;

use integration::client::{Client, End};
use integration::config::{
    HttpListener, bootstrap, cluster, file_log, fill, listener_with_filters, port, tcp_proxy_with_logs,
};
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline, upstream};
use integration::upstream::{EchoServer, Reply, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::istio::{STATS, TYPED, expect, node, sample};

const ALPN: &str = "istio-peer-exchange";
/// What comes first, and lengths are short enough for three of their octets to be 0.
const MAGIC: &[u8] = b"=#\x04g";
const LOG: &str = "log_format: {text_format_source: {inline_string: \"down=%FILTER_STATE(downstream_peer:FIELD:workload)%|up=%UPSTREAM_FILTER_STATE(upstream_peer:FIELD:workload)%|rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%|%DOWNSTREAM_LOCAL_CLOSE_REASON%\\n\"}}";

fn exchange() -> String {
    format!(
        "- name: istio.metadata_exchange\n  typed_config:\n    {TYPED}/envoy.tcp.metadataexchange.config.MetadataExchange\n    value: {{protocol: {ALPN}, enable_discovery: true}}\n"
    )
}

fn tcp(cluster: &str, more: &str) -> String {
    let logs = format!("access_log:\n{}", file_log(LOG));
    tcp_proxy_with_logs("tcp", &logs, &format!("cluster: {cluster}\n{more}"))
}

/// A sidecar before an echo server, and one before who asks it.
struct World {
    web: Identity,
    host: Upstream,
    echo: EchoServer,
    /// Behind a sidecar that tells nothing.
    raw: TcpListener,
    server: Proxy,
    client: Proxy,
}

async fn world() -> World {
    let root = Authority::new("root").unwrap();
    let identity = |name: &str| {
        let san = format!("uri:spiffe://cluster.local/ns/{name}-ns/sa/{name}");
        root.issue(&Wanted { sans: &[&san], ..Wanted::default() }).unwrap()
    };
    let (web, shop) = (identity("web"), identity("shop"));
    let (host, echo) = (Upstream::start().await.unwrap(), EchoServer::start().await.unwrap());
    let raw = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let common = |own: &Identity, alpn: &str| {
        format!(
            "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}\nalpn_protocols: {alpn}\n",
            own.inline(),
            inline(&root.pem)
        )
    };
    let binary = Binary::subject().unwrap();
    let listener = |name: &str, filters: &[&str], alpn: &str| {
        let socket = downstream(&common(&shop, alpn), "require_client_certificate: true\n");
        let socket = socket.lines().map(|line| format!("    {line}\n")).collect::<String>();
        listener_with_filters(name, &filters.concat()) + &socket + "  traffic_direction: INBOUND\n"
    };
    let agreed = format!("[{ALPN}, h2, http/1.1]");
    let socket = downstream(&common(&shop, &agreed), "require_client_certificate: true\n");
    let http =
        HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: host}").chain(&socket).yaml();
    let before = |yaml: String| {
        let filter = exchange().lines().map(|line| format!("    {line}\n")).collect::<String>();
        yaml.replacen("  - filters:\n", &format!("  - filters:\n{filter}"), 1)
    };
    let listeners = [
        listener("mesh", &[&exchange(), STATS, &tcp("echo", "")], &agreed),
        listener("hasty", &[&exchange(), &tcp("echo", "idle_timeout: 0.3s\n")], &agreed),
        listener("small", &[&exchange(), &tcp("echo", "")], &agreed)
            + "  per_connection_buffer_limit_bytes: 16\n",
        listener("other", &[&exchange(), STATS, &tcp("echo", "")], "[h2]"),
        listener("untold", &[&tcp("raw", "")], &agreed),
        listener("first", &[&exchange(), &tcp("raw", "")], &agreed),
        before(http),
    ];
    let hosts = [
        fill(&cluster("host", "host", ""), [("host", port(host.addr()))]),
        fill(&cluster("echo", "host", ""), [("host", port(echo.server().addr()))]),
        fill(&cluster("raw", "host", ""), [("host", port(raw.local_addr().unwrap()))]),
    ];
    let text = bootstrap(&listeners, &hosts, &node("shop", "shop-ns"));
    let server = Proxy::start(&binary, &text).await.unwrap();

    let names = ["mesh", "other", "untold", "first", "http"];
    let clusters = names.map(|name| {
        let offered = if name == "other" { "[h2]".to_owned() } else { format!("[{ALPN}, istio]") };
        let filters = format!("filters:\n{}", exchange());
        let to = server.listener(name).unwrap();
        fill(
            &cluster(name, "host", &(upstream(&common(&web, &offered), "") + &filters)),
            [("host", port(to))],
        )
    });
    let listener = |name: &str| {
        listener_with_filters(name, &[STATS, &tcp(name, "")].concat()) + "  traffic_direction: OUTBOUND\n"
    };
    let http = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: http}")
        .filters(&STATS.replace("network", "http"))
        .listener("traffic_direction: OUTBOUND\n");
    let listeners = [listener("mesh"), listener("other"), listener("untold"), listener("first"), http.yaml()];
    let text = bootstrap(&listeners, &clusters, &node("web", "web-ns"));
    let client = Proxy::start(&binary, &text).await.unwrap();
    World { web, host, echo, raw, server, client }
}

/// The lines of the access log, once there are so many.
async fn logged(proxy: &Proxy, count: usize) -> Vec<String> {
    let path = proxy.dir().join("access.log");
    let lines = eventually("a log", SOON, async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    });
    lines.await.unwrap()
}

async fn count(proxy: &Proxy, name: &str) -> i64 {
    proxy.admin().stat(&format!("metadata_exchange.{name}")).await.unwrap()
}

async fn echoed(proxy: &Proxy, listener: &str, text: &[u8]) {
    let mut client = Client::connect(proxy.listener(listener).unwrap()).await.unwrap();
    client.send(text).await.unwrap();
    assert_eq!(client.at_least(text.len(), SOON).await.unwrap(), text);
    client.half_close().await.unwrap();
    assert_eq!(client.end_within(SOON).await, End::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_count_a_connection_with_the_other_s_name() {
    let world = world().await;
    let World { server, client, echo, .. } = &world;
    echoed(client, "mesh", b"hello").await;
    let both = [
        ("source_workload", "web"),
        ("source_workload_namespace", "web-ns"),
        ("source_canonical_service", "web"),
        ("source_principal", "spiffe://cluster.local/ns/web-ns/sa/web"),
        ("source_app", "web"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "shop"),
        ("destination_workload_namespace", "shop-ns"),
        ("destination_canonical_service", "shop"),
        ("destination_principal", "spiffe://cluster.local/ns/shop-ns/sa/shop"),
        ("destination_app", "shop"),
        ("destination_version", "v1"),
        ("destination_cluster", "Kubernetes"),
        ("request_protocol", "tcp"),
    ];
    for (proxy, reporter) in [(client, "source"), (server, "destination")] {
        let (labels, opened) = sample(proxy, "istio_tcp_connections_opened_total").await;
        expect(&labels, &both);
        expect(&labels, &[("reporter", reporter)]);
        assert_eq!(opened, 1);
        for name in ["alpn_protocol_found", "metadata_added"] {
            assert_eq!(count(proxy, name).await, 1, "{name} of the {reporter}");
        }
        for name in ["alpn_protocol_not_found", "header_not_found", "initial_header_not_found"] {
            assert_eq!(count(proxy, name).await, 0, "{name} of the {reporter}");
        }
    }
    assert_eq!(logged(client, 1).await, ["down=-|up=shop|rx=5|tx=5|-"]);
    let [line] = &logged(server, 1).await[..] else { panic!("one connection") };
    assert!(line.starts_with("down=web|up=-|rx="), "{line}");
    assert_eq!(echo.server().bytes(), b"hello", "what is told is for sidecars");
    let received = client.admin().stat("cluster.mesh.upstream_cx_rx_bytes_total").await.unwrap();
    let sent = client.admin().stat("cluster.mesh.upstream_cx_tx_bytes_total").await.unwrap();
    assert_eq!(line.as_str(), format!("down=web|up=-|rx={sent}|tx={received}|-"), "each counts all of it");
    assert!(sent > 100 && received > 100, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_streams_are_whole() {
    let world = world().await;
    let World { client, .. } = &world;
    let text: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    let stream = TcpStream::connect(client.listener("mesh").unwrap()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let mut received = Vec::new();
    let writing = async {
        write.write_all(&text).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(writing, read.read_to_end(&mut received)) };
    within("an echo", SOON, both).await.unwrap().1.unwrap();
    assert!(received == text);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_the_protocol_carry_nothing_else() {
    let world = world().await;
    let World { server, client, echo, .. } = &world;
    echoed(client, "other", b"hello").await;
    let (labels, _) = sample(server, "istio_tcp_connections_opened_total").await;
    expect(&labels, &[("source_workload", "unknown"), ("connection_security_policy", "mutual_tls")]);
    for proxy in [client, server] {
        assert_eq!(
            (count(proxy, "alpn_protocol_not_found").await, count(proxy, "metadata_added").await),
            (1, 0)
        );
    }
    assert_eq!(logged(server, 1).await, ["down=-|up=-|rx=5|tx=5|-"]);
    assert_eq!(echo.server().bytes(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_speaks_first_is_heard_behind_what_its_sidecar_tells() {
    let world = world().await;
    let World { client, raw, .. } = &world;
    let mut silent = Client::connect(client.listener("first").unwrap()).await.unwrap();
    let (mut host, _) = within("a connection", SOON, raw.accept()).await.unwrap().unwrap();
    host.write_all(b"220 mail").await.unwrap();
    assert_eq!(silent.at_least(8, SOON).await.unwrap(), b"220 mail");
    drop(host);
    assert_eq!(silent.end_within(SOON).await, End::Closed);
    drop(silent);
    assert_eq!(logged(client, 1).await, ["down=-|up=shop|rx=0|tx=8|-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_as_well() {
    let world = world().await;
    let World { client, host, .. } = &world;
    let mut asking = Client::connect(client.listener("http").unwrap()).await.unwrap();
    for _ in 0..2 {
        host.push(Reply::ok());
        asking.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert_eq!(asking.response("GET", SOON).await.unwrap().head.status().unwrap(), 200);
    }
    let (labels, requests) = sample(client, "istio_requests_total").await;
    expect(
        &labels,
        &[("destination_workload", "shop"), ("destination_app", "shop"), ("response_code", "200")],
    );
    assert_eq!((requests, count(client, "metadata_added").await), (2, 1));
}

/// What a sidecar is told by a client of bytes that are written by hand, and what it answers.
async fn told(world: &World, listener: &str, text: &str, until: &'static str) -> String {
    let options = ClientOptions { alpn: vec![ALPN], ..ClientOptions::with(&world.web) };
    let to: SocketAddr = world.server.listener(listener).unwrap();
    converse(to, &options, text, until).await.unwrap().answer
}

/// `Any { type_url, value: Struct { "x-envoy-peer-metadata": { WORKLOAD_NAME: "byhand" } } }`, with a header before it.
fn by_hand() -> String {
    let field = |number: u8, content: &str| {
        format!("{}{}{content}", char::from(number << 3 | 2), char::from(content.len() as u8))
    };
    let entry = |name: &str, value: &str| field(1, &(field(1, name) + &field(2, value)));
    let peer = entry("WORKLOAD_NAME", &field(3, "byhand"));
    let metadata = entry("x-envoy-peer-metadata", &field(5, &peer));
    let any = field(1, "type.googleapis.com/google.protobuf.Struct") + &field(2, &metadata);
    assert!(any.len() < 128, "{}", any.len());
    format!("=#\u{4}g\0\0\0{}{any}", char::from(any.len() as u8))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_heard_and_told() {
    let world = world().await;
    let answer = told(&world, "mesh", &(by_hand() + "payload"), "payload").await;
    assert!(answer.as_bytes().starts_with(MAGIC) && answer.ends_with("payload"), "{answer:?}");
    assert!(answer.contains("type.googleapis.com/google.protobuf.Struct") && answer.contains("shop-1"));
    assert_eq!(world.echo.server().bytes(), b"payload");
    let (labels, _) = sample(&world.server, "istio_tcp_connections_opened_total").await;
    expect(&labels, &[("source_workload", "byhand"), ("source_app", "unknown")]);

    let answer = told(&world, "small", &(by_hand() + "again"), "again").await;
    assert!(answer.ends_with("again"), "more is told than may be buffered: {answer:?}");
    assert!(logged(&world.server, 2).await[1].starts_with("down=byhand|"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_something_else_is_let_through() {
    let world = world().await;
    let answer = told(&world, "mesh", "GET / HTTP/1.1", "GET / HTTP/1.1").await;
    assert!(answer.as_bytes().starts_with(MAGIC) && answer.ends_with("GET / HTTP/1.1"), "{answer:?}");
    assert_eq!(world.echo.server().bytes(), b"GET / HTTP/1.1");
    assert_eq!(count(&world.server, "initial_header_not_found").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_end_or_do_not_come_or_are_too_many_bind_nothing() {
    let world = world().await;
    let answer = told(&world, "mesh", "=#\u{4}g\u{1}\0\0\0much", "no end").await;
    assert!(answer.as_bytes().starts_with(MAGIC), "{answer:?}");
    let lines = logged(&world.server, 1).await;
    assert!(lines[0].ends_with("|metadata_exchange_too_long"), "{lines:?}");
    assert_eq!(count(&world.server, "header_not_found").await, 1);

    for (text, logs) in [("=#\u{4}g", 2), ("=#\u{4}g\0\0\0\u{60}some", 3)] {
        told(&world, "hasty", text, "no end").await;
        let lines = logged(&world.server, logs).await;
        assert!(lines[logs - 1].ends_with("|tcp_session_idle_timeout"), "{lines:?}");
    }
    assert_eq!(world.echo.server().bytes(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_heard_and_told() {
    let world = world().await;
    let World { client, raw, .. } = &world;
    for (said, rest, workload) in
        [(by_hand() + "payload", "payload", "byhand"), ("mail".to_owned(), "mail", "-")]
    {
        let mut asking = Client::connect(client.listener("untold").unwrap()).await.unwrap();
        let (mut host, _) = within("a connection", SOON, raw.accept()).await.unwrap().unwrap();
        let mut first = [0; 8];
        within("what the sidecar tells", SOON, host.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first[..4], MAGIC);
        let mut words = vec![0; u32::from_be_bytes(first[4..].try_into().unwrap()) as usize];
        within("all of it", SOON, host.read_exact(&mut words)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&words).contains("web-1"));
        host.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(asking.at_least(rest.len(), SOON).await.unwrap(), rest.as_bytes());
        asking.send(b"thanks").await.unwrap();
        let mut thanks = [0; 6];
        within("payload", SOON, host.read_exact(&mut thanks)).await.unwrap().unwrap();
        assert_eq!(&thanks, b"thanks");
        drop(host);
        assert_eq!(asking.end_within(SOON).await, End::Closed);
        drop(asking);
        let path = client.dir().join("access.log");
        let line = format!("down=-|up={workload}|rx=6|tx={}|-", rest.len());
        let logged = async || {
            std::fs::read_to_string(&path).unwrap_or_default().lines().any(|one| one == line).then_some(())
        };
        eventually("a log", SOON, logged).await.unwrap_or_else(|_| panic!("{line}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_announces_too_much_is_given_up() {
    let world = world().await;
    let World { client, raw, .. } = &world;
    let mut asking = Client::connect(client.listener("untold").unwrap()).await.unwrap();
    let (mut host, _) = within("a connection", SOON, raw.accept()).await.unwrap().unwrap();
    host.write_all(b"=#\x04g\x01\0\0\0much").await.unwrap();
    assert_eq!(asking.end_within(SOON).await, End::Closed);
    assert_eq!(count(client, "header_not_found").await, 1);
}
