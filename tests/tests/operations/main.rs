//! What an operator meets: signals, exit codes, drains, log files, filters of logs, statistics as control planes set them up.
//!
//! `SUBJECT=envoy cargo test -p integration --test operations` runs the same against Envoy: what is demanded here is what it does.

mod admin;
mod core_dumps;
mod dispatcher;
mod flags;
mod logs;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{
    HttpListener, bootstrap, cluster, fill, indent, listener_with_filters, port, tcp_proxy_with_logs,
};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use rustix::process::Signal;

const ROUTES: &str = r#"
- match: {prefix: /health}
  route: {cluster: up}
- match: {prefix: /denied}
  direct_response: {status: 403}
- match: {prefix: /}
  route: {cluster: up}
"#;

const HEALTH_CHECK: &str = r#"
- name: health
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
    pass_through_mode: false
    headers: [{name: ":path", string_match: {exact: /health}}]
"#;

fn file_log(name: &str, format: &str, filter: &str) -> String {
    format!(
        r#"- name: log
  filter: {filter}
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: "{{{{dir}}}}/{name}"
    log_format: {{text_format_source: {{inline_string: "{format}"}}}}
"#
    )
}

const ANY: &str = "{or_filter: {filters: [{not_health_check_filter: {}}, {not_health_check_filter: {}}]}}";

async fn start(listeners: &[String], rest: &str, extra: &[&str]) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    let clusters = [cluster("up", "up", "")];
    let yaml = fill(&bootstrap(listeners, &clusters, rest), [("up", port(upstream.addr()))]);
    let proxy = Proxy::start_with(&Binary::subject()?, &yaml, extra).await?;
    Ok((proxy, upstream))
}

/// `in` takes inbound traffic, `out` outbound traffic.
async fn two_listeners(extra: &[&str]) -> Result<(Proxy, Upstream)> {
    let inbound =
        HttpListener::new("in", ROUTES).filters(HEALTH_CHECK).listener("traffic_direction: INBOUND").yaml();
    let outbound = HttpListener::new("out", ROUTES).listener("traffic_direction: OUTBOUND").yaml();
    start(&[inbound, outbound], "", extra).await
}

async fn get(client: &mut Client, path: &str) -> Result<(u16, bool)> {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await?;
    let response = client.response("GET", SOON).await?;
    Ok((response.head.status()?, response.head.connection_says("close")))
}

/// Status, and whether the connection closes, of a request on a new connection.
async fn ask(proxy: &Proxy, listener: &str, path: &str) -> Result<(u16, bool)> {
    get(&mut Client::connect(proxy.listener(listener)?).await?, path).await
}

async fn post(proxy: &Proxy, path: &str) -> Result<()> {
    let answer = proxy.admin().request("POST", path).await?;
    ensure!((answer.status, answer.body.as_str()) == (200, "OK\n"), "POST {path}: {answer:?}");
    Ok(())
}

async fn refuses(proxy: &Proxy, listener: &str) -> Result<()> {
    eventually("that new connections are refused", SOON, async || {
        Client::connect(proxy.listener(listener).ok()?).await.is_err().then_some(())
    })
    .await
}

#[tokio::test]
async fn signals_and_quitquitquit_end_the_process_at_once_with_0() -> Result<()> {
    for signal in [Some(Signal::TERM), Some(Signal::INT), None] {
        let (mut proxy, upstream) = two_listeners(&[]).await?;
        upstream.script([Reply::steps([Step::Stall])]);
        let mut client = Client::connect(proxy.listener("in")?).await?;
        client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        eventually("the request upstream", SOON, async || (!upstream.received().is_empty()).then_some(()))
            .await?;
        match signal {
            Some(signal) => proxy.signal(signal)?,
            None => post(&proxy, "/quitquitquit").await?,
        }
        assert_eq!(proxy.ended(SOON).await?, 0, "{signal:?}");
    }
    Ok(())
}

#[test]
fn wrong_command_lines_and_configurations_exit_with_1() -> Result<()> {
    let binary = Binary::subject()?;
    let run = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let output =
            std::process::Command::new(&binary.path).args(["--base-id", "4711"]).args(words).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    };
    let empty = ["--config-yaml", "{}", "--mode", "validate"];
    for (words, code) in [
        (&["--no-such-flag"][..], 1),
        (&[], 1),
        (&["-c", "/no/such/file.yaml"], 1),
        (&["--config-yaml", "static_resources: {listeners: 7}"], 1),
        (&[&empty[..], &["-l", "loud"]].concat(), 1),
        (&[&empty[..], &["--component-log-level", "nobody:info"]].concat(), 1),
        (&[&empty[..], &["--component-log-level", "misc:error,wasm:debug"]].concat(), 0),
        (&empty, 0),
        (&[&empty[..], &["--disable-extensions", "envoy.tracers/envoy.tracers.nobody"]].concat(), 0),
        (&["--version"], 0),
        (&["--help"], 0),
    ] {
        let (actual, text) = run(words)?;
        assert_eq!(actual, Some(code), "{words:?}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn listeners_drain_as_they_are_asked_to() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    let mut kept = Client::connect(proxy.listener("in")?).await?;
    assert_eq!(get(&mut kept, "/").await?, (200, false));
    post(&proxy, "/drain_listeners?inboundonly").await?;
    refuses(&proxy, "in").await?;
    assert_eq!(get(&mut kept, "/").await?, (200, false), "what is open stays");
    assert_eq!(ask(&proxy, "out", "/").await?, (200, false));
    post(&proxy, "/drain_listeners").await?;
    refuses(&proxy, "out").await?;
    assert!(proxy.admin().live().await);
    Ok(())
}

#[tokio::test]
async fn a_graceful_drain_says_close_first_and_stops_to_listen_later() -> Result<()> {
    let (proxy, _up) = two_listeners(&["--drain-time-s", "1", "--drain-strategy", "immediate"]).await?;
    let mut kept = Client::connect(proxy.listener("in")?).await?;
    get(&mut kept, "/").await?;
    post(&proxy, "/drain_listeners?graceful&inboundonly").await?;
    assert_eq!(get(&mut kept, "/").await?, (200, true));
    assert_eq!(ask(&proxy, "out", "/").await?, (200, false));
    refuses(&proxy, "in").await?;
    assert_eq!(ask(&proxy, "out", "/").await?, (200, false));
    assert!(proxy.admin().live().await);
    Ok(())
}

#[tokio::test]
async fn a_drain_that_skips_the_exit_goes_on_listening() -> Result<()> {
    let (proxy, _up) = two_listeners(&["--drain-time-s", "1", "--drain-strategy", "immediate"]).await?;
    post(&proxy, "/drain_listeners?graceful&skip_exit").await?;
    assert_eq!(ask(&proxy, "in", "/").await?, (200, true));
    // Longer than the drain time: it is what did not happen that counts.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(ask(&proxy, "in", "/").await?, (200, true), "after the drain time");
    Ok(())
}

#[tokio::test]
async fn a_gradual_drain_closes_no_connection_at_first() -> Result<()> {
    let (proxy, _up) = two_listeners(&["--drain-time-s", "600", "--drain-strategy", "gradual"]).await?;
    post(&proxy, "/drain_listeners?graceful").await?;
    let mut closed = 0;
    for _ in 0..20 {
        closed += usize::from(ask(&proxy, "in", "/").await?.1);
    }
    assert!(closed <= 2, "{closed} of 20 in the first seconds of ten minutes");
    Ok(())
}

#[tokio::test]
async fn failing_health_checks_show_everywhere() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    let ready = async || Ok::<_, anyhow::Error>(proxy.admin().request("GET", "/ready").await?.status);
    assert_eq!((ask(&proxy, "in", "/health").await?, ready().await?), ((200, false), 200));
    post(&proxy, "/healthcheck/fail").await?;
    assert_eq!((ask(&proxy, "in", "/health").await?, ready().await?), ((503, true), 503));
    assert_eq!(ask(&proxy, "out", "/").await?, (200, true));
    post(&proxy, "/healthcheck/ok").await?;
    assert_eq!((ask(&proxy, "in", "/health").await?, ready().await?), ((200, false), 200));
    Ok(())
}

#[tokio::test]
async fn log_files_are_opened_anew_on_demand() -> Result<()> {
    let logs = file_log("access.log", "%REQ(:PATH)%\\n", ANY);
    let listener = HttpListener::to_up("in").logs(&logs).yaml();
    let (proxy, _up) = start(&[listener], "", &[]).await?;
    let current = proxy.dir().join("access.log");
    let logged = async |path: &Path, line: &str| {
        eventually("the line in the log", SOON, async || {
            whole_lines(path).iter().any(|one| one == line).then_some(())
        })
        .await
        .with_context(|| format!("{line} in {}: {:?}", path.display(), whole_lines(path)))
    };
    ask(&proxy, "in", "/first").await?;
    logged(&current, "/first").await?;
    for (turn, reopen) in ["signal", "admin"].into_iter().enumerate() {
        let old = proxy.dir().join(format!("access.log.{turn}"));
        std::fs::rename(&current, &old)?;
        let before = whole_lines(&old).len();
        match reopen {
            "signal" => proxy.signal(Signal::USR1)?,
            _ => post(&proxy, "/reopen_logs").await?,
        }
        eventually("a line in the new file", SOON, async || {
            ask(&proxy, "in", "/again").await.ok()?;
            (!whole_lines(&current).is_empty()).then_some(())
        })
        .await
        .context(reopen)?;
        assert!(whole_lines(&old).len() >= before, "nothing is lost");
    }
    Ok(())
}

#[tokio::test]
async fn log_filters_decide_line_by_line() -> Result<()> {
    let filters = [
        (
            "status",
            "{status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: k}}}}",
        ),
        (
            "duration",
            "{duration_filter: {comparison: {op: GE, value: {default_value: 3600000, runtime_key: k}}}}",
        ),
        ("health", "{not_health_check_filter: {}}"),
        ("header", "{header_filter: {header: {name: x-log, string_match: {exact: \\\"1\\\"}}}}"),
        ("flag", "{response_flag_filter: {flags: [UF, NR]}}"),
        (
            "and",
            "{and_filter: {filters: [{status_code_filter: {comparison: {op: EQ, value: {default_value: 403, runtime_key: k}}}}, {header_filter: {header: {name: x-log, present_match: true}}}]}}",
        ),
        (
            "or",
            "{or_filter: {filters: [{status_code_filter: {comparison: {op: EQ, value: {default_value: 403, runtime_key: k}}}}, {header_filter: {header: {name: x-log, present_match: true}}}]}}",
        ),
        ("never", "{runtime_filter: {runtime_key: log.never, percent_sampled: {numerator: 0}}}"),
        ("always", "{runtime_filter: {runtime_key: log.always, percent_sampled: {numerator: 0}}}"),
        ("grpc", "{grpc_status_filter: {statuses: [PERMISSION_DENIED]}}"),
        (
            "metadata",
            "{metadata_filter: {matcher: {filter: ns, path: [{key: k}], value: {string_match: {exact: v}}}, match_if_key_not_found: false}}",
        ),
        ("type", "{log_type_filter: {types: [DownstreamStart]}}"),
    ];
    let logs: String = filters
        .iter()
        .map(|(name, filter)| {
            file_log("filtered.log", &format!("{name} %REQ(:PATH)%\\n"), &filter.replace("\\\"", "\""))
        })
        .collect();
    let end = file_log("filtered.log", "end %REQ(:PATH)%\\n", ANY);
    let listener = HttpListener::new("in", ROUTES).filters(HEALTH_CHECK).logs(&format!("{logs}{end}")).yaml();
    let runtime = "layered_runtime: {layers: [{name: l, static_layer: {log.always: 100}}]}\n";
    let (proxy, _up) = start(&[listener], runtime, &[]).await?;
    let mut client = Client::connect(proxy.listener("in")?).await?;
    for (path, fields) in [
        ("/a", ""),
        ("/denied", "content-type: application/grpc\r\n"),
        ("/b", "x-log: 1\r\n"),
        ("/denied/b", "x-log: 2\r\n"),
        ("/health", ""),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n").as_bytes()).await?;
        client.response("GET", SOON).await?;
    }
    client.send(b"GET /last HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    client.response("GET", SOON).await?;
    let path = proxy.dir().join("filtered.log");
    eventually("the last line", SOON, async || {
        whole_lines(&path).iter().any(|line| line == "end /last").then_some(())
    })
    .await?;
    let lines = whole_lines(&path);
    let of = |name: &str| -> Vec<String> {
        lines
            .iter()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    };
    for (name, expected) in [
        ("status", &["/denied/b"][..]),
        ("duration", &[]),
        ("health", &["/a", "/denied", "/b", "/denied/b", "/last"]),
        ("header", &["/b"]),
        ("flag", &[]),
        ("and", &["/denied/b"]),
        ("or", &["/b", "/denied/b"]),
        ("never", &[]),
        ("always", &["/a", "/denied", "/b", "/denied/b", "/health", "/last"]),
        ("grpc", &["/denied", "/denied/b"]),
        ("metadata", &[]),
        ("type", &[]),
    ] {
        assert_eq!(of(name), expected, "filter {name}");
    }
    Ok(())
}

#[tokio::test]
async fn statistics_are_named_tagged_and_chosen_as_istio_asks() -> Result<()> {
    let stats = r#"
stats_config:
  use_all_default_tags: false
  stats_tags:
  - {tag_name: cluster_name, regex: "^cluster\\.((.+?(\\..+?\\.svc\\.cluster\\.local)?)\\.)"}
  - {tag_name: tcp_prefix, regex: "^tcp\\.((.*?)\\.)\\w+?$"}
  - {tag_name: response_code, regex: "(response_code=\\.=(.+?);\\.;)|_rq(_(\\.d{3}))$"}
  - {tag_name: response_code_class, regex: "_rq(_(\\dxx))$"}
  - {tag_name: http_conn_manager_listener_prefix, regex: "^listener(?=\\.).*?\\.http\\.(((?:[_.[:digit:]]*|[_\\[\\]aAbBcCdDeEfF[:digit:]]*))\\.)"}
  - {tag_name: http_conn_manager_prefix, regex: "^http\\.(((?:[_.[:digit:]]*|[_\\[\\]aAbBcCdDeEfF[:digit:]]*))\\.)"}
  - {tag_name: fixed, fixed_value: here}
  stats_matcher:
    inclusion_list: {patterns: [{prefix: "cluster.up"}, {prefix: "listener."}, {contains: "downstream_rq_total"}]}
  histogram_bucket_settings:
  - {match: {suffix: upstream_rq_time}, buckets: [1, 1000]}
stats_flush_interval: 0.1s
"#;
    let listener = HttpListener::to_up("in").yaml();
    let (proxy, _up) = start(&[listener], stats, &[]).await?;
    assert_eq!(ask(&proxy, "in", "/").await?.0, 200);
    let admin = proxy.admin();
    let text = eventually("the histogram after a flush", SOON, async || {
        let text = admin.get("/stats/prometheus").await.ok()?;
        let count = "envoy_cluster_upstream_rq_time_count{fixed=\"here\",cluster_name=\"up\"} 1";
        text.contains(count).then_some(text)
    })
    .await?;
    for line in [
        "envoy_cluster_upstream_rq_total{fixed=\"here\",cluster_name=\"up\"} 1",
        "envoy_cluster_upstream_rq_time_bucket{fixed=\"here\",cluster_name=\"up\",le=\"1000\"} 1",
        "# TYPE envoy_cluster_upstream_rq_time histogram",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
    }
    let others =
        |line: &str| line.starts_with("envoy_cluster_upstream_rq_time_bucket") && line.contains("le=\"500\"");
    assert!(!text.lines().any(others), "only the buckets that were asked for");
    assert!(!text.contains("envoy_server_"), "only what the inclusion list lets in");
    let all = admin.get("/stats").await?;
    let wanted = |line: &str| {
        line.starts_with("cluster.up")
            || line.starts_with("listener.")
            || line.contains("downstream_rq_total")
    };
    assert!(all.lines().all(wanted), "{all}");
    Ok(())
}

#[tokio::test]
async fn counters_are_reset_and_unused_ones_hidden_on_request() -> Result<()> {
    let (proxy, _up) = two_listeners(&[]).await?;
    ask(&proxy, "in", "/").await?;
    let admin = proxy.admin();
    assert_eq!(admin.stat("cluster.up.upstream_rq_total").await?, 1);
    let used = admin.get("/stats?usedonly&filter=cluster.up.upstream_rq").await?;
    assert!(used.contains("cluster.up.upstream_rq_total: 1\n"), "{used}");
    assert!(!used.contains("upstream_rq_timeout"), "{used}");
    post(&proxy, "/reset_counters").await?;
    assert_eq!(admin.stat("cluster.up.upstream_rq_total").await?, 0);
    let (status, body) = {
        let answer = admin.request("GET", "/stats?filter=(").await?;
        (answer.status, answer.body)
    };
    assert_eq!(status, 400, "{body}");
    Ok(())
}

#[tokio::test]
async fn a_tcp_connection_is_logged_at_its_start_and_end() -> Result<()> {
    let log = file_log("access.log", "%ACCESS_LOG_TYPE% %BYTES_RECEIVED% %STREAM_ID%\\n", ANY);
    let options = "cluster: up\naccess_log_options: {flush_access_log_on_connected: true}";
    let filter = tcp_proxy_with_logs("tcp", &format!("access_log:\n{}", indent(&log, 0)), options);
    let (proxy, _up) = start(&[listener_with_filters("tcp", &filter)], "", &[]).await?;
    let mut client = Client::connect(proxy.listener("tcp")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    client.response("GET", SOON).await?;
    drop(client);
    let path = proxy.dir().join("access.log");
    let lines =
        eventually("both lines", SOON, async || Some(whole_lines(&path)).filter(|lines| lines.len() == 2))
            .await?;
    let [connected, end]: [Vec<&str>; 2] = [0, 1].map(|at: usize| lines[at].split(' ').collect());
    assert_eq!(connected[..2], ["TcpUpstreamConnected", "0"]);
    assert_eq!(end[..2], ["TcpConnectionEnd", "30"]);
    assert_eq!(connected[2], end[2], "one stream, one identity");
    Ok(())
}
