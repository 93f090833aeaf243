//! Parameters of SETTINGS that configuration adds.

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::SOON;
use integration::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, SETTINGS, block, frame, hello, parse,
};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

/// They precede the proxy's own, and what they allow is accepted.
#[tokio::test]
async fn further_parameters_reach_clients() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let options = "http2_protocol_options:\n  custom_settings_parameters: [{identifier: 99, value: 5}, {identifier: 4, value: 7}, \
                   {identifier: 2, value: 0}, {identifier: 5, value: 20000}, {identifier: 6, value: 100}, {identifier: 99, value: 5}]";
    let listener = HttpListener::to_up("http").options(options).yaml();
    let yaml = fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", port(upstream.addr()))]);
    let proxy = Proxy::start(&Binary::subject()?, &yaml).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    let request =
        [hello(), frame(HEADERS, END_HEADERS, 1, &block(&head)), frame(DATA, END_STREAM, 1, &[b'x'; 20000])];
    client.send(&request.concat()).await?;
    let mut bytes = Vec::new();
    let is_last = |frame: &Frame| frame.stream == 1 && frame.flags & END_STREAM != 0;
    while !parse(&bytes).iter().any(is_last) {
        bytes.extend(client.at_least(1, SOON).await?);
    }
    let frames = parse(&bytes);
    let first = frames.first().context("no frame")?;
    ensure!((first.kind, first.flags, first.stream) == (SETTINGS, 0, 0), "{first:?}");
    let values = |id: u16| -> Vec<u32> {
        let of_id = |parameter: &&[u8]| parameter.starts_with(&id.to_be_bytes());
        let value =
            |parameter: &[u8]| parameter[2..].iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        first.payload.chunks_exact(6).filter(of_id).map(value).collect()
    };
    ensure!(values(99) == [5] && values(2) == [0] && values(5) == [20000] && values(6) == [100], "{first:?}");
    // the named parameter follows, with its default
    ensure!(values(4) == [7, 16 << 20], "{first:?}");
    ensure!(upstream.received().iter().all(|request| request.body.len() == 20000));
    proxy.stop().await
}
