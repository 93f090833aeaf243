//! What passes besides head and body, between both versions: trailers, interim responses, streams of messages.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use integration::client::{Client, H2Client};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, within};
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, frame, get_block, hello, parse};
use integration::http1::{Fields, field};
use integration::process::{Binary, Proxy};
use integration::upstream::h2::{H2Reply, H2Upstream};
use integration::upstream::{Reply, Upstream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What makes a cluster speak HTTP/1 with trailers.
const H1_CLUSTER: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}
"#;

const ROUTES: &str = r#"
- match: {prefix: /one}
  route: {cluster: one}
- match: {prefix: /two}
  route: {cluster: two}
- match: {prefix: /stream}
  route: {cluster: stream, timeout: 0s}
"#;

struct Rig {
    proxy: Proxy,
    one: Upstream,
    two: H2Upstream,
    _stream: Echo,
}

impl Rig {
    async fn start() -> Result<Self> {
        let (one, two, stream) = (Upstream::start().await?, H2Upstream::start().await?, Echo::start().await?);
        let options = "http_protocol_options: {enable_trailers: true}\nproxy_100_continue: true";
        let listener = HttpListener::new("http", ROUTES).options(options).yaml();
        let clusters = [
            cluster("one", "one", H1_CLUSTER),
            cluster("two", "two", H2_CLUSTER),
            cluster("stream", "stream", H2_CLUSTER),
        ];
        let ports = [("one", port(one.addr())), ("two", port(two.addr())), ("stream", port(stream.addr))];
        let yaml = fill(&bootstrap(&[listener], &clusters, ""), ports);
        Ok(Self { proxy: Proxy::start(&Binary::subject()?, &yaml).await?, one, two, _stream: stream })
    }

    fn addr(&self) -> Result<SocketAddr> {
        self.proxy.listener("http")
    }

    /// Both upstreams answer the next request with a trailer.
    fn script(&self) {
        let reply =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\nx-back: 2\r\n\r\n";
        self.one.script([Reply::raw(reply)]);
        self.two.script([H2Reply::new(200, "world").trailer("x-back", "2")]);
    }

    /// That the upstream of that path got body and trailer of the request.
    fn expect_request(&self, path: &str) -> Result<()> {
        let received = if path == "/one" { self.one.received() } else { self.two.received() };
        let last = received.last().context("nothing at the upstream")?;
        ensure!(last.complete && last.body == b"hello", "{path}: {last:?}");
        ensure!(field(&last.trailers, "x-there") == Some("1"), "{path}: {last:?}");
        ensure!(last.trailers.len() == 1, "{path}: {last:?}");
        Ok(())
    }
}

fn expect_answer(path: &str, body: &[u8], trailers: &Fields) -> Result<()> {
    ensure!(body == b"world", "{path}: {body:?}");
    ensure!(trailers == &[("x-back".to_owned(), "2".to_owned())], "{path}: {trailers:?}");
    Ok(())
}

#[tokio::test]
async fn trailers_pass_both_ways_between_all_versions() -> Result<()> {
    let rig = Rig::start().await?;
    for path in ["/one", "/two"] {
        rig.script();
        let mut client = Client::connect(rig.addr()?).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        client.send(head.as_bytes()).await?;
        client.send(b"5\r\nhello\r\n0\r\nx-there: 1\r\n\r\n").await?;
        let response = client.response("POST", SOON).await?;
        ensure!(response.complete && response.head.status()? == 200, "{path}: {response:?}");
        expect_answer(path, &response.body, &response.trailers)?;
        rig.expect_request(path)?;

        rig.script();
        let client = H2Client::connect(rig.addr()?).await?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-there", "1".parse()?);
        let request = http::Request::post(format!("http://test{path}")).body(Bytes::from("hello"))?;
        let response = client.request(request, Some(trailers)).await?;
        ensure!(response.status == 200 && response.cut.is_none(), "{path}: {response:?}");
        expect_answer(path, &response.body, &response.trailers)?;
        rig.expect_request(path)?;
    }
    Ok(())
}

/// Trailers count as a head does: what has more fields than `max_headers_count` ends its stream alone.
#[tokio::test]
async fn trailers_of_too_many_fields_end_their_stream() -> Result<()> {
    let rig = Rig::start().await?;
    let client = H2Client::connect(rig.addr()?).await?;
    for path in ["/one", "/two"] {
        let mut trailers = http::HeaderMap::new();
        for _ in 0..101 {
            trailers.append("x-many", http::HeaderValue::from_static("1"));
        }
        let request = http::Request::post(format!("http://test{path}")).body(Bytes::from("hello"))?;
        let answer = client.request(request, Some(trailers)).await;
        let error = answer.err().context("it was answered")?;
        ensure!(format!("{error:#}").contains("internal error"), "{path}: {error:#}");
    }
    let overflows = rig.proxy.admin().stat("http2.header_overflow").await?;
    ensure!(overflows == 2, "{overflows} counted");
    let request = http::Request::get("http://test/two").body(Bytes::new())?;
    ensure!(client.request(request, None).await?.status == 200, "the connection goes on");
    Ok(())
}

/// However many headers are allowed, none but a head that leaves room for what is added on the way is taken.
#[tokio::test]
async fn heads_of_very_many_fields_are_refused() -> Result<()> {
    let host = Upstream::start().await?;
    let added: Vec<String> =
        (0..20).map(|number| format!("{{header: {{key: x-added-{number}, value: a}}}}")).collect();
    let routes = format!(
        "- match: {{prefix: /}}\n  route: {{cluster: host}}\n  request_headers_to_add: [{}]\n",
        added.join(", ")
    );
    let options = "max_request_headers_kb: 8192\ncommon_http_protocol_options: {max_headers_count: 100000}";
    let listener = HttpListener::new("http", &routes).options(options).yaml();
    let clusters = [cluster("host", "host", "")];
    let config = fill(&bootstrap(&[listener], &clusters, ""), [("host", port(host.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &config).await?;
    for (fields, expected) in [(1000, 200), (24_565, 431), (40_000, 431)] {
        let fields: String = (0..fields).map(|number| format!("a{number}: 1\r\n")).collect();
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n").as_bytes()).await?;
        let status = client.response("GET", SOON).await?.head.status()?;
        ensure!(status == expected, "{status} and not {expected}");
    }
    Ok(())
}

/// The status of the first interim response, and that of the final one.
async fn interim(addr: SocketAddr, request: http::Request<()>) -> Result<(u16, u16)> {
    let (send, _driving) = connect(addr).await?;
    let mut send = send.ready().await?;
    let (mut response, _body) = send.send_request(request, true)?;
    let first = poll_fn(|cx| match response.poll_informational(cx) {
        Poll::Ready(Some(first)) => Poll::Ready(Ok(first)),
        Poll::Ready(None) => Poll::Ready(Err(anyhow::anyhow!("no interim response"))),
        Poll::Pending => Poll::Pending,
    });
    let first = within("an interim response", SOON, first).await???;
    let last = within("the response", SOON, response).await??;
    Ok((first.status().as_u16(), last.status().as_u16()))
}

#[tokio::test]
async fn interim_responses_reach_a_client_of_http2() -> Result<()> {
    let rig = Rig::start().await?;
    for status in [100, 103] {
        let reply = format!(
            "HTTP/1.1 {status} Interim\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        );
        rig.one.script([Reply::raw(reply)]);
        rig.two.script([H2Reply { interim: vec![status], ..H2Reply::new(200, "x") }]);
        for path in ["/one", "/two"] {
            let request = http::Request::get(format!("http://test{path}")).body(())?;
            let seen = interim(rig.addr()?, request).await.with_context(|| format!("{path}, {status}"))?;
            ensure!(seen == (status, 200), "{path}: {seen:?}");
        }
    }
    Ok(())
}

/// A client that takes nothing is owed a few heads only, however many its host makes of one request.
#[tokio::test]
async fn a_flood_of_interim_responses_stays_with_the_proxy() -> Result<()> {
    let rig = Rig::start().await?;
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(5000);
    rig.one.script([Reply::raw(format!("{flood}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))]);
    let mut client = Client::connect(rig.addr()?).await?;
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/one"));
    client.send(&[hello(), get].concat()).await?;
    let mut bytes = Vec::new();
    while !parse(&bytes).iter().any(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0) {
        bytes.extend(client.at_least(1, SOON).await?);
    }
    let heads = parse(&bytes).iter().filter(|frame| frame.kind == HEADERS).count();
    ensure!((2..=17).contains(&heads), "{heads} heads");
    Ok(())
}

async fn connect(addr: SocketAddr) -> Result<(h2::client::SendRequest<Bytes>, JoinSet<()>)> {
    let stream = within("connecting", SOON, TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    let (send, connection) = h2::client::handshake(stream).await?;
    // ends when the set is dropped
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        // the error, if any, reaches the streams
        let _ = connection.await;
    });
    Ok((send, driving))
}

/// An HTTP/2 server that sends the head at once, each piece of the body back as it comes, and then a gRPC status.
struct Echo {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Echo {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut streams = JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        streams.spawn(async move { echo(request.into_body(), respond).await.is_ok() });
                    }
                });
            }
        });
        Ok(Self { addr, accepting })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn echo(mut body: RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> Result<()> {
    let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut send = respond.send_response(head, false)?;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        send.send_data(piece, false)?;
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse()?);
    Ok(send.send_trailers(trailers)?)
}

/// A gRPC message: not compressed, its length, its bytes.
fn message(text: &str) -> Bytes {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    Bytes::from([&[0, 0, 0, 0, length], text.as_bytes()].concat())
}

async fn receive(body: &mut RecvStream, length: usize) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    while received.len() < length {
        let piece = within("the next message", SOON, body.data()).await?.context("the stream ended")??;
        body.flow_control().release_capacity(piece.len())?;
        received.extend_from_slice(&piece);
    }
    Ok(received)
}

#[tokio::test]
async fn messages_pass_one_by_one_while_both_directions_are_open() -> Result<()> {
    let rig = Rig::start().await?;
    let (send, _driving) = connect(rig.addr()?).await?;
    let mut calls = Vec::new();
    // two calls at once, each message of one between those of the other
    for _ in 0..2 {
        let request = http::Request::post("http://test/stream/chat.Room/Talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut send = send.clone().ready().await?;
        let (response, stream) = send.send_request(request, false)?;
        let response = within("the head, before the first message", SOON, response).await??;
        ensure!(response.status() == 200, "{response:?}");
        calls.push((stream, response.into_body()));
    }
    for round in 0..20 {
        for (call, (stream, body)) in calls.iter_mut().enumerate() {
            let message = message(&format!("call {call}, message {round}"));
            stream.send_data(message.clone(), false)?;
            let received = receive(body, message.len()).await?;
            ensure!(received == message, "{received:?} instead of {message:?}");
        }
    }
    for (mut stream, mut body) in calls {
        stream.send_data(Bytes::new(), true)?;
        let end = within("the end", SOON, body.data()).await?;
        ensure!(end.is_none(), "{end:?} after the last message");
        let trailers = within("the status", SOON, body.trailers()).await??.context("no trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_status_without_messages_stays_a_head_alone() -> Result<()> {
    let rig = Rig::start().await?;
    let reply = H2Reply::new(200, "").field("content-type", "application/grpc");
    rig.two.script([reply.field("grpc-status", "5").field("grpc-message", "no such room")]);
    let (send, _driving) = connect(rig.addr()?).await?;
    let request = http::Request::post("http://test/two/chat.Room/Join")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut send = send.ready().await?;
    let (response, mut stream) = send.send_request(request, false)?;
    stream.send_data(message("hello"), true)?;
    let response = within("the response", SOON, response).await??;
    let fields = response.headers();
    ensure!(fields.get("grpc-status").is_some_and(|status| status == "5"), "{fields:?}");
    ensure!(fields.get("grpc-message").is_some_and(|text| text == "no such room"), "{fields:?}");
    ensure!(response.body().is_end_stream(), "the head does not end the stream");
    let received = rig.two.received();
    ensure!(received.len() == 1 && received[0].body == message("hello"), "{received:?}");
    ensure!(field(&received[0].fields, "te") == Some("trailers"), "{received:?}");
    Ok(())
}

/// `strip_matching_host_port`: the listener's port goes, another one stays.
#[tokio::test]
async fn the_port_of_the_listener_is_stripped_from_hosts() -> Result<()> {
    let upstream = Upstream::start().await?;
    let listener = HttpListener::to_up("http").options("strip_matching_host_port: true").yaml();
    let yaml = bootstrap(&[listener], &[cluster("up", "up", "")], "");
    let proxy = Proxy::start(&Binary::subject()?, &fill(&yaml, [("up", port(upstream.addr()))])).await?;
    let addr = proxy.listener("http")?;
    let own = addr.port();
    let mut client = Client::connect(addr).await?;
    for (host, expected) in [
        (format!("test:{own}"), "test".to_owned()),
        (format!("test:{}", own ^ 1), format!("test:{}", own ^ 1)),
        (format!("[::1]:{own}"), "[::1]".to_owned()),
        ("test".to_owned(), "test".to_owned()),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 200);
        let received = upstream.received();
        let last = received.last().context("nothing at the upstream")?;
        ensure!(field(&last.fields, "host") == Some(expected.as_str()), "{host}: {last:?}");
    }
    Ok(())
}
