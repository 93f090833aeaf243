//! Bad input, byte for byte, from clients and from upstreams.
//!
//! The tables lie in `tests/cases/wire-*.tsv` with what Envoy 1.40 does and what Outrigger must do; frames of HTTP/2 are
//! built in `http2.rs`. Whatever is sent, afterwards the process lives, `/ready` says LIVE, the next good request on a
//! new connection is answered quickly, and the upstream has seen exactly the requests that were intended.
//! `CASE=word` restricts a run; `SHOW=1` prints what was seen; `SUBJECT=envoy` runs the tables against Envoy and its own column.

mod http2;
mod rig;
mod table;

use anyhow::Result;
use integration::client::Client;
use integration::expect::SOON;
use integration::process::Kind;

use rig::{QUIET, Rig, expect_ok, wanted};
use table::{RequestCase, UpstreamCase, escape};

#[tokio::test]
async fn requests() {
    let cases = table::requests(include_str!("../../cases/wire-http1.tsv"));
    expect_ok(run_requests("plain", cases, "").await);
}

#[tokio::test]
async fn proxy_protocol() {
    let cases = table::requests(include_str!("../../cases/wire-proxy-protocol.tsv"));
    expect_ok(run_requests("proxied", cases, "GET / HTTP/1.1\r\nhost: t\r\n\r\n").await);
}

#[tokio::test]
async fn frames() {
    expect_ok(http2::run().await);
}

#[tokio::test]
async fn upstreams() {
    expect_ok(run_upstreams().await);
}

async fn run_requests(listener: &str, cases: Result<Vec<RequestCase>>, suffix: &str) -> Result<()> {
    let mut rig = Rig::start().await?;
    for case in cases?.iter().filter(|case| wanted(&case.name)) {
        let expected = if rig.kind() == Kind::Envoy { &case.envoy } else { &case.ours };
        let most = expected.iter().map(|outcome| outcome.statuses.len()).max().unwrap_or(0);
        let bytes = [case.bytes.as_slice(), suffix.as_bytes()].concat();
        let mut client = Client::connect(rig.listener(listener)?).await?;
        rig.meter.connected(1);
        rig.meter.sent(bytes.len());
        client.send(&bytes).await?;
        if case.fin {
            client.half_close().await?;
        }
        let mut statuses = Vec::new();
        while statuses.len() < most {
            let limit = if statuses.is_empty() { SOON } else { QUIET };
            let Ok(response) = client.response("GET", limit).await else { break };
            if response.head.status()? >= 200 {
                statuses.push(response.head.status()?);
            }
        }
        let (rest, _) = client.rest(QUIET).await;
        let received = rig.upstream.received();
        let seen = (statuses, received.len());
        rig.show(&case.name, &format!("{:?} {}", seen.0, seen.1));
        if !expected.iter().any(|outcome| (&outcome.statuses, outcome.requests) == (&seen.0, seen.1)) {
            rig.fail(&case.name, &format!("answers {:?}, {} requests at the upstream", seen.0, seen.1));
        }
        if rest.starts_with(b"HTTP/") {
            rig.fail(&case.name, &format!("a further answer: {}", escape(&rest)));
        }
        if let (Some(sees), Some(request)) = (&case.sees, received.first())
            && !sees.holds(&request.raw_head)
        {
            rig.fail(&case.name, &format!("the upstream got {}", escape(&request.raw_head)));
        }
        rig.aftermath(&case.name).await?;
    }
    rig.verdict()
}

async fn run_upstreams() -> Result<()> {
    let mut rig = Rig::start().await?;
    let cases = table::upstreams(include_str!("../../cases/wire-upstream.tsv"))?;
    for case in cases.iter().filter(|case| wanted(&case.name)) {
        rig.upstream.script([case.reply.clone()]);
        let seen = upstream_outcome(&rig).await.unwrap_or_else(|error| format!("{error:#}"));
        let UpstreamCase { name, envoy, ours, .. } = case;
        rig.show(name, &seen);
        let expected = if rig.kind() == Kind::Envoy { envoy } else { ours };
        if !expected.contains(&seen) {
            rig.fail(name, &format!("expected one of {expected:?}, got {seen:?}"));
        }
        rig.aftermath(name).await?;
    }
    rig.verdict()
}

/// `STATUS,CONNECTION` as in the table.
async fn upstream_outcome(rig: &Rig) -> Result<String> {
    let get = b"GET /short HTTP/1.1\r\nhost: t\r\n\r\n";
    let mut client = Client::connect(rig.listener("plain")?).await?;
    client.send(get).await?;
    let first = match client.response("GET", QUIET * 10).await {
        Ok(response) => response,
        Err(_) => return Ok("-,open".to_owned()),
    };
    let status = first.head.status()?;
    if !first.complete {
        return Ok(format!("{status},cut"));
    }
    if status < 200 {
        return Ok(format!("{status},open"));
    }
    client.send(get).await?;
    match client.response("GET", SOON).await {
        Ok(second) if second.head.status()? == 200 => Ok(format!("{status},open")),
        Ok(second) => Ok(format!("{status},then {}", second.head.line)),
        Err(_) => Ok(format!("{status},closed")),
    }
}
