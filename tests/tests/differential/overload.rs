//! What is done against overload: each action and load shed point at a pressure that does not change, in processes of their own, and
//! some of them while it does.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, listener_with_filters, tcp_proxy};
use integration::differential::{Case, Do, H2Request, Setup, Side};
use integration::expect::{SOON, eventually, whole_lines};
use integration::frames::{
    END_HEADERS, END_STREAM, Exchange, Frame, GOAWAY, HEADERS, RST_STREAM, frame, get_block, hello, parse,
};
use integration::process::Binary;
use integration::upstream::{Reply, Step};

/// Something that is done, its cases, and what proves them.
struct Measure {
    /// `actions` or `loadshed_points`.
    list: &'static str,
    name: &'static str,
    trigger: &'static str,
    /// Further fields of it.
    more: &'static str,
    cases: Vec<Case>,
}

const FULL: &str = "threshold: {value: 0.9}";
const SCALED: &str = "scaled: {scaling_threshold: 0.5, saturation_threshold: 0.9}";

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

const TIMEOUTS: &str = "
    typed_config:
      \"@type\": type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig
      timer_scale_factors:
      - {timer: HTTP_DOWNSTREAM_CONNECTION_IDLE, min_timeout: 0.2s}
      - {timer: HTTP_DOWNSTREAM_STREAM_IDLE, min_scale: {value: 0.1}}
      - {timer: HTTP_DOWNSTREAM_CONNECTION_MAX, min_timeout: 0.2s}";

const SHRINK: &str = "
    typed_config: {\"@type\": type.googleapis.com/envoy.config.overload.v3.ShrinkHeapConfig, timer_interval: 1s}";

/// A file that says how much is used.
struct Dial {
    folder: tempfile::TempDir,
}

impl Dial {
    fn new(pressure: &str) -> Result<Self> {
        let dial = Self { folder: tempfile::tempdir()? };
        dial.turn(pressure)?;
        Ok(dial)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pressure")
    }

    /// Moved into its place: Envoy looks at the file when it is told so.
    fn turn(&self, pressure: &str) -> Result<()> {
        let new = self.folder.path().join("new");
        std::fs::write(&new, pressure)?;
        Ok(std::fs::rename(new, self.path())?)
    }
}

/// The listener filter that looks for TLS.
const INSPECTOR: &str = "  listener_filters: [{name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\n";

/// Requests that are sent again.
const AGAIN: &str = "- match: {prefix: /}\n  route: {cluster: up, retry_policy: {retry_on: \"5xx,reset,connect-failure\", num_retries: 2, retry_back_off: {base_interval: 0.001s}}}";

/// Envoy waits this long, five seconds if nobody says so, before it closes what it has said it will close.
const SOON_CLOSED: &str = "drain_timeout: 0.02s";

fn setup(pressure: &Path, what: &str) -> Setup {
    let old = "common_http_protocol_options: {idle_timeout: 0s, max_connection_duration: 3600s}";
    let listeners = [
        HttpListener::to_up("shed").options(SOON_CLOSED).yaml(),
        HttpListener::to_up("told").options(&format!("append_local_overload: true\n{SOON_CLOSED}")).yaml(),
        HttpListener::to_up("spared").listener("bypass_overload_manager: true").yaml(),
        HttpListener::to_up("old").options(old).yaml(),
        HttpListener::new("again", AGAIN).yaml(),
        HttpListener::new("to_h2", "- match: {prefix: /}\n  route: {cluster: h2up}").yaml(),
        listener_with_filters("bytes", &tcp_proxy("bytes", "cluster: echo")),
        listener_with_filters("inspected", &tcp_proxy("inspected", "cluster: echo")) + INSPECTOR,
        listener_with_filters("twice", &tcp_proxy("twice", "cluster: echo\nmax_connect_attempts: 2")),
        listener_with_filters("spared_bytes", &tcp_proxy("spared_bytes", "cluster: echo"))
            + "  bypass_overload_manager: true\n",
    ];
    let mut setup = Setup::new("overload", listeners);
    let pressure = pressure.display();
    setup.bootstrap.push_str(&format!(
        "
overload_manager:
  refresh_interval: 0.02s
  resource_monitors:
  - name: envoy.resource_monitors.injected_resource
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig
      filename: {pressure}
{what}
"
    ));
    setup
}

fn element(name: &str, trigger: &str, more: &str) -> String {
    format!(
        "  - name: {name}\n    triggers: [{{name: envoy.resource_monitors.injected_resource, {trigger}}}]{more}\n"
    )
}

fn requests(listener: &'static str) -> Vec<Case> {
    let raw = |name, text: &str| Case::send(name, listener, text);
    vec![
        Case::get("get", listener, "/", ""),
        raw("post", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc"),
        raw("head", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n"),
        raw("no host", "GET / HTTP/1.1\r\n\r\n"),
        raw("http/1.0", "GET / HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n"),
        Case::get("grpc", listener, "/", "content-type: application/grpc\r\n"),
        Case::h2("http/2", listener, [H2Request::get("http://test/")]).varies(
            "counter http2.goaway_sent",
            "the client leaves at about the time at which GOAWAY is sent",
        ),
    ]
}

/// One line of the log each, which is waited for by their number: a request that is to mark its end would be aborted, too.
fn aborted(listener: &'static str) -> Vec<Case> {
    requests(listener).into_iter().map(|case| case.tcp(1)).collect()
}

fn spared() -> Case {
    Case::get("spared", "spared", "/", "")
}

fn closed(listener: &'static str) -> Vec<Case> {
    vec![Case::steps("closed", listener, [Do::AwaitEnd]).tcp(0), spared()]
}

/// Timeouts of an hour and of five minutes, which nobody waits for.
fn late() -> Vec<Case> {
    let stall = || Reply::steps([Step::Stall]);
    vec![
        Case::steps("idle connection", "shed", [Do::AwaitEnd]).tcp(0),
        Case::steps(
            "idle after a request",
            "shed",
            [Do::Send(GET.to_vec()), Do::Response("GET"), Do::AwaitEnd],
        ),
        Case::send("idle stream", "shed", GET).reply(stall()),
        Case::h2("idle stream of http/2", "shed", [H2Request::get("http://test/")]).reply(stall()),
        Case::steps("old connection", "old", [Do::AwaitEnd]).tcp(0),
    ]
}

/// Connections that are carried to a host, or not.
fn bytes() -> Vec<Case> {
    let hello = || Do::Send(b"hello".to_vec());
    // (More than is read at once, and little enough to come at once.)
    let long = || Do::Send(vec![b'a'; 30_000]);
    let silence = Do::Pause(Duration::from_millis(100));
    vec![
        Case::steps("bytes that were looked at", "inspected", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("many bytes that were looked at", "inspected", [long(), Do::AwaitEnd]).tcp(1),
        Case::steps("bytes after a silence", "inspected", [silence, hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("bytes", "bytes", [hello(), Do::AwaitEnd]).tcp(1),
        Case::steps("many bytes", "bytes", [long(), Do::AwaitEnd]).tcp(1),
        Case::steps("an end", "bytes", [Do::HalfClose, Do::AwaitEnd]).tcp(1),
        Case::steps("twice", "twice", [hello(), Do::AwaitEnd]).tcp(1),
    ]
}

fn spared_bytes() -> Case {
    Case::steps("spared", "spared_bytes", [Do::Send(b"hello".to_vec()), Do::Bytes(5), Do::Leave]).tcp(1)
}

/// Requests on connections that end with them.
fn going() -> Vec<Case> {
    let get = |name, text: &str| Case::send(name, "shed", text);
    vec![
        get("get", "GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
        get("post", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc"),
        spared(),
    ]
}

fn measures() -> Vec<Measure> {
    let of = |list, name, trigger, cases| Measure { list, name, trigger, more: "", cases };
    let all = || [requests("shed"), requests("told"), vec![spared()]].concat();
    let codec =
        vec![Case::steps("first bytes", "shed", [Do::Send(GET.to_vec()), Do::AwaitEnd]).tcp(0), spared()];
    let closing =
        vec![Case::steps("a request", "shed", [Do::Send(GET.to_vec()), Do::AwaitEnd]).tcp(0), spared()];
    let unconnected = [
        requests("shed"),
        vec![
            Case::send("a request that would be sent again", "again", GET),
            Case::h2("a host that speaks http/2", "to_h2", [H2Request::get("http://test/")]),
        ],
        bytes(),
    ]
    .concat();
    let silent = vec![Case::steps("silence", "bytes", [Do::AwaitEnd]).tcp(1)];
    let action = |name, trigger, cases| of("actions", name, trigger, cases);
    let point = |name, cases| of("loadshed_points", name, FULL, cases);
    vec![
        action("envoy.overload_actions.stop_accepting_requests", FULL, all()),
        action("envoy.overload_actions.stop_accepting_requests", SCALED, requests("shed")),
        action("envoy.overload_actions.disable_http_keepalive", FULL, all()),
        action("envoy.overload_actions.reject_incoming_connections", FULL, closed("shed")),
        Measure { more: SHRINK, ..action("envoy.overload_actions.shrink_heap", FULL, requests("shed")) },
        Measure { more: TIMEOUTS, ..action("envoy.overload_actions.reduce_timeouts", FULL, late()) },
        point("envoy.load_shed_points.tcp_listener_accept", closed("shed")),
        point("envoy.load_shed_points.hcm_ondata_creating_codec", codec),
        point("envoy.load_shed_points.http_connection_manager_decode_headers", all()),
        point("envoy.load_shed_points.http_downstream_filter_check", all()),
        point(
            "envoy.load_shed_points.http1_server_abort_dispatch",
            [aborted("shed"), aborted("told"), vec![spared()]].concat(),
        ),
        point("envoy.load_shed_points.http2_server_go_away_on_dispatch", going()),
        point("envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch", closing),
        point("envoy.load_shed_points.connection_pool_new_connection", unconnected),
        point("envoy.load_shed_points.tcp_proxy_on_data", [bytes(), vec![spared_bytes()]].concat()),
        point(
            "envoy.load_shed_points.tcp_proxy_upstream_connect",
            [bytes(), silent, vec![spared_bytes()]].concat(),
        ),
    ]
}

async fn reaches(side: &mut Side, name: &str, value: i64) -> Result<()> {
    let admin = side.proxy().admin();
    let is_there = async || (admin.stat(name).await.ok()? >= value).then_some(());
    eventually(&format!("{name} of {value}"), SOON, is_there).await
}

/// Runs all of it on both proxies; the differences.
pub(crate) async fn compare() -> Result<()> {
    let dial = Dial::new("0.95")?;
    let only = std::env::var("CASE").unwrap_or_default();
    let mut differences = String::new();
    for Measure { list, name, trigger, more, cases } in measures() {
        if !name.contains(&only) {
            continue;
        }
        let setup = setup(&dial.path(), &format!("  {list}:\n{}", element(name, trigger, more)));
        let mut left = Side::start(&Binary::envoy()?, &setup).await?;
        let mut right = Side::start(&Binary::subject()?, &setup).await?;
        for side in [&mut left, &mut right] {
            reaches(side, &format!("overload.{name}.scale_percent"), 100).await?;
        }
        for case in cases {
            let (expected, actual) = (left.run(&case).await, right.run(&case).await);
            let found = expected.differences(&actual, &case.known, &case.varying);
            if !found.is_empty() {
                write!(differences, "\n== {name} {trigger} {}\n{found}\n", case.name)?;
            }
        }
        if name.ends_with("shrink_heap") {
            for side in [&mut left, &mut right] {
                reaches(side, &format!("overload.{name}.shrink_count"), 1).await?;
            }
        }
        let counted = "^(overload\\..*(active|scale_percent|shed_load_count|pressure|_updates)|listener\\.[^a].*overload_reject)$";
        let expected = left.proxy().admin().stats(counted).await?;
        let actual = right.proxy().admin().stats(counted).await?;
        if expected != actual {
            write!(differences, "\n== {name} {trigger}\n{expected:?}\n{actual:?}\n")?;
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

/// Connections that are there when the pressure rises, and such as come then.
pub(crate) async fn rise() -> Result<()> {
    for binary in [Binary::envoy()?, Binary::subject()?] {
        let dial = Dial::new("0")?;
        let stop = "envoy.overload_actions.stop_accepting_connections";
        let reduce = "envoy.overload_actions.reduce_timeouts";
        let what = format!(
            "  actions:\n{}{}",
            element(reduce, "threshold: {value: 0.3}", TIMEOUTS),
            element(stop, "threshold: {value: 0.6}", "")
        );
        let mut side = Side::start(&binary, &setup(&dial.path(), &what)).await?;
        let listener = side.proxy().listener("shed")?;
        let mut early = Client::connect(listener).await?;
        early.send(GET).await?;
        ensure!(early.response("GET", SOON).await?.head.status()? == 200);
        dial.turn("0.4")?;
        ensure!(early.end_within(SOON).await != End::Open, "its timeout was reduced while it ran");
        dial.turn("0.7")?;
        reaches(&mut side, &format!("overload.{stop}.active"), 1).await?;
        // The workers are told a moment later: with the answer to this, they were.
        let admin = side.proxy().admin();
        let before = admin.stat("http.shed.downstream_cx_total").await?;
        let mut waiting = Vec::new();
        let is_stopped = async || {
            let count = admin.stat("http.shed.downstream_cx_total").await.ok()?;
            let mut client = Client::connect(listener).await.ok()?;
            client.send(GET).await.ok()?;
            let answer = client.at_least(1, Duration::from_millis(200)).await;
            waiting.push(client);
            (answer.is_err() && count - before < 100).then_some(())
        };
        eventually("a connection that waits", SOON, is_stopped).await?;
        let mut spared = Client::connect(side.proxy().listener("spared")?).await?;
        spared.send(GET).await?;
        ensure!(spared.response("GET", SOON).await?.head.status()? == 200, "that listener goes on");
        dial.turn("0")?;
        let mut client = waiting.pop().context("one that waits")?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 200, "it was kept in the queue");
        reaches(&mut side, &format!("overload.{stop}.active"), 0).await?;
    }
    Ok(())
}

/// What became of a stream whose client takes nothing of a megabyte.
#[derive(Debug, PartialEq)]
struct Reset {
    codes: Vec<u32>,
    heads: usize,
    count: i64,
    logged: Vec<String>,
}

/// Streams that hold much when the pressure rises.
pub(crate) async fn heavy() -> Result<()> {
    let mut seen = Vec::new();
    for binary in [Binary::envoy()?, Binary::subject()?] {
        let dial = Dial::new("0")?;
        let name = "envoy.overload_actions.reset_high_memory_stream";
        let element = element(name, FULL, "");
        let what = format!(
            "  buffer_factory_config: {{minimum_account_to_track_power_of_two: 14}}\n  actions:\n{element}"
        );
        let mut side = Side::start(&binary, &setup(&dial.path(), &what)).await?;
        let body = "x".repeat(1 << 20);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        side.upstream().answer(Reply::raw(head + &body));
        let request = [hello(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/"))].concat();
        let listener = side.proxy().listener("shed")?;
        let admin = side.proxy().admin();
        let active = format!("overload.{name}.active");
        let is = async |value| {
            let is_so = async || (admin.stat(&active).await.ok()? == value).then_some(());
            eventually("the action", SOON, is_so).await.is_ok()
        };
        let begun = std::time::Instant::now();
        let exchange = Exchange::run_until(listener, &request, Duration::from_millis(100), async |frames| {
            let is_over = frames.iter().any(|frame| frame.kind == RST_STREAM) || begun.elapsed() > SOON;
            // It holds enough a moment later, perhaps.
            is_over || dial.turn("0.95").is_err() || !is(1).await || dial.turn("0").is_err() || !is(0).await
        })
        .await?;
        let count = admin.stat(&format!("{name}.count")).await?;
        let log = side.proxy().dir().join("access.log");
        let lines = async || Some(whole_lines(&log)).filter(|lines| !lines.is_empty());
        let lines = eventually("a line in the log", SOON, lines).await?;
        let told = |line: &String| {
            let told =
                line.split('|').filter(|field| field.starts_with("flags=") || field.starts_with("details="));
            told.collect::<Vec<_>>().join(" ")
        };
        let logged = lines.iter().map(told).collect();
        seen.push(Reset { codes: exchange.resets(), heads: exchange.heads(), count, logged });
    }
    ensure!(seen[0].count == 1 && seen[0] == seen[1], "{seen:#?}");
    Ok(())
}

/// What became of the requests of a client that went on until it was told to go.
#[derive(Debug, PartialEq)]
struct Told {
    /// The last stream that GOAWAY names: any, or the last that was answered.
    names_any: bool,
    names_answered: bool,
    code: Option<u32>,
    /// The request for which it was told so is answered.
    is_answered: bool,
    is_counted: bool,
}

/// HTTP/2 connections that are told to go when the pressure rises.
pub(crate) async fn going_away() -> Result<()> {
    for name in ["go_away_on_dispatch", "go_away_and_close_on_dispatch"] {
        let name = format!("envoy.load_shed_points.http2_server_{name}");
        let mut seen = Vec::new();
        for binary in [Binary::envoy()?, Binary::subject()?] {
            let dial = Dial::new("0")?;
            let what = format!("  loadshed_points:\n{}", element(&name, FULL, ""));
            let mut side = Side::start(&binary, &setup(&dial.path(), &what)).await?;
            seen.push(told_to_go(&mut side, &dial, &name).await?);
        }
        ensure!(seen[0] == seen[1] && seen[0].is_counted, "{name}: {seen:#?}");
    }
    Ok(())
}

async fn told_to_go(side: &mut Side, dial: &Dial, name: &str) -> Result<Told> {
    // (A listener with drain times that leave the client time to read what it is told first.)
    let mut client = Client::connect(side.proxy().listener("again")?).await?;
    client.send(&hello()).await?;
    let (mut all, mut sent) = (Vec::new(), 0);
    let goings = |frames: &[Frame]| -> Vec<Frame> {
        frames.iter().filter(|frame| frame.kind == GOAWAY).cloned().collect()
    };
    let heads = |frames: &[Frame]| frames.iter().filter(|frame| frame.kind == HEADERS).count();
    // (Envoy's workers are told of the pressure a moment later: until then they take requests.)
    while goings(&parse(&all)).is_empty() {
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * sent + 1, &get_block("/"))).await?;
        sent += 1;
        let is_over = |frames: &[Frame]| heads(frames) == sent as usize || !goings(frames).is_empty();
        ensure!(read_until(&mut client, &mut all, is_over).await, "neither an answer nor GOAWAY");
        if sent == 1 {
            dial.turn("0.95")?;
            reaches(side, &format!("overload.{name}.scale_percent"), 100).await?;
        }
    }
    // All is answered that will be; then the connection ends, or not.
    let is_closed = name.contains("close");
    let is_answered = |frames: &[Frame]| !is_closed && heads(frames) == sent as usize;
    read_until(&mut client, &mut all, is_answered).await;
    let frames = parse(&all);
    let last = goings(&frames).pop().context("GOAWAY")?;
    let named = last.payload.first_chunk().map(|named| u32::from_be_bytes(*named)).context("a stream")?;
    let count = side.proxy().admin().stat(&format!("overload.{name}.shed_load_count")).await?;
    Ok(Told {
        names_any: named == u32::MAX >> 1,
        names_answered: named as usize + 1 == 2 * heads(&frames),
        code: last.code(),
        is_answered: heads(&frames) == sent as usize,
        is_counted: count > 0,
    })
}

/// Reads until that is so of the frames that came; `false` if the connection ends before, or nothing comes any more.
async fn read_until(client: &mut Client, all: &mut Vec<u8>, is_over: impl Fn(&[Frame]) -> bool) -> bool {
    let begun = std::time::Instant::now();
    loop {
        let (bytes, end) = client.rest(Duration::from_millis(20)).await;
        all.extend(bytes);
        if is_over(&parse(all)) {
            return true;
        }
        if end != End::Open || begun.elapsed() > SOON {
            return false;
        }
    }
}

/// A request that is on its way when the pressure rises.
pub(crate) async fn given_up() -> Result<()> {
    let mut seen = Vec::new();
    let name = "envoy.load_shed_points.http1_server_abort_dispatch";
    for binary in [Binary::envoy()?, Binary::subject()?] {
        let dial = Dial::new("0")?;
        let what = format!("  loadshed_points:\n{}", element(name, FULL, ""));
        let mut side = Side::start(&binary, &setup(&dial.path(), &what)).await?;
        side.upstream().answer(Reply::steps([Step::Stall]));
        let mut client = Client::connect(side.proxy().listener("shed")?).await?;
        client.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10000\r\n\r\n").await?;
        let admin = side.proxy().admin();
        eventually("the request", SOON, async || {
            (admin.stat("cluster.up.upstream_rq_active").await.ok()? == 1).then_some(())
        })
        .await?;
        dial.turn("0.95")?;
        reaches(&mut side, &format!("overload.{name}.scale_percent"), 100).await?;
        let mut sent = 0;
        while client.buffered().is_empty() && sent < 9000 {
            client.send(b"a").await?;
            sent += 1;
            let _ = client.end_within(Duration::from_millis(5)).await;
        }
        let response = client.response("POST", SOON).await?;
        let log = side.proxy().dir().join("access.log");
        let lines = async || Some(whole_lines(&log)).filter(|lines| !lines.is_empty());
        let lines = eventually("a line in the log", SOON, lines).await?;
        let told = |line: &String| {
            let told = line.split('|').filter(|field| {
                ["flags=", "details=", "code="].iter().any(|wanted| field.starts_with(wanted))
            });
            told.collect::<Vec<_>>().join(" ")
        };
        let counted = "^http\\.shed\\.downstream_(rq_(overload_close|rx_reset|response_before_rq_complete|5xx)|cx_protocol_error)$";
        seen.push((
            response.head.status()?,
            response.body,
            lines.iter().map(told).collect::<Vec<_>>(),
            side.proxy().admin().stats(counted).await?,
        ));
    }
    ensure!(seen[0] == seen[1] && seen[0].0 == 500, "{seen:#?}");
    Ok(())
}
