//! Splits of traffic that settings must produce: among the hosts of a cluster, and among weighted clusters.

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, indent, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

use super::{fetch, start};

/// A cluster `c` of two hosts with these weights, balanced by `policy`.
fn pair(hosts: &[Upstream; 2], weights: [u32; 2], policy: &str) -> (&'static str, String) {
    let mut yaml = "- name: c\n  type: STATIC\n  connect_timeout: 1s\n".to_owned();
    yaml.push_str(&indent(policy, 2));
    yaml.push_str("  load_assignment:\n    cluster_name: c\n    endpoints:\n    - lb_endpoints:\n");
    for (host, weight) in hosts.iter().zip(weights) {
        let port = host.addr().port();
        yaml.push_str(&format!("      - load_balancing_weight: {weight}\n        endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n"));
    }
    ("c", yaml)
}

async fn two_hosts() -> Result<[Upstream; 2]> {
    Ok([Upstream::start().await?, Upstream::start().await?])
}

/// Requests that `host` answers only when their bodies are complete, which they are not: `count` of them, each on a
/// connection of its own. Those that another host gets are completed at once.
async fn occupy(proxy: &Proxy, hosts: &[Upstream; 2], host: usize, count: usize) -> Result<Vec<Client>> {
    let mut held = Vec::new();
    for _ in 0..100 {
        if held.len() == count {
            return Ok(held);
        }
        let seen = |index: usize| hosts[index].received().len();
        let before = [seen(0), seen(1)];
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client.send(b"POST /c HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await?;
        let at = eventually("the request at a host", SOON, async || {
            (0..2).find(|index| seen(*index) > before[*index])
        })
        .await?;
        if at == host {
            held.push(client);
        } else {
            finish(client).await?;
        }
    }
    anyhow::bail!("{} of {count} requests reached the host", held.len())
}

async fn finish(mut client: Client) -> Result<()> {
    client.send(b"body").await?;
    ensure!(client.response("POST", SOON).await?.head.status()? == 200);
    Ok(())
}

/// How many of this many requests, one after the other, each host gets.
async fn shares(proxy: &Proxy, hosts: &[Upstream; 2], requests: usize) -> Result<[usize; 2]> {
    let before = [hosts[0].received().len(), hosts[1].received().len()];
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for _ in 0..requests {
        ensure!(fetch(&mut client, "/c").await?.head.status()? == 200);
    }
    let shares = [hosts[0].received().len() - before[0], hosts[1].received().len() - before[1]];
    ensure!(shares[0] + shares[1] == requests, "{shares:?}");
    Ok(shares)
}

/// With so many choices among two hosts, one that has a request in flight is taken as good as never; with two choices a
/// quarter of the time.
#[tokio::test]
async fn more_choices_find_the_idle_host() -> Result<()> {
    let old = |choices: u32| {
        format!("lb_policy: LEAST_REQUEST\nleast_request_lb_config: {{choice_count: {choices}}}\n")
    };
    let typed = |choices: u32| {
        format!(
            "load_balancing_policy:\n  policies:\n  - typed_extension_config:\n      name: l\n      typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, choice_count: {choices}}}\n"
        )
    };
    for (policy, few) in [(old(64), false), (typed(64), false), (old(2), true), (typed(2), true)] {
        let hosts = two_hosts().await?;
        let proxy = start(&[pair(&hosts, [1, 1], &policy)], "").await?;
        for busy in [0, 1] {
            let held = occupy(&proxy, &hosts, busy, 1).await?;
            let shares = shares(&proxy, &hosts, 200).await?;
            ensure!((shares[busy] > 0) == few, "{policy}: host {busy} is busy, {shares:?}");
            ensure!(shares[busy] < 100, "{policy}: host {busy} is busy, {shares:?}");
            for client in held {
                finish(client).await?;
            }
        }
        proxy.stop().await?;
    }
    Ok(())
}

/// A host of weight 3 with five requests in flight weighs 3, 3/6 or 3/36 against one of weight 1.
#[tokio::test]
async fn the_bias_says_how_much_requests_in_flight_count() -> Result<()> {
    for (bias, expected) in [("0", 90), ("1", 40), ("2", 9)] {
        let policy = format!(
            "lb_policy: LEAST_REQUEST\nleast_request_lb_config: {{active_request_bias: {{default_value: {bias}, runtime_key: bias}}}}\n"
        );
        let hosts = two_hosts().await?;
        let proxy = start(&[pair(&hosts, [3, 1], &policy)], "").await?;
        let held = occupy(&proxy, &hosts, 0, 5).await?;
        let shares = shares(&proxy, &hosts, 120).await?;
        ensure!(shares[0].abs_diff(expected) <= 3, "bias {bias}: {shares:?}, expected {expected}");
        for client in held {
            finish(client).await?;
        }
        proxy.stop().await?;
    }
    Ok(())
}

const WEIGHTED: &str = r#"- match: {prefix: /}
  route:
    weighted_clusters:
      runtime_key_prefix: split
      header_name: x-at
      clusters: [{name: a, weight: 100}, {name: b, weight: 0}]
"#;

#[tokio::test]
async fn the_runtime_overrides_the_weights_of_clusters() -> Result<()> {
    let hosts = two_hosts().await?;
    hosts[0].answer(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"));
    hosts[1].answer(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"));
    let [a, b] = ["a", "b"].map(|name| cluster(name, name, ""));
    let clusters =
        [a, b].map(|yaml| fill(&yaml, [("a", port(hosts[0].addr())), ("b", port(hosts[1].addr()))]));
    let rest = "layered_runtime: {layers: [{name: admin, admin_layer: {}}]}\n";
    let listener = HttpListener::new("http", WEIGHTED).yaml();
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener], &clusters, rest)).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    // who answers the request that says to be this far into the weights
    let mut at = async |place: u32| -> Result<String> {
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-at: {place}\r\n\r\n").as_bytes()).await?;
        Ok(String::from_utf8(client.response("GET", SOON).await?.body)?)
    };
    for (change, of_a, of_b) in [
        ("", 100, 0),
        ("split.a=3&split.b=5", 3, 5),
        ("split.a=0", 0, 5),
        ("split.a=&split.b=50", 100, 50),
        ("split.b=", 100, 0),
    ] {
        if !change.is_empty() {
            let answer = proxy.admin().request("POST", &format!("/runtime_modify?{change}")).await?;
            ensure!(answer.status == 200, "{change}");
        }
        // (a worker learns of a change a moment later)
        let total = of_a + of_b;
        let expected: String = "a".repeat(of_a) + &"b".repeat(of_b) + if of_a > 0 { "a" } else { "b" };
        let mut seen = String::new();
        for _ in 0..50 {
            seen.clear();
            for place in 0..=u32::try_from(total)? {
                seen.push_str(&at(place).await?);
            }
            if seen == expected {
                break;
            }
        }
        ensure!(seen == expected, "{change}: {seen}");
    }
    proxy.stop().await.context("stop")
}
