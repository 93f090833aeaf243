//! Management servers that fail, lie or fall silent: the last good configuration serves on, and the next good one is taken.

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::ports::Relay;
use integration::process::{Kind, Proxy};
use xds::fake::{Fault, ManagementServer};

use crate::rig::*;

const BOTH: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// Sends routes under a fault. `after` waits until the fault was felt; then the routes `before` or the faulty ones serve, and
/// good ones are taken, all on one connection.
async fn survives(fault: Fault, after: impl AsyncFn(&Rig) -> Result<()>) -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        rig.management.script(fault.clone());
        rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
        after(&rig).await?;
        ensure!(["1", "2"].contains(&mark(&mut connection).await?.as_str()));
        rig.management.set(&RDS, "3", [routes("r", "c", "3")?]);
        until_mark(&mut connection, "3").await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

async fn a_second_stream(rig: &Rig) -> Result<()> {
    integration::expect::within(
        "a second stream",
        integration::expect::SOON,
        rig.management.streams_opened(2),
    )
    .await
}

async fn nothing(_: &Rig) -> Result<()> {
    Ok(())
}

#[tokio::test]
async fn a_response_without_a_nonce() -> Result<()> {
    survives(Fault::Nonce(String::new()), nothing).await
}

#[tokio::test]
async fn a_response_with_an_old_nonce() -> Result<()> {
    survives(Fault::Nonce("1".to_owned()), nothing).await
}

#[tokio::test]
async fn a_response_that_comes_twice() -> Result<()> {
    survives(Fault::Twice, nothing).await
}

#[tokio::test]
async fn a_response_of_a_type_that_nobody_asked_for() -> Result<()> {
    survives(Fault::TypeUrl("type.googleapis.com/no.such.Type".to_owned()), nothing).await
}

/// Clusters that claim to be routes.
#[tokio::test]
async fn a_response_of_another_type() -> Result<()> {
    survives(Fault::TypeUrl(CDS.as_str().to_owned()), async |rig| {
        rig.rejected(&CDS).await?;
        rig.stat("cluster_manager.cds.update_rejected", 1).await
    })
    .await
}

#[tokio::test]
async fn a_message_that_is_none() -> Result<()> {
    survives(Fault::Garbage(vec![0xff; 64].into()), a_second_stream).await
}

#[tokio::test]
async fn a_message_that_is_cut_off() -> Result<()> {
    survives(Fault::Truncate, a_second_stream).await
}

/// Envoy would wait for the 4 GiB; Outrigger takes 128 MiB unless `max_receive_message_length` says otherwise.
#[tokio::test]
async fn a_message_that_announces_too_much() -> Result<()> {
    if binary()?.kind != Kind::Outrigger {
        return Ok(());
    }
    survives(Fault::Announce(u32::MAX), a_second_stream).await
}

#[tokio::test]
async fn a_response_that_is_lost() -> Result<()> {
    survives(Fault::Silence, nothing).await
}

#[tokio::test]
async fn a_stream_that_ends_instead_of_a_response() -> Result<()> {
    survives(Fault::Close(13, "internal".to_owned()), a_second_stream).await
}

#[tokio::test]
async fn streams_that_are_refused() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        for _ in 0..3 {
            rig.management.script(Fault::Refuse(14, "no".to_owned()));
        }
        rig.management.close_streams();
        let opened = rig.management.streams_opened(5);
        integration::expect::within("three refused and one good", integration::expect::SOON, opened).await?;
        ensure!(mark(&mut connection).await? == "1");
        rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
        until_mark(&mut connection, "2").await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// A server whose connection carries nothing any more is told by the pings that its cluster asks for.
#[tokio::test]
async fn a_server_behind_a_black_hole() -> Result<()> {
    let up = upstream("hello").await?;
    let management = ManagementServer::start().await?;
    management.set(&CDS, "1", [cluster("c")?]);
    management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
    management.set(&LDS, "1", [listener("l", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let relay = Relay::to(management.address()).await?;
    let config = bootstrap(relay.addr(), "GRPC").replace(
        "http2_protocol_options: {}",
        "http2_protocol_options: {connection_keepalive: {interval: 0.2s, timeout: 0.5s}}",
    );
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");
    relay.freeze();
    management.set(&RDS, "2", [routes("r", "c", "2")?]);
    ensure!(mark(&mut connection).await? == "1", "the last good configuration serves");
    until_mark(&mut connection, "2").await?;
    proxy.stop().await
}

/// With changes only: of the world, a new stream would have to send the endpoints first, and end, for ever.
#[tokio::test]
async fn streams_that_end_after_each_response() -> Result<()> {
    let rig = Rig::start("DELTA_GRPC").await?;
    let mut connection = rig.connect("l").await?;
    rig.management.close_after_response(true);
    for version in ["2", "3", "4"] {
        rig.management.set(&RDS, version, [routes("r", "c", version)?]);
        until_mark(&mut connection, version).await?;
    }
    rig.management.close_after_response(false);
    rig.management.set(&RDS, "5", [routes("r", "c", "5")?]);
    until_mark(&mut connection, "5").await?;
    rig.stat("control_plane.connected_state", 1).await?;
    rig.proxy.stop().await
}

#[tokio::test]
async fn a_name_that_occurs_twice() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        rig.management.script(Fault::Repeat);
        rig.management.set(&CDS, "2", [cluster("c")?, static_cluster("d", rig.upstream.addr())?]);
        let nack = rig.rejected(&CDS).await?;
        let message = nack.error().expect("a rejection").message.clone();
        ensure!(message.contains("duplicate"), "{message}");
        ensure!(mark(&mut connection).await? == "1");
        rig.management.set(&CDS, "3", [cluster("c")?, static_cluster("e", rig.upstream.addr())?]);
        rig.management.set(&RDS, "3", [routes("r", "e", "3")?]);
        until_mark(&mut connection, "3").await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn resources_of_another_type_and_resources_that_are_none() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        let mut wrong = routes("r", "c", "wrong")?;
        wrong.any.type_url = CDS.as_str().to_owned();
        rig.management.set(&RDS, "2", [wrong]);
        rig.stat("http.p.rds.r.update_rejected", 1).await?;
        let mut broken = routes("r", "c", "broken")?;
        broken.any.value = vec![0xff, 0xff];
        broken.version = "broken".to_owned();
        rig.management.set(&RDS, "3", [broken]);
        rig.stat("http.p.rds.r.update_rejected", 2).await?;
        ensure!(mark(&mut connection).await? == "1");
        rig.management.set(&RDS, "4", [routes("r", "c", "4")?]);
        until_mark(&mut connection, "4").await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// A large response is taken, one above `max_receive_message_length` ends the stream.
#[tokio::test]
async fn messages_are_as_long_as_the_configuration_allows() -> Result<()> {
    let long = |mark: &str, bytes: usize| {
        let mut served = routes("r", "c", mark)?;
        let filler = served_filler(bytes);
        served.any.value.extend(filler);
        anyhow::Ok(served)
    };
    let rig = Rig::start("GRPC").await?;
    let mut connection = rig.connect("l").await?;
    rig.management.set(&RDS, "2", [long("2", 20 << 20)?]);
    until_mark(&mut connection, "2").await?;
    rig.proxy.stop().await?;

    let config = bootstrap(rig.management.address(), "GRPC")
        .replace("{cluster_name: m}", "{cluster_name: m, max_receive_message_length: 65536}");
    rig.management.set(&RDS, "3", [routes("r", "c", "3")?]);
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "3");
    let streams = rig.management.streams();
    rig.management.set(&RDS, "4", [long("4", 1 << 20)?]);
    integration::expect::within(
        "another stream",
        integration::expect::SOON,
        rig.management.streams_opened(streams + 1),
    )
    .await?;
    ensure!(mark(&mut connection).await? == "3");
    rig.management.set(&RDS, "5", [routes("r", "c", "5")?]);
    until_mark(&mut connection, "5").await?;
    proxy.stop().await
}

/// A virtual host with a long name, as the bytes of a route configuration's field.
fn served_filler(bytes: usize) -> Vec<u8> {
    use prost::Message;
    use xds_api::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
    let host = VirtualHost {
        name: "x".repeat(bytes),
        domains: vec!["nowhere".to_owned()],
        ..VirtualHost::default()
    };
    RouteConfiguration { virtual_hosts: vec![host], ..RouteConfiguration::default() }.encode_to_vec()
}
