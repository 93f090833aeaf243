//! The conformance suite h2spec against Outrigger and Envoy with the same configuration: whatever Envoy passes, Outrigger
//! passes, and what it fails beyond that has a reason.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

use crate::rig::{Program, built};

/// How long h2spec waits for what must happen; a case that is failed for good takes as long.
const PATIENCE: &str = "4";

/// What h2spec found of each case by its number and description: why it failed, if it did.
type Verdicts = BTreeMap<String, Option<String>>;

async fn judge(binary: &Binary, upstream: &Upstream) -> Result<Verdicts> {
    let text = bootstrap(&[HttpListener::to_up("http").yaml()], &[cluster("up", "up", "")], "");
    let proxy = Proxy::start(binary, &fill(&text, [("up", port(upstream.addr()))])).await?;
    let report = proxy.dir().join("report.xml");
    let mut command = built("h2spec")?;
    command.args(["--strict", "--timeout", PATIENCE, "--host", "127.0.0.1", "--port"]);
    command.arg(port(proxy.listener("http")?)).arg("--junit-report").arg(&report);
    // it exits with 1 if anything failed
    let (_, said) = Program::start(command)?.ended(Duration::from_secs(240)).await?;
    let report = std::fs::read_to_string(&report).with_context(|| format!("no report:\n{said}"))?;
    proxy.stop().await?;
    read_report(&report)
}

/// Reads a JUnit report as h2spec writes it: one line for each tag.
fn read_report(report: &str) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for case in report.split("<testcase ").skip(1) {
        let attribute = |name: &str| {
            let (_, rest) = case.split_once(&format!("{name}=\"")).context("an attribute is missing")?;
            Ok::<_, anyhow::Error>(rest.split('"').next().unwrap_or_default().replace("&#39;", "'"))
        };
        let name = format!("{} {}", attribute("package")?, attribute("classname")?);
        let failed = ["failure", "error"].iter().find_map(|tag| {
            let (_, rest) = case.split_once(&format!("<{tag}"))?;
            let (_, text) = rest.split_once('>')?;
            Some(text.split("</").next().unwrap_or_default().replace("&#xA;", " ").trim().to_owned())
        });
        ensure!(verdicts.insert(name.clone(), failed).is_none(), "two cases are called {name:?}");
    }
    ensure!(verdicts.len() > 140, "only {} cases in the report", verdicts.len());
    Ok(verdicts)
}

#[tokio::test]
async fn whatever_envoy_passes_outrigger_passes() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz"));
    let (ours, envoys) = (Binary::outrigger()?, Binary::envoy()?);
    let (ours, envoys) = tokio::try_join!(judge(&ours, &upstream), judge(&envoys, &upstream))?;
    let passed = |verdicts: &Verdicts| verdicts.values().filter(|failed| failed.is_none()).count();
    println!("outrigger passes {} of {}, envoy {}", passed(&ours), ours.len(), passed(&envoys));
    let mut worse = Vec::new();
    for (name, envoy) in &envoys {
        let our = ours.get(name).with_context(|| format!("{name} did not run"))?;
        match (our, envoy) {
            (None, None) => {}
            (None, Some(_)) => println!("only outrigger passes: {name}"),
            (Some(why), Some(_)) => println!("both fail: {name}: {why}"),
            (Some(why), None) => worse.push(format!("only envoy passes: {name}: {why}")),
        }
    }
    ensure!(worse.is_empty(), "{}", worse.join("\n"));
    Ok(())
}
