//! gRPC's own interoperability client and server with the proxy between them, HTTP/2 on both sides.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, port};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};

use crate::rig::{Program, built};

const LIMIT: Duration = Duration::from_secs(60);

/// The cases of gRPC's interoperability specification that need no cloud, and a server that fills in nothing of its own
/// (`pick_first_unary` does).
const CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
    "orca_oob",
];

/// A proxy whose only route leads to a gRPC server, for as long as a call takes.
async fn proxy_to(server: SocketAddr) -> Result<Proxy> {
    let routes = "- match: {prefix: /}\n  route: {cluster: up, timeout: 0s}";
    let text = bootstrap(&[HttpListener::new("http", routes).yaml()], &[cluster("up", "up", H2_CLUSTER)], "");
    Proxy::start(&Binary::subject()?, &fill(&text, [("up", port(server))])).await
}

fn client(program: &str, case: &str, proxy: &Proxy) -> Result<Command> {
    let mut command = built(program)?;
    command.args(["-server_host=127.0.0.1", &format!("-server_port={}", proxy.listener("http")?.port())]);
    command.arg(format!("-test_case={case}"));
    Ok(command)
}

#[tokio::test]
async fn the_cases_that_need_no_cloud() -> Result<()> {
    let mut command = built("server")?;
    command.arg("-port=0").env("GRPC_GO_LOG_SEVERITY_LEVEL", "info");
    let mut server = Program::start(command)?;
    let bound = server.hears("interop server listening on ", SOON).await?;
    let server_port = bound.rsplit(':').next().context("no port")?.parse()?;
    let proxy = proxy_to(SocketAddr::from(([127, 0, 0, 1], server_port))).await?;

    let mut failed = Vec::new();
    for case in CASES {
        let mut command = client("client", case, &proxy)?;
        if case.ends_with("_soak") {
            // a busy machine is no failure: what counts is that every call ends well
            command.arg("-soak_iterations=50").arg("-soak_overall_timeout_seconds=50");
            command.arg("-soak_per_iteration_max_acceptable_latency_ms=20000");
        }
        if case.starts_with("orca_") {
            command.arg(
                "-service_config_json={\"loadBalancingConfig\": [{\"test_backend_metrics_load_balancer\": {}}]}",
            );
        }
        if let Err(error) = Program::start(command)?.finish(LIMIT).await {
            failed.push(format!("{case}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{} of {}:\n{}", failed.len(), CASES.len(), failed.join("\n"));
    let admin = proxy.admin();
    let calls = admin.stat("cluster.up.upstream_rq_total").await?;
    ensure!(calls > 100, "{calls} calls went through the proxy");
    ensure!(admin.stat("cluster.up.upstream_rq_active").await? == 0, "a call is left over");
    proxy.stop().await
}

/// Runs a negative case that its client is content with; what its server saw.
async fn negative(case: &str) -> Result<Saw> {
    let (code, said, saw) = run_negative(case).await?;
    ensure!(code == Some(0), "{code:?}: {said}\n{saw:?}");
    Ok(saw)
}

async fn run_negative(case: &str) -> Result<(Option<i32>, String, Saw)> {
    let mut command = built("badserver")?;
    command.arg(format!("-case={case}"));
    let mut server = Program::start(command)?;
    let addr = server.hears("ready ", SOON).await?.parse()?;
    let proxy = proxy_to(addr).await?;
    let (code, said) = Program::start(client("http2", case, &proxy)?)?.ended(LIMIT).await?;
    ensure!(proxy.admin().stat("cluster.up.upstream_rq_active").await? == 0, "a call is left over");
    proxy.stop().await?;
    Ok((code, said, Saw::read(&server.finish(SOON).await?)?))
}

/// What the server of a negative case says in the end.
#[derive(Debug)]
struct Saw {
    calls: u64,
    connections: u64,
    streams: u64,
    pings: u64,
    answered: u64,
}

impl Saw {
    fn read(text: &str) -> Result<Self> {
        let number = |name: &str| -> Result<u64> {
            let (_, rest) = text.rsplit_once(&format!("{name}=")).with_context(|| text.to_owned())?;
            Ok(rest.split_whitespace().next().context("no number")?.parse()?)
        };
        Ok(Self {
            calls: number("calls")?,
            connections: number("connections")?,
            streams: number("streams")?,
            pings: number("pings")?,
            answered: number("answered")?,
        })
    }
}

#[tokio::test]
async fn a_server_that_leaves_after_each_call() -> Result<()> {
    let saw = negative("goaway").await?;
    ensure!(saw.calls == 2 && saw.connections == 2, "{saw:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_reset_after_the_head() -> Result<()> {
    let saw = negative("rst_after_header").await?;
    ensure!(saw.calls == 1, "{saw:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_reset_in_the_message() -> Result<()> {
    // The client wants the code UNKNOWN, but makes INTERNAL of this reset without any proxy too: what counts is that it sees
    // the reset and no answer.
    let (_, said, saw) = run_negative("rst_during_data").await?;
    ensure!(said.contains("= _, Internal, want _, Unknown"), "{said}");
    ensure!(saw.calls == 1, "{saw:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_reset_after_the_message() -> Result<()> {
    let saw = negative("rst_after_data").await?;
    ensure!(saw.calls == 1, "{saw:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_pings_between_frames() -> Result<()> {
    let saw = negative("ping").await?;
    ensure!(saw.calls == 1 && saw.pings > 40 && saw.answered == saw.pings, "{saw:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_one_stream_at_a_time() -> Result<()> {
    let saw = negative("max_streams").await?;
    ensure!(saw.calls == 16 && saw.streams == 1, "{saw:?}");
    Ok(())
}
