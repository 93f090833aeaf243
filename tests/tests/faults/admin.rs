//! PROXY protocol, access logs, addresses and administration under abuse (P, A7 to A9).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, cluster, fill, listener_with_filters, port, tcp_proxy};
use integration::expect::{SOON, eventually};
use integration::http1::field;
use integration::told::{Told, v2, words};
use integration::upstream::Upstream;
use tokio::time::sleep;

use crate::rig::{Rig, Setup, size};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

const PROXY_PROTOCOL: &str = r#"listener_filters:
- name: envoy.filters.listener.proxy_protocol
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}
listener_filters_timeout: 1s
"#;

async fn proxied() -> Result<Rig> {
    let routes = "- match: {prefix: /}\n  route: {cluster: up}\n  request_headers_to_add: [{header: {key: x-source, value: \"%DOWNSTREAM_REMOTE_ADDRESS%\"}}]";
    let proxied = HttpListener::new("proxied", routes).listener(PROXY_PROTOCOL).yaml();
    Setup::http("").listener(proxied).start().await
}

fn version_2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, family], &length, payload].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x1f, 0x90];

/// A connection with these first bytes; what the upstream was told of its source.
async fn source(rig: &mut Rig, bytes: &[u8], piece: usize) -> Result<Option<String>> {
    let seen = rig.received().len();
    let mut client = Client::connect(rig.proxy.listener("proxied")?).await?;
    rig.meter.connected(1);
    for piece in [bytes, GET].concat().chunks(piece) {
        rig.send(&mut client, piece).await?;
        // its own segment
        tokio::task::yield_now().await;
    }
    match client.response("GET", SOON).await {
        Ok(response) => ensure!(response.head.status()? == 200, "{response:?}"),
        Err(_) => return Ok(None),
    }
    let received = rig.received();
    let request = received.get(seen).context("no request")?;
    Ok(field(&request.fields, "x-source").map(str::to_owned))
}

#[tokio::test]
async fn p04_one_byte_at_a_time() -> Result<()> {
    let mut rig = proxied().await?;
    let one = b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 8080\r\n";
    ensure!(source(&mut rig, one, 1).await?.as_deref() == Some("192.0.2.7:12345"));
    let two = version_2(1, 0x11, &TCP4);
    ensure!(source(&mut rig, &two, 1).await?.as_deref() == Some("192.0.2.7:12345"));
    rig.passes("p04_one_byte_at_a_time").await
}

#[tokio::test]
async fn p04_no_header_at_all() -> Result<()> {
    let mut rig = proxied().await?;
    let addr = rig.proxy.listener("proxied")?;
    let mut clients = Vec::new();
    for n in 0..size(200, 2_000) {
        let mut client = Client::connect(addr).await?;
        rig.meter.connected(1);
        if n % 2 == 0 {
            rig.send(&mut client, b"PROXY TCP4 192.0.2.7").await?;
        }
        clients.push(client);
    }
    for client in &mut clients {
        ensure!(client.end_within(SOON).await != End::Open);
    }
    rig.reaches("listener.127.0.0.1_0.downstream_pre_cx_timeout", i64::try_from(clients.len())?).await?;
    rig.passes("p04_no_header_at_all").await
}

/// Lengths and values of TLVs that lie: as much as is announced is taken, and nothing of it reaches the upstream.
#[tokio::test]
async fn p02_tlvs_that_lie() -> Result<()> {
    let mut rig = proxied().await?;
    let with = |tlvs: &[u8]| version_2(1, 0x11, &[&TCP4, tlvs].concat());
    let large = with(&[&[0xe0, 0xff, 0x00], vec![b'x'; 0xff00].as_slice()].concat());
    let crc = with(&[0x03, 0, 4, 1, 2, 3, 4]);
    for (name, bytes, taken) in [
        // a checksum that is wrong is not looked at, as in Envoy
        ("checksum", crc, true),
        ("no room for a length", with(&[0xe0, 0]), false),
        ("a length beyond the header", with(&[0xe0, 0xff, 0xff, 1]), false),
        ("as large as it gets", large, true),
        ("many small ones", with(&[0xe0, 0, 1, b'x'].repeat(10_000)), true),
    ] {
        let source = source(&mut rig, &bytes, 16 << 10).await?;
        ensure!(source.is_some() == taken, "{name}: {source:?}");
    }
    rig.passes("p02_tlvs_that_lie").await
}

/// Headers of version 1 that are nearly right.
#[tokio::test]
async fn p01_headers_that_are_nearly_right() -> Result<()> {
    let mut rig = proxied().await?;
    for line in [
        "PROXY TCP4 192.0.2.7 127.0.0.1 012345 8080\r\n",
        "PROXY TCP4 192.0.2.07 127.0.0.1 12345 8080\r\n",
        "PROXY TCP4 192.0.2.7 127.0.0.1 65536 8080\r\n",
        "PROXY TCP4 192.0.2.7 127.0.0.1 -1 8080\r\n",
        "PROXY TCP4 192.0.2.7  127.0.0.1 1 8080\r\n",
        "PROXY TCP4 ::1 ::1 1 8080\r\n",
        "PROXY TCP9 192.0.2.7 127.0.0.1 1 8080\r\n",
        "proxy TCP4 192.0.2.7 127.0.0.1 1 8080\r\n",
        "PROXY TCP4 192.0.2.7 127.0.0.1 1 8080\n",
        &format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)),
    ] {
        let source = source(&mut rig, line.as_bytes(), 1 << 10).await?;
        // as far as it is taken, the address is the one it says
        ensure!(source.is_none() || source.as_deref() == Some("192.0.2.7:12345"), "{line:?}: {source:?}");
    }
    rig.passes("p01_headers_that_are_nearly_right").await
}

/// TLVs that are passed on to a host together with one that is added, around the most that a header holds: its length is always
/// that of its octets, and the host reads the request after it.
#[tokio::test]
async fn p03_more_tlvs_than_a_header_holds() -> Result<()> {
    let host = Upstream::start().await?;
    let told = Told::before(host.addr()).await?;
    let socket = "transport_socket:
  name: pp
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
    config: {version: V2, pass_through_tlvs: {match_type: INCLUDE_ALL}, added_tlvs: [{type: 0xe9, value: YWRkZWQ=}]}
    transport_socket: {name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
";
    let listener = listener_with_filters("told", &tcp_proxy("told", "cluster: told"));
    let listener = listener
        + "  listener_filters: [{name: pp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, pass_through_tlvs: {match_type: INCLUDE_ALL}}}]\n";
    let mut rig = Setup::http("")
        .listener(listener)
        .cluster(fill(&cluster("told", "host", socket), [("host", port(told.addr()))]))
        .cluster(cluster("up", "up", ""))
        .start()
        .await?;
    // What is added takes 8 octets, the addresses 12.
    let mut left_out = 0;
    for (index, rest) in (32_762..=32_777_usize).enumerate() {
        let (first, second) = (vec![b'a'; 32_740], vec![b'b'; rest]);
        let source = format!("192.0.2.7:{}", 1_000 + index);
        let header = v2(1, &source, "192.0.2.8:80", &[(1, &first), (2, &second)])?;
        let mut client = Client::connect(rig.proxy.listener("told")?).await?;
        rig.send(&mut client, &header).await?;
        rig.send(&mut client, b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 200);
        let headers = told.headers();
        ensure!(headers.len() == index + 1);
        let words = words(headers.last().context("no header")?, &[])?;
        ensure!(words.contains("233=\"added\" 1=32740 octets"), "{words}");
        left_out += i64::from(!words.contains(&format!(" 2={rest} octets")));
    }
    ensure!(left_out == 8, "{left_out}");
    let admin = rig.proxy.admin();
    let counted = admin.stat("cluster.told.upstream.proxyprotocol.v2_tlvs_exceed_max_length").await?;
    ensure!(counted == left_out, "{counted}");
    ensure!(host.malformed().is_empty(), "{:?}", host.malformed());
    rig.passes("p03_more_tlvs_than_a_header_holds").await
}

fn file_log(format: &str) -> String {
    format!(
        "- name: log\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: \"{{{{dir}}}}/access.log\"\n    log_format: {format}\n"
    )
}

/// Whatever is in a request, its line in the log is one line; in JSON, one document.
async fn logged(format: &str, name: &str, check: impl Fn(&str) -> Result<()>) -> Result<()> {
    let options = "max_request_headers_kb: 2048";
    let listener = HttpListener::to_up("http").options(options).logs(&file_log(format));
    let mut rig = Setup::of(listener).start().await?;
    let log = rig.proxy.dir().join("access.log");
    // the whole line of the request with that path: the log is written in its own time, and of a long line a reader may
    // see the beginning first
    let line = async |path: &str| {
        eventually(path, SOON, async || {
            let text = std::fs::read(&log).unwrap_or_default();
            let start = text.windows(path.len()).position(|window| window == path.as_bytes())?;
            text[start..].contains(&b'\n').then_some(())
        })
        .await
    };
    let values: [&[u8]; 6] = [
        b"\"quoted\\\" and } { %REQ(x)%",
        b"\xff\xfe\x80 not UTF-8",
        b"tab\there",
        "\u{2028}\u{202e}\u{1f600}".as_bytes(),
        b"</script>\\u0000\\n",
        b"${jndi:ldap://x}",
    ];
    for (n, value) in values.into_iter().enumerate() {
        let path = format!("/case-{n}-");
        let mut client = rig.connect().await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: t\r\nuser-agent: ");
        let request = [head.as_bytes(), value, b"\r\n\r\n"].concat();
        rig.send(&mut client, &request).await?;
        client.response("GET", SOON).await?;
        line(&path).await?;
    }
    let mut client = rig.connect().await?;
    let path = format!("/{}-last-", "x".repeat(1 << 20));
    rig.send(&mut client, format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes()).await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 200);
    line("x-last-").await?;
    drop(client);
    for line in std::fs::read(&log)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let text = String::from_utf8_lossy(line);
        check(&text).with_context(|| text.chars().take(300).collect::<String>())?;
    }
    std::fs::write(&log, "")?;
    rig.passes(name).await
}

#[tokio::test]
async fn a07_access_log_as_text() -> Result<()> {
    let format = "{text_format_source: {inline_string: \"%REQ(:PATH)% \\\"%REQ(USER-AGENT)%\\\" end\\n\"}}";
    logged(format, "a07_access_log_as_text", |line| {
        ensure!(line.starts_with('/') && line.ends_with(" end"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a07_access_log_as_json() -> Result<()> {
    let format =
        "{json_format: {path: \"%REQ(:PATH)%\", agent: \"%REQ(USER-AGENT)%\", code: \"%RESPONSE_CODE%\"}}";
    logged(format, "a07_access_log_as_json", |line| {
        let value: serde_json::Value = serde_json::from_str(line)?;
        ensure!(value["code"] == 200, "{value}");
        Ok(())
    })
    .await
}

/// Who a request says it comes from is believed as far as the configuration trusts those before.
#[tokio::test]
async fn a08_forwarded_for_that_lies() -> Result<()> {
    let added = "request_headers_to_add: [{header: {key: x-source, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}}]";
    let of = |name: &str, options: &str| {
        let options = format!("{options}\nmax_request_headers_kb: 512");
        HttpListener::new(name, &format!("- match: {{prefix: /}}\n  route: {{cluster: up}}\n  {added}"))
            .options(&options)
    };
    let setup = Setup::of(of("http", "use_remote_address: true"))
        .listener(of("hop", "use_remote_address: true\nxff_num_trusted_hops: 1").yaml())
        .listener(of("trusting", "xff_num_trusted_hops: 0").yaml());
    let mut rig = setup.start().await?;
    let many = vec!["198.51.100.1"; 10_000].join(", ");
    let cases = [
        ("192.0.2.1", ["127.0.0.1", "192.0.2.1", "192.0.2.1"]),
        ("192.0.2.1, 192.0.2.2", ["127.0.0.1", "192.0.2.2", "192.0.2.2"]),
        // what is no address is nobody's
        ("unknown", ["127.0.0.1", "127.0.0.1", "127.0.0.1"]),
        ("fe80::1%eth0", ["127.0.0.1", "127.0.0.1", "127.0.0.1"]),
        ("192.0.2.1, ", ["127.0.0.1", "127.0.0.1", "127.0.0.1"]),
        ("2001:db8::1", ["127.0.0.1", "2001:db8::1", "2001:db8::1"]),
        (&many, ["127.0.0.1", "198.51.100.1", "198.51.100.1"]),
    ];
    let mut seen = Vec::new();
    for (xff, expected) in cases {
        for (listener, expected) in ["http", "hop", "trusting"].into_iter().zip(expected) {
            let mut client = Client::connect(rig.proxy.listener(listener)?).await?;
            rig.meter.connected(1);
            let request = format!("GET / HTTP/1.1\r\nhost: t\r\nx-forwarded-for: {xff}\r\n\r\n");
            rig.send(&mut client, request.as_bytes()).await?;
            ensure!(client.response("GET", SOON).await?.head.status()? == 200);
            let received = rig.received();
            let request = received.last().context("no request")?;
            let source = field(&request.fields, "x-source").unwrap_or_default().to_owned();
            if source != expected {
                seen.push(format!("{:.60} at {listener}: {source} and not {expected}", xff));
            }
        }
    }
    ensure!(seen.is_empty(), "{seen:#?}");
    rig.passes("a08_forwarded_for_that_lies").await
}

/// How long a good request takes: the median, because the machine may have other work.
async fn median(rig: &Rig, length: Duration) -> Result<Duration> {
    let mut client = Client::connect(rig.addr()?).await?;
    let mut taken = Vec::new();
    let start = Instant::now();
    while start.elapsed() < length {
        let start = Instant::now();
        client.send(b"GET /good HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 200);
        taken.push(start.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    taken.sort();
    taken.get(taken.len() / 2).copied().context("no requests")
}

/// Administration that is asked for too much, slowly, or wrongly: traffic does not notice.
#[tokio::test]
async fn a09_administration_under_load() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let addr = rig.proxy.admin().addr();
    let before = median(&rig, Duration::from_secs(1)).await?;
    let mut slow = Vec::new();
    for n in 0..size(1_500, 10_000) {
        let mut client = Client::connect(addr).await?;
        let bytes: &[u8] = match n % 4 {
            0 => b"GET /stats HTTP/1.1\r\nhost: a\r\n\r\n",
            1 => b"GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n",
            2 => b"POST /stats HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n",
            _ => b"",
        };
        client.send(bytes).await?;
        rig.meter.sent(bytes.len());
        rig.meter.connected(1);
        slow.push(client);
    }
    let during = median(&rig, Duration::from_secs(2)).await?;
    ensure!(rig.proxy.admin().live().await, "administration itself");
    // machines differ and are busy: what must not be is a wait for administration
    ensure!(during < before * 4 + Duration::from_millis(20), "{during:?} under load, {before:?} before");
    drop(slow);
    // who administers is trusted: held memory is not held against what was sent
    rig.measured = false;
    rig.passes("a09_administration_under_load").await
}

#[tokio::test]
async fn a09_quit_while_serving() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let mut client = rig.connect().await?;
    rig.send(&mut client, GET).await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 200);
    let refused = rig.proxy.admin().request("GET", "/quitquitquit").await?;
    ensure!(refused.status == 405, "{refused:?}");
    rig.serves().await?;
    rig.proxy.admin().request("POST", "/quitquitquit").await?;
    ensure!(rig.proxy.ended(SOON).await? == 0);
    Ok(())
}
