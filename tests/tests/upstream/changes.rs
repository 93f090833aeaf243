//! What a control plane changes under traffic: hosts that leave, endpoints that become stale, clusters that are replaced.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::HttpListener;
use integration::control_plane::{ADS, bootstrap_of, management_cluster, served, socket};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Kind, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};
use integration::upstream::{Gate, Reply, Step, Upstream};
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::{fetch, get, stat_becomes};

fn cluster(extra: &str) -> Result<Served> {
    served::<Cluster>(&format!(
        "{{name: c, connect_timeout: 1s, type: EDS, eds_cluster_config: {{eds_config: {{resource_api_version: V3, ads: {{}}}}}}{extra}}}"
    ))
}

fn endpoints(addrs: &[SocketAddr], policy: &str) -> Result<Served> {
    let each = addrs.iter().map(|addr| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
            addr.port()
        )
    });
    let list: Vec<String> = each.collect();
    served::<ClusterLoadAssignment>(&format!(
        "{{cluster_name: c, policy: {{{policy}}}, endpoints: [{{lb_endpoints: [{}]}}]}}",
        list.join(", ")
    ))
}

/// A proxy whose cluster `c` and its endpoints come from `management`.
async fn start(management: &ManagementServer) -> Result<Proxy> {
    start_with(management, "").await
}

/// The same, with further fields of the route.
async fn start_with(management: &ManagementServer, of_route: &str) -> Result<Proxy> {
    let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: c{of_route}}}");
    let listener = HttpListener::new("http", &routes).route_config("validate_clusters: false");
    let clusters = management_cluster(&socket(management.address()));
    let text = bootstrap_of(&format!("cds_config: {ADS}\n"), &[listener.yaml()], &clusters, "GRPC");
    Proxy::start(&Binary::subject()?, &text).await
}

fn body(text: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
}

#[tokio::test]
async fn a_host_that_eds_removes_finishes_what_it_has() -> Result<()> {
    let (first, second) = (Upstream::start().await?, Upstream::start().await?);
    second.answer(body("second"));
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [cluster("")?]);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(&[first.addr()], "")?]);
    let proxy = start(&management).await?;
    first.script([
        Reply::early([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
            Step::ReadBody,
            Step::Send(b"world".to_vec()),
        ]),
        body("first"),
    ]);
    let mut busy = Client::connect(proxy.listener("http")?).await?;
    busy.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await?;
    eventually("the request", SOON, async || (first.received().len() == 1).then_some(())).await?;
    let mut kept = Client::connect(proxy.listener("http")?).await?;
    ensure!(fetch(&mut kept, "/").await?.body == b"first");
    ensure!(first.open() == 2);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [endpoints(&[second.addr()], "")?]);
    eventually("the idle connection to close", SOON, async || (first.open() == 1).then_some(())).await?;
    ensure!(fetch(&mut kept, "/").await?.body == b"second", "the client's connection goes on");
    busy.send(b"data").await?;
    ensure!(busy.response("POST", SOON).await?.body == b"helloworld");
    eventually("the busy connection to close", SOON, async || (first.open() == 0).then_some(())).await?;
    proxy.stop().await
}

#[tokio::test]
async fn every_change_of_hosts_may_close_all_connections() -> Result<()> {
    let (first, second) = (Upstream::start().await?, Upstream::start().await?);
    first.answer(Reply::ok());
    second.answer(Reply::ok());
    let management = ManagementServer::start().await?;
    management.set(
        &TypeUrl::CLUSTER,
        "1",
        [cluster(", common_lb_config: {close_connections_on_host_set_change: true}")?],
    );
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(&[first.addr()], "")?]);
    let proxy = start(&management).await?;
    ensure!(get(&proxy, "/").await?.head.status()? == 200);
    ensure!(first.open() == 1);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [endpoints(&[first.addr(), second.addr()], "")?]);
    eventually("the connection to the host that stays to close", SOON, async || {
        (first.open() == 0).then_some(())
    })
    .await?;
    for _ in 0..4 {
        ensure!(get(&proxy, "/").await?.head.status()? == 200);
    }
    proxy.stop().await
}

#[tokio::test]
async fn endpoints_that_are_not_confirmed_become_stale() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [cluster("")?]);
    let short = "endpoint_stale_after: 0.5s";
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(&[upstream.addr()], short)?]);
    let proxy = start(&management).await?;
    stat_becomes(&proxy, "cluster.c.assignment_timeout_received", 1).await?;
    stat_becomes(&proxy, "cluster.c.assignment_stale", 1).await?;
    stat_becomes(&proxy, "cluster.c.membership_total", 0).await?;
    ensure!(get(&proxy, "/").await?.head.status()? == 503);
    // A new assignment without a limit stays.
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [endpoints(&[upstream.addr()], "")?]);
    stat_becomes(&proxy, "cluster.c.membership_total", 1).await?;
    // One that is confirmed in time does, too.
    management.set(
        &TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
        "3",
        [endpoints(&[upstream.addr()], "endpoint_stale_after: 1s")?],
    );
    for version in 4..12 {
        let since = std::time::Instant::now();
        eventually("a moment", SOON, async || (since.elapsed() > Duration::from_millis(200)).then_some(()))
            .await?;
        let again = endpoints(&[upstream.addr()], "endpoint_stale_after: 1s")?;
        management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, &version.to_string(), [again]);
    }
    let stats = proxy.admin().stats("^cluster\\.c\\.(assignment_stale|membership_total)$").await?;
    ensure!(
        stats["cluster.c.assignment_stale"] == 1 && stats["cluster.c.membership_total"] == 1,
        "{stats:?}"
    );
    proxy.stop().await
}

/// The cluster `c`: this host, with these fields (YAML).
fn one_host(addr: SocketAddr, extra: &str) -> Result<Served> {
    let endpoint = format!("{{endpoint: {{address: {}}}}}", socket(addr));
    served::<Cluster>(&format!(
        "name: c\nconnect_timeout: 1s\ntype: STATIC\nload_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{endpoint}]}}]}}\n{extra}"
    ))
}

/// What becomes of a request, and the names that its server is asked for, if its cluster becomes one of TLS between two tries.
async fn secured_between_tries(certified: &str) -> Result<(u16, Vec<Option<String>>)> {
    let root = Authority::new("root")?;
    let identity = root.issue(&Wanted { sans: &[certified], ..Wanted::default() })?;
    let server = TlsServer::start(&identity, None, &[], rustls::ALL_VERSIONS)?;
    let plain = Upstream::start().await?;
    plain.answer(Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"));
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [one_host(plain.addr(), "")?]);
    let policy = "retry_on: retriable-status-codes, retriable_status_codes: [503], num_retries: 100000, retry_back_off: {base_interval: 0.01s, max_interval: 0.01s}";
    let proxy = start_with(&management, &format!(", timeout: 60s, retry_policy: {{{policy}}}")).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    eventually("a try", SOON, async || (plain.opened() > 0).then_some(())).await?;
    let context = format!("validation_context: {{trusted_ca: {}}}", inline(&root.pem));
    let names = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http_protocol_options: {}}\n    upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}\n";
    let secured = one_host(server.addr, &(upstream(&context, "") + names))?;
    management.set(&TypeUrl::CLUSTER, "2", [secured]);
    let status = client.response("GET", SOON).await?.head.status()?;
    proxy.stop().await?;
    Ok((status, server.seen().into_iter().map(|seen| seen.server_name).collect()))
}

#[tokio::test]
async fn a_cluster_that_comes_between_two_tries_has_its_server_held_to_the_name_that_the_client_asked_for()
-> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // It asks for what the cluster before said: for nothing.
        return Ok(());
    }
    let seen = secured_between_tries("dns:a").await?;
    ensure!(seen == (200, vec![Some("a".to_owned())]), "{seen:?}");
    let (status, _) = secured_between_tries("dns:b").await?;
    ensure!(status == 503, "a certificate for another name was taken: {status}");
    Ok(())
}

/// How long a try may take before the next begins beside it.
const TRY: Duration = Duration::from_secs(2);

/// What a request is answered of which the first try goes on when `change` has left nobody for a second.
async fn hedged_without_a_second(change: impl FnOnce(&ManagementServer), done: (&str, i64)) -> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // It ends the first try.
        return Ok(());
    }
    let host = Upstream::start().await?;
    let changed = Gate::default();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst".to_vec();
    // (Surely later than the second try.)
    host.script([Reply::steps([
        Step::Wait(changed.clone()),
        Step::Pause(TRY + TRY / 2),
        Step::Send(answer),
    ])]);
    let management = ManagementServer::start().await?;
    management.set(&TypeUrl::CLUSTER, "1", [cluster("")?]);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(&[host.addr()], "")?]);
    let policy = format!("retry_policy: {{retry_on: 5xx, per_try_timeout: {}s}}", TRY.as_secs());
    let hedged = format!(", timeout: 60s, {policy}, hedge_policy: {{hedge_on_per_try_timeout: true}}");
    let proxy = start_with(&management, &hedged).await?;
    stat_becomes(&proxy, "cluster.c.membership_total", 1).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    changed.reached_by(1).await;
    change(&management);
    stat_becomes(&proxy, done.0, done.1).await?;
    changed.open();
    let response = client.response("GET", SOON).await?;
    ensure!(response.body == b"first", "{response:?}");
    ensure!(host.received().len() == 1, "there was a second try");
    proxy.stop().await
}

#[tokio::test]
async fn a_hedged_try_goes_on_when_there_is_no_host_for_the_next() -> Result<()> {
    let nobody = endpoints(&[], "")?;
    let leave = |management: &ManagementServer| {
        management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [nobody]);
    };
    hedged_without_a_second(leave, ("cluster.c.membership_total", 0)).await
}

#[tokio::test]
async fn a_hedged_try_goes_on_when_there_is_no_cluster_for_the_next() -> Result<()> {
    let remove = |management: &ManagementServer| management.set(&TypeUrl::CLUSTER, "2", []);
    hedged_without_a_second(remove, ("cluster_manager.cluster_removed", 1)).await
}
