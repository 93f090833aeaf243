use super::*;
use proxy_core::address::Address;
use proxy_core::extension::network_filter::ConnectionStep;
use proxy_core::stream_info::ConnectionInfo;
use std::cell::Cell;
use std::collections::VecDeque;
use std::task::Waker;

/// What a filter is told to say; nothing yet means hold.
type Says = Rc<Cell<Option<fn() -> DataStep>>>;

type Asked = Rc<RefCell<Vec<(&'static str, Vec<u8>, bool)>>>;

/// Notes what it is asked, and says what it is told to say: nothing yet means hold.
struct Told {
    name: &'static str,
    asked: Asked,
    says: Says,
}

impl NetworkFilter for Told {
    fn on_connection<'a>(&'a mut self, _: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }
    fn sees_data(&self) -> bool {
        true
    }
    fn poll_data(
        &mut self,
        _: &mut Context<'_>,
        data: &[u8],
        end: bool,
        _: &mut StreamInfo,
    ) -> Poll<DataStep> {
        self.asked.borrow_mut().push((self.name, data.to_vec(), end));
        self.says.get().map_or(Poll::Pending, |says| Poll::Ready(says()))
    }
}

struct Blind;

impl NetworkFilter for Blind {
    fn on_connection<'a>(&'a mut self, _: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }
}

struct Rig {
    gate: Gate,
    asked: Asked,
    says: Vec<Says>,
    /// What is there to be read; an empty piece is the end.
    wire: VecDeque<&'static [u8]>,
    info: StreamInfo,
}

impl Rig {
    fn new(names: &[&'static str], limit: usize, keeps_half: bool) -> Self {
        let (asked, mut says) = (Asked::default(), Vec::new());
        let mut filters: Vec<Box<dyn NetworkFilter>> = vec![Box::new(Blind)];
        for name in names {
            says.push(Rc::default());
            let says = Rc::clone(says.last().unwrap());
            filters.push(Box::new(Told { name, asked: asked.clone(), says }));
        }
        let gate = Gate::of(&mut filters, limit, keeps_half).unwrap();
        assert_eq!(filters.len(), 1, "who does not look stays");
        let address = Address::Pipe("/x".into());
        let info = Rc::new(ConnectionInfo::new(address.clone(), address, "l".into()));
        let start = info.start;
        let info = StreamInfo::new(info, start, std::time::SystemTime::UNIX_EPOCH);
        Self { gate, asked, says, wire: VecDeque::new(), info }
    }

    fn say(&self, filter: usize, says: fn() -> DataStep) {
        self.says[filter].set(Some(says));
    }

    fn read(&mut self) -> Poll<Result<Vec<u8>, io::ErrorKind>> {
        let mut buffer = BytesMut::new();
        let wire = &mut self.wire;
        let read = |_: &mut Context<'_>, buffer: &mut BytesMut| match wire.pop_front() {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            None => Poll::Pending,
        };
        let polled =
            self.gate.poll_read(&mut Context::from_waker(Waker::noop()), &mut self.info, &mut buffer, read);
        polled.map(|read| match read {
            Ok(count) => {
                assert_eq!(count, buffer.len());
                Ok(buffer.to_vec())
            }
            Err(error) => Err(error.kind()),
        })
    }

    fn asked(&self) -> Vec<(&'static str, Vec<u8>, bool)> {
        self.asked.take()
    }
}

fn passed(bytes: &[u8]) -> Poll<Result<Vec<u8>, io::ErrorKind>> {
    Poll::Ready(Ok(bytes.to_vec()))
}

#[test]
fn who_looks_on_sees_everything_once_and_then_nothing_more() {
    let mut rig = Rig::new(&["a"], 100, true);
    rig.say(0, || DataStep::Continue);
    rig.wire.extend([&b"one"[..], b"two"]);
    assert_eq!(rig.read(), passed(b"one"));
    rig.say(0, || DataStep::Done);
    assert!(!rig.gate.is_open());
    assert_eq!(rig.read(), passed(b"two"));
    assert_eq!(rig.asked(), [("a", b"one".to_vec(), false), ("a", b"two".to_vec(), false)]);
    assert!(rig.gate.is_open());
    assert_eq!((rig.gate.came(0), rig.gate.came(7)), (6, 7));
}

#[test]
fn what_is_held_is_shown_again_with_what_comes_and_when_woken() {
    let mut rig = Rig::new(&["a", "b"], 100, true);
    rig.say(0, || DataStep::Continue);
    rig.wire.push_back(b"one");
    assert_eq!(rig.read(), Poll::Pending);
    assert_eq!(rig.asked(), [("a", b"one".to_vec(), false), ("b", b"one".to_vec(), false)]);
    rig.wire.push_back(b"two");
    assert_eq!(rig.read(), Poll::Pending);
    // Woken it is asked first; what came then is for all of them.
    let both = b"onetwo".to_vec();
    assert_eq!(
        rig.asked(),
        [("b", b"one".to_vec(), false), ("a", both.clone(), false), ("b", both.clone(), false)]
    );
    rig.say(1, || DataStep::Done);
    assert_eq!(rig.read(), passed(&both));
    assert_eq!(rig.asked(), [("b", both, false)]);
}

#[test]
fn no_more_is_held_than_the_limit_and_one_read() {
    let mut rig = Rig::new(&["a"], 5, true);
    rig.wire.extend([&b"123"[..], b"456", b"789"]);
    assert_eq!(rig.read(), Poll::Pending);
    assert_eq!(rig.wire.len(), 1, "read on only below the limit");
    rig.say(0, || DataStep::Done);
    assert_eq!(rig.read(), passed(b"123456"));
}

#[test]
fn who_is_refused_stays_refused_and_nobody_is_asked_again() {
    let mut rig = Rig::new(&["a", "b"], 100, true);
    rig.say(0, || DataStep::Close("why".into()));
    rig.wire.extend([&b"one"[..], b"two"]);
    assert_eq!(rig.read(), Poll::Ready(Err(io::ErrorKind::ConnectionAborted)));
    assert_eq!(rig.read(), Poll::Ready(Err(io::ErrorKind::ConnectionAborted)));
    assert_eq!(rig.asked(), [("a", b"one".to_vec(), false)]);
    assert_eq!((rig.info.local_close_reason.as_deref(), rig.info.bytes_received), (Some("why"), 3));
}

#[test]
fn the_end_is_shown_where_half_a_connection_is_one() {
    let mut rig = Rig::new(&["a"], 100, true);
    rig.say(0, || DataStep::Continue);
    rig.wire.push_back(b"");
    assert_eq!(rig.read(), passed(b""));
    assert_eq!(rig.read(), passed(b""));
    assert_eq!(rig.asked(), [("a", vec![], true)]);

    let mut rig = Rig::new(&["a"], 100, true);
    rig.wire.extend([&b"one"[..], b""]);
    assert_eq!(rig.read(), Poll::Pending);
    rig.say(0, || DataStep::Done);
    assert_eq!(rig.read(), passed(b"one"));
    assert_eq!(rig.read(), passed(b""), "the end after the bytes");

    let mut rig = Rig::new(&["a"], 100, false);
    rig.wire.extend([&b"one"[..], b""]);
    assert_eq!(rig.read(), passed(b""), "the connection is over, and what was held with it");
    assert_eq!(rig.asked().len(), 1);
}

#[test]
fn what_was_inspected_comes_first() {
    let mut rig = Rig::new(&["a"], 100, true);
    rig.gate.begin_with(BytesMut::from(&b"seen"[..]));
    rig.say(0, || DataStep::Continue);
    assert_eq!(rig.read(), passed(b"seen"));
    assert_eq!(rig.asked(), [("a", b"seen".to_vec(), false)]);
}

#[test]
fn what_is_taken_is_seen_by_nobody_else() {
    let mut rig = Rig::new(&["a", "b"], 100, true);
    rig.say(0, || DataStep::Take(2));
    rig.says[1].set(Some(|| DataStep::Continue));
    rig.wire.push_back(b"12");
    assert_eq!(rig.read(), Poll::Pending, "there is nothing for anybody else, and no end");
    assert_eq!(rig.asked(), [("a", b"12".to_vec(), false), ("a", vec![], false)]);
    rig.say(0, || DataStep::Done);
    rig.wire.push_back(b"345");
    assert_eq!(rig.read(), passed(b"345"));
    assert_eq!(rig.asked(), [("a", vec![], false), ("b", b"345".to_vec(), false)]);
    assert_eq!((rig.gate.came(0), rig.gate.came(3)), (5, 5));
}

/// Takes so much in all, byte by byte.
struct Taking(usize);

impl NetworkFilter for Taking {
    fn on_connection<'a>(&'a mut self, _: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }
    fn sees_data(&self) -> bool {
        true
    }
    fn poll_data(
        &mut self,
        _: &mut Context<'_>,
        data: &[u8],
        end: bool,
        _: &mut StreamInfo,
    ) -> Poll<DataStep> {
        match (self.0, data.is_empty()) {
            (0, _) => Poll::Ready(DataStep::Done),
            (_, true) if end => Poll::Ready(DataStep::Continue),
            (_, true) => Poll::Pending,
            (_, false) => {
                self.0 -= 1;
                Poll::Ready(DataStep::Take(1))
            }
        }
    }
}

#[test]
fn who_takes_is_done_whatever_the_pieces_and_may_take_more_than_is_held() {
    let text = b"0123456789";
    for taken in 0..=text.len() {
        for size in 1..=text.len() {
            let mut rig = Rig::new(&["other"], 3, true);
            rig.say(0, || DataStep::Continue);
            rig.gate.filters.insert(0, Box::new(Taking(taken)));
            rig.wire.extend(text.chunks(size));
            rig.wire.push_back(b"");
            let mut read = Vec::new();
            loop {
                match rig.read() {
                    Poll::Ready(Ok(piece)) if piece.is_empty() => break,
                    Poll::Ready(Ok(piece)) => read.extend(piece),
                    other => panic!("{other:?} after {read:?}: {taken} of {size}"),
                }
            }
            assert_eq!(read, &text[taken..], "{taken} in pieces of {size}");
            let seen: Vec<u8> = rig.asked().into_iter().flat_map(|(_, data, _)| data).collect();
            assert_eq!(seen, &text[taken..], "{taken} in pieces of {size}");
            assert_eq!(rig.gate.came((text.len() - taken) as u64), text.len() as u64);
        }
    }
}
