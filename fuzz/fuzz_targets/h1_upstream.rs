//! Whatever an HTTP/1 upstream answers, the client gets responses, and the next answer on its connection is the next.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h1::{Piece, bytes, responses};
use outrigger_fuzz::rig::{Rig, pieces};

const WORDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    "HTTP/1.1 503 Service Unavailable\r\n",
    "content-length: 5\r\n",
    "content-length: 0\r\n\r\n",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "connection: x\r\nx: y\r\n",
    "trailer: x\r\n",
    "5\r\nhello\r\n",
    "5;a=b\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "\r\n",
    "hello",
];

/// What the client asks, and whether the answer may have a body.
const REQUESTS: [(&str, Method); 5] = [
    ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Method::GET),
    ("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", Method::HEAD),
    ("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-length: 2\r\n\r\nok", Method::POST),
    ("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", Method::GET),
    ("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n", Method::POST),
];
const NEXT: &str = "GET /direct HTTP/1.1\r\nhost: a\r\n\r\n";

thread_local! {
    static RIG: Rig = Rig::new(
        "upgrade_configs: [{upgrade_type: websocket}]\n          http_protocol_options: {enable_trailers: true}\n          proxy_100_continue: true",
        "",
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}",
        proxy_extensions::extensions(),
    );
}

fuzz_target!(|input: (u8, Vec<u8>, Vec<Piece>)| {
    let (how, cuts, words) = input;
    let answer = bytes(&words, WORDS);
    let (request, method) = &REQUESTS[usize::from(how & 7) % REQUESTS.len()];
    RIG.with(|rig| {
        rig.run(async |session| {
            let mut client = session.connect().await;
            client.write(request.as_bytes());
            session.settle(&mut [&mut client]).await;
            let Some(mut upstream) = session.accept() else { panic!("no connection") };
            session.settle(&mut [&mut client, &mut upstream]).await;
            for piece in pieces(&answer, &cuts[..cuts.len().min(8)]) {
                upstream.write(piece);
                session.settle(&mut [&mut client, &mut upstream]).await;
            }
            if how & 64 != 0 {
                drop(upstream);
                session.settle(&mut [&mut client]).await;
            }
            let first = responses(&client.received, std::slice::from_ref(method), client.closed);
            // (What was sent behind the request belongs to it.)
            let done =
                first.last().is_some_and(|last| last.complete && last.keep_alive && last.status >= 200);
            if client.closed || !done || how & 7 == 4 {
                return;
            }
            client.write(NEXT.as_bytes());
            session.settle(&mut [&mut client]).await;
            let both = responses(&client.received, &[method.clone(), Method::GET], client.closed);
            let next = both.get(first.len()).unwrap_or_else(|| panic!("no answer: {both:?}"));
            assert_eq!((next.status, &*next.body, both.len()), (200, b"direct".as_slice(), first.len() + 1));
        });
    });
});
