//! Where configuration comes from: single streams, a unix domain socket, files.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use integration::client::Client;
use integration::expect::{SOON, eventually, within};
use integration::process::{Kind, Proxy};
use integration::upstream::{Reply, Upstream};
use prost::{Message, Name};
use prost_types::Any;
use xds::client::service::Service;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xds_api::read::{Format, Options, Source, read};
use xds_api::write::{JsonOptions, to_json};

use crate::rig::*;

/// A `ConfigSource` for one stream per type to the cluster `m`.
fn single(api_type: &str) -> String {
    format!(
        "{{resource_api_version: V3, api_config_source: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m}}}}]}}}}"
    )
}

async fn every_type_on_its_own_stream(api_type: &str) -> Result<()> {
    let source = single(api_type);
    let up = upstream("hello").await?;
    let management = ManagementServer::start().await?;
    management.set(&CDS, "1", [cluster_from("c", &source, "")?]);
    management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
    management.set(&LDS, "1", [listener_with("l", ANY_PORT, &http_chain("p", &rds("r", &source)))?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let clusters = management_cluster(&socket(management.address()));
    let config = bootstrap_with(&clusters, "GRPC", &source);
    let config = config.lines().filter(|line| !line.contains("ads_config")).collect::<Vec<_>>().join("\n");
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");
    management.set(&RDS, "2", [routes("r", "c", "2")?]);
    until_mark(&mut connection, "2").await?;

    let mut services: Vec<(usize, Service)> =
        management.recorded().into_iter().map(|recorded| (recorded.stream, recorded.service)).collect();
    services.sort_by_key(|(stream, _)| *stream);
    services.dedup();
    for kind in [CDS, EDS, LDS, RDS] {
        let streams =
            services.iter().filter(|(_, service)| *service == Service::Single(kind.clone())).count();
        ensure!(streams == 1, "{streams} streams for {kind}: {services:?}");
    }
    management.close_streams();
    management.set(&RDS, "3", [routes("r", "c", "3")?]);
    until_mark(&mut connection, "3").await?;
    proxy.stop().await
}

#[tokio::test]
async fn every_type_has_its_own_stream_of_the_world() -> Result<()> {
    every_type_on_its_own_stream("GRPC").await
}

#[tokio::test]
async fn every_type_has_its_own_stream_of_changes() -> Result<()> {
    every_type_on_its_own_stream("DELTA_GRPC").await
}

#[tokio::test]
async fn the_stream_rides_a_unix_domain_socket() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("xds.sock");
    let up = upstream("hello").await?;
    let management = ManagementServer::listen_unix(&path)?;
    management.set(&CDS, "1", [cluster("c")?]);
    management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
    management.set(&LDS, "1", [listener("l", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let clusters = management_cluster(&format!("{{pipe: {{path: '{}'}}}}", path.display()));
    let proxy = Proxy::start(&binary()?, &bootstrap_with(&clusters, "GRPC", ADS)).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");
    proxy.stop().await
}

/// 200 with a `DiscoveryResponse`.
fn polled(version: &str, resources: &[Served]) -> Result<Reply> {
    let body = file_of(version, resources)?;
    Ok(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())))
}

#[tokio::test]
async fn clusters_are_polled_by_rest() -> Result<()> {
    let server = Upstream::start().await?;
    let addr = server.addr();
    server.push(polled("first", &[static_cluster("c", addr)?])?);
    server.push(Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n"));
    server.push(Reply::raw("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"));
    server.push(polled("second", &[static_cluster("c", addr)?, static_cluster("d", addr)?])?);
    let config = format!(
        "
node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources:
  cds_config:
    resource_api_version: V3
    api_config_source: {{api_type: REST, transport_api_version: V3, cluster_names: [m], refresh_delay: 0.02s}}
static_resources:
  clusters:
  - name: m
    type: STATIC
    load_assignment: {{cluster_name: m, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}
",
        socket(addr)
    );
    let proxy = Proxy::start(&binary()?, &config).await?;
    eventually("both clusters", SOON, async || {
        let clusters = proxy.admin().get("/clusters").await.ok()?;
        (clusters.contains("c::added_via_api::true") && clusters.contains("d::added_via_api::true"))
            .then_some(())
    })
    .await?;
    let failures = proxy.admin().stat("cluster_manager.cds.update_failure").await?;
    proxy.stop().await?;
    ensure!(failures > 0, "the 500 is a failure");
    let received = server.received();
    let mut versions = Vec::new();
    for request in received.iter().take(4) {
        ensure!(request.line == "POST /v3/discovery:clusters HTTP/1.1", "{request:?}");
        ensure!(request.fields.contains(&("host".to_owned(), "m".to_owned())), "{request:?}");
        let body = Source { name: "request", text: &request.body, format: Format::Json };
        let asked = read::<DiscoveryRequest>(&body, &Options::default())?.message;
        ensure!(asked.node.is_some_and(|node| node.id == "test"), "the node is in every request");
        versions.push(asked.version_info);
    }
    ensure!(versions == ["", "first", "first", "first"], "{versions:?}");
    Ok(())
}

/// A `DiscoveryResponse` as JSON, for a file.
fn file_of(version: &str, resources: &[Served]) -> Result<String> {
    let response = DiscoveryResponse {
        version_info: version.to_owned(),
        resources: resources.iter().map(|served| served.any.clone()).collect(),
        ..DiscoveryResponse::default()
    };
    let type_url = format!("type.googleapis.com/{}", DiscoveryResponse::full_name());
    let any = Any { type_url, value: response.encode_to_vec() };
    let mut text = String::new();
    to_json(&any.type_url, &any.value, &JsonOptions::default(), &mut text)
        .map_err(|error| anyhow!("{error:?}"))?;
    Ok(text)
}

/// Writes a file beside and moves it into place: the only kind of change that counts.
fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let aside = folder.join(format!("{name}.new"));
    std::fs::write(&aside, text)?;
    Ok(std::fs::rename(aside, folder.join(name))?)
}

/// A file for each type in `folder`; `source` gives the `ConfigSource` of a file name.
async fn follows_files(folder: &Path, source: impl Fn(&str) -> String) -> Result<()> {
    let (up, other) = (upstream("one").await?, upstream("two").await?);
    let listeners = listener_with("l", ANY_PORT, &http_chain("p", &rds("r", &source("rds.json"))))?;
    put(folder, "cds.json", &file_of("1", &[cluster_from("c", &source("eds.json"), "")?])?)?;
    put(folder, "eds.json", &file_of("1", &[endpoints("c", &[up.addr()])?])?)?;
    put(folder, "lds.json", &file_of("1", std::slice::from_ref(&listeners))?)?;
    put(folder, "rds.json", &file_of("1", &[routes("r", "c", "1")?])?)?;
    let config = format!(
        "
node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources: {{lds_config: {}, cds_config: {}}}
",
        source("lds.json"),
        source("cds.json")
    );
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(get(&mut connection).await? == (200, "1".to_owned(), "one".to_owned()));

    put(folder, "rds.json", &file_of("2", &[routes("r", "c", "2")?])?)?;
    until_mark(&mut connection, "2").await?;
    put(folder, "eds.json", &file_of("2", &[endpoints("c", &[other.addr()])?])?)?;
    within("the other upstream", SOON, async {
        while get(&mut connection).await?.2 != "two" {}
        anyhow::Ok(())
    })
    .await??;

    put(folder, "rds.json", &file_of("3", &[bad_routes("r")?])?)?;
    stat(&proxy, "http.p.rds.r.update_rejected", 1).await?;
    ensure!(mark(&mut connection).await? == "2", "the last good routes serve");
    put(folder, "rds.json", "{ this is no file of resources")?;
    stat(&proxy, "http.p.rds.r.update_failure", 1).await?;
    ensure!(mark(&mut connection).await? == "2", "the last good routes serve");
    put(folder, "lds.json", &file_of("3", &[])?)?;
    stat(&proxy, "listener_manager.listener_removed", 1).await?;
    put(folder, "lds.json", &file_of("4", &[listeners])?)?;
    stat(&proxy, "listener_manager.listener_added", 2).await?;
    proxy.stop().await
}

#[tokio::test]
async fn files_are_followed_when_they_are_moved_into_place() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source = |name: &str| {
        let path = dir.path().join(name);
        format!("{{resource_api_version: V3, path_config_source: {{path: '{}'}}}}", path.display())
    };
    follows_files(dir.path(), source).await
}

#[tokio::test]
async fn the_deprecated_path_is_followed_too() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source =
        |name: &str| format!("{{resource_api_version: V3, path: '{}'}}", dir.path().join(name).display());
    follows_files(dir.path(), source).await
}

/// As Kubernetes mounts a ConfigMap: the files are links into a folder that is itself a link, which is moved.
#[tokio::test]
async fn a_watched_directory_is_followed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mount = dir.path();
    let up = upstream("hello").await?;
    let source = |name: &str| {
        let (path, folder) = (mount.join(name), mount.display());
        format!(
            "{{resource_api_version: V3, path_config_source: {{path: '{}', watched_directory: {{path: '{folder}'}}}}}}",
            path.display()
        )
    };
    let publish = |version: &str| -> Result<()> {
        let folder = mount.join(format!("..{version}"));
        std::fs::create_dir(&folder)?;
        let chain = http_chain("p", &rds("r", &source("rds.json")));
        std::fs::write(folder.join("cds.json"), file_of(version, &[static_cluster("c", up.addr())?])?)?;
        std::fs::write(folder.join("lds.json"), file_of(version, &[listener_with("l", ANY_PORT, &chain)?])?)?;
        std::fs::write(folder.join("rds.json"), file_of(version, &[routes("r", "c", version)?])?)?;
        std::os::unix::fs::symlink(&folder, mount.join("..data.new"))?;
        Ok(std::fs::rename(mount.join("..data.new"), mount.join("..data"))?)
    };
    publish("1")?;
    for name in ["cds.json", "lds.json", "rds.json"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.join(name))?;
    }
    let config = format!(
        "
node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources: {{lds_config: {}, cds_config: {}}}
",
        source("lds.json"),
        source("cds.json")
    );
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");
    publish("2")?;
    until_mark(&mut connection, "2").await?;
    proxy.stop().await
}

/// What is not available is refused with its path, before anything is bound.
#[tokio::test]
async fn other_sources_are_refused() -> Result<()> {
    let subject = binary()?;
    if subject.kind != Kind::Outrigger {
        return Ok(());
    }
    let rest = "{api_config_source: {api_type: REST, transport_api_version: V3, cluster_names: [m, o], refresh_delay: 1s}}";
    let google = "{api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'x:1', stat_prefix: g}}]}}";
    let clusters = management_cluster("{socket_address: {address: 127.0.0.1, port_value: 1}}");
    for (source, path) in
        [(rest, "cluster_names: must be one cluster"), (google, "google_grpc: use envoy_grpc")]
    {
        let verdict = subject.validate(&bootstrap_with(&clusters, "GRPC", source))?;
        ensure!(
            !verdict.accepted && verdict.text.contains("dynamic_resources.lds_config"),
            "{}",
            verdict.text
        );
        ensure!(verdict.text.contains(path), "{}", verdict.text);
    }
    Ok(())
}

/// Two sources may have different routes of one name, and a listener can go from one to the other.
#[tokio::test]
async fn routes_of_one_name_come_from_two_sources() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let dir = tempfile::tempdir()?;
    put(dir.path(), "rds.json", &file_of("1", &[routes("r", "c", "file")?])?)?;
    let path = dir.path().join("rds.json");
    let file = format!("{{resource_api_version: V3, path_config_source: {{path: '{}'}}}}", path.display());
    let form = |name: &str, source: &str| listener_with(name, ANY_PORT, &http_chain("p", &rds("r", source)));
    let served_by = async |listener: &str, wanted: &str| {
        eventually(&format!("{listener} with the routes {wanted:?}"), SOON, async || {
            let mut connection = rig.connect(listener).await.ok()?;
            (mark(&mut connection).await.ok()? == wanted).then_some(())
        })
        .await
    };
    served_by("l", "1").await?;
    rig.management.set(&LDS, "2", [form("l", &file)?]);
    rig.acknowledged(&LDS, "2").await?;
    served_by("l", "file").await?;
    rig.management.set(&LDS, "3", [form("l", &file)?, form("m", ADS)?]);
    rig.acknowledged(&LDS, "3").await?;
    served_by("m", "1").await?;
    served_by("l", "file").await?;
    rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
    served_by("m", "2").await?;
    put(dir.path(), "rds.json", &file_of("2", &[routes("r", "c", "other file")?])?)?;
    served_by("l", "other file").await?;
    served_by("m", "2").await?;
    rig.proxy.stop().await
}

/// How many connections to a port of 127.0.0.1 are established.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let remote = format!(":{port:04X}");
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    table.lines().map(columns).filter(|columns| columns[2].ends_with(&remote) && columns[3] == "01").count()
}

/// Streams end when nothing is wanted of them, however many sources a control plane names one after another.
#[tokio::test]
async fn a_stream_that_nothing_is_wanted_of_ends() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let other = ManagementServer::start().await?;
    other.set(&EDS, "1", [endpoints("e", &[rig.upstream.addr()])?]);
    let management = static_cluster("m2", other.address())?;
    let of_stream = |number: usize| {
        let source = format!(
            "{{resource_api_version: V3, api_config_source: {{api_type: GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: m2}}, initial_metadata: [{{key: x-number, value: '{number}'}}]}}]}}}}"
        );
        cluster_from("e", &source, "")
    };
    let streams = async |count: usize| {
        eventually(&format!("{count} streams"), SOON, async || {
            (connections_to(other.address().port()) == count).then_some(())
        })
        .await
    };
    for number in 0..3 {
        let version = format!("named {number}");
        rig.management.set(&CDS, &version, [cluster("c")?, management.clone(), of_stream(number)?]);
        rig.acknowledged(&CDS, &version).await?;
        streams(1).await?;
    }
    rig.management.set(&CDS, "none", [cluster("c")?, management]);
    rig.acknowledged(&CDS, "none").await?;
    streams(0).await?;
    // the aggregated stream stays
    rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
    until_mark(&mut rig.connect("l").await?, "2").await?;
    rig.proxy.stop().await
}
