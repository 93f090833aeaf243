//! The process under a control plane: everything but the way to the management server comes from it.

mod aggregate;
mod churn;
mod faults;
mod listeners;
mod protocol;
mod rig;
mod secured;
mod sources;
mod statistics;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, within};
use xds::fake::ManagementServer;

use rig::*;

async fn serves_through_everything(api_type: &str) -> Result<()> {
    let Rig { management, upstream, proxy } = Rig::start(api_type).await?;
    let mut connection = Client::connect(proxy.listener("l")?).await?;
    ensure!(mark(&mut connection).await? == "1");

    for n in 0..200 {
        management.set(&RDS, &format!("swap {n}"), [routes("r", "c", &n.to_string())?]);
        mark(&mut connection).await?;
    }
    until_mark(&mut connection, "199").await?;

    management.set(&RDS, "bad", [bad_routes("r")?]);
    within("the rejection", SOON, management.rejected(&RDS)).await?;
    ensure!(mark(&mut connection).await? == "199", "the last good routes serve");

    let address = management.address();
    management.close_streams();
    drop(management);
    ensure!(mark(&mut connection).await? == "199", "they serve without a management server");
    let management = ManagementServer::listen(address).await?;
    management.set(&CDS, "2", [cluster("c")?]);
    management.set(&EDS, "2", [endpoints("c", &[upstream.addr()])?]);
    management.set(&LDS, "2", [listener("l", "r")?]);
    management.set(&RDS, "2", [routes("r", "c", "again")?]);
    until_mark(&mut connection, "again").await?;
    proxy.stop().await
}

#[tokio::test]
async fn serves_through_everything_by_state_of_the_world() -> Result<()> {
    serves_through_everything("GRPC").await
}

#[tokio::test]
async fn serves_through_everything_by_delta() -> Result<()> {
    serves_through_everything("DELTA_GRPC").await
}
