//! Connections that the kernel redirected, in a network namespace of its own.
//!
//! The tests that do the work are run by [`in_a_namespace`], which calls this program again inside a namespace where
//! 10.9.9.9 is local and its ports 80 to 89 are redirected (REDIRECT), and 10.7.7.7 and 10.7.7.8 lead to local sockets although
//! they are nobody's addresses (TPROXY). Where there is no right to make one, or no `iptables`, they
//! fail: a skipped test would look like a passed one. `make test` installs what is missing.

use std::process::{Command, Output};

use integration::client::Client;
use integration::expect::SOON;
use integration::process::{Binary, Proxy};

use crate::{ask, chain, expect_log, filter, listener_at, log_lines, says, start};

/// Runs `command` where the redirection is in force.
fn in_namespace(command: &str) -> std::io::Result<Output> {
    let script = format!(
        "ip link set lo up\nip address add 10.9.9.9/32 dev lo\n\
         iptables -t nat -A OUTPUT -p tcp -d 10.9.9.9 --dport 80:89 -j REDIRECT --to-ports {PORT}\n\
         ip rule add fwmark 1 lookup 100\nip route add local default dev lo table 100\nip route add default dev lo\n\
         iptables -t mangle -A OUTPUT -p tcp -d 10.7.0.0/16 -j MARK --set-mark 1\n\
         iptables -t mangle -A PREROUTING -p tcp -d 10.7.7.7 -j TPROXY --on-port {PORT} --tproxy-mark 1\n\
         iptables -t mangle -A PREROUTING -p tcp -d 10.7.7.8 -j TPROXY --on-port 15002 --tproxy-mark 1\n{command}"
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--net", "sh", "-ec", &script]);
    unshare.env("OUTRIGGER", Binary::outrigger().map(|binary| binary.path).unwrap_or_default()).output()
}

#[test]
fn in_a_namespace() {
    let missing = match in_namespace("true") {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    assert!(missing.is_none(), "no namespace, iptables or ip here: {}", missing.unwrap_or_default());
    let me = std::env::current_exe().unwrap();
    let tests = "redirect::inside";
    let output = in_namespace(&format!("exec {} --ignored --test-threads 1 {tests}", me.display())).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" 4 passed"), "{text}");
}

const PORT: u16 = 15001;

fn at(name: &str, address: &str, port: u16, more: &str) -> String {
    let fields = format!("address: {{socket_address: {{address: {address}, port_value: {port}}}}}\n{more}");
    listener_at(name, &fields, &chain("", "{}", &says(name)))
}

/// Takes what others hand over, and looks for HTTP.
fn looking(name: &str, port: u16) -> String {
    let filters = format!("listener_filters:\n{}", filter("listener.http_inspector", "HttpInspector", ""));
    let address = format!("address: {{socket_address: {{address: 10.9.9.9, port_value: {port}}}}}");
    let chains = chain("http", "{application_protocols: [http/1.1]}", &says("http"))
        + &chain("other", "{}", &says("other"));
    listener_at(name, &format!("{address}\nbind_to_port: false\n{filters}"), &chains)
}

async fn answer(port: u16) -> String {
    ask(([10, 9, 9, 9], port).into(), b"").await.unwrap().0
}

async fn stop(proxy: Proxy) {
    proxy.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "run by in_a_namespace"]
async fn inside_a_connection_goes_to_the_listener_of_its_destination() {
    let listeners = [
        at("catch_all", "0.0.0.0", PORT, "use_original_dst: true"),
        at("exact", "10.9.9.9", 80, "bind_to_port: false"),
        at("any_address", "0.0.0.0", 81, "bind_to_port: false"),
        at("other_exact", "10.9.9.8", 82, "bind_to_port: false"),
        at("exact_goes_first", "10.9.9.9", 83, "bind_to_port: false"),
        at("any_address_83", "0.0.0.0", 83, "deprecated_v1: {bind_to_port: false}"),
        looking("looking", 84),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    // the listener that it goes to looks at it
    let looked_at = async |say: &[u8]| ask(([10, 9, 9, 9], 84).into(), say).await.unwrap().0;
    assert_eq!(looked_at(b"GET / HTTP/1.1\r\n\r\n").await, "http");
    assert_eq!(looked_at(b"hello\n").await, "other");
    for (port, expected) in [(80, "exact"), (81, "any_address"), (82, "catch_all"), (83, "exact_goes_first")]
    {
        assert_eq!(answer(port).await, expected, "port {port}");
    }
    expect_log(&proxy, "exact", 1, &[("local", "10.9.9.9:80")]).await.unwrap();
    expect_log(&proxy, "catch_all", 1, &[("local", "10.9.9.9:82")]).await.unwrap();
    // who was not redirected stays
    assert_eq!(ask(([127, 0, 0, 1], PORT).into(), b"").await.unwrap().0, "catch_all");
    expect_log(&proxy, "catch_all", 2, &[("local", "127.0.0.1:15001")]).await.unwrap();
    stop(proxy).await;
}

#[tokio::test]
#[ignore = "run by in_a_namespace"]
async fn inside_the_original_dst_filter_lets_chains_match_the_destination() {
    let chains = chain("eighty", "{destination_port: 80}", &says("eighty"))
        + &chain("ten", "{prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}", &says("ten"))
        + &chain("rest", "{}", &says("rest"));
    let of = |name: &str, port: u16, filters: &str| {
        let fields =
            format!("address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}\n{filters}");
        listener_at(name, &fields, &chains)
    };
    let original = format!("listener_filters:\n{}", filter("listener.original_dst", "OriginalDst", ""));
    let proxy =
        start(&[of("restored", PORT, &original), of("as_is", 15002, "")], &[], "", &[]).await.unwrap();
    assert_eq!(answer(80).await, "eighty");
    assert_eq!(answer(81).await, "ten");
    let lines = log_lines(&proxy, "restored", 2).await.unwrap();
    assert!(lines[1].starts_with("local=10.9.9.9:81|"), "{lines:?}");
    assert_eq!(ask(([127, 0, 0, 1], PORT).into(), b"").await.unwrap().0, "rest");
    assert_eq!(ask(([127, 0, 0, 1], 15002).into(), b"").await.unwrap().0, "rest");
    stop(proxy).await;
}

#[tokio::test]
#[ignore = "run by in_a_namespace"]
async fn inside_a_transparent_listener_sees_both_ends_as_they_are() {
    let chains =
        chain("eighty", "{destination_port: 80}", &says("eighty")) + &chain("rest", "{}", &says("rest"));
    let of = |name: &str, port: u16, fields: &str| {
        let fields =
            format!("address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}\n{fields}");
        listener_at(name, &fields, &chains)
    };
    let original = format!(
        "transparent: true\nlistener_filters:\n{}",
        filter("listener.original_dst", "OriginalDst", "")
    );
    let proxy = start(&[of("open", PORT, &original), of("closed", 15002, "")], &[], "", &[]).await.unwrap();
    for (count, (port, chain)) in [(80, "eighty"), (81, "rest")].into_iter().enumerate() {
        let mut client = Client::connect(([10, 7, 7, 7], port).into()).await.unwrap();
        let own = client.local_addr().unwrap().to_string();
        assert_eq!(String::from_utf8_lossy(&client.rest(SOON).await.0), chain);
        let local = format!("10.7.7.7:{port}");
        expect_log(&proxy, "open", count + 1, &[("local", local.as_str()), ("remote", own.as_str())])
            .await
            .unwrap();
    }
    // The kernel gives such a connection to a socket with IP_TRANSPARENT only.
    assert!(Client::connect(([10, 7, 7, 8], 80).into()).await.is_err(), "a listener that is not transparent");
    stop(proxy).await;
}

#[tokio::test]
#[ignore = "run by in_a_namespace"]
async fn inside_a_transparent_connection_goes_to_the_listener_of_its_destination() {
    let listeners = [
        at("catch_all", "0.0.0.0", PORT, "transparent: true\nuse_original_dst: true"),
        at("exact", "10.7.7.7", 80, "bind_to_port: false"),
        // an address of nobody can be bound
        at("foreign", "10.7.7.9", 9000, "transparent: true"),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    for (port, expected) in [(80, "exact"), (81, "catch_all")] {
        assert_eq!(ask(([10, 7, 7, 7], port).into(), b"").await.unwrap().0, expected, "port {port}");
    }
    expect_log(&proxy, "exact", 1, &[("local", "10.7.7.7:80")]).await.unwrap();
    expect_log(&proxy, "catch_all", 1, &[("local", "10.7.7.7:81")]).await.unwrap();
    stop(proxy).await;
}
