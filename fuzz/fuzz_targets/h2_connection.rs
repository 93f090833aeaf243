//! A client that speaks frames, sound and not, to a proxy that forwards to HTTP/1: what comes back are frames, on streams
//! that the client opened, and what the upstream gets are requests.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::Answering;
use outrigger_fuzz::h2::{Frame, PREFACE, REQUEST, frames, get, settings};
use outrigger_fuzz::rig::{Peer, Rig, Session};

/// Answers such as the proxy may send are no longer.
const MAX_FRAME: usize = 16_384;

thread_local! {
    static RIG: Rig = Rig::new(
        "codec_type: HTTP2\n          http2_protocol_options: {allow_connect: true}\n          upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}]\n          http_protocol_options: {enable_trailers: true}",
        "",
        "",
        proxy_extensions::extensions(),
    );
}

fuzz_target!(|input: (bool, Vec<Frame>)| {
    let (begins_well, sent) = input;
    RIG.with(|rig| rig.run(async |session| serve(session, begins_well, &sent[..sent.len().min(48)]).await));
});

async fn serve(session: &Session<'_>, begins_well: bool, sent: &[Frame]) {
    let mut client = session.connect().await;
    let mut upstream: Vec<(Peer, Answering)> = Vec::new();
    client.write(PREFACE);
    client.write(&settings());
    if begins_well {
        client.write(&get(1, "/", true));
    }
    let mut opened: BTreeSet<u32> = [1].into();
    for frame in sent {
        let bytes = frame.bytes(REQUEST);
        opened.extend(
            frames(&bytes)
                .iter()
                .filter(|(kind, ..)| *kind == 1)
                .map(|(_, _, stream, _)| stream & !(1 << 31)),
        );
        client.write(&bytes);
        if matches!(frame, Frame::Settle) {
            while turn(session, &mut client, &mut upstream).await {}
        }
    }
    while turn(session, &mut client, &mut upstream).await {}
    for (kind, _, stream, length) in frames(&client.received) {
        assert!(kind <= 9 && kind != 2 && kind != 5, "a frame of kind {kind}");
        assert!(length <= MAX_FRAME, "a frame of {length} octets");
        assert!(!matches!(kind, 0 | 1) || opened.contains(&stream), "an answer to stream {stream}");
    }
}

/// Whether anything came that may lead to more.
async fn turn(session: &Session<'_>, client: &mut Peer, upstream: &mut Vec<(Peer, Answering)>) -> bool {
    let mut peers: Vec<&mut Peer> = upstream.iter_mut().map(|(peer, _)| peer).collect();
    peers.push(client);
    session.settle(&mut peers).await;
    let mut moved = false;
    for (peer, answering) in &mut *upstream {
        let (whole, answers) = answering.take(&peer.received);
        moved |= !whole.is_empty();
        peer.write(&answers);
    }
    while let Some(peer) = session.accept() {
        upstream.push((peer, Answering::default()));
        moved = true;
    }
    moved
}
