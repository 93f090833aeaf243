//! What a listener binds, and which worker takes a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use integration::expect::{SOON, eventually};
use integration::process::Proxy;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};

use crate::{ask, chain, expect_stat, filter, listener, listener_at, log_lines, says, start};

fn at(address: &str, name: &str) -> String {
    listener_at(name, &format!("address: {address}"), &chain("", "{}", &says(name)))
}

fn echo(name: &str, fields: &str) -> String {
    listener(name, fields, &chain("", "{}", &filter("network.echo", "Echo", "")))
}

async fn read_unix(stream: std::io::Result<UnixStream>) -> Result<String> {
    let mut text = String::new();
    stream?.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn addresses_of_every_kind_are_bound() {
    let dual = "{socket_address: {address: \"::\", port_value: 0, ipv4_compat: true}}";
    let proxy = start(
        &[
            at("{socket_address: {address: \"::1\", port_value: 0}}", "v6"),
            at(dual, "dual"),
            at("{socket_address: {address: \"::\", port_value: 0}}", "v6_only"),
            at("{pipe: {path: \"{{dir}}/pipe.sock\", mode: 384}}", "pipe"),
            at("{pipe: {path: \"@{{dir}}/abstract\"}}", "abstract"),
        ],
        &[],
        "",
        &[],
    )
    .await
    .unwrap();
    let port = |name: &str| proxy.listener(name).unwrap().port();
    let v4 = |name: &str| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port(name));
    let v6 = |name: &str| SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port(name));

    assert_eq!(ask(v6("v6"), b"").await.unwrap().0, "v6");
    assert_eq!(ask(v6("dual"), b"").await.unwrap().0, "dual");
    assert_eq!(ask(v4("dual"), b"").await.unwrap().0, "dual");
    let lines = log_lines(&proxy, "dual", 2).await.unwrap();
    assert!(lines[0].starts_with("local=[::1]:") && lines[0].contains("|remote=[::1]:"), "{lines:?}");
    // an IPv4 client is one, not an IPv6 client with a mapped address
    assert!(lines[1].starts_with("local=127.0.0.1:") && lines[1].contains("|remote=127.0.0.1:"), "{lines:?}");
    assert_eq!(ask(v6("v6_only"), b"").await.unwrap().0, "v6_only");
    assert!(TcpStream::connect(v4("v6_only")).await.is_err());

    let path = proxy.dir().join("pipe.sock");
    assert_eq!(read_unix(UnixStream::connect(&path).await).await.unwrap(), "pipe");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    use std::os::linux::net::SocketAddrExt;
    let name = format!("{}/abstract", proxy.dir().display());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    stream.set_nonblocking(true).unwrap();
    assert_eq!(read_unix(UnixStream::from_std(stream)).await.unwrap(), "abstract");
}

#[tokio::test]
async fn additional_addresses_serve_like_the_first() {
    let fields = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}\nadditional_addresses:\n- address: {socket_address: {address: \"::1\", port_value: 0}}\n- address: {socket_address: {address: 127.0.0.2, port_value: 0}}";
    let proxy =
        start(&[listener_at("many", fields, &chain("", "{}", &says("many")))], &[], "", &[]).await.unwrap();
    let json = proxy.admin().get("/listeners?format=json").await.unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let status = &json["listener_statuses"][0];
    let mut addresses = vec![status["local_address"].clone()];
    addresses.extend(status["additional_local_addresses"].as_array().unwrap().iter().cloned());
    assert_eq!(addresses.len(), 3, "{json}");
    for address in addresses {
        let socket = &address["socket_address"];
        let ip: IpAddr = socket["address"].as_str().unwrap().parse().unwrap();
        let port = u16::try_from(socket["port_value"].as_u64().unwrap()).unwrap();
        assert_eq!(ask((ip, port).into(), b"").await.unwrap().0, "many", "{address}");
    }
    expect_stat(&proxy, "listener.many.downstream_cx_total", 3).await.unwrap();
}

/// How many sockets of the machine listen on a port of IPv4.
fn listening(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    table.lines().map(columns).filter(|columns| columns[1].ends_with(&local) && columns[3] == "0A").count()
}

/// Connections that each of the workers has, or has had.
async fn on_workers(proxy: &Proxy, listener: &str, what: &str) -> Result<Vec<i64>> {
    let stats = proxy.admin().stats(&format!("^listener\\.{listener}\\.worker_.*\\.{what}$")).await?;
    Ok((0..4)
        .map(|worker| stats.get(&format!("listener.{listener}.worker_{worker}.{what}")).copied().unwrap_or(0))
        .collect())
}

#[tokio::test]
async fn every_worker_takes_connections() {
    let pipe = listener_at(
        "pipe",
        "address: {pipe: {path: \"{{dir}}/pipe.sock\"}}",
        &chain("", "{}", &filter("network.echo", "Echo", "")),
    );
    let proxy = start(
        &[
            echo("own", ""),
            echo("one", "enable_reuse_port: false"),
            echo("fair", "connection_balance_config: {exact_balance: {}}"),
            echo("fair_one", "enable_reuse_port: false\nconnection_balance_config: {exact_balance: {}}"),
            pipe,
        ],
        &[],
        "",
        &["--concurrency", "4"],
    )
    .await
    .unwrap();
    let addr = |name: &str| proxy.listener(name).unwrap();
    assert_eq!(listening(addr("own").port()), 4, "one socket for each worker");
    assert_eq!(listening(addr("one").port()), 1, "one socket for all workers");

    for name in ["own", "one", "pipe"] {
        let (mut held, mut held_unix) = (Vec::new(), Vec::new());
        eventually(&format!("{name}: connections on more than one worker"), SOON, async || {
            for _ in 0..8 {
                match name {
                    "pipe" => {
                        held_unix.push(UnixStream::connect(proxy.dir().join("pipe.sock")).await.ok()?);
                    }
                    name => held.push(TcpStream::connect(addr(name)).await.ok()?),
                }
            }
            let workers = on_workers(&proxy, name, "downstream_cx_total").await.ok()?;
            (workers.iter().filter(|count| **count > 0).count() > 1).then_some(())
        })
        .await
        .unwrap();
    }

    // all at once, so that nothing but the count at accept can tell the workers apart
    for name in ["fair", "fair_one"] {
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(TcpStream::connect(addr(name)).await.context(name).unwrap());
        }
        expect_stat(&proxy, &format!("listener.{name}.downstream_cx_active"), 20).await.unwrap();
        assert_eq!(on_workers(&proxy, name, "downstream_cx_active").await.unwrap(), [5; 4], "{name}");
        drop(held);
        expect_stat(&proxy, &format!("listener.{name}.downstream_cx_active"), 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_without_a_port_binds_nothing() {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = bound.local_addr().unwrap().port();
    let fields = format!(
        "bind_to_port: false\naddress: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"
    );
    // the address is taken: to bind it would fail
    let proxy = start(&[listener_at("unbound", &fields, &chain("", "{}", &says("never")))], &[], "", &[])
        .await
        .unwrap();
    assert_eq!(listening(port), 1);
    assert_eq!(proxy.listener("unbound").unwrap().port(), port);
}

/// The timer of the established connection whose near end has this port: 2 is keepalive (`/proc/net/tcp`).
fn timer_of_connection(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_ours = columns.get(1)?.ends_with(&local) && *columns.get(3)? == "01";
        is_ours.then(|| columns.get(5).map(|timer| timer[..2].to_owned()))?
    })
}

#[tokio::test]
async fn options_of_sockets_take_effect() {
    let elsewhere = |name: &str, ip: &str, more: &str| {
        let fields = format!("address: {{socket_address: {{address: {ip}, port_value: 0}}}}\n{more}");
        listener_at(name, &fields, &chain("", "{}", &says(name)))
    };
    // IP_FREEBIND by number: an address of documentation can be bound with it only
    let by_number = "socket_options: [{level: 0, name: 15, int_value: 1, state: STATE_PREBIND}]";
    let not_for = |whom: &str| format!("socket_options: [{{level: 999, name: 1, int_value: 1, {whom}}}]");
    let listeners = [
        elsewhere("free", "192.0.2.1", "freebind: true"),
        elsewhere("by_number", "192.0.2.2", by_number),
        // what no socket takes, for sockets that these are not
        echo("other_version", &not_for("ip_version: SOCKET_IP_VERSION_IPV6")),
        echo("datagrams", &not_for("type: {datagram: {}}")),
        echo("probed", "tcp_keepalive: {keepalive_time: 100}"),
        echo("silent", ""),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    assert_eq!(proxy.listener("free").unwrap().ip(), Ipv4Addr::new(192, 0, 2, 1));
    assert_ne!(proxy.listener("by_number").unwrap().port(), 0);
    for (name, timer) in [("probed", "02"), ("silent", "00")] {
        let addr = proxy.listener(name).unwrap();
        let client = TcpStream::connect(addr).await.unwrap();
        expect_stat(&proxy, &format!("listener.{name}.downstream_cx_active"), 1).await.unwrap();
        assert_eq!(timer_of_connection(addr.port()).as_deref(), Some(timer), "{name}");
        drop(client);
    }
    drop(proxy);

    let refused = start(&[elsewhere("plain", "192.0.2.3", "")], &[], "", &[]).await.unwrap_err();
    let text = format!("{refused:#}");
    assert!(text.contains("cannot bind '192.0.2.3:0'"), "{text}");
    let own_version = echo("own_version", &not_for("ip_version: SOCKET_IP_VERSION_IPV4"));
    let refused = start(&[own_version], &[], "", &[]).await.unwrap_err();
    assert!(format!("{refused:#}").contains("cannot bind"), "{refused:#}");
}

/// How many connections wait to be accepted at a port of 127.0.0.1: the receive queue of a socket that listens.
fn waiting(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let waiting = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_ours = columns[1].ends_with(&local) && columns[3] == "0A";
        is_ours.then(|| usize::from_str_radix(columns[4].split_once(':')?.1, 16).ok())?
    });
    waiting.sum()
}

/// Whether every thread of a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().filter_map(Result::ok);
    let state = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    threads
        .map(|thread| std::fs::read_to_string(thread.path().join("stat")))
        .all(|stat| stat.is_ok_and(state))
}

#[tokio::test]
async fn no_more_connections_wait_than_the_backlog_allows() {
    let listeners = [echo("short", "tcp_backlog_size: 2"), echo("long", "")];
    let mut proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let addr = |name: &str| proxy.listener(name).unwrap();
    let (short, long) = (addr("short"), addr("long"));
    // nobody accepts
    proxy.signal(rustix::process::Signal::STOP).unwrap();
    eventually("that every thread stands still", SOON, async || is_stopped(proxy.pid()).then_some(()))
        .await
        .unwrap();
    let (mut made, mut others) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        others.push(TcpStream::connect(long).await.unwrap());
    }
    // The kernel lets one more wait than the number says, and drops the next SYN.
    for _ in 0..3 {
        made.push(TcpStream::connect(short).await.unwrap());
    }
    eventually("the queues", SOON, async || {
        (waiting(short.port()) == 3 && waiting(long.port()) == 20).then_some(())
    })
    .await
    .unwrap();
    let mut late = Box::pin(TcpStream::connect(short));
    let too_early = tokio::time::timeout(std::time::Duration::from_millis(500), &mut late).await;
    assert!(too_early.is_err(), "a fourth connection while three wait");
    proxy.signal(rustix::process::Signal::CONT).unwrap();
    // the client's kernel tries again after a second
    tokio::time::timeout(SOON, late).await.unwrap().unwrap();
    expect_stat(&proxy, "listener.short.downstream_cx_total", 4).await.unwrap();
    assert!(proxy.alive());
}
