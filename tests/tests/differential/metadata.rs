//! METADATA frames (`Http2ProtocolOptions.allow_metadata`), between a client and a host that both speak in frames made by hand, and say
//! what they do in turns: metadata keeps its place among heads and bodies, so the order of what either of them gets is compared.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, port};
use integration::differential::{Case, Facts};
use integration::expect::{SOON, eventually};
use integration::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS,
    block, frame, hello, parse,
};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const METADATA: u8 = 0x4d;
const END_METADATA: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What is compared of the statistics.
const COUNTERS: &str = r"^(cluster\.\w+\.(http[12]\.)?|http[12]\.|http\.(both|client|host|neither|small|to-h1.*)\.)(metadata_|[a-z_]*cx_protocol_error|[a-z]+_rq_[245]xx)";

/// What there is of connections and requests, the admin interface's own excepted.
const ACTIVE: &str = r"^(cluster\.(allowed|forbidden|small)|http\.(both|client|host|neither|small|to-h1.*))\..*_(cx|rq)_active$";

/// Who does what next.
#[derive(Clone)]
enum Turn {
    Client(Vec<u8>),
    Host(Vec<u8>),
    /// The client has got that, at the end of a line.
    ClientGets(&'static str),
    HostGets(&'static str),
}

use Turn::{Client, ClientGets, Host, HostGets};

/// A case; `case` has its name, its listener, and what differs on purpose.
pub(crate) struct Exchange {
    pub(crate) case: Case,
    turns: Vec<Turn>,
}

impl Exchange {
    fn new(name: &'static str, listener: &'static str, turns: impl IntoIterator<Item = Turn>) -> Self {
        Self { case: Case::frames(name, listener, []), turns: turns.into_iter().collect() }
    }

    fn differs(mut self, fact: &'static str, reason: &'static str) -> Self {
        self.case = self.case.differs(fact, reason);
        self
    }
}

/// One end of a connection.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    preface: usize,
    lines: Vec<String>,
    is_over: bool,
}

impl Peer {
    async fn client(proxy: &Proxy, listener: &str) -> Result<Self> {
        let stream = TcpStream::connect(proxy.listener(listener)?).await?;
        let mut peer = Self { stream, buffer: Vec::new(), preface: 0, lines: Vec::new(), is_over: false };
        if listener != "to-h1-client" {
            peer.send(&hello()).await?;
        }
        Ok(peer)
    }

    async fn host(listener: &TcpListener) -> Result<Self> {
        let (stream, _) = timeout(SOON, listener.accept()).await.context("nobody connects")??;
        let preface = PREFACE.len();
        let mut peer = Self { stream, buffer: Vec::new(), preface, lines: Vec::new(), is_over: false };
        peer.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await?;
        Ok(peer)
    }

    /// Who does not take it has its reasons, which are seen when reading.
    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.set_nodelay(true)?;
        let _ = timeout(SOON, self.stream.write_all(bytes)).await.context("the proxy does not read")?;
        Ok(())
    }

    /// Reads until a line ends so.
    async fn gets(&mut self, what: &str) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !self.lines.iter().any(|line| line.ends_with(what)) {
            if self.is_over {
                bail!("the connection ended before {what}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let read = timeout(left, self.stream.read_buf(&mut self.buffer)).await;
            match read.with_context(|| format!("no {what}, but {:?}", self.lines))? {
                Ok(count) if count > 0 => self.look(),
                _ => {
                    self.is_over = true;
                    self.lines.push("over".into());
                }
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        if self.buffer.starts_with(b"HTTP/1.1") {
            if self.buffer.ends_with(b"\r\n\r\n") {
                self.lines.push("answered".into());
            }
            return;
        }
        let Some(bytes) = self.buffer.get(self.preface..) else { return };
        let frames = parse(bytes);
        let taken: usize = frames.iter().map(|frame| 9 + frame.payload.len()).sum();
        self.buffer.drain(..self.preface + taken);
        self.preface = 0;
        for frame in frames {
            self.note(&frame);
        }
    }

    /// Writes down what is compared. How a body is cut into frames is nobody's business.
    fn note(&mut self, frame: &Frame) {
        let Frame { kind, flags, stream, payload } = frame;
        let end = if flags & END_STREAM != 0 { " end" } else { "" };
        match *kind {
            HEADERS => self.lines.push(format!("HEADERS {stream}{end}")),
            DATA => {
                let text = String::from_utf8_lossy(payload);
                let start = format!("DATA {stream}:");
                match self.lines.last_mut().filter(|line| line.starts_with(&start)) {
                    Some(line) => *line = format!("{line}{text}{end}"),
                    None => self.lines.push(format!("{start} {text}{end}")),
                }
            }
            METADATA => {
                let end = if *flags == END_METADATA { "" } else { " and more" };
                let fields = fields(payload).unwrap_or_else(|| format!("{} octets", payload.len()));
                self.lines.push(format!("METADATA {stream}: {fields}{end}"));
            }
            GOAWAY if frame.code() != Some(0) => self.lines.push(format!("GOAWAY {:?}", frame.code())),
            _ => {}
        }
    }
}

/// The fields of a block of literals, sorted: for Envoy they have no order.
fn fields(mut block: &[u8]) -> Option<String> {
    let mut fields = Vec::new();
    while let Some((first, rest)) = block.split_first() {
        let (name, rest) = match first {
            0 => string(rest)?,
            // of the static table
            1.. => (format!("#{first}"), rest),
        };
        let (value, rest) = if *first < 0x10 { string(rest)? } else { (String::new(), rest) };
        fields.push(format!("{name}={value}"));
        block = rest;
    }
    fields.sort();
    (fields.len() < 10).then(|| fields.join(" "))
}

/// A short string, as hexadecimal digits if it is in Huffman's code.
fn string(block: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = block.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
    let is_code = length & 0x80 != 0;
    let text = if is_code {
        text.iter().map(|byte| format!("{byte:02x}")).collect()
    } else {
        text.escape_ascii().to_string()
    };
    (*length != 0xff && *length != 0x7f).then_some((text, rest))
}

/// A proxy with its hosts.
struct Side {
    proxy: Proxy,
    host: TcpListener,
    _http1: Upstream,
}

impl Side {
    async fn start(binary: &Binary) -> Result<Self> {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let http1 = Upstream::start().await?;
        let listener = |name: &str, codec: &str, options: &str, cluster: &str| {
            let routes = format!(
                "- match: {{connect_matcher: {{}}}}\n  route: {{cluster: {cluster}}}\n\
                 - match: {{prefix: /direct}}\n  direct_response: {{status: 200, body: {{inline_string: hello}}}}\n\
                 - match: {{prefix: /}}\n  route: {{cluster: {cluster}}}\n"
            );
            let options = format!(
                "codec_type: {codec}\nhttp2_protocol_options: {{{options}}}\nupgrade_configs: [{{upgrade_type: CONNECT}}]"
            );
            HttpListener::new(name, &routes).options(&options).yaml()
        };
        let allow = "allow_metadata: true";
        let h2 = |name: &str, options: &str| {
            cluster(name, "host", &H2_CLUSTER.replace("{}", &format!("{{{options}}}")))
        };
        let yaml = bootstrap(
            &[
                listener("both", "HTTP2", allow, "allowed"),
                listener("client", "HTTP2", allow, "forbidden"),
                listener("host", "HTTP2", "", "allowed"),
                listener("neither", "HTTP2", "", "forbidden"),
                listener("small", "HTTP2", "allow_metadata: true, max_metadata_size: 100", "small"),
                listener("to-h1", "HTTP2", allow, "h1"),
                listener("to-h1-client", "HTTP1", "", "allowed"),
            ],
            &[
                h2("allowed", allow),
                h2("forbidden", ""),
                h2("small", "allow_metadata: true, max_metadata_size: 50"),
                cluster("h1", "http1", ""),
            ],
            "",
        );
        let yaml = fill(&yaml, [("host", port(host.local_addr()?)), ("http1", port(http1.addr()))]);
        Ok(Self { proxy: Proxy::start(binary, &yaml).await?, host, _http1: http1 })
    }

    async fn run(&self, exchange: &Exchange) -> Facts {
        let mut facts = Facts::default();
        if let Err(error) = self.observe(exchange, &mut facts).await {
            facts.put("error", format!("{error:#}"));
        }
        facts
    }

    async fn observe(&self, exchange: &Exchange, facts: &mut Facts) -> Result<()> {
        let before = self.proxy.admin().stats(COUNTERS).await?;
        let mut client = Peer::client(&self.proxy, exchange.case.listener).await?;
        let mut host = None;
        let mut result = Ok(());
        for turn in &exchange.turns {
            result = self.take(turn, &mut client, &mut host).await;
            if result.is_err() {
                break;
            }
        }
        facts.put("client", client.lines.join(", "));
        facts.put("host", host.as_ref().map_or(String::new(), |host| host.lines.join(", ")));
        drop((client, host));
        self.settle().await?;
        for (name, value) in self.proxy.admin().stats(COUNTERS).await? {
            let difference = value - before.get(&name).copied().unwrap_or(0);
            if difference != 0 {
                facts.put(format!("counter {name}"), difference.to_string());
            }
        }
        result
    }

    async fn take(&self, turn: &Turn, client: &mut Peer, host: &mut Option<Peer>) -> Result<()> {
        if matches!(turn, Host(_) | HostGets(_)) && host.is_none() {
            *host = Some(Peer::host(&self.host).await?);
        }
        match (turn, host) {
            (Client(bytes), _) => client.send(bytes).await,
            (ClientGets(what), _) => client.gets(what).await,
            (Host(bytes), Some(host)) => host.send(bytes).await,
            (HostGets(what), Some(host)) => host.gets(what).await,
            (Host(_) | HostGets(_), None) => bail!("there is no host"),
        }
    }

    /// Waits until no connection is left, and nobody is in the middle of making one.
    async fn settle(&self) -> Result<()> {
        eventually("the end of all connections", SOON, async || {
            while let Ok(Ok(accepted)) = timeout(Duration::from_millis(1), self.host.accept()).await {
                drop(accepted);
            }
            let active = self.proxy.admin().stats(ACTIVE).await;
            active.is_ok_and(|active| active.values().all(|count| *count == 0)).then_some(())
        })
        .await
    }
}

/// Runs all cases on both proxies.
pub(crate) async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (left, right) = (Side::start(reference).await?, Side::start(subject).await?);
    let only = std::env::var("CASE").unwrap_or_default();
    let mut failures = String::new();
    for exchange in exchanges().iter().filter(|exchange| exchange.case.name.contains(&only)) {
        let (expected, actual) = (left.run(exchange).await, right.run(exchange).await);
        let known: &[_] = if reference.kind == subject.kind { &[] } else { &exchange.case.known };
        let mut differences = expected.differences(&actual, known);
        let is_foreseen = exchange.case.known.iter().any(|(fact, _)| *fact == "*");
        if let Some(error) = expected.value("error").filter(|_| !is_foreseen) {
            differences = format!("{differences}\nthe turns do not fit the reference: {error}\n{expected}");
        }
        if std::env::var_os("SHOW").is_some() {
            differences = format!("{differences}\n{expected}");
        }
        if !differences.is_empty() {
            failures = format!("{failures}\n== {}\n{differences}\n", exchange.case.name);
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!(failures) }
}

/// All cases.
pub(crate) fn exchanges() -> Vec<Exchange> {
    [requests(), encodings(), violations(), responses(), one_sided()].into_iter().flatten().collect()
}

fn raw(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(METADATA, flags, stream, payload)
}

fn metadata(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = block(fields);
    let mut pieces: Vec<_> = block.chunks(16_384).collect();
    let last = pieces.pop().unwrap_or_default();
    [pieces.iter().flat_map(|piece| raw(stream, 0, piece)).collect(), raw(stream, END_METADATA, last)]
        .concat()
}

/// A block with a field of that name.
fn named(stream: u32, name: &str) -> Vec<u8> {
    metadata(stream, &[(name, "~")])
}

fn head(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    frame(HEADERS, flags, stream, &block(&fields))
}

fn post(stream: u32) -> Vec<u8> {
    head(stream, END_HEADERS, "POST", "/")
}

fn get(stream: u32) -> Vec<u8> {
    head(stream, WHOLE, "GET", "/")
}

fn data(stream: u32, text: &str) -> Vec<u8> {
    frame(DATA, 0, stream, text.as_bytes())
}

fn end(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"")
}

fn status(stream: u32, flags: u8, status: &str) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(&[(":status", status)]))
}

fn all<const N: usize>(frames: [Vec<u8>; N]) -> Vec<u8> {
    frames.concat()
}

/// A request whose head has reached the host, frames behind it that the host gets whole, and an empty response.
fn request(name: &'static str, frames: Vec<u8>) -> Exchange {
    let answer = Host(status(1, WHOLE, "200"));
    let turns = [
        Client(post(1)),
        HostGets("HEADERS 1"),
        Client(frames),
        HostGets(" end"),
        answer,
        ClientGets(" end"),
    ];
    Exchange::new(name, "both", turns)
}

/// A request that is broken off for frames behind its head.
fn violation(name: &'static str, listener: &'static str, frames: Vec<u8>) -> Exchange {
    Exchange::new(
        name,
        listener,
        [Client(post(1)), HostGets("HEADERS 1"), Client(frames), ClientGets("over")],
    )
}

/// A request, and what the host answers to it, with an end of the stream.
fn response(name: &'static str, listener: &'static str, frames: Vec<u8>) -> Exchange {
    Exchange::new(name, listener, [Client(get(1)), HostGets(" end"), Host(frames), ClientGets(" end")])
}

const NO_STREAM: &str = "Metadata on no stream is passed over, sound or not; Envoy reads it, and ends the connection where it is broken.";
const FLOOD: &str = "METADATA frames count among the control frames that a peer may send in a second (`max_outbound_control_frames`). \
                     Envoy passes on any number, until its peer has 10000 frames to read and is cut off for it.";

fn requests() -> Vec<Exchange> {
    let upgraded =
        frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "CONNECT"), (":authority", "test:80")]));
    let order = all([
        metadata(1, &[("a", "1"), ("b", "2")]),
        data(1, "one"),
        named(1, "c"),
        named(1, "d"),
        data(1, "two"),
        named(1, "e"),
        end(1),
    ]);
    vec![
        request("metadata of a request", order),
        request(
            "metadata before trailers",
            all([data(1, "one"), named(1, "a"), frame(HEADERS, WHOLE, 1, &block(&[("t", "1")]))]),
        ),
        request("a long block", all([metadata(1, &[("a", &"~".repeat(40_000))]), end(1)])),
        request("many blocks", all([named(1, "a").repeat(200), end(1)])),
        request(
            "a block in pieces",
            all([
                block(&[("ab", "cd")]).iter().flat_map(|octet| raw(1, 0, &[*octet])).collect(),
                data(1, "one"),
                raw(1, END_METADATA, b""),
                end(1),
            ]),
        ),
        request("a block without an end", all([raw(1, 0, &block(&[("a", "~")])), end(1)])),
        request("a broken block without an end", all([raw(1, 0, b"\x80"), end(1)])),
        request("an empty block", all([raw(1, END_METADATA, b""), raw(1, 0, b""), end(1)])),
        request(
            "flags beside that of the end",
            all([5, 1, 12, 255].map(|flags| raw(1, flags, &block(&[("a", "~")]))))
                .into_iter()
                .chain(end(1))
                .collect(),
        ),
        request(
            "streams that are not open",
            all([2, 3, 9].map(|stream| raw(stream, END_METADATA, b"\x80")))
                .into_iter()
                .chain(end(1))
                .collect(),
        ),
        request("no stream", all([named(0, "a"), end(1)])),
        Exchange::new(
            "a broken block on no stream",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Client(all([raw(0, END_METADATA, b"\x80"), end(1)])),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
            ],
        )
        .differs("*", NO_STREAM),
        Exchange::new(
            "metadata before its request",
            "both",
            [
                Client(all([named(1, "a"), post(1), end(1)])),
                HostGets(" end"),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata after a request without a body",
            "both",
            [
                Client(all([get(1), named(1, "a"), raw(1, END_METADATA, b"\x80")])),
                HostGets(" end"),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
                Client(get(3)),
                HostGets("HEADERS 3 end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "two streams in turns",
            "both",
            [
                Client(all([post(1), post(3)])),
                HostGets("HEADERS 3"),
                Client(all([
                    raw(1, 0, b"\x00\x01a"),
                    raw(3, 0, b"\x00\x01c"),
                    raw(1, END_METADATA, b"\x01b"),
                    raw(3, END_METADATA, b"\x01d"),
                ])),
                HostGets("METADATA 3: c=d"),
                Client(end(1)),
                HostGets("DATA 1:  end"),
                Client(end(3)),
                HostGets("DATA 3:  end"),
                Host(all([status(1, WHOLE, "200"), status(3, WHOLE, "200")])),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "metadata after the response has begun",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Host(status(1, END_HEADERS, "200")),
                ClientGets("HEADERS 1"),
                Client(all([named(1, "a"), end(1)])),
                HostGets(" end"),
                Host(all([named(1, "b"), end(1)])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata after the response",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Host(status(1, WHOLE, "200")),
                ClientGets("HEADERS 1 end"),
                Client(all([named(1, "a"), raw(1, END_METADATA, b"\x80"), get(3)])),
                HostGets("HEADERS 3 end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "metadata of CONNECT waits for the answer",
            "both",
            [
                Client(all([upgraded, named(1, "a"), data(1, "one")])),
                HostGets("HEADERS 1"),
                Host(status(1, END_HEADERS, "200")),
                HostGets("DATA 1: one"),
                Host(all([named(1, "b"), data(1, "two")])),
                ClientGets("DATA 1: two"),
                Client(all([named(1, "c"), data(1, "three")])),
                HostGets("three"),
                Client(end(1)),
                HostGets(" end"),
                Host(end(1)),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata overtakes a body that waits for the window",
            "both",
            [
                Client(get(1)),
                HostGets(" end"),
                Host(all([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), status(1, WHOLE, "200")])),
                ClientGets(" end"),
                Client(all([post(3), data(3, "one"), named(3, "a"), data(3, "two"), end(3)])),
                HostGets("METADATA 3: a=~"),
                Host(frame(8, 0, 3, &[0, 0, 0, 100])),
                HostGets("onetwo end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "metadata of a request that is answered here",
            "both",
            [
                Client(all([head(1, END_HEADERS, "POST", "/direct"), named(1, "a"), end(1)])),
                ClientGets(" end"),
            ],
        ),
    ]
}

/// Blocks that are read, and what becomes of them.
fn encodings() -> Vec<Exchange> {
    let one = |name, block: &[u8]| request(name, all([raw(1, END_METADATA, block), end(1)]));
    vec![
        one("a field of the static table", b"\x82"),
        one("a name of the static table", b"\x04\x02/~"),
        one("a field that is never indexed", b"\x10\x01a\x01b"),
        one("the dynamic table", b"\x40\x01a\x01b\xbe\x0f\x2f\x01c\x00\x01d\x01e"),
        one("a size of the dynamic table", b"\x3f\xe1\x1f\x00\x01a\x01b"),
        one("a name that comes twice", b"\x00\x01a\x01b\x00\x01a\x01c"),
        one("Huffman's code", b"\x00\x83\xa0\x69\x2f\x04late"),
        one("names that are no names", b"\x00\x00\x01v\x00\x02A\xff\x00"),
    ]
}

/// What ends the connection of a client.
fn violations() -> Vec<Exchange> {
    let broken = |name, block: &[u8]| violation(name, "both", raw(1, END_METADATA, block));
    let small = |name, blocks: Vec<u8>| violation(name, "small", blocks);
    let field = |length: usize| metadata(1, &[("a", &"~".repeat(length))]);
    let fits = |name, blocks: Vec<u8>| {
        let mut exchange = request(name, all([blocks, end(1)]));
        exchange.case.listener = "small";
        exchange
    };
    let long = frame(METADATA, END_METADATA, 1, &[0; 16_385]);
    let inside = all([head(3, 0, "GET", "/"), named(3, "a"), frame(CONTINUATION, END_HEADERS, 3, b"")]);
    vec![
        broken("an index of nothing", b"\x80"),
        violation(
            "the dynamic table of another block",
            "both",
            all([raw(1, END_METADATA, b"\x40\x01a\x01b"), raw(1, END_METADATA, b"\xbe")]),
        ),
        broken("a string that is cut off", b"\x00\x01a\x05b"),
        broken("an integer that is too large", b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\x7f"),
        broken("a size of the table behind a field", b"\x00\x01a\x01b\x20"),
        broken("a size that is too large", b"\x3f\xff\xff\x7f\x00\x01a\x01b"),
        broken("no Huffman code", b"\x00\x84\xff\xff\xff\xff\x01b"),
        fits("as much as there may be", field(96)),
        small("one octet more", field(97)),
        fits("as much as there may be, in all", field(20).repeat(4)),
        small("more in all", field(20).repeat(5)),
        small("more without an end", raw(1, 0, &[0; 50]).repeat(3)),
        violation("a frame that is too long", "both", long),
        violation("a frame within a head", "both", inside),
        Exchange::new(
            "very many blocks",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Client(named(1, "a").repeat(30_000)),
                ClientGets("HEADERS 1"),
                ClientGets("end"),
            ],
        )
        .differs("*", FLOOD),
    ]
}

fn responses() -> Vec<Exchange> {
    let ok = || status(1, END_HEADERS, "200");
    let early =
        all([named(1, "a"), status(1, END_HEADERS, "103"), named(1, "b"), ok(), named(1, "c"), end(1)]);
    let bad = raw(1, END_METADATA, b"\x80");
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]);
    vec![
        response(
            "metadata of a response",
            "both",
            all([named(1, "a"), ok(), named(1, "b"), data(1, "one"), named(1, "c"), data(1, "two"), named(1, "d"), end(1)]),
        ),
        response("metadata around an interim response", "both", early),
        response("metadata before the trailers of a response", "both", all([ok(), data(1, "one"), named(1, "a"), frame(HEADERS, WHOLE, 1, &block(&[("t", "1")]))])),
        response("metadata before a response without a body", "both", all([named(1, "a"), status(1, WHOLE, "404")])),
        response("an empty block of a response", "both", all([raw(1, END_METADATA, b""), status(1, WHOLE, "200")])),
        response("a long block of a response", "both", all([metadata(1, &[("a", &"~".repeat(40_000))]), status(1, WHOLE, "200")])),
        response("metadata after a response", "both", all([status(1, WHOLE, "200"), named(1, "a"), raw(1, END_METADATA, b"\x80")])),
        response("metadata on streams of nobody", "both", all([2, 3, 7].map(|stream| raw(stream, END_METADATA, b"\x80"))).into_iter().chain(status(1, WHOLE, "200")).collect()),
        response("metadata on no stream", "both", all([named(0, "a"), status(1, WHOLE, "200")])),
        response("a broken block of a host on no stream", "both", all([raw(0, END_METADATA, b"\x80"), status(1, WHOLE, "200")]))
            .differs("*", NO_STREAM),
        response("metadata before a reset", "both", all([named(1, "a"), reset])),
        response("a broken block of a response", "both", bad.clone()),
        response("too much metadata of a response", "small", metadata(1, &[("a", &"~".repeat(50))])),
        response("a frame of a response that is too long", "both", frame(METADATA, END_METADATA, 1, &[0; 16_385])),
        Exchange::new(
            "a broken block behind the head of a response",
            "both",
            [Client(get(1)), HostGets(" end"), Host(ok()), ClientGets("HEADERS 1"), Host(bad), HostGets("over")],
        ),
        Exchange::new(
            "metadata of the response to HEAD",
            "both",
            [Client(head(1, WHOLE, "HEAD", "/")), HostGets(" end"), Host(all([ok(), named(1, "a"), end(1)])), ClientGets(" end")],
        )
        .differs("client", "A response to HEAD ends with its head; Envoy waits for the end that the host says, and for metadata before it."),
        Exchange::new(
            "metadata overtakes a response that waits for the window",
            "both",
            [
                Client(all([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), get(1)])),
                HostGets(" end"),
                Host(all([ok(), data(1, "one")])),
                ClientGets("HEADERS 1"),
                Host(all([named(1, "a"), end(1)])),
                ClientGets("METADATA 1: a=~"),
                Client(frame(8, 0, 1, &[0, 0, 0, 100])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata of a response to an HTTP/1 client",
            "to-h1-client",
            [Client(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), HostGets(" end"), Host(all([named(1, "a"), status(1, WHOLE, "200")])), ClientGets("answered")],
        ),
    ]
}

/// Where it is not allowed on both sides.
fn one_sided() -> Vec<Exchange> {
    let both_ways = |name, listener| {
        let sent = all([named(1, "a"), data(1, "one"), named(1, "b"), end(1)]);
        let answered =
            all([named(1, "c"), status(1, END_HEADERS, "200"), named(1, "d"), data(1, "two"), end(1)]);
        let turns = [
            Client(post(1)),
            HostGets("HEADERS 1"),
            Client(sent),
            HostGets(" end"),
            Host(answered),
            ClientGets(" end"),
        ];
        Exchange::new(name, listener, turns)
    };
    let asked = frame(SETTINGS, 0, 0, &[0x4d, 0x44, 0, 0, 0, 1]);
    vec![
        both_ways("metadata that the client's side allows", "client"),
        both_ways("metadata that the host's side allows", "host"),
        both_ways("metadata that nobody allows", "neither"),
        Exchange::new(
            "a setting for metadata",
            "neither",
            [
                Client(all([asked.clone(), post(1)])),
                HostGets("HEADERS 1"),
                Host(asked),
                Client(all([named(1, "a"), end(1)])),
                HostGets(" end"),
                Host(all([named(1, "b"), status(1, WHOLE, "200")])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata of a request to an HTTP/1 host",
            "to-h1",
            [Client(all([post(1), named(1, "a"), end(1)])), ClientGets(" end")],
        ),
    ]
}
