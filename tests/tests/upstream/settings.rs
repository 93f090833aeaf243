//! What SETTINGS say in both directions on connections to hosts that speak HTTP/2.

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::SOON;
use integration::frames::{ACK, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, SETTINGS, frame};
use integration::process::{Binary, Kind};

use crate::host::{Host, OK, settings};
use crate::{start, stat_becomes};

/// Parameters go to hosts ahead of the proxy's own, and what they allow is accepted.
#[tokio::test]
async fn further_parameters_reach_hosts() -> Result<()> {
    let host = Host::start().await?;
    let custom = "custom_settings_parameters: [{identifier: 99, value: 5}, {identifier: 3, value: 7}, \
                  {identifier: 2, value: 0}, {identifier: 5, value: 20000}, {identifier: 6, value: 100}]";
    let proxy = start(&[host.cluster("up", custom, "")?], "").await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"GET /up HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let mut served = host.accept().await?;
    let first = served.next().await?;
    ensure!((first.kind, first.flags, first.stream) == (SETTINGS, 0, 0), "{first:?}");
    let parameters = parameters(&first);
    let of =
        |id| parameters.iter().filter(|(other, _)| *other == id).map(|(_, value)| *value).collect::<Vec<_>>();
    ensure!(of(99) == [5] && of(2) == [0] && of(5) == [20000] && of(6) == [100], "{parameters:?}");
    ensure!(of(3).first() == Some(&7), "{parameters:?}");
    served.send(&[settings(&[]), frame(SETTINGS, ACK, 0, &[])].concat()).await?;
    let stream = served.requests(1).await?[0];
    served
        .send(
            &[frame(HEADERS, END_HEADERS, stream, OK), frame(DATA, END_STREAM, stream, &[b'x'; 20000])]
                .concat(),
        )
        .await?;
    let response = client.response("GET", SOON).await?;
    ensure!(response.body.len() == 20000, "{} octets", response.body.len());
    proxy.stop().await
}

fn parameters(frame: &Frame) -> Vec<(u16, u32)> {
    let parameter = |bytes: &[u8]| match *bytes {
        [i0, i1, v0, v1, v2, v3] => (u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3])),
        _ => unreachable!("chunks of six"),
    };
    frame.payload.chunks_exact(6).map(parameter).collect()
}

/// Who waits for a stream is served as soon as the host allows more of them, not only when one ends.
#[tokio::test]
async fn a_raised_limit_serves_who_waits() -> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // Envoy lowers its limit only: who waits is served when a stream ends.
        return Ok(());
    }
    const ONE: &str = "circuit_breakers: {thresholds: [{max_connections: 1}]}";
    let host = Host::start().await?;
    let proxy = start(&[host.cluster("up", "", ONE)?], "").await?;
    let ask = async || {
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client.send(b"GET /up HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        anyhow::Ok(client)
    };
    let mut clients = vec![ask().await?];
    let mut served = host.accept().await?;
    let mut streams = served.requests(1).await?;
    served.send(&[settings(&[(3, 1)]), frame(SETTINGS, ACK, 0, &[])].concat()).await?;
    // the limit is in force once its SETTINGS are acknowledged
    served.until(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0).await?;
    for _ in 0..3 {
        clients.push(ask().await?);
    }
    stat_becomes(&proxy, "cluster.up.upstream_rq_pending_active", 3).await?;
    served.send(&settings(&[(3, 3)])).await?;
    streams.extend(served.requests(2).await?);
    stat_becomes(&proxy, "cluster.up.upstream_rq_pending_active", 1).await?;
    served.send(&settings(&[(3, 10)])).await?;
    streams.extend(served.requests(1).await?);
    for stream in streams {
        served.answer(stream).await?;
    }
    for client in &mut clients {
        ensure!(client.response("GET", SOON).await?.head.status()? == 200);
    }
    proxy.stop().await
}
