use super::*;
use crate::testing::{connection_info, env};
use proxy_core::tls::TlsInfo;
use std::rc::Rc;
use std::task::Waker;
use std::time::SystemTime;

struct Bed {
    config: Arc<Config>,
    filter: Box<dyn NetworkFilter>,
    info: StreamInfo,
}

fn web() -> Peer {
    Peer {
        instance: "web-1".into(),
        namespace: "shop".into(),
        workload: "web".into(),
        labels: [("role".into(), "r".into())].into(),
        ..Peer::default()
    }
}

impl Bed {
    /// A client that agreed on `alpn`.
    fn of_client(alpn: Option<&str>) -> Self {
        let mut env = env();
        env.node.id = "sidecar~1".into();
        let proto = proto::MetadataExchange {
            protocol: "istio-peer-exchange".into(),
            enable_discovery: true,
            additional_labels: vec!["role".into()],
        };
        let config = Arc::new(Config::build(proto, Side::Client, &mut BuildCx::new(&env)).unwrap());
        let mut filter = Filter::boxed(&config);
        let alpn = alpn.map(|alpn| alpn.as_bytes().to_vec());
        let tls = Some(Box::new(TlsInfo { alpn, ..TlsInfo::default() }));
        let connection = proxy_core::stream_info::ConnectionInfo { tls, ..connection_info() };
        let start = connection.start;
        let mut info = StreamInfo::new(Rc::new(connection), start, SystemTime::now());
        assert!(matches!(filter.on_connection(&mut info), ConnectionStep::Continue));
        Self { config, filter, info }
    }

    fn agreed() -> Self {
        let mut bed = Self::of_client(Some("istio-peer-exchange"));
        assert_eq!(bed.filter.greeting(), bed.config.greeting);
        assert!(bed.filter.sees_data());
        bed
    }

    fn see(&mut self, data: &[u8], end: bool) -> Poll<DataStep> {
        self.filter.poll_data(&mut Context::from_waker(Waker::noop()), data, end, &mut self.info)
    }

    /// Shows `text` in pieces of `size` and then its end, as a connection does: what is left of it, or why it is closed.
    fn read(&mut self, text: &[u8], size: usize) -> Result<Vec<u8>, String> {
        let (mut held, mut pieces) = (Vec::new(), text.chunks(size));
        loop {
            let piece = pieces.next();
            held.extend_from_slice(piece.unwrap_or_default());
            loop {
                match self.see(&held, piece.is_none()) {
                    Poll::Ready(DataStep::Take(count)) => {
                        assert!((1..=held.len()).contains(&count));
                        held.drain(..count);
                    }
                    Poll::Ready(DataStep::Done) => {
                        held.extend(pieces.flatten());
                        return Ok(held);
                    }
                    Poll::Ready(DataStep::Close(details)) => return Err(details.to_string()),
                    Poll::Ready(DataStep::Continue) => panic!("it has nothing to wait for"),
                    Poll::Pending => {
                        assert!(piece.is_some(), "nothing more comes");
                        assert!(held.len() < HEADER, "what it may need is taken");
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_said_is_heard_whatever_the_pieces() {
    let mut told = said(&web(), "sidecar~2").to_vec();
    told.extend(b"payload");
    for size in 1..=told.len() {
        let mut bed = Bed::agreed();
        assert_eq!(bed.read(&told, size).as_deref(), Ok(&b"payload"[..]), "{size}");
        assert_eq!(PeerState::of(&bed.info, DOWNSTREAM), Some(&web()), "{size}");
        assert!(PeerState::of(&bed.info, UPSTREAM).is_none());
    }
}

#[test]
fn the_wire_is_istio_s() {
    let peer = Peer { namespace: "ns".into(), ..Peer::default() };
    let said = said(&peer, "id");
    let type_url = b"type.googleapis.com/google.protobuf.Struct";
    let mut expected = vec![0x3d, 0x23, 0x04, 0x67, 0, 0, 0, (said.len() - 8) as u8];
    expected.extend([0x0a, type_url.len() as u8]);
    expected.extend(type_url);
    assert_eq!(said[..expected.len()], expected);
    let message = Struct::decode(&said[expected.len() + 2..]).unwrap();
    assert_eq!(message.fields.keys().collect::<Vec<_>>(), [METADATA, ID]);
    assert_eq!(message.fields[ID].kind, Some(Kind::StringValue("id".into())));
}

#[test]
fn connections_without_the_protocol_are_left_alone() {
    for alpn in [None, Some("istio"), Some("istio-peer-exchange2")] {
        let mut bed = Bed::of_client(alpn);
        assert_eq!(bed.filter.greeting(), Bytes::new());
        assert!(!bed.filter.sees_data());
        let stats = bed.config.stats.here();
        assert_eq!((stats.alpn_protocol_not_found.value(), stats.alpn_protocol_found.value()), (1, 0));
        assert_eq!(stats.metadata_added.value(), 0);
    }
}

#[test]
fn the_session_with_a_host_is_what_counts_behind_the_router() {
    let env = env();
    let proto = proto::MetadataExchange { protocol: "p".into(), ..Default::default() };
    let config = Arc::new(Config::build(proto, Side::Host, &mut BuildCx::new(&env)).unwrap());
    let mut filter = Filter::boxed(&config);
    let mut info = crate::testing::stream_info();
    let session = TlsInfo { alpn: Some(b"p".to_vec()), ..TlsInfo::default() };
    info.upstream.tls = Some(Arc::new(session));
    assert!(matches!(filter.on_connection(&mut info), ConnectionStep::Continue));
    assert_eq!(filter.greeting(), config.greeting);
    let mut cx = Context::from_waker(Waker::noop());
    let told = said(&web(), "");
    assert_eq!(filter.poll_data(&mut cx, &told, false, &mut info), Poll::Ready(DataStep::Take(HEADER)));
    let rest = &told[HEADER..];
    assert_eq!(filter.poll_data(&mut cx, rest, false, &mut info), Poll::Ready(DataStep::Take(rest.len())));
    assert_eq!(filter.poll_data(&mut cx, b"", false, &mut info), Poll::Ready(DataStep::Done));
    assert_eq!(PeerState::of(&info, UPSTREAM).map(|peer| &*peer.workload), Some("web"));
    assert!(PeerState::of(&info, DOWNSTREAM).is_none());
}

#[test]
fn who_begins_otherwise_gets_all_of_it_through() {
    for text in
        [&b"GET / HTTP/1.1"[..], b"=", b"=#", &MAGIC, b"=#\x04\x67\0\0\0", b"", b"=#\x04\x66\0\0\0\x01x"]
    {
        for size in 1..=text.len().max(1) {
            let mut bed = Bed::agreed();
            assert_eq!(bed.read(text, size).as_deref(), Ok(text), "{text:?} in pieces of {size}");
            let stats = bed.config.stats.here();
            assert_eq!(stats.initial_header_not_found.value(), 1, "{text:?}");
            assert_eq!(stats.header_not_found.value(), 0);
            assert!(PeerState::of(&bed.info, DOWNSTREAM).is_none());
        }
    }
}

fn with_length(length: u32, rest: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &length.to_be_bytes(), rest].concat()
}

#[test]
fn what_cannot_be_read_is_taken_out_all_the_same() {
    let other = Any { type_url: "type.googleapis.com/other".into(), value: vec![] }.encode_to_vec();
    let bare = Any { type_url: STRUCT.into(), value: Struct::default().encode_to_vec() }.encode_to_vec();
    for words in [&b""[..], b"\xff\xff", &other, &bare] {
        let mut bed = Bed::agreed();
        let text = with_length(words.len() as u32, &[words, b"payload"].concat());
        assert_eq!(bed.read(&text, 5).as_deref(), Ok(&b"payload"[..]), "{words:?}");
        assert_eq!(bed.config.stats.here().header_not_found.value(), 1, "{words:?}");
        assert!(PeerState::of(&bed.info, DOWNSTREAM).is_none());
    }
}

#[test]
fn what_is_cut_off_or_too_long_is_bounded() {
    let mut bed = Bed::agreed();
    assert_eq!(bed.read(&with_length(100, b"some"), 3).as_deref(), Ok(&b""[..]));
    assert_eq!(bed.config.stats.here().header_not_found.value(), 1);

    for length in [MOST as u32 + 1, u32::MAX] {
        let mut bed = Bed::agreed();
        assert_eq!(bed.read(&with_length(length, b"some"), 3), Err(TOO_LONG.to_owned()));
        assert_eq!(bed.config.stats.here().header_not_found.value(), 1);
    }
    let mut bed = Bed::agreed();
    let filled = with_length(MOST as u32, &vec![0; MOST]);
    assert_eq!(bed.read(&filled, 1000).as_deref(), Ok(&b""[..]), "as much as may be");
}

#[test]
fn a_protocol_is_needed() {
    let env = env();
    let mut cx = BuildCx::new(&env);
    assert!(Config::build(proto::MetadataExchange::default(), Side::Host, &mut cx).is_err());
    assert_eq!(cx.into_errors()[0].to_string(), "protocol: must not be empty");
}
