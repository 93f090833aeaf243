//! How many connections there may be.

use std::time::{Duration, Instant};

use integration::client::{Client, End};
use integration::expect::SOON;
use integration::process::Proxy;

use crate::{ask, chain, expect_log, expect_stat, filter, listener, says, start};

fn echo(name: &str, fields: &str) -> String {
    listener(name, fields, &chain("", "{}", &filter("network.echo", "Echo", "")))
}

/// A connection that is served: what it sends comes back.
async fn served(proxy: &Proxy, name: &str) -> Option<Client> {
    let mut client = Client::connect(proxy.listener(name).unwrap()).await.unwrap();
    client.send(b"x").await.unwrap();
    client.at_least(1, SOON).await.ok().map(|_| client)
}

#[tokio::test]
async fn a_listener_has_no_more_connections_than_its_runtime_key_says() {
    let runtime = "layered_runtime: {layers: [{name: static, static_layer: {envoy.resource_limits.listener.limited.connection_limit: 2}}, {name: admin, admin_layer: {}}]}\n";
    let proxy =
        start(&[echo("limited", ""), echo("free", "")], &[], runtime, &["--concurrency", "2"]).await.unwrap();
    let first = served(&proxy, "limited").await.unwrap();
    let _second = served(&proxy, "limited").await.unwrap();
    assert!(served(&proxy, "limited").await.is_none());
    expect_stat(&proxy, "listener.limited.downstream_cx_overflow", 1).await.unwrap();
    assert!(served(&proxy, "free").await.is_some());
    // one goes, one may come
    drop(first);
    expect_stat(&proxy, "listener.limited.downstream_cx_active", 1).await.unwrap();
    let _third = served(&proxy, "limited").await.unwrap();
    assert!(served(&proxy, "limited").await.is_none());
    // the key is looked up for each connection
    let raise = "/runtime_modify?envoy.resource_limits.listener.limited.connection_limit=3";
    assert_eq!(proxy.admin().request("POST", raise).await.unwrap().status, 200);
    let _fourth = served(&proxy, "limited").await.unwrap();
    assert!(served(&proxy, "limited").await.is_none());
    expect_stat(&proxy, "listener.limited.downstream_cx_overflow", 3).await.unwrap();
    expect_stat(&proxy, "listener.limited.downstream_cx_active", 3).await.unwrap();
}

#[tokio::test]
async fn the_process_has_no_more_connections_than_its_runtime_key_says() {
    let runtime = "layered_runtime: {layers: [{name: static, static_layer: {overload.global_downstream_max_connections: 2}}, {name: admin, admin_layer: {}}]}\n";
    let listeners = [echo("one", ""), echo("two", ""), echo("exempt", "ignore_global_conn_limit: true")];
    let proxy = start(&listeners, &[], runtime, &["--concurrency", "2"]).await.unwrap();
    let first = served(&proxy, "one").await.unwrap();
    let _second = served(&proxy, "two").await.unwrap();
    assert!(served(&proxy, "one").await.is_none());
    assert!(served(&proxy, "two").await.is_none());
    let _exempt = served(&proxy, "exempt").await.unwrap();
    expect_stat(&proxy, "listener.one.downstream_global_cx_overflow", 1).await.unwrap();
    expect_stat(&proxy, "listener.two.downstream_global_cx_overflow", 1).await.unwrap();
    drop(first);
    expect_stat(&proxy, "listener.one.downstream_cx_active", 0).await.unwrap();
    let _third = served(&proxy, "two").await.unwrap();
    assert!(served(&proxy, "two").await.is_none());
    let raise = "/runtime_modify?overload.global_downstream_max_connections=3";
    assert_eq!(proxy.admin().request("POST", raise).await.unwrap().status, 200);
    let _fourth = served(&proxy, "two").await.unwrap();
    assert!(served(&proxy, "one").await.is_none());
}

#[tokio::test]
async fn filters_that_refuse_connections_say_so_in_the_log() {
    let limit = |fields: &str| {
        filter("network.connection_limit", "ConnectionLimit", &format!(", stat_prefix: l, {fields}"))
    };
    let rate = filter(
        "network.local_ratelimit",
        "LocalRateLimit",
        ", stat_prefix: r, token_bucket: {max_tokens: 1, fill_interval: 3600s}",
    );
    let echo = filter("network.echo", "Echo", "");
    let chain_of = |filters: String| chain("", "{}", &(filters + &echo));
    let listeners = [
        listener("limit", "", &chain_of(limit("max_connections: 1"))),
        listener("delayed", "", &chain_of(limit("max_connections: 1, delay: 0.3s"))),
        listener("rate", "", &chain_of(rate)),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    for (name, reason, flags) in [
        ("limit", "over_connection_limit", "-"),
        ("delayed", "over_connection_limit", "-"),
        ("rate", "local_ratelimit_close_over_limit", "URX"),
    ] {
        let first = served(&proxy, name).await.unwrap();
        let begin = Instant::now();
        let (answer, end) = ask(proxy.listener(name).unwrap(), b"").await.unwrap();
        assert_eq!((answer.as_str(), end), ("", End::Closed), "{name}");
        assert_eq!(begin.elapsed() >= Duration::from_millis(300), name == "delayed", "{name}");
        // the reason is ours, not one of a peer's termination
        let expected = [("closed", reason), ("termination", "-"), ("flags", flags), ("rx", "0")];
        expect_log(&proxy, name, 1, &expected).await.unwrap();
        drop(first);
        expect_log(&proxy, name, 2, &[("closed", "-"), ("rx", "1"), ("tx", "1")]).await.unwrap();
    }
    expect_stat(&proxy, "connection_limit.l.limited_connections", 2).await.unwrap();
    expect_stat(&proxy, "connection_limit.l.active_connections", 0).await.unwrap();
    expect_stat(&proxy, "local_rate_limit.r.rate_limited", 1).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_connections_is_refused_and_forgotten() {
    let runtime = "layered_runtime: {layers: [{name: static, static_layer: {overload.global_downstream_max_connections: 50}}]}\n";
    let calm = listener("calm", "ignore_global_conn_limit: true", &chain("", "{}", &says("calm")));
    let proxy = start(&[echo("flooded", ""), calm], &[], runtime, &[]).await.unwrap();
    let addr = proxy.listener("flooded").unwrap();
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(Client::connect(addr).await.unwrap());
    }
    expect_stat(&proxy, "listener.flooded.downstream_global_cx_overflow", 450).await.unwrap();
    assert_eq!(ask(proxy.listener("calm").unwrap(), b"").await.unwrap().0, "calm");
    drop(held);
    expect_stat(&proxy, "listener.flooded.downstream_cx_active", 0).await.unwrap();
    assert!(served(&proxy, "flooded").await.is_some());
}
