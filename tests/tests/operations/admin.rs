//! The admin interface: what its endpoints take, and what the selections of the big dumps select.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use serde_json::{Value, json};

use crate::{ask, get, post, start, two_listeners};

async fn status(proxy: &Proxy, method: &str, path: &str) -> Result<(u16, String)> {
    let answer = proxy.admin().request(method, path).await?;
    Ok((answer.status, answer.body))
}

/// Every path of `/help`, and whether it asks for POST.
async fn endpoints(proxy: &Proxy) -> Result<Vec<(String, bool)>> {
    let help = proxy.admin().get("/help").await?;
    let lines = help.lines().filter_map(|line| line.strip_prefix("  /")?.split_once(": "));
    Ok(lines
        .map(|(path, _)| match path.strip_suffix(" (POST)") {
            Some(path) => (format!("/{path}"), true),
            None => (format!("/{path}"), false),
        })
        .collect())
}

#[tokio::test]
async fn the_help_says_what_takes_post_only_and_it_is_so() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    let endpoints = endpoints(&proxy).await?;
    let changing: BTreeSet<&str> =
        endpoints.iter().filter(|(_, changes)| *changes).map(|(path, _)| path.as_str()).collect();
    for path in [
        "/drain_listeners",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/logging",
        "/quitquitquit",
        "/reopen_logs",
        "/reset_counters",
        "/runtime_modify",
    ] {
        ensure!(changing.contains(path), "{path} changes something");
    }
    for (path, changes) in &endpoints {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            if !changes && method != "GET" {
                continue;
            }
            let (status, body) = status(&proxy, method, path).await?;
            match changes {
                true => {
                    let expected = format!("Method {method} not allowed, POST required.");
                    ensure!((status, &body) == (405, &expected), "{method} {path}: {status} {body}");
                }
                false => ensure!(status != 405 && status != 404, "{method} {path}: {status} {body}"),
            }
        }
    }
    // what only reads takes any method
    for method in ["POST", "PUT"] {
        ensure!(status(&proxy, method, "/ready").await? == (200, "LIVE\n".to_owned()), "{method} /ready");
    }
    for method in ["GET", "POST"] {
        let (status, body) = status(&proxy, method, "/nowhere").await?;
        ensure!(status == 404 && body.starts_with("invalid path. admin commands are:\n"), "{method}: {body}");
    }
    assert_eq!(ask(&proxy, "in", "/").await?, (200, false), "nothing happened");
    Ok(())
}

/// The names of what a selection of the statistics shows as text.
async fn names(proxy: &Proxy, query: &str) -> Result<BTreeSet<String>> {
    let text = proxy.admin().get(&format!("/stats?{query}")).await?;
    Ok(text.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect())
}

/// A proxy that answered one request, of whose histograms something is shown.
async fn served_one() -> Result<(Proxy, Upstream)> {
    let listener = HttpListener::to_up("in").yaml();
    let (proxy, upstream) = start(&[listener], "stats_flush_interval: 0.1s\n", &[]).await?;
    ask(&proxy, "in", "/").await?;
    eventually("a flush of the histograms", SOON, async || {
        let text = proxy.admin().get("/stats?filter=cluster.up.upstream_rq_time").await.ok()?;
        text.contains("P0(").then_some(())
    })
    .await?;
    Ok((proxy, upstream))
}

#[tokio::test]
async fn statistics_are_selected_by_name_kind_and_use() -> Result<()> {
    let (proxy, _up) = served_one().await?;
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let part = "filter=^cluster.up.upstream_(cx_length_ms|rq_time|rq_total|rq_active|rq_timeout)$";
    let [total, active, timeout] =
        ["rq_total", "rq_active", "rq_timeout"].map(|n| format!("cluster.up.upstream_{n}"));
    let [time, length] = ["rq_time", "cx_length_ms"].map(|n| format!("cluster.up.upstream_{n}"));
    for (query, expected) in [
        (part.to_owned(), vec![&*total, &active, &timeout, &time, &length]),
        (format!("{part}&type=Counters"), vec![&*total, &timeout]),
        (format!("{part}&type=Gauges"), vec![&*active]),
        (format!("{part}&type=Histograms"), vec![&*time, &length]),
        (format!("{part}&type=TextReadouts"), vec![]),
        (format!("{part}&type=All"), vec![&*total, &active, &timeout, &time, &length]),
        // a gauge that went up and down was used; nothing timed out, and the connection stands
        (format!("{part}&usedonly"), vec![&*total, &active, &time]),
        (format!("{part}&hidden=only"), vec![]),
        (format!("{part}&hidden=include"), vec![&*total, &active, &timeout, &time, &length]),
        (format!("{part}&hidden=exclude&type=Gauges"), vec![&*active]),
    ] {
        assert_eq!(names(&proxy, &query).await?, set(&expected), "{query}");
    }
    let (all, some, others) = (
        names(&proxy, "type=Counters").await?,
        names(&proxy, "type=Counters&filter=upstream").await?,
        names(&proxy, "type=Counters&filter=upstream&invert_filter").await?,
    );
    assert!(!some.is_empty() && !others.is_empty() && some.is_disjoint(&others));
    assert_eq!(some.union(&others).cloned().collect::<BTreeSet<_>>(), all);

    for (query, said) in [
        ("type=Nothing", "invalid &type= param"),
        ("hidden=maybe", "usage: /stats?hidden=(include|only|exclude)"),
        ("format=xml", "usage: /stats?format=(html|active-html|json|prometheus|text)"),
        ("histogram_buckets=some", "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary"),
        ("format=prometheus&histogram_buckets=detailed", "unsupported prometheus histogram bucket mode"),
        ("filter=(", ""),
    ] {
        let (status, body) = status(&proxy, "GET", &format!("/stats?{query}")).await?;
        ensure!(status == 400 && body.starts_with(said), "{query}: {status} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn histograms_are_shown_as_they_are_asked_for() -> Result<()> {
    let (proxy, _up) = served_one().await?;
    let admin = proxy.admin();
    let shown = async |path: &str, query: &str| {
        admin.get(&format!("{path}?filter=^cluster.up.upstream_rq_time$&{query}")).await
    };
    let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let buckets = |line: &str| -> Vec<u64> {
        let counts = line.split(' ').filter_map(|one| one.strip_suffix(')')?.rsplit_once(','));
        counts.filter_map(|(_, count)| count.parse().ok()).collect()
    };
    let summary = line(&shown("/stats", "histogram_buckets=summary").await?);
    ensure!(summary.starts_with("cluster.up.upstream_rq_time: P0("), "{summary}");
    ensure!(summary == line(&shown("/stats", "").await?), "{summary}");
    let cumulative = line(&shown("/stats", "histogram_buckets=cumulative").await?);
    ensure!(cumulative.starts_with("cluster.up.upstream_rq_time: B0.5("), "{cumulative}");
    let counts = buckets(&cumulative);
    ensure!(counts.len() == 19 && counts.is_sorted() && counts.last() == Some(&1), "{cumulative}");
    let disjoint = line(&shown("/stats", "histogram_buckets=disjoint").await?);
    ensure!(disjoint.starts_with("cluster.up.upstream_rq_time: B0.5("), "{disjoint}");
    ensure!(buckets(&disjoint).iter().sum::<u64>() == 1, "{disjoint}");
    let detailed = shown("/stats", "histogram_buckets=detailed").await?;
    ensure!(detailed.contains("totals="), "{detailed}");

    let json = async |query: &str| -> Result<Value> {
        let text = shown("/stats", &format!("format=json&{query}")).await?;
        Ok(serde_json::from_str::<Value>(&text)?["stats"][0]["histograms"].clone())
    };
    let summary = json("").await?;
    ensure!(summary["supported_quantiles"].as_array().is_some_and(|all| all.len() == 10), "{summary}");
    ensure!(summary["computed_quantiles"][0]["name"] == "cluster.up.upstream_rq_time", "{summary}");
    for mode in ["cumulative", "disjoint"] {
        let shown = json(&format!("histogram_buckets={mode}")).await?;
        let buckets = shown[0]["buckets"].as_array().with_context(|| shown.to_string())?;
        ensure!(buckets.len() == 19 && shown[0]["name"] == "cluster.up.upstream_rq_time", "{shown}");
    }
    let detailed = json("histogram_buckets=detailed").await?;
    ensure!(detailed["details"][0]["totals"][0]["count"] == 1, "{detailed}");

    let prometheus = shown("/stats/prometheus", "").await?;
    let total = "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"up\",le=\"+Inf\"} 1";
    ensure!(prometheus.lines().any(|line| line == total), "{prometheus}");
    let quantiles = shown("/stats/prometheus", "histogram_buckets=summary").await?;
    ensure!(quantiles.contains("# TYPE envoy_cluster_upstream_rq_time summary"), "{quantiles}");
    ensure!(
        quantiles.contains("envoy_cluster_upstream_rq_time{envoy_cluster_name=\"up\",quantile=\"0.99\"}"),
        "{quantiles}"
    );
    Ok(())
}

#[tokio::test]
async fn the_dump_shows_the_part_that_is_asked_for() -> Result<()> {
    let upstream = Upstream::start().await?;
    let clusters = ["first", "second"].map(|name| cluster(name, "up", ""));
    let listener = HttpListener::new("in", "- match: {prefix: /}\n  route: {cluster: first}").yaml();
    let rest = "node: {id: me, cluster: us}\n";
    let yaml = fill(&bootstrap(&[listener], &clusters, rest), [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    let admin = proxy.admin();
    let named = |name: &str| {
        json!({"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": name}})
    };
    let both = json!({"configs": [named("first"), named("second")]});
    ensure!(admin.config_dump("?resource=static_clusters&mask=cluster.name").await? == both);
    let second = json!({"configs": [named("second")]});
    // the whole name has to match
    ensure!(
        admin.config_dump("?resource=static_clusters&mask=cluster.name&name_regex=sec.*").await? == second
    );
    let none = admin.config_dump("?resource=static_clusters&name_regex=sec").await?;
    ensure!(none == json!({}), "{none}");

    let kinds = async |query: &str| -> Result<Vec<String>> {
        let dump = admin.config_dump(query).await?;
        let configs = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kinds = configs.iter().filter_map(|one| one["@type"].as_str()?.rsplit('.').next());
        Ok(kinds.map(str::to_owned).collect())
    };
    let all = kinds("").await?;
    ensure!(all.starts_with(&["BootstrapConfigDump".to_owned(), "ClustersConfigDump".to_owned()]), "{all:?}");
    ensure!(!all.contains(&"EndpointsConfigDump".to_owned()), "{all:?}");
    let with_endpoints = kinds("?include_eds").await?;
    ensure!(with_endpoints.contains(&"EndpointsConfigDump".to_owned()), "{with_endpoints:?}");
    let endpoints = admin.config_dump("?resource=static_endpoint_configs&include_eds").await?;
    ensure!(endpoints["configs"].as_array().is_some_and(|all| all.len() == 2), "{endpoints}");

    let bootstrap = admin.config_dump("?mask=bootstrap.node").await?;
    let configs = bootstrap["configs"].as_array().map(Vec::len);
    let shown = &bootstrap["configs"][0]["bootstrap"];
    ensure!(configs == Some(1) && shown["node"]["id"] == "me", "{bootstrap}");
    ensure!(shown.as_object().is_some_and(|fields| fields.len() == 1), "{bootstrap}");

    for (query, code, said) in [
        ("?resource=nothing", 404, "nothing not found in config dump"),
        ("?mask=nothing", 400, "FieldMask nothing could not be successfully applied to any configs."),
        ("?resource=bootstrap", 400, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only"),
        ("?name_regex=(", 400, "INVALID_ARGUMENT: Error while parsing name_regex from (:"),
        ("?resource=static_clusters&mask=nothing", 400, "FieldMask "),
    ] {
        let (status, body) = status(&proxy, "GET", &format!("/config_dump{query}")).await?;
        ensure!(status == code && body.starts_with(said), "{query}: {status} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_waits_in_a_proxy_that_is_ready() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    for query in ["", "?mask=listener", "?mask=nothing"] {
        let text = proxy.admin().get(&format!("/init_dump{query}")).await?;
        ensure!(serde_json::from_str::<Value>(&text)? == json!({}), "{query}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn runtime_values_change_how_requests_are_routed() -> Result<()> {
    let routes = r#"
- match: {prefix: /, runtime_fraction: {runtime_key: routes.canary, default_value: {numerator: 0, denominator: HUNDRED}}}
  direct_response: {status: 201}
- match: {prefix: /}
  route: {cluster: up}
"#;
    let listener = HttpListener::new("in", routes).yaml();
    let rest = "layered_runtime: {layers: [{name: base, static_layer: {fixed: 7}}, {name: admin, admin_layer: {}}]}\n";
    let (proxy, _up) = start(&[listener], rest, &[]).await?;
    let mut client = Client::connect(proxy.listener("in")?).await?;
    // (the workers learn of a change a moment later)
    let mut becomes = async |code: u16| {
        eventually(&format!("answers with {code}"), SOON, async || {
            (get(&mut client, "/").await.ok()?.0 == code).then_some(())
        })
        .await
    };
    becomes(200).await?;
    post(&proxy, "/runtime_modify?routes.canary=100&other=text").await?;
    becomes(201).await?;
    let runtime: Value = serde_json::from_str(&proxy.admin().get("/runtime").await?)?;
    ensure!(runtime["layers"] == json!(["base", "admin"]), "{runtime}");
    let entry = |values: [&str; 2], last: &str| json!({"layer_values": values, "final_value": last});
    ensure!(runtime["entries"]["routes.canary"] == entry(["", "100"], "100"), "{runtime}");
    ensure!(runtime["entries"]["other"] == entry(["", "text"], "text"), "{runtime}");
    ensure!(runtime["entries"]["fixed"] == entry(["7", ""], "7"), "{runtime}");
    ensure!(proxy.admin().stat("runtime.admin_overrides_active").await? == 1);
    ensure!(proxy.admin().stat("runtime.num_keys").await? == 3);

    // as a form, and an empty value takes an override back
    let mut form = Client::connect(proxy.admin().addr()).await?;
    let body = "routes.canary=&fixed=8";
    let head = format!(
        "POST /runtime_modify HTTP/1.1\r\nhost: admin\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    form.send(format!("{head}{body}").as_bytes()).await?;
    ensure!(form.response("POST", SOON).await?.head.status()? == 200);
    becomes(200).await?;
    let runtime: Value = serde_json::from_str(&proxy.admin().get("/runtime").await?)?;
    ensure!(runtime["entries"]["fixed"] == entry(["7", "8"], "8"), "{runtime}");
    ensure!(runtime["entries"]["routes.canary"].is_null(), "{runtime}");

    let (status, body) = status(&proxy, "POST", "/runtime_modify").await?;
    ensure!(status == 400 && body.starts_with("usage: /runtime_modify?key1=value1"), "{status} {body}");
    Ok(())
}

#[tokio::test]
async fn a_runtime_without_an_admin_layer_cannot_be_changed() -> Result<()> {
    let rest = "layered_runtime: {layers: [{name: base, static_layer: {fixed: 7}}]}\n";
    let (proxy, _up) = start(&[HttpListener::to_up("in").yaml()], rest, &[]).await?;
    let (status, body) = status(&proxy, "POST", "/runtime_modify?fixed=8").await?;
    ensure!((status, body.trim_end()) == (503, "No admin layer specified"), "{status} {body}");
    Ok(())
}

#[tokio::test]
async fn levels_of_loggers_change_one_by_one_and_all_at_once() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    let levels = async |query: &str| -> Result<String> {
        let (status, body) = status(&proxy, "POST", &format!("/logging{query}")).await?;
        ensure!(status == 200 && body.starts_with("active loggers:\n"), "{query}: {status} {body}");
        Ok(body)
    };
    let of = |text: &str, level: &str| text.lines().filter(|line| line.ends_with(level)).count();
    let all = of(&levels("").await?, ": info");
    let one = levels("?main=debug").await?;
    ensure!(one.contains("  main: debug\n") && of(&one, ": info") == all - 1, "{one}");
    let two = levels("?paths=main:warning,upstream:trace").await?;
    ensure!(two.contains("  main: warning\n") && two.contains("  upstream: trace\n"), "{two}");
    ensure!(of(&two, ": info") == all - 2, "{two}");
    ensure!(of(&levels("?level=error").await?, ": error") == all);
    for wrong in ["?level=loud", "?nobody=info", "?paths=main:loud", "?main=info&http=info"] {
        let (status, body) = status(&proxy, "POST", &format!("/logging{wrong}")).await?;
        ensure!(status == 400 && body.contains("usage: /logging?<name>=<level>"), "{wrong}: {status} {body}");
    }
    ensure!(of(&levels("").await?, ": error") == all, "nothing changed");
    Ok(())
}

#[tokio::test]
async fn only_paths_that_are_allowed_are_answered() -> Result<()> {
    let listener = HttpListener::to_up("in").yaml();
    let upstream = Upstream::start().await?;
    let yaml = bootstrap(&[listener], &[cluster("up", "up", "")], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    let allowed = "admin: {allow_paths: [{exact: /ready}, {prefix: /listeners}, {prefix: /stats}], ";
    let proxy = Proxy::start(&Binary::subject()?, &yaml.replacen("admin: {", allowed, 1)).await?;
    for (path, expected) in [
        ("/ready", 200),
        ("/stats?filter=nothing", 200),
        ("/stats/prometheus", 200),
        ("/clusters", 403),
        ("/", 403),
    ] {
        let (status, body) = status(&proxy, "GET", path).await?;
        ensure!(status == expected, "{path}: {status} {body}");
        ensure!(status == 200 || body == format!("request to path {path} not allowed"), "{path}: {body}");
    }
    Ok(())
}

#[tokio::test]
async fn statistics_are_left_out_where_a_matcher_says_so() -> Result<()> {
    let of = async |matcher: &str| {
        let rest = format!("stats_config: {{stats_matcher: {{{matcher}}}}}\n");
        let (proxy, _up) = start(&[HttpListener::to_up("in").yaml()], &rest, &[]).await?;
        ensure!(ask(&proxy, "in", "/").await? == (200, false), "traffic does not depend on statistics");
        names(&proxy, "").await
    };
    let all = of("reject_all: false").await?;
    let excluded = of("exclusion_list: {patterns: [{prefix: cluster.}, {suffix: _total}, {safe_regex: {regex: \"http.*\"}}]}").await?;
    let is_left = |name: &String| {
        !name.starts_with("cluster.") && !name.ends_with("_total") && !name.starts_with("http")
    };
    ensure!(!excluded.is_empty() && excluded.iter().all(is_left), "{excluded:?}");
    ensure!(all.iter().any(|name| !is_left(name)) && all.iter().any(is_left));
    let none = of("reject_all: true").await?;
    ensure!(none.is_empty(), "{none:?}");
    Ok(())
}

/// What the address of the admin interface says beyond where it is.
#[tokio::test]
async fn the_admin_address_has_its_mode_and_takes_ipv4() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let (config, pipe) = (dir.path().join("b.yaml"), dir.path().join("admin.sock"));
    std::fs::write(
        &config,
        format!("admin: {{address: {{pipe: {{path: '{}', mode: 384}}}}}}", pipe.display()),
    )?;
    let mut child = std::process::Command::new(&Binary::subject()?.path)
        .args(["--disable-hot-restart", "--concurrency", "1", "-c"])
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mode = eventually("the pipe", SOON, async || {
        std::os::unix::net::UnixStream::connect(&pipe).ok()?;
        Some(std::fs::metadata(&pipe).ok()?.permissions().mode() & 0o777)
    })
    .await;
    child.kill()?;
    child.wait()?;
    ensure!(mode? == 0o600);

    let both = "admin: {address: {socket_address: {address: '::', port_value: 0, ipv4_compat: true}}}";
    let proxy = Proxy::start(&Binary::subject()?, both).await?;
    let port = proxy.admin().addr().port();
    Client::connect((std::net::Ipv4Addr::LOCALHOST, port).into()).await?;
    proxy.stop().await
}
