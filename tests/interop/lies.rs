//! A management server that lies in every way it can (`python/liar.py`): the proxy goes on with what it was told last in
//! truth, rejects what Envoy rejects, and takes the next truth.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::config::{H2_CLUSTER, cluster, fill, indent};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;

use crate::rig::{Program, python};

/// Of a program that makes a proxy reconnect many times.
const LIMIT: Duration = Duration::from_secs(150);

/// The name of each lie, and what the proxy answered.
type Answers = Vec<(String, String)>;

/// The lies that Outrigger answers otherwise than Envoy on purpose.
const KEPT: [(&str, &str); 1] =
    [("a huge name", "a name of megabytes is in every statistic and message: the resource is rejected")];

async fn lie_to(binary: &Binary, kind: &str, api_type: &str) -> Result<Answers> {
    let upstream = Upstream::start().await?;
    let mut command = python("liar.py")?;
    command.args([kind, &upstream.addr().port().to_string()]);
    let mut liar = Program::start(command)?;
    let port = liar.hears("ready ", LIMIT).await?;
    let ads = "{resource_api_version: V3, ads: {}}";
    let text = format!(
        "node: {{id: interop, cluster: interop}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\ndynamic_resources:\n  ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: management}}}}]}}\n  lds_config: {ads}\n  cds_config: {ads}\nstatic_resources:\n  clusters:\n{}",
        indent(&cluster("management", "management", H2_CLUSTER), 2),
    );
    let proxy = Proxy::start(binary, &fill(&text, [("management", port)])).await?;
    liar.say(&proxy.admin().addr().to_string())?;
    let said = liar.finish(LIMIT).await;
    let said = said.with_context(|| format!("the proxy said:\n{}", proxy.log_tail()))?;
    ensure!(said.contains("every lie was survived"), "{said}");
    proxy.stop().await?;
    let lies = said.lines().filter_map(|line| line.strip_prefix("lie ")?.split_once(": "));
    Ok(lies.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect())
}

/// Tells the same lies to both proxies; `kept` are those that Outrigger answers in another way on purpose. Says what both
/// answered.
async fn compare(kind: &str, api_type: &str, kept: &[(&str, &str)]) -> Result<String> {
    let (ours, envoys) = (Binary::outrigger()?, Binary::envoy()?);
    let (ours, envoys) = tokio::try_join!(lie_to(&ours, kind, api_type), lie_to(&envoys, kind, api_type))?;
    ensure!(ours.len() == envoys.len() && ours.len() > 25, "{} and {} lies", ours.len(), envoys.len());
    let (mut different, mut all) = (Vec::new(), String::new());
    for ((name, our), (_, envoy)) in ours.iter().zip(&envoys) {
        all.push_str(&format!("{name}\n    outrigger: {our}\n    envoy:     {envoy}\n"));
        let word = |answer: &str| answer.split(' ').next().unwrap_or_default().to_owned();
        let declared = kept.iter().any(|(lie, _)| lie == name);
        if (word(our) != word(envoy)) != declared {
            different.push(format!("{name}: {our}; envoy: {envoy}; declared: {declared}"));
        }
        ensure!(!our.starts_with("NACK") || our.len() > "NACK ".len() + 10, "{name}: no reason: {our}");
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(all)
}

#[tokio::test]
async fn lies_about_the_world() -> Result<()> {
    let answers = compare("world", "GRPC", &KEPT).await?;
    println!("{answers}");
    Ok(())
}

#[tokio::test]
async fn lies_about_changes() -> Result<()> {
    let answers = compare("changes", "DELTA_GRPC", &KEPT).await?;
    println!("{answers}");
    Ok(())
}
