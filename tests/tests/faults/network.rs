//! Networks that lose packets or carry small ones only (N1, N2), in network namespaces of their own.
//!
//! The tests that do the work are run by those outside, as in `tests/listeners/redirect.rs`; where no namespace can be made, they
//! fail. Loss alone comes from `iptables`, the rest from [`integration::weather`].

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use integration::client::{Client, H2Client};
use integration::config::{HttpListener, cluster};
use integration::process::Binary;
use integration::upstream::Reply;
use integration::weather::{Blowing, Weather};

use crate::rig::{Setup, size};

/// Lost segments are sent again after 200 ms at the earliest, and several times if need be.
const PATIENCE: Duration = Duration::from_secs(60);
const BODY: usize = 200_000;

/// What the network does in the namespace, for the test inside: nothing, or what `n01_weather` says.
const WEATHER: &str = "WEATHER";

fn in_namespace(preparation: &str, command: &str) -> std::io::Result<Output> {
    let script = format!("ip link set lo up\n{preparation}\n{command}");
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--net", "sh", "-ec", &script]);
    unshare.env("OUTRIGGER", Binary::subject().map(|binary| binary.path).unwrap_or_default()).output()
}

fn inside(preparation: &str) -> Result<()> {
    inside_namespace(preparation, "network::inside")
}

/// Runs the one test whose name begins so, of those that are ignored outside, in a network namespace of its own.
pub(crate) fn inside_namespace(preparation: &str, test: &str) -> Result<()> {
    let me = std::env::current_exe()?;
    let command = format!("exec {} --ignored --test-threads 1 {test}", me.display());
    let output = in_namespace(preparation, &command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains(" 1 passed"), "{text}");
    Ok(())
}

#[test]
fn n01_loss() -> Result<()> {
    // of each direction of both connections
    inside("iptables -A INPUT -i lo -p tcp -m statistic --mode random --probability 0.05 -j DROP")
}

/// Each way of both connections: 5 % lost, 1 % doubled, 10 % overtake the others, the others under way for that long.
#[test]
fn n01_weather() -> Result<()> {
    inside(&format!("export {WEATHER}={}", size(20, 200)))
}

fn weather() -> Result<Option<Blowing>> {
    let Ok(delay) = std::env::var(WEATHER) else { return Ok(None) };
    let delay = Duration::from_millis(delay.parse()?);
    Weather { delay, lost: 50, doubled: 10, hasty: 100 }.on_loopback().map(Some)
}

#[test]
fn n02_small_packets() -> Result<()> {
    inside("ip link set lo mtu 576")
}

#[tokio::test]
#[ignore = "run by the tests above, in a namespace"]
async fn inside_everything_arrives() -> Result<()> {
    // A lost SYN is sent again after a second, and then lost segments of that connection after three: of 10,000 requests on
    // new connections one takes longer than a route waits for if nothing is said.
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: up, timeout: 60s}");
    let up = cluster("up", "up", "").replace("connect_timeout: 1s", "connect_timeout: 20s");
    let mut rig = Setup::of(listener).cluster(up).start().await?;
    rig.measured = false;
    let weather = weather()?;
    let body: Vec<u8> = (0..BODY).map(|n| (n % 251) as u8).collect();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
    rig.upstream.answer(Reply::raw([head.into_bytes(), body.clone()].concat()));
    let addr = rig.addr()?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let body = body.clone();
        tasks.spawn(async move {
            let mut client = Client::connect(addr).await?;
            for _ in 0..3 {
                let head = format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {BODY}\r\n\r\n");
                // send and receive at once: no side waits for the other
                client.send(&[head.into_bytes(), body.clone()].concat()).await?;
                let response = client.response("POST", PATIENCE).await?;
                ensure!(response.complete && response.body == body, "{:?}", response.head);
            }
            anyhow::Ok(())
        });
    }
    let two = H2Client::connect(addr).await?;
    for _ in 0..4 {
        let request = http::Request::post("http://t/two").body(Bytes::from(body.clone()))?;
        let response = two.request_within(request, None, PATIENCE).await?;
        ensure!(response.cut.is_none() && response.body == body, "{} {:?}", response.status, response.cut);
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    if let Some(weather) = weather {
        // a request is four ways long at least, and the hasty are few
        ensure!(start.elapsed() > weather.delay * 8, "there was no weather: {:?}", start.elapsed());
    }
    drop(two);
    rig.passes("network").await
}
