//! What the runtime says of retries, panic and zones while the proxy runs, and until when a host wants to be left alone.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::differential::expect_same;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

const ROUTES: &str = "- match: {prefix: /usual/}
  route: {cluster: bad, retry_policy: {retry_on: 5xx, num_retries: 1}}
- match: {prefix: /quick/}
  route: {cluster: bad, retry_policy: {retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}}}
- match: {prefix: /reset/}
  route: {cluster: resets, retry_policy: {retry_on: 5xx, num_retries: 1, rate_limited_retry_back_off: {reset_headers: [{name: x-reset, format: UNIX_TIMESTAMP}], max_interval: 9s}}}
- match: {prefix: /panic/}
  route: {cluster: panic}
- match: {prefix: /zones/}
  route: {cluster: zones}
- match: {prefix: /forced/}
  route: {cluster: forced}
";
const HEALTHY: &str = "";
const ILL: &str = ", health_status: UNHEALTHY";
/// How many requests pause side by side: that all of these random pauses are short is next to impossible.
const PAUSES: usize = 16;
/// What every pause is shorter than, unless it is to be as long as [`LONG_BASE`] says.
const SHORT: Duration = Duration::from_secs(5);
/// Pauses are anything up to so many milliseconds then.
const LONG_BASE: &str = "600000";
const FORCED: &str = "load_balancing_policy: {policies: [{typed_extension_config: {name: r, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin, locality_lb_config: {zone_aware_lb_config: {force_local_zone: {min_size: 5}, min_cluster_size: 1}}}}}]}";

/// A cluster with a file of its own in `dir`.
fn discovered(name: &str, fields: &str, dir: &Path) -> String {
    let path = dir.join(format!("{name}.yaml"));
    format!(
        "- {{name: {name}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {{path_config_source: {{path: {}}}}}}}, {fields}}}\n",
        path.display()
    )
}

/// Delivers localities, by zone, of hosts with these fields.
fn deliver(dir: &Path, name: &str, zones: &[(&str, &[(&Upstream, &str)])]) -> Result<()> {
    let mut text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: {name}\n  endpoints:\n"
    );
    for (zone, hosts) in zones {
        let _ = writeln!(text, "  - locality: {{zone: {zone}}}\n    lb_endpoints:");
        for (host, fields) in *hosts {
            let _ = writeln!(
                text,
                "    - {{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}{fields}}}",
                host.addr().port()
            );
        }
    }
    let path = dir.join(format!("{name}.yaml"));
    std::fs::write(path.with_extension("fresh"), text)?;
    Ok(std::fs::rename(path.with_extension("fresh"), path)?)
}

fn named(who: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{who}", who.len()))
}

fn failed(fields: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 503 X\r\ncontent-length: 0\r\n{fields}\r\n"))
}

async fn rule(proxy: &Proxy, changes: &str) -> Result<()> {
    let answer = proxy.admin().request("POST", &format!("/runtime_modify?{changes}")).await?;
    ensure!(answer.status == 200, "{}", answer.body);
    Ok(())
}

async fn client(proxy: &Proxy, path: &str) -> Result<Client> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
    Ok(client)
}

/// How long the longest of the random pauses is.
async fn longest_pause(proxy: &Proxy, path: &str) -> Result<&'static str> {
    let mut clients = Vec::new();
    for _ in 0..PAUSES {
        clients.push(client(proxy, path).await?);
    }
    let all = async {
        for client in &mut clients {
            ensure!(client.response("GET", SOON).await?.head.status()? == 503);
        }
        Ok(())
    };
    match tokio::time::timeout(SHORT, all).await {
        Ok(answered) => answered.map(|()| "short"),
        Err(_) => Ok("long"),
    }
}

async fn retries(proxy: &Proxy, seen: &mut Vec<String>) -> Result<()> {
    for share in ["0", "100", "", "abc"] {
        rule(proxy, &format!("upstream.use_retry={share}")).await?;
        let before = proxy.admin().stat("cluster.bad.upstream_rq_retry").await?;
        client(proxy, "/quick/").await?.response("GET", SOON).await?;
        let stats = "^cluster\\.bad\\.(upstream_rq_retry_.*|circuit_breakers.default.rq_retry_open)$";
        let stats = proxy.admin().stats(stats).await?;
        let retried = proxy.admin().stat("cluster.bad.upstream_rq_retry").await? - before;
        seen.push(format!("use_retry {share}: {retried} {stats:?}"));
    }
    rule(proxy, "upstream.use_retry=").await?;
    for base in [LONG_BASE, ""] {
        rule(proxy, &format!("upstream.base_retry_backoff_ms={base}")).await?;
        for path in ["/usual/", "/quick/"] {
            let pause = longest_pause(proxy, path).await?;
            seen.push(format!("base_retry_backoff_ms {base}: {path} {pause}"));
        }
    }
    Ok(())
}

/// What a header says, given the time in seconds.
type Says = fn(u64) -> String;

/// A host says until when it wants to be left alone: seconds from now, or a text.
async fn resets(proxy: &Proxy, host: &Upstream, seen: &mut Vec<String>) -> Result<()> {
    let says: [(&str, Says); 7] = [
        // (Of the six seconds five may be left, and up to half of them come on top.)
        ("soon", |now| (now + 6).to_string()),
        ("long ago", |now| (now - 100).to_string()),
        ("too late", |now| (now + 1000).to_string()),
        ("seconds", |_| "2".to_owned()),
        ("no number", |_| "soon".to_owned()),
        ("signed", |now| format!("+{}", now + 6)),
        ("with a fraction", |now| format!("{}.5", now + 6)),
    ];
    for (what, value) in says {
        let value = value(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        host.script([failed(&format!("x-reset: {value}\r\n")), named("ok")]);
        let begun = Instant::now();
        let status = client(proxy, "/reset/").await?.response("GET", SOON).await?.head.status()?;
        let pause = if begun.elapsed() > Duration::from_secs(3) { "long" } else { "short" };
        let stats = proxy.admin().stats("^cluster\\.resets\\.upstream_rq_retry_backoff").await?;
        seen.push(format!("reset {what}: {status} {pause} {stats:?}"));
    }
    Ok(())
}

/// Who answers requests, and how often.
async fn answers(proxy: &Proxy, path: &str, stats: &str) -> Result<String> {
    let mut who = std::collections::BTreeMap::<String, usize>::new();
    let before = proxy.admin().stats(stats).await?;
    for _ in 0..12 {
        let response = client(proxy, path).await?.response("GET", SOON).await?;
        *who.entry(String::from_utf8_lossy(&response.body).into_owned()).or_default() += 1;
    }
    let after = proxy.admin().stats(stats).await?;
    let moved = after.iter().map(|(name, value)| (name, value - before.get(name).unwrap_or(&0)));
    let moved: Vec<_> = moved.filter(|(_, by)| *by != 0).collect();
    Ok(format!("{who:?} {moved:?}"))
}

async fn updated(proxy: &Proxy, cluster: &str, times: i64) -> Result<()> {
    let name = format!("cluster.{cluster}.update_success");
    let reached = async || (proxy.admin().stat(&name).await.ok()? == times).then_some(());
    eventually(&format!("{name} of {times}"), SOON, reached).await
}

async fn observe(binary: &Binary) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let (bad, host) = (Upstream::start().await?, Upstream::start().await?);
    bad.answer(failed(""));
    let mut hosts = Vec::new();
    for who in ["a1", "a2", "b1", "b2"] {
        let host = Upstream::start().await?;
        host.answer(named(who));
        hosts.push(host);
    }
    let [a1, a2, b1, b2] = [&hosts[0], &hosts[1], &hosts[2], &hosts[3]];
    let plain = |name: &str, host: &Upstream, fields: &str| {
        let port = host.addr().port();
        format!(
            "- {{name: {name}, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: [{{locality: {{zone: a}}, lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}{fields}}}\n"
        )
    };
    let local = format!(
        "- {{name: local, connect_timeout: 1s, load_assignment: {{cluster_name: local, endpoints: [{{locality: {{zone: a}}, lb_endpoints: [{}]}}, {{locality: {{zone: b}}, lb_endpoints: [{}]}}]}}}}\n",
        one(a1),
        one(b1)
    );
    let clusters = [
        plain("bad", &bad, ", circuit_breakers: {thresholds: [{max_retries: 100}]}"),
        plain("resets", &host, ""),
        local,
        discovered("panic", "", dir.path()),
        discovered("zones", "", dir.path()),
        discovered("forced", FORCED, dir.path()),
    ];
    let panic_hosts =
        |weight: &'static str| -> [(&Upstream, &str); 3] { [(a1, weight), (a2, ILL), (b1, ILL)] };
    let zones: &[(&str, &[(&Upstream, &str)])] =
        &[("a", &[(a1, HEALTHY), (a2, HEALTHY)]), ("b", &[(b1, HEALTHY), (b2, HEALTHY)])];
    deliver(dir.path(), "panic", &[("a", &panic_hosts(HEALTHY))])?;
    deliver(dir.path(), "zones", zones)?;
    deliver(dir.path(), "forced", zones)?;
    let rest = "node: {id: id, cluster: cluster, locality: {zone: a}}\ncluster_manager: {local_cluster_name: local}\nlayered_runtime: {layers: [{name: s, static_layer: {upstream.zone_routing.min_cluster_size: 1}}, {name: a, admin_layer: {}}]}\n";
    let text = bootstrap(&[HttpListener::new("http", ROUTES).yaml()], &clusters, rest);
    let proxy = Proxy::start(binary, &text).await?;
    let mut seen = Vec::new();
    retries(&proxy, &mut seen).await.context("retries")?;
    resets(&proxy, &host, &mut seen).await.context("resets")?;

    let panics = "^cluster\\.panic\\.lb_healthy_panic$";
    seen.push(format!("panic: {}", answers(&proxy, "/panic/", panics).await?));
    rule(&proxy, "upstream.healthy_panic_threshold=0").await?;
    seen.push(format!("no panic wanted: {}", answers(&proxy, "/panic/", panics).await?));
    deliver(dir.path(), "panic", &[("a", &panic_hosts(", load_balancing_weight: 2"))])?;
    updated(&proxy, "panic", 2).await?;
    seen.push(format!("no panic: {}", answers(&proxy, "/panic/", panics).await?));
    rule(&proxy, "upstream.healthy_panic_threshold=").await?;

    let routed = "^cluster\\.(zones|forced)\\.lb_zone_.*";
    seen.push(format!("zones: {}", answers(&proxy, "/zones/", routed).await?));
    rule(&proxy, "upstream.zone_routing.enabled=0").await?;
    seen.push(format!("no zones: {}", answers(&proxy, "/zones/", routed).await?));
    rule(&proxy, "upstream.zone_routing.enabled=&upstream.zone_routing.min_cluster_size=9").await?;
    seen.push(format!("still zones: {}", answers(&proxy, "/zones/", routed).await?));
    let weighted: &[(&str, &[(&Upstream, &str)])] =
        &[("a", &[(a1, HEALTHY), (a2, HEALTHY)]), ("b", &[(b1, HEALTHY)])];
    deliver(dir.path(), "zones", weighted)?;
    updated(&proxy, "zones", 2).await?;
    seen.push(format!(
        "too small: {}",
        answers(&proxy, "/zones/", "^cluster\\.zones\\.lb_zone_routing.*").await?
    ));
    rule(&proxy, "upstream.zone_routing.min_cluster_size=").await?;

    let more: &[(&str, &[(&Upstream, &str)])] =
        &[("a", &[(a1, HEALTHY)]), ("b", &[(b1, HEALTHY), (b2, HEALTHY), (a2, HEALTHY)])];
    deliver(dir.path(), "forced", more)?;
    updated(&proxy, "forced", 2).await?;
    let directly = "^cluster\\.forced\\.lb_zone_routing_all_directly$";
    let all_directly = async || -> Result<i64> {
        answers(&proxy, "/forced/", directly).await?;
        proxy.admin().stat("cluster.forced.lb_zone_routing_all_directly").await
    };
    seen.push(format!("not forced: {}", all_directly().await?));
    rule(&proxy, "upstream.zone_routing.force_local_zone.min_size=1").await?;
    deliver(
        dir.path(),
        "forced",
        &[
            ("a", &[(a1, ", load_balancing_weight: 3")]),
            ("b", &[(b1, HEALTHY), (b2, HEALTHY), (a2, HEALTHY)]),
        ],
    )?;
    updated(&proxy, "forced", 3).await?;
    seen.push(format!("forced: {}", all_directly().await?));
    proxy.stop().await?;
    Ok(seen)
}

fn one(host: &Upstream) -> String {
    format!(
        "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
        host.addr().port()
    )
}

/// What changes with the runtime, and what a host says of itself.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(async { observe(reference).await.context("Envoy") }, async {
        observe(subject).await.context("here")
    })?;
    expect_same(&wanted, &found)
}
