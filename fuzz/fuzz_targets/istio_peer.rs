//! What a peer says of itself before a connection (Istio's metadata exchange): no panic, the same peer and the same rest however cut,
//! and who was read is told as the same again.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proxy_core::config::BuildCx;
use proxy_core::extension::network_filter::DataStep;
use proxy_core::stream_info::StreamInfo;
use proxy_core::tls::TlsInfo;
use proxy_extensions::UPSTREAM_NETWORK_FILTERS;
use proxy_extensions::shared::istio::peer::{Peer, PeerState, UPSTREAM};
use xds_api::envoy::tcp::metadataexchange::config::MetadataExchange;

const PROTOCOL: &str = "istio-peer-exchange";

fuzz_target!(|bytes: &[u8]| {
    let whole = run(bytes, bytes.len().max(1));
    assert_eq!(run(bytes, 1), whole);
    assert_eq!(run(bytes, 7), whole);
    if let Some(peer) = whole.0 {
        let message = peer.message();
        assert_eq!(Peer::read(&message, &labels()).message(), message);
    }
});

fn labels() -> Vec<String> {
    vec!["role".to_owned()]
}

/// Who the peer is, how many octets are left for the next, and whether the connection is closed, if `step` more come at a time.
fn run(bytes: &[u8], step: usize) -> (Option<Peer>, usize, bool) {
    let env = outrigger_fuzz::env();
    let proto = MetadataExchange {
        protocol: PROTOCOL.to_owned(),
        additional_labels: labels(),
        ..MetadataExchange::default()
    };
    let mut cx = BuildCx::new(&env);
    let create = UPSTREAM_NETWORK_FILTERS[0].build(&proto.encode_to_vec(), &mut cx).ok().expect("builds");
    let mut filter = create();
    let connection = Rc::new(outrigger_fuzz::connection());
    let mut info = StreamInfo::new(connection, Instant::now(), UNIX_EPOCH);
    let tls = TlsInfo { alpn: Some(PROTOCOL.into()), ..TlsInfo::default() };
    info.upstream.tls = Some(Arc::new(tls));
    let _ = filter.on_connection(&mut info);
    assert!(filter.sees_data());
    let mut waker = Context::from_waker(Waker::noop());
    let (mut taken, mut there, mut end, mut is_closed) = (0, 0, false, false);
    loop {
        match filter.poll_data(&mut waker, &bytes[taken..there], end, &mut info) {
            Poll::Ready(DataStep::Take(count)) => {
                taken += count;
                assert!(taken <= there, "nothing is taken that did not come");
            }
            Poll::Ready(DataStep::Continue | DataStep::Done) => break,
            Poll::Ready(DataStep::Close(_)) => {
                is_closed = true;
                break;
            }
            Poll::Pending => {
                assert!(!end, "the end decides");
                end = there == bytes.len();
                there = bytes.len().min(there + step);
            }
        }
    }
    (PeerState::of(&info, UPSTREAM).cloned(), bytes.len() - taken, is_closed)
}
