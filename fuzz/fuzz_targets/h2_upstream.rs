//! An upstream that speaks frames, sound and not, to clients of HTTP/1: they get responses, and each its own.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::responses;
use outrigger_fuzz::h2::{Frame, PREFACE, RESPONSE, settings};
use outrigger_fuzz::rig::Rig;

const REQUESTS: [(&str, Method); 4] = [
    ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Method::GET),
    ("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", Method::HEAD),
    (
        "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
        Method::POST,
    ),
    ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nok", Method::POST),
];

thread_local! {
    static RIG: Rig = Rig::new(
        "http_protocol_options: {enable_trailers: true}",
        "",
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}",
        proxy_extensions::extensions(),
    );
}

fuzz_target!(|input: (Vec<u8>, bool, Vec<Frame>)| {
    let (asked, closes, sent) = input;
    RIG.with(|rig| {
        rig.run(async |session| {
            let mut clients = Vec::new();
            for which in asked.iter().take(3) {
                let (request, method) = &REQUESTS[usize::from(*which) % REQUESTS.len()];
                let client = session.connect().await;
                client.write(request.as_bytes());
                clients.push((client, method.clone()));
            }
            session.settle(&mut []).await;
            let mut upstreams = Vec::new();
            while let Some(upstream) = session.accept() {
                upstream.write(&settings());
                upstreams.push(upstream);
            }
            let Some(first) = upstreams.first() else { return };
            for frame in &sent[..sent.len().min(48)] {
                match frame {
                    Frame::Settle => session.settle(&mut []).await,
                    frame => first.write(&frame.bytes(RESPONSE)),
                }
            }
            let mut peers: Vec<_> = clients.iter_mut().map(|(client, _)| client).collect();
            peers.extend(upstreams.iter_mut());
            session.settle(&mut peers).await;
            assert!(upstreams.iter().all(|upstream| upstream.received.starts_with(PREFACE)));
            // Connections that were made in the place of others end as well.
            while closes && (!upstreams.is_empty() || session.is_waiting()) {
                upstreams.clear();
                upstreams.extend(std::iter::from_fn(|| session.accept()));
                session.settle(&mut clients.iter_mut().map(|(client, _)| client).collect::<Vec<_>>()).await;
            }
            for (client, method) in &clients {
                let all = responses(&client.received, std::slice::from_ref(method), client.closed);
                let finals = all.iter().filter(|response| response.status >= 200).count();
                assert!(finals <= 1, "{all:?}");
                assert!(!closes || finals == 1 || client.closed, "no answer: {all:?} of {clients:?}");
            }
        });
    });
});
