//! METADATA frames among others, from a client and its upstream, sound and not: what either gets is frames, and metadata in its place.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use outrigger_fuzz::h2::{Field, Frame, METADATA, PREFACE, REQUEST, RESPONSE, get, metadata, settings};
use outrigger_fuzz::rig::{Peer, Rig, Session};
use proxy_engine::codec::hpack;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
const END_STREAM: u8 = 1;
/// Of heads and of metadata.
const END: u8 = 4;

thread_local! {
    static RIG: Rig = Rig::new(
        "codec_type: HTTP2\n          http2_protocol_options: {allow_metadata: true, max_metadata_size: 600}",
        "",
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {allow_metadata: true}}}}",
        proxy_extensions::extensions(),
    );
}

/// What one side does.
#[derive(Arbitrary, Debug)]
enum Deed {
    Frame(Frame),
    /// With its end, or with flags that may be none.
    Metadata {
        stream: u8,
        flags: Option<u8>,
        fields: Vec<Field>,
    },
}

impl Deed {
    fn bytes(&self, known: outrigger_fuzz::h2::Known) -> Vec<u8> {
        match self {
            Self::Frame(frame) => frame.bytes(known),
            // Most of it concerns the stream that is there.
            Self::Metadata { stream, flags, fields } => {
                metadata(1 + stream.saturating_sub(200) % 8, flags.unwrap_or(END), fields)
            }
        }
    }
}

fuzz_target!(|input: (bool, bool, Vec<(bool, Deed)>)| {
    let (has_body, is_cut, deeds) = input;
    RIG.with(|rig| {
        rig.run(async |session| serve(session, has_body, is_cut, &deeds[..deeds.len().min(48)]).await)
    });
});

async fn serve(session: &Session<'_>, has_body: bool, is_cut: bool, deeds: &[(bool, Deed)]) {
    let mut client = session.connect().await;
    client.write(PREFACE);
    client.write(&settings());
    client.write(&get(1, "/", !has_body));
    let mut hosts: Vec<Peer> = Vec::new();
    settle(session, &mut client, &mut hosts).await;
    for (is_client, deed) in deeds {
        let (peer, bytes) = match (is_client, hosts.first()) {
            (true, _) | (_, None) => (&client, deed.bytes(REQUEST)),
            (false, Some(host)) => (host, deed.bytes(RESPONSE)),
        };
        if is_cut {
            // A read ends within the header.
            let (first, rest) = bytes.split_at(bytes.len().min(2));
            peer.write(first);
            settle(session, &mut client, &mut hosts).await;
            let peer = if *is_client { &client } else { hosts.first().unwrap_or(&client) };
            peer.write(rest);
        } else {
            peer.write(&bytes);
        }
        if is_cut || matches!(deed, Deed::Frame(Frame::Settle)) {
            settle(session, &mut client, &mut hosts).await;
        }
    }
    settle(session, &mut client, &mut hosts).await;
    check(&client.received, false);
    for host in &hosts {
        if let Some(frames) = host.received.strip_prefix(PREFACE) {
            check(frames, true);
        }
    }
}

async fn settle(session: &Session<'_>, client: &mut Peer, hosts: &mut Vec<Peer>) {
    loop {
        let mut peers: Vec<&mut Peer> = hosts.iter_mut().collect();
        peers.push(client);
        session.settle(&mut peers).await;
        let Some(host) = session.accept() else { return };
        host.write(&settings());
        hosts.push(host);
    }
}

/// Metadata is between frames, on streams that live, and sound; to a host it comes after the head.
fn check(mut bytes: &[u8], to_host: bool) {
    let (mut begun, mut over) = (BTreeSet::new(), BTreeSet::new());
    let mut blocks: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut in_head = false;
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let Some((payload, rest)) = rest.split_at_checked(length) else { return };
        bytes = rest;
        assert!(length <= 16_384 && (kind <= 9 || kind == METADATA), "a frame of kind {kind}");
        assert!(!in_head || kind == CONTINUATION, "a frame of kind {kind} within a head");
        match kind {
            HEADERS | CONTINUATION => {
                in_head = flags & END == 0;
                begun.insert(stream);
                if kind == HEADERS && flags & END_STREAM != 0 {
                    over.insert(stream);
                }
            }
            DATA if flags & END_STREAM != 0 => {
                over.insert(stream);
            }
            RST_STREAM => {
                over.insert(stream);
            }
            METADATA => {
                assert!(stream % 2 == 1 && !over.contains(&stream), "metadata on stream {stream}");
                assert!(!to_host || begun.contains(&stream), "metadata before the head");
                let block = blocks.entry(stream).or_default();
                block.extend_from_slice(payload);
                if flags == END {
                    let block = std::mem::take(block);
                    assert_eq!(hpack::renew(&block), Ok(Some(block.clone())));
                }
            }
            _ => {}
        }
    }
}
