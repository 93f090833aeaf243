//! The demonstration: real servers, a real management server, a real proxy, and real traffic while everything changes.
//!
//! Several clients send requests without a pause. Meanwhile the management server changes routes and endpoints, sends one
//! configuration that is wrong, sends many in a row, and finally dies. Every request counts; one that fails makes the
//! demonstration fail. With `SUBJECT=envoy` the real Envoy takes the proxy's place.

mod resources;
mod traffic;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::expect::{SOON, within};
use integration::process::{Binary, Kind, Proxy};
use integration::upstream::{Reply, Upstream};
use xds::TypeUrl;
use xds::fake::ManagementServer;

use resources::{Routes, bootstrap, clusters, endpoints, listener};
use traffic::Traffic;

/// How long each state of the configuration carries traffic.
const PHASE: Duration = Duration::from_millis(800);

/// Updates in a row, and the pause between two of them.
const BURST: (usize, Duration) = (100, Duration::from_millis(10));

fn say(text: &str) {
    // whoever closed stdout does not want to hear it
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(demonstrate())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

struct Upstreams {
    blue: Vec<Upstream>,
    green: Vec<Upstream>,
}

impl Upstreams {
    async fn start() -> Result<Self> {
        let mut upstreams = Self { blue: Vec::new(), green: Vec::new() };
        for name in ["blue-1", "blue-2", "green-1"] {
            let upstream = Upstream::start().await?;
            upstream.answer(Reply::raw(format!(
                "HTTP/1.1 200 OK\r\nx-upstream: {name}\r\ncontent-length: 3\r\n\r\nhi\n"
            )));
            say(&format!("  upstream {name:8} on {}", upstream.addr()));
            if name.starts_with("blue") {
                upstreams.blue.push(upstream)
            } else {
                upstreams.green.push(upstream)
            }
        }
        Ok(upstreams)
    }
}

async fn demonstrate() -> Result<()> {
    say("Starting");
    let upstreams = Upstreams::start().await?;
    let management = ManagementServer::start().await?;
    let all: Vec<_> = upstreams.blue.iter().map(Upstream::addr).collect();
    let green: Vec<_> = upstreams.green.iter().map(Upstream::addr).collect();
    management.set(&TypeUrl::CLUSTER, "1", clusters(&["blue", "green"]));
    let assigned = [endpoints("blue", &all[..1]), endpoints("green", &green)];
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", assigned);
    management.set(&TypeUrl::LISTENER, "1", [listener()]);
    management.set(&TypeUrl::ROUTE_CONFIGURATION, "1", [Routes::To("blue").served()]);
    say(&format!("  management server on {}", management.address()));

    let binary = match std::env::var("SUBJECT").as_deref() {
        Ok("envoy") => Binary::envoy()?,
        _ => Binary::outrigger()?,
    };
    let started = Instant::now();
    let mut proxy = Proxy::start(&binary, &bootstrap(management.address())).await?;
    let name = if proxy.kind() == Kind::Envoy { "envoy" } else { "outrigger" };
    let addr = proxy.listener("demo")?;
    say(&format!(
        "  {name} on {addr}, ready after {} ms, configuration from xDS",
        started.elapsed().as_millis()
    ));

    let traffic = Traffic::start(addr, 8);
    say("Traffic flows; the configuration changes underneath");
    let demo = Demo { traffic, management };
    demo.phase("routes 1: everything to blue", &["blue-1"]).await?;
    demo.routes("2", Routes::Split).await?;
    demo.phase("routes 2: half to green", &["blue-1", "green-1"]).await?;
    demo.routes("3", Routes::To("green")).await?;
    demo.phase("routes 3: everything to green", &["green-1"]).await?;
    let why = demo.wrong_routes().await?;
    demo.phase(&format!("routes 4 are wrong and rejected ({why})"), &["green-1"]).await?;
    demo.routes("5", Routes::To("blue")).await?;
    demo.assign(&all, &green).await?;
    demo.phase("routes 5 and endpoints 2: blue has two hosts", &["blue-1", "blue-2"]).await?;
    demo.burst().await?;
    demo.phase(&format!("{} route updates in a row, the last to green", BURST.0), &["green-1"]).await?;
    let versions = versions(&proxy).await?;
    let Demo { traffic, management } = demo;
    drop(management);
    traffic.phase("the management server is gone", PHASE, &["green-1"]).await?;

    ensure!(proxy.alive(), "the proxy died:\n{}", proxy.log_tail());
    let total = traffic.stop().await;
    say(&format!("Configuration held: {versions}"));
    say(&format!("Memory of the proxy: {} KiB", proxy.resident_kib()?));
    proxy.stop().await.context("stopping the proxy")?;
    say(&total.summary());
    ensure!(
        total.failures.is_empty(),
        "{} requests failed: {:?}",
        total.failures.len(),
        total.failures.first()
    );
    say("Done: nothing is left running");
    Ok(())
}

struct Demo {
    traffic: Traffic,
    management: ManagementServer,
}

impl Demo {
    /// Lets the traffic flow; at the end of the phase only these upstreams may answer.
    async fn phase(&self, name: &str, expected: &[&str]) -> Result<()> {
        self.traffic.phase(name, PHASE, expected).await
    }

    async fn routes(&self, version: &str, routes: Routes) -> Result<()> {
        self.management.set(&TypeUrl::ROUTE_CONFIGURATION, version, [routes.served()]);
        let acknowledged = self.management.acknowledged(&TypeUrl::ROUTE_CONFIGURATION, version);
        within("the acknowledgement of the routes", SOON, acknowledged).await?;
        Ok(())
    }

    async fn wrong_routes(&self) -> Result<String> {
        self.management.set(&TypeUrl::ROUTE_CONFIGURATION, "4", [Routes::Wrong.served()]);
        let rejected =
            within("the rejection", SOON, self.management.rejected(&TypeUrl::ROUTE_CONFIGURATION)).await?;
        let message = rejected.error().map(|status| status.message.clone()).unwrap_or_default();
        Ok(message.lines().next().unwrap_or_default().chars().take(90).collect())
    }

    async fn assign(&self, blue: &[std::net::SocketAddr], green: &[std::net::SocketAddr]) -> Result<()> {
        let assigned = [endpoints("blue", blue), endpoints("green", green)];
        self.management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", assigned);
        let acknowledged = self.management.acknowledged(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2");
        within("the acknowledgement of the endpoints", SOON, acknowledged).await?;
        Ok(())
    }

    async fn burst(&self) -> Result<()> {
        for n in 1..BURST.0 {
            let routes = if n % 2 == 0 { Routes::To("blue") } else { Routes::Split };
            self.management.set(&TypeUrl::ROUTE_CONFIGURATION, &format!("b{n}"), [routes.served()]);
            tokio::time::sleep(BURST.1).await;
        }
        self.routes("last", Routes::To("green")).await
    }
}

/// The versions in `/config_dump`, by kind.
async fn versions(proxy: &Proxy) -> Result<String> {
    let dump = proxy.admin().config_dump("").await?;
    let mut found = Vec::new();
    for config in dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let version = |list: &str| config[list][0]["version_info"].as_str().map(str::to_owned);
        for (kind, version) in [
            ("clusters", version("dynamic_active_clusters")),
            ("routes", version("dynamic_route_configs")),
            (
                "listeners",
                config["dynamic_listeners"][0]["active_state"]["version_info"].as_str().map(str::to_owned),
            ),
        ] {
            if let Some(version) = version {
                found.push(format!("{kind} {version}"));
            }
        }
    }
    ensure!(found.iter().any(|text| text == "routes last"), "config_dump says {found:?}");
    Ok(found.join(", "))
}
