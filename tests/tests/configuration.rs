//! What becomes of a configuration: errors, fields that are refused or have no effect, and what the bootstrap and the
//! command line say about the process.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_with, management_cluster, served, socket};
use integration::dns::DnsServer;
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::config::route::v3::RouteConfiguration;

/// Clusters and listeners by ADS.
fn dynamic(management: &ManagementServer) -> String {
    let clusters = management_cluster(&socket(management.address()));
    bootstrap_with(&clusters, "GRPC", "{resource_api_version: V3, initial_fetch_timeout: 0.2s, ads: {}}")
}

const CLUSTER: &str = "{name: c, connect_timeout: 1s, type: EDS, eds_cluster_config: {eds_config: {resource_api_version: V3, ads: {}}}";
const LISTENER: &str = "
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: p
      rds: {route_config_name: r, config_source: {resource_api_version: V3, ads: {}}}
      http_filters:
      - {name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
";

/// What the rejection of the last response of that type says.
async fn rejection(management: &ManagementServer, type_url: &TypeUrl) -> Result<String> {
    let request = within(&format!("a rejection of {type_url}"), SOON, management.rejected(type_url)).await?;
    Ok(request.error().context("no error")?.message.clone())
}

#[tokio::test]
async fn fields_that_cannot_be_honoured_are_refused_in_every_resource() -> Result<()> {
    let management = ManagementServer::start().await?;
    let proxy = Proxy::start(&Binary::outrigger()?, &dynamic(&management)).await?;
    let both = |message: &str, name: &str, paths: [&str; 2]| {
        let all = [&[name][..], &paths[..]].concat();
        ensure!(all.iter().all(|part| message.contains(part)), "{message}: not all of {all:?}");
        Ok(())
    };

    // (The answer to clusters waits for their endpoints.)
    let none = served::<ClusterLoadAssignment>("{cluster_name: c}")?;
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "0", [none]);
    let bad = "name: bad, connect_timeout: 1s, upstream_connection_options: {set_local_interface_name_on_upstream_connections: true}, per_connection_buffer_high_watermark_timeout: 1s";
    management.set(
        &TypeUrl::CLUSTER,
        "1",
        [served::<Cluster>(&format!("{CLUSTER}}}"))?, served::<Cluster>(&format!("{{{bad}}}"))?],
    );
    let message = rejection(&management, &TypeUrl::CLUSTER).await?;
    both(
        &message,
        "bad",
        [
            "upstream_connection_options.set_local_interface_name_on_upstream_connections: ",
            "per_connection_buffer_high_watermark_timeout: ",
        ],
    )?;

    let bad = "cluster_name: c, named_endpoints: {a: {}}, endpoints: [{lb_endpoints: [{endpoint_name: a}]}]";
    management.set(
        &TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
        "1",
        [served::<ClusterLoadAssignment>(&format!("{{{bad}}}"))?],
    );
    let message = rejection(&management, &TypeUrl::CLUSTER_LOAD_ASSIGNMENT).await?;
    both(&message, "c", ["named_endpoints: ", "endpoints[0].lb_endpoints[0].endpoint_name: "])?;

    // Of one response, the good listener is taken.
    let bad = LISTENER.replace("name: l\n", "name: bad\nenable_mptcp: true\n");
    let bad = bad.replace("stat_prefix: p\n", "stat_prefix: p\n      proxy_status_config: {}\n");
    management.set(&TypeUrl::LISTENER, "1", [served::<Listener>(LISTENER)?, served::<Listener>(&bad)?]);
    let message = rejection(&management, &TypeUrl::LISTENER).await?;
    both(
        &message,
        "bad",
        ["enable_mptcp: ", "filter_chains[0].filters[0].typed_config.proxy_status_config: "],
    )?;

    let bad = "name: r, vhds: {config_source: {ads: {}}}, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, hedge_policy: {initial_requests: 2}}}]}]";
    management.set(
        &TypeUrl::ROUTE_CONFIGURATION,
        "1",
        [served::<RouteConfiguration>(&format!("{{{bad}}}"))?],
    );
    let message = rejection(&management, &TypeUrl::ROUTE_CONFIGURATION).await?;
    both(&message, "r", ["vhds: ", "virtual_hosts[0].routes[0].route.hedge_policy.initial_requests: "])?;
    proxy.stop().await
}

/// A cluster with field 1500, which does not exist, and one that has no effect.
fn odd_cluster() -> Result<Served> {
    let mut cluster =
        served::<Cluster>(&format!("{CLUSTER}, lrs_report_endpoint_metrics: [cpu_utilization]}}"))?;
    cluster.any.value.extend_from_slice(&[0xe0, 0x5d, 1]);
    Ok(cluster)
}

#[tokio::test]
async fn unknown_fields_and_fields_without_effect_are_counted() -> Result<()> {
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [odd_cluster()?]);
    let yaml = format!("nonsense: 1\nflags_path: /flags\n{}", dynamic(&management));
    let proxy = Proxy::start_with(&Binary::outrigger()?, &yaml, &["--allow-unknown-static-fields"]).await?;
    within("the cluster", SOON, management.acknowledged(&TypeUrl::CLUSTER, "1")).await?;
    let stats = proxy.admin().stats("server").await?;
    let of = |name: &str| stats.get(name).copied();
    ensure!(of("server.static_unknown_fields") == Some(1), "{stats:?}");
    ensure!(of("server.dynamic_unknown_fields") == Some(1), "{stats:?}");
    ensure!(of("server.static_ignored_fields") == Some(1), "{stats:?}");
    ensure!(of("server.dynamic_ignored_fields") == Some(1), "{stats:?}");

    // The same once more, and nothing new.
    management.set(&TypeUrl::CLUSTER, "2", [odd_cluster()?]);
    within("the cluster", SOON, management.acknowledged(&TypeUrl::CLUSTER, "2")).await?;
    ensure!(proxy.admin().stat("server.dynamic_unknown_fields").await? == 1);
    ensure!(proxy.admin().stat("server.dynamic_ignored_fields").await? == 1);
    ensure!(proxy.log().matches("lrs_report_endpoint_metrics").count() == 1, "{}", proxy.log());
    proxy.stop().await
}

#[tokio::test]
async fn unknown_fields_can_be_refused() -> Result<()> {
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [odd_cluster()?]);
    let extra = ["--reject-unknown-dynamic-fields"];
    let proxy = Proxy::start_with(&Binary::outrigger()?, &dynamic(&management), &extra).await?;
    let message = rejection(&management, &TypeUrl::CLUSTER).await?;
    ensure!(message.contains("c: ") && message.contains("1500"), "{message}");
    ensure!(proxy.admin().stat("server.dynamic_unknown_fields").await? == 0);
    proxy.stop().await
}

/// Runs the program until it ends by itself.
fn run(folder: &Path, yaml: &str, extra: &[&str]) -> Result<Output> {
    let config = folder.join("bootstrap.yaml");
    std::fs::write(&config, yaml.replace("{{dir}}", folder.to_str().context("not UTF-8")?))?;
    let mut command = Command::new(Binary::outrigger()?.path);
    command.arg("-c").arg(&config).args(extra).stdin(Stdio::null());
    Ok(command.output()?)
}

#[test]
fn all_errors_are_told_before_anything_is_bound() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let yaml = "
perf_tracing_file_path: x
admin: {address: {pipe: {path: '{{dir}}/admin.sock'}}}
static_resources:
  listeners:
  - name: good
    address: {pipe: {path: '{{dir}}/good.sock'}}
    filter_chains:
    - filters:
      - {name: echo, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}
  - name: bad
    address: {pipe: {path: '{{dir}}/bad.sock'}}
    filter_chains:
    - filters:
      - {name: who, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster}}
  clusters:
  - {name: c, connect_timeout: -1s}
  - {name: d, connect_timeout: 1s, type: EDS}
layered_runtime: {layers: [{name: disk, disk_layer: {symlink_root: /x}}]}
";
    let output = run(
        folder.path(),
        yaml,
        &["--admin-address-path", folder.path().join("admin").to_str().context("path")?],
    )?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    let errors: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("bootstrap.yaml:")?.1.into()).collect();
    for place in [
        "2:1: perf_tracing_file_path: ",
        "15:21: static_resources.listeners[1].filter_chains[0].filters[0].typed_config: ",
        "17:15: static_resources.clusters[0].connect_timeout: ",
        "18:5: static_resources.clusters[1].eds_cluster_config: ",
        "19:41: layered_runtime.layers[0].disk_layer: ",
    ] {
        ensure!(errors.iter().any(|error| error.starts_with(place)), "no {place:?} in:\n{text}");
    }
    let mut left = std::fs::read_dir(folder.path())?.filter_map(Result::ok);
    ensure!(left.all(|entry| entry.file_name() == "bootstrap.yaml"), "something was made in {folder:?}");
    Ok(())
}

fn echo(name: &str, rest: &str) -> String {
    let filter = "- name: echo\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}\n";
    let listener = integration::config::listener_with_filters(name, filter);
    format!("{listener}{}", integration::config::indent(rest, 2))
}

#[tokio::test]
async fn the_overload_manager_limits_connections() -> Result<()> {
    let rest = "
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 1
";
    let listeners = [
        echo("l", ""),
        echo("free", "bypass_overload_manager: true\n"),
        echo("uncounted", "ignore_global_conn_limit: true\n"),
    ];
    let proxy = Proxy::start(&Binary::outrigger()?, &bootstrap(&listeners, &[], rest)).await?;
    let mut first = Client::connect(proxy.listener("l")?).await?;
    first.send(b"1").await?;
    ensure!(first.at_least(1, SOON).await? == b"1");
    let mut second = Client::connect(proxy.listener("l")?).await?;
    ensure!(second.end_within(SOON).await != End::Open, "the second connection stays");
    ensure!(proxy.admin().stat("listener.127.0.0.1_0.downstream_global_cx_overflow").await.unwrap_or(1) >= 1);
    for name in ["free", "uncounted"] {
        let mut other = Client::connect(proxy.listener(name)?).await?;
        other.send(b"2").await?;
        ensure!(other.at_least(1, SOON).await? == b"2", "{name}");
    }
    drop(first);
    eventually("room", SOON, async || {
        let mut next = Client::connect(proxy.listener("l").ok()?).await.ok()?;
        next.send(b"3").await.ok()?;
        (next.at_least(1, SOON).await.ok()? == b"3").then_some(())
    })
    .await?;
    proxy.stop().await
}

#[tokio::test]
async fn clusters_take_resolver_and_source_address_from_the_bootstrap() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let server = DnsServer::start().await?;
    server.addresses("backend.example.com", &["127.0.0.1"])?;
    let rest = format!(
        "
cluster_manager: {{upstream_bind_config: {{source_address: {{address: 127.0.0.77, port_value: 0}}}}}}
{}",
        server.resolver()
    );
    let up = cluster("up", "up", "")
        .replace("type: STATIC", "type: STRICT_DNS\n  dns_lookup_family: V4_ONLY")
        .replace("address: 127.0.0.1", "address: backend.example.com");
    let listener = HttpListener::to_up("l").route_config(
        "response_headers_to_add: [{header: {key: x-from, value: '%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%'}}]",
    );
    let text = fill(&bootstrap(&[listener.yaml()], &[up], &rest), [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::outrigger()?, &text).await?;
    let mut client = Client::connect(proxy.listener("l")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let response = client.response("GET", SOON).await?;
    ensure!(response.head.status()? == 200, "{:?}", response.head);
    let from = integration::http1::field(&response.head.fields, "x-from").unwrap_or_default();
    ensure!(from == "127.0.0.77", "{:?}", response.head);
    proxy.stop().await
}

#[tokio::test]
async fn the_admin_interface_logs_its_requests() -> Result<()> {
    let log = "access_log: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: '{{dir}}/admin.log', log_format: {text_format_source: {inline_string: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %PROTOCOL%\\n\"}}}}]";
    let text = bootstrap(&[echo("l", "")], &[], "").replacen("admin: {", &format!("admin: {{{log}, "), 1);
    let proxy = Proxy::start(&Binary::outrigger()?, &text).await?;
    proxy.admin().request("GET", "/nowhere?a=b").await?;
    let path = proxy.dir().join("admin.log");
    eventually("the line", SOON, async || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.contains("GET /ready 200 HTTP/1.1\n") && text.contains("GET /nowhere?a=b 404 HTTP/1.1\n"))
            .then_some(())
    })
    .await?;
    proxy.stop().await
}

#[tokio::test]
async fn the_log_has_the_format_of_the_bootstrap() -> Result<()> {
    let rest = "application_log_config: {log_format: {json_format: {Level: '%l', Message: '%j', Logger: '%n'}}}\nstats_server_version_override: 42\n";
    let proxy = Proxy::start(&Binary::outrigger()?, &bootstrap(&[echo("l", "")], &[], rest)).await?;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("starting main dispatch loop")).context(log.clone())?;
    let value: serde_json::Value = serde_json::from_str(line)?;
    ensure!(
        value
            == serde_json::json!({"Level": "info", "Message": "starting main dispatch loop", "Logger": "main"})
    );
    ensure!(proxy.admin().stat("server.version").await? == 42);
    proxy.stop().await?;

    let folder = tempfile::tempdir()?;
    let both = run(folder.path(), &bootstrap(&[], &[], rest), &["--mode", "validate", "--log-format", "%v"])?;
    ensure!(both.status.code() == Some(1));
    ensure!(String::from_utf8_lossy(&both.stderr).contains("Only one of ApplicationLogConfig.log_format"));
    let rest = "application_log_config: {log_format: {json_format: {Message: '%v'}}}\n";
    let unsafe_flag = run(folder.path(), &bootstrap(&[], &[], rest), &["--mode", "validate"])?;
    ensure!(unsafe_flag.status.code() == Some(1));
    ensure!(
        String::from_utf8_lossy(&unsafe_flag.stderr)
            .contains("Usage of %v is unavailable for JSON log formats")
    );
    Ok(())
}

#[tokio::test]
async fn flags_take_effect() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("own.log");
    let log_path = format!("--log-path={}", log.display());
    // The three spellings.
    let extra = [
        "--service-cluster from-flag",
        "--service-node=node-flag",
        "--service-zone",
        "zone-flag",
        "--drain-strategy immediate",
        "--drain-time-s=7",
        "--base-id",
        "4711",
        "--restart-epoch=0",
        "--local-address-ip-version v6",
        "-l",
        "warning",
        "--component-log-level",
        "main:info,upstream:trace",
        "--log-format=%l|%n|%v",
        &log_path,
        "--parent-shutdown-time-s 9",
        "--file-flush-min-size-kb=32",
        "--stats-tag a:b",
    ];
    let proxy =
        Proxy::start_with(&Binary::outrigger()?, &bootstrap(&[echo("l", "")], &[], ""), &extra).await?;
    let info: serde_json::Value = serde_json::from_str(&proxy.admin().get("/server_info").await?)?;
    let options = &info["command_line_options"];
    for (name, value) in [
        ("service_cluster", "from-flag"),
        ("service_node", "node-flag"),
        ("service_zone", "zone-flag"),
        ("drain_strategy", "Immediate"),
        ("drain_time", "7s"),
        ("local_address_ip_version", "v6"),
        ("component_log_level", "main:info,upstream:trace"),
        ("log_level", "warning"),
        ("log_format", "%l|%n|%v"),
        ("file_flush_interval", "0.005s"),
    ] {
        ensure!(options[name] == value, "{name}: {} in {options}", options[name]);
    }
    ensure!(options["base_id"] == "4711" && options["stats_tag"][0] == "a:b", "{options}");
    ensure!(options["disable_hot_restart"] == true && options["concurrency"] == 1, "{options}");
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.contains("info|main|starting main dispatch loop\n"), "{text}");
    ensure!(!text.contains("info|config|"), "{text}");
    proxy.stop().await
}

#[test]
fn flags_that_are_wrong_end_the_process() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (extra, said) in [
        (&["--component-log-level", "nobody:info"][..], "invalid component specified 'nobody'"),
        (&["--log-level", "loud"], "invalid log level specified 'loud'"),
        (&["--drain-strategy=never"], "unknown drain-strategy 'never'"),
        (&["--no-such-flag"], "Couldn't find match for argument"),
        (&["--log-path", "/no/such/folder/log"], "Failed to open log-file"),
    ] {
        let output = run(folder.path(), "{}", extra)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && text.contains(said), "{extra:?}: {text}");
    }
    let nothing = Command::new(Binary::outrigger()?.path).output()?;
    ensure!(nothing.status.code() == Some(1));
    ensure!(
        String::from_utf8_lossy(&nothing.stderr).contains("At least one of --config-path or --config-yaml")
    );
    Ok(())
}
