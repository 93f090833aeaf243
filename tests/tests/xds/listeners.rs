//! Listeners that change while connections stand and come.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{file_log, indent, tcp_proxy_with_logs};
use integration::expect::{SOON, eventually, within};
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, frame, get_block, hello};
use integration::upstream::{EchoServer, Reply, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use xds::fake::Served;
use xds_api::envoy::config::listener::v3::Listener;

use crate::rig::*;

const DRAIN: &[&str] = &["--drain-time-s", "1"];
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A listener with one chain for clients from 127.0.0.1 and one for those from 127.0.0.2.
fn two_chains(first: &str, second: &str) -> Result<Served> {
    let chain = |source: &str, prefix: &str| {
        format!(
            "- filter_chain_match: {{source_prefix_ranges: [{{address_prefix: {source}, prefix_len: 32}}]}}{}",
            http_chain(prefix, &rds("r", ADS))
        )
    };
    let chains = [chain("127.0.0.1", first), chain("127.0.0.2", second)].concat();
    served::<Listener>(&format!("name: l\naddress: {ANY_PORT}\nfilter_chains:\n{chains}"))
}

#[tokio::test]
async fn connections_on_unchanged_chains_stay_and_those_on_changed_ones_drain() -> Result<()> {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let rig = Rig::start_with(api_type, DRAIN).await?;
        rig.management.set(&LDS, "2", [two_chains("first", "second")?]);
        rig.stat("listener_manager.listener_in_place_updated", 1).await?;
        let address = rig.address("l").await?;
        let mut kept = Client::connect(address).await?;
        let mut drained = Client::connect_from(OTHER, address).await?;
        let mut asking = Client::connect_from(OTHER, address).await?;
        for connection in [&mut kept, &mut drained, &mut asking] {
            ensure!(mark(connection).await? == "1");
        }
        rig.management.set(&LDS, "3", [two_chains("first", "changed")?]);
        rig.stat("listener_manager.listener_in_place_updated", 2).await?;
        let mut fresh = Client::connect_from(OTHER, address).await?;
        ensure!(mark(&mut fresh).await? == "1");
        rig.stat("http.changed.downstream_rq_total", 1).await?;
        ensure!(drained.end_within(SOON).await != End::Open, "drained by the end of the drain time");
        rig.stat("listener_manager.total_filter_chains_draining", 0).await?;
        ensure!(mark(&mut kept).await? == "1", "the unchanged chain keeps its connections");
        ensure!(mark(&mut fresh).await? == "1");
        ensure!(rig.proxy.admin().stat("http.first.downstream_cx_total").await? == 1);
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// The same listener with another limit: more than its chains changed.
fn with_limit(limit: usize) -> Result<Served> {
    let chain = http_chain("p", &rds("r", ADS));
    served::<Listener>(&format!(
        "name: l\naddress: {ANY_PORT}\nper_connection_buffer_limit_bytes: {limit}\nfilter_chains:\n-{}",
        &chain.trim_start_matches('\n')[1..]
    ))
}

#[tokio::test]
async fn a_replaced_listener_refuses_nobody_and_drains() -> Result<()> {
    let rig = Rig::start_with("GRPC", DRAIN).await?;
    let address = rig.address("l").await?;
    let mut old = rig.connect("l").await?;
    ensure!(mark(&mut old).await? == "1");
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let connecting = {
        let (done, served) = (done.clone(), served.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let mut connection = Client::connect(address).await.context("refused")?;
                mark(&mut connection).await.with_context(|| format!("after {served:?}"))?;
                served.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        })
    };
    // A busy machine may serve few connections in the time that twenty updates take: then there are more.
    let mut replaced = 0;
    while (replaced < 20 || served.load(Ordering::Relaxed) <= 20) && !connecting.is_finished() {
        let version = format!("replaced {replaced}");
        rig.management.set(&LDS, &version, [with_limit(100_000 + replaced)?]);
        rig.acknowledged(&LDS, &version).await?;
        replaced += 1;
    }
    done.store(true, Ordering::Relaxed);
    connecting.await??;
    rig.stat("listener_manager.listener_modified", i64::try_from(replaced)?).await?;
    ensure!(old.end_within(SOON).await != End::Open, "drained by the end of the drain time");
    rig.stat("listener_manager.total_listeners_draining", 0).await?;
    rig.stat("listener_manager.total_listeners_active", 1).await?;
    rig.proxy.stop().await
}

fn at(address: SocketAddr) -> Result<Served> {
    listener_with("l", &socket(address), &http_chain("p", &rds("r", ADS)))
}

#[tokio::test]
async fn a_listener_moves_to_another_address() -> Result<()> {
    let rig = Rig::start_with("GRPC", DRAIN).await?;
    let first = rig.address("l").await?;
    let mut old = Client::connect(first).await?;
    ensure!(mark(&mut old).await? == "1");
    let second: SocketAddr = (OTHER, 0).into();
    rig.management.set(&LDS, "2", [at(second)?]);
    let second = eventually("the other address", SOON, async || {
        let now = rig.proxy.admin().listeners().await.ok()?.get("l").copied()?;
        (now.ip() == OTHER).then_some(now)
    })
    .await?;
    let mut new = Client::connect(second).await?;
    ensure!(mark(&mut new).await? == "1");
    eventually("the first address closed", SOON, async || {
        Client::connect(first).await.is_err().then_some(())
    })
    .await?;
    ensure!(old.end_within(SOON).await != End::Open, "drained by the end of the drain time");
    ensure!(mark(&mut new).await? == "1");
    rig.proxy.stop().await
}

#[tokio::test]
async fn a_removed_listener_serves_what_it_has_until_the_drain_time_ends() -> Result<()> {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let rig = Rig::start_with(api_type, DRAIN).await?;
        let address = rig.address("l").await?;
        let mut idle = Client::connect(address).await?;
        ensure!(mark(&mut idle).await? == "1");
        rig.management.set(&LDS, "2", []);
        rig.stat("listener_manager.total_listeners_draining", 1).await?;
        eventually("no more connections", SOON, async || {
            Client::connect(address).await.is_err().then_some(())
        })
        .await?;
        ensure!(idle.end_within(SOON).await != End::Open, "closed by the end of the drain time");
        rig.stat("listener_manager.total_listeners_draining", 0).await?;
        rig.management.set(&LDS, "3", [listener("l", "r")?]);
        let mut again = rig.connect("l").await?;
        ensure!(mark(&mut again).await? == "1");
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// Streams of HTTP/2 that are still in flight when the drain time of their listener ends do not keep it.
#[tokio::test]
async fn streams_that_outlast_the_drain_of_a_removed_listener_are_cut() -> Result<()> {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let rig = Rig::start_with(api_type, DRAIN).await?;
        let chain = http_chain("p", &rds("r", ADS)).replace(
            "stat_prefix: p",
            "stat_prefix: p\n      drain_timeout: 0.3s\n      stream_idle_timeout: 0s",
        );
        rig.management.set(&LDS, "2", [listener_with("l", ANY_PORT, &chain)?]);
        rig.stat("listener_manager.listener_in_place_updated", 1).await?;
        rig.upstream.answer(Reply::steps([Step::Stall]));
        let stream = TcpStream::connect(rig.address("l").await?).await?;
        let (send, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let request = || http::Request::get("http://a/").body(());
        let mut send = send.ready().await?;
        let (cut, _) = send.send_request(request()?, true)?;
        rig.stat("cluster.c.upstream_rq_active", 1).await?;
        rig.management.set(&LDS, "3", []);
        rig.stat("listener_manager.total_listeners_draining", 1).await?;
        let error = within("the end of the stream", SOON, cut).await?.err().context("an answer")?;
        ensure!(!error.is_reset() || error.reason().is_some(), "{error:?}");
        let _ = within("the end of the connection", SOON, connection).await?;
        // nothing of it is left, at the upstream either
        for name in
            ["cluster.c.upstream_rq_active", "http.p.downstream_cx_active", "http.p.downstream_rq_active"]
        {
            rig.stat(name, 0).await?;
        }
        rig.stat("listener_manager.total_listeners_draining", 0).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// What `/drain_listeners` stopped stays so: listeners of the traffic that it stopped are neither added nor changed, without an error, and
/// forms of theirs that warm are gone. They may be removed.
#[tokio::test]
async fn stopped_listeners_are_neither_added_nor_changed() -> Result<()> {
    for (path, adds_outbound) in [("/drain_listeners?inboundonly", true), ("/drain_listeners", false)] {
        let rig = Rig::start("GRPC").await?;
        let http = |prefix: &str, routes: &str| http_chain(prefix, &rds(routes, ADS));
        let directed = |name: &str, direction: &str, routes: &str| {
            let address = format!("{ANY_PORT}\ntraffic_direction: {direction}");
            listener_with(name, &address, &http(name, routes))
        };
        rig.management.set(&LDS, "2", [listener("l", "r")?, directed("in", "INBOUND", "r")?]);
        let address = rig.address("in").await?;
        // another form of it waits for routes that nobody has yet
        rig.management.set(&LDS, "3", [listener("l", "r")?, directed("in", "INBOUND", "late")?]);
        rig.stat("listener_manager.total_listeners_warming", 1).await?;
        rig.proxy.admin().request("POST", path).await?;
        eventually("nobody to listen", SOON, async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await?;
        let forms = rig.proxy.admin().get("/config_dump?resource=dynamic_listeners").await?;
        ensure!(!forms.contains("\"warming_state\""), "{forms}");
        let added = rig.proxy.admin().stat("listener_manager.listener_added").await?;
        let modified = rig.proxy.admin().stat("listener_manager.listener_modified").await?;
        rig.management.set(&RDS, "2", [routes("r", "c", "1")?, routes("late", "c", "2")?]);
        rig.management.set(
            &LDS,
            "4",
            [
                listener("l", "r")?,
                directed("in", "INBOUND", "r2")?,
                directed("further_in", "INBOUND", "r")?,
                directed("out", "OUTBOUND", "r")?,
            ],
        );
        rig.acknowledged(&LDS, "4").await?;
        rig.stat("listener_manager.listener_added", added + i64::from(adds_outbound)).await?;
        rig.stat("listener_manager.listener_modified", modified).await?;
        if adds_outbound {
            ensure!(mark(&mut rig.connect("out").await?).await? == "1");
            ensure!(mark(&mut rig.connect("l").await?).await? == "1");
        }
        let names: BTreeSet<String> = rig.proxy.admin().listeners().await?.into_keys().collect();
        let mut expected = BTreeSet::from(["in".to_owned(), "l".to_owned()]);
        expected.extend(adds_outbound.then(|| "out".to_owned()));
        ensure!(names == expected, "{names:?}");
        ensure!(TcpStream::connect(address).await.is_err(), "it listens again");
        rig.management.set(&LDS, "5", [listener("l", "r")?]);
        rig.stat("listener_manager.listener_removed", 1 + i64::from(adds_outbound)).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// Whatever the end of a drain cuts off is counted: connections with a request in flight, at rest, and before their first octet.
#[tokio::test]
async fn connections_that_the_end_of_a_drain_cuts_off_are_counted() -> Result<()> {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let rig = Rig::start_with("GRPC", DRAIN).await?;
    let chain = http_chain("q", &rds("r", ADS));
    rig.management.set(&LDS, "2", [listener_with("l", ANY_PORT, &chain)?]);
    rig.stat("listener_manager.listener_in_place_updated", 1).await?;
    let address = rig.address("l").await?;
    let silent = Client::connect(address).await?;
    let mut rested = Client::connect(address).await?;
    mark(&mut rested).await?;
    rig.upstream.answer(Reply::steps([Step::Stall]));
    let mut asking = Client::connect(address).await?;
    asking.send(GET).await?;
    let mut of_http2 = Client::connect(address).await?;
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/"));
    of_http2.send(&[hello(), get].concat()).await?;
    rig.stat("cluster.c.upstream_rq_active", 2).await?;
    rig.stat("http.q.downstream_cx_active", 4).await?;
    // the counters go on with another chain
    let changed = chain.replace("stat_prefix: q", "stat_prefix: q\n      drain_timeout: 9s");
    rig.management.set(&LDS, "3", [listener_with("l", ANY_PORT, &changed)?]);
    for mut client in [silent, rested, asking, of_http2] {
        ensure!(client.end_within(SOON).await != End::Open, "it outlasts the drain");
    }
    for (name, count) in [
        ("downstream_cx_destroy", 4),
        ("downstream_cx_active", 0),
        ("downstream_cx_destroy_local", 4),
        ("downstream_cx_destroy_remote", 0),
        ("downstream_cx_destroy_active_rq", 2),
        // (so Envoy calls them)
        ("downstream_cx_destroy_remote_active_rq", 2),
        ("downstream_cx_destroy_local_active_rq", 0),
        ("downstream_rq_rx_reset", 2),
    ] {
        rig.stat(&format!("http.q.{name}"), count).await?;
    }
    let received = rig.proxy.admin().stat("http.q.downstream_cx_rx_bytes_total").await?;
    ensure!(received > i64::try_from(2 * GET.len() + hello().len())?, "{received} octets received");
    rig.proxy.stop().await
}

/// A listener at an address (YAML) with these other fields, whose routes are `routes`.
fn form(address: &str, fields: &str, routes: &str) -> Result<Served> {
    let chain = http_chain("p", &rds(routes, ADS));
    let chain = chain.trim_start_matches('\n').strip_prefix(' ').context("no chain")?;
    served::<Listener>(&format!("name: l\naddress: {address}\n{fields}\nfilter_chains:\n-{chain}"))
}

/// A form that waits for its routes takes no connection: the kernel gives them all to the form in force.
#[tokio::test]
async fn a_listener_that_warms_takes_no_connection_away() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let port = rig.address("l").await?.port();
    let address: SocketAddr = (OTHER, port).into();
    rig.management.set(&LDS, "2", [form(&socket(address), "", "r")?]);
    eventually("the fixed port", SOON, async || Client::connect(address).await.ok()).await?;
    let served = async || {
        for _ in 0..20 {
            let mut connection = Client::connect(address).await?;
            ensure!(mark(&mut connection).await? == "1");
        }
        anyhow::Ok(())
    };
    let other = "freebind: true\ntcp_backlog_size: 100";
    rig.management.set(&LDS, "3", [form(&socket(address), other, "late")?]);
    rig.stat("listener_manager.total_listeners_warming", 1).await?;
    served().await?;
    rig.management.set(&LDS, "4", [form(&socket(address), "", "r")?]);
    rig.stat("listener_manager.total_listeners_warming", 0).await?;
    served().await?;
    rig.management.set(&LDS, "5", [form(&socket(address), other, "late")?]);
    rig.stat("listener_manager.total_listeners_warming", 1).await?;
    rig.management.set(&RDS, "2", [routes("late", "c", "2")?]);
    eventually("the new form", SOON, async || {
        let mut connection = Client::connect(address).await.ok()?;
        (mark(&mut connection).await.ok()? == "2").then_some(())
    })
    .await?;
    rig.proxy.stop().await
}

#[tokio::test]
async fn a_pipe_serves_while_another_form_of_its_listener_warms() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let path = rig.proxy.dir().join("l.sock");
    let pipe = |mode: &str| format!("{{pipe: {{path: \"{}\", mode: {mode}}}}}", path.display());
    let status = async || -> Result<String> {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        within("an answer", SOON, stream.read_to_string(&mut answer)).await??;
        Ok(answer)
    };
    rig.management.set(&LDS, "2", [form(&pipe("448"), "", "r")?]);
    eventually("the pipe", SOON, async || status().await.ok()).await?;
    rig.management.set(&LDS, "3", [form(&pipe("384"), "", "late")?]);
    rig.stat("listener_manager.total_listeners_warming", 1).await?;
    ensure!(status().await?.contains("x-mark: 1"));
    // of two addresses the second cannot be bound
    let nowhere = "additional_addresses: [{address: {socket_address: {address: 192.0.2.1, port_value: 0}}}]";
    rig.management.set(&LDS, "4", [form(&pipe("416"), nowhere, "r")?]);
    rig.rejected(&LDS).await?;
    ensure!(status().await?.contains("x-mark: 1"));
    rig.management.set(&LDS, "5", [form(&pipe("448"), "", "r")?]);
    rig.stat("listener_manager.total_listeners_warming", 0).await?;
    ensure!(status().await?.contains("x-mark: 1"));
    rig.management.set(&LDS, "6", [form(&pipe("384"), "", "late")?]);
    rig.management.set(&RDS, "2", [routes("late", "c", "2")?]);
    eventually("the new form", SOON, async || status().await.ok()?.contains("x-mark: 2").then_some(()))
        .await?;
    ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600);
    rig.proxy.stop().await
}

/// Without `SO_REUSEPORT` an address can be bound once: the next form takes over what the form that warms has bound.
#[tokio::test]
async fn a_form_that_warms_is_replaced_at_the_same_address() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let address: SocketAddr = (OTHER, rig.address("l").await?.port()).into();
    rig.management.set(&LDS, "2", []);
    rig.stat("listener_manager.total_listeners_active", 0).await?;
    let fields = "enable_reuse_port: false";
    rig.management.set(&LDS, "3", [form(&socket(address), fields, "late")?]);
    rig.stat("listener_manager.total_listeners_warming", 1).await?;
    let changed = format!("{fields}\nper_connection_buffer_limit_bytes: 99999");
    rig.management.set(&LDS, "4", [form(&socket(address), &changed, "late")?]);
    rig.acknowledged(&LDS, "4").await?;
    rig.management.set(&RDS, "2", [routes("late", "c", "2")?]);
    let mut connection = rig.connect("l").await?;
    ensure!(mark(&mut connection).await? == "2");
    rig.proxy.stop().await
}

/// What the end of a drain cuts off is logged and counted.
#[tokio::test]
async fn connections_of_tcp_proxies_that_a_drain_cuts_off_are_accounted_for() -> Result<()> {
    let rig = Rig::start_with("GRPC", DRAIN).await?;
    let echo = EchoServer::start().await?;
    rig.management.set(&CDS, "2", [cluster("c")?, static_cluster("echo", echo.server().addr())?]);
    let fields = [
        "%ACCESS_LOG_TYPE%",
        "%DOWNSTREAM_LOCAL_CLOSE_REASON%",
        "%UPSTREAM_LOCAL_CLOSE_REASON%",
        "%RESPONSE_FLAGS%",
        "%BYTES_RECEIVED%/%BYTES_SENT%",
        "%UPSTREAM_WIRE_BYTES_SENT%",
    ];
    let log = rig.proxy.dir().join("drained.log");
    let form = |limit: u32, attempts: u32| {
        let logs = file_log(&format!(
            "log_format: {{text_format_source: {{inline_string: \"{}\\n\"}}}}",
            fields.join(" ")
        ))
        .replace("{{dir}}/access.log", &log.display().to_string());
        let filter = tcp_proxy_with_logs(
            "t",
            &format!("access_log:\n{logs}"),
            &format!("cluster: echo\nmax_connect_attempts: {attempts}"),
        );
        served::<Listener>(&format!(
            "name: t\naddress: {ANY_PORT}\nper_connection_buffer_limit_bytes: {limit}\naccess_log:\n{logs}filter_chains:\n- filters:\n{}",
            indent(&filter, 2)
        ))
    };
    let cut_off = async |version: &str, forms: Vec<Served>, reason: &str| -> Result<()> {
        let mut held = rig.connect("t").await?;
        held.send(b"hello").await?;
        ensure!(held.at_least(5, SOON).await? == b"hello");
        rig.management.set(&LDS, version, forms);
        ensure!(held.end_within(SOON).await != End::Open, "drained by the end of the drain time");
        let expected = BTreeSet::from([
            format!("TcpConnectionEnd {reason} {reason} - 5/5 5"),
            format!("NotSet {reason} {reason} - 5/5 5"),
        ]);
        eventually("the logs", SOON, async || {
            let text = std::fs::read_to_string(&log).ok()?;
            let lines: BTreeSet<String> = text.lines().map(str::to_owned).collect();
            (lines == expected).then(|| std::fs::write(&log, ""))
        })
        .await??;
        Ok(())
    };
    rig.management.set(&LDS, "2", [form(1000, 1)?]);
    cut_off("3", vec![form(1000, 2)?], "filter_chain_is_being_removed").await?;
    let purged = "purging_socket_that_have_not_progressed_to_connections";
    cut_off("4", vec![form(2000, 2)?], purged).await?;
    rig.stat("tcp.t.downstream_cx_rx_bytes_total", 10).await?;
    rig.stat("tcp.t.downstream_cx_tx_bytes_total", 10).await?;
    cut_off("5", vec![], purged).await?;
    for (name, value) in [
        ("upstream_cx_destroy_local", 3),
        ("upstream_cx_destroy_local_with_active_rq", 3),
        ("upstream_cx_tx_bytes_total", 15),
    ] {
        rig.stat(&format!("cluster.echo.{name}"), value).await?;
    }
    rig.proxy.stop().await
}
