//! Management servers behind TLS: their clusters are secured as those of traffic are.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{
    bootstrap as static_bootstrap, fill, indent, listener_with_filters, port, tcp_proxy,
};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, Wanted, downstream, inline, upstream};
use xds::fake::ManagementServer;

use crate::rig::*;

/// Ends the TLS of those who have a certificate of `authority`, and passes on to `server` what they say.
async fn guard(server: SocketAddr, authority: &Authority) -> Result<Proxy> {
    let identity = authority.issue(&Wanted { sans: &["dns:management.test"], ..Wanted::default() })?;
    let common = format!(
        "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}\nalpn_protocols: [h2]",
        identity.inline(),
        inline(&authority.pem)
    );
    let listener = listener_with_filters("tls", &tcp_proxy("guard", "cluster: up"))
        + &indent(&downstream(&common, "require_client_certificate: true"), 4);
    let clusters = [integration::config::cluster("up", "up", "")];
    let config = fill(&static_bootstrap(&[listener], &clusters, ""), [("up", port(server))]);
    Proxy::start(&Binary::outrigger()?, &config).await
}

/// The way to the management server over TLS, whose certificate has to be for `name`.
fn secured_cluster(guard: &Proxy, authority: &Authority, name: &str) -> Result<String> {
    let identity = authority.issue(&Wanted::default())?;
    let names = format!("match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {name}}}}}]");
    let common = format!(
        "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}, {names}}}",
        identity.inline(),
        inline(&authority.pem)
    );
    let secured = upstream(&common, &format!("sni: {name}"));
    Ok(management_cluster(&socket(guard.listener("tls")?)) + &indent(&secured, 2))
}

async fn serves_over_tls(api_type: &str) -> Result<()> {
    let authority = Authority::new("root")?;
    let up = integration::upstream::Upstream::start().await?;
    let management = ManagementServer::start().await?;
    management.set(&CDS, "1", [cluster("c")?]);
    management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
    management.set(&LDS, "1", [listener("l", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let guard = guard(management.address(), &authority).await?;
    let clusters = secured_cluster(&guard, &authority, "management.test")?;
    let proxy = Proxy::start(&binary()?, &bootstrap_with(&clusters, api_type, ADS)).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");
    ensure!(proxy.admin().stat("cluster.m.ssl.handshake").await? == 1);
    ensure!(guard.admin().stat("listener.127.0.0.1_0.ssl.handshake").await? == 1);
    management.set(&RDS, "2", [routes("r", "c", "2")?]);
    until_mark(&mut connection, "2").await?;
    proxy.stop().await?;
    guard.stop().await
}

#[tokio::test]
async fn the_stream_rides_tls_by_state_of_the_world() -> Result<()> {
    serves_over_tls("GRPC").await
}

#[tokio::test]
async fn the_stream_rides_tls_by_delta() -> Result<()> {
    serves_over_tls("DELTA_GRPC").await
}

/// Nothing is taken from a server that has the wrong name, and nothing is sent to it.
#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_nothing() -> Result<()> {
    let authority = Authority::new("root")?;
    let management = ManagementServer::start().await?;
    let guard = guard(management.address(), &authority).await?;
    let clusters = secured_cluster(&guard, &authority, "other.test")?;
    let briefly = "{resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.1s}";
    let proxy = Proxy::start(&binary()?, &bootstrap_with(&clusters, "GRPC", briefly)).await?;
    eventually("the refusal", SOON, async || proxy.log().contains("CERTIFICATE_VERIFY_FAILED").then_some(()))
        .await?;
    ensure!(management.recorded().is_empty(), "{:?}", management.recorded());
    proxy.stop().await?;
    guard.stop().await
}
