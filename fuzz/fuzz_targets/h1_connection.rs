//! A whole HTTP/1 connection, pipelines and all, through the proxy to an upstream: the same answers however the bytes are
//! cut, and the upstream gets nothing but requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::{Answering, Piece, Request, bytes};
use outrigger_fuzz::rig::{Peer, Rig, Session, pieces};

const WORDS: &[&str] = &[
    "GET /direct HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\n",
    "HEAD / HTTP/1.1\r\nhost: a\r\n",
    "PUT /direct HTTP/1.1\r\nhost: a\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nhost: a\r\n",
    "content-length: 5\r\n\r\nhello",
    "content-length: 5\r\n",
    "transfer-encoding: chunked\r\n\r\n",
    "transfer-encoding: chunked\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "expect: 100-continue\r\n",
    "connection: close\r\n",
    "connection: upgrade\r\nupgrade: websocket\r\n",
    "connection: x, keep-alive\r\nx: y\r\n",
    "cookie: a\r\ncookie: b\r\n",
    "te: trailers\r\n",
    "\r\n",
    "hello",
];

thread_local! {
    static RIG: Rig = Rig::new(
        "upgrade_configs: [{upgrade_type: websocket}]\n          http_protocol_options: {accept_http_10: true, enable_trailers: true}",
        "",
        "",
        proxy_extensions::extensions(),
    );
}

fuzz_target!(|input: (Vec<u8>, Vec<Piece>)| {
    let (cuts, words) = input;
    let sent = bytes(&words, WORDS);
    RIG.with(|rig| {
        let whole = rig.run(async |session| serve(session, &[&sent]).await);
        let cut = rig.run(async |session| serve(session, &pieces(&sent, &cuts[..cuts.len().min(16)])).await);
        assert_eq!(cut, whole, "{}", sent.escape_ascii());
    });
});

/// What the client and the upstream got.
async fn serve(session: &Session<'_>, pieces: &[&[u8]]) -> (String, Vec<Request>) {
    let mut client = session.connect().await;
    let mut upstream: Vec<(Peer, Answering)> = Vec::new();
    let mut requests = Vec::new();
    for piece in pieces {
        client.write(piece);
        while turn(session, &mut client, &mut upstream, &mut requests).await {}
    }
    (timeless(&client.received), requests)
}

/// Whether anything came that may lead to more.
async fn turn(
    session: &Session<'_>,
    client: &mut Peer,
    upstream: &mut Vec<(Peer, Answering)>,
    requests: &mut Vec<Request>,
) -> bool {
    let mut peers: Vec<&mut Peer> = upstream.iter_mut().map(|(peer, _)| peer).collect();
    peers.push(client);
    session.settle(&mut peers).await;
    let mut moved = false;
    for (peer, answering) in &mut *upstream {
        let (whole, answers) = answering.take(&peer.received);
        moved |= !whole.is_empty();
        requests.extend(whole);
        peer.write(&answers);
    }
    while let Some(peer) = session.accept() {
        upstream.push((peer, Answering::default()));
        moved = true;
    }
    moved
}

/// Without what tells time.
fn timeless(received: &[u8]) -> String {
    let text = received.escape_ascii().to_string();
    let fields = text.split("\\r\\n");
    let told =
        |field: &&str| !field.starts_with("date: ") && !field.starts_with("x-envoy-upstream-service-time: ");
    fields.filter(told).collect::<Vec<_>>().join("\n")
}
