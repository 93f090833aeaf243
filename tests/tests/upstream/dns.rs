//! STRICT_DNS and LOGICAL_DNS against a server of our own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent};
use integration::dns::{A, AAAA, Answer, DnsServer, NO_SUCH_NAME, REFUSED, SERVER_FAILURE};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

use super::{expect_stat, fetch, get, hosts, start, stat_becomes};

/// A cluster named and resolved as `name`, at that port, with further fields.
fn cluster(server: &DnsServer, kind: &str, name: &str, port: u16, extra: &str) -> (String, String) {
    let short = name.split('.').next().unwrap_or(name);
    let yaml = format!(
        "- name: {short}\n  type: {kind}\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: {short}\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: {name}, port_value: {port}}}}}}}\n{}{}",
        indent(&server.resolver(), 2),
        indent(extra, 2)
    );
    (short.to_owned(), yaml)
}

async fn start_all(clusters: &[(String, String)]) -> Result<Proxy> {
    let clusters: Vec<(&str, String)> =
        clusters.iter().map(|(name, yaml)| (name.as_str(), yaml.clone())).collect();
    start(&clusters, "").await
}

const FAST: &str = "dns_lookup_family: V4_ONLY\ndns_refresh_rate: 0.02s";

async fn two_upstreams() -> Result<(Upstream, Upstream)> {
    let mut both = Upstream::start_on_one_port(&["127.0.0.1".parse()?, "127.0.0.2".parse()?]).await?;
    let second = both.pop().context("second")?;
    Ok((both.pop().context("first")?, second))
}

fn body(text: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
}

#[tokio::test]
async fn a_host_that_leaves_finishes_what_it_has() -> Result<()> {
    let (first, second) = two_upstreams().await?;
    second.answer(body("second"));
    let server = DnsServer::start().await?;
    server.addresses("a.test", &["127.0.0.1"])?;
    let proxy = start_all(&[cluster(&server, "STRICT_DNS", "a.test", first.addr().port(), FAST)]).await?;
    // an idle connection, and one with a response half sent, which waits for the end of the request
    first.script([
        Reply::early([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
            Step::ReadBody,
            Step::Send(b"world".to_vec()),
        ]),
        body("first"),
    ]);
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await?;
    eventually("the first request", SOON, async || (first.received().len() == 1).then_some(())).await?;
    ensure!(get(&proxy, "/a").await?.body == b"first");
    ensure!(first.open() == 2);

    server.addresses("a.test", &["127.0.0.2"])?;
    eventually("the new host", SOON, async || {
        get(&proxy, "/a").await.is_ok_and(|response| response.body == b"second").then_some(())
    })
    .await?;
    eventually("the idle connection to close", SOON, async || (first.open() == 1).then_some(())).await?;
    client.send(b"data").await?;
    let response = client.response("POST", SOON).await?;
    ensure!(response.complete && response.body == b"helloworld", "{response:?}");
    eventually("the busy connection to close", SOON, async || (first.open() == 0).then_some(())).await?;
    ensure!(hosts(&proxy, "a").await? == [format!("127.0.0.2:{}", first.addr().port())]);
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;
    ensure!(proxy.admin().stat("cluster.a.membership_change").await? >= 2);
    proxy.stop().await
}

#[tokio::test]
async fn bad_answers_keep_the_last_good_one() -> Result<()> {
    let server = DnsServer::start().await?;
    server.addresses("a.test", &["127.0.0.1"])?;
    let proxy = start_all(&[cluster(&server, "STRICT_DNS", "a.test", 80, FAST)]).await?;
    for bad in [Answer::Code(SERVER_FAILURE), Answer::Code(REFUSED), Answer::Silence] {
        let before = proxy.admin().stat("cluster.a.update_failure").await?;
        server.set("a.test", bad.clone());
        eventually("a failure", SOON, async || {
            (proxy.admin().stat("cluster.a.update_failure").await.ok()? > before).then_some(())
        })
        .await
        .with_context(|| format!("{bad:?}"))?;
        ensure!(hosts(&proxy, "a").await? == ["127.0.0.1:80"], "{bad:?}");
        server.addresses("a.test", &["127.0.0.1"])?;
        server.asked_again("a.test", 1, SOON).await?;
    }
    // That there is no such name is an answer: the cluster is empty then.
    server.set("a.test", Answer::Code(NO_SUCH_NAME));
    stat_becomes(&proxy, "cluster.a.membership_total", 0).await?;
    ensure!(get(&proxy, "/a").await?.head.status()? == 503);
    // An answer without addresses is one, too.
    server.addresses("a.test", &["127.0.0.3"])?;
    stat_becomes(&proxy, "cluster.a.membership_total", 1).await?;
    server.addresses("a.test", &[])?;
    stat_becomes(&proxy, "cluster.a.membership_total", 0).await?;
    let stats = proxy.admin().stats("^cluster\\.a\\.update_").await?;
    let of = |name: &str| stats.get(&format!("cluster.a.update_{name}")).copied().unwrap_or(0);
    ensure!(of("attempt") >= of("success") + of("failure"), "{stats:?}");
    ensure!(of("success") > 0 && of("failure") >= 3 && of("no_rebuild") > 0, "{stats:?}");
    proxy.stop().await
}

#[tokio::test]
async fn families_are_asked_for_as_configured() -> Result<()> {
    let server = DnsServer::start().await?;
    let mut clusters = Vec::new();
    for family in ["V4_ONLY", "V6_ONLY", "AUTO", "V4_PREFERRED", "ALL"] {
        for (prefix, addresses) in
            [("both", &["127.0.0.1", "::1"][..]), ("four", &["127.0.0.1"]), ("six", &["::1"])]
        {
            let name = format!("{prefix}-{}.test", family.to_lowercase().replace('_', "-"));
            server.addresses(&name, addresses)?;
            clusters.push(cluster(&server, "STRICT_DNS", &name, 80, &format!("dns_lookup_family: {family}")));
        }
    }
    let proxy = start_all(&clusters).await?;
    let (four, six) = ("127.0.0.1:80", "[::1]:80");
    let wanted: [(&str, [&[&str]; 3]); 5] = [
        ("v4-only", [&[four], &[four], &[]]),
        ("v6-only", [&[six], &[], &[six]]),
        ("auto", [&[six], &[four], &[six]]),
        ("v4-preferred", [&[four], &[four], &[six]]),
        ("all", [&[four, six], &[four], &[six]]),
    ];
    for (family, wanted) in wanted {
        for (prefix, wanted) in ["both", "four", "six"].into_iter().zip(wanted) {
            let name = format!("{prefix}-{family}");
            ensure!(hosts(&proxy, &name).await? == wanted, "{name}: {:?}", hosts(&proxy, &name).await?);
        }
    }
    let kinds =
        |name: &str| -> Vec<u16> { server.asked(name).iter().map(|question| question.kind).collect() };
    ensure!(!kinds("both-v4-only.test").contains(&AAAA) && !kinds("both-v6-only.test").contains(&A));
    proxy.stop().await
}

#[tokio::test]
async fn the_time_to_live_says_when_to_ask_again() -> Result<()> {
    let server = DnsServer::start().await?;
    for name in ["ttl.test", "rate.test"] {
        server.set(name, Answer::Addresses(vec!["127.0.0.1".parse()?], 1));
    }
    let typed = |name: &str, respect: bool| {
        let yaml = format!(
            "- name: {name}\n  connect_timeout: 1s\n  cluster_type:\n    name: dns\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster\n      dns_lookup_family: V4_ONLY\n      dns_refresh_rate: 300s\n      dns_min_refresh_rate: 1s\n      respect_dns_ttl: {respect}\n{}  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: {name}.test, port_value: 80}}}}}}\n",
            indent(&server.resolver(), 6)
        );
        (name.to_owned(), yaml)
    };
    let proxy = start_all(&[typed("ttl", true), typed("rate", false)]).await?;
    eventually("the third question", SOON, async || (server.asked("ttl.test").len() >= 3).then_some(()))
        .await?;
    let asked = server.asked("ttl.test");
    let waited = asked[2].at - asked[1].at;
    ensure!(waited >= Duration::from_millis(900), "{waited:?}");
    ensure!(server.asked("rate.test").len() == 1, "{:?}", server.asked("rate.test"));
    proxy.stop().await
}

#[tokio::test]
async fn failures_have_a_rate_of_their_own() -> Result<()> {
    let server = DnsServer::start().await?;
    server.set("fast.test", Answer::Code(SERVER_FAILURE));
    server.set("slow.test", Answer::Code(SERVER_FAILURE));
    let fast =
        "dns_refresh_rate: 300s\ndns_failure_refresh_rate: {base_interval: 0.02s, max_interval: 0.05s}";
    let proxy = start_all(&[
        cluster(&server, "STRICT_DNS", "fast.test", 80, &format!("dns_lookup_family: V4_ONLY\n{fast}")),
        cluster(&server, "STRICT_DNS", "slow.test", 80, "dns_lookup_family: V4_ONLY\ndns_refresh_rate: 300s"),
    ])
    .await?;
    server.asked_again("fast.test", 5, SOON).await?;
    ensure!(server.asked("slow.test").len() <= 2, "{:?}", server.asked("slow.test"));
    server.addresses("fast.test", &["127.0.0.1"])?;
    stat_becomes(&proxy, "cluster.fast.membership_total", 1).await?;
    proxy.stop().await
}

#[tokio::test]
async fn a_cluster_may_be_ready_before_its_names_are_resolved() -> Result<()> {
    let server = DnsServer::start().await?;
    server.set("a.test", Answer::Silence);
    let extra = format!("{FAST}\nwait_for_warm_on_init: false");
    let proxy = start_all(&[cluster(&server, "STRICT_DNS", "a.test", 80, &extra)]).await?;
    expect_stat(&proxy, "cluster.a.update_success", 0).await?;
    expect_stat(&proxy, "cluster.a.membership_total", 0).await?;
    server.addresses("a.test", &["127.0.0.1"])?;
    stat_becomes(&proxy, "cluster.a.membership_total", 1).await?;
    proxy.stop().await
}

#[tokio::test]
async fn a_logical_host_is_another_at_another_address() -> Result<()> {
    let (first, second) = two_upstreams().await?;
    first.answer(body("first"));
    second.answer(body("second"));
    let server = DnsServer::start().await?;
    server.addresses("a.test", &["127.0.0.1"])?;
    let proxy = start_all(&[cluster(&server, "LOGICAL_DNS", "a.test", first.addr().port(), FAST)]).await?;
    let mut kept = Client::connect(proxy.listener("http")?).await?;
    ensure!(fetch(&mut kept, "/a").await?.body == b"first");
    // A name without addresses is a failure here: the last one stays, and so does the connection.
    server.set("a.test", Answer::Code(NO_SUCH_NAME));
    eventually("a failure", SOON, async || {
        (proxy.admin().stat("cluster.a.update_failure").await.ok()? > 0).then_some(())
    })
    .await?;
    ensure!(fetch(&mut kept, "/a").await?.body == b"first");
    ensure!(first.opened() == 1);
    server.addresses("a.test", &["127.0.0.2"])?;
    eventually("the old connection to close", SOON, async || (first.open() == 0).then_some(())).await?;
    ensure!(fetch(&mut kept, "/a").await?.body == b"second");
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;
    expect_stat(&proxy, "cluster.a.membership_change", 2).await?;
    proxy.stop().await
}

#[tokio::test]
async fn answers_that_are_long_or_forged() -> Result<()> {
    let server = DnsServer::start().await?;
    let many = (0..1000u16).map(|n| std::net::Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8).into());
    server.set("many.test", Answer::Addresses(many.collect(), 60));
    server.set("forged.test", Answer::Forged("127.6.6.6".parse()?, vec!["127.0.0.1".parse()?]));
    let family = "dns_lookup_family: V4_ONLY";
    let proxy = start_all(&[
        cluster(&server, "STRICT_DNS", "many.test", 80, family),
        cluster(&server, "STRICT_DNS", "forged.test", 80, family),
    ])
    .await?;
    expect_stat(&proxy, "cluster.many.membership_total", 1000).await?;
    ensure!(
        server.asked("many.test").iter().any(|question| question.tcp),
        "a cut answer is asked for over TCP"
    );
    ensure!(hosts(&proxy, "forged").await? == ["127.0.0.1:80"], "{:?}", hosts(&proxy, "forged").await?);
    proxy.stop().await
}

#[tokio::test]
async fn the_bootstrap_names_the_resolver_of_clusters_that_name_none() -> Result<()> {
    let server = DnsServer::start().await?;
    server.addresses("a.test", &["127.0.0.1"])?;
    let (name, own) = cluster(&server, "STRICT_DNS", "a.test", 80, "dns_lookup_family: V4_ONLY");
    let yaml = own.replace(&indent(&server.resolver(), 2), "");
    ensure!(yaml.len() < own.len());
    let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {name}}}");
    let listener = HttpListener::new("http", &routes).yaml();
    let proxy =
        Proxy::start(&Binary::subject()?, &bootstrap(&[listener], &[yaml], &server.resolver())).await?;
    ensure!(hosts(&proxy, "a").await? == ["127.0.0.1:80"]);
    proxy.stop().await
}
