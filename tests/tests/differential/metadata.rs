//! METADATA frames (`Http2ProtocolOptions.allow_metadata`), between a client and a host that both speak in frames made by hand, and say
//! what they do in turns: metadata keeps its place among heads and bodies, so the order of what either of them gets is compared.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, port};
use integration::differential::{Case, Facts};
use integration::expect::{SOON, eventually};
use integration::frames::{
    ACK, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PREFACE, SETTINGS, frame, hello, parse,
};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

mod cases;

pub(crate) use cases::exchanges;

const METADATA: u8 = 0x4d;
const END_METADATA: u8 = 4;

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
        if matches!(turn, Turn::Host(_) | Turn::HostGets(_)) && host.is_none() {
            *host = Some(Peer::host(&self.host).await?);
        }
        match (turn, host) {
            (Turn::Client(bytes), _) => client.send(bytes).await,
            (Turn::ClientGets(what), _) => client.gets(what).await,
            (Turn::Host(bytes), Some(host)) => host.send(bytes).await,
            (Turn::HostGets(what), Some(host)) => host.gets(what).await,
            (Turn::Host(_) | Turn::HostGets(_), None) => bail!("there is no host"),
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
        let mut differences = expected.differences(&actual, known, &[]);
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
