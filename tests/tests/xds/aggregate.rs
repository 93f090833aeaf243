//! Aggregate clusters under a control plane: requests follow the clusters that come, change and go, and none fails.

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, within};
use integration::process::Proxy;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;

use crate::rig::*;

fn aggregate(name: &str, members: &str) -> Result<Served> {
    served::<Cluster>(&format!(
        "{{name: {name}, connect_timeout: 1s, lb_policy: CLUSTER_PROVIDED, cluster_type: {{name: envoy.clusters.aggregate, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [{members}]}}}}}}"
    ))
}

/// Requests until one is answered so; all have to succeed.
async fn until(connection: &mut Client, wanted: &str) -> Result<()> {
    within(&format!("an answer of {wanted}"), SOON, async {
        loop {
            let (status, _, body) = get(connection).await?;
            ensure!(status == 200, "{status} {body}");
            if body == wanted {
                return anyhow::Ok(());
            }
        }
    })
    .await?
}

async fn follows(api_type: &str) -> Result<()> {
    let (first, second, third) =
        (upstream("first").await?, upstream("second").await?, upstream("third").await?);
    let management = ManagementServer::start().await?;
    let with_first = |members: &str| -> Result<Vec<Served>> {
        Ok(vec![aggregate("c", members)?, cluster("first")?, static_cluster("second", second.addr())?])
    };
    management.set(&CDS, "1", [aggregate("c", "first, second")?, static_cluster("second", second.addr())?]);
    management.set(&LDS, "1", [listener("l", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let proxy = Proxy::start(&binary()?, &bootstrap(management.address(), api_type)).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    until(&mut connection, "second").await?;

    management.set(&EDS, "1", [endpoints("first", &[first.addr()])?]);
    management.set(&CDS, "2", with_first("first, second")?);
    until(&mut connection, "first").await?;
    management.set(&EDS, "2", [endpoints("first", &[])?]);
    until(&mut connection, "second").await?;
    management.set(&EDS, "3", [endpoints("first", &[third.addr()])?]);
    until(&mut connection, "third").await?;
    management.set(&CDS, "3", with_first("second, first")?);
    until(&mut connection, "second").await?;
    management.set(&CDS, "4", with_first("first, second")?);
    until(&mut connection, "third").await?;
    management.set(&CDS, "5", [aggregate("c", "first, second")?, static_cluster("second", second.addr())?]);
    until(&mut connection, "second").await?;
    // It has another host, and is another cluster.
    management.set(&CDS, "6", [aggregate("c", "first, second")?, static_cluster("second", first.addr())?]);
    until(&mut connection, "first").await?;
    management.set(&CDS, "7", [aggregate("c", "first, second")?]);
    within("no answer", SOON, async {
        while get(&mut connection).await?.0 != 503 {}
        anyhow::Ok(())
    })
    .await??;
    management.set(&CDS, "8", [aggregate("c", "first, second")?, static_cluster("second", second.addr())?]);
    within("an answer", SOON, async {
        while get(&mut connection).await?.0 != 200 {}
        anyhow::Ok(())
    })
    .await??;
    proxy.stop().await
}

#[tokio::test]
async fn requests_follow_clusters_of_the_world() -> Result<()> {
    follows("GRPC").await
}

#[tokio::test]
async fn requests_follow_clusters_of_changes() -> Result<()> {
    follows("DELTA_GRPC").await
}
