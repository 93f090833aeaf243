//! The conversation with a management server: what is asked, when it is answered, and what an answer leads to.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, eventually, within};
use integration::process::{Kind, Proxy};
use prost_types::Any;
use xds::fake::{ManagementServer, Recorded, Served};
use xds::{Request, TypeUrl};
use xds_api::envoy::config::cluster::v3::Cluster;

use crate::rig::*;

const BOTH: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// How many responses of a type were answered so far.
fn answers(recorded: &[Recorded], type_url: &TypeUrl) -> usize {
    recorded.iter().filter(|one| one.type_url() == *type_url && !one.nonce().is_empty()).count()
}

impl Rig {
    /// Waits until some request satisfies `look`, and gives its position among all.
    async fn request(&self, what: &str, look: impl Fn(&Recorded) -> bool) -> Result<usize> {
        within(what, SOON, self.management.wait(|all| all.iter().position(&look))).await
    }

    /// Waits until a response with this nonce was answered; the answer and its position.
    async fn answer(&self, nonce: &str) -> Result<(usize, Recorded)> {
        let find = |all: &[Recorded]| {
            // A state-of-the-world request that only changes names repeats the last nonce: the first with it is the answer.
            all.iter().position(|one| one.nonce() == nonce).map(|at| (at, all[at].clone()))
        };
        within(&format!("the answer to {nonce}"), SOON, self.management.wait(find)).await
    }

    /// Serves something new and waits for the answer to it.
    async fn change(&self, type_url: &TypeUrl, version: &str, resources: Vec<Served>) -> Result<Recorded> {
        let nonce = self.management.next_nonce();
        self.management.set(type_url, version, resources);
        Ok(self.answer(&nonce).await?.1)
    }
}

#[tokio::test]
async fn clusters_are_acknowledged_when_they_are_warm() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let up = rig.upstream.addr();
        rig.management.hold(&EDS);
        let clusters = rig.management.next_nonce();
        rig.management.set(&EDS, "2", [endpoints("c", &[up])?, endpoints("d", &[up])?]);
        rig.management.set(&CDS, "2", [cluster("c")?, cluster("d")?]);
        let asks = |one: &Recorded| one.type_url() == EDS && one.names().iter().any(|name| name == "d");
        rig.request("the endpoints asked for", asks).await?;
        rig.stat("cluster_manager.warming_clusters", 1).await?;
        // Routes come and are answered meanwhile; a new version of the clusters would not be.
        rig.change(&RDS, "2", vec![routes("r", "c", "2")?]).await?;
        ensure!(!rig.management.recorded().iter().any(|one| one.nonce() == clusters), "answered too early");
        let assignments = rig.management.next_nonce();
        rig.management.release(&EDS);
        let (clusters, answer) = rig.answer(&clusters).await?;
        ensure!(answer.is_ack(), "{answer:?}");
        let (assignments, _) = rig.answer(&assignments).await?;
        ensure!(clusters < assignments, "the clusters are answered first");
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// A stream that ends while clusters warm: the next one asks for their endpoints, and all goes on from there.
#[tokio::test]
async fn clusters_become_warm_on_the_next_stream() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let up = rig.upstream.addr();
        rig.management.hold(&EDS);
        rig.management.set(&EDS, "2", [endpoints("c", &[up])?, endpoints("d", &[up])?]);
        rig.management.set(&CDS, "2", [cluster("c")?, cluster("d")?]);
        rig.stat("cluster_manager.warming_clusters", 1).await?;
        rig.management.close_streams();
        within("the next stream", SOON, rig.management.streams_opened(2)).await?;
        rig.management.release(&EDS);
        rig.stat("cluster_manager.active_clusters", 3).await?;
        let answer = rig.change(&CDS, "3", vec![cluster("c")?]).await?;
        ensure!(answer.is_ack(), "{answer:?}");
        rig.stat("cluster_manager.active_clusters", 2).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn listeners_are_acknowledged_before_their_routes_came() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start_with(api_type, &["--drain-time-s", "1"]).await?;
        let mut connection = rig.connect("l").await?;
        rig.management.hold(&RDS);
        let answer = rig.change(&LDS, "2", vec![listener("l", "other")?]).await?;
        ensure!(answer.is_ack(), "{answer:?}");
        let asks = |one: &Recorded| one.type_url() == RDS && one.names().iter().any(|name| name == "other");
        rig.request("the routes asked for", asks).await?;
        rig.stat("listener_manager.total_listeners_warming", 1).await?;
        ensure!(mark(&mut connection).await? == "1", "the old listener serves");
        let waits = rig.proxy.admin().get("/init_dump").await?;
        ensure!(waits.contains("init manager Listener-local-init-manager l "), "{waits}");
        ensure!(waits.contains("shared target RdsRouteConfigSubscription RDS init other"), "{waits}");

        rig.management.release(&RDS);
        rig.management.set(&RDS, "2", [routes("r", "c", "1")?, routes("other", "c", "other")?]);
        // A connection may still have come to the old filter chain, which drains.
        eventually("the other routes", SOON, async || {
            let mut fresh = rig.connect("l").await.ok()?;
            (mark(&mut fresh).await.ok()? == "other").then_some(())
        })
        .await?;
        // The old routes are wanted until the old filter chain has drained.
        let drops = |one: &Recorded| match &one.request {
            Request::StateOfTheWorld(_) => one.type_url() == RDS && one.names() == ["other"],
            Request::Delta(_) => one.unsubscribed() == ["r"],
        };
        rig.request("the old routes dropped", drops).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_left_out_of_endpoints_and_routes_stays() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let mut connection = rig.connect("l").await?;
    rig.change(&EDS, "2", Vec::new()).await?;
    rig.change(&RDS, "2", Vec::new()).await?;
    ensure!(mark(&mut connection).await? == "1");
    rig.proxy.stop().await
}

#[tokio::test]
async fn endpoints_and_routes_that_are_removed_stay() -> Result<()> {
    let rig = Rig::start("DELTA_GRPC").await?;
    let mut connection = rig.connect("l").await?;
    rig.change(&EDS, "2", Vec::new()).await?;
    rig.stat("cluster.c.update_empty", 1).await?;
    rig.change(&RDS, "2", Vec::new()).await?;
    ensure!(mark(&mut connection).await? == "1");
    rig.proxy.stop().await
}

#[tokio::test]
async fn clusters_and_listeners_that_are_gone_are_removed() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let up = rig.upstream.addr();
        rig.change(&CDS, "2", vec![cluster("c")?, static_cluster("d", up)?]).await?;
        rig.change(&RDS, "2", vec![routes("r", "d", "2")?]).await?;
        rig.change(&LDS, "2", vec![listener("l", "r")?, listener("k", "r")?]).await?;
        let mut connection = rig.connect("l").await?;
        until_mark(&mut connection, "2").await?;
        let address = rig.address("k").await?;
        rig.change(&CDS, "3", vec![cluster("c")?]).await?;
        rig.stat("cluster_manager.active_clusters", 2).await?;
        within("no cluster", SOON, async {
            while get(&mut connection).await?.0 != 503 {}
            anyhow::Ok(())
        })
        .await??;
        rig.change(&LDS, "3", vec![listener("l", "r")?]).await?;
        eventually("no listener", SOON, async || Client::connect(address).await.is_err().then_some(()))
            .await?;
        rig.stat("listener_manager.listener_removed", 1).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_good_resources_of_a_rejected_response_are_taken() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        let clusters = vec![cluster("c")?, bad_cluster("e")?, static_cluster("f", rig.upstream.addr())?];
        let nack = rig.change(&CDS, "2", clusters).await?;
        let status = nack.error().expect("a rejection").clone();
        ensure!(status.code == 13, "{status:?}");
        ensure!(status.message.starts_with("Error adding/updating cluster(s) e: "), "{status:?}");
        ensure!(status.message.ends_with("cannot create an EDS cluster without an EDS config"), "{status:?}");
        if api_type == "GRPC" {
            ensure!(nack.version() == "1", "the last good version: {nack:?}");
        }
        rig.stat("cluster_manager.active_clusters", 3).await?;
        rig.change(&RDS, "2", vec![routes("r", "f", "f")?]).await?;
        until_mark(&mut connection, "f").await?;

        let nack = rig.change(&RDS, "3", vec![bad_routes("r")?]).await?;
        let message = nack.error().expect("a rejection").message.clone();
        ensure!(message.ends_with("Only a single wildcard domain is permitted in route r"), "{message}");
        let bad = listener_with(
            "bad",
            ANY_PORT,
            "  filters: [{name: x, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct}}]\n",
        )?;
        let nack = rig.change(&LDS, "2", vec![listener("l", "r")?, bad, listener("good", "r")?]).await?;
        let message = nack.error().expect("a rejection").message.clone();
        ensure!(message.starts_with("Error adding/updating listener(s) bad: "), "{message}");
        ensure!(message.contains("Didn't find a registered implementation for 'x'"), "{message}");
        let mut good = rig.connect("good").await?;
        ensure!(mark(&mut good).await? == "f");
        ensure!(mark(&mut connection).await? == "f", "the last good listener serves");

        let dump = rig.proxy.admin().config_dump("?resource=dynamic_listeners").await?.to_string();
        ensure!(dump.contains("failed_configuration") && dump.contains("last_update_attempt"), "{dump}");
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// Where Outrigger says more than Envoy: the path of what is wrong, in every rejection.
#[tokio::test]
async fn a_rejection_names_the_path() -> Result<()> {
    if binary()?.kind != Kind::Outrigger {
        return Ok(());
    }
    let rig = Rig::start("GRPC").await?;
    let nack = rig.change(&RDS, "2", vec![bad_routes("r")?]).await?;
    let message = &nack.error().expect("a rejection").message;
    ensure!(message.starts_with("r: virtual_hosts[0].domains[1]: "), "{message}");
    let wrong = served::<Cluster>("{name: c, connect_timeout: 0s}")?;
    let nack = rig.change(&CDS, "2", vec![wrong]).await?;
    let message = &nack.error().expect("a rejection").message;
    ensure!(
        message.contains("c: Proto constraint validation failed: connect_timeout: value must be"),
        "{message}"
    );
    rig.proxy.stop().await
}

#[tokio::test]
async fn what_a_rejected_response_takes_away_goes_with_the_next_good_one() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        rig.change(&CDS, "2", vec![cluster("c")?, static_cluster("d", rig.upstream.addr())?]).await?;
        rig.stat("cluster_manager.active_clusters", 3).await?;
        let invalid = served::<Cluster>("{name: e, connect_timeout: 0s}")?;
        let nack = rig.change(&CDS, "3", vec![cluster("c")?, invalid]).await?;
        ensure!(nack.error().is_some(), "{nack:?}");
        rig.stat("cluster_manager.active_clusters", 3).await?;
        if api_type == "GRPC" {
            rig.change(&CDS, "4", vec![cluster("c")?]).await?;
        } else {
            // A delta server says it once more when it is told what is held.
            rig.management.set(&CDS, "4", [cluster("c")?]);
            rig.management.close_streams();
        }
        rig.stat("cluster_manager.active_clusters", 2).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn everything_is_asked_for_by_an_empty_list() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        for kind in [CDS, LDS] {
            let all = rig.management.recorded();
            let first = all.iter().find(|one| one.type_url() == kind).expect("a request");
            ensure!(
                first.names().is_empty() && first.nonce().is_empty() && first.node().is_some(),
                "{first:?}"
            );
        }
        rig.proxy.stop().await?;
    }
    Ok(())
}

const IMPATIENT: &str = "{resource_api_version: V3, initial_fetch_timeout: 0.1s, ads: {}}";

#[tokio::test]
async fn an_initial_fetch_timeout_ends_the_wait() -> Result<()> {
    for api_type in BOTH {
        let management = ManagementServer::start().await?;
        management.set(&CDS, "1", [cluster_from("c", IMPATIENT, "")?]);
        management.set(&LDS, "1", [listener_with("l", ANY_PORT, &http_chain("p", &rds("r", IMPATIENT)))?]);
        let proxy = Proxy::start(&binary()?, &bootstrap(management.address(), api_type)).await?;
        stat(&proxy, "cluster.c.init_fetch_timeout", 1).await?;
        stat(&proxy, "http.p.rds.r.init_fetch_timeout", 1).await?;
        let mut connection = Client::connect(proxy.listener("l")?).await?;
        ensure!(get(&mut connection).await?.0 == 404, "without routes");
        management.set(&RDS, "1", [routes("r", "c", "1")?]);
        within("routes after all", SOON, async {
            while get(&mut connection).await?.0 != 503 {}
            anyhow::Ok(())
        })
        .await??;
        let up = upstream("hello").await?;
        management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
        within("endpoints after all", SOON, async {
            while get(&mut connection).await?.0 != 200 {}
            anyhow::Ok(())
        })
        .await??;
        proxy.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_server_delays_the_start_only_so_long() -> Result<()> {
    let management = ManagementServer::start().await?;
    let clusters = management_cluster(&socket(management.address()));
    let proxy = Proxy::start(&binary()?, &bootstrap_with(&clusters, "GRPC", IMPATIENT)).await?;
    stat(&proxy, "cluster_manager.cds.init_fetch_timeout", 1).await?;
    stat(&proxy, "listener_manager.lds.init_fetch_timeout", 1).await?;
    stat(&proxy, "listener_manager.workers_started", 1).await?;
    proxy.stop().await
}

/// (Of the world, Envoy 1.40 removes a cluster of which only a heartbeat comes.)
#[tokio::test]
async fn a_resource_lives_as_long_as_its_time_to_live_is_renewed() -> Result<()> {
    if binary()?.kind == Kind::Envoy {
        return Ok(());
    }
    let rig = Rig::start("GRPC").await?;
    let mortal = |mut served: Served, version: &str| {
        served.version = version.to_owned();
        served.ttl = Some(Duration::from_millis(600));
        served
    };
    let d = static_cluster("d", rig.upstream.addr())?;
    rig.change(&CDS, "2", vec![mortal(cluster("c")?, "2"), mortal(d.clone(), "2")]).await?;
    rig.stat("cluster_manager.active_clusters", 3).await?;
    // The version stays, so nothing is sent until asked for.
    let heartbeat = |served: Served| mortal(Served { any: Any::default(), ..served }, "2");
    rig.management.set(&CDS, "2", [heartbeat(cluster("c")?), heartbeat(d)]);
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..6 {
        pace.tick().await;
        // Heartbeats are names and the version that is held, without resources.
        let nonce = rig.management.next_nonce();
        rig.management.send_again(&CDS);
        rig.answer(&nonce).await?;
        ensure!(rig.proxy.admin().stat("cluster_manager.cluster_removed").await? == 0, "alive while renewed");
    }
    rig.stat("cluster_manager.cluster_removed", 2).await?;
    rig.stat("cluster_manager.active_clusters", 1).await?;
    rig.proxy.stop().await
}

#[tokio::test]
async fn the_stream_is_opened_again_until_it_stays() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        rig.stat("control_plane.connected_state", 1).await?;
        rig.management.refuse_connections(true);
        rig.management.close_connections();
        rig.stat("control_plane.connected_state", 0).await?;
        eventually("attempts that failed", SOON, async || {
            let failures = rig.proxy.admin().stat("cluster_manager.cds.update_failure").await.ok()?;
            (failures >= 2).then_some(())
        })
        .await?;
        ensure!(mark(&mut connection).await? == "1", "the last good configuration serves");
        rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
        rig.management.refuse_connections(false);
        until_mark(&mut connection, "2").await?;
        rig.stat("control_plane.connected_state", 1).await?;
        // The new stream starts from what is held.
        let all = rig.management.recorded();
        let last = all.iter().map(|one| one.stream).max().unwrap_or_default();
        let first = all.iter().find(|one| one.stream == last && one.type_url() == RDS).expect("a request");
        match &first.request {
            Request::StateOfTheWorld(request) => {
                ensure!(request.version_info == "1" && request.response_nonce.is_empty(), "{request:?}");
            }
            Request::Delta(request) => {
                ensure!(request.initial_resource_versions.contains_key("r"), "{request:?}");
            }
        }
        // (It is answered after it serves.)
        let answered = async || (answers(&rig.management.recorded(), &RDS) >= 2).then_some(());
        eventually("the answer", SOON, answered).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}

/// A cluster's new form serves when its endpoints came; until then the old one does, and no request is lost.
#[tokio::test]
async fn a_changed_cluster_is_made_before_the_old_one_breaks() -> Result<()> {
    for api_type in BOTH {
        let rig = Rig::start(api_type).await?;
        let mut connection = rig.connect("l").await?;
        rig.management.hold(&EDS);
        let other = upstream("other").await?;
        rig.management.set(&EDS, "2", [endpoints("moved", &[other.addr()])?]);
        let moved = served::<Cluster>(&format!(
            "{{name: c, connect_timeout: 1s, type: EDS, eds_cluster_config: {{service_name: moved, eds_config: {ADS}}}}}"
        ))?;
        rig.management.set(&CDS, "2", [moved]);
        rig.stat("cluster_manager.warming_clusters", 1).await?;
        ensure!(get(&mut connection).await?.2 == "hello", "the old form serves");
        rig.management.release(&EDS);
        within("the new form", SOON, async {
            loop {
                let (status, _, body) = get(&mut connection).await?;
                ensure!(status == 200, "{status} {body}");
                if body == "other" {
                    return Ok(());
                }
            }
        })
        .await??;
        rig.stat("cluster_manager.cluster_modified", 1).await?;
        rig.proxy.stop().await?;
    }
    Ok(())
}
